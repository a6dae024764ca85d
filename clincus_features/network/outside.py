"""The proxy by which this host reaches the internet, from its variables, for images and sessions.

An image is copied to other hosts and is visible to every session, so it holds no password of a proxy. A session with an
open network gets the password at its start, from the variables of the program that starts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import clincus

from .policy import OPEN, Policy

NAMES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")


def proxy_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The host's proxy variables that make sense in a container, in lower case; a proxy on loopback does not.

    They may hold a password: hand them over in a file or on stdin, never in an argument list.
    """
    settings = {}
    for name in NAMES:
        value = environ.get(name) or environ.get(name.upper()) or ""
        address = value if "://" in value else f"//{value}"
        host = urlsplit(address).hostname or ""
        is_loopback = host.startswith("127.") or host in ("localhost", "::1")
        if value and (name == "no_proxy" or not is_loopback):
            settings[name] = value
    return settings if set(settings) - {"no_proxy"} else {}


def has_user(proxy: str) -> bool:
    """True if the address of a proxy names a user, and so may hold a password."""
    return "@" in proxy


def without_user(proxy: str) -> str:
    """The address of a proxy without user and password. All before the last @ goes: a password may hold others."""
    scheme, separator, rest = proxy.partition("://")
    if not separator:
        return proxy.rpartition("@")[2]
    return f"{scheme}://{rest.rpartition('@')[2]}"


def in_both_cases(settings: Mapping[str, str]) -> dict[str, str]:
    """Variables under their names in small and in capital letters: programs read either."""
    return {**settings, **{name.upper(): value for name, value in settings.items()}}


def session_variables(environ: Mapping[str, str], session: clincus.Session, launch: clincus.Launch) -> dict[str, str]:
    """The proxy variables of an open session on this host, if the image lacks them because they hold a password."""
    settings = proxy_settings(environ)
    is_open = Policy.configured(launch.config, session.tool).mode == OPEN
    if session.engine or not is_open or not any(map(has_user, settings.values())):
        return {}
    return in_both_cases(settings)
