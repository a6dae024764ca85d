"""The commands for containers, files, snapshots, images and the service, as far as they need no Incus."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import stat
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
    answers = {"/1.0/images?recursion=1": list(images)}
    for one in instances:
        path, snapshots = f"/1.0/instances/{one['name']}", one.get("snapshots", [])
        answers.update({path: one, f"{path}/snapshots?recursion=1": snapshots})
        answers.update({f"{path}/snapshots/{each['name']}": each for each in snapshots})
    answers["/1.0/instances?recursion=1"] = answers["/1.0/instances?recursion=2"] = list(instances)
    return FakeIncus(answers, engine)


def image(*aliases, fingerprint="f" * 64):
    return {
        "aliases": [{"name": name, "description": ""} for name in aliases],
        "fingerprint": fingerprint,
        "size": 79167645,
        "created_at": "2027-03-01T08:04:11Z",
        "uploaded_at": "2027-03-02T08:04:11Z",
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


@table("name", ["", "--force", "a b", "Remote:box", "box/snap", "a\n"])
def test_a_name_that_incus_could_read_as_something_else_is_refused(name):
    with pytest.raises(cli_commands.UsageError, match="no container's name"):
        cli_containers.container_name(name)


@table(
    ("words", "asked"),
    [
        ("container start tower:box", ("PUT", "/1.0/instances/box/state")),
        ("container delete tower:box --force", ("delete", "--force", "box")),
        ("snapshot create one -c tower:box", ("POST", "/1.0/instances/box/snapshots")),
    ],
)
def test_a_container_of_an_engine_is_worked_on_there(run, monkeypatch, words, asked):
    there = incus_with(instance(snapshots=[snapshot("s")]), engine="tower")
    monkeypatch.setattr(clincus, "engine_door", lambda config, engine: {"tower": there}[engine])
    assert run(FakeIncus({}), *words.split()) == 0
    assert [call[: len(asked)] for call in there.asked] == [asked]


@table(
    ("text", "place"),
    [
        ("box:etc/hosts", ("box", "/etc/hosts")),
        ("box:/a:b", ("box", "/a:b")),
        ("tower:box:/etc/hosts", ("tower:box", "/etc/hosts")),
        *((text, None) for text in ("box", "/etc/hosts", "-x:/etc")),
    ],
)
def test_a_place_in_a_container(text, place):
    if place:
        assert cli_files.container_place(text) == place
    else:
        with pytest.raises(cli_commands.UsageError):
            cli_files.container_place(text)


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


def tree(folder):
    """All below a folder: what a file holds, where a link leads, None for a directory."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        kind = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_text()
        found[str(path.relative_to(folder))] = kind
    return found


GOOD = archive(member("x", content=b"1" * 2000))
LONG = member("x" * 100_000, content=b"x")
CLAIM = tarfile.TarInfo("link")  # a link, which has no content, whose head says that 1 GiB follows
CLAIM.type, CLAIM.linkname, CLAIM.size = tarfile.SYMTYPE, "x", 1 << 30


@table(
    ("data", "message"),
    [
        (b"", "not a tar archive"),
        (GOOD[:148] + b"0000000\0" + GOOD[156:], "not a tar archive"),
        (archive(member("x", tarfile.GNUTYPE_SPARSE)), "not a tar archive"),
        (CLAIM.tobuf(tarfile.GNU_FORMAT) + archive(LONG), "a name that is too long"),
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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=3000), st.integers(0, 2000))
def test_no_archive_whatever_writes_outside_its_place(tmp_path, data, at):
    target = tmp_path / "copy"
    with contextlib.suppress(clincus.ClincusError):
        arrive(target, b"directory\n" + GOOD[:at] + data + GOOD[at:])
    shutil.rmtree(target, ignore_errors=True)
    assert os.listdir(tmp_path) == []


def test_a_file_arrives_with_its_mode_and_time_but_without_setuid(tmp_path):
    arrive(tmp_path / "tool", b"file 4755 1000000000\n#!/bin/sh\n")
    found = os.stat(tmp_path / "tool")
    assert (tmp_path / "tool").read_text() == "#!/bin/sh\n"
    assert stat.S_IMODE(found.st_mode) == 0o755
    assert found.st_mtime == 1000000000


