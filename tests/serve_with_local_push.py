"""`clincus serve` whose push services are those of tests/push_service.py. No API and no config can name them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from clincus_cli.main import main
from clincus_features import notify
from tests.push_service import LOCAL_SERVICES

notify.Notifier.__init__.__defaults__ = (LOCAL_SERVICES,)
sys.exit(main(sys.argv[1:]))
