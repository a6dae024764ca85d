"""The second line behind the wall, on real folders with a real inotify; only mounts and Incus are stood in for."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

import clincus
from clincus_cli.protection import protection_lines
from clincus_features import protection
from clincus_features.protection import guard, restore, seals, watch
from clincus_features.protection.guard import ChangedError, Guard
from clincus_features.protection.identity import Copies, note_item
from clincus_features.protection.records import Change
from clincus_features.protection.seals import Stage
from clincus_features.protection.watch import CHANGED, LOST, MOVED, Mark, Watcher
from tests.programs import wait_until
from tests.unit import wall_bench
from tests.unit.wall_bench import RUN, SEALED, STAGE, flood, no_watches, replace

bench = wall_bench.bench
nothing_left = wall_bench.nothing_left


# ---- which paths, their identity and their records ----------------------------------------------------------------


def test_the_plan_of_the_hook_and_the_mounts_of_the_stage_say_what_is_sealed(bench):
    stage = Stage.of(bench.config())
    assert stage == Stage(STAGE, ((str(bench.root), SEALED),))
    assert Stage.of({"raw.lxc": "lxc.init.cmd = sleep 5\n"}) is None
    assert seals.sealed_paths(stage) == (sorted(f"{bench.root}/{path}" for path in SEALED), True)


def test_neither_links_nor_large_or_special_files_are_copied(tmp_path):
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("secret")
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    os.mkfifo(tmp_path / "pipe")  # nobody writes: a read would wait for ever
    copies = Copies()
    assert note_item(str(tmp_path / "link"), copies).kind == "link"
    assert note_item(str(tmp_path / "link/file"), copies) is None
    assert note_item(str(tmp_path / "large"), copies).digest == ""
    assert note_item(str(tmp_path / "pipe"), copies).kind == "other"
    assert copies.data == {}


def test_a_record_is_its_owners_alone_and_a_torn_one_stops_no_start(bench):
    bench.start()
    assert bench.record.runs[bench.session.id].paths == sorted(f"{bench.root}/{path}" for path in SEALED)
    assert b"[core]\n" in bench.record.copies.values()
    assert [one.workspace for one in bench.guard.records.all()] == [str(bench.root)]
    [file] = Path(bench.guard.records.folder).iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    file.write_text("{")
    bench.check()


def test_a_stopped_session_says_what_a_person_has_to_accept_before_the_next_start(bench):
    bench.start()
    bench.stop()
    stopped = bench.session._replace(status="stopped")
    assert bench.guard.fields(stopped)["protection_waits"] == []
    with bench.guard.records.changing(str(bench.root)) as record:
        record.changes.append(Change("/a", "replaced", "unknown", RUN, False, "a link", "link"))
    [waits] = bench.guard.fields(stopped)["protection_waits"]
    assert (waits["path"], waits["kind"]) == ("/a", "link")
    assert bench.guard.fields(bench.session)["protection_waits"] == []
    bench.start(accepts=True)
    assert bench.guard.fields(stopped)["protection_waits"] == []


# ---- what happens to sealed paths ---------------------------------------------------------------------------------


def config_is(bench, text="[core]\n"):
    path = bench.root / ".git/config"
    wait_until(lambda: path.exists() and not path.is_symlink() and path.read_text() == text, "the copy to be back")


def link_the_config(root):
    (root / ".git/config").unlink()
    (root / ".git/config").symlink_to("/etc/hostname")


def replace_the_hooks(root):
    (root / ".git/hooks").rename(root / "h")
    (root / ".git/hooks").mkdir()


BREAKS = {
    "a file away and back": lambda root: (root / ".git/config").rename(root / "a").rename(root / ".git/config"),
    "a folder replaced": replace_the_hooks,
    "a link": link_the_config,
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_break_freezes_first_and_puts_back(bench, how):
    bench.start()
    BREAKS[how](bench.root)
    bench.await_broken()
    assert bench.app.incus.told[0] == ("pause", bench.session.id)
    assert [path for path, _ in bench.changes] == [".git/hooks" if "folder" in how else ".git/config"]
    assert bench.record.changes[0].restored
    config_is(bench)
    assert (bench.root / ".git/hooks/one").read_text() == "true\n"
    assert {"type": "session.protection", "id": bench.session.id, "protection": "broken"} in bench.app.events
    assert bench.app.alarms[-1]["reason"] == "protection"


def test_a_freeze_that_does_not_end_is_tried_again_until_no_program_runs(bench, monkeypatch):
    monkeypatch.setattr(guard, "ASK_AGAIN", 0.05)
    bench.app.incus.refusals = ["Running", "Freezing"]
    bench.start()
    replace(bench.root / ".git/config")
    bench.await_broken()
    config_is(bench)
    assert bench.app.incus.told.count(("pause", bench.session.id)) == 2
    assert bench.app.incus.status == "Freezing"


def test_what_is_replaced_again_after_the_freeze_is_put_back_again(bench):
    bench.start()
    for count in (1, 2):
        replace(bench.root / ".git/config")
        bench.await_broken()
        wait_until(lambda: len([*bench.root.glob(".git/config.clincus-replaced-*")]) == count, "it to be put aside")  # noqa: B023
        config_is(bench)
        bench.settle()


EDITS = {
    "a file written in place": lambda root: (root / ".git/config").write_text("[user]\n"),
    "a new hook": lambda root: (root / ".git/hooks/two").write_text("true\n"),
}


@pytest.mark.parametrize("how", EDITS)
def test_an_edit_in_place_is_a_persons_and_is_noted(bench, how):
    bench.start()
    before = bench.record.items
    EDITS[how](bench.root)
    wait_until(lambda: bench.record.items != before, "the edit to be noted")
    assert (bench.changes, bench.app.incus.told) == ([], [])


def end_while(bench, act):
    """Do something just before the end of a run; the watcher gets to see it only when the wall has gone."""
    is_held, goes_on = threading.Event(), threading.Event()
    bench.guard.watcher.call(lambda: (is_held.set(), goes_on.wait(30)))
    assert is_held.wait(30)
    act()
    bench.mount()
    goes_on.set()
    bench.stop()


def test_an_edit_in_place_just_before_the_end_is_a_persons(bench):
    """It was told as changed by unknown, and no session started in that folder until somebody had accepted it."""
    bench.start()
    end_while(bench, lambda: (bench.root / ".git/config").write_text("[user]\n"))
    assert bench.changes == []
    bench.mount(*SEALED)
    bench.check()


def test_what_is_replaced_just_before_the_end_is_told_even_after_a_flood(bench):
    bench.start()
    end_while(bench, lambda: (flood(bench.root, 10_000), replace(bench.root / ".git/config")))
    assert bench.changes == [(".git/config", "replaced")]


def judge_after_a_loss(bench, act):
    """Let something happen once the kernel's queue is full, as a session can bring about for itself."""
    unhurried = threading.Event()
    bench.guard.watcher.call(unhurried.wait)
    flood(bench.root)
    act()
    unhurried.set()
    for _ in range(2):  # the queue is read in the round after that in which this is done
        bench.settle()


