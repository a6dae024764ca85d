"""The commands for containers, files, snapshots, images and the service, as far as they need no Incus."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import clincus
from clincus_cli import all_commands
from clincus_cli import commands as cli_commands
from clincus_cli import containers as cli_containers
from clincus_cli import context as cli_context
from clincus_cli import files as cli_files
from clincus_cli import images as cli_images
from clincus_cli import service as cli_service
from clincus_cli import transfer as cli_transfer
from tests.programs import wait_until
from tests.table import table

all_commands.load_commands()

# ---- a stand-in for Incus ---------------------------------------------------------------------------------------


class FakeIncus:
    """Answers queries from a table, path to answer; an absent path is not found. `asked` keeps what changes things."""

    def __init__(self, answers, engine=""):
        self.answers, self.engine = answers, engine
        self.asked = []

    def path(self, id, more=""):
        return f"/1.0/instances/{self.place(id)}{more}"

    def place(self, id):
        assert clincus.engine_of(id) == self.engine
        return clincus.instance_name(id)

    def fresh_door(self):
        return self

    def query(self, path, method="GET", data=None, *, wait=False, timeout=30, kept=None):
        if method != "GET":
            self.asked.append((method, path, data))
            return None
        if path not in self.answers:
            raise clincus.IncusError("not found", 404)
        answer = self.answers[path]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, *arguments, stdin=b"", timeout=60):
        self.asked.append(arguments)
        return b""


@pytest.fixture
def run(tmp_path):
    """A function that runs a command line against a stand-in for Incus and returns its exit code."""

    def run_with(incus, *words, environ=None):
        command, rest = cli_commands.find_command(words)
        options = cli_commands.parse_words(command, rest)
        context = cli_context.Context(command, options, {"HOME": str(tmp_path), **(environ or {})})
        context.__dict__["incus"] = incus
        return command.run(context)

    return run_with


def instance(name="box", status="Stopped", **more):
    own = {"name": name, "status": status, "type": "container", "created_at": "2027-03-01T08:04:11Z"}
    return {**own, "ephemeral": False, "config": {}, "expanded_devices": {}, **more}


def incus_with(*instances, images=(), engine=""):
    answers = {f"/1.0/instances/{one['name']}": one for one in instances}
    for one in instances:
        answers[f"/1.0/instances/{one['name']}/snapshots?recursion=1"] = one.get("snapshots", [])
        for snapshot in one.get("snapshots", []):
            answers[f"/1.0/instances/{one['name']}/snapshots/{snapshot['name']}"] = snapshot
    answers["/1.0/images?recursion=1"] = list(images)
    answers["/1.0/instances?recursion=1"] = answers["/1.0/instances?recursion=2"] = list(instances)
    return FakeIncus(answers, engine)


def image(*aliases, fingerprint="f" * 64, size=79167645):
    return {
        "aliases": [{"name": name, "description": ""} for name in aliases],
        "fingerprint": fingerprint,
        "size": size,
        "created_at": "2027-03-01T08:04:11Z",
        "uploaded_at": "2027-03-02T08:04:11Z",
        "architecture": "x86_64",
        "properties": {"description": "tools"},
    }


def snapshot(name, created_at="2027-03-01T08:20:01.5Z", **more):
    return {"name": name, "created_at": created_at, "expires_at": "0001-01-01T00:00:00Z", "stateful": False, **more}


class Terminal(io.StringIO):
    """A terminal at which somebody has typed something."""

    def isatty(self):
        return True


@pytest.fixture
def no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())


# ---- names and places ---------------------------------------------------------------------------------------------


@table("name", ["", "--force", "-f", "a.", "1box", "a b", "Remote:box", "box/snap", "b" * 64, "a\n"])
def test_a_name_that_incus_could_read_as_something_else_is_refused(name):
    with pytest.raises(cli_commands.UsageError, match="no container's name"):
        cli_containers.container_name(name)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("container", "start", "tower:box"), [("PUT", "/1.0/instances/box/state")]),
        (("container", "delete", "tower:box", "--force"), [("delete", "--force", "box")]),
        (("snapshot", "create", "one", "-c", "tower:box"), [("POST", "/1.0/instances/box/snapshots")]),
        (("snapshot", "delete", "s", "-c", "tower:box", "-f"), [("DELETE", "/1.0/instances/box/snapshots/s")]),
        (("snapshot", "restore", "s", "-c", "tower:box", "-f"), [("PUT", "/1.0/instances/box")]),
    ],
)
def test_a_container_of_an_engine_is_worked_on_there(run, monkeypatch, words, asked):
    there = incus_with(instance(snapshots=[snapshot("s")]), engine="tower")
    monkeypatch.setattr(clincus, "engine_door", lambda config, engine: {"tower": there}[engine])
    assert run(FakeIncus({}), *words) == 0
    assert [call if "delete" in call else call[:2] for call in there.asked] == asked


def test_a_folder_of_this_host_is_not_mounted_in_a_container_of_an_engine(run, monkeypatch, tmp_path):
    monkeypatch.setattr(clincus, "engine_door", lambda config, engine: FakeIncus({}, engine))
    with pytest.raises(clincus.ClincusError, match="`incus config device add box`"):
        run(FakeIncus({}), "container", "mount", "tower:box", "data", str(tmp_path), "/data")


@table(
    ("text", "place"),
    [
        ("box:/etc/hosts", ("box", "/etc/hosts")),
        ("box:etc/hosts", ("box", "/etc/hosts")),
        ("box:/a:b", ("box", "/a:b")),
        ("box:/", ("box", "/")),
        ("tower:box:/etc/hosts", ("tower:box", "/etc/hosts")),
    ],
)
def test_a_place_in_a_container(text, place):
    assert cli_files.container_place(text) == place


@table("text", ["box", "box:", "/etc/hosts", ":/etc", "-x:/etc"])
def test_what_is_no_place_in_a_container_is_a_mistake_of_usage(text):
    with pytest.raises(cli_commands.UsageError):
        cli_files.container_place(text)


@table(
    ("texts", "environment"),
    [
        (["A=1,2"], {"A": "1,2"}),
        (["A=x=y", "B="], {"A": "x=y", "B": ""}),
        (["TERM"], {"TERM": "vt100"}),
        (["A=1", "A=2"], {"A": "2"}),
    ],
)
def test_variables_of_a_command(texts, environment):
    assert cli_commands.environment_flags(texts, {"TERM": "vt100"}) == environment


@table("text", ["", "=1", "A B=1", "1A=2"])
def test_a_variable_without_a_name_is_refused(text):
    with pytest.raises(cli_commands.UsageError, match="KEY=VALUE"):
        cli_commands.environment_flags([text], {})


def test_a_variable_to_copy_that_is_not_set_is_refused():
    with pytest.raises(cli_commands.UsageError, match="NOT_SET is not set here"):
        cli_commands.environment_flags(["NOT_SET"], {})


def test_a_name_that_is_just_being_taken_is_a_conflict():
    words = 'Error: Failed creating instance record: Instance is busy running a "start" operation'
    assert clincus.incus_failure(words).status == 409


# ---- copies out of a container ------------------------------------------------------------------------------------


def member(name, kind=tarfile.REGTYPE, content=b"", **more):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def archive(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Sender:
    """An Incus whose container sends what it is told; then its command fails, where there is an error."""

    def __init__(self, data, error=None):
        self.data = data
        self.error = error

    @contextlib.contextmanager
    def open(self, name, command, timeout):
        yield None, io.BytesIO(self.data)
        if self.error:
            raise self.error


def arrive(target, data, error=None):
    return cli_transfer.pull_files(Sender(data, error), "box", "/there", str(target))


def arrive_tree(target, *members):
    return arrive(target, b"directory\n" + archive(*members))


GOOD = archive(member("x", content=b"1" * 2000))
SPARSE = member("x", tarfile.GNUTYPE_SPARSE)
LONG = member("x" * 100_000, content=b"x")


@table(
    ("data", "message"),
    [
        (b"x" * 4096, "not a tar archive"),
        (b"", "not a tar archive"),
        (GOOD[:700], "not a tar archive"),
        (GOOD[:512], "not a tar archive"),
        (GOOD[:148] + b"0000000\0" + GOOD[156:], "not a tar archive"),
        (GOOD[:124] + b"\xff" * 12 + GOOD[136:], "not a tar archive"),
        (archive(SPARSE), "not a tar archive"),
        (archive(LONG), "a name that is too long"),
        (archive(member("x", tarfile.SYMTYPE, linkname="x" * 100_000)), "a name that is too long"),
        (archive(member("x", tarfile.XHDTYPE, content=b"x" * 100_000)), "a name that is too long"),
        (archive(*[member(str(number)) for number in range(11)]), "too many files"),
    ],
)
def test_a_broken_or_too_large_archive_leaves_nothing(tmp_path, monkeypatch, data, message):
    monkeypatch.setattr(cli_transfer, "TRANSFER_COUNT", 10)
    with pytest.raises(clincus.ClincusError, match=message):
        arrive(tmp_path / "copy", b"directory\n" + data)
    assert tree(tmp_path) == {}


def test_a_name_is_bounded_behind_what_only_claims_to_be_long(tmp_path):
    claim = member("link", tarfile.SYMTYPE, linkname="x")
    claim[0].size = 1 << 30
    with pytest.raises(clincus.ClincusError, match="a name that is too long"):
        arrive(tmp_path / "copy", b"directory\n" + claim[0].tobuf(tarfile.GNU_FORMAT) + archive(LONG))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=3000), st.integers(0, 2000))
def test_no_archive_whatever_writes_outside_its_place(tmp_path, data, at):
    target = tmp_path / "copy"
    with contextlib.suppress(clincus.ClincusError):
        arrive(target, b"directory\n" + GOOD[:at] + data + GOOD[at:])
    shutil.rmtree(target, ignore_errors=True)
    assert os.listdir(tmp_path) == []


def tree(folder):
    """All below a folder: what a file holds, where a link leads, None for a directory."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        kind = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_text()
        found[str(path.relative_to(folder))] = kind
    return found


