"""`clincus setup`: what is decided before anything is done."""

from __future__ import annotations

import pwd
import shlex
import sys
import types
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


class TestSubnets:
    @pytest.mark.parametrize(
        ("taken", "free"),
        [
            ([], "10.1.0.0/24"),
            (["0.0.0.0/0"], "10.1.0.0/24"),
            (["10.1.0.0/16"], "10.2.0.0/24"),
            (["10.1.0.7"], "10.2.0.0/24"),
            (["10.1.0.128/25", "10.2.0.1/8"], "192.168.9.0/24"),
        ],
        ids=["none", "default route", "wider", "one address", "everything in 10"],
    )
    def test_first_choice_that_overlaps_nothing(self, taken, free):
        assert cli_setup.free_subnet(taken, ["10.1.0.0/24", "10.2.0.0/24", "192.168.9.0/24"]) == free

    def test_none_left_says_how_to_choose_one(self):
        with pytest.raises(clincus.ClincusError, match="incus network create"):
            cli_setup.free_subnet(["10.0.0.0/8"], ["10.1.0.0/24"])

    def test_all_tables_of_the_kernel_and_name_servers_are_taken(self, tmp_path):
        host = FakeHost(tmp_path)
        host.write("/etc/resolv.conf", "nameserver 10.9.9.9\nnameserver fe80::1\n")
        host.write(
            "/proc/net/fib_trie",
            """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.64.0.0/20 2 0 2
        |-- 10.64.77.0
           /24 link UNICAST
           /32 link BROADCAST
Id 51820:
     |-- 10.8.0.0
        /16 universe UNICAST
""",
        )
        taken = ["0.0.0.0/0", "10.64.77.0/24", "10.64.77.0/32", "10.8.0.0/16", "10.9.9.9"]
        assert cli_setup.taken_subnets(host) == taken


class TestSteps:
    def steps(self, log, *needs):
        missing = dict(enumerate(needs))

        def take(number):
            if missing[number]:
                yield missing[number]
                log.append(number)
                missing[number] = ""

        return [cli_setup.Step(str(number), partial(take, number), as_root=number == 0) for number in missing]

    def setup(self, steps, *, is_root=True):
        class Steps(cli_setup.Setup):
            def steps(self):
                return steps

        class Root(cli_host.Host):
            def is_root(self):
                return is_root

        return Steps(cli_build.SetupOptions(), Root(), clincus.Incus(), lambda _: None, {})

    def run(self, steps, *, answer=True):
        asked: list[str] = []

        def ask(question):
            asked.append(question)
            return answer

        return self.setup(steps).run(ask), asked

    def test_only_what_is_missing_is_asked_for_and_done(self):
        log: list[int] = []
        assert (self.run(self.steps(log, "", "make it")), log) == ((True, ["make it"]), [1])

    def test_a_plan_does_nothing(self):
        log: list[int] = []
        assert self.setup(self.steps(log, "a", "", "b")).plan() == {"0": "a", "2": "b"}
        assert log == []

    def test_no_ends_the_run(self):
        log: list[int] = []
        assert (self.run(self.steps(log, "a", "b"), answer=False), log) == ((False, ["a"]), [])

    def test_roots_work_is_refused_to_others_with_what_it_is(self):
        with pytest.raises(clincus.ClincusError, match=r"^setup has to install incus, .* Run: \S+ .+"):
            self.setup(self.steps([], "install incus"), is_root=False).run(lambda _: True)

    def test_a_step_that_did_not_help_is_an_error(self):
        stuck = cli_setup.Step("x", lambda: iter(["do the impossible"]))
        with pytest.raises(clincus.ClincusError, match="could not do the impossible"):
            self.run([stuck])

    def test_an_optional_step_may_be_declined(self):
        log: list[int] = []
        first, last = self.steps(log, "a", "b")
        answers = iter([False, True])
        done = self.setup([first._replace(is_optional=True, as_root=False), last]).run(lambda _: next(answers))
        assert (done, log) == (True, [1])

    def test_an_optional_step_waits_where_nobody_can_be_asked(self):
        def ask(need):
            raise clincus.ClincusError("there is no terminal", 409)

        (first,) = self.steps([], "a")
        setup = self.setup([first._replace(is_optional=True, as_root=False)])
        assert setup.run(ask)
        assert setup.notes == ["left undone, as nobody could be asked: a"]


