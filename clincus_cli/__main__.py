"""`python3 -m clincus_cli`, and `python3 clincus_cli` in a checkout."""

import os
import sys

if not __package__:
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from clincus_cli.start import main

if __name__ == "__main__":
    sys.exit(main())
