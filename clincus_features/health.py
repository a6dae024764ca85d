"""The health report: everything that sessions need, each check with advice; `GET /api/health` and `clincus health`.

`clincus setup` also uses the machine's files and user ids from here.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import clincus

# Every command loads this module, but few run checks, so these imports wait.
if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from pathlib import Path

WORKSPACE_LABEL = "user.clincus.workspace"
BUILD_LABEL = "user.clincus.build"
# While setup installs packages on a machine without systemd, this file keeps packages from starting their services. A
# setup that is killed leaves it behind. The Makefile writes the same text.
HOLD_FILE = "/usr/sbin/policy-rc.d"
HOLD_TEXT = "#!/bin/sh\n# Clincus installs packages\nexit 101\n"
PATIENCE = 5.0  # seconds that the report waits for its checks
ENGINE_PATIENCE = 3.0  # seconds that an engine has to answer
ALL_IDS = 2**32 - 1  # how many user ids a machine has (user_namespaces(7))
GIB = 1 << 30
BARE_KEY = "safe.bareRepository"  # of git 2.38 and newer (git-config(1))
BARE_FIX = f"git config --global {BARE_KEY} explicit"
BARE_WHY = "one that an agent makes in a folder runs its commands as soon as you run git there"


class Machine:
    """The files of a machine. Tests use files of their own."""

    def __init__(self, root: str = "/") -> None:
        from pathlib import Path

        self.root = Path(root)  # where /etc, /proc and /sys are looked for

    def path(self, absolute: str) -> Path:
        """The real path of an absolute path of the machine."""
        return self.root / absolute.lstrip("/")

    def read(self, absolute: str) -> str:
        """The text of a file, "" if it is absent or unreadable."""
        try:
            return self.path(absolute).read_text("utf-8", "replace")
        except OSError:
            return ""

    def is_root(self) -> bool:
        """True if this process runs as root."""
        return os.geteuid() == 0

    def user_name(self) -> str:
        """The name of this process's user, "" for a uid without a line in /etc/passwd."""
        try:
            return pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            return ""

    def release(self) -> dict[str, str]:
        """The fields of os-release(5), unquoted."""
        lines = (line.partition("=") for line in self.read("/etc/os-release").splitlines())
        return {key: value.strip("\"'") for key, _, value in lines if value}

    def own_ids(self) -> int:
        """The number of user ids: fewer than all if the machine is a container itself (user_namespaces(7))."""
        found = re.search(r"^\s*0\s+\d+\s+(\d+)$", self.read("/proc/self/uid_map"), re.MULTILINE)
        return int(found.group(1)) if found else ALL_IDS


def subid_rows(text: str) -> list[tuple[str, int, int]]:
    """The rows of a subuid(5) file: user, first id, number of ids."""
    rows = re.findall(r"^([^:\n]+):(\d+):(\d+)$", text, re.MULTILINE)
    return [(name, int(first), int(count)) for name, first, count in rows]


def root_has_range(text: str, ids: int = ALL_IDS) -> bool:
    """True if a subuid(5) file gives root the 65,536 ids that a container needs, all of which exist."""
    ranges = [(first, count) for name, first, count in subid_rows(text) if name in ("root", "0")]
    is_large = any(count >= 65536 for _, count in ranges)
    return is_large and all(first + count <= ids for first, count in ranges)