def test_a_file_arrives_with_its_mode_and_time_but_without_setuid(tmp_path):
    arrive(tmp_path / "tool", b"file 4755 1000000000\n#!/bin/sh\n")
    found = os.stat(tmp_path / "tool")
    assert (tmp_path / "tool").read_text() == "#!/bin/sh\n"
    assert stat.S_IMODE(found.st_mode) == 0o755
    assert found.st_mtime == 1000000000


def test_a_tree_arrives_with_its_links(tmp_path):
    arrival = arrive_tree(
        tmp_path / "copy",
        member("./", tarfile.DIRTYPE),
        member("./src/", tarfile.DIRTYPE, mode=0o750),
        member("./src/a.py", content=b"a", mode=0o600),
        member("./src/b.py", tarfile.LNKTYPE, linkname="./src/a.py"),
        member("./latest", tarfile.SYMTYPE, linkname="src/a.py"),
        member("./src/up", tarfile.SYMTYPE, linkname="../src"),
        member("./" + "long/" * 30 + "name", content=b"deep"),
    )
    assert arrival.left_out == []
    found = tree(tmp_path / "copy")
    assert {name: found[name] for name in ("src/a.py", "src/b.py", "latest", "src/up")} == {
        "src/a.py": "a",
        "src/b.py": "a",
        "latest": "src/a.py",
        "src/up": "../src",
    }
    assert found["long/" * 30 + "name"] == "deep"
    assert stat.S_IMODE(os.stat(tmp_path / "copy/src").st_mode) == 0o750


@table(
    ("hostile", "reason"),
    [
        (member("../evil", content=b"x"), "not safe"),
        (member("./a/../../evil", content=b"x"), "not safe"),
        (member("./bell\a", content=b"x"), "not safe"),
        (member("./" + "d/" * 40 + "deep", content=b"x"), "not safe"),
        (member("./out", tarfile.SYMTYPE, linkname="/etc/passwd"), "out of the tree"),
        (member("./out", tarfile.SYMTYPE, linkname="../../.ssh"), "out of the tree"),
        (member("./out", tarfile.SYMTYPE, linkname="good/../../x"), "out of the tree"),
        (member("./out", tarfile.SYMTYPE, linkname=""), "out of the tree"),
        (member("./out", tarfile.LNKTYPE, linkname="/etc/passwd"), "did not arrive"),
        (member("./out", tarfile.LNKTYPE, linkname="../../../etc/passwd"), "did not arrive"),
        (member("./pipe", tarfile.FIFOTYPE), "is not a file"),
        (member("./disk", tarfile.BLKTYPE, devmajor=8), "is not a file"),
        (member("./zero", tarfile.CHRTYPE, devmajor=1, devminor=5), "is not a file"),
    ],
)
def test_what_is_hostile_is_left_out_and_named(tmp_path, hostile, reason):
    before = tree(tmp_path)
    arrival = arrive_tree(tmp_path / "copy", hostile, member("./good", content=b"good"))
    assert len(arrival.left_out) == 1
    assert reason in arrival.left_out[0]
    after = tree(tmp_path)
    assert after.pop("copy/good") == "good"
    assert {name for name, kind in after.items() if kind is not None} == before.keys()


def test_an_absolute_name_lands_in_the_copy(tmp_path):
    arrive_tree(tmp_path / "copy", member("/etc/passwd", content=b"x"))
    assert tree(tmp_path / "copy") == {"etc": None, "etc/passwd": "x"}


@table("kind", [tarfile.DIRTYPE, tarfile.REGTYPE])
def test_nothing_is_written_through_a_link_that_arrived_before(tmp_path, kind):
    (tmp_path / "outside").mkdir()
    door = member("./door", tarfile.SYMTYPE, linkname="inside")
    with pytest.raises(clincus.ClincusError, match="door"):
        arrive_tree(tmp_path / "copy", member("./inside/", tarfile.DIRTYPE), door, member("./door/evil", kind))
    assert tree(tmp_path) == {"outside": None}


