"""A policy in the form of an instance: network devices, the device that leads to the proxy, and variables.

A closed container has no network card, rather than rules for one: root in the container cannot turn an absent card
against the host. A device `none` hides a card of the same name that a profile gives.
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
# curl and apt read the names in lower case, other programs either; Node from 22.21 and 24 needs the last one.
VARIABLES = {
    "http_proxy": _URL,
    "HTTP_PROXY": _URL,
    "https_proxy": _URL,
    "HTTPS_PROXY": _URL,
    "all_proxy": _URL,
    "ALL_PROXY": _URL,
    "no_proxy": _LOCAL,
    "NO_PROXY": _LOCAL,
    "NODE_USE_ENV_PROXY": "1",
}
# `sudo apt-get` and the like keep them.
SUDOERS = (".clincus/system/etc/sudoers.d/clincus-network", f'Defaults env_keep += "{" ".join(VARIABLES)}"\n')
# Sockets to the hypervisor (AF_VSOCK) belong to no network namespace before Linux 7 (vsock(7)), those to the other
# processors of a Qualcomm machine (AF_QIPCRTR) to none at all: taking the cards away closes neither. No tool needs them
# in a container, so they are denied in every mode, and a session that is closed while it runs has the rules already.
#
# The kernel takes an int for the family, so the rule must not compare the upper half of the register. LXC writes index,
# value, operator, mask. The other two calls are ways around the rule: io_uring makes sockets without a call of their
# own (IORING_OP_SOCKET), and for socketcall the family is in memory. Docker's containers do without them too, and
# libraries know other ways.
#
# No rule reaches the 32-bit call socket (359 of i386): libseccomp has no positive number for the name, and LXC skips
# such calls. AppArmor checks the socket itself and refuses that one as well, on hosts that have it.
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
    """The path of the proxy's socket for a session, in a folder of the user's own, the same one for every session.

    A folder with a short name replaces one in which not every session's socket has room.
    """
    folder = clincus.own_file(environ, "network")
    if len(os.fsencode(folder)) + NAME_ROOM > PATH_LIMIT:
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()
        folder = f"/tmp/clincus-{os.geteuid()}-{digest[:12]}"
    name = id
    if clincus.engine_of(id):
        digest = hashlib.sha256(id.encode()).hexdigest()
        name = f"@{digest[:32]}"
    return f"{folder}/{name}.sock"


def device_path(environ: Mapping[str, str], id: str) -> str:
    """The socket for the device of a session's container; "" on an engine, whose Incus cannot reach this host."""
    return "" if clincus.engine_of(id) else socket_path(environ, id)


def own_folder(path: str) -> None:
    """Make a folder that no other user can enter. Raises ClincusError if another user made it, or it cannot be made."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        problem = f"no allow-list: {path} cannot be made: {error.strerror}"
        raise clincus.ClincusError(problem, 500) from error
    found = os.lstat(path)
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not is_ours or stat.S_IMODE(found.st_mode) & 0o077:
        problem = f"{path} is not a folder that is yours alone (mode 0700): remove it"
        raise clincus.ClincusError(problem, 500)


def is_network(device: Mapping[str, str]) -> bool:
    """True if a device lets a container reach something over a network."""
    kind = device.get("type")
    if kind == "proxy":
        return device.get("bind") in ("instance", "guest", "container")
    return kind in ("nic", "infiniband")


def cards_of(devices: Mapping[str, Mapping[str, str]], before: Mapping[str, Any] | None = None) -> set[str]:
    """The names of the network devices among some, and of those that the instance `before` hides."""
    known = before["devices"] if before else {}
    hidden = {name for name, device in known.items() if device == HIDDEN}
    return hidden | {name for name, device in devices.items() if is_card(name, device)}


def is_card(name: str, device: Mapping[str, str]) -> bool:
    """True for a network device other than our own."""
    return is_network(device) and name != DEVICE


def refuse_raw(policy: Policy, config: Mapping[str, str]) -> None:
    """Raise ClincusError(409) if settings for LXC itself add a card, or the host's own: no device hides those."""
    if policy.mode != OPEN and "lxc.net" in config.get("raw.lxc", ""):
        words = "its raw.lxc, or that of a profile, has lxc.net: take that away, or choose open"
        raise clincus.ClincusError(f"the network cannot be closed: {words}", 409)


