"""The second line behind the wall, on real folders with a real inotify; only mounts and Incus are stood in for."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

import clincus
from clincus_cli.protection import protection_lines
from clincus_features import protection
from clincus_features.protection import guard, index, restore, seals, watch
from clincus_features.protection.guard import ChangedError, Guard
from clincus_features.protection.identity import Copies, note_item
from clincus_features.protection.records import Change, Records
from clincus_features.protection.seals import Stage, why_sealed
from clincus_features.protection.watch import CHANGED, LOST, MOVED, Mark, Watcher
from tests.programs import wait_until
from tests.table import table
from tests.unit import wall_bench
from tests.unit.wall_bench import RUN, SEALED, STAGE, flood, no_watches, replace

bench = wall_bench.bench
nothing_left = wall_bench.nothing_left
PLACEHOLDERS = (".husky", ".git/info/attributes")


# ---- which paths, and their identity ------------------------------------------------------------------------------


def test_the_plan_of_the_hook_is_read_back_from_the_instance(bench):
    stage = Stage.of(bench.config())
    assert stage == Stage(STAGE, ((str(bench.root), SEALED),))
    assert Stage.of({"raw.lxc": "lxc.init.cmd = sleep 5\n"}) is None


def test_the_mounts_of_the_stage_say_what_is_sealed(bench):
    paths, is_seen = seals.sealed_paths(Stage.of(bench.config()))
    assert (paths, is_seen) == (sorted(f"{bench.root}/{path}" for path in SEALED), True)


@table(
    ("path", "why"),
    [
        (".git/config", "git reads its settings there, and runs the commands in them"),
        (".git/modules/lib/hooks", "git runs what is in it"),
        (".vscode", "an editor runs what it says"),
        ("tools/pager", seals.OTHER_WHY),
    ],
)
def test_each_seal_has_a_reason(path, why):
    assert why_sealed(f"/srv/a/{path}", "/srv/a") == why


def test_links_are_noted_and_never_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "way").symlink_to("folder")
    (tmp_path / "folder/file").write_text("x")
    copies = Copies()
    assert note_item(str(tmp_path / "link"), copies).kind == "link"
    assert note_item(str(tmp_path / "way/file"), copies) is None
    assert copies.data == {}


def test_what_is_too_large_has_an_identity_and_no_copy(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    os.mkfifo(tmp_path / "pipe")  # nobody writes: a read would wait for ever
    copies = Copies()
    assert note_item(str(tmp_path / "large"), copies).digest == ""
    assert note_item(str(tmp_path / "pipe"), copies).kind == "other"
    assert copies.data == {}


# ---- records ------------------------------------------------------------------------------------------------------


def test_a_record_is_read_back_as_it_was_written_and_is_its_owners_alone(bench):
    bench.start()
    record = bench.record
    assert record.runs[bench.session.id].paths == sorted(f"{bench.root}/{path}" for path in SEALED)
    assert b"[core]\n" in record.copies.values()
    [file] = Path(bench.guard.records.folder).iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    with bench.guard.records.changing(str(bench.root)) as again:
        again.changes.append(Change("/a", "gone", "unknown", RUN, False))
    assert bench.record.items == record.items


def test_a_stopped_session_says_what_a_person_has_to_accept_before_the_next_start(bench):
    bench.start()
    bench.stop()
    stopped = bench.session._replace(status="stopped")
    assert bench.guard.fields(stopped)["protection_waits"] == []
    with bench.guard.records.changing(str(bench.root)) as record:
        record.changes.append(Change("/a", "replaced", "unknown", RUN, False, "a link", "link"))
    [waits] = bench.guard.fields(stopped)["protection_waits"]
    assert (waits["path"], waits["kind"]) == ("/a", "link")
    for other in (bench.session, stopped._replace(paused=True), stopped._replace(mode="clone")):
        assert bench.guard.fields(other)["protection_waits"] == []
    bench.start(accepts=True)
    assert bench.guard.fields(stopped)["protection_waits"] == []


def test_a_torn_record_stops_no_start(bench):
    bench.start()
    [file] = Path(bench.guard.records.folder).iterdir()
    file.write_text("{")
    bench.check()


# ---- what happens to sealed paths ---------------------------------------------------------------------------------

# What is done, and what of it is a break.
BREAKS = {
    "a file replaced": (lambda root: replace(root / ".git/config"), (".git/config", "replaced")),
    "a file removed": (lambda root: (root / ".git/config").unlink(), (".git/config", "gone")),
    "a file away and back": (
        lambda root: (root / ".git/config").rename(root / "a").rename(root / ".git/config"),
        (".git/config", "replaced"),
    ),
    "a folder replaced": (
        lambda root: (root / ".git/hooks").rename(root / "h") and (root / ".git/hooks").mkdir(),
        (".git/hooks", "replaced"),
    ),
    "a link": (
        lambda root: (root / ".git/config").unlink() or (root / ".git/config").symlink_to("/etc/hostname"),
        (".git/config", "replaced"),
    ),
}


def test_a_start_watches_each_path_once(bench, monkeypatch):
    watched = []
    watch = bench.guard.watcher.watch
    monkeypatch.setattr(bench.guard.watcher, "watch", lambda *words: (watched.append(words), watch(*words)))
    bench.start()
    assert len(watched) == 1


def test_a_start_that_is_told_twice_is_taken_up_once(bench, monkeypatch):
    """By the start itself, and by the event of Incus: the second one would look at everything again."""
    bench.start()
    looks = []
    monkeypatch.setattr(seals, "mounted", lambda: looks.append(1) or {})
    monkeypatch.setattr(bench.guard.watcher, "watch", lambda *_: looks.append(1))
    later = bench.session._replace(status="running", name="later")
    monkeypatch.setattr(bench.guard, "_judge_all", lambda *_: looks.append(1))
    bench.guard.watcher.call(lambda: bench.guard._take_up(later, Stage.of(bench.config()), is_fresh=False))
    bench.settle()
    assert looks == [1], "the mounts alone"
    assert bench.guard._live[later.id].session == later


@pytest.mark.parametrize("how", BREAKS)
def test_a_break_freezes_first_and_puts_back(bench, how):
    act, change = BREAKS[how]
    bench.start()
    act(bench.root)
    bench.await_broken()
    assert bench.app.incus.told[0] == ("pause", bench.session.id)
    assert change[0] in [path for path, _ in bench.changes]
    assert bench.record.changes[0].restored
    wait_until(lambda: not (bench.root / ".git/config").is_symlink(), "the file to be back")
    assert (bench.root / ".git/config").read_text() == "[core]\n"
    assert (bench.root / ".git/hooks/one").read_text() == "true\n"
    assert {"type": "session.protection", "id": bench.session.id, "protection": "broken"} in bench.app.events
    assert bench.app.alarms[-1]["reason"] == "protection"


@pytest.mark.parametrize(
    ("refusals", "tries"), [(["Freezing"], 1), (["Running"], 2), (["Running", "Freezing"], 2)], ids=str
)
def test_a_freeze_that_does_not_end_is_tried_again_until_no_program_runs(bench, monkeypatch, refusals, tries):
    monkeypatch.setattr(guard, "ASK_AGAIN", 0.05)
    bench.app.incus.refusals = [*refusals]
    bench.start()
    replace(bench.root / ".git/config")
    bench.await_broken()
    wait_until(lambda: (bench.root / ".git/config").read_text() == "[core]\n", "the file to be back")
    assert bench.app.incus.told.count(("pause", bench.session.id)) == tries
    assert bench.app.incus.status in ("Frozen", "Freezing")


def test_nobody_goes_on_to_wait_for_a_frozen_container(bench):
    bench.app.shown = bench.session._replace(status="stopping")
    bench.start()
    replace(bench.root / ".git/config")
    bench.await_broken()
    wait_until(lambda: bench.app.incus.told[-1] == ("end", bench.session.id), "the commands in it to be ended")
    assert ("stop", "--force", bench.session.id) in bench.app.incus.told


def test_an_incus_that_does_not_answer_keeps_no_copy_from_being_put_back(bench):
    bench.start()

    def refuse(*_, **__):
        raise clincus.IncusError("gone", 503)

    bench.app.incus.run = bench.app.incus.instance = refuse
    replace(bench.root / ".git/config")
    wait_until(lambda: bench.guard.fields(bench.session).get("protection") == "broken", "it to be broken")
    assert bench.changes
    assert (bench.root / ".git/config").read_text() == "[core]\n"


def test_what_is_replaced_again_after_the_freeze_is_put_back_again(bench):
    bench.start()
    replace(bench.root / ".git/config")
    bench.await_broken()
    wait_until(lambda: (bench.root / ".git/config").read_text() == "[core]\n", "the copy to be back")
    bench.settle()
    replace(bench.root / ".git/config")
    wait_until(lambda: len([*bench.root.glob(".git/config.clincus-replaced-*")]) == 2, "the second one to be put aside")
    wait_until((bench.root / ".git/config").exists, "the copy to be back")
    assert (bench.root / ".git/config").read_text() == "[core]\n"


def test_what_is_replaced_again_and_again_starts_no_command_of_incus_for_each_time(bench, monkeypatch):
    monkeypatch.setattr(guard, "MOST_MENDED", 1000)  # a busy machine may take so long that each one is put back
    bench.start()
    replace(bench.root / ".git/config")
    bench.await_broken()
    at, begun = time.monotonic(), len(bench.app.incus.told)
    for _ in range(40):
        replace(bench.root / ".git/config")
        bench.settle()
    wait_until(lambda: not bench.guard._mends.in_progress, "the last one to be put back")
    wait_until(lambda: (bench.root / ".git/config").read_text() == "[core]\n", "the copy to be back")
    seconds = time.monotonic() - at
    assert (
        len([words for words in bench.app.incus.told[begun:] if words[0] == "pause"]) <= seconds / guard.MEND_AGAIN + 2
    )


def test_what_is_replaced_between_the_mend_and_its_note_is_not_taken_for_the_seal(bench, monkeypatch):
    bench.start()
    put_back, races = restore.restore, [bench.root / ".git/config"]

    def raced(*about):
        is_back = put_back(*about)
        if races:
            replace(races.pop())
        return is_back

    monkeypatch.setattr(restore, "restore", raced)
    replace(bench.root / ".git/config")
    bench.await_broken()

    def is_back():
        with suppress(FileNotFoundError):  # it is away for a moment
            return not races and (bench.root / ".git/config").read_text() == "[core]\n"

    wait_until(is_back, "the copy to be back")


EDITS = {
    "a file written in place": lambda root: (root / ".git/config").write_text("[user]\n"),
    "a new hook": lambda root: (root / ".git/hooks/two").write_text("true\n"),
    "a hook removed": lambda root: (root / ".git/hooks/one").unlink(),
    "a placeholder filled": lambda root: (root / ".husky/pre-commit").write_text("true\n"),
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


@pytest.mark.parametrize("how", EDITS)
def test_an_edit_in_place_just_before_the_end_is_a_persons(bench, how):
    """It was told as changed by unknown, and no session started in that folder until somebody had accepted it."""
    bench.start()
    end_while(bench, lambda: EDITS[how](bench.root))
    assert bench.changes == []
    bench.mount(*SEALED)
    bench.check()


def test_what_is_replaced_just_before_the_end_is_told(bench):
    bench.start()
    end_while(bench, lambda: replace(bench.root / ".git/config"))
    assert bench.changes == [(".git/config", "replaced")]


def test_what_is_edited_under_another_name_just_before_the_end_is_told(bench):
    os.link(bench.root / ".git/config", bench.root / "other")
    bench.start()
    end_while(bench, lambda: (bench.root / "other").write_text("evil\n"))
    assert bench.changes == [(".git/config", "changed")]


def test_without_watches_a_session_says_so_and_what_is_replaced_is_found_all_the_same(bench, monkeypatch):
    no_watches(monkeypatch)
    bench.start()
    [warning] = bench.guard.warnings(bench.session)
    assert "compared every two seconds only" in warning
    assert "max_user_watches" in warning
    replace(bench.root / ".git/config")
    bench.guard.compare_indexes()
    bench.await_broken()
    assert (bench.root / ".git/config").read_text() == "[core]\n"


def test_watches_that_are_free_again_are_taken(bench, monkeypatch):
    free = threading.Event()
    no_watches(monkeypatch, free.is_set)
    bench.start()
    free.set()
    bench.guard.compare_indexes()
    bench.comes_to_rest()
    assert bench.guard.warnings(bench.session) == []
    replace(bench.root / ".git/config")
    bench.await_broken()


def test_a_look_for_links_without_watches_is_said_and_made_again(bench, monkeypatch):
    bench.start()
    bench.comes_to_rest()
    no_watches(monkeypatch)
    (bench.root / ".git/refs").mkdir()
    bench.comes_to_rest()
    wait_until(lambda: bench.guard.warnings(bench.session), "the warning")
    (bench.root / ".git/refs/heads").symlink_to("/etc")
    bench.guard.compare_indexes()
    bench.await_broken()


def test_an_edit_just_before_the_end_is_told_if_gits_index_was_bad(bench, monkeypatch):
    """Git on the host writes from it into .git/hooks, which looks like an edit."""
    bench.start()
    hook = bench.root / ".git/hooks/pre-commit"
    bad = {str(bench.root / ".git/index"): "git would have obeyed it"}
    end_while(bench, lambda: (hook.write_text("evil\n"), break_index(monkeypatch, bad)))
    wait_until(lambda: (".git/hooks", "changed") in bench.changes, "the folder to be told")
    [of_index, of_hooks] = bench.record.changes
    assert (of_index.kind, of_hooks.words) == ("index", "git on your side may have written it from that index")


def break_index(monkeypatch, bad):
    monkeypatch.setattr(index, "look", lambda *_: index.Looked(bad, (), ""))


def judge_after_a_loss(bench, act):
    """Let something happen once the kernel's queue is full, as a session can bring about for itself."""
    unhurried = threading.Event()
    bench.guard.watcher.call(unhurried.wait)
    flood(bench.root)
    act()
    unhurried.set()
    for _ in range(2):  # the queue is read in the round after that in which this is done
        bench.settle()