class TestGit:
    """`git config --global safe.bareRepository explicit`, for the person who uses Clincus."""

    def setup(self, tmp_path, programs=("git", "runuser"), value=b"", is_root=False, **environ):
        class Here(FakeHost):
            def is_root(self):
                return is_root

            def attempt(self, argv, **_):
                self.ran.append(tuple(argv))
                return clincus.Completed(0 if value or argv[-1] == "explicit" else 1, value, b"")

        host = Here(tmp_path, programs=programs)
        return cli_setup.Setup(cli_build.SetupOptions(), host, NoIncus(), lambda _: None, environ)

    def test_a_person_is_asked_and_it_is_set(self, tmp_path):
        setup = self.setup(tmp_path)
        (need, *_) = list(setup.guard_git())
        assert health.BARE_FIX in need
        assert setup.host.ran[-1] == ("/usr/bin/git", "config", "--global", health.BARE_KEY, "explicit")

    def test_what_was_set_is_written_down(self, tmp_path):
        setup = self.setup(tmp_path, HOME="/home/ann")
        list(setup.guard_git())
        assert setup.host.read("/home/ann/.clincus/made") == f"git {health.BARE_KEY}\n"

    def test_a_plan_sets_nothing(self, tmp_path):
        setup = self.setup(tmp_path)
        next(setup.guard_git())
        assert [words[-2:] for words in setup.host.ran] == [("--get", health.BARE_KEY)]

    def test_nothing_is_to_be_done_where_it_is_set(self, tmp_path):
        assert list(self.setup(tmp_path, value=b"explicit\n").guard_git()) == []

    def test_root_sets_it_as_the_person_behind_sudo(self, tmp_path):
        name = pwd.getpwuid(1).pw_name  # somebody whom this machine knows
        setup = self.setup(tmp_path, is_root=True, SUDO_USER=name)
        list(setup.guard_git())
        for words in setup.host.ran:
            assert words[:5] == ("/usr/bin/runuser", "-u", name, "--", "env")
            assert f"HOME={pwd.getpwuid(1).pw_dir}" in words

    def test_without_a_way_to_be_the_person_it_is_only_said(self, tmp_path):
        setup = self.setup(tmp_path, programs=["git"], is_root=True, SUDO_USER=pwd.getpwuid(1).pw_name)
        assert list(setup.guard_git()) == []
        assert setup.host.ran == []
        assert health.BARE_FIX in setup.notes[0]

    def test_root_alone_sets_its_own(self, tmp_path):
        setup = self.setup(tmp_path, is_root=True)
        list(setup.guard_git())
        assert setup.host.ran[-1][:3] == ("/usr/bin/git", "config", "--global")

    def test_a_configuration_that_cannot_be_written_ends_nothing(self, tmp_path):
        setup = self.setup(tmp_path)
        setup.host.attempt = lambda argv, **_: clincus.Completed(4, b"", b"could not lock config file")
        list(setup.guard_git())
        assert "could not lock config file" in setup.notes[0]


class FakeHost(cli_host.Host):
    """A machine in a folder, with the programs and answers it is told of."""

    def __init__(self, root, *, programs=(), answers=None):
        super().__init__(str(root))
        self.programs = set(programs)
        self.answers = answers or {}
        self.ran: list[tuple[str, ...]] = []

    def write(self, path, text):
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)

    def which(self, program):
        return f"/usr/bin/{program}" if program in self.programs else ""

    def attempt(self, argv, **_):
        self.ran.append(tuple(argv))
        return self.answers.get(argv[0], clincus.Completed(127, b"", b"not found"))


class JustStartedIncus(clincus.Incus):
    """An Incus that answers from the second question on."""

    asked = 0

    def query(self, *_, **__):
        self.asked += 1
        if self.asked == 1:
            raise clincus.IncusError("Incus is not running.", 503)
        return {}


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


