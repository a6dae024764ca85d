"""The token and the addresses of `serve`: they decide who may connect besides this machine's user."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress

import clincus

# Wrong tokens are not counted: a peer that guesses must never keep out a peer that knows the token. So the token must
# be too long to guess: 22 characters of base64 hold 128 random bits.
TOKEN_FORM = r"[!-~]{22,256}"


def load_token(path: str | None, environ: Mapping[str, str]) -> str:
    """The token that admits people from elsewhere: from the file `path`, else CLINCUS_TOKEN, else "".

    A missing file is made with a fresh token, for its owner only. Raises ClincusError(400).
    """
    token = environ.get("CLINCUS_TOKEN", "")
    source = "CLINCUS_TOKEN"
    if path:
        token = _read_token_file(os.path.abspath(path))
        source = f"the token file {clincus.shorten(path)}"
    if (path or token) and not re.fullmatch(TOKEN_FORM, token):
        advice = ": delete it, and a token is made" if path else ""
        raise clincus.ClincusError(f"{source} must hold 22 to 256 printable characters without blanks{advice}", 400)
    return token


def _read_token_file(path: str) -> str:
    import secrets

    try:
        with suppress(FileExistsError):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
            raise clincus.ClincusError(f"others can read the token file {clincus.shorten(path)}: chmod 600 it", 400)
        return (clincus.read_text(path, 1024) or "").strip()
    except OSError as error:
        words = f"the token file {clincus.shorten(path)} cannot be used: {error.strerror}"
        raise clincus.ClincusError(words, 400) from error


def listen_hosts(host: str | None, gate: clincus.Gate) -> Sequence[str]:
    """The addresses to listen on: loopback, and what the user named. Raises ClincusError for that without a token."""
    host = (host or "localhost").strip("[]")
    if host == "localhost":
        return clincus.LOOPBACK
    if not clincus.is_loopback(host) and not gate.token:
        raise clincus.ClincusError(
            f"--host {host} would let other machines in, so it needs a token: add --token-file ~/.clincus/token "
            "(it is made if missing), or set CLINCUS_TOKEN",
            400,
        )
    return (host, *clincus.LOOPBACK) if leaves_out_loopback(host) else (host,)


def leaves_out_loopback(host: str) -> bool:
    """True for an address at which the commands of this machine, which go to loopback, would find no server."""
    import ipaddress

    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name, which may be one of loopback
        return False
    return not (address.is_loopback or address.is_unspecified)
