"""A server does not keep the memory that it needed for a moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.programs import ROOT
from tests.table import table

BEGIN = """
import json, platform, threading
import clincus
from clincus_features import memory
if platform.libc_ver()[0] != "glibc":
    raise SystemExit("not glibc")
extensions = clincus.Extensions()
memory.install(extensions)
def own():
    return int(open("/proc/self/smaps_rollup").read().split("Private_Dirty:")[1].split()[0])
"""
# Eight threads read what Incus says of 50 containers, and each of them keeps something small.
READ = """
answer = json.dumps([{"config": {str(key): "x" * 28000 for key in range(2)}} for _ in range(50)]).encode()
kept, before = [], own()
def read():
    found = json.loads(answer)
    kept.append("y" * 600)
    everyone.wait()  # so that each has a heap of its own, where there are several
everyone = threading.Barrier(8)
threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(own() - before)
"""


# What is kept lies between what is freed, as what is known of sessions does.
HOLES = """
large, kept = [bytearray(6000) for _ in range(2000)], []
for number in range(2000):
    kept.append(bytearray(600))
    large.append(bytearray(6000))
del large
full = own()
extensions.duties[0].work()
print(full - own())
"""


def kilobytes(script: str) -> int:
    """The number that a script prints; the test is skipped where there is no glibc."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    if done.stderr.strip() == "not glibc":
        pytest.skip("only glibc has these limits")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_what_was_read_is_given_back_to_the_system():
    assert kilobytes(BEGIN + READ) < 500  # 1,092 without it, 52 with it


def test_what_is_free_amid_the_heap_is_given_back_now_and_then():
    assert kilobytes(BEGIN + HOLES) > 5000


# Commands and connections leave objects that refer to each other.
CIRCLES = """
import gc, weakref
class Circle(list): pass
extensions.duties[0].work()
gc.disable()
one = Circle([bytearray(10)])
one.append(one)
seen, more = weakref.ref(one), [[number] for number in range({more})]
del one
extensions.duties[0].work()
print(int(seen() is None))
"""


@table(("more", "is_gone"), [(100_000, 1), (10, 0)], ids=["a busy time", "a time at rest"])
def test_what_refers_to_itself_is_freed_after_a_busy_time_only(more, is_gone):
    assert kilobytes(BEGIN + CIRCLES.format(more=more)) == is_gone