class TestBareMachine:
    @pytest.fixture
    def host(self, tmp_path):
        host = FakeHost(tmp_path, programs={"apt-get"})
        host.write(
            "/etc/os-release", 'ID=debian\nVERSION_CODENAME=trixie\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n'
        )
        host.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
        host.write("/etc/group", "incus-admin:x:990:\n")
        host.write("/proc/filesystems", "nodev\ttmpfs\n\tbtrfs\n")
        host.write("/proc/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")
        host.write("/proc/self/status", "CapBnd:\t000001ffffffffff\n")
        return host

    def needs(self, host, environ=None, **options):
        setup = cli_setup.Setup(cli_build.SetupOptions(**options), host, NoIncus(), lambda _: None, environ or {})
        return setup.plan()

    def test_everything_is_planned_though_nothing_can_be_asked(self, host):
        assert self.needs(host) == {
            "packages": "install incus-client, incus-base, dnsmasq-base, btrfs-progs, git, mmdebstrap, zstd",
            "id ranges": "give root a range of ids for containers in /etc/subuid and /etc/subgid",
            "daemon": "start the Incus daemon",
            "storage": "create the storage pool 'default' (btrfs, copy-on-write)",
            "network": "create the bridge 'clincusbr0' on a free subnet",
            "git": f"have git use a bare repository only where it is told to (`{health.BARE_FIX}`): {health.BARE_WHY}",
            "image": "build the image 'clincus' (claude, copilot, opencode) from this distribution's packages",
        }

    def test_the_page_on_installing_shows_this_plan(self, host):
        page = (ROOT / "docs" / "install.md").read_text()
        block = page.partition("$ clincus setup --dry-run\n")[2].partition("```")[0]
        host.write("/run/systemd/system/x", "")
        listed = dict(line.split(": ", 1) for line in block.splitlines())
        assert listed.pop("group").startswith("let 'ada' use Incus")
        assert listed == self.needs(host)

    def test_what_is_there_is_not_installed_again(self, host):
        host.programs = {"incus", "dnsmasq", "mkfs.btrfs", "mmdebstrap", "zstd", "git", "incusd"}
        assert "packages" not in self.needs(host)

    def test_without_btrfs_in_the_kernel_no_btrfs_progs(self, host):
        host.write("/proc/filesystems", "nodev\ttmpfs\n")
        needs = self.needs(host)
        assert "btrfs" not in needs["packages"]
        assert needs["storage"] == "create the storage pool 'default' (dir: this kernel has no btrfs)"

    def test_lxcfs_is_stopped_only_where_it_cannot_work(self, host):
        host.write("/proc/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\nlxcfs /var/lib/lxcfs fuse.lxcfs rw 0 0\n")
        assert "lxcfs" not in self.needs(host)
        host.write("/proc/self/status", "CapBnd:\t000001fffeffffff\n")
        assert self.needs(host)["lxcfs"] == "stop lxcfs, which cannot work without CAP_SYS_RESOURCE"

    def test_cgroup_is_mounted_where_nobody_did(self, host):
        host.write("/proc/mounts", "proc /proc proc rw 0 0\n")
        assert self.needs(host)["cgroup"] == "mount the cgroup2 file system at /sys/fs/cgroup"

    def test_the_person_behind_sudo_joins_the_group(self, host, monkeypatch):
        monkeypatch.setattr(host, "is_root", lambda: True)
        assert "add the user to the group 'incus-admin'" in self.needs(host, {"SUDO_USER": "ann"})["group"]
        host.write("/etc/group", "incus-admin:x:990:bob,ann\n")
        assert "group" not in self.needs(host, {"SUDO_USER": "ann"})

    def test_another_project_is_created(self, host):
        assert "create the Incus project 'ai'" in self.needs(host, project="ai")["project"]

    def test_a_system_without_packages_is_told_what_to_install(self, host):
        host.programs = set()
        host.write("/etc/os-release", 'ID=fedora\nPRETTY_NAME="Fedora Linux 44"\n')
        setup = cli_setup.Setup(cli_build.SetupOptions(), host, NoIncus(), lambda _: None, {})
        with pytest.raises(clincus.ClincusError, match=r"this is Fedora Linux 44: install Incus 6\.0 .* `dnf install"):
            list(setup.install_packages())

    def test_a_system_without_packages_makes_its_image_out_of_another(self, host):
        host.write("/etc/os-release", 'ID=arch\nPRETTY_NAME="Arch Linux"\n')
        host.programs = {"incus", "incusd", "dnsmasq", "mkfs.btrfs"}
        needs = self.needs(host)
        assert "packages" not in needs
        assert needs["image"].endswith("from images:debian/13")

    def test_packages_are_installed_when_apt_knows_them(self, host):
        host.write("/usr/sbin/x", "")
        host.answers = {
            "apt-get": clincus.Completed(0, b"", b""),
            "apt-cache": clincus.Completed(0, b"incus-base:\n  Installed: (none)\n  Candidate: 6.0.4-2\n", b""),
        }
        list(cli_setup.Setup(cli_build.SetupOptions(), host, NoIncus(), lambda _: None, {}).install_packages())
        assert host.ran[-1][:3] == ("apt-get", "install", "-y")
        assert "incus-base" in host.ran[-1]

    def test_on_ubuntu_24_the_daemon_is_in_another_package(self, host, monkeypatch):
        host.write("/usr/sbin/x", "")
        host.programs = {"apt-get"}
        host.answers = {"apt-get": clincus.Completed(0, b"", b"")}
        setup = cli_setup.Setup(cli_build.SetupOptions(), host, NoIncus(), lambda _: None, {})
        monkeypatch.setattr(setup, "apt_has", lambda package: package == "incus")
        assert next(setup.install_packages()).startswith("install incus-client, incus, dnsmasq-base,")
        list(setup.install_packages())
        assert "incus" in host.ran[-1]
        assert "incus-base" not in host.ran[-1]

    def test_nothing_is_installed_when_apt_does_not(self, host):
        host.write("/etc/os-release", UBUNTU_22)
        host.programs = {"apt-get"}
        host.answers = {
            "apt-get": clincus.Completed(0, b"", b""),
            "apt-cache": clincus.Completed(0, b"incus-base:\n  Installed: (none)\n  Candidate: (none)\n", b""),
        }
        with pytest.raises(clincus.ClincusError, match=r"apt has no Incus on Ubuntu 22\.04.*zabbly"):
            list(cli_setup.Setup(cli_build.SetupOptions(), host, NoIncus(), lambda _: None, {}).install_packages())
        assert [words[:2] for words in host.ran if "install" in words] == []

    def test_a_machine_of_systemd_has_its_daemon_started_by_systemd(self, host):
        host.write("/run/systemd/system/x", "")
        assert self.needs(host)["daemon"] == "start the Incus daemon (systemctl)"
        host.answers = {"systemctl": clincus.Completed(0, b"", b"")}
        setup = cli_setup.Setup(cli_build.SetupOptions(), host, JustStartedIncus(), lambda _: None, {})
        list(setup.start_daemon())
        assert host.ran[-1] == ("systemctl", "start", "incus.socket", "incus.service")

    def test_a_daemon_of_ones_own_is_not_started_by_systemd(self, host):
        host.write("/run/systemd/system/x", "")
        assert self.needs(host, {"INCUS_DIR": "/srv/incus"})["daemon"] == "start the Incus daemon"

    def test_a_user_without_a_line_in_passwd_can_join_no_group(self, host, monkeypatch):
        monkeypatch.setattr(health.os, "geteuid", lambda: 987654)
        host.write("/proc/self/uid_map", "0 1000000 1000000000\n")
        assert "group" not in self.needs(host)

    def test_the_person_behind_doas_counts_too(self, host, monkeypatch):
        monkeypatch.setattr(host, "is_root", lambda: True)
        assert "let 'ann' use Incus" in self.needs(host, {"DOAS_USER": "ann"})["group"]

    @pytest.mark.parametrize(("programs", "waits"), [({"sg"}, False), (set(), True)])
    def test_a_new_member_of_the_group_is_told_when_it_takes_effect(self, host, monkeypatch, programs, waits):
        monkeypatch.setattr(host, "is_root", lambda: True)
        host.programs = programs
        host.answers = {"usermod": clincus.Completed(0, b"", b"")}
        setup = cli_setup.Setup(cli_build.SetupOptions(), host, NoIncus(), lambda _: None, {"SUDO_USER": "ann"})
        list(setup.join_group())
        assert host.ran == [("usermod", "--append", "--groups", "incus-admin", "ann")]
        assert host.read(cli_setup.MADE_FILE) == "group incus-admin ann\n"
        assert ("Clincus itself need not wait" not in setup.notes[0]) is waits

    def test_root_gets_ids_above_everybody_elses(self, host):
        host.write("/etc/subuid", "ann:100000:65536\n")
        host.write("/etc/subgid", "ann:5000000:65536")
        list(cli_setup.Setup(cli_build.SetupOptions(), host, NoIncus(), lambda _: None, {}).give_ids())
        assert host.read("/etc/subuid") == "ann:100000:65536\nroot:1000000:1000000000\n"
        assert host.read("/etc/subgid") == "ann:5000000:65536\nroot:5065536:1000000000\n"

    def test_a_container_gives_what_it_has_and_the_owners_own_id(self, host, monkeypatch):
        monkeypatch.setattr(host, "is_root", lambda: True)
        host.write("/proc/self/uid_map", "         0    1000000 1000000000\n")
        monkeypatch.setattr(clincus.pwd, "getpwnam", lambda _: types.SimpleNamespace(pw_uid=1000, pw_gid=100))
        setup = cli_setup.Setup(cli_build.SetupOptions(), host, NoIncus(), lambda _: None, {"SUDO_USER": "ann"})
        list(setup.give_ids())
        assert host.read("/etc/subuid") == "root:1000000:999000000\nroot:1000:1\n"
        assert host.read("/etc/subgid") == "root:1000000:999000000\nroot:100:1\n"
        assert "/etc/subgid root:100:1" in host.read(cli_setup.MADE_FILE).splitlines()
        assert list(setup.give_ids()) == []

    def test_services_are_held_back_without_systemd_only_while_packages_install(self, host):
        host.write("/usr/sbin/x", "")
        policy = host.path("/usr/sbin/policy-rc.d")
        with cli_setup.services_held_back(host):
            assert "exit 101" in policy.read_text()
        assert not policy.exists()

    def test_the_policy_of_a_setup_that_was_killed_goes(self, host):
        host.write(health.HOLD_FILE, health.HOLD_TEXT)
        with cli_setup.services_held_back(host):
            pass
        assert not host.path(health.HOLD_FILE).exists()

    def test_a_policy_of_somebody_else_stays(self, host):
        host.write("/usr/sbin/policy-rc.d", "theirs")
        with cli_setup.services_held_back(host):
            pass
        assert host.read("/usr/sbin/policy-rc.d") == "theirs"