def test_a_name_that_comes_twice_is_refused(tmp_path):
    with pytest.raises(clincus.ClincusError, match="/door"):
        arrive_tree(
            tmp_path / "copy", member("./door", tarfile.SYMTYPE, linkname="inside"), member("./door", content=b"x")
        )
    assert tree(tmp_path) == {}


def test_a_container_that_swaps_a_folder_for_a_link_meanwhile_reaches_nothing_outside(tmp_path, monkeypatch):
    (tmp_path / "outside").mkdir()
    (tmp_path / "shared").mkdir()

    def swap(name, mode=0o777, *, dir_fd=None):
        made(name, mode, dir_fd=dir_fd)
        if name == "door":
            os.rmdir(name, dir_fd=dir_fd)
            os.symlink(tmp_path / "outside", name, dir_fd=dir_fd)

    made = os.mkdir
    monkeypatch.setattr(os, "mkdir", swap)
    with pytest.raises(clincus.ClincusError, match="door"):
        arrive_tree(tmp_path / "shared/copy", member("./door/authorized_keys", content=b"evil"))
    assert tree(tmp_path) == {"outside": None, "shared": None}


def test_a_hard_link_to_a_link_is_no_way_out(tmp_path):
    done = arrive_tree(
        tmp_path / "copy",
        member("./a/b/link", tarfile.SYMTYPE, linkname="../../x"),
        member("./door", tarfile.LNKTYPE, linkname="./a/b/link"),
    )
    assert "did not arrive" in done.left_out[0]
    assert "door" not in tree(tmp_path / "copy")


def test_a_link_with_control_characters_is_left_out_and_escaped(tmp_path, capsys):
    done = arrive_tree(tmp_path / "copy", member("./x", tarfile.SYMTYPE, linkname="\x1b]52;c;eA==\a"))
    context = SimpleNamespace(report=lambda words, document: None)
    cli_files.report_transfer(context, done, "Pulled", "there", "here")
    told = capsys.readouterr().err
    assert "out of the tree" in told
    assert told.replace("\n", "").isprintable()
    assert tree(tmp_path / "copy") == {}


def test_a_file_takes_the_place_of_a_file_or_link_and_not_of_what_that_leads_to(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "copy").symlink_to(tmp_path / "precious")
    for text in ("theirs", "newer"):
        arrive(tmp_path / "copy", b"file 644 0\n" + text.encode())
        assert tree(tmp_path) == {"precious": "mine", "copy": text}


