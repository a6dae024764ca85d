"""What a run says of the cost of each test file."""

import subprocess
import sys

from tests.costs import COLLECTION, Cost, Meter, table

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


def test_the_dearest_file_comes_first_and_the_sum_last():
    lines = table({"cheap.py": Cost(1, 2.5, 3), "dear.py": Cost(10, 12, 0)})
    assert [line.split()[-1] for line in lines[1:]] == ["dear.py", "cheap.py", "all"]
    assert lines[-1].split() == ["11.0", "14.5", "3", "all"]


def test_what_was_used_is_charged_to_the_file_whose_tests_run():
    meter = Meter()
    meter.charge()
    meter.file = "one.py"
    meter.starts.count = 2
    subprocess.run([sys.executable, "-c", BURN], check=True)
    meter.charge()
    meter.charge("two.py")
    assert meter.costs.keys() == {COLLECTION, "one.py", "two.py"}
    assert (meter.costs["one.py"].starts, meter.costs["two.py"].starts) == (2, 0)
    assert meter.costs["one.py"].processor >= 0.25
    other = Meter()
    other.costs = {"a.py": Cost(1, 2, 3)}
    other.add(other.sums())
    assert other.costs == {"a.py": Cost(2, 4, 6)}, "those of workers are added up"
