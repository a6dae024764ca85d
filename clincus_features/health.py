"""Part of the command line."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from datetime import timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import clincus
from clincus_cli.host import GIB
from clincus_cli.host import Host
from clincus_cli.host import own_ids
from clincus_cli.host import root_has_range
from clincus_cli.recipe import TOOL_PACKAGES


@dataclass(frozen=True)
class Diagnosis:
    """What one look at the machine found; `fix` says what to do, and is empty when all is well."""

    name: str
    label: str  # for people
    section: str  # of the text output
    status: str  # ok, warning or failed
    message: str
    fix: str = ""
    details: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The check as the health document has it; no details, no key."""
        document = {"name": self.name, "status": self.status, "message": self.message, "fix": self.fix}
        return {**document, "details": dict(self.details)} if self.details else dict(document)


ANSWER_TIME = 4.0  # seconds that one question to Incus may take
HEALTH_TIME = 7.0  # seconds that all of them may take together


class HealthCheck:
    """Looks at all that a session needs. Each method is one check and gives its outcome; none of them raises."""

    def __init__(
        self,
        config: clincus.Config | None,
        config_error: str,
        incus: clincus.Incus,
        environ: Mapping[str, str],
        host: Host,
    ) -> None:
        self.config = config  # None when it is broken; `config_error` then says how
        self.config_error = config_error
        self.incus = incus
        self.environ = environ
        self.host = host
        self.unreachable = ""  # why Incus does not answer
        self.unanswered: list[str] = []  # the questions that Incus gave no answer to in time
        self.deadline = time.monotonic() + HEALTH_TIME
        self.server: dict[str, Any] = self.ask("/1.0") or {}
        environment = self.server.get("environment") or {}
        self.environment: dict[str, Any] = environment

    def ask(self, path: str) -> Any:
        """What Incus answers to a query, None when it has nothing there or does not answer in time."""
        if self.unreachable:
            return None
        began = time.monotonic()
        patience = max(0.1, min(ANSWER_TIME, self.deadline - began))
        try:
            return self.incus.query(path, timeout=patience)
        except clincus.IncusError as error:
            if error.status == 503:
                self.unreachable = error.message
            elif time.monotonic() - began >= patience:
                self.unanswered.append(path)
                if path == "/1.0" or time.monotonic() >= self.deadline:
                    self.unreachable = "Incus does not answer: check the incus service"
            return None

    def setting(self, key: str, default: Any) -> Any:
        """A setting, or its default when the config is broken."""
        return self.config.get(key) if self.config else default

    def run(self, *, verbose: bool) -> list[Diagnosis]:
        """All checks in the order of the text output."""
        checks = [
            *self.check_image(),
            self.check_network(),
            self.check_forwarding(),
            self.check_cgroup(),
            self.check_ids(),
            self.check_protection(),
            self.check_folder("clincus_directory", "Clincus directory", clincus.state_directory(self.environ)),
            self.check_folder("sessions_directory", "Sessions dir", self.sessions_folder()),
            self.check_disk(),
            self.check_pool(),
            self.check_config(),
            self.check_tool(),
            self.check_containers(),
            self.check_saved(),
            self.check_orphans(),
            *([self.check_dns()] if verbose else []),
        ]
        # These come first, and are made last: by then it is known what Incus gives no answer to.
        return [self.check_system(), self.check_incus(), self.check_permissions(), *checks]

    def check_system(self) -> Diagnosis:
        """The operating system; there is nothing that it must be."""
        name = os.uname()
        release = self.host.release().get("PRETTY_NAME", name.sysname)
        details = {"os": name.sysname.lower(), "arch": name.machine, "details": release, "environment": ""}
        return Diagnosis("os", "Operating system", "SYSTEM", "ok", f"{release} ({name.machine})", details=details)

    def check_incus(self) -> Diagnosis:
        """Whether the daemon answers, and which one it is."""
        label, section = "Incus", "CRITICAL"
        if self.unreachable or not self.server:
            reason = self.unreachable or "Incus gives no answer"
            return Diagnosis("incus", label, section, "failed", reason, "clincus setup")
        version = str(self.environment.get("server_version", "unknown"))
        details = {"version": version}
        if self.unanswered:
            words = f"No answer in time to {', '.join(self.unanswered)}"
            return Diagnosis("incus", label, section, "failed", words, "check the incus service", details)
        if version_numbers(version) < (6, 0):
            fix = "install Incus 6.0 or newer"
            return Diagnosis("incus", label, section, "warning", f"Incus {version} is older than 6.0", fix, details)
        return Diagnosis("incus", label, section, "ok", f"Running (version {version})", details=details)

    def check_permissions(self) -> Diagnosis:
        """Whether this user may use Incus: the socket decides, not the group's list."""
        group = str(self.setting("incus.group", "incus-admin"))
        user = pwd.getpwuid(os.geteuid()).pw_name
        details = {"user": user, "group": group}
        label, section = "Permissions", "CRITICAL"
        if self.server.get("auth") == "trusted":
            return Diagnosis("permissions", label, section, "ok", f"'{user}' may use Incus", details=details)
        fix = "clincus setup" if self.host.is_root() else f"sudo usermod -aG {group} {user}, then log in again"
        return Diagnosis("permissions", label, section, "failed", f"'{user}' cannot use Incus now", fix, details)

    def check_image(self) -> tuple[Diagnosis, Diagnosis]:
        """Whether sessions have their image, and how old it is."""
        alias = str(self.setting("defaults.image", "clincus"))
        found = self.ask(f"/1.0/images/aliases/{quote(alias, safe='')}")
        image = self.ask(f"/1.0/images/{found['target']}") if found else None
        fix = "clincus build" if alias == "clincus" else f"clincus build custom {alias} --script FILE"
        if not image:
            reason = "cannot be looked for without Incus" if self.unreachable else "is missing"
            missing = f"Image '{alias}' {reason}"
            return (
                Diagnosis("image", "Default image", "CRITICAL", "failed", missing, fix, {"alias": alias}),
                Diagnosis("image_age", "Image age", "OPTIONAL", "warning", missing, fix),
            )
        properties = image.get("properties") or {}
        details = {"alias": alias, "fingerprint": image["fingerprint"][:12], "size": image["size"]}
        missing_tools = properties.get("clincus.missing", "")
        if missing_tools:
            words = f"Image '{alias}' is without {missing_tools}"
            first = Diagnosis("image", "Default image", "CRITICAL", "warning", words, "clincus build --force", details)
        else:
            words = f"{alias} ({image['fingerprint'][:12]})"
            first = Diagnosis("image", "Default image", "CRITICAL", "ok", words, details=details)
        return first, image_age(str(image.get("created_at", "")), time.time())

    def check_network(self) -> Diagnosis:
        """Whether sessions get a network card on a bridge that is up and has an address."""
        label, section = "Network bridge", "CRITICAL"
        profile = self.ask("/1.0/profiles/default") or {}
        cards = [device for device in (profile.get("devices") or {}).values() if device.get("type") == "nic"]
        if not cards:
            return Diagnosis("network_bridge", label, section, "failed", "Sessions have no network", "clincus setup")
        name = str(cards[0].get("network") or cards[0].get("parent") or "")
        network = self.ask(f"/1.0/networks/{quote(name, safe='')}") or {}
        config = network.get("config") or {}
        details = {
            "name": name,
            "ipv4": config.get("ipv4.address", ""),
            "driver": network.get("type", ""),
            "status": network.get("status", ""),
        }
        if network.get("status") not in ("Created", "", None):
            words = f"Network '{name}' is {str(network['status']).lower()}: its subnet may be in use by something else"
            fix = f"incus network set {name} ipv4.address=A.B.C.1/24 with a subnet that is free"
            return Diagnosis("network_bridge", label, section, "failed", words, fix, details)
        if network.get("managed") and config.get("ipv4.address", "none") == "none":
            fix = f"incus network set {name} ipv4.address=A.B.C.1/24 ipv4.nat=true"
            return Diagnosis("network_bridge", label, section, "failed", f"'{name}' has no IPv4 address", fix, details)
        words = f"{name} ({details['ipv4'] or 'not managed by Incus'})"
        return Diagnosis("network_bridge", label, section, "ok", words, details=details)

    def check_forwarding(self) -> Diagnosis:
        """Whether the kernel passes the containers' packets on."""
        label, section = "IP forwarding", "CRITICAL"
        if self.host.read("/proc/sys/net/ipv4/ip_forward").strip() == "1":
            return Diagnosis("ip_forwarding", label, section, "ok", "On")
        words = "Off: containers reach nothing beyond this machine"
        return Diagnosis("ip_forwarding", label, section, "warning", words, "sysctl -w net.ipv4.ip_forward=1")

    def check_cgroup(self) -> Diagnosis:
        """Which control groups the kernel offers for limits."""
        label, section = "Cgroup", "SYSTEM"
        mounts = self.host.read("/proc/mounts")
        controllers = self.host.read("/sys/fs/cgroup/cgroup.controllers").split()
        details: dict[str, object] = {"path": "/sys/fs/cgroup", "controllers": controllers}
        if re.search(r"^\S+ /sys/fs/cgroup cgroup2 ", mounts, re.MULTILINE):
            return Diagnosis("cgroup_availability", label, section, "ok", "cgroup v2", details=details)
        found = re.findall(r"^\S+ /sys/fs/cgroup/(\S+) cgroup ", mounts, re.MULTILINE)
        details = {"path": "/sys/fs/cgroup", "controllers": found, "hint": "limits work; newer systemd does not"}
        if found:
            fix = "boot with systemd.unified_cgroup_hierarchy=1, if the system can"
            words = "cgroup v1: limits work, but images with systemd 258 or newer do not start"
            return Diagnosis("cgroup_availability", label, section, "warning", words, fix, details)
        words = "No control groups are mounted: no container can start"
        return Diagnosis("cgroup_availability", label, section, "failed", words, "clincus setup", details)

    def check_ids(self) -> Diagnosis:
        """Whether root has ids to give to containers, and the kernel maps them on mounts."""
        label, section = "Id mapping", "SYSTEM"
        mounts = (self.environment.get("kernel_features") or {}).get("idmapped_mounts", "unknown")
        details = {"idmapped_mounts": mounts}
        for name in ("/etc/subuid", "/etc/subgid"):
            if not root_has_range(self.host.read(name), own_ids(self.host)):
                words = f"{name} gives root no range of 65536 ids for containers"
                return Diagnosis("id_mapping", label, section, "failed", words, "clincus setup", details)
        if mounts == "false":
            words = "The kernel cannot map ids on mounts: files of a workspace may belong to another user inside"
            return Diagnosis("id_mapping", label, section, "warning", words, "use a kernel of 5.12 or newer", details)
        return Diagnosis("id_mapping", label, section, "ok", "Ranges for containers, mapped on mounts", details=details)

    def check_protection(self) -> Diagnosis:
        """How well sessions can be walled off from the host (the section `protection`)."""
        label, section = "Protection", "CRITICAL"
        if self.setting("security.disable_protection", False):
            words, fix = "Switched off in the config", "remove security.disable_protection from the config"
            return Diagnosis("protection", label, section, "warning", words, fix, {"level": "off"})
        try:
            reason = "Incus cannot be reached" if self.unreachable else clincus.protection_support(self.incus).reason
        except clincus.ClincusError as error:
            reason = error.message
        if reason:
            words = f"Basic: {reason}"
            fix = "sessions start, with weaker protection; see the reason"
            return Diagnosis("protection", label, section, "warning", words, fix, {"level": "basic"})
        words = "Locked: even root in a container cannot turn the workspace against this machine"
        return Diagnosis("protection", label, section, "ok", words, details={"level": "locked"})

    def sessions_folder(self) -> str:
        """Where the default tool's conversations are kept."""
        tool = str(self.setting("tool.name", "claude"))
        base = self.config or clincus.make_config(())
        return clincus.sessions_directory(base, self.environ, tool)

    def check_folder(self, name: str, label: str, path: str) -> Diagnosis:
        """Whether a folder of ours can be written; one that is not there yet is made when it is needed."""
        details = {"path": path}
        if not os.path.isdir(path):
            return Diagnosis(name, label, "STORAGE", "ok", f"{path} (made when needed)", details=details)
        if not os.access(path, os.W_OK | os.X_OK):
            fix = f"give yourself the folder: sudo chown -R $USER {shlex.quote(path)}"
            return Diagnosis(name, label, "STORAGE", "failed", f"{path} cannot be written", fix, details)
        return Diagnosis(name, label, "STORAGE", "ok", path, details=details)

    def check_disk(self) -> Diagnosis:
        """Whether the disk of our own files has room."""
        path = clincus.state_directory(self.environ)
        while not os.path.exists(path):
            path = os.path.dirname(path)
        free = shutil.disk_usage(path).free / 1e9
        details = {"available_gb": round(free, 2), "path": path}
        if free < 5:
            words = f"Low disk space: {free:.1f} GB available"
            return Diagnosis("disk_space", "Disk space", "STORAGE", "warning", words, "make room", details)
        return Diagnosis("disk_space", "Disk space", "STORAGE", "ok", f"{free:.1f} GB available", details=details)

    def check_pool(self) -> Diagnosis:
        """Whether the storage pool of the sessions has room."""
        label, section = "Incus storage pool", "STORAGE"
        profile = self.ask("/1.0/profiles/default") or {}
        roots = [device for device in (profile.get("devices") or {}).values() if device.get("path") == "/"]
        if not roots:
            return Diagnosis(
                "incus_storage_pool", label, section, "failed", "Sessions have no storage", "clincus setup"
            )
        name = str(roots[0].get("pool", ""))
        space = (self.ask(f"/1.0/storage-pools/{quote(name, safe='')}/resources") or {}).get("space") or {}
        used, total = int(space.get("used", 0)) / GIB, int(space.get("total", 0)) / GIB
        return pool_check(name, used, total)

    def check_config(self) -> Diagnosis:
        """Whether the configuration can be read."""
        label, section = "Config loaded", "CONFIGURATION"
        if self.config is None or self.config_error:
            return Diagnosis("config", label, section, "failed", self.config_error, "mend the file, or move it away")
        files = [file.path for file in self.config.files if file.exists]
        details = {"loaded_from": files}
        if self.config.warnings:
            words = f"{len(self.config.warnings)} warning(s): {self.config.warnings[0]}"
            return Diagnosis("config", label, section, "warning", words, "mend the file", details)
        return Diagnosis("config", label, section, "ok", ", ".join(files) or "Defaults", details=details)

    def check_tool(self) -> Diagnosis:
        """Whether the default tool is one that we know."""
        name = str(self.setting("tool.name", "claude"))
        details = {"name": name}
        if name not in TOOL_PACKAGES:
            fix = f"set tool.name to one of {', '.join(TOOL_PACKAGES)}"
            return Diagnosis("tool", "Tool", "CONFIGURATION", "warning", f"Unknown tool '{name}'", fix, details)
        return Diagnosis("tool", "Tool", "CONFIGURATION", "ok", name, details=details)

    def instances(self) -> list[dict[str, Any]]:
        """The instances that are sessions of ours or containers of a build."""
        found = self.ask("/1.0/instances?recursion=1") or []
        keys = ("user.clincus.workspace", "user.clincus.build")
        return [instance for instance in found if any((instance.get("config") or {}).get(key) for key in keys)]

    def check_containers(self) -> Diagnosis:
        """How many sessions there are."""
        sessions = [i for i in self.instances() if "user.clincus.workspace" in i["config"]]
        running = sum(1 for instance in sessions if clincus.incus_status(instance) == "Running")
        words = f"{running} running, {len(sessions)} in all"
        details = {"running": running, "total": len(sessions)}
        return Diagnosis("active_containers", "Containers", "STATUS", "ok", words, details=details)

    def check_saved(self) -> Diagnosis:
        """How many conversations are saved."""
        count = len(clincus.list_saved(self.config, self.environ)) if self.config else 0
        details = {"count": count, "path": os.path.dirname(self.sessions_folder())}
        return Diagnosis("saved_sessions", "Saved sessions", "STATUS", "ok", f"{count} saved", details=details)

    def check_orphans(self) -> Diagnosis:
        """What crashes left behind: containers of a build or without a workspace, and dead network cables."""
        label, section = "Orphaned resources", "STATUS"
        containers = [
            str(instance["name"])
            for instance in self.instances()
            if "user.clincus.build" in instance["config"]
            or not os.path.isdir(instance["config"].get("user.clincus.workspace", "/"))
        ]
        cables = dead_veths(self.host.path("/sys/class/net"))
        details = {"orphaned_veths": len(cables), "veths": cables, "containers": containers}
        if not containers and not cables:
            return Diagnosis("orphaned_resources", label, section, "ok", "None", details=details)
        found = [f"containers {', '.join(containers)}"] if containers else []
        found += [f"{len(cables)} network interfaces"] if cables else []
        fixes = ["clincus clean --orphans"] if containers else []
        fixes += [f"sudo ip link delete {cables[0]} (and so on)"] if cables else []
        words = f"Left over: {' and '.join(found)}"
        return Diagnosis("orphaned_resources", label, section, "warning", words, "; ".join(fixes), details)

    def check_dns(self) -> Diagnosis:
        """Whether this machine finds names, which containers ask it for."""
        domain = "github.com"
        lookup = self.host.attempt(["getent", "ahosts", domain], timeout=10)
        count = len({line.split()[0] for line in lookup.stdout.decode().splitlines() if line.strip()})
        details = {"test_domain": domain, "ip_count": count}
        if not count:
            words = f"'{domain}' cannot be looked up"
            fix = "check /etc/resolv.conf, unless this machine is to have no internet"
            return Diagnosis("dns_resolution", "DNS resolution", "OPTIONAL", "warning", words, fix, details)
        words = f"{domain} has {count} address(es)"
        return Diagnosis("dns_resolution", "DNS resolution", "OPTIONAL", "ok", words, details=details)


