"""Reads the value of a login from its source: a file of the user's own, a variable of the server, or a command.

No error contains a value or any output of a source, since the words go to logs and to the page.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

import clincus

from .settings import Login

COMMAND_WITHIN = 30.0  # seconds: a password manager may ask a person
LEAST, MOST = 8, 8192  # characters of a value; a shorter one would be found in answers by chance


class Secret:
    """The value of a login. Only `reveal` shows it."""

    __slots__ = ("_value", "good_until")

    def __init__(self, value: str, good_until: float = 0.0) -> None:
        """`good_until` is in seconds since 1970, 0.0 if nobody knows."""
        self._value = value
        self.good_until = good_until

    def reveal(self) -> str:
        """The value itself."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written down")


class SourceError(clincus.ClincusError):
    """A value cannot be read; `state` is the state in the API."""

    def __init__(self, message: str, state: str = "failed") -> None:
        super().__init__(message, 409)
        self.state = state


def read_secret(login: Login, environ: Mapping[str, str]) -> Secret:
    """The value of a login, read now. It may take COMMAND_WITHIN. Raises SourceError."""
    if login.source == "file":
        data = read_file(clincus.expand(login.place, environ))
    elif login.source == "env":
        data = os.fsencode(environ.get(login.place, ""))
        if not data:
            raise SourceError(f"the server was started without the variable {login.place}", "missing")
    else:
        data = run_command(login.place, environ)
    return checked(data, f"the {'variable' if login.source == 'env' else login.source}")


def read_file(path: str) -> bytes:
    """A file that nobody else can read or write. A link to one is fine. Raises SourceError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise SourceError(f"there is no file {path}", "missing") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    try:
        check_owner(path, os.fstat(descriptor))
        return os.read(descriptor, MOST + 3)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def check_owner(path: str, found: os.stat_result) -> None:
    """Raise SourceError unless it is a file that its user alone can read and write."""
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(f"{path} is no file: name one")
    if found.st_uid not in (0, os.geteuid()):
        raise SourceError(f"{path} belongs to somebody else: use a file of yours")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise SourceError(f"others may read or write {path}: chmod 600 {path}")


def run_command(words: list[str], environ: Mapping[str, str]) -> bytes:
    """The output of a command of the user's. Raises SourceError."""
    program = words[0]
    try:
        with clincus.Child(words, timeout=COMMAND_WITHIN, environ=environ, cwd=clincus.expand("~", environ)) as child:
            done = child.complete(limit=64 << 10)
    except clincus.ChildError as error:
        failure = f"took longer than {COMMAND_WITHIN:.0f} s" if error.status == 504 else "cannot be run"
        raise SourceError(f"the command `{program} …` {failure}: try it in a terminal") from None
    if done.code:
        raise SourceError(f"the command `{program} …` ended with code {done.code}: try it in a terminal")
    if not done.stdout.strip():
        raise SourceError(f"the command `{program} …` printed nothing: try it in a terminal", "missing")
    return done.stdout


def checked(data: bytes, origin: str) -> Secret:
    """The value in the output of a source, without the line break. Raises SourceError."""
    value = re.sub(rb"\r?\n\Z", b"", data)
    if not value:
        raise SourceError(f"{origin} is empty: put the secret there", "missing")
    if len(value) > MOST:
        raise SourceError(f"{origin} has more than {MOST} characters: put the secret alone there")
    if not re.fullmatch(rb"[\x21-\x7e]+", value):
        raise SourceError(
            f"{origin} must hold the secret alone: one line of ASCII letters, digits and signs, no blanks"
        )
    if len(value) < LEAST:
        raise SourceError(f"{origin} has fewer than {LEAST} characters: put the whole secret there")
    return Secret(value.decode("ascii"))
