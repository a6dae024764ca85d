"""The second line behind the wall, on real folders with a real inotify; only mounts and Incus are stood in for."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import sys
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import clincus
from clincus_cli.protection import protection_lines
from clincus_features.protection import guard, index, restore, seals, watch
from clincus_features.protection.guard import ChangedError, Guard
from clincus_features.protection.identity import Copies, note_item
from clincus_features.protection.records import Change, Records
from clincus_features.protection.seals import Stage, why_sealed
from clincus_features.protection.watch import CHANGED, LOST, MOVED, Mark, Watcher, checked
from tests.programs import DEADLINE, wait_until
from tests.table import table

SEALED = (".git/config", ".git/hooks", ".husky", ".git/info/attributes")
PLACEHOLDERS = (".husky", ".git/info/attributes")
STAGE = "0123456789abcdef"


class Door:
    """An Incus that has one container, and notes what it is told."""

    engine = ""

    def __init__(self):
        self.status, self.told, self.config = "Running", [], {}
        self.refusals = []  # the status in which each of the next commands that freeze leaves it, as they fail

    def place(self, id):
        return id

    def run(self, *words, **_):
        self.told.append(words)
        if words[0] == "pause" and self.refusals:
            self.status = self.refusals.pop(0)
            raise clincus.IncusError("the command took more than 5 s", 504)
        if words[0] == "pause":
            self.status = "Frozen"

    def instance(self, id):
        return {"name": id, "status": self.status, "config": self.config}

    def end_commands(self, id, reason):
        self.told.append(("end", id))


class App:
    """As much of an Application as the guard needs."""

    def __init__(self, home):
        self.environ = {"HOME": str(home)}
        self.incus, self.reports, self.events, self.alarms = Door(), [], [], []
        self.extensions = clincus.Extensions(self)
        self.extensions.alarm_listeners.append(lambda session, alarm: self.alarms.append(alarm))
        self.sessions = self.hub = self.registry = self
        self.shown = None  # the session as it is listed

    def door(self, id):
        return self.incus

    def find(self, id):
        return self.shown

    def report(self, words):
        self.reports.append(words)

    def publish(self, event, extension=False):
        self.events.append(event)


class NoLeases:
    """Stands in for the leases of a server."""

    def hold(self, id, paths, probed=()):
        return []

    def is_in_doubt(self, id):
        return False

    def let_go(self, living):
        pass

    def drop(self, id):
        pass


def stacks() -> str:
    """What each thread does now: the reason why one of them has not come to an end."""
    return "\n".join("".join(traceback.format_stack(frame)) for frame in sys._current_frames().values())


class Bench:
    """A workspace that is sealed for one session, in a server."""

    def __init__(self, folder, monkeypatch):
        self.root = folder / "work"
        self.mounts = folder / "mountinfo"
        monkeypatch.setattr(seals, "MOUNTS", str(self.mounts))
        for path, text in {".git/config": "[core]\n", ".git/hooks/one": "true\n", "README": "hello\n"}.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)
        (self.root / ".git/info").mkdir()
        (self.root / ".git/info/attributes").touch()
        (self.root / ".husky").mkdir()
        self.app = App(folder)
        self.guard = Guard(self.app, self.app.environ)
        self.guard.leases = NoLeases()  # with leases, a test that writes in place would wait for them
        self.session = clincus.Session("clincus-000000-1", str(self.root), "claude", 1, "running", False, run=RUN)
        self.mount(*SEALED)
        self.app.incus.config = self.config()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        while not self.over.is_set():
            self.guard.work()

    def close(self):
        self.over.set()
        self.guard.watcher.call(lambda: None)
        self.thread.join()

    def settle(self):
        """Let the thread finish what it has begun."""
        done = threading.Event()
        self.guard.watcher.call(done.set)
        assert done.wait(DEADLINE), stacks()

    def comes_to_rest(self):
        """Wait until no look goes on. The end of one may have the thread ask for another one."""
        guard = self.guard
        examiner = guard.examiner

        def is_looking():
            everything = (examiner.link_looks, examiner.index_looks, examiner.module_looks)
            return any(looks.is_busy(self.session.id) for looks in everything)

        def is_at_rest():
            if is_looking():
                return False
            self.settle()
            return not is_looking()

        wait_until(is_at_rest, "all looks to end")

    def mount(self, *paths):
        """Stand in for the mounts of the stage, with these seals."""
        points = {"": "rw", ".git": "rw", ".git/info": "rw", **dict.fromkeys(paths, "ro")}
        lines = [
            f"1 1 0:1 / {seals.clincus.protect.STAGES}/{STAGE}/0/{p}".rstrip("/") + f" {o},x - e a b\n"
            for p, o in points.items()
        ]
        self.mounts.write_text("".join(lines) if paths else "")

    def config(self):
        plan = {
            "stage": STAGE,
            "trees": [{"source": str(self.root), "readonly": False, "protect": dict.fromkeys(SEALED)}],
        }
        return {"raw.lxc": "\n".join(clincus.protect.hook_lines("/usr/bin/python3", plan)) + "\n"}

    def check(self, *, accepts=False):
        request = clincus.LaunchRequest(str(self.root), accept_changes=accepts)
        launch = clincus.Launch(request, None, (), self.session, None, None, [])
        self.guard.check_start(self.app.incus, self.session, launch, {"config": self.config()})

    def start(self, **how):
        self.check(**how)
        for moment in ("sealed", "after_start"):
            self.guard.hear(moment, self.session)
        self.settle()

    def stop(self):
        self.mount()
        self.guard.hear("stopped", self.session)
        self.settle()

    @property
    def record(self):
        return self.guard.records.read(str(self.root))

    @property
    def changes(self):
        return [(one.path[len(str(self.root)) + 1 :], one.what) for one in self.record.changes]

    def await_broken(self):
        wait_until(lambda: self.guard.fields(self.session).get("protection") == "broken", "it to be broken")
        wait_until(lambda: any(words[0] == "config" for words in self.app.incus.told), "the label")


RUN = "2020-01-01T00:00:00Z"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path, monkeypatch)
    yield made
    made.close()


@contextmanager
def leased(path):
    """A write lease on a file: who opens it without waiting is refused; git waits, and gets in."""
    with open(path, "r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # by default SIGIO, which would end the tests
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def replace(path, text="evil\n"):
    aside = path.with_name("evil")
    aside.write_text(text)
    aside.replace(path)


def no_watches(monkeypatch, is_left=lambda: False):
    """Stand in for a program of the same user that has all of the kernel's watches."""
    real = watch.Instance.add

    def add(instance, path, mask):
        return real(instance, path, mask) if is_left() else checked(-1)

    monkeypatch.setattr(watch.Instance, "add", add)


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