def lay(
    policy: Policy, before: Mapping[str, Any] | None, cards: set[str], config: dict[str, str], path: str
) -> tuple[Policy, Devices]:
    """Write a policy into the config of an instance; returns the policy for its label, and the devices that it needs.

    `before` is the present instance, None for a new one; `cards` are its network devices, with those of profiles.
    `path` is the proxy's socket, "" on an engine, where relay.py leads to it. Pure but for `config`.
    """
    present: Devices = dict(before["devices"]) if before else {}
    label = before["config"].get(LABEL, "") if before else ""
    own = dict(Policy.from_label(label).own)
    own.update({name: device for name, device in present.items() if is_card(name, device)})
    devices: Devices = {}
    if policy.mode == OPEN:
        devices = {name: dict(device) for name, device in own.items() if present.get(name) != device}
        policy = replace(policy, own={})
    else:
        devices = {name: dict(HIDDEN) for name in sorted(cards | own.keys())}
        policy = replace(policy, own=own)
    if policy.has_way and path:
        devices[DEVICE] = {
            "type": "proxy",
            "bind": "instance",
            "listen": f"tcp:127.0.0.1:{PORT}",
            "connect": f"unix:{path}",
            "security.uid": str(os.geteuid()),
            "security.gid": str(os.getegid()),
        }
    for name, value in VARIABLES.items():
        config[f"environment.{name}"] = value if policy.has_proxy else ""  # Incus drops a key without a value
    config[LABEL] = policy.label()
    return policy, devices


def add_lines(config: dict[str, str], key: str, lines: Sequence[str]) -> None:
    """Append lines to a value of an instance's config."""
    present = config.get(key, "").splitlines()
    config[key] = "\n".join(dict.fromkeys([*present, *lines]))


def add_rules(config: dict[str, str]) -> None:
    """Add the rules that deny sockets to a hypervisor."""
    add_lines(config, DENY, DENIED)
    if "raw.lxc" in config:  # the project allows settings of this kind
        add_lines(config, APPARMOR, CONFINED)


def leaves_32_bits(root: str = "/") -> bool:
    """True if a 32-bit call can open a socket to a hypervisor on this host: no rule can name that call."""
    if os.uname().machine != "x86_64" or not os.path.exists(f"{root}dev/vsock"):
        return False
    apparmor = read_of_kernel(f"{root}sys/module/apparmor/parameters/enabled")
    command_line = read_of_kernel(f"{root}proc/cmdline")
    is_off = re.search(rb"\bia32_emulation=(0|n|of|f)", command_line, re.IGNORECASE)
    return not apparmor.startswith(b"Y") and not is_off


def read_of_kernel(path: str) -> bytes:
    """A file of the kernel; empty if it cannot be read."""
    try:
        return clincus.read_plain_file(path, 1 << 16) or b""
    except clincus.ConfigError:
        return b""


def lacks_rules(config: Mapping[str, str]) -> bool:
    """True if an instance with this (expanded) config lacks one of the rules that close it."""
    return not set(DENIED) <= set(config.get(DENY, "").splitlines())


def start_part(
    environ: Mapping[str, str], expect: Callable[[str, Policy], None]
) -> Callable[[clincus.Incus, clincus.Session, clincus.Launch, dict[str, Any]], None]:
    """A function that changes the description of a start.

    It passes the policy to `expect` before the container runs.
    """

    def add(
        incus: clincus.Incus, session: clincus.Session, launch: clincus.Launch, description: dict[str, Any]
    ) -> None:
        config = description["config"]
        policy = Policy.configured(launch.config, session.tool)
        lends = policy.mode == OPEN and bool(config.get(LOGINS))
        policy = replace(policy, has_proxy=lends or policy.mode == ALLOW_LIST)
        before: dict[str, Any] | None = None
        cards: set[str] = set()
        was_open = Policy.from_label(session.network).mode == OPEN
        if policy.mode != OPEN or not was_open:  # otherwise no device changes
            before = incus.instance(session.id)
            general, devices = general_parts(incus, before)
            cards = cards_of(devices, before)
            refuse_raw(policy, {**general, **config})
        policy, fresh = lay(policy, before, cards, config, device_path(environ, session.id))
        way = fresh.pop(DEVICE, None)
        description["devices"].update(fresh)
        if way:
            description[clincus.LATE_DEVICES] = clincus.LateDevices({DEVICE: way}, "wait-for-way")
        add_rules(config)
        if policy.mode != OPEN and not clincus.engine_of(session.id) and leaves_32_bits():
            add_lines(config, WARNINGS, [IN_32_BITS])
        expect(session.id, policy)

    return add


