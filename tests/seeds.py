"""Seeds of tests that try at random: printed in the summary of the run, and the same again with CLINCUS_TEST_SEED."""

from __future__ import annotations

import os
import random
from collections.abc import Callable


def night_seed(note: Callable[[str], object], what: str) -> int:
    """A seed that nobody has chosen, or that of CLINCUS_TEST_SEED; the summary tells it."""
    seed = int(os.environ.get("CLINCUS_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    note(f"{what}: CLINCUS_TEST_SEED={seed}")
    return seed
