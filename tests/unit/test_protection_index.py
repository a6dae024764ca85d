"""Git's index of an agent's making: seen however it is written, put aside and told, with a server and without."""

from __future__ import annotations

import mmap
import struct
import subprocess
import time
from functools import partial

import pytest

from clincus_features.protection import guard, index, links
from clincus_features.protection.guard import ChangedError
from clincus_features.protection.seals import Stage
from tests.programs import wait_until
from tests.unit import wall_bench
from tests.unit.test_scan import index_of, index_with
from tests.unit.wall_bench import Bench, leased, start_alone, stop_alone

alone = wall_bench.alone
bench = wall_bench.bench
nothing_left = wall_bench.nothing_left

BAD = index_with(b".git/hooks/post-checkout")
GOOD = index_with(b"README")


def await_change(bench: Bench) -> str:
    """Wait until the index counts as changed, and is out of the way; the words for the person."""
    wait_until(lambda: (".git/index", "changed") in bench.changes, "the index to be told")
    wait_until(lambda: not (bench.root / ".git/index").exists(), "the index to be put aside")
    [change] = [one for one in bench.record.changes if one.path.endswith("/index")]
    assert change.kind == "index"
    return change.words


# ---- while a server watches ----------------------------------------------------------------------------------------


def test_a_bad_index_freezes_the_session_and_says_what_git_would_have_done(bench):
    bench.start()
    (bench.root / ".git/index").write_bytes(BAD)
    bench.await_broken()
    words = await_change(bench)
    [aside] = bench.root.glob(".git/index.clincus-replaced-*")
    assert ".git/hooks/post-checkout" in words
    assert "git checkout ." in words
    assert aside.name in words
    assert any(words in one for one in bench.app.reports)


def write_and_hold(bench, name, data):
    """Write a file in place and keep it open, as no event tells."""
    file = open(bench.root / ".git" / name, "r+b", buffering=0)  # noqa: SIM115
    file.write(data)
    return file


def shared(name):
    """An index that is a part of another one, and that one."""
    base = index_with(name)
    return index_of(extensions=b"link" + struct.pack(">I", 20) + base[-20:]), base


def test_an_index_that_is_written_through_a_descriptor_is_seen_by_the_state_of_its_file(bench):
    (bench.root / ".git/index").write_bytes(GOOD + bytes(200))
    bench.start()
    wait_until(lambda: bench.guard.examiner.seen.index_files, "the first look")
    bench.guard.compare_indexes()
    with write_and_hold(bench, "index", BAD):
        bench.guard.compare_indexes()
        await_change(bench)


def test_a_shared_index_is_seen_as_well(bench):
    name = b"x" * len(b".git/hooks/post-checkout")
    split, base = shared(name)
    (bench.root / ".git/index").write_bytes(split)
    held = bench.root / f".git/sharedindex.{base[-20:].hex()}"
    held.write_bytes(base)
    bench.start()
    wait_until(lambda: bench.guard.examiner.seen.index_files, "the first look")
    bench.guard.compare_indexes()
    held.write_bytes(base.replace(name, b".git/hooks/post-checkout"))
    bench.guard.compare_indexes()
    await_change(bench)


def test_an_index_that_goes_on_to_change_is_looked_at_until_it_rests(bench, monkeypatch):
    looks = []

    def look(*words):
        looks.append(words)
        if len(looks) < 15:
            bench.guard.examiner.check_index(bench.guard._live[bench.session.id])
        return index.Looked({}, (), "")

    monkeypatch.setattr(index, "look", look)
    monkeypatch.setattr("clincus_features.protection.examiner.INDEX_SETTLE", 0.001)
    bench.start()
    wait_until(lambda: len(looks) == 15, "the last look")


def test_what_git_on_the_host_has_written_from_a_bad_index_is_put_aside_with_it(bench):
    bench.start()
    bench.guard.examiner.check_index = lambda live: None  # it comes late
    (bench.root / ".git/index").write_bytes(BAD)
    (bench.root / ".git/hooks/post-checkout").write_text("evil")
    bench.settle()
    del bench.guard.examiner.check_index
    live = bench.guard._live[bench.session.id]
    bench.guard.watcher.call(partial(bench.guard.examiner.check_index, live))
    bench.await_broken()
    wait_until(lambda: not (bench.root / ".git/hooks/post-checkout").exists(), "the hook to be put aside")
    assert (bench.root / ".git/hooks/one").read_text() == "true\n"