def version_numbers(text: str) -> tuple[int, ...]:
    """The first two numbers of a version, such as (6, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


# -- The checks


class Finding(NamedTuple):
    """The outcome of a check."""

    status: str  # ok, warning or failed
    message: str
    fix: str  # what to do; empty when all is well
    details: Mapping[str, object]


def ok(message: str, /, **details: object) -> Finding:
    """A finding of a check that found no fault."""
    return Finding("ok", message, "", details)


def warning(message: str, fix: str, /, **details: object) -> Finding:
    """Sessions start, but something could be better."""
    return Finding("warning", message, fix, details)


def failed(message: str, fix: str, /, **details: object) -> Finding:
    """No session can start."""
    return Finding("failed", message, fix, details)


@dataclass
class Examination:
    """The sources of the checks. Each check runs in a thread of its own; it raises ClincusError if Incus fails."""

    config: clincus.Config  # the defaults when it is broken
    config_error: str  # how it is broken
    incus: clincus.Incus
    environ: Mapping[str, str]
    machine: Machine
    pool: ThreadPoolExecutor
    examiners: Sequence[clincus.Examiner]  # of Extensions
    sessions: Callable[[], Iterable[clincus.Session]]  # returns those that are known
    answers: dict[str, Future[Any]] = field(default_factory=dict)  # of Incus, by question: each is asked once
    lock: threading.Lock = field(default_factory=threading.Lock)  # of the answers

    def ask(self, path: str) -> Any:
        """The answer of Incus to a query, an empty one if it has nothing there. Raises IncusError."""
        with self.lock:
            if path not in self.answers:
                self.answers[path] = self.pool.submit(self.incus.query, path, timeout=PATIENCE + 1)
        try:
            return self.answers[path].result() or {}
        except clincus.IncusError as error:
            if error.status != 404:
                raise
            return {}

    def server(self, key: str, default: Any) -> Any:
        """A fact of Incus about itself and its machine."""
        return (self.ask("/1.0").get("environment") or {}).get(key, default)

    def devices(self) -> list[dict[str, Any]]:
        """The devices that sessions get from the default profile."""
        return list((self.ask("/1.0/profiles/default").get("devices") or {}).values())

    def image(self) -> dict[str, Any]:
        """The image of the sessions, empty for a missing one."""
        alias = self.ask(f"/1.0/images/aliases/{quote(self.config.get('defaults.image'), safe='')}")
        return dict(self.ask(f"/1.0/images/{alias['target']}") if alias else {})

    def instances(self, *labels: str) -> list[dict[str, Any]]:
        """The instances that have one of some labels; all without any."""
        instances = self.ask("/1.0/instances?recursion=1")
        return [instance for instance in instances if not labels or has_label(instance, labels)]

    def check_system(self) -> Finding:
        """The operating system; none is required."""
        name = os.uname()
        release = self.machine.release().get("PRETTY_NAME", name.sysname)
        details = {"os": name.sysname.lower(), "arch": name.machine, "details": release, "environment": ""}
        return ok(f"{release} ({name.machine})", **details)

    def check_cgroup(self) -> Finding:
        """The control groups that the kernel offers for limits."""
        mounts = self.machine.read("/proc/mounts")
        path = "/sys/fs/cgroup"
        if re.search(rf"^\S+ {path} cgroup2 ", mounts, re.MULTILINE):
            controllers = self.machine.read(f"{path}/cgroup.controllers").split()
            return ok("cgroup v2", path=path, controllers=controllers)
        details = {"path": path, "controllers": re.findall(rf"^\S+ {path}/(\S+) cgroup ", mounts, re.MULTILINE)}
        if not details["controllers"]:
            return failed("No control groups are mounted: no container can start", "clincus setup", **details)
        words = "cgroup v1: limits work, but images with systemd 258 or newer do not start"
        fix = "boot with systemd.unified_cgroup_hierarchy=1, if the system can"
        return warning(words, fix, hint="limits work; newer systemd does not", **details)

    def check_ids(self) -> Finding:
        """True if root has ids for containers, and the kernel maps them on mounts."""
        for name in ("/etc/subuid", "/etc/subgid"):
            if not root_has_range(self.machine.read(name), self.machine.own_ids()):
                return failed(f"{name} gives root no range of 65536 ids for containers", "clincus setup")
        if self.server("kernel_features", {}).get("idmapped_mounts") == "false":
            words = "The kernel cannot map ids on mounts: files of a workspace may belong to another user inside"
            return warning(words, "use a kernel of 5.12 or newer")
        return ok("Ranges for containers, mapped on mounts")

    def check_incus(self) -> Finding:
        """True if the daemon answers; its version."""
        version = str(self.server("server_version", "unknown"))
        if version_numbers(version) < (6, 0):
            return warning(f"Incus {version} is older than 6.0", "install Incus 6.0 or newer", version=version)
        return ok(f"Running (version {version})", version=version)

    def check_permissions(self) -> Finding:
        """True if this user may use Incus: the socket decides, not the list of the group."""
        group = self.config.get("incus.group")
        name = self.machine.user_name()
        user = name or str(os.geteuid())
        is_down = False
        try:
            if self.ask("/1.0").get("auth") == "trusted":
                return ok(f"'{user}' may use Incus", user=user, group=group)
        except clincus.IncusError as error:
            is_down = error.kind is not clincus.FailureKind.CLOSED  # it is not installed, or does not run
        fix = f"sudo usermod -aG {group} {user}, then log in again"
        if self.machine.is_root() or is_down:
            fix = "clincus setup"
        elif not name:
            fix = f"give the uid {user} a line in /etc/passwd, and that user the group {group}"
        return failed(f"'{user}' cannot use Incus now", fix, user=user, group=group)

    def check_image(self) -> Finding:
        """True if the sessions' image is there, with all tools in it."""
        alias = self.config.get("defaults.image")
        image = self.image()
        if not image:
            fix = "clincus build" if alias == "clincus" else f"clincus build custom {alias} --script FILE"
            return failed(f"Image '{alias}' is missing", fix, alias=alias)
        fingerprint = image["fingerprint"][:12]
        details = {"alias": alias, "fingerprint": fingerprint}
        missing = (image.get("properties") or {}).get("clincus.missing", "")
        if missing:
            return warning(f"Image '{alias}' is without {missing}", "clincus build --force", **details)
        return ok(f"{alias} ({fingerprint})", **details)

    def check_age(self) -> Finding:
        """The age of the sessions' image: its tools become outdated fast."""
        made = clincus.parse_time(self.image().get("created_at"))
        if made is None:
            return warning("Unknown", "see the default image")
        days = max(0, (datetime.now(timezone.utc) - made).days)
        details = {"created_at": made.strftime("%Y-%m-%d"), "age_days": days}
        if days > 30:
            return warning(f"{days} days old: the tools in it are too", "clincus build --force", **details)
        return ok(f"{days} days", **details)

    def check_network(self) -> Finding:
        """True if sessions get a network card on a bridge that is up and has an address."""
        cards = [device for device in self.devices() if device.get("type") == "nic"]
        if not cards:
            return failed("Sessions have no network", "clincus setup")
        name = str(cards[0].get("network") or cards[0].get("parent") or "")
        network = self.ask(f"/1.0/networks/{quote(name, safe='')}")
        address = (network.get("config") or {}).get("ipv4.address", "")
        status = network.get("status") or ""
        details = {"name": name, "ipv4": address, "driver": network.get("type", ""), "status": status}
        fix = f"incus network set {name} ipv4.address=A.B.C.1/24"
        if status not in ("Created", ""):
            words = f"Network '{name}' is {status.lower()}: its subnet may be in use by something else"
            return failed(words, f"{fix} with a subnet that is free", **details)
        if network.get("managed") and address in ("", "none"):
            return failed(f"'{name}' has no IPv4 address", f"{fix} ipv4.nat=true", **details)
        return ok(f"{name} ({address or 'not managed by Incus'})", **details)

    def check_forwarding(self) -> Finding:
        """True if the kernel passes the containers' packets on."""
        if self.machine.read("/proc/sys/net/ipv4/ip_forward").strip() == "1":
            return ok("On")
        return warning("Off: containers reach nothing beyond this machine", "sysctl -w net.ipv4.ip_forward=1")

    def check_protection(self) -> Finding:
        """The level at which this machine can be protected from sessions (wall/protect.py)."""
        if self.config.get("security.disable_protection"):
            return warning("Switched off in the config", "remove security.disable_protection from the config")
        self.ask("/1.0")  # if Incus hangs, this fails sooner than the next line
        reason = clincus.protect.protection_support(self.incus).reason
        if reason:
            return warning(f"Basic: {reason}", "sessions start, with weaker protection; see the reason")
        if not clincus.protect.find_git("/nonexistent", self.environ):
            words = "Locked, but no session starts in a repository: git on this machine has to say what it runs there"
            return warning(words, "install git")
        if not self.config.get("security.nesting"):
            containers = "Docker, Podman and bubblewrap run in clones, or with --nesting"
            return ok(f"Locked: even root in a container cannot change what is sealed. {containers}")
        if self.config.get("security.require_locked"):
            words = "No session on a mounted folder starts: security.nesting takes what security.require_locked demands"
            return warning(words, "remove one of the two from the config, or work on clones")
        words = "Basic for mounted folders: the config lets containers run in sessions (security.nesting)"
        return warning(words, "remove security.nesting from the config; choose it for single sessions with --nesting")

    def check_findings(self) -> Finding:
        """Findings of features that a person should look at."""
        problems = []
        fixes = []
        for examine in self.examiners:
            found = examine(self.environ, self.sessions)
            if found is not None:
                problems.append(found[0])
                fixes.append(found[1])
        if not problems:
            return ok("Nothing sealed was changed while a session ran")
        return warning("; ".join(problems), "; ".join(fixes))

    def check_git(self) -> Finding:
        """True if git on this machine uses no bare repository that merely lies in a folder (safe.bareRepository)."""
        git = clincus.protect.find_git("/nonexistent", self.environ)
        if not git:
            return ok("Not installed")
        # It has no repository, so that nothing but the configuration of the system and of the user is read.
        environ = {**self.environ, "GIT_DIR": os.devnull}
        done = clincus.run_child([git, "config", "--get", BARE_KEY], timeout=PATIENCE, environ=environ, cwd="/")
        if done.stdout.decode("utf-8", "replace").strip() == "explicit":
            return ok("Uses a bare repository only where it is told to")
        return warning(f"Uses any bare repository that it finds: {BARE_WHY}", BARE_FIX)

    def check_engines(self) -> Finding:
        """True if the engines of the config answer, and have the image of their sessions."""
        rows: Mapping[str, Mapping[str, Any]] = self.config.get("engines")
        asked = {name: self.pool.submit(self.engine_fault, name, row) for name, row in sorted(rows.items())}
        faults = {name: fault.result() for name, fault in asked.items() if fault.result()}
        details = {"engines": sorted(rows), "faults": faults}
        if faults:
            name = next(iter(faults))
            count = f"{len(faults)} of {len(rows)}"
            return warning(f"{count} cannot be used: {faults[name]}", f"clincus engine check {name}", **details)
        return ok(", ".join(rows), **details)

    def engine_fault(self, name: str, row: Mapping[str, Any]) -> str:
        """The reason why no session can start on an engine now, "" if one can."""
        alias = row.get("image") or self.config.get("defaults.image")
        try:
            incus = clincus.engine_door(self.config, name)
            incus.query(f"/1.0/images/aliases/{quote(alias, safe='')}", timeout=ENGINE_PATIENCE)
        except clincus.IncusError as error:
            return f'engine {name}: the image "{alias}" is not there' if error.status == 404 else error.message
        return ""

    def check_own_folder(self) -> Finding:
        """True if Clincus's own files can be written."""
        return folder_finding(clincus.state_directory(self.environ))

    def check_sessions_folder(self) -> Finding:
        """True if conversations of the default tool can be saved."""
        return folder_finding(clincus.sessions_directory(self.config, self.environ, self.config.get("tool.name")))

    def check_disk(self) -> Finding:
        """True if the disk of our own files has room."""
        import shutil

        path = clincus.state_directory(self.environ)
        while not os.path.exists(path):
            path = os.path.dirname(path)
        free = shutil.disk_usage(path).free / 1e9
        details = {"available_gb": round(free, 2), "path": path}
        if free < 5:
            return warning(f"Low disk space: {free:.1f} GB available", "make room", **details)
        return ok(f"{free:.1f} GB available", **details)

    def check_pool(self) -> Finding:
        """True if the storage pool of the sessions has room."""
        name = next((str(device.get("pool", "")) for device in self.devices() if device.get("path") == "/"), "")
        if not name:
            return failed("Sessions have no storage", "clincus setup")
        space = self.ask(f"/1.0/storage-pools/{quote(name, safe='')}/resources").get("space") or {}
        used = int(space.get("used", 0)) / GIB
        total = int(space.get("total", 0)) / GIB
        if not total:
            return warning(f"The use of '{name}' is unknown", f"look at it: incus storage info {name}", pool=name)
        free = total - used
        percent = 100 * used / total
        sizes = {"used_gib": round(used, 2), "total_gib": round(total, 2), "free_gib": round(free, 2)}
        details = {"pool": name, "used_pct": round(percent, 1), **sizes}
        words = f"{name}: {free:.1f} of {total:.1f} GiB free"
        if free >= 5 and percent <= 80:
            return ok(words, **details)
        fix = f"`clincus clean`, delete old images, or grow the pool: incus storage set {name} size=…GiB"
        return (failed if free < 2 or percent > 90 else warning)(words, fix, **details)

    def check_config(self) -> Finding:
        """True if the configuration can be read."""
        if self.config_error:
            return failed(self.config_error, "mend the file, or move it away")
        files = [path for path, exists in self.config.files.items() if exists]
        warnings = self.config.warnings
        if warnings:
            return warning(f"{len(warnings)} warning(s): {warnings[0]}", "mend the file", loaded_from=files)
        return ok(", ".join(files) or "Defaults", loaded_from=files)

    def check_tool(self) -> Finding:
        """The default tool. A configuration with an unknown one is broken, so this check cannot fail."""
        return ok(self.config.get("tool.name"), name=self.config.get("tool.name"))

    def check_containers(self) -> Finding:
        """The number of sessions."""
        sessions = self.instances(WORKSPACE_LABEL)
        running = sum(clincus.incus_status(instance) == "Running" for instance in sessions)
        return ok(f"{running} running, {len(sessions)} in all", running=running, total=len(sessions))

    def check_saved(self) -> Finding:
        """The number of saved conversations."""
        count = len(clincus.list_saved(self.config, self.environ))
        path = os.path.dirname(clincus.expand(self.config.get("paths.sessions_dir"), self.environ))
        return ok(f"{count} saved", count=count, path=path)

    def check_orphans(self) -> Finding:
        """The remains of crashes: containers of a build or without a workspace, dead network cables, a held service."""
        labelled = self.instances(WORKSPACE_LABEL, BUILD_LABEL)
        containers = [str(instance["name"]) for instance in labelled if is_orphan(instance)]
        cables = dead_veths(self.machine.path("/sys/class/net"), names_of_cables(self.instances()))
        found = []
        fixes = []
        if containers:
            found.append(f"containers {', '.join(containers)}")
            fixes.append("clincus clean --orphans")
        if cables:
            pairs = "pair" if len(cables) == 1 else "pairs"
            found.append(f"{len(cables)} {pairs} of network interfaces")
            fixes.append(f"echo {' '.join(cables)} | xargs -n 1 sudo ip link delete")
        if self.machine.read(HOLD_FILE) == HOLD_TEXT:
            found.append(f"{HOLD_FILE}, which keeps packages from starting their services")
            fixes.append(f"sudo rm {HOLD_FILE}")
        if not found:
            return ok("None", orphaned_veths=0)
        words = f"Left over: {' and '.join(found)}"
        return warning(words, "; ".join(fixes), orphaned_veths=len(cables))

    def check_push(self) -> Finding:
        """True if web push can be signed."""
        import shutil

        if shutil.which("openssl", path=self.environ.get("PATH")) is None:
            return warning(
                "`openssl` is missing: no device can be notified by web push", "sudo apt-get install openssl"
            )
        return ok("Signed by openssl; needs outgoing HTTPS")

    def check_dns(self) -> Finding:
        """True if this machine can look names up; containers use it for that."""
        domain = "github.com"
        output = ""
        with suppress(OSError, subprocess.SubprocessError):
            argv = ["getent", "ahosts", domain]
            output = subprocess.check_output(argv, stdin=subprocess.DEVNULL, text=True, timeout=PATIENCE - 1)
        count = len({line.split()[0] for line in output.splitlines() if line.strip()})
        if not count:
            fix = "check /etc/resolv.conf, unless this machine is to have no internet"
            return warning(f"'{domain}' cannot be looked up", fix, test_domain=domain, ip_count=0)
        return ok(f"{domain} has {count} address(es)", test_domain=domain, ip_count=count)