def watching(root, paths=(".git/config",)):
    """A watcher of a workspace, and what it was told."""
    told = []
    watcher = Watcher(told.append, lambda: 0.0)
    watcher.watch("one", {f"{root}/{path}": str(root) for path in paths})
    return watcher, told


@pytest.fixture
def root(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text("x")
    return tmp_path


def test_a_flood_is_told_as_one_loss(root):
    watcher, told = watching(root)
    flood(root)
    wait_until(lambda: watcher.drain() or any(LOST in touched.values() for touched in told), "the loss")
    lost = next(touched for touched in told if LOST in touched.values())
    assert {mark.path: how for mark, how in lost.items()}[f"{root}/.git/config"] == LOST


def test_a_change_that_follows_a_loss_does_not_hide_it(root, monkeypatch):
    watcher, told = watching(root)
    (root / ".git/config").write_text("y")
    mark = Mark("one", f"{root}/.git/config")
    [instance] = watcher.instances
    monkeypatch.setattr(instance, "_events", lambda data: iter([(0, [(mark, LOST)]), (0, [(mark, CHANGED)])]))
    watcher.drain()
    assert told == [{mark: LOST}]


@pytest.fixture
def other_root(tmp_path):
    other = tmp_path / "other"
    (other / ".git").mkdir(parents=True)
    (other / ".git/config").write_text("x")
    return other


def flood(folder, count=20_000):
    """Cause events, by default more than fs.inotify.max_queued_events; the kernel merges those that are alike."""
    pair = [folder / "a", folder / "b"]
    for number in range(count):
        os.close(os.open(pair[number % 2], os.O_WRONLY | os.O_CREAT))


def test_a_flood_in_one_session_loses_nothing_of_another(root, other_root):
    watcher, told = watching(root)
    watcher.watch("two", {f"{other_root}/.git/config": str(other_root)})
    flood(root)
    (other_root / ".git/config").write_text("y")
    wait_until(lambda: watcher.drain() or any(LOST in touched.values() for touched in told), "the loss")
    of_two = {mark.path: how for touched in told for mark, how in touched.items() if mark.id == "two"}
    assert of_two == {f"{other_root}/.git/config": CHANGED}


def test_another_session_is_heard_while_a_flood_is_let_pass(root, other_root):
    watcher, told = watching(root)
    watcher.watch("two", {f"{other_root}/.git/config": str(other_root)})
    flood(root, 1000)
    watcher.drain()
    told.clear()
    replace(other_root / ".git/config")
    watcher.drain()
    assert told[0][Mark("two", f"{other_root}/.git/config")] == MOVED
    assert not any(mark.id == "one" for touched in told for mark in touched)


def test_a_flood_is_read_to_its_end_when_a_session_has_ended(root):
    watcher, told = watching(root)
    flood(root, 10_000)
    replace(root / ".git/config")
    watcher.finish("one")
    assert {mark.path: how for touched in told for mark, how in touched.items()}[f"{root}/.git/config"] == MOVED


def test_sessions_share_an_instance_where_the_kernel_gives_no_more(root, other_root, monkeypatch):
    watcher, told = watching(root)
    monkeypatch.setattr(watch, "Instance", lambda libc: checked(-1))  # EMFILE
    watcher.watch("two", {f"{other_root}/.git/config": str(other_root)})
    watcher.unwatch("one")
    replace(other_root / ".git/config")
    replace(root / ".git/config")
    watcher.drain()
    assert {mark.id for touched in told for mark in touched} == {"two"}
    watcher.unwatch("two")
    assert watcher.instances == []


def test_only_the_folders_on_the_way_are_watched(root):
    for number in range(200):
        (root / f"src/{number}/deep").mkdir(parents=True)
    watcher, _ = watching(root)
    [instance] = watcher.instances
    assert len(instance.watched) == 2
    watcher.unwatch("one")
    assert watcher.instances == []


@pytest.mark.parametrize(
    ("act", "how"),
    [
        (lambda root: replace(root / ".git/config"), MOVED),
        (lambda root: (root / ".git/config").write_text("y"), CHANGED),
        (lambda root: (root / ".git").rename(root / "g"), MOVED),
        (lambda root: root.rename(root.with_name("elsewhere")), MOVED),
    ],
)
def test_what_happens_to_a_sealed_name_is_told(root, act, how):
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