def test_an_absolute_name_lands_in_the_copy(tmp_path):
    arrive_tree(tmp_path / "copy", member("/etc/passwd", content=b"x"))
    assert tree(tmp_path / "copy") == {"etc": None, "etc/passwd": "x"}


@table(
    ("hostile", "reason"),
    [
        (member("../evil", content=b"x"), "not safe"),
        (member("./bell\a", content=b"x"), "not safe"),
        (member("./out", tarfile.SYMTYPE, linkname="/etc/passwd"), "out of the tree"),
        (member("./out", tarfile.SYMTYPE, linkname="good/../../x"), "out of the tree"),
        (member("./a/out", tarfile.SYMTYPE, linkname="b/.."), "out of the tree"),  # b may be a link to somewhere else
        (member("./out", tarfile.SYMTYPE, linkname="\x1b]52;c;eA==\a"), "out of the tree"),
        (member("./out", tarfile.LNKTYPE, linkname="../../../etc/passwd"), "did not arrive"),
        (member("./pipe", tarfile.FIFOTYPE), "is not a file"),
    ],
)
def test_what_is_hostile_is_left_out_and_named(tmp_path, hostile, reason):
    arrival = arrive_tree(tmp_path / "copy", hostile, member("./good", content=b"good"))
    [words] = arrival.left_out
    assert reason in words
    assert {name: kind for name, kind in tree(tmp_path).items() if kind is not None} == {"copy/good": "good"}


@table(
    ("target", "later"),
    [
        ("inside", member("./door/evil", tarfile.DIRTYPE)),
        ("inside", member("./door/evil", content=b"x")),
        ("not-there", member("./door", content=b"x")),
    ],
)
def test_nothing_is_written_through_a_link_that_arrived_before(tmp_path, target, later):
    door = member("./door", tarfile.SYMTYPE, linkname=target)
    with pytest.raises(clincus.ClincusError, match="door"):
        arrive_tree(tmp_path / "copy", member("./inside/", tarfile.DIRTYPE), door, later)
    assert tree(tmp_path) == {}


def test_a_hard_link_to_a_link_is_no_way_out(tmp_path):
    inner = member("./a/b/link", tarfile.SYMTYPE, linkname="../../x")
    done = arrive_tree(tmp_path / "copy", inner, member("./door", tarfile.LNKTYPE, linkname="./a/b/link"))
    assert "did not arrive" in done.left_out[0]
    assert "door" not in tree(tmp_path / "copy")


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


def test_a_file_takes_the_place_of_a_file_or_link_and_not_of_what_that_leads_to(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "copy").symlink_to(tmp_path / "precious")
    for text in ("theirs", "newer"):
        arrive(tmp_path / "copy", b"file 644 0\n" + text.encode())
        assert tree(tmp_path) == {"precious": "mine", "copy": text}


# ---- links in a workspace that a container can change ---------------------------------------------------------------


def identities(*folders):
    """What `descent.shared_folders` says of some folders."""
    found = {(about.st_dev, about.st_ino) for about in map(os.stat, folders)}
    return lambda: found


def shared_workspace(tmp_path, monkeypatch):
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


def pull(local, shared):
    """Copy a file out of a container to a path."""
    cli_transfer.pull_files(Sender(b"file 644 0\nevil"), "box", "/there", local, shared=identities(shared))


@table(
    ("local", "is_late"),
    [("docs", False), ("docs/new/report.txt", False), ("docs/", True), ("docs/report.txt", True), ("{}/docs/x", True)],
)
def test_a_copy_is_written_through_no_link_of_a_container(tmp_path, monkeypatch, local, is_late):
    shared = shared_workspace(tmp_path, monkeypatch)
    if is_late:
        swap_at_first_use(monkeypatch, shared / "docs", tmp_path / "outside")
    else:
        swap_for_link(shared / "docs", tmp_path / "outside")
    with pytest.raises(clincus.ClincusError, match="Clincus does not follow it"):
        pull(local.format(shared), shared)
    assert os.listdir(tmp_path / "outside") == ["secret"]


