"""The section `conversations`: saved from a container, listed, and carried in again."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import clincus
from tests.programs import DEADLINE
from tests.table import table

SESSION = "0cb916db-26aa-40f2-86b5-1ba81b225fd2"
OTHER = "11111111-2222-3333-4444-555555555555"
ROOT = ".claude/projects"
TALK = f"{ROOT}/-workspace/{SESSION}.jsonl"


@pytest.fixture
def environ(tmp_path, monkeypatch):
    """A home directory of its own, and no system-wide config file."""
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "etc" / "config.toml"))
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home"), "PATH": "/nowhere"}


@pytest.fixture
def config(environ):
    return clincus.load_config(environ)


def write(path, data=b"", mtime=None):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())
    if mtime is not None:
        os.utime(path, (mtime, mtime))


def saved_session(tmp_path, tool="claude"):
    return clincus.SavedSession(SESSION, tool, str(tmp_path / f"sessions-{tool}" / SESSION), workspace="/w", slot=2)


def copies(tmp_path, tool="claude"):
    """What the host has of a conversation: the content by path."""
    directory = Path(saved_session(tmp_path, tool).directory)
    paths = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return {path: (directory / path).read_bytes() for path in paths if path != "metadata.json"}


class Tap(io.BufferedReader):
    """A stream that counts what passes."""

    count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data


def save(tmp_path, tool="claude", *, ends="", owner=None):
    """Save the conversations of the home `guest`; the notes, and the bytes of content that were sent.

    Raises ClincusError as a command in a container does, if it fails.
    """
    taps = []

    @contextlib.contextmanager
    def run(command, timeout):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
            child = SimpleNamespace(allow=lambda *_: None, earn=lambda _: None, end=lambda *_: None)
            stdin = clincus.GuestInput(process.stdin.fileno(), lambda: process.poll() is not None, child)
            taps.append(Tap(process.stdout))
            try:
                yield stdin, taps[0]
            finally:
                process.stdin.close()
                process.wait(DEADLINE)
            if process.returncode != 0:
                raise clincus.IncusError(f"it ended with {process.returncode}", 500)

    known = clincus.TOOLS[tool]._replace(start=(ends or tool,))
    saved = saved_session(tmp_path, tool)
    notes = clincus.save_conversation(run, str(tmp_path / "guest"), saved, known, is_last=bool(ends), owner=owner)
    return notes, taps[0].count


# ---- what is saved ------------------------------------------------------------------------------------------------


def test_a_conversation_survives_the_way_out_and_in_again(tmp_path):
    write(tmp_path / "guest" / TALK, b"x" * 70000, mtime=77)
    write(tmp_path / "guest/.claude/.credentials.json", "sesame")
    write(tmp_path / "guest/.claude/settings.json", "{}")
    assert save(tmp_path) == ([], 70000)
    directory = saved_session(tmp_path).directory
    assert sorted(os.listdir(directory)) == [".claude", "metadata.json"]
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.join(directory, TALK)).st_mode) == 0o600
    listing = clincus.saved_listing(directory).values()
    assert clincus.choose_conversation(clincus.TOOLS["claude"], SESSION, "/workspace", listing) == SESSION
    (tmp_path / "again").mkdir()
    archive = b"".join(clincus.pack_files(clincus.saved_files(clincus.TOOLS["claude"], directory), 0, 0))
    subprocess.run(["tar", "-xf", "-", "-C", tmp_path / "again"], input=archive, check=True)
    assert (tmp_path / "again" / TALK).read_bytes() == b"x" * 70000
    assert os.stat(tmp_path / "again" / TALK).st_mtime == 77


def test_only_what_changed_is_copied_and_what_the_tool_removed_goes(tmp_path):
    guest = tmp_path / "guest"
    write(guest / TALK, "one\n", mtime=1)
    os.link(guest / TALK, guest / f"{ROOT}/second")
    write(guest / f"{ROOT}/other", "other", mtime=1)
    assert save(tmp_path)[1] == 13
    assert copies(tmp_path)[f"{ROOT}/second"] == b"one\n"
    os.unlink(guest / f"{ROOT}/second")
    assert save(tmp_path)[1] == 0
    write(guest / TALK, "one\ntwo\n", mtime=2)  # appended: only the rest comes
    assert save(tmp_path)[1] == 4
    write(guest / TALK, "ONE\ntwo\nthree\n", mtime=3)  # written anew: all of it comes
    assert save(tmp_path)[1] == 14
    write(guest / TALK, "4\n", mtime=4)  # cut short
    assert save(tmp_path)[1] == 2
    assert copies(tmp_path) == {TALK: b"4\n", f"{ROOT}/other": b"other"}


# Each ends before it has written everything, as if the kernel had killed it for its memory, or the disk had failed.
ENDED = [
    ("find", 'case $* in *%T@*%p*) printf "%s\\0" "9 9 .claude/x"; kill -9 $$ ;; esac'),
    ("sort", "kill -9 $$"),
    ("tail", "printf half; kill -9 $$"),
]


@table(("name", "text"), ENDED)
def test_half_of_a_list_or_of_a_file_is_a_failure_and_leaves_the_old_copy(tmp_path, monkeypatch, name, text):
    write(tmp_path / "guest" / TALK, b"first line\n", mtime=1)
    write(tmp_path / "guest" / ROOT / "-workspace/agent.jsonl", b"of a helper\n", mtime=2)
    save(tmp_path)
    before = copies(tmp_path)
    write(tmp_path / "guest" / TALK, b"first line\nand the second one\n", mtime=3)
    place = tmp_path / "bin" / name
    write(place, f'#!/bin/sh\n{text}\nexec {shutil.which(name)} "$@"\n'.encode())
    place.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{place.parent}:{os.environ['PATH']}")
        for ends in ("", "none"):  # the last save too
            with pytest.raises(clincus.ClincusError):
                save(tmp_path, ends=ends)
            assert copies(tmp_path) == before
    save(tmp_path)
    assert copies(tmp_path)[TALK] == b"first line\nand the second one\n"


def test_the_newest_files_are_saved_where_all_would_be_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(clincus, "SAVED_LIMIT", 10)
    write(tmp_path / "guest" / f"{ROOT}/kept", "kept", mtime=5)
    save(tmp_path)
    write(tmp_path / "guest" / f"{ROOT}/kept", "too large by now", mtime=6)
    for number in range(4):
        write(tmp_path / "guest" / f"{ROOT}/{number}", "1234", mtime=number)
    (note,), _ = save(tmp_path)
    assert note.startswith("4 files are not saved")
    assert copies(tmp_path) == {f"{ROOT}/3": b"1234", f"{ROOT}/kept": b"kept"}
    assert sum(map(len, copies(tmp_path).values())) <= clincus.SAVED_LIMIT


def test_a_disk_that_is_nearly_full_keeps_the_old_copy(tmp_path, monkeypatch):
    write(tmp_path / "guest" / TALK, "old")
    save(tmp_path)
    write(tmp_path / "guest" / TALK, "new and longer")
    monkeypatch.setattr(clincus, "DISK_RESERVE", 1 << 62)
    with pytest.raises(OSError, match="nearly full") as caught:
        save(tmp_path)
    assert clincus.is_hosts_fault(caught.value)
    assert copies(tmp_path) == {TALK: b"old"}


def test_secrets_locks_and_logs_stay_in_the_container(tmp_path):
    names = ("auth.json", "mcp-auth.json", "log/a.log", "bin/x", "snapshot/0a1b/objects/00/x", "opencode.db-shm")
    for name in (*names, "opencode.db", "opencode.db-wal"):
        write(tmp_path / "guest/.local/share/opencode" / name, "x")
    write(tmp_path / "guest/.local/state/opencode/locks/a.lock", "x")
    save(tmp_path, "opencode")
    assert [os.path.basename(path) for path in copies(tmp_path, "opencode")] == ["opencode.db", "opencode.db-wal"]


def test_a_tool_that_does_not_end_is_killed_before_the_copy(tmp_path):
    name = f"stub{os.getpid()}"
    write(tmp_path / name, "#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do sleep 0.1; done\n")
    (tmp_path / name).chmod(0o755)
    write(tmp_path / "guest" / TALK, "talk")
    with subprocess.Popen([tmp_path / name], stdout=subprocess.PIPE) as stub, ThreadPoolExecutor() as pool:
        assert stub.stdout.readline() == b"ready\n"
        ended = pool.submit(stub.wait, DEADLINE)
        save(tmp_path, ends=name)
        assert ended.result() == -signal.SIGKILL


@table(("path", "text"), [(clincus.UNPACKING_FILE, "x"), (".claude/history.jsonl", "/clear"), (".bashrc", "")])
def test_a_container_without_the_conversation_never_takes_the_old_one(tmp_path, path, text):
    write(tmp_path / "guest" / TALK, "the whole talk")
    save(tmp_path)
    if path == clincus.UNPACKING_FILE:
        write(tmp_path / "guest" / TALK, "the wh")
    else:
        os.unlink(tmp_path / "guest" / TALK)
    write(tmp_path / "guest" / path, text)
    save(tmp_path)
    assert copies(tmp_path) == {TALK: b"the whole talk"}


# ---- the copy on the host -----------------------------------------------------------------------------------------


def test_what_a_save_left_that_was_cut_short_is_mended(tmp_path):
    write(tmp_path / "guest" / TALK, "talk")
    save(tmp_path)
    directory = saved_session(tmp_path).directory
    parent = os.path.dirname(directory)
    os.rename(directory, f"{parent}/.{SESSION}.new-1.old")  # killed between the two renames
    os.mkdir(f"{parent}/.{SESSION}.new-1")
    os.mkdir(f"{parent}/.{SESSION}.new-2")
    with clincus.directory_lock(f"{parent}/.{SESSION}.new-2"):  # somebody writes there
        clincus.mend_saved(parent)
    assert copies(tmp_path) == {TALK: b"talk"}
    assert sorted(os.listdir(parent)) == [f".{SESSION}.new-2", SESSION]


def test_a_copy_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.readlink(f"/proc/self/fd/{file}")) or fsync(file))
    monkeypatch.setattr(os, "rename", lambda old, new: done.append(new) or rename(old, new))
    for name in "ab":
        write(tmp_path / "guest" / f"{ROOT}/{name}", name)
    save(tmp_path)
    directory = saved_session(tmp_path).directory
    before = done[: done.index(directory)]
    assert {os.path.basename(path) for path in before} >= {"a", "b"}
    assert done[-1] == os.path.dirname(directory)


# ---- hostile containers -------------------------------------------------------------------------------------------


class Script(io.RawIOBase):
    """What a container writes: a piece for each read."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def readable(self):
        return True

    def readinto(self, target):
        piece = self.pieces.pop(0) if self.pieces else b""
        target[: len(piece)] = piece
        return len(piece)