@table(
    ("text", "enough"),
    [
        ("root:1000000:1000000000\n", True),
        ("ann:1:65536\n", False),
        ("root:100:10\n", False),
        ("root:1000000:1000000000\nroot:1000:1\n", True),
        ("", False),
        ("x", False),
    ],
)
def test_root_needs_a_whole_range_of_ids(text, enough):
    assert health.root_has_range(text) is enough


class TestWhatAPersonMade:
    """It is used as it is: pools, bridges and devices of any name, and nothing is put in their place."""

    def setup(self, tmp_path, incus):
        return cli_setup.Setup(cli_build.SetupOptions(), FakeHost(tmp_path), incus, lambda _: None, {})

    def take(self, tmp_path, incus):
        """Take the steps `storage` and `network`; what was needed."""
        setup = self.setup(tmp_path, incus)
        return ["".join(take()) for take in (setup.give_storage, setup.give_network)]

    def test_a_profile_with_devices_of_any_name_is_complete(self, tmp_path):
        incus = TheirIncus(
            {
                "disk0": {"type": "disk", "path": "/", "pool": "fast"},
                "lan": {"type": "nic", "nictype": "macvlan", "parent": "eno1"},
                "data": {"type": "disk", "path": "/data", "source": "/srv"},
            }
        )
        assert self.take(tmp_path, incus) == ["", ""]
        assert incus.done == []

    @pytest.mark.parametrize(("pools", "chosen"), [(["zoo", "fast"], "fast"), (["fast", "default"], "default")])
    def test_a_pool_that_is_there_is_used(self, tmp_path, pools, chosen):
        card = {"eth0": {"type": "nic", "network": "x"}}
        incus = TheirIncus(card, pools)
        assert self.take(tmp_path, incus) == [f"keep sessions in the storage pool '{chosen}' (default profile)", ""]
        assert incus.done == [f"profile device add --quiet default root disk path=/ pool={chosen}"]

    @pytest.mark.parametrize(("free", "size"), [(0, 5), (60 << 30, 30), (900 << 30, 100)])
    def test_a_new_pool_takes_half_of_the_disk_at_most(self, tmp_path, monkeypatch, free, size):
        incus = TheirIncus({"eth0": {"type": "nic", "network": "x"}})
        setup = self.setup(tmp_path, incus)
        setup.host.write("/proc/filesystems", "\tbtrfs\n")
        monkeypatch.setattr(cli_setup.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))
        list(setup.give_storage())
        assert incus.done[0] == f"storage create --quiet default btrfs size={size}GiB user.clincus.made=true"

    @pytest.mark.parametrize(
        ("names", "chosen"),
        [
            (["mybr"], "mybr"),
            (["abr", "incusbr0"], "incusbr0"),
            (["abr", "clincusbr0", "incusbr0"], "clincusbr0"),
        ],
    )
    def test_a_bridge_that_is_there_is_used(self, tmp_path, names, chosen):
        disk = {"root": {"type": "disk", "path": "/", "pool": "fast"}}
        incus = TheirIncus(disk, networks=[{"name": name, "config": {"ipv4.nat": "true"}} for name in names])
        assert self.take(tmp_path, incus) == ["", f"connect sessions to the bridge '{chosen}' (default profile)"]
        assert incus.done == [f"profile device add --quiet default eth0 nic network={chosen} name=eth0"]

    def test_a_bridge_that_leads_nowhere_is_left_alone(self, tmp_path):
        disk = {"root": {"type": "disk", "path": "/", "pool": "fast"}}
        incus = TheirIncus(disk, networks=[{"name": "inner", "config": {"ipv4.nat": "false"}}])
        assert self.take(tmp_path, incus) == ["", "create the bridge 'clincusbr0' on a free subnet"]
        assert [words.split()[:4] for words in incus.done] == [
            ["network", "create", "--quiet", "clincusbr0"],
            ["profile", "device", "add", "--quiet"],
        ]
        assert incus.done[0].endswith(" user.clincus.made=true")

    def test_a_profile_that_instances_use_gets_no_network(self, tmp_path):
        disk = {"root": {"type": "disk", "path": "/", "pool": "fast"}}
        assert self.take(tmp_path, TheirIncus(disk, used_by=["/1.0/instances/theirs"])) == ["", ""]

    def test_a_person_whom_incus_lets_in_needs_no_group(self, tmp_path, monkeypatch):
        setup = self.setup(tmp_path, TheirIncus())
        monkeypatch.setattr(setup.host, "is_root", lambda: False)
        monkeypatch.setattr(setup, "person", lambda: "ann")
        assert list(setup.join_group()) == []

    def test_a_group_that_is_not_there_is_said_to_be_so(self, tmp_path, monkeypatch):
        setup = self.setup(tmp_path, TheirIncus())
        monkeypatch.setattr(setup.host, "is_root", lambda: True)
        setup.environ = {"SUDO_USER": "ann"}
        work = setup.join_group()
        assert "add the user to the group" in next(work)
        with pytest.raises(clincus.ClincusError, match="groupadd --system incus-admin"):
            next(work)