def identities(*folders):
    """What `descent.shared_folders` says of some folders."""
    found = {(about.st_dev, about.st_ino) for about in map(os.stat, folders)}
    return lambda: found


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A workspace of a container, in which a person is, beside a folder of theirs that the container does not have."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("mine")
    (tmp_path / "work/docs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def swap_for_link(folder, target):
    """What an agent does: a link takes the place of a folder."""
    os.rename(folder, f"{folder}.real")
    os.symlink(target, folder)


def swap_at_first_use(monkeypatch, folder, target):
    """Have an agent swap a folder for a link just before Clincus goes into it."""

    def swapping(call, path, *more, **options):
        if os.path.basename(str(path)) == folder.name and not folder.is_symlink():
            swap_for_link(folder, target)
        return call(path, *more, **options)

    for name in ("open", "listdir"):
        monkeypatch.setattr(os, name, functools.partial(swapping, getattr(os, name)))


REFUSED = r"is a link to \S+, in a folder that a container can change, and Clincus does not follow it"
FILE = b"file 644 0\nevil"


@pytest.mark.parametrize("local", ["docs", "docs/", "docs/report.txt", "docs/new/report.txt", "{}/docs/report.txt"])
@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_a_copy_is_written_through_no_link_of_a_container(shared, monkeypatch, local, moment):
    if moment == "before":
        swap_for_link(shared / "docs", shared.parent / "outside")
    else:
        swap_at_first_use(monkeypatch, shared / "docs", shared.parent / "outside")
    sender = Sender(FILE)
    with pytest.raises(clincus.ClincusError, match=REFUSED):
        cli_transfer.pull_files(sender, "box", "/there", local.format(shared), shared=identities(shared))
    assert os.listdir(shared.parent / "outside") == ["secret"]


def test_a_link_of_the_persons_own_is_followed_to_where_a_copy_goes(shared):
    (shared.parent / "short").symlink_to("work/docs")
    cli_transfer.pull_files(Sender(FILE), "box", "/there", "../short", shared=identities(shared))
    assert tree(shared) == {"docs": None, "docs/there": "evil"}


def test_links_that_lead_to_each_other_end_a_copy(shared):
    (shared.parent / "one").symlink_to("two")
    (shared.parent / "two").symlink_to("one")
    with pytest.raises(clincus.ClincusError, match="Too many levels"):
        cli_transfer.pull_files(Sender(FILE), "box", "/there", "../one", shared=identities(shared))


class Taker:
    """The door to Incus, with a container that takes what comes."""

    def __init__(self):
        self.data = io.BytesIO()

    def exec(self, *_words, **_options):
        return clincus.Completed(1, b"", "")

    @contextlib.contextmanager
    def open(self, name, command, timeout):
        yield self.data, None


def sent(local, shared):
    """What a push of a path takes into a container."""
    taker = Taker()
    with contextlib.suppress(clincus.ClincusError):
        cli_transfer.push_files(taker, "box", str(local), "/there", owner=lambda _: 1000, shared=identities(shared))
    return taker.data.getvalue()


@pytest.mark.parametrize("local", ["docs", "docs/", "docs/secret", "docs/../docs/secret"])
@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_a_push_reads_through_no_link_of_a_container(shared, monkeypatch, local, moment):
    (shared / "docs/secret").write_text("theirs")
    if moment == "before":
        swap_for_link(shared / "docs", shared.parent / "outside")
    else:
        swap_at_first_use(monkeypatch, shared / "docs", shared.parent / "outside")
    assert b"mine" not in sent(local, shared)


@pytest.mark.parametrize("inner", ["docs", "docs/secret"])
def test_a_push_of_a_tree_reads_through_no_link_that_a_container_makes_in_it_meanwhile(shared, monkeypatch, inner):
    (shared / "docs/secret").write_text("theirs")
    swap_at_first_use(monkeypatch, shared / inner, shared.parent / "outside" / inner[5:])
    assert b"mine" not in sent(shared, shared)


def test_a_push_sends_a_tree_as_it_is(shared):
    (shared / "docs/a").write_text("text")
    os.link(shared / "docs/a", shared / "docs/b")
    (shared / "docs/c").symlink_to("a")
    os.mkfifo(shared / "docs/pipe")
    with tarfile.open(fileobj=io.BytesIO(sent(shared, shared))) as archive:
        found = {one.name: (one.type, one.linkname, one.uid) for one in archive}
    assert found == {
        "./docs": (tarfile.DIRTYPE, "", 1000),
        "./docs/a": (tarfile.REGTYPE, "", 1000),
        "./docs/b": (tarfile.LNKTYPE, "./docs/a", 1000),
        "./docs/c": (tarfile.SYMTYPE, "a", 1000),
    }


@table("there", ["file", "folder", "link to a folder", "broken link"])
def test_a_tree_takes_no_place_that_is_taken(tmp_path, there):
    place = tmp_path / "copy/there"  # a folder that exists takes the copy in under its own name
    place.parent.mkdir()
    (tmp_path / "outside").mkdir()
    if there == "file":
        place.write_text("mine")
    elif there == "folder":
        place.mkdir()
        (place / "mine").write_text("mine")
    else:
        place.symlink_to("../outside" if there == "link to a folder" else "nowhere")
    before = tree(tmp_path)
    with pytest.raises(clincus.ClincusError, match=r"there\" exists already: move it away"):
        arrive_tree(tmp_path / "copy", member("./x", content=b"x"))
    assert tree(tmp_path) == before


def test_a_file_takes_no_place_of_a_directory(tmp_path):
    (tmp_path / "copy/there").mkdir(parents=True)
    with pytest.raises(clincus.ClincusError, match="exists already"):
        arrive(tmp_path / "copy", b"file 644 0\nx")
    assert tree(tmp_path) == {"copy": None, "copy/there": None}


@table("data", [b"file 644 0\nne", b"directory\n" + GOOD], ids=["file", "tree"])
def test_a_sender_that_fails_changes_nothing(tmp_path, data):
    name = "file" if data.startswith(b"file") else "copy"
    (tmp_path / "file").write_text("old")
    with pytest.raises(clincus.IncusError):
        arrive(tmp_path / name, data, clincus.IncusError("the container went away"))
    assert tree(tmp_path) == {"file": "old"}


def test_a_copy_stops_before_the_disk_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(clincus, "DISK_RESERVE", 1 << 62)
    with pytest.raises(clincus.ClincusError, match="nearly full"):
        arrive(tmp_path / "file", b"file 644 0\n" + bytes(17 << 20))
    assert tree(tmp_path) == {}


def test_zeros_take_no_room(tmp_path):
    data = bytes(1 << 20) + b"x" + bytes(1 << 20)
    arrive(tmp_path / "file", b"file 644 0\n" + data)
    assert (tmp_path / "file").read_bytes() == data
    assert (tmp_path / "file").stat().st_blocks * 512 < 1 << 18


@table(
    ("line", "message"),
    [
        (b"", "sent nothing"),
        (b"rubbish\n", "sent nothing"),
        (b"missing\n", "does not exist in the container"),
        (b"other\n", "neither a file nor a directory"),
    ],
)
def test_what_cannot_be_copied_is_named(tmp_path, line, message):
    with pytest.raises(clincus.ClincusError, match=message):
        arrive(tmp_path / "copy", line)


@table(
    ("link", "depth", "inside"),
    [
        ("a", 0, True),
        ("a/b", 0, True),
        ("./a", 0, True),
        ("../a", 1, True),
        ("../../a", 2, True),
        ("../a", 0, False),
        ("../../a", 1, False),
        ("..", 1, True),
        ("..", 0, False),
        ("a/..", 1, False),  # a may be a link to somewhere else
        ("../a/../b", 2, False),
        ("/a", 3, False),
        ("", 0, False),
    ],
)
def test_a_link_stays_inside_or_does_not(link, depth, inside):
    assert cli_transfer.stays_inside(link, depth) is inside


@table(("path", "name"), [("/a/b", "b"), ("b/", "b"), (".", ""), ("..", ""), ("a/.", ""), ("a/..", ""), ("/", "")])
def test_the_name_a_copy_takes_in_a_directory(path, name):
    assert cli_transfer.own_name(path) == name


# ---- containers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("container", "exists", "box"), 0),
        (("container", "exists", "bo"), 1),
        (("container", "exists", "bo."), 1),
        (("container", "running", "box"), 1),
        (("container", "running", "up"), 0),
        (("container", "running", "frozen"), 1),
        (("image", "exists", "tools"), 0),
        (("image", "exists", "tool"), 1),
    ],
)
def test_a_question_is_answered_by_the_exit_code(run, words, code):
    incus = incus_with(instance(), instance("up", "Running"), instance("frozen", "Frozen"), images=[image("tools")])
    assert run(incus, *words) == code


@pytest.mark.parametrize(
    "words", [("container", "exists", "box"), ("container", "running", "box"), ("image", "exists", "x")]
)
def test_a_question_that_cannot_be_asked_is_no_no(run, words, capsys):
    gone = clincus.IncusError("Incus is not running.", 503)
    assert run(FakeIncus({"/1.0/instances/box": gone, "/1.0/images?recursion=1": gone}), *words) == 2
    assert "Incus is not running" in capsys.readouterr().err


def test_a_running_container_is_deleted_by_force_only(run):
    incus = incus_with(instance(status="Running"))
    with pytest.raises(clincus.ClincusError, match=r'"box" is running.*--force'):
        run(incus, "container", "delete", "box")
    assert incus.asked == []
    assert run(incus, "container", "delete", "box", "--force") == 0
    assert incus.asked == [("delete", "--force", "box")]


@pytest.mark.parametrize(
    ("typed", "deleted"), [("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_a_delete_asks_at_a_terminal(run, monkeypatch, typed, deleted, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    incus = incus_with(instance())
    assert run(incus, "container", "delete", "box") == (0 if deleted else 1)
    assert bool(incus.asked) is deleted
    shown = capsys.readouterr()
    assert "[y/N]: " in shown.err
    assert shown.out == ""


@pytest.mark.usefixtures("no_terminal")
def test_a_script_that_names_a_container_deletes_it(run):
    incus = incus_with(instance())
    assert run(incus, "container", "delete", "box") == 0
    assert incus.asked == [("delete", "--force", "box")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "json"), "--format needs --capture"),
        (("--tty", "--capture"), "do not go together"),
        (("--cwd", "src"), "absolute path"),
    ],
)
def test_flags_of_exec_that_do_not_go_together(run, words, message):
    with pytest.raises(cli_commands.UsageError, match=message):
        run(incus_with(instance(status="Running")), "container", "exec", *words, "box", "ls")


@pytest.mark.parametrize(
    ("status", "message"), [("Stopped", "clincus container start box"), ("Frozen", "clincus container start box")]
)
def test_exec_says_what_a_container_that_does_not_run_needs(run, status, message):
    with pytest.raises(clincus.ClincusError, match=message):
        run(incus_with(instance(status=status)), "container", "exec", "box", "ls")