def general_parts(incus: clincus.Incus, before: Mapping[str, Any] | None) -> tuple[Mapping[str, str], Devices]:
    """Config and devices of an instance with those of its profiles; for a new one those of the default profile."""
    if before is not None:
        return before["expanded_config"], before["expanded_devices"]
    profile = incus.query("/1.0/profiles/default")
    return profile["config"], profile["devices"]


class Fitting:
    """Gives an instance, running or not, another policy."""

    def __init__(self, incus: clincus.Incus, before: Mapping[str, Any], path: str) -> None:
        """`before` is the present instance, `path` that of its proxy's socket."""
        self._incus = incus
        self._before = before
        self._path = path
        self._is_here = not incus.engine
        self._cards = cards_of(before["expanded_devices"], before)
        self._runs = before.get("status") in ("Running", "Frozen")

    def put(self, policy: Policy, settings: str) -> None:
        """Put a policy in force; `settings` goes into the label for later starts. Raises IncusError.

        The cards go before the proxy comes: a program that holds the proxy's port keeps no connection open.
        """
        refuse_raw(policy, self._before["expanded_config"])
        known = Policy.from_label(self._before["config"].get(LABEL, ""))
        if policy.mode == ALLOW_LIST and known.mode == OPEN:
            self._update(replace(policy, mode=NONE), settings)
        try:
            self._update(policy, settings)
        except clincus.IncusError as error:
            if policy.mode != ALLOW_LIST:
                raise
            problem = f"the way to the proxy cannot be made, so the session has no network now: {error.message}"
            question = f"what holds port {PORT} in the container?"
            raise clincus.ClincusError(f"{problem} ({question})", 409) from error

    def _update(self, policy: Policy, settings: str) -> None:
        present = self._before["devices"]
        config = dict(self._before["config"])
        known_as_ours = config.get(DEVICES_LABEL, "").split()
        config[f"{clincus.LABEL}settings"] = settings
        policy, fresh = lay(policy, self._before, self._cards, config, self._path)
        devices = {name: device for name, device in present.items() if not is_ours(name, device)}
        devices.update(fresh)
        ours = [name for name, device in fresh.items() if is_ours(name, device)]
        named = [name for name in dict.fromkeys([*known_as_ours, *ours]) if name in devices]
        config[DEVICES_LABEL] = " ".join(named) or "-"
        if policy.mode != OPEN and not self._runs:  # Incus alone may start it, as after a reboot
            config[DENY] = self._before["expanded_config"].get(DENY, "")
            add_rules(config)
        self._warn(policy, config)
        self._write(config, devices)
        self._before = {**self._before, "config": config, "devices": devices}

    def _warn(self, policy: Policy, config: dict[str, str]) -> None:
        """Add warnings for the ways out that stay open. `UNRULED` is for a container older than the rules."""
        is_closed = policy.mode != OPEN
        known = {
            UNRULED: is_closed and self._runs and lacks_rules(self._before["expanded_config"]),
            IN_32_BITS: is_closed and self._is_here and leaves_32_bits(),
        }
        others = [line for line in config.get(WARNINGS, "").splitlines() if line not in known]
        ours = [words for words, holds in known.items() if holds]
        config[WARNINGS] = "\n".join([*others, *ours])

    def _write(self, config: Mapping[str, str], devices: Devices) -> None:
        """Write the changes in one call. A whole description takes two calls, and is needed to remove anything."""
        present = self._before["devices"]
        known = self._before["config"]
        name = self._before["name"]
        more = {key: value for key, value in config.items() if value != known.get(key, "")}
        fresh = {key: device for key, device in devices.items() if present.get(key) != device}
        if present.keys() - devices.keys() or "" in more.values():
            self._incus.update(name, clincus.instance_put(self._before, config, devices))
        elif more or fresh:
            change = {"config": more, "devices": fresh}
            self._incus.query(self._incus.path(name), "PATCH", change, wait=True)


def is_ours(name: str, device: Mapping[str, str]) -> bool:
    """True for our proxy device, and for a device that hides a card."""
    return name == DEVICE or device == HIDDEN