@pytest.mark.parametrize("how", EDITS)
def test_an_edit_in_place_is_a_persons_although_events_were_lost(bench, how):
    """A session could have a person's edit taken back by a flood of events."""
    bench.start()
    before = bench.record.items
    judge_after_a_loss(bench, lambda: EDITS[how](bench.root))
    wait_until(lambda: bench.record.items != before, "the edit to be noted")
    assert (bench.changes, bench.app.incus.told) == ([], [])


def move_and_edit(path, written):
    """Change what is sealed under another name, and move it back: its seal moves along, and it is the same thing."""
    aside = path.with_name("aside")
    path.rename(aside)
    with open(aside / written if written else aside, "a") as file:
        file.write("evil\n")
    aside.rename(path)


@pytest.mark.parametrize(("path", "written"), [(".git/config", ""), (".git/hooks", "two"), (".husky", "pre-commit")])
def test_what_moved_away_and_back_is_told_although_events_were_lost(bench, path, written):
    bench.start()
    judge_after_a_loss(bench, lambda: move_and_edit(bench.root / path, written))
    bench.await_broken()
    assert (path, "replaced") in bench.changes


def test_what_is_written_while_its_seal_is_off_is_told_although_events_were_lost(bench):
    bench.start()
    bench.mount(*(path for path in SEALED if path != ".git/config"))
    judge_after_a_loss(bench, lambda: (bench.root / ".git/config").write_text("evil\n"))
    bench.await_broken()
    assert bench.changes == [(".git/config", "replaced")]


