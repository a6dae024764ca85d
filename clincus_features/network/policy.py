"""Policies: the mode of a session's network, and the names that it allows. Pure.

The label `user.clincus.network` of the instance keeps a policy, so that every server knows it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import clincus

from .presets import PRESETS, TOOL

OPEN = "open"
ALLOW_LIST = "allow-list"
NONE = "none"
MODES = (OPEN, ALLOW_LIST, NONE)
WEB_PORTS = (443, 80)  # of an entry that names no port
MOST_ENTRIES = 200
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_ENTRY = re.compile(r"(\*\.)?([^:*]+)(?::([0-9]{1,5}))?")


class AddressError(ValueError):
    """A host is given by its address."""


def plain_host(text: str) -> str:
    """A name in its normal form: lower case, without the dot at the end.

    Raises ValueError for a text that is no name, AddressError for an address of IPv4.
    """
    name = text.lower()
    name = name[:-1] if name.endswith(".") else name
    if not _HOST.fullmatch(name):
        raise ValueError(f"{clincus.shorten(text)} is not the name of a host")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", name.rpartition(".")[2]):
        raise AddressError(f"{clincus.shorten(text)} is an address: only names are allowed")
    return name


class Entry(NamedTuple):
    """One line of a list of names."""

    host: str
    is_wild: bool = False  # means all names below the host, and not itself
    port: int = 0  # 0 for WEB_PORTS

    @classmethod
    def read(cls, text: str) -> Entry:
        """Read `pypi.org`, `*.github.com` or `host:8443`. Raises ValueError with words."""
        match = _ENTRY.fullmatch(text)
        if not match:
            raise ValueError(f"{clincus.shorten(text)} is no name: write pypi.org, *.github.com or host:8443")
        host = plain_host(match[2])
        port = int(match[3] or 0)
        if match[3] and not 1 <= port <= 65535:
            raise ValueError(f"{clincus.shorten(text)}: a port is from 1 to 65535")
        if match[1] and "." not in host:
            raise ValueError(f"{clincus.shorten(text)} is half of the internet: write more of the name")
        return cls(host, bool(match[1]), port)

    def fits(self, host: str, port: int) -> bool:
        """True if it allows a name, in the form of `plain_host`, and a port."""
        ports = (self.port,) if self.port else WEB_PORTS
        if port not in ports:
            return False
        return host.endswith(f".{self.host}") if self.is_wild else host == self.host


def check_entry(value: object) -> str:
    """A name for `network.allow`. Raises Unfit."""
    text = clincus.check_text(value).strip().lower()
    try:
        Entry.read(text)
    except ValueError as error:
        raise clincus.Unfit(str(error)) from None
    return text


def check_preset(value: object) -> str:
    """A name for `network.presets`. Raises Unfit."""
    text = clincus.check_text(value)
    if text != TOOL and text not in PRESETS:
        raise clincus.Unfit(f"{clincus.shorten(text)} is no preset: there are {', '.join([TOOL, *PRESETS])}")
    return text


def known_presets(names: Iterable[str], tool: str) -> tuple[str, ...]:
    """The presets among some names, each once; "tool" stands for that of the session's own tool."""
    named = [tool if name == TOOL else name for name in names]
    return tuple(dict.fromkeys(name for name in named if name in PRESETS))


@dataclass(frozen=True)
class Policy:
    """The hosts that a session may reach."""

    mode: str = OPEN
    allow: tuple[str, ...] = ()  # entries
    presets: tuple[str, ...] = ()  # names of PRESETS
    has_proxy: bool = False  # programs of this run know the proxy, so it stays, also in mode `open`
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # a person's network devices, set aside

    @classmethod
    def configured(cls, config: clincus.Config, tool: str) -> Policy:
        """The policy of a configuration for a session of a tool."""
        return cls(
            config.get("network.mode"),
            tuple(config.get("network.allow")),
            known_presets(config.get("network.presets"), tool),
        )

    @classmethod
    def from_label(cls, label: str) -> Policy:
        """The policy in a session's label. A session without a label is of an older Clincus, and open.

        A label that cannot be read allows nothing.
        """
        try:
            kept: Mapping[str, Any] = clincus.parse_json(label or "{}")
            mode = kept.get("mode", OPEN)
            allow = tuple(check_entry(one) for one in kept.get("allow", ()))
            presets = tuple(one for one in kept.get("presets", ()) if one in PRESETS)
            own = {str(name): dict(device) for name, device in kept.get("own", {}).items()}
            has_proxy = kept.get("has_proxy") is True
            return cls(mode if mode in MODES else NONE, allow, presets, has_proxy, own)
        except (ValueError, TypeError, AttributeError):
            return cls(NONE)

    def label(self) -> str:
        """The text for `from_label`."""
        kept = {one.name: getattr(self, one.name) for one in fields(self)}
        return json.dumps({name: value for name, value in kept.items() if value}, sort_keys=True)

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """All names that it allows, with those of the presets."""
        texts = list(self.allow)
        for name in self.presets:
            texts += PRESETS[name].hosts
        return [Entry.read(text) for text in texts]

    @property
    def has_way(self) -> bool:
        """True if connections go through the proxy."""
        return self.has_proxy and self.mode != NONE

    def allows(self, host: str, port: int) -> bool:
        """True if the proxy may pass a connection; `host` in the form of `plain_host`."""
        if self.mode == ALLOW_LIST:
            return any(entry.fits(host, port) for entry in self.entries)
        return self.mode == OPEN


def bounded(entries: Iterable[str]) -> list[str]:
    """Entries, each once. Raises ClincusError(400) for too many."""
    unique = list(dict.fromkeys(entries))
    if len(unique) > MOST_ENTRIES:
        problem = f"at most {MOST_ENTRIES} names can be allowed: use *. for those of one owner"
        raise clincus.ClincusError(problem, 400)
    return unique