def test_an_edit_in_place_is_a_persons_although_events_were_lost(bench):
    """A session could have a person's edit taken back by a flood of events."""
    bench.start()
    before = bench.record.items
    judge_after_a_loss(bench, lambda: (bench.root / ".git/config").write_text("[user]\n"))
    wait_until(lambda: bench.record.items != before, "the edit to be noted")
    assert (bench.changes, bench.app.incus.told) == ([], [])


def test_what_moved_away_and_back_is_told_although_events_were_lost(bench):
    """It was changed under another name, and is the same file as before."""

    def move_and_edit():
        aside = (bench.root / ".git/config").rename(bench.root / "aside")
        aside.write_text("evil\n")
        aside.rename(bench.root / ".git/config")

    bench.start()
    judge_after_a_loss(bench, move_and_edit)
    bench.await_broken()
    assert (".git/config", "replaced") in bench.changes


def test_a_file_with_a_second_name_is_nobodys_to_edit(bench):
    os.link(bench.root / ".git/config", bench.root / "other")
    bench.start()
    (bench.root / "other").write_text("evil\n")
    bench.await_broken()
    assert bench.changes == [(".git/config", "changed")]
    assert (bench.root / ".git/config").read_text() == "[core]\n"
    assert (bench.root / ".git/config").stat().st_nlink == 1


def test_names_beside_sealed_ones_and_placeholders_that_a_restart_makes_anew_are_no_break(bench):
    bench.start()
    before = bench.record
    for name in (".git/config.lock", "README.new"):
        (bench.root / name).write_text("x")
        (bench.root / name).rename(bench.root / f"{name}.x")
    (bench.root / ".husky").rmdir()
    (bench.root / ".husky").mkdir()
    bench.settle()
    assert bench.record.items.keys() == before.items.keys()
    assert (bench.changes, bench.app.incus.told) == ([], [])