def test_a_new_file_in_a_sealed_folder_is_told(bench):
    bench.start()
    (bench.root / ".git/hooks/two").write_text("true\n")
    wait_until(lambda: bench.app.reports, "the report")
    assert ".git/hooks/two is new in a sealed folder" in bench.app.reports[0]


def test_a_sealed_file_of_the_working_tree_that_git_on_the_host_rewrites_is_told(bench):
    (bench.root / ".husky/pre-commit").write_text("true\n")
    bench.start()
    (bench.root / ".husky/pre-commit").write_text("evil\n")
    wait_until(lambda: bench.app.reports, "the report")
    assert ".husky/pre-commit was changed from your side while it is sealed" in bench.app.reports[0]


def test_an_edit_of_the_configuration_of_git_is_the_persons(bench):
    bench.start()
    (bench.root / ".git/config").write_text("[core]\n\tbare = false\n")
    (bench.root / ".git/hooks/two").write_text("true\n")
    wait_until(lambda: bench.app.reports, "the report of the other one")
    bench.settle()
    assert not any("from your side" in words for words in bench.app.reports)


def test_a_session_that_goes_on_after_a_bad_index_has_all_its_seals(bench):
    bench.session = bench.session._replace(protection="locked")
    bench.start()
    (bench.root / ".git/index").write_bytes(BAD)
    bench.await_broken()
    bench.guard._go_on(bench.session)
    level = [words for words in bench.app.incus.told if words[0] == "config"][-1][3]
    assert level == "user.clincus.protection=locked"
    assert bench.record.runs[bench.session.id].loose == []
    assert bench.record.changes == []


def test_a_write_through_a_mapping_is_seen_by_what_is_in_the_index(bench):
    before = index_with(b".git.hooks/post-checkout")
    (bench.root / ".git/index").write_bytes(before)
    with open(bench.root / ".git/index", "r+b") as file:
        pages = mmap.mmap(file.fileno(), 0)
    pages[-1:] = before[-1:]  # from now on until it is written back, no write changes a time
    bench.start()
    bench.guard.hear("after_start", bench.session)
    for _ in range(2):
        wait_until(lambda: bench.guard.examiner.seen.index_files, "the first look")
        bench.comes_to_rest()
        bench.guard.compare_indexes()
    assert not bench.guard.examiner.index_looks.is_busy(bench.session.id)
    at = before.index(b".git.hooks")
    pages[at : at + 5] = b".git/"
    bench.guard.compare_indexes()
    bench.await_broken()
    await_change(bench)


# ---- at the end and at the start -----------------------------------------------------------------------------------


def test_a_bad_index_that_nobody_saw_is_put_aside_when_the_session_ends(bench):
    bench.start()
    bench.guard.examiner.check_index = lambda live: None
    (bench.root / ".git/index").write_bytes(BAD)
    bench.stop()
    await_change(bench)
    with pytest.raises(ChangedError, match=r"\.git/index was changed .* \.git/hooks/post-checkout"):
        bench.check()


def test_a_stop_ends_once_the_index_was_examined(bench):
    """Who stops a session may run git in its folder at once."""
    bench.start()
    bench.guard.examiner.check_index = lambda live: None
    (bench.root / ".git/index").write_bytes(BAD)
    bench.mount()
    bench.guard.hear("stopped", bench.session)
    bench.guard.hear("after_stop", bench.session)
    assert not (bench.root / ".git/index").exists()


@pytest.mark.parametrize("moments", [("after_stop",), ("stopped", "deleted", "after_stop", "after_stop")])
def test_a_stop_waits_for_nothing_else(bench, moments):
    bench.start()
    begun = time.monotonic()
    for moment in moments:
        bench.guard.hear(moment, bench.session)
    assert time.monotonic() - begun < guard.EXAMINED_WITHIN


def test_the_first_look_waits_until_the_tool_has_been_started(bench):
    """It takes as long as the tool takes to start, and nothing of the session's can have written before."""
    bench.check()
    bench.guard.hear("sealed", bench.session)
    bench.settle()
    assert bench.session.id in bench.guard._live
    assert not bench.guard.examiner.index_looks.is_busy(bench.session.id)
    bench.guard.hear("after_start", bench.session)
    wait_until(lambda: bench.guard.examiner.seen.index_files, "the first look")