class TestIdsOfAContainer:
    def test_a_machine_has_all_ids_and_a_container_those_of_its_map(self, tmp_path):
        host = FakeHost(tmp_path)
        assert host.own_ids() == health.ALL_IDS
        host.write("/proc/self/uid_map", "         0          0 4294967295\n")
        assert host.own_ids() == health.ALL_IDS
        host.write("/proc/self/uid_map", "         0     100000      65536\n")
        assert host.own_ids() == 65536

    def test_a_range_that_is_not_there_is_none(self):
        assert not health.root_has_range("root:1000000:1000000000\n", 1000000000)

    def test_one_that_somebody_wrote_is_named_and_not_changed(self):
        with pytest.raises(clincus.ClincusError, match="put `root:1000000:999000000` in the place of root's line"):
            cli_setup.root_range("root:1000000:1000000000\n", 1000000000)

    def test_too_few_ids_are_said_to_be_so(self):
        with pytest.raises(clincus.ClincusError, match="a container with 65536 ids"):
            cli_setup.root_range("", 65536)


class TestRootCommand:
    @pytest.fixture
    def program(self, tmp_path):
        path = tmp_path / "my clincus"
        path.write_text("")
        path.chmod(0o755)
        return str(path)

    @pytest.mark.parametrize(
        ("programs", "start"), [({"sudo", "doas"}, "sudo '/"), ({"doas"}, "doas '/"), (set(), "su -c ")]
    )
    def test_whichever_way_there_is(self, tmp_path, program, programs, start):
        words = cli_setup.root_command(FakeHost(tmp_path, programs=programs), [program, "setup", "--yes"], "ann")
        assert words.startswith(start)

    def test_su_says_who_is_meant(self, tmp_path, program):
        words = cli_setup.root_command(FakeHost(tmp_path), [program, "setup"], "ann")
        assert shlex.split(shlex.split(words)[2]) == ["SUDO_USER=ann", program, "setup"]

    def test_a_file_that_is_no_program_is_run_by_python(self, tmp_path):
        words = cli_setup.root_command(FakeHost(tmp_path, programs={"sudo"}), ["/x/clincus.py", "setup"], "ann")
        assert shlex.split(words) == ["sudo", sys.executable, "/x/clincus.py", "setup"]