def test_a_flood_just_before_the_end_hides_nothing(bench):
    bench.start()
    unhurried = threading.Event()
    bench.guard.watcher.call(unhurried.wait)
    flood(bench.root, 10_000)
    replace(bench.root / ".git/config")
    bench.mount()
    bench.guard.hear("stopped", bench.session)
    unhurried.set()
    bench.settle()
    assert bench.changes == [(".git/config", "replaced")]


def test_a_file_with_a_second_name_is_nobodys_to_edit(bench):
    os.link(bench.root / ".git/config", bench.root / "other")
    bench.start()
    (bench.root / "other").write_text("evil\n")
    bench.await_broken()
    assert bench.changes == [(".git/config", "changed")]
    assert (bench.root / ".git/config").read_text() == "[core]\n"
    assert (bench.root / ".git/config").stat().st_nlink == 1


def test_names_beside_sealed_ones_are_nobodys_business(bench):
    bench.start()
    before = bench.record
    for name in (".git/config.lock", ".git/index.lock", "README.new"):
        (bench.root / name).write_text("x")
        (bench.root / name).rename(bench.root / name.replace(".lock", ".x"))
    bench.settle()
    assert (bench.record.items, bench.app.incus.told) == (before.items, [])


def test_placeholders_that_go_with_the_wall_are_no_break(bench):
    bench.start()
    bench.mount()
    (bench.root / ".git/info/attributes").unlink()
    (bench.root / ".husky").rmdir()
    bench.stop()
    assert (bench.changes, bench.app.incus.told) == ([], [])
    bench.mount(*SEALED)
    bench.check()