def test_an_index_that_a_program_keeps_from_being_read_is_put_aside(bench):
    bench.start()
    wait_until(lambda: bench.guard.examiner.seen.index_files, "the first look")
    held = bench.root / ".git/index.lock"
    held.write_bytes(BAD)
    with leased(held):
        held.rename(bench.root / ".git/index")
        await_change(bench)


def test_what_git_would_write_into_a_sealed_folder_is_told(bench):
    """The seal keeps the agent from the folder, and not the person's git, which takes its content from the index."""
    git = ["git", "-C", str(bench.root), "-c", "core.hooksPath=/dev/null"]
    subprocess.run([*git, "init", "-q"], check=True)
    bench.start()
    wait_until(lambda: bench.guard.examiner.seen.index_files, "the first look")
    assert bench.guard.warnings(bench.session) == []
    evil = subprocess.run([*git, "hash-object", "-w", "--stdin"], input=b"evil", capture_output=True, check=True)
    entry = f"100755,{evil.stdout.decode().strip()},.husky/pre-commit"
    subprocess.run([*git, "update-index", "--add", "--cacheinfo", entry], check=True)
    wait_until(lambda: bench.guard.warnings(bench.session), "the warning")
    [words] = bench.guard.warnings(bench.session)
    assert f"{bench.root}/.husky/pre-commit" in words
    assert bench.changes == []
    subprocess.run([*git, "update-index", "--force-remove", ".husky/pre-commit"], check=True)
    wait_until(lambda: not bench.guard.warnings(bench.session), "the warning to go")


def test_a_command_puts_a_bad_index_aside_at_the_stop_and_the_next_start_asks(alone, capfd):
    start_alone(alone)
    (alone.root / ".git/index").write_bytes(BAD)
    stop_alone(alone)
    words = await_change(alone)
    assert words in capfd.readouterr().err
    with pytest.raises(ChangedError, match=r"git checkout \."):
        alone.check()
    alone.check(accepts=True)


def test_a_command_puts_a_bad_index_aside_that_is_there_at_the_start(alone):
    (alone.root / ".git/index").write_bytes(BAD)
    start_alone(alone)
    await_change(alone)


def test_a_run_whose_stage_is_not_known_is_looked_at_by_what_was_sealed_for_it(tmp_path):
    """`clincus stop` gets no stage, and the next start has one with other mounts."""
    workspace, mount = tmp_path / "work", tmp_path / "mount"
    for folder in (workspace, mount):
        (folder / ".git").mkdir(parents=True)
        (folder / ".git/index").write_bytes(BAD)
    sealed = [f"{workspace}/.git/commondir", f"{mount}/.git/commondir"]
    assert links.places(str(workspace), None, sealed) == [f"{mount}/.git", f"{workspace}/.git"]
    assert index.look(str(workspace), None, sealed).bad.keys() == {
        f"{folder}/.git/index" for folder in (workspace, mount)
    }


def test_a_session_of_plain_devices_is_looked_at_when_it_ends(alone):
    alone.session = alone.session._replace(protection="basic")
    (alone.root / ".git/index").write_bytes(BAD)
    alone.guard.hear("after_stop", alone.session)
    await_change(alone)


def test_the_repositories_of_extra_mounts_are_looked_at_as_well(tmp_path):
    for name in ("work", "other", "read"):
        (tmp_path / name / ".git").mkdir(parents=True)
        (tmp_path / name / ".git/index").write_bytes(BAD)
    trees = tuple(
        (f"{tmp_path}/{name}", patterns) for name, patterns in (("work", ("x",)), ("other", ("x",)), ("read", ()))
    )
    looked = index.look(f"{tmp_path}/work", Stage("0", trees))
    assert looked.bad.keys() == {f"{tmp_path}/work/.git/index", f"{tmp_path}/other/.git/index"}
    assert (tmp_path / "read/.git/index").exists()


def test_an_index_that_cannot_be_put_aside_is_said_to_stay(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/index").write_bytes(BAD)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(index.restore, "set_aside", refuse)
    [words] = index.look(str(tmp_path), None).bad.values()
    assert "remove it before you run git there" in words