def receive(tmp_path, *pieces, is_last=False):
    """Save what a container sends that does as it likes."""

    stdin = SimpleNamespace(write=lambda data: None, allow=lambda *_: None)
    container = contextlib.nullcontext((stdin, io.BufferedReader(Script(*pieces), 1 << 17)))
    saved, tool = saved_session(tmp_path), clincus.TOOLS["claude"]
    return clincus.save_conversation(lambda *_, timeout: container, "/home", saved, tool, is_last=is_last)


def listing(*paths, size=1):
    return b"".join(b"%d 5.0 %s\0" % (size, os.fsencode(path)) for path in paths) + b"/\0"


ANSWER = b"0 1\nx1 5.0\n"


@table(
    "path",
    [
        "/etc/cron.d/x",
        f"{ROOT}/../../../x",
        f"{ROOT}/a\nb",
        ".claude/.credentials.json",
        "metadata.json",
    ],
)
def test_a_hostile_name_is_passed_over_and_the_rest_is_kept(tmp_path, path):
    receive(tmp_path, listing(path, f"{ROOT}/good"), ANSWER)
    found = [name for _, _, names in os.walk(tmp_path) for name in names]
    assert sorted(found) == ["good", "metadata.json"]


@table(
    ("pieces", "message"),
    [
        ((b"",), "incomplete"),
        ((b"x" * 200, b"y" * 200), "list of files is too long"),
        ((listing(f"{ROOT}/x.jsonl", f"{ROOT}/y.jsonl"), b"0 9\n123456789" + b"9 6.0\n", b"0 9\n"), "sends more"),
        ((listing(f"{ROOT}/x"), b"0 1\n"), "broke off within a file"),
        ((listing(f"{ROOT}/x"), b"0 1\nx9 6.0\n"), "changes just now"),
    ],
)
def test_a_container_that_does_as_it_likes_leaves_the_old_copy(tmp_path, monkeypatch, pieces, message):
    receive(tmp_path, listing(f"{ROOT}/old"), ANSWER)
    monkeypatch.setattr(clincus, "LISTING_LIMIT", 300)
    monkeypatch.setattr(clincus, "GROWTH_LIMIT", 10)
    with pytest.raises(clincus.ClincusError, match=message):
        receive(tmp_path, *pieces)
    assert copies(tmp_path) == {f"{ROOT}/old": b"x"}
    assert os.listdir(os.path.dirname(saved_session(tmp_path).directory)) == [SESSION]


