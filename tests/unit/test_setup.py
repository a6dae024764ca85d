"""`clincus setup`: what is decided before anything is done."""

from __future__ import annotations

import pwd
import shlex
from functools import partial

import pytest

import clincus
from clincus_cli import all_commands, setup_commands
from clincus_cli import build as cli_build
from clincus_cli import commands as cli_commands
from clincus_cli import context as cli_context
from clincus_cli import host as cli_host
from clincus_cli import recipe as cli_recipe
from clincus_cli import setup as cli_setup
from clincus_features import health
from tests.programs import ROOT
from tests.table import table

all_commands.load_commands()

OK = clincus.Completed(0, b"", b"")


class FakeHost(cli_host.Host):
    """A machine in a folder, with the programs and answers it is told of."""

    def __init__(self, root, *, programs=(), answers=None, is_root=False):
        super().__init__(str(root))
        self.programs = set(programs)
        self.answers = answers or {}
        self.root_works = is_root
        self.ran: list[tuple[str, ...]] = []

    def is_root(self):
        return self.root_works

    def write(self, path, text):
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)

    def which(self, program):
        return f"/usr/bin/{program}" if program in self.programs else ""

    def attempt(self, argv, **_):
        self.ran.append(tuple(argv))
        return self.answers.get(argv[0], clincus.Completed(127, b"", b"not found"))


class TheirIncus(clincus.Incus):
    """An Incus that somebody has set up in a way of their own; `done` keeps what is changed."""

    def __init__(self, devices=(), pools=(), networks=(), used_by=()):
        super().__init__()
        self.answers = {
            "/1.0": {},
            "/1.0/profiles/default": {"devices": dict(devices), "used_by": list(used_by)},
            "/1.0/storage-pools": [f"/1.0/storage-pools/{name}" for name in pools],
            "/1.0/networks?recursion=1": [{"managed": True, "type": "bridge", **net} for net in networks],
        }
        self.done: list[str] = []

    def query(self, path, *_, **__):
        if path not in self.answers:
            raise clincus.IncusError("not found", 404)
        return self.answers[path]

    def run(self, *arguments, **_):
        self.done.append(" ".join(arguments))
        return b""


class NoIncus(clincus.Incus):
    """A machine without Incus."""

    def query(self, *_, **__):
        raise clincus.IncusError("Incus is not installed. Run `clincus setup`.", 503)


def setup_on(host, incus=None, environ=None, **options):
    """A setup of a machine."""
    return cli_setup.Setup(cli_build.SetupOptions(**options), host, incus or NoIncus(), lambda _: None, environ or {})


# ---- subnets


@table(
    ("taken", "free"),
    [
        (["10.1.0.0/16"], "10.2.0.0/24"),
        (["10.1.0.128/25", "10.2.0.1/8"], "192.168.9.0/24"),
    ],
)
def test_the_first_subnet_that_overlaps_nothing_is_chosen(taken, free):
    assert cli_setup.free_subnet(taken, ["10.1.0.0/24", "10.2.0.0/24", "192.168.9.0/24"]) == free


def test_all_tables_of_the_kernel_and_name_servers_are_taken(tmp_path):
    host = FakeHost(tmp_path)
    host.write("/etc/resolv.conf", "nameserver 10.9.9.9\n")
    host.write(
        "/proc/net/fib_trie",
        """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
        |-- 10.64.77.0
           /24 link UNICAST
Id 51820:
     |-- 10.8.0.0
        /16 universe UNICAST
""",
    )
    taken = ["0.0.0.0/0", "10.64.77.0/24", "10.8.0.0/16", "10.9.9.9"]
    assert cli_setup.taken_subnets(host) == taken


# ---- steps