def test_placeholders_that_go_with_the_wall_are_no_break(bench):
    bench.start()
    bench.mount()
    (bench.root / ".git/info/attributes").unlink()
    (bench.root / ".husky").rmdir()
    bench.stop()
    assert (bench.changes, bench.app.incus.told) == ([], [])


def begin_another_run(bench, *, sees_the_end):
    """Let the container end, and begin another run by itself."""
    before = bench.session
    bench.session = before._replace(run="2999-01-01T00:00:00Z")
    if sees_the_end:
        bench.mount()
        bench.guard.hear("stopped", before)
        bench.settle()
        bench.mount(*SEALED)
    bench.guard.hear("started", bench.session)
    bench.guard.find_next()
    if not sees_the_end:
        bench.guard.hear("stopped", before)
    bench.settle()


def test_a_container_that_reboots_before_it_is_frozen_is_frozen_then(bench):
    bench.start()
    bench.guard.examiner.link_looks.ask = lambda id: None  # no look comes in time
    (bench.root / ".git/COMMIT_EDITMSG").symlink_to("/home/person/.bashrc")
    begin_another_run(bench, sees_the_end=True)
    bench.await_broken()
    assert (".git/COMMIT_EDITMSG", "replaced") in bench.changes
    assert ("pause", bench.session.id) in bench.app.incus.told
    bench.guard._go_on(bench.session)
    assert (bench.changes, bench.guard.fields(bench.session).get("protection")) == ([], None)


