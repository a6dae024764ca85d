"""Policies: the mode of a session's network, and the names that it allows. Pure.

A policy is kept on the instance, as the label `user.clincus.network`, so that every server knows it.
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

OPEN, ALLOW_LIST, NONE = MODES = ("open", "allow-list", "none")
WEB_PORTS = (443, 80)  # those of an entry that names no port
MOST_ENTRIES = 200
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_ENTRY = re.compile(r"(\*\.)?([^:*]+)(?::([0-9]{1,5}))?")


class AddressError(ValueError):
    """A host was given by its address."""


def plain_host(text: str) -> str:
    """A name in its one form: small letters, without the dot at the end.

    Raises ValueError for what is no name, AddressError for an address of IPv4.
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
    is_wild: bool = False  # all names below the host, and not itself
    port: int = 0  # 0 for those of the web

    @classmethod
    def read(cls, text: str) -> Entry:
        """Read `pypi.org`, `*.github.com` or `host:8443`. Raises ValueError with words."""
        match = _ENTRY.fullmatch(text)
        if not match:
            raise ValueError(f"{clincus.shorten(text)} is no name: write pypi.org, *.github.com or host:8443")
        host, port = plain_host(match[2]), int(match[3] or 0)
        if match[3] and not 1 <= port <= 65535:
            raise ValueError(f"{clincus.shorten(text)}: a port is from 1 to 65535")
        if match[1] and "." not in host:
            raise ValueError(f"{clincus.shorten(text)} is half of the internet: write more of the name")
        return cls(host, bool(match[1]), port)

    def fits(self, host: str, port: int) -> bool:
        """Whether it allows a name, in the form of `plain_host`, and a port."""
        is_name = host.endswith(f".{self.host}") if self.is_wild else host == self.host
        return is_name and (port == self.port if self.port else port in WEB_PORTS)


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


@dataclass(frozen=True)
class Policy:
    """The rule for what a session may reach."""

    mode: str = OPEN
    allow: tuple[str, ...] = ()  # entries
    presets: tuple[str, ...] = ()  # names of PRESETS
    has_proxy: bool = False  # programs of this run were told of the proxy: it stays, also when all is open
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # network devices of a person's, set aside

    @classmethod
    def configured(cls, config: clincus.Config, tool: str) -> Policy:
        """The policy that a configuration has for a session of a tool."""
        named = [tool if one == TOOL else one for one in config.get("network.presets")]
        presets = dict.fromkeys(one for one in named if one in PRESETS)
        return cls(config.get("network.mode"), tuple(config.get("network.allow")), tuple(presets))

    @classmethod
    def from_label(cls, label: str) -> Policy:
        """The policy of a session's label; of one without a label, which an older Clincus made, it is open.

        A label that cannot be read allows nothing.
        """
        try:
            kept: Mapping[str, Any] = clincus.parse_json(label or "{}")
            mode = kept.get("mode", OPEN)
            allow = tuple(check_entry(one) for one in kept.get("allow", ()))
            presets = tuple(one for one in kept.get("presets", ()) if one in PRESETS)
            own = {str(name): dict(device) for name, device in kept.get("own", {}).items()}
            return cls(mode if mode in MODES else NONE, allow, presets, kept.get("has_proxy") is True, own)
        except (ValueError, TypeError, AttributeError):
            return cls(NONE)

    def label(self) -> str:
        """The text from which `from_label` reads it."""
        kept = {one.name: getattr(self, one.name) for one in fields(self)}
        return json.dumps({name: value for name, value in kept.items() if value}, sort_keys=True)

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """All names that it allows, those of the presets included."""
        texts = [*self.allow, *(host for name in self.presets for host in PRESETS[name].hosts)]
        return [Entry.read(text) for text in texts]

    def allows(self, host: str, port: int) -> bool:
        """Whether the proxy may pass a connection; `host` in the form of `plain_host`."""
        return self.mode == OPEN or (self.mode == ALLOW_LIST and any(one.fits(host, port) for one in self.entries))


def bounded(entries: Iterable[str]) -> list[str]:
    """Entries, each once. Raises ClincusError(400) for too many."""
    found = list(dict.fromkeys(entries))
    if len(found) > MOST_ENTRIES:
        raise clincus.ClincusError(f"at most {MOST_ENTRIES} names can be allowed: use *. for those of one owner", 400)
    return found
