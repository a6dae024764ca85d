"""A policy as an instance has it: its network devices, the device that leads to the proxy, and variables.

No network card, rather than rules for one: what is not there cannot be turned against the host, not by root in the
container either. A card that a profile gives is hidden by a device `none` of its name.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import clincus

from .policy import ALLOW_LIST, NONE, OPEN, Policy

DEVICE = "clincus-network"
PORT = 3128  # in the container, on 127.0.0.1
LABEL = f"{clincus.LABEL}network"
LOGINS = f"{clincus.LABEL}logins"  # a session that has it borrows logins, which its proxy lends
DEVICES_LABEL = f"{clincus.LABEL}devices"
HIDDEN = {"type": "none"}
PATH_LIMIT = 107  # bytes of the path of a socket (unix(7))
NAME_ROOM = len("/.sock") + 63  # bytes for a socket's name: Incus gives an instance's name 63 characters at most
_URL = f"http://127.0.0.1:{PORT}"
_LOCAL = "localhost,127.0.0.1,::1"
# Programs read these: curl and apt the small letters, others either; Node from 22.21 and 24, if it is told to.
VARIABLES = {
    **{name: _URL for word in ("http_proxy", "https_proxy", "all_proxy") for name in (word, word.upper())},
    **dict.fromkeys(("no_proxy", "NO_PROXY"), _LOCAL),
    "NODE_USE_ENV_PROXY": "1",
}
# `sudo apt-get` and the like keep them.
SUDOERS = (".clincus/system/etc/sudoers.d/clincus-network", f'Defaults env_keep += "{" ".join(VARIABLES)}"\n')
# Sockets to the hypervisor (AF_VSOCK) belong to no network namespace before Linux 7 (vsock(7)), those to the other
# processors of a Qualcomm machine (AF_QIPCRTR) to none at all: taking the cards away closes neither. No tool needs them
# in a container, so they are denied in every mode, and a session that is closed while it runs has the rules already.
#
# The kernel takes an int for the family, so what stands in the upper half of the register must not be compared. LXC
# writes index, value, operator, mask. The other two calls are ways around the rule: io_uring makes sockets without a
# call of their own (IORING_OP_SOCKET), and for socketcall the family is in memory. Docker's containers do without them
# too, and libraries know other ways.
#
# What no rule reaches is the 32-bit call socket (359 of i386): libseccomp has no positive number for the name, and LXC
# passes over such calls. AppArmor looks at the socket itself and refuses that one as well, on hosts that have it.
_WHOLE_INT = 0xFFFFFFFF
FAMILIES = {"vsock": 40, "qipcrtr": 42}
DENIED = (
    *(f"socket errno 97 [0,{number},SCMP_CMP_MASKED_EQ,{_WHOLE_INT}]" for number in FAMILIES.values()),
    "socketcall errno 38",
    "io_uring_setup errno 38",
)
DENY = "security.syscalls.deny"
WARNINGS = f"{clincus.LABEL}warnings"
APPARMOR = "raw.apparmor"
CONFINED = tuple(f"deny network {name}," for name in FAMILIES)
IN_32_BITS = (
    "32-bit programs in it can open sockets to a hypervisor (AF_VSOCK): only AppArmor could refuse them that, and this "
    "host does not use it. Start its kernel with ia32_emulation=off if that matters"
)
UNRULED = (
    "its container may still open sockets to a hypervisor (AF_VSOCK): it was started before that was denied. "
    "Stop and resume the session to close that too"
)

Devices = dict[str, dict[str, str]]


def socket_path(environ: Mapping[str, str], id: str) -> str:
    """Where the proxy listens for a session: in a folder of the user's own, the same one for every session.

    One with a short name takes the place of a folder in which not every session's socket has room.
    """
    folder = clincus.own_file(environ, "network")
    if len(os.fsencode(folder)) + NAME_ROOM > PATH_LIMIT:
        folder = f"/tmp/clincus-{os.geteuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    name = f"@{hashlib.sha256(id.encode()).hexdigest()[:32]}" if clincus.engine_of(id) else id
    return f"{folder}/{name}.sock"


def device_path(environ: Mapping[str, str], id: str) -> str:
    """Where the device of a session's container leads to; "" on an engine, whose Incus cannot reach this host."""
    return "" if clincus.engine_of(id) else socket_path(environ, id)