@table(("caller", "project"), [({"SUDO_USER": "ann"}, "ours"), ({"SUDO_USER": "root"}, "default"), ({}, "default")])
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


@table(
    ("missing", "words"),
    [
        ({}, "Clincus is ready. "),
        ({"claude": "no certificate"}, "Clincus is ready, but the image lacks the tools that the notes above name. "),
    ],
)
def test_the_end_of_a_setup_says_if_the_image_lacks_a_tool(missing, words):
    output = cli_build.BuildOutput(print)
    output.missing.update(missing)
    notes = ["no copy-on-write storage", *output.notes()]
    assert setup_commands.ready_words(notes).startswith(words)


# The fields of os-release(5) that count, as these systems have them.
UBUNTU_24 = 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\n'
UBUNTU_22 = 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\nVERSION_CODENAME=jammy\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n'
MINT = 'ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="21.3"\nVERSION_CODENAME=virginia\nUBUNTU_CODENAME=jammy\n'
DEBIAN_13 = 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n'
DEBIAN_12 = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
DEBIAN_11 = 'ID=debian\nVERSION_ID="11"\nVERSION_CODENAME=bullseye\n'
DEBIAN_SID = "ID=debian\nVERSION_CODENAME=forky\n"
FEDORA = "ID=fedora\nVERSION_ID=42\n"
ROCKY = 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n'
ARCH = "ID=arch\n"
MANJARO = "ID=manjaro\nID_LIKE=arch\n"
ALPINE = "ID=alpine\nVERSION_ID=3.22.0\n"
TUMBLEWEED = 'ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n'
SLACKWARE = "ID=slackware\n"