class Steps(cli_setup.Setup):
    """A setup with made-up steps, one for each need; `log` has the numbers of those that were done."""

    def __init__(self, *needs, is_root=True):
        host = FakeHost("/nonexistent", is_root=is_root)
        super().__init__(cli_build.SetupOptions(), host, clincus.Incus(), lambda _: None, {})
        self.missing = dict(enumerate(needs))
        self.log: list[int] = []
        self.asked: list[str] = []
        self.made = [
            cli_setup.Step(str(number), partial(self.take, number), as_root=number == 0) for number in self.missing
        ]

    def take(self, number):
        if self.missing[number]:
            yield self.missing[number]
            self.log.append(number)
            self.missing[number] = ""

    def steps(self):
        return self.made

    def run_with(self, *answers):
        left = iter(answers)
        return self.run(lambda question: (self.asked.append(question), next(left))[1])

    def let_the_first_be_declined(self):
        self.made[0] = self.made[0]._replace(is_optional=True, as_root=False)


def test_only_what_is_missing_is_planned_asked_for_and_done():
    setup = Steps("", "make it")
    assert (setup.plan(), setup.log) == ({"1": "make it"}, [])
    assert (setup.run_with(True), setup.asked, setup.log) == (True, ["make it"], [1])


def test_a_no_ends_the_run_except_for_an_optional_step():
    setup = Steps("a", "b")
    assert (setup.run_with(False), setup.asked, setup.log) == (False, ["a"], [])
    setup.let_the_first_be_declined()
    assert (setup.run_with(False, True), setup.log) == (True, [1])


def test_roots_work_is_refused_to_others_with_what_it_is():
    with pytest.raises(clincus.ClincusError, match=r"^setup has to install incus, .* Run: \S+ .+"):
        Steps("install incus", is_root=False).run_with(True)


# ---- `git config --global safe.bareRepository explicit`, for the person who uses Clincus


@pytest.fixture
def git_host(tmp_path):
    return FakeHost(tmp_path, programs=("git", "runuser"), answers={"/usr/bin/runuser": OK})


def test_a_person_is_asked_and_the_setting_of_git_is_made_and_written_down(git_host):
    def attempt(argv, **_):
        git_host.ran.append(tuple(argv))
        return clincus.Completed(int("--get" in argv), b"", b"")

    git_host.attempt = attempt
    setup = setup_on(git_host, environ={"HOME": "/home/ann"})
    work = setup.guard_git()
    assert health.BARE_FIX in next(work)
    assert [words[-2:] for words in git_host.ran] == [("--get", health.BARE_KEY)], "a plan sets nothing"
    list(work)
    assert git_host.ran[-1] == ("/usr/bin/git", "config", "--global", health.BARE_KEY, "explicit")
    assert git_host.read("/home/ann/.clincus/made") == f"git {health.BARE_KEY}\n"


def test_root_sets_git_as_the_person_behind_sudo(git_host):
    name = pwd.getpwuid(1).pw_name  # somebody whom this machine knows
    git_host.root_works = True
    list(setup_on(git_host, environ={"SUDO_USER": name}).guard_git())
    assert git_host.ran
    for words in git_host.ran:
        assert words[:5] == ("/usr/bin/runuser", "-u", name, "--", "env")
        assert f"HOME={pwd.getpwuid(1).pw_dir}" in words


# ---- a bare machine


@pytest.fixture
def host(tmp_path):
    """A Debian without Incus, with apt."""
    made = FakeHost(tmp_path, programs={"apt-get"}, answers={"apt-get": OK}, is_root=True)
    made.write("/etc/os-release", DEBIAN_13)
    made.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    made.write("/etc/group", "incus-admin:x:990:\n")
    made.write("/proc/filesystems", "nodev\ttmpfs\n\tbtrfs\n")
    made.write("/proc/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")
    made.write("/proc/self/status", "CapBnd:\t000001ffffffffff\n")
    made.write("/usr/sbin/x", "")
    return made


def needs(host, environ=None, **options):
    return setup_on(host, environ=environ, **options).plan()