MIB = 1 << 20


@table(
    ("sent", "seconds"),
    [
        ([(1.0, 100 * MIB)], 20),  # never more than the patience ahead, however much came
        ([(float(at), 20 * MIB) for at in range(1, 600)], 1),  # the end of a save, whatever comes
    ],
)
def test_a_container_gets_time_for_what_it_sends_and_not_for_what_it_claims(monkeypatch, sent, seconds):
    now, given = [0.0], list[float]()
    monkeypatch.setattr(clincus, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pace = clincus.Pace(SimpleNamespace(allow=lambda seconds, why: given.append(seconds), earn=lambda _: None), 600.0)
    for at, size in sent:
        now[0] = at
        pace.earn(size=size)
    assert given[-1] == pytest.approx(seconds)


# ---- which conversation to go on with -----------------------------------------------------------------------------


def files(*paths):
    return [clincus.ListedFile(path, 1, time) for time, path in enumerate(paths)]


def in_claude(*names, project="-home-ann-my-app-v2"):
    return files(*(f"{ROOT}/{project}/{name}" for name in names))


@table(
    ("tool", "listing", "chosen"),
    [
        ("claude", in_claude(f"{SESSION}.jsonl", f"{OTHER}.jsonl"), SESSION),
        ("claude", in_claude(f"{OTHER}.jsonl", f"{OTHER[::-1]}.jsonl".replace("-", "x")), OTHER),
        ("copilot", files(f".copilot/session-state/{OTHER}/events.jsonl"), OTHER),
        ("copilot", files(f".copilot/session-state/{OTHER}/workspace.yaml"), None),
        ("opencode", files(".local/share/opencode/storage/session/a.json"), "opencode"),
    ],
)
def test_the_conversation_of_the_session_goes_on_or_the_newest(tool, listing, chosen):
    found = clincus.choose_conversation(clincus.TOOLS[tool], SESSION, "/home/ann/my.app_v2", listing)
    assert found == chosen


# ---- the list of saved sessions -----------------------------------------------------------------------------------


def test_saved_sessions_of_all_tools_are_listed_the_newest_first(environ, config):
    base = os.path.join(environ["HOME"], ".clincus")
    a = '{"session_id": "a", "persistent": true, "saved_at": "2026-01-01T10:00:00+01:00"}'
    write(f"{base}/sessions-claude/a/metadata.json", a)
    write(f"{base}/sessions-copilot/b/metadata.json", '{"session_id": "b", "saved_at": "2026-01-01T09:30:00Z"}')
    write(f"{base}/sessions-claude/c/metadata.json", '{"session_id": "c", "saved_at": 3, "slot": "x"}')
    write(f"{base}/sessions-claude/.a.new-x/metadata.json", '{"session_id": "tmp"}')
    listed = clincus.list_saved(config, environ)
    assert [(saved.session_id, saved.tool) for saved in listed] == [("b", "copilot"), ("a", "claude"), ("c", "claude")]
    assert listed[1].persistent is True
    assert clincus.find_saved(config, environ, "c").slot == 0


def test_a_session_id_never_leads_elsewhere(environ, config):
    for session_id in ("", "..", "a/b", "-x", "a\0"):
        with pytest.raises(clincus.ClincusError, match="not found"):
            clincus.session_directory(config, environ, "claude", session_id)
        with pytest.raises(clincus.ClincusError, match="not found"):
            clincus.find_saved(config, environ, session_id)


def test_a_container_names_no_more_files_than_its_program_would():
    """The 64 MiB that it may list would be millions, each with a copy on the host."""
    data = b"".join(b"1 1 .claude/projects/%d\0" % number for number in range(clincus.LISTED_FILES + 10))
    assert len([*clincus.parse_listing(data)]) == clincus.LISTED_FILES
