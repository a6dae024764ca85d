"""`clincus setup`: the steps from a bare machine to a working Incus with the image of the sessions.

A step finds out what is missing and creates it. A person's own settings are used as they are, and never changed.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import clincus
from clincus_cli import relay
from clincus_cli.build import SETUP_BRIDGE, BuildContext, SetupOptions, build_standard, image_fingerprint
from clincus_cli.host import PATIENCE, Host, Say
from clincus_cli.recipe import image_source
from clincus_features import health

DAEMON_PACKAGE = "incus-base"
SETUP_POOL = "default"
MADE_LABEL = "user.clincus.made=true"  # of a pool or network of Incus, so that `clincus uninstall` knows it
# The things that root made outside Incus: a line for each, with its kind and its name.
MADE_FILE = "/var/lib/clincus/made"
CAP_SYS_RESOURCE = 24  # capabilities(7)
NETWORK_TRIES = 20
INCUSD_READY_SECONDS = 60

# -- The daemon


def start_incusd(
    host: Host, folder: Path, log: Path, *, group: str, env: Mapping[str, str] = {}
) -> subprocess.Popen[bytes]:
    """Start an Incus daemon without systemd and wait until it is ready. Raises ClincusError with its last words.

    `folder` is its INCUS_DIR. The daemon gets a session of its own, so that it outlives us, and none of our file
    descriptors, so that a reader of our output does not wait for it.
    """
    program = host.which("incusd")  # the step `packages` saw to it
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    own = {**os.environ, **env, "INCUS_DIR": str(folder)}
    if folder == Path("/var/lib/incus"):
        del own["INCUS_DIR"]
    raise_limit = 'ulimit -n "$(ulimit -Hn)" 2>/dev/null; exec "$@"'
    argv = ["sh", "-c", raise_limit, "sh", program, "--group", group]
    with open(log, "ab") as output:
        daemon = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=own, start_new_session=True, cwd="/"
        )
    waiting = [program, "waitready", f"--timeout={INCUSD_READY_SECONDS}"]
    ready = host.attempt(waiting, timeout=INCUSD_READY_SECONDS + 10, env={"INCUS_DIR": str(folder)})
    if ready.code != 0 or daemon.poll() is not None:
        words = host.read(str(log))[-600:].strip() or ready.reason
        if daemon.poll() is None:
            relay.end_with_children(daemon, PATIENCE)
        raise clincus.ClincusError(f"the Incus daemon did not get ready; its log {log} ends with: {words}")
    return daemon


# -- Subnets

# Networks for a bridge: private /24s (RFC 1918) in corners that routers, VPNs and Docker seldom use by default.
CORNERS = (("10.64", 77), ("10.181", 60), ("172.30", 200), ("192.168", 213))
SUBNET_CHOICES = [f"{start}.{number}.0/24" for start, first in CORNERS for number in range(first, first + 20)]


def free_subnet(taken: Iterable[str], choices: Sequence[str] = SUBNET_CHOICES) -> str:
    """The first choice that overlaps with nothing taken (the default route is not counted). Raises ClincusError.

    Networks are texts in CIDR form, such as "10.64.77.0/24"; a lone address counts as one of itself.
    """
    from ipaddress import IPv4Network  # needed by setup alone

    busy = [IPv4Network(text, strict=False) for text in taken]
    for choice in choices:
        if not any(IPv4Network(choice).overlaps(network) for network in busy if network.prefixlen > 0):
            return choice
    raise clincus.ClincusError(
        "every private subnet that setup tries is in use on this machine; choose one yourself: "
        f"incus network create {SETUP_BRIDGE} ipv4.address=10.x.y.1/24 ipv4.nat=true ipv6.address=none"
    )


def taken_subnets(host: Host) -> list[str]:
    """Every IPv4 network and address of this machine, from the kernel's own tables: nothing is sent anywhere.

    fib_trie has all routing tables, since a VPN keeps its own, and all addresses. Name servers count too.
    """
    found = []
    for start, prefixes in re.findall(r"\|-- (\S+)\n((?:\s+/\d+ .*\n)+)", host.read("/proc/net/fib_trie")):
        found += [f"{start}/{length}" for length in re.findall(r"/(\d+) ", prefixes)]
    found += re.findall(r"^\s*nameserver\s+([0-9.]+)\s*$", host.read("/etc/resolv.conf"), re.MULTILINE)
    return found


# -- The steps


class Step(NamedTuple):
    """One part of the setup.

    `take` looks for missing parts. If there are any, it yields the work to do, as a sentence without its end, and does
    the work when it is resumed.
    """

    name: str
    take: Callable[[], Iterator[str]]
    as_root: bool = False  # only root can do it
    is_optional: bool = False  # the steps after it do not rely on it


@dataclass
class Setup:
    """The steps from a bare machine to a working Incus, in order."""

    options: SetupOptions
    host: Host
    incus: clincus.Incus
    say: Say
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    notes: list[str] = field(default_factory=list)  # notes for the user, such as things to do afterwards
    answers_kept: dict[str, Any] = field(default_factory=dict)  # of Incus by question, until something is done

    def steps(self) -> tuple[Step, ...]:
        """All steps; each relies on those before it."""
        return (
            Step("id ranges", self.give_ids, as_root=True),
            Step("packages", self.install_packages, as_root=True),
            Step("cgroup", self.mount_cgroup, as_root=True),
            Step("lxcfs", self.stop_lxcfs, as_root=True),
            Step("daemon", self.start_daemon, as_root=True),
            Step("group", self.join_group, as_root=True),
            Step("project", self.create_project),
            Step("storage", self.give_storage),
            Step("network", self.give_network),
            Step("git", self.guard_git, is_optional=True),
            Step("image", self.build_image),
        )

    def plan(self) -> dict[str, str]:
        """The sentence of each step that has something to do, by the step's name. Nothing is done."""
        return {step.name: need for step in self.steps() for need in islice(step.take(), 1)}

    def run(self, ask: Callable[[str], bool]) -> bool:
        """Take the steps one after another; False if one is declined that the rest relies on, which ends the setup.

        `ask` gets each need as a question. Raises ClincusError when a step fails, or needs root.
        """
        for step in self.steps():
            work = step.take()
            need = next(work, "")
            if not need:
                continue
            if step.as_root and not self.host.is_root():
                command = root_command(self.host, sys.argv, self.person())
                raise clincus.ClincusError(f"setup has to {need}, which only root can do. Run: {command}", 403)
            if not self.is_agreed(step, need, ask):
                if step.is_optional:
                    continue
                return False
            self.say(f"{step.name}: {need}")
            next(work, "")
            self.answers_kept.clear()
            if not step.is_optional and next(step.take(), ""):
                advice = "the lines above say why; mend that, and run it again"
                raise clincus.ClincusError(f"setup could not {need}: {advice}")
        return True

    def is_agreed(self, step: Step, need: str, ask: Callable[[str], bool]) -> bool:
        """True if a person agrees to a step. An optional one waits if nobody can be asked."""
        try:
            return ask(need)
        except clincus.ClincusError:
            if not step.is_optional:
                raise
            self.notes.append(f"left undone, as nobody could be asked: {need}")
            return False

    def ask(self, path: str) -> Any:
        """The answer of Incus to a query; None if it has nothing there, or does not answer us."""
        if path not in self.answers_kept:
            self.answers_kept[path] = None
            with suppress(clincus.ClincusError):
                self.answers_kept[path] = self.incus.query(path, timeout=10)
        return self.answers_kept[path]

    def answers(self) -> bool:
        """True if Incus answers us."""
        return self.ask("/1.0") is not None

    def note_made(self, kind: str, name: str) -> None:
        """Write down what was made, for `clincus uninstall`, which removes nothing else."""
        path = self.host.path(made_file(self.host, self.environ))
        path.parent.mkdir(mode=0o755 if self.host.is_root() else 0o700, parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{kind} {name}\n")

    # -- The machine

    def person(self) -> str:
        """The user to set up Incus for: the one behind sudo, else ourselves; none if root works as root."""
        return person_behind(self.environ) if self.host.is_root() else self.host.user_name()

    def missing_ids(self, name: str) -> list[str]:
        """The lines that a subuid(5) file lacks."""
        text = self.host.read(name)
        ids = self.host.own_ids()
        lines = [] if health.root_has_range(text, ids) else [root_range(text, ids)]
        person = self.person()
        if ids < health.ALL_IDS and person:
            # In a container the kernel maps no ids on mounts, so the owner of the workspace needs one of their own.
            user = pwd.getpwnam(person)
            own = f"root:{user.pw_uid if name.endswith('uid') else user.pw_gid}:1"
            lines += [] if own in text.split() else [own]
        return lines

    def give_ids(self) -> Iterator[str]:
        files = {name: self.missing_ids(name) for name in ("/etc/subuid", "/etc/subgid")}
        missing = {name: lines for name, lines in files.items() if lines}
        if not missing:
            return
        yield f"give root a range of ids for containers in {' and '.join(missing)}"
        for name, lines in missing.items():
            text = self.host.read(name)
            with open(self.host.path(name), "a", encoding="utf-8") as file:  # it keeps its owner and mode
                file.write("\n" if text and not text.endswith("\n") else "")
                file.writelines(f"{line}\n" for line in lines)
            for line in lines:
                self.note_made(name, line)
        if self.answers():
            self.notes.append("Incus reads /etc/subuid when it starts: restart it (systemctl restart incus)")

    def missing_packages(self) -> list[str]:
        """The Debian packages that the other steps need and that are not there, found by their programs."""
        makes_pool = not self.devices("disk") and not self.pools()
        builds_here = bool(next(self.build_image(), "")) and self.image_source() == "host"
        table = (
            ("incus-client", "incus", True),
            (DAEMON_PACKAGE, "incusd", not self.answers()),
            ("dnsmasq-base", "dnsmasq", bool(next(self.give_network(), "")) and not self.bridge_to_use()),
            ("btrfs-progs", "mkfs.btrfs", makes_pool and self.kernel_has_btrfs()),
            ("git", "git", bool(self.host.which("apt-get"))),  # without it no session starts in a repository
            ("mmdebstrap", "mmdebstrap", builds_here),
            ("zstd", "zstd", builds_here),
        )
        names = [package for package, program, is_needed in table if is_needed and not self.host.which(program)]
        return [self.daemon_package() if name == DAEMON_PACKAGE else name for name in names]

    def daemon_package(self) -> str:
        """The package of the daemon without virtual machines; Ubuntu 24.04 has one package for both."""
        return "incus" if self.apt_has("incus") and not self.apt_has(DAEMON_PACKAGE) else DAEMON_PACKAGE

    def apt_has(self, package: str) -> bool:
        """True if apt's lists, in their present state, have a package to install."""
        if not self.host.which("apt-get"):
            return False
        policy = self.host.attempt(["apt-cache", "policy", package], env={"LC_ALL": "C"}).stdout
        return b"Candidate:" in policy and b"Candidate: (none)" not in policy

    def install_packages(self) -> Iterator[str]:
        names = self.missing_packages()
        release = self.host.release()
        if not names:
            return
        if not self.host.which("apt-get"):
            yield f"have Incus installed, by {other_installer(release)}"
            raise clincus.ClincusError(
                f"setup installs packages on Debian and Ubuntu only, and this is "
                f"{release.get('PRETTY_NAME', 'another system')}: install Incus 6.0 or newer by "
                f"{other_installer(release)}, then run `clincus setup` again"
            )
        yield f"install {', '.join(names)}"
        self.say("reading the package lists")
        env = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        update = self.host.attempt(["apt-get", "update", "-qq"], timeout=300, env=env)
        if update.code != 0:
            self.notes.append(f"`apt-get update` failed, the package lists may be old: {update.reason}")
        names = self.missing_packages()  # the lists may be new
        daemon = self.daemon_package()
        if daemon in names and not self.apt_has(daemon):
            raise clincus.ClincusError(f"{missing_incus(release)}, then run `clincus setup` again")
        self.say(f"installing {', '.join(names)}")
        argv = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
        with services_held_back(self.host):
            self.host.run([*argv, *names], timeout=1200, env=env)

    def mount_cgroup(self) -> Iterator[str]:
        if not self.is_mounted(r"\S+ /sys/fs/cgroup(/\S*)? cgroup2? "):
            yield "mount the cgroup2 file system at /sys/fs/cgroup"
            self.host.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"])

    def stop_lxcfs(self) -> Iterator[str]:
        # If root lacks CAP_SYS_RESOURCE, lxcfs refuses to serve containers, and its hook then stops every start.
        if self.is_mounted(r"lxcfs \S+ fuse") and not self.host.may_have_capability(CAP_SYS_RESOURCE):
            yield "stop lxcfs, which cannot work without CAP_SYS_RESOURCE"
            self.host.attempt(["service", "lxcfs", "stop"], timeout=30)
            if self.is_mounted(r"lxcfs \S+ fuse"):
                self.host.run(["umount", "--lazy", "/var/lib/lxcfs"])

    def is_mounted(self, pattern: str) -> bool:
        """True if a line of the table of mounts begins with a pattern."""
        return bool(re.search(f"^{pattern}", self.host.read("/proc/mounts"), re.MULTILINE))

    # -- The daemon and its group

    def start_daemon(self) -> Iterator[str]:
        # Only the first socket is the daemon's; the second is that of incus-user, which exists without the daemon.
        socket = self.host.path(clincus.incus_sockets(self.environ)[0])
        if self.answers() or (socket.exists() and not self.host.is_root()):
            return  # a running daemon that keeps us out is a matter of the group
        if self.host.has_systemd() and not self.environ.get("INCUS_DIR"):
            yield "start the Incus daemon (systemctl)"
            self.host.run(["systemctl", "start", "incus.socket", "incus.service"], timeout=120)
        else:
            yield "start the Incus daemon"
            folder = Path(self.environ.get("INCUS_DIR") or "/var/lib/incus")
            system = folder == Path("/var/lib/incus")
            log = Path("/var/log/incus/incus.log") if system else folder / "logs" / "incusd.log"
            daemon = start_incusd(self.host, folder, log, group=self.options.group)
            pid_file = self.host.path("/run/incus.pid") if system else folder / "incusd.pid"
            pid_file.write_text(f"{daemon.pid}\n")  # where `service incus status` looks
        self.incus.query("/1.0", timeout=INCUSD_READY_SECONDS)

    def join_group(self) -> Iterator[str]:
        person = self.person()
        group = self.options.group
        line = re.search(rf"^{re.escape(group)}:.*:(.*)$", self.host.read("/etc/group"), re.MULTILINE)
        if not person or (line and person in line.group(1).split(",")):
            return
        if not self.host.is_root() and self.answers():
            return  # let in another way, such as a group that is not in /etc/group
        yield f"let '{person}' use Incus: add the user to the group '{group}', which is as good as root"
        if not line:
            raise clincus.ClincusError(
                f"there is no group '{group}', so Incus lets in nobody but root: create it (groupadd --system {group}) "
                f"and restart Incus, or name another as incus.group in the config"
            )
        self.host.run(["usermod", "--append", "--groups", group, person])
        self.note_made("group", f"{group} {person}")
        words = f"'{person}' belongs to the group from the next login on"
        self.notes.append(f"{words}; Clincus itself need not wait for it" if self.host.which("sg") else words)

    # -- Project, storage, network

    def create_project(self) -> Iterator[str]:
        name = self.options.project
        if name != "default" and self.ask(f"/1.0/projects/{quote(name, safe='')}") is None:
            yield f"create the Incus project '{name}', which shares images and profiles with the default one"
            features = {"features.images": "false", "features.profiles": "false"}
            self.incus.query("/1.0/projects", "POST", {"name": name, "config": features})

    def profile(self) -> dict[str, Any]:
        """The default profile as Incus has it; an empty one while Incus does not answer."""
        return {"devices": {}, "used_by": [], **(self.ask("/1.0/profiles/default") or {})}

    def devices(self, kind: str) -> list[dict[str, str]]:
        """The default profile's devices of a kind: the root disk or the network cards."""
        devices = self.profile()["devices"].values()
        return [d for d in devices if d.get("type") == kind and (kind != "disk" or d.get("path") == "/")]

    def add_device(self, name: str, *words: str) -> None:
        """Add a device to the default profile, which has none of that kind."""
        self.incus.run("profile", "device", "add", "--quiet", "default", name, *words)

    def pools(self) -> list[str]:
        """The names of the storage pools; sessions use the first."""
        names = [str(path).rpartition("/")[2] for path in self.ask("/1.0/storage-pools") or ()]
        return sorted(names, key=lambda name: (name != SETUP_POOL, name))

    def kernel_has_btrfs(self) -> bool:
        """True if the kernel can do copy-on-write for us: with it a session starts in 0.2 s instead of 1 to 6."""
        if re.search(r"^\s*btrfs$", self.host.read("/proc/filesystems"), re.MULTILINE):
            return True
        return self.host.attempt(["modprobe", "--dry-run", "btrfs"], timeout=10).code == 0

    def give_storage(self) -> Iterator[str]:
        if self.devices("disk"):
            return
        pool = next(iter(self.pools()), "")
        if pool:
            yield f"keep sessions in the storage pool '{pool}' (default profile)"
        else:
            driver = "btrfs, copy-on-write" if self.kernel_has_btrfs() else "dir: this kernel has no btrfs"
            yield f"create the storage pool '{SETUP_POOL}' ({driver})"
            self.create_pool()
        self.add_device("root", "disk", "path=/", f"pool={pool or SETUP_POOL}")

    def create_pool(self) -> None:
        """Make the pool on btrfs if that works, else in a plain folder."""
        if self.kernel_has_btrfs():
            self.host.attempt(["modprobe", "btrfs"], timeout=10)
            free = shutil.disk_usage(self.environ.get("INCUS_DIR") or "/var/lib").free
            size = max(5, min(100, free // health.GIB // 2))  # the file takes only what is used
            try:
                words = ("storage", "create", "--quiet", SETUP_POOL, "btrfs", f"size={size}GiB", MADE_LABEL)
                self.incus.run(*words, timeout=120)
            except clincus.IncusError as error:
                self.notes.append(f"no copy-on-write storage: {error}; sessions will start more slowly")
            else:
                return
        self.incus.run("storage", "create", "--quiet", SETUP_POOL, "dir", MADE_LABEL, timeout=120)

    def bridge_to_use(self) -> str:
        """An existing managed bridge: ours, that of `incus admin init`, or another that leads outside."""
        own = re.compile(re.escape(self.options.bridge.rstrip("0123456789")) + r"\d*|incusbr0")
        ranks = []
        for net in self.ask("/1.0/networks?recursion=1") or ():
            is_own = own.fullmatch(net["name"]) is not None
            is_managed = net.get("managed") and net.get("type") == "bridge"
            if is_managed and (is_own or net["config"].get("ipv4.nat") == "true"):
                ranks.append((not is_own, str(net["name"])))
        return min(ranks)[1] if ranks else ""

    def give_network(self) -> Iterator[str]:
        # If instances use the profile as it is, their owner decides about a network card.
        if self.devices("nic") or self.profile()["used_by"]:
            return
        bridge = self.bridge_to_use()
        if bridge:
            yield f"connect sessions to the bridge '{bridge}' (default profile)"
        else:
            yield f"create the bridge '{self.free_bridge_name()}' on {self.options.subnet or 'a free subnet'}"
            bridge = self.create_bridge()
        self.add_device("eth0", "nic", f"network={bridge}", "name=eth0")

    def create_bridge(self) -> str:
        """Make the bridge. We choose its subnet: Incus would look for a free one by sending packets to strangers."""
        subnet = self.options.subnet or free_subnet(taken_subnets(self.host)).replace(".0/", ".1/")
        self.say(f"subnet {subnet}")
        config = [f"ipv4.address={subnet}", "ipv4.nat=true", "ipv6.address=none", MADE_LABEL]
        name = self.free_bridge_name()
        for attempt in range(NETWORK_TRIES):
            try:
                self.incus.run("network", "create", "--quiet", name, *config)
                break
            except clincus.IncusError as error:
                # Incus (6.0) looks at every interface of the machine and fails if one vanishes meanwhile, as those of
                # stopping containers do. It leaves a network behind that did not start.
                if error.kind is not clincus.FailureKind.INTERFACE_GONE or attempt == NETWORK_TRIES - 1:
                    raise
                with suppress(clincus.IncusError):
                    self.incus.run("network", "delete", name)
        return name

    def free_bridge_name(self) -> str:
        """The bridge's name, with another number when an interface has it that is not this Incus's."""
        base = self.options.bridge.rstrip("0123456789")
        names = [self.options.bridge, *(f"{base}{number}" for number in range(10))]
        return next((name for name in names if not self.host.path(f"/sys/class/net/{name}").exists()), names[0])

    # -- Git on this machine

    def git_of_person(self) -> list[str]:
        """The command `git config --global` as the person who uses Clincus; nothing where nobody can become them."""
        git = self.host.which("git")
        person = self.person()
        if not (git and self.host.is_root() and person):
            return [git, "config", "--global"] if git else []
        runuser = self.host.which("runuser")
        home = f"HOME={pwd.getpwnam(person).pw_dir}"  # root would own the files that it writes there
        unset = ("-u", "XDG_CONFIG_HOME", "-u", "GIT_CONFIG_GLOBAL")
        return [runuser, "-u", person, "--", "env", *unset, home, git, "config", "--global"] if runuser else []

    def guard_git(self) -> Iterator[str]:
        if not self.host.which("git") and not self.host.which("apt-get"):
            return
        command = self.git_of_person()
        if command:
            value = self.host.attempt([*command, "--get", health.BARE_KEY]).stdout.decode("utf-8", "replace").strip()
            if value == "explicit":
                return
        elif self.host.which("git"):
            self.notes.append(f"{health.BARE_WHY}: run `{health.BARE_FIX}` as the user who works with Clincus")
            return
        yield f"have git use a bare repository only where it is told to (`{health.BARE_FIX}`): {health.BARE_WHY}"
        done = self.host.attempt([*self.git_of_person(), health.BARE_KEY, "explicit"])
        if done.code:  # such as of a configuration that another program keeps
            self.notes.append(f"`{health.BARE_FIX}` failed: {done.reason}")
        else:
            self.note_made("git", health.BARE_KEY)

    # -- The image

    def build_image(self) -> Iterator[str]:
        if self.answers() and image_fingerprint(self.incus, self.options.image):
            return
        recipe = self.options.recipe
        source = self.image_source()
        tools = ", ".join(recipe.tools if recipe else self.options.tools) or "no tools"
        origin = "this distribution's packages" if source == "host" else source
        yield f"build the image '{self.options.image}' ({tools}) from {origin}"
        build = BuildContext(self.incus, self.host, self.say, clincus.container_prefix(self.environ))
        self.notes += build_standard(build, self.options, self.environ, source=source).notes

    def image_source(self) -> str:
        """The source that the image is built from: "host", or another image."""
        return "host" if self.options.recipe else image_source(self.host)


# -- Sources of Incus

# The commands that install Incus if apt does not, by the ID or ID_LIKE of os-release(5).
OTHER_INSTALLERS = {
    "fedora": "dnf install incus incus-client dnsmasq btrfs-progs",
    "arch": "pacman -S --needed incus dnsmasq btrfs-progs",
    "suse": "zypper install incus dnsmasq btrfsprogs",
    "alpine": "apk add incus incus-client dnsmasq btrfs-progs && rc-update add incusd && rc-service incusd start",
}
INCUS_DOCUMENTATION = "https://linuxcontainers.org/incus/docs/main/installing/"


def other_installer(release: Mapping[str, str]) -> str:
    """The way for root to install Incus without apt: a command, or the address of instructions."""
    kinds = (release.get("ID", ""), *release.get("ID_LIKE", "").split())
    command = next((OTHER_INSTALLERS[kind] for kind in kinds if kind in OTHER_INSTALLERS), "")
    return f"`{command}` as root" if command else f"what {INCUS_DOCUMENTATION} says"


def missing_incus(release: Mapping[str, str]) -> str:
    """The advice for a system with apt whose sources have no Incus, such as Debian 12 and Ubuntu 22.04."""
    name = release.get("ID", "")
    version = health.version_numbers(release.get("VERSION_ID", ""))
    if name == "debian" and version == (12,):
        line = "deb http://deb.debian.org/debian bookworm-backports main"
        advice = f"as root, `echo '{line}' >/etc/apt/sources.list.d/backports.list`"
    elif name == "debian" and not (0,) < version < (13,):
        advice = "look at apt's sources and network, since Debian has Incus in its section main"
    elif name == "ubuntu" and version >= (24, 4):
        advice = "as root, `add-apt-repository universe`"
    else:
        code_name = release.get("UBUNTU_CODENAME") or release.get("VERSION_CODENAME") or "CODENAME"
        key = "/etc/apt/keyrings/zabbly.asc"
        line = f"deb [signed-by={key}] https://pkgs.zabbly.com/incus/lts-6.0 {code_name} main"
        advice = (
            f"take it from https://github.com/zabbly/incus: as root, "
            f"`mkdir -p /etc/apt/keyrings && curl -fsSL https://pkgs.zabbly.com/key.asc -o {key} && "
            f"echo '{line}' >/etc/apt/sources.list.d/zabbly-incus.list`"
        )
    return f"apt has no Incus on {release.get('PRETTY_NAME', 'this system')}: {advice}"


# -- Parts of the steps


def made_file(host: Host, environ: Mapping[str, str]) -> str:
    """The file in which setup writes down what it makes outside Incus: root's, or the person's own."""
    return MADE_FILE if host.is_root() else clincus.own_file(environ, "made")


def root_range(text: str, ids: int) -> str:
    """The line that gives root ids above everybody else's, as Incus's own package writes it. Raises ClincusError."""
    rows = health.subid_rows(text)
    first = max([1000000, *(first + count for name, first, count in rows if name not in ("root", "0"))])
    count = min(1000000000, ids - first)
    if count < 65536:
        raise clincus.ClincusError(
            f"this machine is a container with {ids} ids, and setup needs 65536 of them above {first}: "
            f"give it more where it was made"
        )
    line = f"root:{first}:{count}"
    if any(name in ("root", "0") and start + number > ids for name, start, number in rows):
        raise clincus.ClincusError(
            f"this machine is a container with {ids} ids, and /etc/subuid or /etc/subgid gives root others: put "
            f"`{line}` in the place of root's line in both, then restart Incus (systemctl restart incus)"
        )
    return line


@contextmanager
def services_held_back(host: Host) -> Iterator[None]:
    """Keep packages from starting their services on a machine without systemd: lxcfs may break every container."""
    policy = host.path(health.HOLD_FILE)
    is_ours = host.read(health.HOLD_FILE) == health.HOLD_TEXT  # of a setup that was killed
    if host.has_systemd() or (policy.exists() and not is_ours):
        yield
        return
    policy.write_text(health.HOLD_TEXT)
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def person_behind(environ: Mapping[str, str]) -> str:
    """The user who called us by sudo or doas; "" when root works as root."""
    name = environ.get("SUDO_USER") or environ.get("DOAS_USER") or ""
    return "" if name == "root" else name


def root_command(host: Host, argv: Sequence[str], person: str) -> str:
    """The command line that runs this program again as root. Its path is absolute: sudo searches root's PATH only."""
    python = [] if os.access(argv[0], os.X_OK) else [sys.executable]
    words = shlex.join([*python, os.path.abspath(argv[0]), *argv[1:]])
    helper = next((name for name in ("sudo", "doas") if host.which(name)), "")
    return f"{helper} {words}" if helper else f"su -c {shlex.quote(f'SUDO_USER={person} {words}')}"
