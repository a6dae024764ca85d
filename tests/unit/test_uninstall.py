"""`clincus uninstall`: what it finds on a machine, what it removes, and what it keeps."""

from __future__ import annotations

import functools
import io
import socket
import sys
from types import SimpleNamespace

import pytest

import clincus
from clincus_cli import all_commands, leftovers
from clincus_cli import commands as cli_commands
from clincus_cli import context as cli_context
from clincus_cli import host as cli_host
from clincus_cli import setup as cli_setup
from clincus_cli.host import Host
from clincus_cli.sessions import attempt_each
from tests.builders import a_session

all_commands.load_commands()

SESSION = "clincus-ec0578-1"
OURS = {"user.clincus.made": "true"}


class Incus(clincus.Incus):
    """An Incus that answers from a table; `done` keeps what is removed."""

    def __init__(self, *, bridge="clincusbr0", bridge_config=OURS, pool_config=OURS, used_by=(), recipe=True):
        super().__init__()
        card = {"type": "nic", "network": bridge}
        disk = {"type": "disk", "path": "/", "pool": "default"}
        image = {
            "fingerprint": "f" * 64,
            "aliases": [{"name": "clincus"}],
            "properties": {"clincus.recipe": "1"} if recipe else {},
        }
        profile = {"devices": {"root": disk, "eth0": card}, "used_by": list(used_by)}
        pool = {"name": "default", "config": pool_config}
        network = {"name": bridge, "managed": True, "config": bridge_config}
        self.done: list[str] = []
        self.answers = {
            "/1.0/instances?recursion=1": [],
            "/1.0/instances?recursion=2": [],
            "/1.0/images?recursion=1": [image],
            "/1.0/profiles/default": profile,
            "/1.0/networks?recursion=1": [network],
            "/1.0/storage-pools?recursion=1": [pool],
            f"/1.0/networks/{bridge}": {"used_by": ["/1.0/profiles/default"]},
            "/1.0/storage-pools/default": {"used_by": ["/1.0/profiles/default", "/1.0/images/ffff"]},
        }

    def query(self, path, method="GET", *_, **__):
        if method != "GET":
            self.done.append(f"{method} {path}")
            return None
        if path not in self.answers:
            raise clincus.IncusError("not found", 404)
        return self.answers[path]

    def run(self, *arguments, **_):
        self.done.append(" ".join(arguments))
        return b""


class Machine(Host):
    """A machine in a folder; `ran` keeps the programs that it was to run."""

    def __init__(self, root, *, is_root=False):
        super().__init__(str(root))
        self.root_works = is_root
        self.ran: list[tuple[str, ...]] = []

    def is_root(self):
        return self.root_works

    def which(self, program):
        return f"/usr/bin/{program}"

    def attempt(self, argv, **_):
        self.ran.append(tuple(argv))
        return clincus.Completed(0, b"explicit\n" if "--get" in argv else b"", b"")

    def write(self, path, text):
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    for path in (".clincus/storage", ".cache/clincus", ".config/clincus"):
        (folder / path).mkdir(parents=True)
    return folder


@pytest.fixture
def run(tmp_path, home, monkeypatch):
    """A function that runs `clincus uninstall` on a made-up machine and returns its exit code."""

    def run_on(incus, *words, machine=None):
        host = machine or Machine(tmp_path / "machine")
        monkeypatch.setattr(cli_host, "Host", lambda: host)
        port = home / ".clincus" / "port"
        if port.parent.exists() and not port.exists():
            port.write_text("1")  # where nobody listens
        command, rest = cli_commands.find_command(["uninstall", *words])
        context = cli_context.Context(command, cli_commands.parse_words(command, rest), {"HOME": str(home)})
        context.__dict__["incus"] = incus
        return command.run(context)

    return run_on


def test_a_dry_run_lists_each_part_and_with_yes_all_that_is_ours_goes_in_an_order_that_works(run, home, capsys):
    incus = Incus()
    assert run(incus, "--dry-run") == 0
    shown = capsys.readouterr().out
    for command in ("incus image delete clincus", "incus storage delete default", f"rm -r {home}/.clincus"):
        assert f"  $ {command}\n" in shown
    assert incus.done == []
    assert (home / ".clincus").exists()
    assert run(incus, "--yes") == 0
    assert incus.done == [
        f"DELETE /1.0/images/{'f' * 64}",
        "profile device remove default root",
        "profile device remove default eth0",
        "network delete clincusbr0",
        "storage delete default",
    ]
    assert not any((home / path).exists() for path in (".clincus", ".cache/clincus", ".config/clincus"))