def test_everything_is_planned_though_nothing_can_be_asked_and_the_page_on_installing_shows_this_plan(host):
    found = needs(host)
    assert found.keys() == {"packages", "id ranges", "daemon", "storage", "network", "git", "image"}
    assert "incus-client, incus-base, dnsmasq-base, btrfs-progs" in found["packages"]
    page = (ROOT / "docs" / "install.md").read_text()
    block = page.partition("$ clincus setup --dry-run\n")[2].partition("```")[0]
    host.write("/run/systemd/system/x", "")
    listed = dict(line.split(": ", 1) for line in block.splitlines())
    assert listed.pop("group").startswith("let 'ada' use Incus")
    assert listed == needs(host)


def test_packages_are_installed_only_when_apt_knows_them(host):
    host.write("/etc/os-release", UBUNTU_22)
    for candidate in ("(none)", "6.0.4-2"):
        known = f"incus-base:\n  Installed: (none)\n  Candidate: {candidate}\n"
        host.answers["apt-cache"] = clincus.Completed(0, known.encode(), b"")
        work = setup_on(host).install_packages()
        if candidate == "(none)":
            with pytest.raises(clincus.ClincusError, match=r"apt has no Incus on Ubuntu 22\.04.*zabbly"):
                list(work)
            assert [words for words in host.ran if "install" in words] == []
    list(work)
    assert host.ran[-1][:3] == ("apt-get", "install", "-y")
    assert "incus-base" in host.ran[-1]


def test_on_ubuntu_24_the_daemon_is_in_another_package(host, monkeypatch):
    setup = setup_on(host)
    monkeypatch.setattr(setup, "apt_has", lambda package: package == "incus")
    list(setup.install_packages())
    assert "incus" in host.ran[-1]
    assert "incus-base" not in host.ran[-1]


def test_a_new_member_of_the_group_is_written_down_and_told_when_it_takes_effect(host):
    host.programs, host.answers = {"sg"}, {"usermod": OK}
    setup = setup_on(host, environ={"SUDO_USER": "ann"})
    list(setup.join_group())
    assert host.ran == [("usermod", "--append", "--groups", "incus-admin", "ann")]
    assert "Clincus itself need not wait" in setup.notes[0]
    assert host.read(cli_setup.MADE_FILE) == "group incus-admin ann\n"


def test_services_are_held_back_only_while_packages_install(host):
    policy = host.path("/usr/sbin/policy-rc.d")
    for before, after in ((None, False), (health.HOLD_TEXT, False), ("theirs", True)):
        if before is not None:  # of a setup that was killed, or of somebody else
            policy.write_text(before)
        with cli_setup.services_held_back(host):
            assert (before == "theirs") == (policy.read_text() == "theirs")
        assert policy.exists() is after


# ---- ids


def test_root_gets_ids_above_everybody_elses(host):
    host.write("/etc/subuid", "ann:100000:65536\n")
    host.write("/etc/subgid", "ann:5000000:65536")
    list(setup_on(host).give_ids())
    assert host.read("/etc/subuid") == "ann:100000:65536\nroot:1000000:1000000000\n"
    assert host.read("/etc/subgid") == "ann:5000000:65536\nroot:5065536:1000000000\n"


# ---- what a person made is used as it is: pools, bridges and devices of any name

CARD = {"eth0": {"type": "nic", "network": "x"}}
DISK = {"root": {"type": "disk", "path": "/", "pool": "fast"}}


def take(tmp_path, incus):
    """Take the steps `storage` and `network`; what was needed."""
    setup = setup_on(FakeHost(tmp_path), incus)
    return ["".join(work()) for work in (setup.give_storage, setup.give_network)]


def bridges(*names, nat="true"):
    return [{"name": name, "config": {"ipv4.nat": nat}} for name in names]