def folder_finding(path: str) -> Finding:
    """True if one of our folders can be written. A missing folder is made when it is needed."""
    if not os.path.isdir(path):
        return ok(f"{path} (made when needed)", path=path)
    if not os.access(path, os.W_OK | os.X_OK):
        fix = f"give yourself the folder: sudo chown -R $USER {shlex.quote(path)}"
        return failed(f"{path} cannot be written", fix, path=path)
    return ok(path, path=path)


def has_label(instance: Mapping[str, Any], labels: Iterable[str]) -> bool:
    """True if an instance has one of some labels."""
    config = instance.get("config") or {}
    return any(config.get(label) for label in labels)


def is_orphan(instance: Mapping[str, Any]) -> bool:
    """True for the container of a build, and for one whose workspace is gone."""
    config = instance["config"]
    return BUILD_LABEL in config or not os.path.isdir(config[WORKSPACE_LABEL])


# The name that Incus gives to an end of a cable (RandomDevName of its internal/server/network), and the beginnings of
# the addresses that it gives to the container's end: of new containers, and of those of LXD and older versions.
CABLE_NAME = re.compile(r"veth[0-9a-f]{8}")
CARD_ADDRESSES = ("10:66:6a:", "00:16:3e:")


def names_of_cables(instances: Iterable[Mapping[str, Any]]) -> set[str]:
    """The ends of cables that Incus knows as those of its instances."""
    settings = (item for one in instances for item in (one.get("config") or {}).items())
    return {value for key, value in settings if key.startswith("volatile.") and key.endswith(".host_name")}