def test_a_link_of_the_persons_own_is_followed_to_where_a_copy_goes(tmp_path, monkeypatch):
    shared = shared_workspace(tmp_path, monkeypatch)
    (tmp_path / "short").symlink_to("work/docs")
    pull("../short", shared)
    assert tree(shared) == {"docs": None, "docs/there": "evil"}


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


@table(
    ("local", "swapped", "is_late"),
    [
        ("docs/secret", "docs", False),
        ("docs", "docs", True),
        ("docs/../docs/secret", "docs", True),
        (".", "docs", True),
        (".", "docs/secret", True),
    ],
)
def test_a_push_reads_through_no_link_of_a_container(tmp_path, monkeypatch, local, swapped, is_late):
    shared = shared_workspace(tmp_path, monkeypatch)
    (shared / "docs/secret").write_text("theirs")
    target = tmp_path / "outside" / swapped[5:]
    if is_late:
        swap_at_first_use(monkeypatch, shared / swapped, target)
    else:
        swap_for_link(shared / swapped, target)
    assert b"mine" not in sent(shared if local == "." else local, shared)


# ---- the place of a copy --------------------------------------------------------------------------------------------


@table("there", ["file", "link to a folder", "broken link"])
def test_a_tree_takes_no_place_that_is_taken(tmp_path, there):
    place = tmp_path / "copy/there"  # a folder that exists takes the copy in under its own name
    place.parent.mkdir()
    (tmp_path / "outside").mkdir()
    if there == "file":
        place.write_text("mine")
    else:
        place.symlink_to("../outside" if there == "link to a folder" else "nowhere")
    before = tree(tmp_path)
    with pytest.raises(clincus.ClincusError, match="exists already"):
        arrive_tree(tmp_path / "copy", member("./x", content=b"x"))
    assert tree(tmp_path) == before


@table("data", [b"file 644 0\nne", b"directory\n" + GOOD])
def test_a_sender_that_fails_changes_nothing(tmp_path, data):
    (tmp_path / "file").write_text("old")
    target = tmp_path / ("file" if data.startswith(b"file") else "copy")
    with pytest.raises(clincus.IncusError):
        arrive(target, data, clincus.IncusError("the container went away"))
    assert tree(tmp_path) == {"file": "old"}


def test_a_copy_stops_before_the_disk_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(clincus, "DISK_RESERVE", 1 << 62)
    with pytest.raises(clincus.ClincusError, match="nearly full"):
        arrive(tmp_path / "file", b"file 644 0\n" + bytes(17 << 20))
    assert tree(tmp_path) == {}


# ---- containers ---------------------------------------------------------------------------------------------------


def test_a_question_is_answered_by_the_exit_code(run, capsys):
    incus = incus_with(instance(), instance("up", "Running"), instance("frozen", "Frozen"), images=[image("tools")])
    gone = clincus.IncusError("Incus is not running.", 503)
    silent = FakeIncus({"/1.0/instances/box": gone, "/1.0/images?recursion=1": gone})
    answers = {
        "container exists": {"box": 0, "bo": 1, "bo.": 1},
        "container running": {"up": 0, "box": 1, "frozen": 1},
        "image exists": {"tools": 0, "tool": 1},
    }
    for question, known in answers.items():
        assert {name: run(incus, *question.split(), name) for name in known} == known
        assert run(silent, *question.split(), "box") == 2, "a question that cannot be asked is no no"
        assert "Incus is not running" in capsys.readouterr().err


@table(
    ("status", "flags", "typed", "code"),
    [
        ("Stopped", [], "YES\n", 0),
        ("Stopped", [], "n\n", 1),
        ("Stopped", [], None, 0),  # a script that names the container
        ("Running", ["--yes"], None, None),
        ("Running", ["--force"], None, 0),
    ],
)
def test_a_container_is_deleted_if_agreed_and_a_running_one_by_force(run, monkeypatch, status, flags, typed, code):  # noqa: PLR0917
    monkeypatch.setattr(sys, "stdin", io.StringIO() if typed is None else Terminal(typed))
    incus = incus_with(instance(status=status))
    if code is None:
        with pytest.raises(clincus.ClincusError, match="--force"):
            run(incus, "container", "delete", "box", *flags)
    else:
        assert run(incus, "container", "delete", "box", *flags) == code
    assert incus.asked == ([("delete", "--force", "box")] if code == 0 else [])