UBUNTU_SOURCES = """\
Types: deb
URIs: http://de.archive.ubuntu.com/ubuntu/
Suites: noble noble-updates noble-backports
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Types: deb
URIs: http://security.ubuntu.com/ubuntu/
Suites: noble-security
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
"""


def release_of(tmp_path, text):
    host = FakeHost(tmp_path)
    host.write("/etc/os-release", text)
    return host.release()


class TestOtherSystems:
    @pytest.mark.parametrize(
        ("system", "words"),
        [
            (DEBIAN_12, "deb http://deb.debian.org/debian bookworm-backports main"),
            (DEBIAN_13, "since Debian has Incus in its section main"),
            (DEBIAN_SID, "since Debian has Incus in its section main"),
            (DEBIAN_11, "https://pkgs.zabbly.com/incus/lts-6.0 bullseye main"),
            (UBUNTU_24, "add-apt-repository universe"),
            (UBUNTU_22, "https://pkgs.zabbly.com/incus/lts-6.0 jammy main"),
            (MINT, "https://pkgs.zabbly.com/incus/lts-6.0 jammy main"),
        ],
        ids=["debian 12", "debian 13", "debian testing", "debian 11", "ubuntu 24.04", "ubuntu 22.04", "mint"],
    )
    def test_where_apt_finds_incus(self, tmp_path, system, words):
        assert words in cli_setup.missing_incus(release_of(tmp_path, system))

    @pytest.mark.parametrize(
        ("system", "words"),
        [
            (FEDORA, "`dnf install incus"),
            (ROCKY, "`dnf install incus"),
            (ARCH, "`pacman -S --needed incus"),
            (MANJARO, "`pacman -S --needed incus"),
            (ALPINE, "`apk add incus incus-client"),
            (TUMBLEWEED, "`zypper install incus"),
            (SLACKWARE, "https://linuxcontainers.org/incus/docs/main/installing/"),
            ("", "https://linuxcontainers.org/incus/docs/main/installing/"),
        ],
        ids=["fedora", "rocky", "arch", "manjaro", "alpine", "tumbleweed", "slackware", "nothing"],
    )
    def test_what_installs_incus_without_apt(self, tmp_path, system, words):
        assert words in cli_setup.other_installer(release_of(tmp_path, system))

    @pytest.mark.parametrize(
        ("system", "source"),
        [
            (DEBIAN_12, "host"),
            (DEBIAN_SID, "host"),
            (UBUNTU_22, "host"),
            (UBUNTU_24, "host"),
            (MINT, "images:debian/13"),
            (FEDORA, "images:debian/13"),
            ("", "images:debian/13"),
        ],
        ids=["debian 12", "debian testing", "ubuntu 22.04", "ubuntu 24.04", "mint", "fedora", "nothing"],
    )
    def test_what_the_image_is_made_of(self, tmp_path, system, source):
        host = FakeHost(tmp_path)
        host.write("/etc/os-release", system)
        assert cli_recipe.image_source(host) == source

    def test_the_image_of_ubuntu_is_of_its_release_mirrors_and_universe(self, tmp_path):
        host = FakeHost(tmp_path)
        host.write("/etc/os-release", UBUNTU_24)
        host.write("/etc/apt/sources.list.d/ubuntu.sources", UBUNTU_SOURCES)
        recipe = cli_recipe.host_recipe(host, {}, tools=(), user="code", uid=1000)
        key = "[signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg]"
        sections = "main restricted universe multiverse"
        assert (recipe.distribution, recipe.suite) == ("ubuntu", "noble")
        assert recipe.mirrors == (
            f"deb {key} http://de.archive.ubuntu.com/ubuntu/ noble {sections}",
            f"deb {key} http://de.archive.ubuntu.com/ubuntu/ noble-updates {sections}",
            f"deb {key} http://security.ubuntu.com/ubuntu/ noble-security {sections}",
        )
        argv = cli_build.mmdebstrap_argv(recipe, tmp_path / "files", [], tmp_path / "image")
        assert "--components=main,universe" in argv

    def test_the_image_of_ubuntu_22_reads_the_old_format(self, tmp_path):
        host = FakeHost(tmp_path)
        host.write("/etc/os-release", UBUNTU_22)
        host.write(
            "/etc/apt/sources.list",
            "deb http://archive.ubuntu.com/ubuntu jammy main universe\n"
            "# deb-src http://archive.ubuntu.com/ubuntu jammy main\n"
            "deb http://security.ubuntu.com/ubuntu jammy-security main universe\n",
        )
        assert cli_recipe.host_recipe(host, {}, tools=(), user="code", uid=1000).mirrors == (
            "deb http://archive.ubuntu.com/ubuntu jammy main universe",
            "deb http://security.ubuntu.com/ubuntu jammy-security main universe",
        )

    def test_another_system_is_told_how_to_build_an_image(self, tmp_path):
        host = FakeHost(tmp_path)
        host.write("/etc/os-release", FEDORA)
        with pytest.raises(clincus.ClincusError, match="clincus build --from IMAGE"):
            cli_recipe.host_recipe(host, {}, tools=(), user="code", uid=1000)


def test_a_program_that_takes_too_long_is_told():
    with pytest.raises(clincus.ClincusError, match=r"`sleep 600 …` did not finish within 0\.5 s"):
        cli_host.Host().follow(["sleep", "600"], print, timeout=0.5)


def test_an_interrupted_program_that_has_much_to_say_still_tidies_up(tmp_path):
    tidy_up = f"head -c 1000000 /dev/zero; echo >{tmp_path}/tidy; exit 1"
    script = f"trap '{tidy_up}' TERM; echo begun; while :; do sleep 0.01; done"

    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cli_host.Host().follow(["sh", "-c", script], interrupt, timeout=60)
    assert (tmp_path / "tidy").exists()