def test_what_has_no_copy_is_at_least_taken_away(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    item = note_item(str(tmp_path / "large"), Copies())
    replace(tmp_path / "large")
    assert not restore.restore(str(tmp_path / "large"), item, {})
    [aside] = tmp_path.iterdir()
    assert (aside.name.startswith("large.clincus-replaced-"), aside.read_text()) == (True, "evil\n")


# ---- the next start -----------------------------------------------------------------------------------------------


def test_changes_are_asked_about_once_unless_they_came_after_an_end_that_was_seen(bench):
    bench.start()
    bench.stop()
    bench.mount(*SEALED)
    replace(bench.root / ".git/config", "[user]\n")
    bench.start()
    bench.close()
    bench.guard = Guard(bench.app, bench.app.environ)  # a later server, and no end was seen
    replace(bench.root / ".git/config")
    bench.app.incus.status = "Stopped"
    with pytest.raises(ChangedError, match=r"\.git/config was replaced .*accept_changes") as refused:
        bench.check()
    assert refused.value.status == 409
    bench.mount(*SEALED)
    bench.check(accepts=True)
    bench.guard._note(bench.session, Stage.of(bench.config()), *seals.sealed_paths(Stage.of(bench.config())))
    bench.check()
    assert [(one.what, one.by) for one in bench.record.accepted] == [("replaced", "unknown")]


def test_a_break_is_asked_about_and_found_by_the_health_report(bench):
    bench.start()
    assert bench.guard.examine() is None
    replace(bench.root / ".git/config")
    bench.await_broken()
    bench.stop()
    words, fix = bench.guard.examine()
    assert str(bench.root) in words
    assert "accept-changes" in fix
    with pytest.raises(ChangedError):
        bench.check()


def test_a_session_on_another_host_says_that_it_is_not_watched(bench):
    description = {"config": {"user.clincus.protection_note": "a note"}}
    launch = clincus.Launch(clincus.LaunchRequest("/srv"), None, (), bench.session, None, None, [])
    far = bench.session._replace(engine="farm", protection="locked")
    bench.guard.check_start(bench.app.incus, far, launch, description)
    assert "a note; What is sealed on another host" in description["config"]["user.clincus.protection_note"]


# ---- the watch ----------------------------------------------------------------------------------------------------


@pytest.fixture
def watching(nothing_left):
    """A function that watches a sealed path of a workspace, and gives the watcher and what it is told."""
    told = []
    watcher = Watcher(told.append, lambda: 0.0)

    def watch_it(root, id="one"):
        (root / ".git").mkdir(parents=True)
        (root / ".git/config").write_text("x")
        watcher.watch(id, {f"{root}/.git/config": str(root)})
        return watcher, told

    yield watch_it
    watcher.close()


def test_all_sessions_of_a_server_have_two_instances(watching, tmp_path):
    """The kernel gives a user 128 of them, for all programs."""
    before = wall_bench.held()[0]
    for number in range(20):
        watcher, told = watching(tmp_path / str(number), str(number))
    assert wall_bench.held()[0] == sorted([*before, *2 * ["anon_inode:inotify"]])
    watcher.unwatch("3")
    for number in (3, 4):
        replace(tmp_path / f"{number}/.git/config")
    watcher.drain()
    assert {mark.id for touched in told for mark in touched} == {"4"}


def test_a_flood_in_one_session_has_all_examined(watching, tmp_path):
    watcher, told = watching(tmp_path / "one")
    watching(tmp_path / "two", "two")
    flood(tmp_path / "one")
    wait_until(lambda: watcher.drain() or any(LOST in touched.values() for touched in told), "the loss")
    assert told[0][Mark("two", f"{tmp_path}/two/.git/config")] == LOST


def test_a_flood_is_read_to_its_end_when_a_session_has_ended(watching, tmp_path):
    root = tmp_path / "one"
    watcher, told = watching(root)
    flood(root, 10_000)
    replace(root / ".git/config")
    watcher.finish()
    assert {mark.path: how for touched in told for mark, how in touched.items()}[f"{root}/.git/config"] == MOVED


ACTS = (
    (lambda root: replace(root / ".git/config"), MOVED),
    (lambda root: (root / ".git/config").write_text("y"), CHANGED),
    (lambda root: (root / ".git").rename(root / "g"), MOVED),
    (lambda root: root.rename(root.with_name("elsewhere")), MOVED),
)


def test_what_happens_to_a_sealed_name_is_told(watching, tmp_path):
    for number, (act, how) in enumerate(ACTS):
        root = tmp_path / str(number)
        watcher, told = watching(root, str(number))
        act(root)
        watcher.drain()
        assert told.pop(0)[Mark(str(number), f"{root}/.git/config")] == how
        told.clear()


def test_a_job_after_the_end_is_dropped(nothing_left):
    watcher = Watcher(print, lambda: 0.0)
    watcher.close()
    watcher.call(lambda: None)


# ---- what the kernel does not report -----------------------------------------------------------------------------


def test_without_watches_a_session_says_so_and_takes_those_that_are_free_again(bench, monkeypatch):
    free = threading.Event()
    no_watches(monkeypatch, free.is_set)
    bench.start()
    [warning] = bench.guard.warnings(bench.session)
    assert "max_user_watches" in warning
    free.set()
    bench.guard.compare_indexes()
    bench.comes_to_rest()
    assert bench.guard.warnings(bench.session) == []
    replace(bench.root / ".git/config")
    bench.await_broken()


@pytest.fixture
def no_instances(monkeypatch):
    """Have the kernel give this user no inotify instance."""

    def refuse(if_lost=LOST):
        raise OSError(errno.EMFILE, "your user has no inotify instance left")

    monkeypatch.setattr(watch, "Instance", refuse)


def test_without_an_inotify_instance_a_session_says_so_and_what_is_replaced_is_found(bench, no_instances):
    bench.start()
    [warning] = bench.guard.warnings(bench.session)
    assert "no inotify instance left" in warning
    assert "max_user_instances" in warning
    replace(bench.root / ".git/config")
    bench.guard.compare_indexes()
    bench.await_broken()
    config_is(bench)


def test_the_health_report_tells_that_no_inotify_instance_is_left(nothing_left, no_instances, monkeypatch):
    extensions = clincus.Extensions()
    protection.install(extensions)
    [found] = [one for examine in extensions.examiners if (one := examine({"HOME": "/nonexistent"}, tuple))]
    assert "no inotify instance left" in found[0]
    assert "sysctl fs.inotify.max_user_instances" in found[1]
    monkeypatch.undo()
    assert watch.examine() is None


# ---- the command line ---------------------------------------------------------------------------------------------


def test_the_command_line_tells_what_is_sealed_changed_and_appeared():
    change = {"path": "/srv/a/.git/config", "what": "replaced", "by": "container", "at": RUN, "restored": True}
    appeared = {"path": "sub", "kind": "gitlink", "when": "`git status`", "commands": [{"key": "a", "value": "b"}]}
    found = {
        "level": "broken",
        "note": "Frozen",
        "sealed": [{"path": "/srv/a/.git/config", "why": "git reads it"}],
        "changes": [{**change, "kind": "seal", "words": "it was a link to x\x1b"}],
        "appeared": [appeared],
        "appeared_truncated": True,
    }
    text = "\n".join(protection_lines(found))
    for word in ("broken", "Frozen", "git reads it", "replaced", "put back", "a link to x\\x1b", "not whole", "a = b"):
        assert word in text