def test_a_folder_of_this_host_is_not_mounted_in_a_container_of_an_engine(run, monkeypatch, tmp_path):
    monkeypatch.setattr(clincus, "engine_door", lambda config, engine: FakeIncus({}, engine))
    with pytest.raises(clincus.ClincusError, match="`incus config device add box`"):
        run(FakeIncus({}), "container", "mount", "tower:box", "data", str(tmp_path), "/data")


# ---- snapshots ----------------------------------------------------------------------------------------------------


RESTORE = "snapshot restore s -c box"


@table(
    ("words", "box", "message"),
    [
        (RESTORE, instance(status="Running"), "must be stopped"),
        (f"{RESTORE} --stateful --force", instance(status="Running"), "taken without the programs"),
        (f"{RESTORE} --force", instance(status="Running", ephemeral=True), "Incus deletes it when it stops"),
        (RESTORE, instance(), "give --yes"),
        ("snapshot delete --all -c box", instance(), "give --yes"),
        ("image publish box tools --force", instance(status="Running", ephemeral=True), "Incus deletes it"),
        ("image publish box tools", instance(status="Running"), "--force"),
        ("image publish box old", instance(), "exists already"),
        ("image cleanup box-", instance(), "--keep must be > 0"),
    ],
)
def test_what_loses_something_is_refused_before_anything_is_done(run, no_terminal, words, box, message):
    incus = incus_with({**box, "snapshots": [snapshot("s")]}, images=[image("old")])
    with pytest.raises((clincus.ClincusError, cli_commands.UsageError), match=message):
        run(incus, *words.split())
    assert incus.asked == []


# ---- images -------------------------------------------------------------------------------------------------------


VERSIONS = [f"box-2027030{day}-080000" for day in (1, 2, 3)]


@table(
    ("images", "keep", "delete", "kept", "spared"),
    [
        ([[name] for name in VERSIONS], 2, VERSIONS[:1], VERSIONS[:0:-1], []),
        ([[name] for name in VERSIONS], 9, [], VERSIONS[::-1], []),
        ([[VERSIONS[0], "stable"], [VERSIONS[1]]], 1, [], [VERSIONS[1]], [VERSIONS[0]]),
        ([[VERSIONS[0], VERSIONS[2]], [VERSIONS[1]]], 1, [VERSIONS[1]], [VERSIONS[2]], [VERSIONS[0]]),
        ([["box-"], ["box-1"], ["box-20270301-08"], ["other-20270301-080000"]], 1, [], [], []),
    ],
)
def test_what_a_cleanup_deletes(images, keep, delete, kept, spared):
    plan = cli_images.plan_cleanup([image(*names) for names in images], "box-", keep)
    assert plan == cli_images.Cleanup(delete, kept, spared)


def test_a_cleanup_does_what_it_says(run, no_terminal, capsys):
    incus = incus_with(images=[image(name, fingerprint=name) for name in VERSIONS])
    assert run(incus, "image", "cleanup", "box-", "--keep", "2", "--dry-run") == 0
    assert incus.asked == []
    assert run(incus, "image", "cleanup", "box-", "--keep", "2") == 0
    assert incus.asked == [("DELETE", f"/1.0/images/{VERSIONS[0]}", None)]
    assert VERSIONS[0] in capsys.readouterr().err


# ---- the service --------------------------------------------------------------------------------------------------