def own_folder(path: str) -> None:
    """Make a folder that nobody else can enter. Raises ClincusError if somebody else made it, or nobody can."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise clincus.ClincusError(f"no allow-list: {path} cannot be made: {error.strerror}", 500) from error
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise clincus.ClincusError(f"{path} is not a folder that is yours alone (mode 0700): remove it", 500)


def is_network(device: Mapping[str, str]) -> bool:
    """Whether a device lets a container reach something over a network."""
    inwards = device.get("type") == "proxy" and device.get("bind") in ("instance", "guest", "container")
    return device.get("type") in ("nic", "infiniband") or inwards


def cards_of(devices: Mapping[str, Mapping[str, str]], before: Mapping[str, Any] | None = None) -> set[str]:
    """The names of those devices that are for a network, and of those that an instance hides."""
    hidden = {name for name, one in (before["devices"] if before else {}).items() if one == HIDDEN}
    return hidden | {name for name, one in devices.items() if is_network(one) and name != DEVICE}


def refuse_raw(policy: Policy, config: Mapping[str, str]) -> None:
    """Raise ClincusError(409) if settings for LXC itself give a card, or the host's own: no device hides those."""
    if policy.mode != OPEN and "lxc.net" in config.get("raw.lxc", ""):
        words = "its raw.lxc, or that of a profile, has lxc.net: take that away, or choose open"
        raise clincus.ClincusError(f"the network cannot be closed: {words}", 409)


def lay(
    policy: Policy, before: Mapping[str, Any] | None, cards: set[str], config: dict[str, str], path: str
) -> tuple[Policy, Devices]:
    """Bring a policy into the config of an instance, and give the devices that it needs, with what it keeps in mind.

    `before` is the instance as it is, None for a new one; `cards` are its network devices, those of profiles included.
    `path` is the proxy's socket, "" for one on an engine, which relay.py leads to. Pure but for `config`.
    """
    mine: Devices = dict(before["devices"]) if before else {}
    known = Policy.from_label((before["config"] if before else {}).get(LABEL, ""))
    own = {**known.own, **{name: one for name, one in mine.items() if is_network(one) and name != DEVICE}}
    devices: Devices = {}
    if policy.mode == OPEN:
        devices = {name: dict(one) for name, one in own.items() if mine.get(name) != one}
        policy = replace(policy, own={})
    else:
        devices = {name: dict(HIDDEN) for name in sorted(cards | own.keys())}
        policy = replace(policy, own=own)
    if policy.has_proxy and policy.mode != NONE and path:
        user = str(os.geteuid())
        devices[DEVICE] = {
            "type": "proxy",
            "bind": "instance",
            "listen": f"tcp:127.0.0.1:{PORT}",
            "connect": f"unix:{path}",
            "security.uid": user,
            "security.gid": str(os.getegid()),
        }
    for name, value in VARIABLES.items():
        config[f"environment.{name}"] = value if policy.has_proxy else ""  # Incus drops a key without a value
    config[LABEL] = policy.label()
    return policy, devices


def add_lines(config: dict[str, str], key: str, lines: Sequence[str]) -> None:
    """Add lines to a value of an instance's config, behind those that it has."""
    config[key] = "\n".join(dict.fromkeys([*config.get(key, "").splitlines(), *lines]))


def add_rules(config: dict[str, str]) -> None:
    """Add the rules that deny sockets to a hypervisor."""
    add_lines(config, DENY, DENIED)
    if "raw.lxc" in config:  # the project allows settings of this kind
        add_lines(config, APPARMOR, CONFINED)


def leaves_32_bits(root: str = "/") -> bool:
    """Whether a 32-bit call can open a socket to a hypervisor on this host, which has one: no rule names that call."""
    if os.uname().machine != "x86_64" or not os.path.exists(f"{root}dev/vsock"):
        return False
    apparmor = read_of_kernel(f"{root}sys/module/apparmor/parameters/enabled")
    switched_off = re.search(rb"\bia32_emulation=(0|n|of|f)", read_of_kernel(f"{root}proc/cmdline"), re.IGNORECASE)
    return not apparmor.startswith(b"Y") and not switched_off


def read_of_kernel(path: str) -> bytes:
    """A file of the kernel's; empty if it cannot be read."""
    try:
        return clincus.read_plain_file(path, 1 << 16) or b""
    except clincus.ConfigError:
        return b""


def lacks_rules(config: Mapping[str, str]) -> bool:
    """Whether an instance with this (expanded) config was described without one of the rules that close it."""
    return not set(DENIED) <= set(config.get(DENY, "").splitlines())