def test_placeholders_that_go_with_the_wall_of_a_frozen_session_are_not_put_back(bench):
    bench.start()
    replace(bench.root / ".git/config")
    bench.await_broken()
    bench.settle()
    bench.mount()
    (bench.root / ".git/info/attributes").unlink()
    (bench.root / ".husky").rmdir()
    bench.settle()
    bench.stop()
    assert bench.changes == [(".git/config", "replaced")]
    assert not (bench.root / ".husky").exists()


def reboot(bench, run):
    """Let the container end, and begin another run by itself; what is found in between is looked for at the end."""
    before = bench.session
    bench.mount()
    bench.guard.hear("stopped", before)
    bench.settle()
    bench.mount(*SEALED)
    bench.session = before._replace(run=run)
    bench.guard.hear("started", bench.session)
    bench.guard.find_next()
    bench.settle()


def test_a_container_that_reboots_before_it_is_frozen_is_frozen_then(bench):
    bench.start()
    bench.guard.hear("started", bench.session)
    bench.guard.find_next()
    bench.settle()
    bench.guard.examiner.link_looks.ask = lambda id: None  # no look comes in time
    (bench.root / ".git/COMMIT_EDITMSG").symlink_to("/home/person/.bashrc")
    reboot(bench, "2999-01-01T00:00:00Z")
    bench.await_broken()
    assert (".git/COMMIT_EDITMSG", "replaced") in bench.changes
    assert ("pause", bench.session.id) in bench.app.incus.told
    [told] = bench.guard.fields(bench.session)["protection_changes"]
    assert "is put aside" in told["words"]
    bench.guard._go_on(bench.session)
    assert (bench.changes, bench.guard.fields(bench.session).get("protection")) == ([], None)