def dead_veths(folder: Path, used: Collection[str] = ()) -> list[str]:
    """One end of each cable of Incus whose two ends are on this machine and in no bridge: its container is gone.

    `folder` is /sys/class/net; `used` are ends that an instance has. The kernel removes a cable with its first end.
    Cables of other programs have other names, or no address of Incus at either end.
    """
    ends: dict[str, tuple[str, str]] = {}  # name -> its number, and that of its other end
    addresses: dict[str, str] = {}
    for path in folder.glob("veth*"):
        with suppress(OSError):
            if CABLE_NAME.fullmatch(path.name) and path.name not in used and not (path / "master").exists():
                number = (path / "ifindex").read_text().strip()
                other = (path / "iflink").read_text().strip()
                addresses[path.name] = (path / "address").read_text()
                ends[path.name] = (number, other)
    names = {end: name for name, end in ends.items()}
    pairs = [(name, names.get((other, number), "")) for name, (number, other) in ends.items()]
    is_ours = {name for name, address in addresses.items() if address.startswith(CARD_ADDRESSES)}
    return sorted(name for name, other in pairs if name < other and {name, other} & is_ours)


class Check(NamedTuple):
    """A row of the table of checks."""

    name: str  # in the document
    label: str  # for people
    section: str  # of the text output
    examine: Callable[[Examination], Finding]