@table(
    ("made", "done"),
    [
        ({"devices": {"disk0": DISK["root"], "lan": {"type": "nic", "nictype": "macvlan", "parent": "eno1"}}}, ""),
        ({"devices": CARD, "pools": ["fast", "default"]}, "root disk path=/ pool=default"),
        ({"devices": DISK, "networks": bridges("incusbr0", "clincusbr0")}, "eth0 nic network=clincusbr0 name=eth0"),
        ({"devices": DISK, "used_by": ["/1.0/instances/theirs"]}, ""),
    ],
)
def test_what_a_person_made_in_incus_is_used_as_it_is(tmp_path, made, done):
    incus = TheirIncus(**made)
    take(tmp_path, incus)
    assert incus.done == ([f"profile device add --quiet default {done}"] if done else [])


def test_a_bridge_that_leads_nowhere_is_left_alone(tmp_path):
    incus = TheirIncus(DISK, networks=bridges("inner", nat="false"))
    assert "create the bridge 'clincusbr0'" in take(tmp_path, incus)[1]
    assert incus.done[0].startswith("network create --quiet clincusbr0 ")
    assert incus.done[0].endswith(" user.clincus.made=true")
    assert incus.done[1].startswith("profile device add --quiet ")


# ---- the command for root


def test_setup_names_a_command_by_which_root_runs_it(tmp_path):
    program = tmp_path / "my clincus"
    program.write_text("")
    program.chmod(0o755)

    def command(*programs):
        return cli_setup.root_command(FakeHost(tmp_path, programs=programs), [str(program), "setup"], "ann")

    assert command("sudo", "doas").startswith("sudo '/")
    assert command("doas").startswith("doas '/")
    su = shlex.split(command())
    assert su[:2] == ["su", "-c"]
    assert shlex.split(su[2]) == ["SUDO_USER=ann", str(program), "setup"]


@table(("caller", "project"), [({"SUDO_USER": "ann"}, "ours"), ({}, "default")])
def test_setup_under_sudo_works_by_the_configuration_of_the_person_behind(tmp_path, monkeypatch, caller, project):
    (tmp_path / "ann/.config/clincus").mkdir(parents=True)
    (tmp_path / "ann/.config/clincus/config.toml").write_text('[incus]\nproject = "ours"\n')
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.path.expanduser", lambda path: path.replace("~", f"{tmp_path}/"))
    command, rest = cli_commands.find_command(["setup"])
    environ = {"HOME": str(tmp_path / "root"), **caller}
    context = cli_context.Context(command, cli_commands.parse_words(command, rest), environ)
    assert setup_commands.setup_options(context).project == project
    assert context.incus.project == project


# ---- other systems: the fields of os-release(5) that count, as these systems have them

UBUNTU_22 = 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\nVERSION_CODENAME=jammy\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n'
MINT = 'ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="21.3"\nVERSION_CODENAME=virginia\nUBUNTU_CODENAME=jammy\n'
DEBIAN_13 = 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n'
DEBIAN_12 = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
FEDORA = "ID=fedora\nVERSION_ID=42\n"


@table(
    ("system", "has_apt", "words", "image"),
    [
        (DEBIAN_12, True, "deb http://deb.debian.org/debian bookworm-backports main", "host"),
        (UBUNTU_22, True, "https://pkgs.zabbly.com/incus/lts-6.0 jammy main", "host"),
        (MINT, True, "https://pkgs.zabbly.com/incus/lts-6.0 jammy main", "images:debian/13"),
        (FEDORA, False, "`dnf install incus", "images:debian/13"),
        ("", False, "https://linuxcontainers.org/incus/docs/main/installing/", "images:debian/13"),
    ],
)
def test_each_system_is_told_where_incus_is_and_what_its_image_is_made_of(tmp_path, system, has_apt, words, image):
    host = FakeHost(tmp_path)
    host.write("/etc/os-release", system)
    tell = cli_setup.missing_incus if has_apt else cli_setup.other_installer
    assert words in tell(host.release())
    assert cli_recipe.image_source(host) == image


# ---- programs that setup runs