def test_a_container_that_reboots_and_has_changed_nothing_goes_on(bench):
    bench.start()
    reboot(bench, "2999-01-01T00:00:00Z")
    assert bench.changes == []
    assert bench.guard.fields(bench.session).get("protection") is None
    assert bench.app.incus.told == []


def test_the_end_of_an_earlier_run_that_is_told_late_ends_no_watch(bench):
    bench.start()
    before = bench.session
    bench.session = before._replace(run="2999-01-01T00:00:00Z")
    bench.guard.hear("started", bench.session)
    bench.guard.find_next()
    bench.guard.hear("stopped", before)
    bench.settle()
    replace(bench.root / ".git/config")
    bench.await_broken()


def test_placeholders_that_a_restart_makes_anew_are_no_break(bench):
    bench.start()
    (bench.root / ".husky").rmdir()
    (bench.root / ".husky").mkdir()
    bench.settle()
    assert (bench.changes, bench.app.incus.told) == ([], [])


def test_what_has_no_copy_is_at_least_taken_away(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    item = note_item(str(tmp_path / "large"), Copies())
    replace(tmp_path / "large")
    assert not restore.restore(str(tmp_path / "large"), item, {})
    [aside] = tmp_path.iterdir()
    assert (aside.name.startswith("large.clincus-replaced-"), aside.read_text()) == (True, "evil\n")


# ---- the next start -----------------------------------------------------------------------------------------------


def test_changes_after_an_end_that_was_seen_are_the_persons_own(bench):
    bench.start()
    bench.stop()
    replace(bench.root / ".git/config")
    bench.check()


def test_changes_while_nobody_looked_are_asked_about_once(bench):
    bench.start()
    bench.close()
    bench.guard = Guard(bench.app, bench.app.environ)  # a later server, and no end was seen
    replace(bench.root / ".git/config")
    bench.app.incus.status = "Stopped"
    with pytest.raises(ChangedError, match=r"\.git/config was replaced .*accept_changes") as refused:
        bench.check()
    assert refused.value.status == 409
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


def test_a_session_on_another_host_says_once_that_it_is_not_watched(bench):
    description = {"config": {"user.clincus.protection_note": "a note"}}
    launch = clincus.Launch(clincus.LaunchRequest("/srv"), None, (), bench.session, None, None, [])
    far = bench.session._replace(engine="farm", protection="locked")
    bench.guard.check_start(bench.app.incus, far, launch, description)
    assert description["config"]["user.clincus.protection_note"] == (
        "a note; What is sealed on another host is not watched from here"
    )


# ---- the watch ----------------------------------------------------------------------------------------------------


@pytest.fixture
def watching(nothing_left):
    """A function that watches a sealed path of a workspace, and gives the watcher and what it is told."""
    told = []
    watcher = Watcher(told.append, lambda: 0.0)

    def watch_it(root, id="one"):
        watcher.watch(id, {f"{root}/.git/config": str(root)})
        return watcher, told

    yield watch_it
    watcher.close()


@pytest.fixture
def root(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text("x")
    return tmp_path


def test_a_flood_is_told_as_one_loss(watching, root):
    watcher, told = watching(root)
    flood(root)
    wait_until(lambda: watcher.drain() or any(LOST in touched.values() for touched in told), "the loss")
    lost = next(touched for touched in told if LOST in touched.values())
    assert {mark.path: how for mark, how in lost.items()}[f"{root}/.git/config"] == LOST


def test_a_change_that_follows_a_loss_does_not_hide_it(watching, root, monkeypatch):
    watcher, told = watching(root)
    (root / ".git/config").write_text("y")
    mark = Mark("one", f"{root}/.git/config")
    monkeypatch.setattr(watcher.instance, "_events", lambda data: iter([(0, [(mark, LOST)]), (0, [(mark, CHANGED)])]))
    watcher.drain()
    assert told == [{mark: LOST}]


@pytest.fixture
def other_root(tmp_path):
    other = tmp_path / "other"
    (other / ".git").mkdir(parents=True)
    (other / ".git/config").write_text("x")
    return other


def test_all_sessions_of_a_server_have_two_instances(watching, tmp_path):
    """The kernel gives a user 128 of them, for all programs."""
    before = wall_bench.held()[0]
    for number in range(20):
        folder = tmp_path / str(number)
        (folder / ".git").mkdir(parents=True)
        (folder / ".git/config").write_text("x")
        watcher, told = watching(folder, str(number))
    assert wall_bench.held()[0] == sorted([*before, *2 * ["anon_inode:inotify"]])
    watcher.unwatch("3")
    for number in (3, 4):
        replace(tmp_path / f"{number}/.git/config")
    watcher.drain()
    assert {mark.id for touched in told for mark in touched} == {"4"}


def test_a_flood_in_one_session_has_all_examined(watching, root, other_root):
    watcher, told = watching(root)
    watching(other_root, "two")
    flood(root)
    (other_root / ".git/config").write_text("y")
    wait_until(lambda: watcher.drain() or any(LOST in touched.values() for touched in told), "the loss")
    assert told[0][Mark("two", f"{other_root}/.git/config")] == LOST


def test_a_flood_is_read_to_its_end_when_a_session_has_ended(watching, root):
    watcher, told = watching(root)
    flood(root, 10_000)
    replace(root / ".git/config")
    watcher.finish()
    assert {mark.path: how for touched in told for mark, how in touched.items()}[f"{root}/.git/config"] == MOVED


def test_only_the_folders_on_the_way_are_watched(watching, root):
    for number in range(200):
        (root / f"src/{number}/deep").mkdir(parents=True)
    watcher, _ = watching(root)
    assert len(watcher.instance.watched) == 2
    watcher.unwatch("one")
    assert watcher.instance.watched == {}


def test_a_job_after_the_end_is_dropped(watching, root):
    watcher, _ = watching(root)
    watcher.close()
    watcher.call(lambda: None)
    watcher.close = lambda: None  # of the fixture


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


def test_the_health_report_tells_that_no_inotify_instance_is_left(nothing_left, no_instances, monkeypatch):
    extensions = clincus.Extensions()
    protection.install(extensions)
    [found] = [one for examine in extensions.examiners if (one := examine({"HOME": "/nonexistent"}, tuple))]
    assert "no inotify instance left" in found[0]
    assert "sysctl fs.inotify.max_user_instances" in found[1]
    monkeypatch.undo()
    assert watch.examine() is None


@pytest.mark.parametrize(
    ("act", "how"),
    [
        (lambda root: replace(root / ".git/config"), MOVED),
        (lambda root: (root / ".git/config").write_text("y"), CHANGED),
        (lambda root: (root / ".git").rename(root / "g"), MOVED),
        (lambda root: root.rename(root.with_name("elsewhere")), MOVED),
    ],
)
def test_what_happens_to_a_sealed_name_is_told(watching, root, act, how):
    watcher, told = watching(root)
    act(root)
    watcher.drain()
    assert {mark.path: what for mark, what in told[0].items()}[f"{root}/.git/config"] == how


# ---- the command line ---------------------------------------------------------------------------------------------


def test_the_command_line_tells_what_is_sealed_changed_and_appeared():
    change = {"path": "/srv/a/.git/config", "what": "replaced", "by": "container", "at": RUN, "restored": True}
    change["kind"] = "seal"
    change["words"] = "it was a link to x\x1b"
    appeared = {"path": "sub", "kind": "gitlink", "when": "`git status`", "commands": [{"key": "a", "value": "b"}]}
    found = {
        "level": "broken",
        "note": "Frozen",
        "sealed": [{"path": "/srv/a/.git/config", "why": "git reads it"}],
        "changes": [change],
        "appeared": [appeared],
        "appeared_truncated": True,
    }
    text = "\n".join(protection_lines(found))
    for word in (
        "broken",
        "Frozen",
        "git reads it",
        "replaced",
        "put back",
        "a link to x\\x1b",
        "this list is not whole",
        "`git status`",
        "a = b",
    ):
        assert word in text


def test_records_of_all_workspaces_are_found(tmp_path):
    records = Records({"HOME": str(tmp_path)})
    for name in ("/a", "/b"):
        with records.changing(name) as record:
            record.changes.append(Change(name, "gone", "unknown", RUN, False))
    assert sorted(record.workspace for record in records.all()) == ["/a", "/b"]
    assert json.loads(Path(records.path("/a")).read_text())["workspace"] == "/a"