CHECKS = (  # by section, as people read them
    Check("os", "Operating system", "SYSTEM", Examination.check_system),
    Check("cgroup_availability", "Cgroup", "SYSTEM", Examination.check_cgroup),
    Check("id_mapping", "Id mapping", "SYSTEM", Examination.check_ids),
    Check("incus", "Incus", "CRITICAL", Examination.check_incus),
    Check("permissions", "Permissions", "CRITICAL", Examination.check_permissions),
    Check("image", "Default image", "CRITICAL", Examination.check_image),
    Check("network_bridge", "Network bridge", "CRITICAL", Examination.check_network),
    Check("ip_forwarding", "IP forwarding", "CRITICAL", Examination.check_forwarding),
    Check("protection", "Protection", "CRITICAL", Examination.check_protection),
    Check("sealed_files", "Sealed files", "CRITICAL", Examination.check_findings),
    Check("git", "Git", "CRITICAL", Examination.check_git),
    Check("engines", "Engines", "CRITICAL", Examination.check_engines),
    Check("clincus_directory", "Clincus directory", "STORAGE", Examination.check_own_folder),
    Check("sessions_directory", "Sessions dir", "STORAGE", Examination.check_sessions_folder),
    Check("disk_space", "Disk space", "STORAGE", Examination.check_disk),
    Check("incus_storage_pool", "Incus storage pool", "STORAGE", Examination.check_pool),
    Check("config", "Config loaded", "CONFIGURATION", Examination.check_config),
    Check("tool", "Tool", "CONFIGURATION", Examination.check_tool),
    Check("active_containers", "Containers", "STATUS", Examination.check_containers),
    Check("saved_sessions", "Saved sessions", "STATUS", Examination.check_saved),
    Check("orphaned_resources", "Orphaned resources", "STATUS", Examination.check_orphans),
    Check("image_age", "Image age", "OPTIONAL", Examination.check_age),
    Check("web_push", "Web push", "OPTIONAL", Examination.check_push),
    Check("dns_resolution", "DNS resolution", "OPTIONAL", Examination.check_dns),
)