@pytest.mark.parametrize(
    ("flags", "device"),
    [
        ((), {"shift": "true"}),
        (("--readonly",), {"shift": "true", "readonly": "true"}),
        (("--shift=false",), {}),
    ],
)
def test_a_mount_becomes_a_disk_device(run, tmp_path, flags, device):
    incus = incus_with(instance())
    assert run(incus, "container", "mount", "box", "data", str(tmp_path), "/data", *flags) == 0
    disk = {"type": "disk", "source": str(tmp_path), "path": "/data", **device}
    assert incus.asked == [("PATCH", "/1.0/instances/box", {"devices": {"data": disk}})]


# ---- snapshots ----------------------------------------------------------------------------------------------------


def test_a_snapshot_as_json(run, capsys):
    kept = snapshot("before-merge", expires_at="2027-04-01T00:00:00Z", description="why")
    assert (
        run(incus_with(instance(snapshots=[kept])), "snapshot", "info", "before-merge", "-c", "box", "--format=json")
        == 0
    )
    assert json.loads(capsys.readouterr().out) == {
        "container": "box",
        "snapshot": {
            "created_at": "2027-03-01T08:20:01.5Z",
            "description": "why",
            "expires_at": "2027-04-01T00:00:00Z",
            "name": "before-merge",
            "stateful": False,
        },
    }


def test_snapshots_are_listed_oldest_first(run, capsys):
    later = snapshot("a", "2027-03-02T00:00:00Z")
    incus = incus_with(instance(snapshots=[later, snapshot("b")]))
    assert run(incus, "snapshot", "list", environ={"CLINCUS_CONTAINER": "box"}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Snapshots for box:"
    assert [line.split()[0] for line in lines[1:4]] == ["NAME", "b", "a"]
    assert lines[-1] == "Total: 2 snapshots"


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (("--all", "--format", "json"), "{}\n"),
        (("--all",), "(none)\n"),
        (("-c", "box", "--format", "json"), '{\n  "container": "box",\n  "snapshots": []\n}\n'),
        (("-c", "box"), "Snapshots for box:\n  (none)\n\nTotal: 0 snapshots\n"),
    ],
)
def test_no_snapshots(run, words, output, capsys):
    assert run(incus_with(instance()), "snapshot", "list", *words) == 0
    assert capsys.readouterr().out == output


def test_all_snapshots_are_those_of_containers_with_the_prefix(run, capsys):
    incus = incus_with(instance("other", snapshots=[snapshot("s")]), instance("my-box", snapshots=[snapshot("s")]))
    assert run(incus, "snapshot", "list", "--all", "--format=json", environ={"CLINCUS_CONTAINER_PREFIX": "my-"}) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["my-box"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("container", "start", "nope"), 'container "nope" not found'),
        (("snapshot", "info", "nope", "-c", "box"), 'snapshot "nope" not found in container "box"'),
        (("image", "info", "nope"), "image 'nope' not found"),
        (("attach", "nope"), 'session "nope" not found'),
        (("tmux", "capture", "nope"), 'session "nope" not found'),
    ],
)
def test_what_is_not_there_is_not_found(run, words, message):
    with pytest.raises(clincus.ClincusError, match=message):
        run(incus_with(instance()), *words)


LABELS = {"user.clincus.workspace": "/srv/app", "user.clincus.tool": "claude"}


def test_a_workspace_that_is_named_beats_the_container_of_the_environment(run, capsys):
    incus = incus_with(instance("clincus-abcdef-1", config=LABELS), instance("box"))
    run(incus, "snapshot", "list", "-w", "/srv/app", environ={"CLINCUS_CONTAINER": "box"})
    assert capsys.readouterr().out.startswith("Snapshots for clincus-abcdef-1:")


def test_a_snapshot_is_of_the_only_session_of_a_folder_above(run, capsys):
    incus = incus_with(instance("clincus-abcdef-1", config=LABELS))
    run(incus, "snapshot", "list", "-w", "/srv/app/src")
    assert capsys.readouterr().out.startswith("Snapshots for clincus-abcdef-1:")


def test_what_would_be_cleaned_is_told_as_json(run, capsys):
    incus = incus_with(instance("clincus-abcdef-1", config=LABELS))
    run(incus, "clean", "--dry-run", "--json")
    assert [*json.loads(capsys.readouterr().out)["stopped clincus containers"]] == ["clincus-abcdef-1"]


def test_a_stopped_container_is_cleaned_once(run, capsys):
    """Its workspace is gone too, so that it is among the orphans as well."""
    incus = incus_with(instance("clincus-abcdef-1", config=LABELS))
    run(incus, "clean", "--all", "--dry-run")
    assert capsys.readouterr().out.count("clincus-abcdef-1") == 1


@pytest.mark.parametrize("status", ["Running", "Frozen"])
def test_a_restore_needs_a_stopped_container(run, status):
    incus = incus_with(instance(status=status, snapshots=[snapshot("s")]))
    with pytest.raises(clincus.ClincusError, match=r"must be stopped before restore: .* `clincus container stop box`"):
        run(incus, "snapshot", "restore", "s", "-c", "box")
    assert incus.asked == []


def test_nothing_is_stopped_for_programs_that_a_snapshot_does_not_have(run):
    incus = incus_with(instance(status="Running", snapshots=[snapshot("s")]))
    with pytest.raises(clincus.ClincusError, match="taken without the programs"):
        run(incus, "snapshot", "restore", "s", "-c", "box", "--stateful", "--force")
    assert incus.asked == []


@pytest.mark.usefixtures("no_terminal")
@pytest.mark.parametrize("words", [("restore", "s"), ("delete", "--all")])
def test_what_loses_much_needs_a_yes_where_nobody_can_be_asked(run, words):
    incus = incus_with(instance(snapshots=[snapshot("s")]))
    with pytest.raises(clincus.ClincusError, match="give --yes"):
        run(incus, "snapshot", *words, "-c", "box")
    assert incus.asked == []
    assert run(incus, "snapshot", *words, "-c", "box", "--yes") == 0


@pytest.mark.usefixtures("no_terminal")
def test_a_yes_does_not_mean_force(run):
    incus = incus_with(instance(status="Running", snapshots=[snapshot("s")]))
    for words in (["container", "delete", "box"], ["snapshot", "restore", "s", "-c", "box"]):
        with pytest.raises(clincus.ClincusError, match="--force"):
            run(incus, *words, "--yes")
    assert incus.asked == []


@pytest.mark.parametrize("words", [(), ("s", "--all")])
def test_a_snapshot_delete_needs_a_name_or_all(run, words):
    with pytest.raises(cli_commands.UsageError):
        run(incus_with(instance(snapshots=[snapshot("s")])), "snapshot", "delete", *words, "-c", "box")


def test_one_snapshot_that_cannot_be_deleted_does_not_keep_the_others(run, capsys):
    incus = incus_with(instance(snapshots=[snapshot("a"), snapshot("b")]))
    ask = incus.query

    def refuse(path, method="GET", data=None, **more):
        if method == "DELETE" and path.endswith("/a"):
            raise clincus.IncusError("it is busy")
        return ask(path, method, data, **more)

    incus.query = refuse
    assert run(incus, "snapshot", "delete", "--all", "--force", "-c", "box") == 1
    words = capsys.readouterr().err
    assert "a: it is busy" in words
    assert "Deleted snapshot 'b'" in words