def test_the_unit_file():
    words = ["/opt/$x/my tools", 'a"b\\c', "50%"]
    lines = cli_service.unit_text(words, {"INCUS_DIR": "/var/$x"}).splitlines()
    for line in (
        r'ExecStart="/opt/$$x/my tools" "a\"b\\c" "50%%"',
        'Environment="INCUS_DIR=/var/$x"',
        "Type=notify",
        "Restart=on-failure",
        "WantedBy=default.target",
    ):
        assert line in lines


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
    """What systemctl was told to do since the last time; that it was asked how things are is no matter."""
    file = folder / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return [line for line in lines if not line.startswith("--user show")]


def unit(tmp_path):
    return tmp_path / ".config/systemd/user/clincus.service"


def test_the_life_of_the_service(run, systemctl, tmp_path):
    assert run(None, "service", "install", "--port", "4000", environ={"INCUS_DIR": "/srv/incus"}) == 0
    assert calls(systemctl) == ["--user daemon-reload", f"--user enable {unit(tmp_path)}"]
    assert 'Environment="INCUS_DIR=/srv/incus"' in unit(tmp_path).read_text()
    for action in ("start", "stop", "restart"):
        assert run(None, "service", action) == 0
        assert calls(systemctl) == [f"--user {action} clincus.service"]
    assert run(None, "service", "remove") == 0
    assert calls(systemctl) == ["--user disable --now clincus.service", "--user daemon-reload"]
    assert not unit(tmp_path).exists()
    for action in ("start", "stop", "restart", "status", "remove"):
        with pytest.raises(clincus.ClincusError, match="not installed"):
            run(None, "service", action)
    assert calls(systemctl) == []


def test_what_serve_is_told_or_would_read_goes_into_the_unit_and_no_secret(
    run, systemctl, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    environ = {"CLINCUS_PORT": "4000", "CLINCUS_TOKEN": "s3cret", "PATH": "/opt/a b:/bin"}
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "x")
    run(None, "service", "install", "--allowed-host=a", "--allowed-host=b", "--token-file", "token", environ=environ)
    text = (tmp_path / "x/systemd/user/clincus.service").read_text()
    assert f'"serve" "--allowed-host" "a" "--allowed-host" "b" "--token-file" "{tmp_path / "token"}"\n' in text
    assert 'Environment="CLINCUS_PORT=4000"\nEnvironment="PATH=/opt/a b:/bin"\n' in text
    run(None, "service", "install", environ=environ)
    assert "s3cret" not in (tmp_path / "x/systemd/user/clincus.service").read_text()
    assert "use --token-file" in capsys.readouterr().err


@table(
    ("environ", "command"),
    [
        ({"BROWSER": "/opt/code open"}, ["/opt/code", "open", "U"]),
        ({"BROWSER": "show %s --new"}, ["show", "U", "--new"]),
        ({"WAYLAND_DISPLAY": "wayland-0"}, ["xdg-open", "U"]),
        ({}, []),
    ],
)
def test_the_browser_is_the_one_of_the_environment(environ, command):
    assert cli_service.browser_command("U", environ) == command


# ---- answers of other hosts, and of an Incus that is down -----------------------------------------------------------

NAMED = {"name": "clincus-0a1b2c-2", "status": "Running"}
ODD = [
    None,
    {},
    {**NAMED, "status": {}},
    *(
        {**instance(), **NAMED, **odd}
        for odd in (
            {"created_at": "9999-12-31T23:59:59-14:00"},
            {"state": {"network": {"eth0": {"addresses": [{"address": 5}, None]}}}},
            {"config": {clincus.LABEL + "settings": 5, clincus.LABEL + "workspace": {}}},
            {"status": "\x1b[2J" * 1000},
            {"snapshots": [7, {}, {"created_at": 5}, {"created_at": "2027-03-01T08:20:01Z", "expires_at": 5}]},
        )
    ),
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


@table("odd", ODD)
def test_an_odd_instance_of_an_engine_costs_no_list(engine_list, capsys, odd):
    for words in (["list"], ["list", "--format", "json"], ["snapshot", "list", "--all"]):
        assert engine_list([odd, instance("clincus-0a1b2c-3")], *words) == 0
        said = capsys.readouterr().out
        assert "clincus-0a1b2c-1" in said
        assert "tower:clincus-0a1b2c-3" in said
        assert "\x1b[2J" not in said


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
