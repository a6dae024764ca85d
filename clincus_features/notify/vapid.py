"""Identifies this server to push services: VAPID (RFC 8292), signed by the `openssl` command.

No key leaves its file.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

import clincus

LIFETIME = 12 * 3600  # seconds of a token; push services accept 24 hours at most
RENEW = LIFETIME / 2  # a token with more seconds than this left is used again
TIMEOUT = 10.0  # seconds for `openssl`


class Key(NamedTuple):
    """The server's key pair on the curve P-256."""

    path: str  # of the private key, PEM
    public: str  # the uncompressed point in base64url, the form that browsers expect


def key_file(environ: Mapping[str, str]) -> str:
    """The path of the private key."""
    return clincus.own_file(environ, "push-key.pem")


def openssl(environ: Mapping[str, str], *words: str, stdin: bytes = b"") -> bytes:
    """Run `openssl` and return its output. Raises ClincusError: 503 if it is missing, its own words if it fails."""
    import shutil

    program = shutil.which("openssl", path=environ.get("PATH"))
    if program is None:
        raise clincus.ClincusError("push needs the program `openssl`: install it (apt-get install openssl)", 503)
    done = clincus.run_child([program, *words], stdin=stdin, timeout=TIMEOUT)
    if done.code:
        raise clincus.ClincusError(f"`openssl {words[0]}` failed: {done.reason}")
    return done.stdout


_keys: dict[str, Key] = {}  # by path: read once


def load_key(environ: Mapping[str, str]) -> Key:
    """The server's key, made once, since all devices are bound to it. Raises ClincusError."""
    path = key_file(environ)
    if path not in _keys or not os.path.exists(path):
        with clincus.locked_folder(clincus.state_directory(environ)):
            if not os.path.exists(path):
                made = openssl(environ, "ecparam", "-name", "prime256v1", "-genkey", "-noout")
                clincus.replace_file(path, made, 0o600)
        point = b""
        try:
            point = openssl(environ, "ec", "-in", path, "-pubout", "-outform", "DER")[-65:]
        except clincus.ClincusError as error:
            if error.status == 503:
                raise
        if point[:1] != b"\x04" or len(point) != 65:
            raise clincus.ClincusError(
                f"{path} is torn, or no key of the curve P-256: move it away, and subscribe all devices again"
            )
        _keys[path] = Key(path, encode(point))
    return _keys[path]


_tokens: dict[tuple[str, str, str], tuple[float, str]] = {}  # key, audience, contact -> end and token
_lock = threading.Lock()


def authorization(environ: Mapping[str, str], audience: str, contact: str) -> str:
    """The Authorization header for a push service: `audience` is its origin, `contact` a URL of the sender."""
    key = load_key(environ)
    with _lock:
        end, token = _tokens.get((key.public, audience, contact), (0.0, ""))
        if end - time.time() < RENEW:
            end = time.time() + LIFETIME
            claims = {"aud": audience, "exp": int(end), "sub": contact}
            token = signed_token(environ, key, claims)
            _tokens[key.public, audience, contact] = (end, token)
    return f"vapid t={token}, k={key.public}"


def signed_token(environ: Mapping[str, str], key: Key, claims: Mapping[str, object]) -> str:
    """A JSON Web Token (RFC 7519), signed with ES256. Raises ClincusError."""
    header = {"typ": "JWT", "alg": "ES256"}
    signed = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
    signature = openssl(environ, "dgst", "-sha256", "-sign", key.path, stdin=signed.encode())
    return f"{signed}.{encode(raw_signature(signature))}"


def encode(data: bytes) -> str:
    """Base64url without padding (RFC 7515, 2)."""
    import base64

    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_signature(der: bytes) -> bytes:
    """A signature in the form of JOSE, r and s of 32 bytes each (RFC 7518, 3.4), from DER (RFC 3279, 2.2.3)."""
    numbers = []
    rest = der[2:]
    while len(rest) > 2 and rest[0] == 2:
        end = 2 + rest[1]
        numbers.append(int.from_bytes(rest[2:end], "big"))
        rest = rest[end:]
    if der[:1] != b"\x30" or len(numbers) != 2 or rest:
        raise clincus.ClincusError("`openssl` gave a signature that is none of ES256")
    return b"".join(number.to_bytes(32, "big") for number in numbers)