def start_part(
    environ: Mapping[str, str], expect: Callable[[str, Policy], None]
) -> Callable[[clincus.Incus, clincus.Session, clincus.Launch, dict[str, Any]], None]:
    """A function that changes the description of a start. `expect` is told the policy before the container runs."""

    def add(
        incus: clincus.Incus, session: clincus.Session, launch: clincus.Launch, description: dict[str, Any]
    ) -> None:
        policy = Policy.configured(launch.config, session.tool)
        borrows = bool(description["config"].get(LOGINS))
        policy = replace(policy, has_proxy=policy.mode == ALLOW_LIST or (borrows and policy.mode == OPEN))
        before: dict[str, Any] | None = None
        cards: set[str] = set()
        if policy.mode != OPEN or Policy.from_label(session.network).mode != OPEN:  # no device changes else
            before = incus.instance(session.id)
            profile = incus.query("/1.0/profiles/default") if before is None else before
            general = profile["config"] if before is None else before["expanded_config"]
            cards = cards_of(profile["devices"] if before is None else before["expanded_devices"], before)
            refuse_raw(policy, {**general, **description["config"]})
        config, path = description["config"], device_path(environ, session.id)
        policy, devices = lay(policy, before, cards, config, path)
        description["devices"].update(devices)
        add_rules(config)
        if policy.mode != OPEN and not clincus.engine_of(session.id) and leaves_32_bits():
            add_lines(config, WARNINGS, [IN_32_BITS])
        expect(session.id, policy)

    return add


class Fitting:
    """Gives an instance, running or not, another policy."""

    def __init__(self, incus: clincus.Incus, before: Mapping[str, Any], path: str) -> None:
        """`before` is the instance as it is, `path` that of its proxy's socket."""
        self._incus, self._before, self._path = incus, before, path
        self._is_here = not incus.engine
        self._cards = cards_of(before["expanded_devices"], before)
        self._runs = before.get("status") in ("Running", "Frozen")

    def put(self, policy: Policy, settings: str) -> None:
        """Put a policy in force; `settings` is for the label that later starts go by. Raises IncusError.

        The cards go before the proxy comes: what in the container holds the proxy's port keeps nothing open.
        """
        refuse_raw(policy, self._before["expanded_config"])
        if policy.mode == ALLOW_LIST and Policy.from_label(self._before["config"].get(LABEL, "")).mode == OPEN:
            self._update(replace(policy, mode=NONE), settings)
        try:
            self._update(policy, settings)
        except clincus.IncusError as error:
            if policy.mode != ALLOW_LIST:
                raise
            words = f"the way to the proxy cannot be made, so the session has no network now: {error.message}"
            raise clincus.ClincusError(f"{words} (what holds port {PORT} in the container?)", 409) from error

    def _update(self, policy: Policy, settings: str) -> None:
        before, label = self._before["devices"], self._before["config"].get(DEVICES_LABEL, "").split()
        config = {**self._before["config"], f"{clincus.LABEL}settings": settings}
        policy, fresh = lay(policy, self._before, self._cards, config, self._path)
        kept = {name: one for name, one in before.items() if name != DEVICE and one != HIDDEN}
        devices = {**kept, **fresh}
        ours = [*label, *(name for name, one in fresh.items() if name == DEVICE or one == HIDDEN)]
        config[DEVICES_LABEL] = " ".join(name for name in dict.fromkeys(ours) if name in devices) or "-"
        if policy.mode != OPEN and not self._runs:  # Incus alone may start it, as after a reboot
            config[DENY] = self._before["expanded_config"].get(DENY, "")
            add_rules(config)
        self._warn(policy, config)
        self._write(config, devices)
        self._before = {**self._before, "config": config, "devices": devices}

    def _warn(self, policy: Policy, config: dict[str, str]) -> None:
        """Let a session say what is not closed; `UNRULED` if its container runs since before there were the rules."""
        is_closed = policy.mode != OPEN
        known = {
            UNRULED: is_closed and self._runs and lacks_rules(self._before["expanded_config"]),
            IN_32_BITS: is_closed and self._is_here and leaves_32_bits(),
        }
        kept = [line for line in config.get(WARNINGS, "").splitlines() if line not in known]
        config[WARNINGS] = "\n".join([*kept, *(words for words, holds in known.items() if holds)])

    def _write(self, config: Mapping[str, str], devices: Devices) -> None:
        """Write what is other than before, in one call; a whole description takes two, and is for what must go."""
        known, mine = self._before["config"], self._before["devices"]
        more = {key: value for key, value in config.items() if value != known.get(key, "")}
        fresh = {name: one for name, one in devices.items() if mine.get(name) != one}
        if mine.keys() - devices.keys() or "" in more.values():
            self._incus.update(self._before["name"], clincus.instance_put(self._before, config, devices))
        elif more or fresh:
            path, change = self._incus.path(self._before["name"]), {"config": more, "devices": fresh}
            self._incus.query(path, "PATCH", change, wait=True)
