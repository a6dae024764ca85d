"""Git's index of an agent's making: seen however it is written, put aside and told, with a server and without."""

from __future__ import annotations

import mmap
import subprocess

import pytest

from clincus_features.protection import index
from clincus_features.protection.guard import ChangedError
from clincus_features.protection.seals import Stage
from tests.programs import wait_until
from tests.unit import wall_bench
from tests.unit.test_scan import index_with
from tests.unit.wall_bench import Bench, start_alone, stop_alone

alone = wall_bench.alone
bench = wall_bench.bench
nothing_left = wall_bench.nothing_left

BAD = index_with(b".git/hooks/post-checkout")


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
    bench.guard._go_on(bench.session)
    assert bench.record.runs[bench.session.id].loose == []


def test_what_git_on_the_host_rewrites_or_adds_in_a_sealed_folder_is_told(bench):
    (bench.root / ".husky/pre-commit").write_text("true\n")
    bench.start()
    (bench.root / ".husky/pre-commit").write_text("evil\n")
    (bench.root / ".git/hooks/two").write_text("true\n")
    wait_until(lambda: len(bench.app.reports) == 2, "the reports")
    assert ".husky/pre-commit was changed from your side" in "".join(bench.app.reports)
    assert ".git/hooks/two is new in a sealed folder" in "".join(bench.app.reports)


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


def test_a_bad_index_that_nobody_saw_is_put_aside_before_the_stop_ends(bench):
    """The person may run git in that folder at once."""
    bench.start()
    bench.guard.examiner.check_index = lambda live: None
    (bench.root / ".git/index").write_bytes(BAD)
    bench.mount()
    bench.guard.hear("stopped", bench.session)
    bench.guard.hear("after_stop", bench.session)
    assert not (bench.root / ".git/index").exists()
    await_change(bench)
    with pytest.raises(ChangedError, match=r"\.git/index was changed .* \.git/hooks/post-checkout"):
        bench.check()


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