THEIRS = [
    ({"pool_config": {}}, ("storage delete", "remove default root")),
    ({"bridge": "incusbr0", "bridge_config": {}}, ("network delete", "remove default eth0")),
    ({"used_by": ["/1.0/instances/theirs"]}, ("profile device remove",)),
    ({"recipe": False}, ("DELETE /1.0/images",)),
]


def test_what_a_person_made_stays(run):
    for made, kept in THEIRS:
        incus = Incus(**made)
        run(incus, "--yes")
        assert incus.done
        assert not [words for words in incus.done if any(one in words for one in kept)]
    incus = Incus(bridge_config={})
    run(incus, "--yes")
    assert "network delete clincusbr0" in incus.done, "a setup that wrote no label is known by the name"


def test_a_no_to_one_part_keeps_it_and_asks_for_the_next(run, home, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n" + "y\n" * 20))
    incus = Incus()
    assert run(incus) == 1
    assert incus.done[0] == "profile device remove default root"
    assert not (home / ".clincus").exists()
    assert "1 part(s) are left" in capsys.readouterr().err


def record(machine):
    machine.write(
        cli_setup.MADE_FILE, "group incus-admin ann\n/etc/subuid root:1000000:65536\ngit safe.bareRepository\n"
    )
    machine.write("/etc/group", "incus-admin:x:990:bob,ann\n")
    machine.write("/etc/subuid", "root:1000000:65536\n")
    return machine


def test_what_only_root_can_undo_is_named_with_its_command(run, tmp_path, capsys):
    machine = record(Machine(tmp_path / "machine"))
    assert run(Incus(), "--yes", machine=machine) == 1
    said = capsys.readouterr().err
    assert "  $ sudo gpasswd -d ann incus-admin\n" in said
    assert "  $ sudo sed -i '/^root:1000000:65536$/d' /etc/subuid\n" in said
    assert ("git", "config", "--global", "--unset", "safe.bareRepository") in machine.ran


def test_root_undoes_what_setup_wrote_down_and_believes_no_file_of_another_user(run, tmp_path, home):
    machine = record(Machine(tmp_path / "machine", is_root=True))
    assert run(Incus(), "--yes", machine=machine) == 0
    assert ("gpasswd", "-d", "ann", "incus-admin") in machine.ran
    machine = Machine(tmp_path / "other", is_root=True)
    machine.write("/etc/group", "sudo:x:27:ann\n")
    machine.write(f"{home}/.clincus/made", "group sudo ann\n")
    run(Incus(), "--yes", machine=machine)
    assert machine.ran == []


def test_our_files_stay_while_a_server_runs(run, home, capsys):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        (home / ".clincus" / "port").write_text(str(listener.getsockname()[1]))
        assert run(Incus(), "--yes") == 1
    assert (home / ".clincus").exists()
    assert "a server runs: end `clincus serve` first" in capsys.readouterr().err


@pytest.fixture
def kept_session(monkeypatch):
    """A session that stays: it holds work that is not on this machine."""
    registry = SimpleNamespace(all=lambda: [a_session(id=SESSION)])
    sessions = functools.cached_property(lambda _: SimpleNamespace(registry=registry))
    sessions.__set_name__(cli_context.Context, "sessions")
    monkeypatch.setattr(cli_context.Context, "sessions", sessions)

    def refuse(*_, **__):
        raise clincus.ClincusError("it has commits that are not here", 409)

    monkeypatch.setattr(leftovers, "end_session", refuse)
    monkeypatch.setattr(leftovers, "attempt_beside", lambda _, ids, work: attempt_each(ids, work))
    return f"/1.0/instances/{SESSION}"


def test_what_a_session_that_stays_needs_stays(run, kept_session, tmp_path, home, capsys):
    incus, machine = Incus(used_by=[kept_session]), record(Machine(tmp_path / "machine", is_root=True))
    for path in ("/1.0/networks/clincusbr0", "/1.0/storage-pools/default"):
        incus.answers[path]["used_by"].append(kept_session)
    folder = home / ".clincus" / "sessions-claude" / "5b0c7d1e"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text('{"session_id": "5b0c7d1e"}')
    assert run(incus, "--yes", machine=machine) == 1
    assert incus.done == [f"DELETE /1.0/images/{'f' * 64}"]
    assert f"the bridge clincusbr0 (also used by {kept_session})" in capsys.readouterr().err
    assert [argv for argv in machine.ran if "--get" not in argv] == []
    assert folder.exists()


def test_our_files_stay_while_incus_does_not_say_what_it_has(run, home, capsys):
    class Silent(Incus):
        def query(self, *_, **__):
            raise clincus.IncusError("Incus does not answer", 503)

    assert run(Silent(), "--yes") == 1
    assert (home / ".clincus").exists()
    assert (home / ".config/clincus").exists()
    assert "Incus does not say whether there are sessions" in capsys.readouterr().err
