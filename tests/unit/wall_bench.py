"""A workspace that is watched with a real inotify; only mounts and Incus are stood in for.

A test file takes the fixtures that it needs: `bench = wall_bench.bench`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import traceback
from contextlib import contextmanager, suppress

import pytest

import clincus
from clincus_features.protection import seals, watch
from clincus_features.protection.guard import Guard
from tests.programs import DEADLINE, wait_until

SEALED = (".git/config", ".git/hooks", ".husky", ".git/info/attributes")
STAGE = "0123456789abcdef"
RUN = "2020-01-01T00:00:00Z"


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
    """Stands in for the leases of a server: with real ones, a test that writes in place would wait for them."""

    def hold(self, id, paths, probed=()):
        return []

    def is_in_doubt(self, id):
        return False

    def let_go(self, living):
        pass

    def drop(self, id):
        pass


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
        self.guard.leases = NoLeases()
        self.session = clincus.Session("clincus-000000-1", str(self.root), "claude", 1, "running", False, run=RUN)
        self.mount(*SEALED)
        self.app.incus.config = self.config()
        self.over = threading.Event()
        self.others = threads()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        while not self.over.is_set():
            self.guard.work()

    def close(self):
        """End the server: its watch, and all that its threads have begun."""
        if self.over.is_set():
            return
        self.mount()  # some wait until the wall has gone
        self.guard.watcher.call(self.guard._live.clear)
        while begun := threads() - self.others - {self.thread}:
            with suppress(RuntimeError):  # it is being started just now
                begun.pop().join(DEADLINE)
        self.over.set()
        self.guard.watcher.call(lambda: None)
        self.thread.join(DEADLINE)
        self.guard.close()

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

    def await_change(self, path, what="replaced"):
        wait_until(lambda: (path, what) in self.changes, f"{path} to be told")


@pytest.fixture
def bench(nothing_left, tmp_path, monkeypatch):
    made = Bench(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def alone(bench):
    """A guard of a command, without a server."""
    bench.close()
    bench.mount(*SEALED)
    bench.session = bench.session._replace(protection="locked")
    bench.guard = Guard(None, bench.app.environ)
    bench.guard._door = lambda session: bench.app.incus
    return bench


def start_alone(bench):
    bench.check()
    for moment in ("sealed", "after_start"):
        bench.guard.hear(moment, bench.session)


def stop_alone(bench):
    bench.guard.hear("before_stop", bench.session)
    bench.mount()
    bench.guard.hear("after_stop", bench.session)


def threads():
    """The threads of this process, but for the one that all children share."""
    return {one for one in threading.enumerate() if one.name != "deadlines"}


def held():
    """What this process has of what the kernel gives a user few of: inotify instances, pipes and threads."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    kinds = sorted(os.readlink(link).partition(":[")[0] for link in links if os.path.lexists(link))
    return [kind for kind in kinds if kind in ("anon_inode:inotify", "pipe")], threads()


@pytest.fixture
def nothing_left():
    """A test gives all of that back."""
    before = held()
    yield
    wait_until(lambda: held() == before, stacks, 10)


@contextmanager
def leased(path):
    """A write lease on a file: who opens it without waiting is refused; git waits, and gets in."""
    with open(path, "r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # by default SIGIO, which would end the tests
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def stacks() -> str:
    """What each thread does now: the reason why one of them has not come to an end."""
    return "\n".join("".join(traceback.format_stack(frame)) for frame in sys._current_frames().values())


def replace(path, text="evil\n"):
    aside = path.with_name("evil")
    aside.write_text(text)
    aside.replace(path)


def flood(folder, count=20_000):
    """Cause events, by default more than fs.inotify.max_queued_events; the kernel merges those that are alike."""
    pair = [folder / "a", folder / "b"]
    for number in range(count):
        os.close(os.open(pair[number % 2], os.O_WRONLY | os.O_CREAT))


def no_watches(monkeypatch, is_left=lambda: False):
    """Stand in for a program of the same user that has all of the kernel's watches."""
    real = watch.Instance.add

    def add(instance, path, mask):
        return real(instance, path, mask) if is_left() else watch.checked(-1)

    monkeypatch.setattr(watch.Instance, "add", add)