# ---- images -------------------------------------------------------------------------------------------------------


def test_images_as_json(run, capsys):
    incus = incus_with(images=[image("z", fingerprint="1"), image("b", "a", fingerprint="2"), image(fingerprint="3")])
    assert run(incus, "image", "list", "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["aliases"] for entry in found] == [["a", "b"], ["z"]]
    assert found[1] == {"aliases": ["z"], "created_at": "2027-03-01T08:04:11Z", "fingerprint": "1", "size": 79167645}


def test_no_images_are_an_empty_list(run, capsys):
    assert run(incus_with(), "image", "list", "--format", "json") == 0
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize(
    ("images", "words", "expected"),
    [
        ([], (), ["Available Images:", "✗ clincus (not built)", "clincus build"]),
        ([image("clincus")], (), ["✓ clincus (75.5 MiB"]),
        ([image("clincus", "old")], ("--all",), ["All Local Images:", "ALIAS", "UPLOAD DATE", "old", "75.5 MiB"]),
        ([image("my-a"), image("b")], ("--prefix", "my-"), ["Images with prefix", "my-a", "CREATED"]),
        ([image("b")], ("--prefix", "my-"), ["No images found with prefix 'my-'"]),
    ],
)
def test_images_as_a_table(run, images, words, expected, capsys):
    assert run(incus_with(images=images), "images", *words) == 0
    output = capsys.readouterr().out
    run(incus_with(images=images), "image", "list", *words)
    assert capsys.readouterr().out == output
    assert [text for text in expected if text not in output] == []


VERSIONS = [f"box-2027030{day}-080000" for day in (1, 2, 3)]


@table(
    ("images", "keep", "delete", "kept", "spared"),
    [
        ([[name] for name in VERSIONS], 2, VERSIONS[:1], VERSIONS[:0:-1], []),
        ([[name] for name in VERSIONS], 1, VERSIONS[1::-1], VERSIONS[2:], []),
        ([[name] for name in VERSIONS], 9, [], VERSIONS[::-1], []),
        ([[VERSIONS[0], "stable"], [VERSIONS[1]]], 1, [], [VERSIONS[1]], [VERSIONS[0]]),
        ([[VERSIONS[0], VERSIONS[2]], [VERSIONS[1]]], 1, [VERSIONS[1]], [VERSIONS[2]], [VERSIONS[0]]),
        ([["box-"], ["box-1"], ["box-20270301-08"], ["other-20270301-080000"]], 1, [], [], []),
    ],
)
def test_what_a_cleanup_deletes(images, keep, delete, kept, spared):
    plan = cli_images.plan_cleanup([image(*names) for names in images], "box-", keep)
    assert plan == cli_images.Cleanup(delete, kept, spared)


@pytest.mark.parametrize("words", [(), ("--keep", "0"), ("--keep", "-1"), ("--keep", "many")])
def test_a_cleanup_says_how_many_stay(run, words):
    with pytest.raises(cli_commands.UsageError, match="--keep must be > 0"):
        run(incus_with(), "image", "cleanup", "box-", *words)


@pytest.mark.usefixtures("no_terminal")
def test_a_cleanup_reports_what_it_did(run, capsys):
    incus = incus_with(images=[image(name, fingerprint=name) for name in VERSIONS])
    assert run(incus, "image", "cleanup", "box-", "--keep", "2", "--dry-run") == 0
    assert incus.asked == []
    assert run(incus, "image", "cleanup", "box-", "--keep", "2") == 0
    assert incus.asked == [("DELETE", f"/1.0/images/{VERSIONS[0]}", None)]
    words = capsys.readouterr().err
    assert "Cleanup complete:\nDeleted 1 old version(s):\n  - box-20270301-080000\nKept 2 recent version(s):" in words


def test_a_name_that_is_taken_is_refused_before_anything_is_published(run):
    incus = incus_with(instance(), images=[image("tools")])
    with pytest.raises(clincus.ClincusError, match="'tools' exists already"):
        run(incus, "image", "publish", "box", "tools")
    assert incus.asked == []


@pytest.mark.parametrize(
    "words", [("image", "publish", "box", "tools", "--force"), ("snapshot", "restore", "s", "-c", "box", "--force")]
)
def test_a_container_that_incus_deletes_when_it_stops_is_not_stopped(run, words):
    incus = incus_with(instance(status="Running", ephemeral=True, snapshots=[snapshot("s")]))
    with pytest.raises(clincus.ClincusError, match="Incus deletes it when it stops"):
        run(incus, *words)
    assert incus.asked == []


def test_a_running_container_is_published_by_force_only(run):
    incus = incus_with(instance(status="Running"))
    with pytest.raises(clincus.ClincusError, match="--force"):
        run(incus, "image", "publish", "box", "tools")
    assert incus.asked == []


@pytest.mark.usefixtures("no_terminal")
def test_a_delete_says_why_it_failed(run):
    with pytest.raises(clincus.ClincusError, match="failed to delete image 'nope': image 'nope' not found"):
        run(incus_with(), "image", "delete", "nope")


# ---- the service --------------------------------------------------------------------------------------------------


@table(
    ("word", "quoted"),
    [
        ("/usr/bin/clincus", '"/usr/bin/clincus"'),
        ("/opt/my tools/c", '"/opt/my tools/c"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("50%", '"50%%"'),
    ],
)
def test_a_word_of_the_unit_file(word, quoted):
    assert cli_service.unit_word(word) == quoted


def test_the_unit_file():
    text = cli_service.unit_text(["/usr/bin/python3", "/opt/$x/clincus.pyz", "serve"], {"INCUS_DIR": "/var/$x"})
    lines = text.splitlines()
    assert 'ExecStart="/usr/bin/python3" "/opt/$$x/clincus.pyz" "serve"' in lines
    assert 'Environment="INCUS_DIR=/var/$x"' in lines
    assert [line for line in lines if line.startswith(("Restart", "WantedBy", "Type"))] == [
        "Type=notify",
        "Restart=on-failure",
        "RestartSec=5",
        "WantedBy=default.target",
    ]


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A stand-in for systemctl that notes its calls; `fail` and `show` in its folder say what it does.

    How the real one behaves is in incus/test_systemd.py.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "systemctl"
    script.write_text(
        f"""#!/bin/sh
echo "$*" >> {folder}/calls
[ "$2" = show ] && cat {folder}/show
if grep -qx "$2" {folder}/fail 2>/dev/null; then echo "Failed to $2." >&2; exit 1; fi
"""
    )
    script.chmod(0o755)
    (folder / "show").write_text("ActiveState=inactive\nStatusText=\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "clincus.pyz")])
    return folder


def calls(folder):
    """What systemctl was told to do; that it was asked how things are is no matter."""
    lines = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    return [line for line in lines if not line.startswith("--user show")]


def unit(tmp_path):
    return tmp_path / ".config/systemd/user/clincus.service"


def test_install_writes_the_unit_and_enables_it(run, systemctl, tmp_path, capsys):
    assert run(None, "service", "install", "--port", "4000", environ={"INCUS_DIR": "/srv/incus"}) == 0
    assert calls(systemctl) == ["--user daemon-reload", f"--user enable {unit(tmp_path)}"]
    program = f'"{sys.executable}" "{tmp_path / "clincus.pyz"}" "serve" "--port" "4000"'
    assert f"ExecStart={program}\n" in unit(tmp_path).read_text()
    assert 'Environment="INCUS_DIR=/srv/incus"' in unit(tmp_path).read_text()
    words = capsys.readouterr().err
    assert f"Installed unit file to {unit(tmp_path)}" in words
    assert "Service enabled." in words
    assert "clincus service restart" in words


def test_what_serve_would_read_from_the_environment_goes_into_the_unit_and_no_secret(run, systemctl, tmp_path, capsys):
    environ = {"CLINCUS_PORT": "4000", "CLINCUS_LIMIT_CPU": "2", "CLINCUS_TOKEN": "s3cret", "PATH": "/opt/a b:/bin"}
    run(None, "service", "install", environ=environ)
    text = unit(tmp_path).read_text()
    lines = [line for line in text.splitlines() if line.startswith("Environment=")]
    assert lines == [
        'Environment="CLINCUS_LIMIT_CPU=2"',
        'Environment="CLINCUS_PORT=4000"',
        'Environment="PATH=/opt/a b:/bin"',
    ]
    assert "s3cret" not in text
    assert "use --token-file" in capsys.readouterr().err


def test_the_flags_of_serve_go_into_the_unit(run, systemctl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(None, "service", "install", "--host", "::1", "--allowed-host=a", "--allowed-host=b", "--token-file", "token")
    words = f'"serve" "--host" "::1" "--allowed-host" "a" "--allowed-host" "b" "--token-file" "{tmp_path / "token"}"\n'
    assert words in unit(tmp_path).read_text()


def test_the_unit_file_follows_xdg_config_home(run, systemctl, tmp_path):
    assert run(None, "service", "install", environ={"XDG_CONFIG_HOME": str(tmp_path / "x")}) == 0
    assert (tmp_path / "x/systemd/user/clincus.service").exists()


@pytest.mark.parametrize("before", [None, "the old unit\n"])
@pytest.mark.parametrize("step", ["daemon-reload", "enable"])
def test_an_install_that_fails_leaves_things_as_they_were(run, systemctl, tmp_path, step, before):
    if before:
        unit(tmp_path).parent.mkdir(parents=True)
        unit(tmp_path).write_text(before)
    (systemctl / "fail").write_text(step)
    with pytest.raises(clincus.ClincusError, match=f"Failed to {step}"):
        run(None, "service", "install")
    assert (unit(tmp_path).read_text() if before else unit(tmp_path).exists() or None) == before
    assert calls(systemctl)[-1] == "--user daemon-reload"


@pytest.mark.parametrize(("action", "words"), [("start", "started"), ("stop", "stopped"), ("restart", "restarted")])
def test_the_service_is_started_and_stopped_by_systemd(run, systemctl, action, words, capsys):
    run(None, "service", "install")
    (systemctl / "calls").unlink()
    assert run(None, "service", action) == 0
    assert calls(systemctl) == [f"--user {action} clincus.service"]
    assert f"Service {words}." in capsys.readouterr().err


@pytest.mark.parametrize("action", ["start", "stop", "restart"])
def test_what_systemd_cannot_do_is_told_in_its_words(run, systemctl, action):
    run(None, "service", "install")
    (systemctl / "fail").write_text(action)
    with pytest.raises(clincus.ClincusError, match=rf"{action} clincus.service` failed: Failed to {action}"):
        run(None, "service", action)


def test_without_a_user_manager_it_says_how_to_get_one(run, systemctl):
    (systemctl / "systemctl").write_text("#!/bin/sh\necho 'Failed to connect to bus: No medium found' >&2; exit 1\n")
    with pytest.raises(clincus.ClincusError, match=r"No medium found.*without sudo.*sudo loginctl enable-linger"):
        run(None, "service", "install")


@pytest.mark.parametrize("action", ["start", "stop", "restart", "status", "remove"])
def test_a_service_that_is_not_installed_is_said_to_be_so(run, systemctl, action):
    with pytest.raises(clincus.ClincusError, match="service is not installed"):
        run(None, "service", action)
    assert calls(systemctl) == []


@pytest.mark.parametrize(("state", "code"), [("active", 0), ("inactive", 1), ("failed", 1)])
def test_the_status_of_the_service(run, systemctl, state, code, capsys):
    run(None, "service", "install")
    (systemctl / "show").write_text(
        f"ActiveState={state}\nSubState=x\nMainPID=77\nUnitFileState=enabled\nStatusText=I am well\n"
    )
    assert run(None, "service", "status", "--format", "json") == code
    document = json.loads(capsys.readouterr().out)
    assert os.path.exists(document.pop("unit"))
    assert document == {
        "active": code == 0, "enabled": True, "pid": 77, "state": f"{state} (x)", "message": "I am well",
    }  # fmt: skip


def test_remove_stops_the_service_and_takes_the_unit_away(run, systemctl, tmp_path):
    run(None, "service", "install")
    (systemctl / "calls").unlink()
    assert run(None, "service", "remove") == 0
    assert calls(systemctl) == ["--user disable --now clincus.service", "--user daemon-reload"]
    assert not unit(tmp_path).exists()


def test_a_machine_without_systemd_is_told_so(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(clincus.ClincusError, match="does not run systemd"):
        run(None, "service", "install")
    assert not unit(tmp_path).exists()


def test_systemctl_is_led_to_our_own_user_manager(run, systemctl, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/of-the-one-who-called-su")
    (systemctl / "systemctl").write_text(f"#!/bin/sh\necho $XDG_RUNTIME_DIR >{tmp_path}/folder\n")
    run(None, "service", "install")
    assert (tmp_path / "folder").read_text() == f"/run/user/{os.getuid()}\n"


@table("name", ["notify", "\0clincus-test-notify"], ids=["path", "abstract"])
def test_systemd_is_told_by_a_datagram(tmp_path, monkeypatch, name):
    address = name if name.startswith("\0") else str(tmp_path / name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        cli_service.tell_systemd("READY=1")
        assert channel.recv(100) == b"READY=1"


@pytest.fixture
def browser(tmp_path):
    """The environment of a desktop whose xdg-open writes down the address and does not end by itself."""
    program = tmp_path / "bin" / "xdg-open"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/opened; echo $$ >{tmp_path}/pid; exec sleep 1000\n')
    program.chmod(0o755)
    yield {"PATH": f"{program.parent}:{os.environ['PATH']}", "DISPLAY": ":0"}
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)


@pytest.mark.parametrize(("caller", "says"), [("ada", True), ("root", False), ("", False)])
def test_a_server_under_sudo_says_whom_it_refuses(run, monkeypatch, capsys, caller, says):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(cli_service, "load_when_used", lambda *_: None)
    monkeypatch.setattr(clincus, "serve", lambda *_, **__: 0)
    assert run(None, "serve", environ={"SUDO_USER": caller}) == 0
    assert ("refuses ada's browser" in capsys.readouterr().err) is says


def test_a_server_at_all_addresses_says_where_other_machines_find_it(monkeypatch, capsys):
    monkeypatch.setattr(cli_service, "outward_address", lambda: "192.168.1.10")
    cli_service.Announcer(is_everywhere=True)("http://127.0.0.1:4000")
    assert "Other machines reach it at http://192.168.1.10:4000" in capsys.readouterr().err
    cli_service.Announcer()("http://127.0.0.1:4000")
    assert capsys.readouterr().err == ""


def test_a_browser_is_opened_without_waiting_for_its_end(browser, tmp_path):
    cli_service.open_browser("http://127.0.0.1:3000", browser)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), "the browser")
    assert (tmp_path / "opened").read_text() == "http://127.0.0.1:3000\n"


BROWSERS = {
    "an editor's": ({"BROWSER": "/opt/code open"}, ["/opt/code", "open", "U"]),
    "one with a place for the address": ({"BROWSER": "show %s --new"}, ["show", "U", "--new"]),
    "the first of several": ({"BROWSER": "one:two"}, ["one", "U"]),
    "that of a desktop": ({"WAYLAND_DISPLAY": "wayland-0"}, ["xdg-open", "U"]),
    "none": ({}, []),
}


@table(("environ", "command"), BROWSERS.values(), ids=BROWSERS.keys())
def test_the_browser_is(environ, command):
    assert cli_service.browser_command("U", environ) == command


@pytest.mark.parametrize("missing", ["DISPLAY", "PATH"])
def test_without_a_desktop_or_its_program_the_address_is_said(browser, missing, capsys, tmp_path):
    cli_service.open_browser("http://127.0.0.1:3000", {**browser, missing: ""})
    assert "open http://127.0.0.1:3000 yourself" in capsys.readouterr().err
    assert not (tmp_path / "opened").exists()


@table("address", [None, "/not/there"])
def test_systemd_that_does_not_listen_is_no_matter(monkeypatch, address):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    cli_service.tell_systemd("READY=1")


# ---- as a program -------------------------------------------------------------------------------------------------


@table(
    ("words", "message"),
    [
        (["file", "pull", "box", "."], "'box' is no place in a container"),
        (["file", "push", ".", "box:/x"], "is a directory: use --recursive"),
        (["container", "list", "--format", "yaml"], "invalid format 'yaml'"),
        (["snapshot", "list", "--format", "yaml"], "invalid format 'yaml'"),
        (["snapshot", "delete"], "snapshot name required"),
        (["container", "exec", "box"], "argument COMMAND is required"),
    ],
)
def test_a_mistake_of_usage_ends_with_2_and_points_at_the_help(words, message, tmp_path):
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, Path(clincus.__file__).with_name("clincus_cli"), *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environ, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert "--help" in done.stderr


# ---- answers of other hosts, and of an Incus that is down -----------------------------------------------------------

ODD_INSTANCES = [
    None,
    7,
    {},
    {"name": ["clincus-0a1b2c-2"], "status": "Running"},
    {"name": "clincus-0a1b2c-2", "status": {}},
    {"name": "clincus-0a1b2c-2", "status": "Running", "config": []},
]
ODD_FIELDS = [
    {"created_at": 5},
    {"created_at": "9999-12-31T23:59:59-14:00", "last_used_at": {}},
    {"state": []},
    {"state": {"network": {"eth0": {"addresses": [{"address": 5}, None]}}}},
    {
        "config": {
            clincus.LABEL + "settings": 5,
            clincus.LABEL + "workspace": {},
            clincus.LABEL + "created_at": "x" * 10**6,
        }
    },
    {"status": "\x1b[2J" * 1000},
    {"location": {}, "type": None, "snapshots": 7},
    {"snapshots": [7, {}, {"created_at": 5}, {"created_at": "2027-03-01T08:20:01Z", "expires_at": 5}]},
]


@pytest.fixture
def engine_list(run, monkeypatch):
    """A function that lists sessions of this host and of an engine with a given answer; ps or list."""
    ours = instance("clincus-0a1b2c-1", config={clincus.LABEL + "workspace": "/srv/ours"})

    def ask(answer, *words):
        far = FakeIncus({"/1.0/instances?recursion=2": answer}, "tower")
        monkeypatch.setattr(cli_context.Context, "engine_door", lambda context, name: far if name else context.incus)
        basics = SimpleNamespace(get={"engines": {"tower": {}}, "dashboard.port": 9}.get)
        monkeypatch.setattr(cli_context.Context, "basics", basics)
        return run(incus_with(ours), *words)

    return ask


@pytest.mark.parametrize("words", [("list",), ("ps",), ("list", "--format", "json"), ("snapshot", "list", "--all")])
@pytest.mark.parametrize(
    "odd", [*ODD_INSTANCES, *(instance("clincus-0a1b2c-2", "Running") | odd for odd in ODD_FIELDS)]
)
def test_an_odd_instance_of_an_engine_costs_no_list(engine_list, capsys, odd, words):
    assert engine_list([odd, instance("clincus-0a1b2c-3")], *words) == 0
    said = capsys.readouterr().out
    assert "clincus-0a1b2c-1" in said
    assert "tower:clincus-0a1b2c-3" in said
    assert "\x1b[2J" not in said


@pytest.mark.parametrize("answer", [None, 7, {}, "x"])
def test_an_engine_that_gives_no_list_is_left_out_with_a_warning(engine_list, capsys, answer):
    assert engine_list(answer, "list") == 0
    said = capsys.readouterr()
    assert "clincus-0a1b2c-1" in said.out
    assert "a list of instances was asked for" in said.err


def test_saved_conversations_are_listed_while_incus_is_down(run, capsys, tmp_path):
    saved = tmp_path / ".clincus/sessions-claude/talk-1"
    saved.mkdir(parents=True)
    (saved / "metadata.json").write_text(json.dumps({"session_id": "talk-1", "workspace": "/srv/app"}))
    down = FakeIncus({"/1.0/instances?recursion=2": clincus.IncusError("Incus is not running", 503)})
    assert run(down, "list", "--all") == 1
    said = capsys.readouterr()
    assert "talk-1" in said.out
    assert "NAME" not in said.out  # not an empty list of sessions: it is unknown
    assert "Incus is not running" in said.err
    with pytest.raises(clincus.IncusError):
        run(down, "list")
