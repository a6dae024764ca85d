"""Leases on files without a seal: who writes there unseen is found, and a new writer waits."""

from __future__ import annotations

import mmap
import os
import threading

import pytest

from clincus_features.protection import leases
from clincus_features.protection.leases import WRITTEN_FOR, Leases
from tests.programs import wait_until
from tests.unit import wall_bench
from tests.unit.test_protection_operations import await_told
from tests.unit.test_scan import index_with

bench = wall_bench.bench
nothing_left = wall_bench.nothing_left


class Clock:
    """A time that stands still until a test moves it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def held(clock):
    made = Leases(clock)
    yield made
    made.drop("one")


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "index"
    path.write_bytes(b"harmless")
    return path


def mapped(path):
    """A writable mapping of a file that nobody has open any more."""
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def test_a_file_that_stays_open_for_writing_is_told_once(held, clock, index):
    with mapped(index):
        for expected in ([], [str(index)], []):
            assert held.hold("one", [str(index)]) == expected
            assert held.is_in_doubt("one") == (clock.now == 0)
            clock.now += WRITTEN_FOR


def test_who_wants_to_write_waits_until_the_lease_is_let_go(held, index):
    assert held.hold("one", [str(index)]) == []
    opened = threading.Event()

    def write():
        with open(index, "r+b", buffering=0):
            opened.set()

    writer = threading.Thread(target=write)
    writer.start()

    def let_go():
        held.let_go(["one"])
        return opened.wait(0.01)

    assert not opened.wait(0.2)
    wait_until(let_go, "the writer to get its turn")
    writer.join()


def test_what_git_does_with_a_file_waits_for_nothing(held, index):
    assert held.hold("one", [str(index)]) == []
    assert index.read_bytes() == b"harmless"
    lock = index.with_name("index.lock")
    lock.write_bytes(b"new")
    lock.rename(index)
    assert held.hold("one", [str(index)]) == []
    index.unlink()
    assert held.hold("one", [str(index)]) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of another user")
def test_a_file_of_another_user_is_replaced_by_a_copy_that_an_old_mapping_does_not_reach(index):
    os.chown(index, 1000000, 1000000)
    pages = mapped(index)
    assert leases.make_ours(str(index))
    pages[:4] = b"evil"
    pages.close()
    assert index.read_bytes() == b"harmless"
    assert index.stat().st_uid == 0


# -- In a session that is watched


@pytest.fixture
def leased(bench):
    bench.guard.leases = Leases()
    yield bench
    bench.guard.leases.drop(bench.session.id)


def test_a_mapped_index_freezes_the_session_before_anything_is_written_there(leased):
    (leased.root / ".git/index").write_bytes(index_with(b"README"))
    pages = mapped(leased.root / ".git/index")
    leased.start()
    leased.guard.hear("after_start", leased.session)
    leased.await_broken()
    wait_until(lambda: (".git/index", "replaced") in leased.changes, "the index to be told")
    assert not (leased.root / ".git/index").exists()
    assert "mapped into memory" in leased.record.changes[0].words
    pages.close()


def test_a_mapped_file_of_a_rebase_is_put_aside(leased):
    file = leased.root / ".git/rebase-merge/msgnum"
    leased.start()
    file.parent.mkdir()
    file.write_text("12345\n")
    pages = mapped(file)
    leased.await_broken()
    assert "mapped into memory" in await_told(leased, "rebase-merge/msgnum")
    [change] = leased.record.changes
    assert change.kind == "operation"
    pages.close()