def version_numbers(text: str) -> tuple[int, ...]:
    """The first two numbers of a version, such as (6, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def image_age(created: str, now: float) -> Diagnosis:
    """How old an image is that was made at an RFC 3339 time; tools grow old fast."""
    try:
        made = datetime.strptime(created[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return Diagnosis("image_age", "Image age", "OPTIONAL", "ok", "Unknown")
    days = max(0, int((now - made.timestamp()) // 86400))
    details = {"created_at": made.strftime("%Y-%m-%d"), "age_days": days}
    if days > 30:
        words = f"{days} days old: the tools in it are too"
        return Diagnosis("image_age", "Image age", "OPTIONAL", "warning", words, "clincus build --force", details)
    return Diagnosis("image_age", "Image age", "OPTIONAL", "ok", f"{days} days", details=details)


def pool_check(name: str, used: float, total: float) -> Diagnosis:
    """Whether a storage pool has room; sizes in GiB."""
    label, section = "Incus storage pool", "STORAGE"
    if total <= 0:
        details: dict[str, object] = {"pool": name}
        return Diagnosis(
            "incus_storage_pool", label, section, "warning", f"The use of '{name}' is unknown", "", details
        )
    free, percent = total - used, 100 * used / total
    details = {
        "pool": name,
        "used_gib": round(used, 2),
        "total_gib": round(total, 2),
        "free_gib": round(free, 2),
        "used_pct": round(percent, 1),
    }
    words = f"{name}: {free:.1f} of {total:.1f} GiB free"
    fix = f"`clincus clean`, delete old images, or grow the pool: incus storage set {name} size=…GiB"
    if free < 2 or percent > 90:
        return Diagnosis("incus_storage_pool", label, section, "failed", words, fix, details)
    if free < 5 or percent > 80:
        return Diagnosis("incus_storage_pool", label, section, "warning", words, fix, details)
    return Diagnosis("incus_storage_pool", label, section, "ok", words, details=details)


def dead_veths(folder: Path) -> list[str]:
    """Ends of virtual cables whose two ends are both on this machine and in no bridge: their container is gone.

    `folder` is /sys/class/net. One name for each cable. Cables of other programs lead into a namespace or a bridge.
    """
    numbers: dict[str, tuple[str, str]] = {}
    for path in folder.glob("veth*"):
        with contextlib.suppress(OSError):
            if not (path / "master").exists():
                numbers[path.name] = ((path / "ifindex").read_text().strip(), (path / "iflink").read_text().strip())
    indexes = {number: name for name, (number, _) in numbers.items()}
    pairs = {tuple(sorted((name, indexes[link]))) for name, (_, link) in numbers.items() if link in indexes}
    return sorted(first for first, second in pairs if numbers[second][1] == numbers[first][0])


def health_report(
    config: clincus.Config | None,
    incus: clincus.Incus,
    environ: Mapping[str, str],
    *,
    config_error: str = "",
    verbose: bool = False,
    host: Host | None = None,
) -> dict[str, Any]:
    """The health document of `clincus health --format json` and `GET /api/health`.

    Asks Incus about ten times, none of it slow. `config` is None when it is broken, `config_error` says how.
    """
    checks = HealthCheck(config, config_error, incus, environ, host or Host()).run(verbose=verbose)
    return health_document(checks, datetime.now(timezone.utc))


def health_document(checks: Sequence[Diagnosis], now: datetime) -> dict[str, Any]:
    """Checks as one document: unhealthy if one failed, degraded if one warns."""
    counts = Counter(check.status for check in checks)
    status = "unhealthy" if counts["failed"] else "degraded" if counts["warning"] else "healthy"
    return {
        "status": status,
        "timestamp": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "checks": {check.name: {**check.to_json(), "label": check.label, "section": check.section} for check in checks},
        "summary": {
            "total": len(checks),
            "passed": counts["ok"],
            "warnings": counts["warning"],
            "failed": counts["failed"],
        },
    }


def install(extensions: clincus.Extensions) -> None:
    """Add `GET /api/health`."""

    def get_health(request: clincus.Request) -> object:
        app = extensions.app
        return health_report(app.config, app.sessions.incus, os.environ, config_error=app.config_error or "")

    extensions.routes.append(("GET", "/api/health", get_health))