# -- The report


def health_report(
    config: clincus.Config | None,
    incus: clincus.Incus,
    environ: Mapping[str, str],
    *,
    config_error: str = "",
    verbose: bool = False,
    machine: Machine | None = None,
    examiners: Sequence[clincus.Examiner] = (),
    sessions: Callable[[], Iterable[clincus.Session]] = tuple,
) -> dict[str, Any]:
    """The health document of `clincus health --format json` and `GET /api/health`.

    It takes PATIENCE at most: a check that takes longer says so. `config` is None if it is broken, and `config_error`
    says how.
    """
    from concurrent.futures import ThreadPoolExecutor, wait

    known = config or clincus.make_config(())
    unasked = {"dns_resolution": not verbose, "engines": not known.get("engines")}
    checks = [check for check in CHECKS if not unasked.get(check.name)]
    pool = ThreadPoolExecutor(2 * len(CHECKS))  # a thread for each check, and for each question that it waits for
    look = Examination(known, config_error, incus, environ, machine or Machine(), pool, examiners, sessions)
    futures = {check: pool.submit(check.examine, look) for check in checks}
    wait(futures.values(), PATIENCE)
    pool.shutdown(wait=False)
    findings = {check: outcome(future) for check, future in futures.items()}
    return health_document(findings, datetime.now(timezone.utc))


def outcome(future: Future[Finding]) -> Finding:
    """The finding of a check, or the reason why it found nothing."""
    if not future.done():
        return failed(f"No answer within {PATIENCE:g} s", "check the incus service")
    try:
        return future.result()
    except clincus.ClincusError as error:
        return failed(error.message, "clincus setup" if error.status == 503 else "check the incus service")


def health_document(findings: Mapping[Check, Finding], now: datetime) -> dict[str, Any]:
    """The document: unhealthy if a check failed, degraded if one warns."""
    counts = Counter(finding.status for finding in findings.values())
    status = "healthy"
    if counts["failed"]:
        status = "unhealthy"
    elif counts["warning"]:
        status = "degraded"
    checks = {}
    for check, finding in findings.items():
        checks[check.name] = {
            "name": check.name,
            "label": check.label,
            "section": check.section,
            **finding._asdict(),
        }
    return {
        "status": status,
        "timestamp": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "version": clincus.__version__,
        "commit": clincus.__commit__,
        "built": clincus.__built__,
        "checks": checks,
        "summary": {
            "total": len(findings),
            "passed": counts["ok"],
            "warnings": counts["warning"],
            "failed": counts["failed"],
        },
    }


def install(extensions: clincus.Extensions) -> None:
    """Add `GET /api/health`."""

    def get_health(request: clincus.Request) -> object:
        app = extensions.app
        return health_report(
            app.config,
            app.sessions.incus,
            os.environ,
            config_error=app.config_error or "",
            examiners=app.extensions.examiners,
            sessions=app.registry.all,
        )

    extensions.routes.append(("GET", "/api/health", get_health))
