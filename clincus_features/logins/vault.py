"""The values of logins while they are in use: read when they are needed, and forgotten when they expire."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Union

import clincus

from .renewal import EARLY
from .settings import Login
from .sources import Secret, SourceError, read_secret

TRY_AGAIN = 5.0  # seconds after a failure: an agent must not make a command run all the time
AT_ONCE = 4  # values that are read at the same time
REVOKED_FILE = "revoked-logins.json"
LIMIT = 64 << 10  # bytes of that file

Found = Union[Secret, SourceError]
Taker = Callable[[Found], None]


class Kept(NamedTuple):
    """The result of reading a source."""

    login: Login
    found: Found
    until: float  # time.monotonic


class State(NamedTuple):
    """The state of a login, without reading it."""

    state: str = ""  # good, failed, missing, expired, or "" while nobody has read it
    error: str = ""
    last_used: str = ""  # RFC 3339, "" for never
    good_until: float = 0.0  # seconds since 1970, 0.0 if nobody knows


class Vault:
    """Reads values in threads of its own, and passes them to the waiting callers."""

    def __init__(
        self,
        environ: Mapping[str, str],
        read: Callable[[Login, Mapping[str, str]], Secret] = read_secret,
    ) -> None:
        self._environ = environ
        self._read = read
        self._lock = threading.Lock()  # guards the fields below
        self._kept: dict[str, Kept] = {}  # by the names of logins
        self._takers: dict[str, list[tuple[Login, Taker]]] = {}  # of logins that are being read
        self._states: dict[str, State] = {}
        self._slots = threading.BoundedSemaphore(AT_ONCE)

    def ask(self, login: Login, take: Taker, *, fresh: bool = False) -> None:
        """Call `take` with the value of a login or the reason why it cannot be read, at once or later in a thread.

        With `fresh` the source is read again.
        """
        with self._lock:
            kept = None if fresh else self._known(login)
            if kept is None:
                waiting = self._takers.get(login.name)
                if waiting is not None:
                    waiting.append((login, take))
                    return
                self._takers[login.name] = [(login, take)]
        if kept is not None:
            take(kept)
            return
        threading.Thread(target=self._work, args=(login,), name="reading a login", daemon=True).start()

    def check(self, login: Login) -> Found:
        """Read a value now, and wait for it."""
        found: list[Found] = []
        is_there = threading.Event()

        def take(one: Found) -> None:
            found.append(one)
            is_there.set()

        self.ask(login, take, fresh=True)
        is_there.wait()
        return found[0]

    def used(self, login: Login) -> None:
        """Note that a value was sent."""
        with self._lock:
            known = self._states.get(login.name, State())
            self._states[login.name] = known._replace(last_used=clincus.utc_now())

    def forget(self, name: str) -> None:
        """Forget a value, for example because its server refuses it: the next use reads it again."""
        with self._lock:
            self._kept.pop(name, None)

    def state(self, name: str) -> State:
        """The state of a login."""
        with self._lock:
            return self._states.get(name, State())

    def _known(self, login: Login) -> Found | None:
        kept = self._kept.get(login.name)
        return kept.found if kept and kept.login == login and time.monotonic() < kept.until else None

    def _work(self, login: Login) -> None:
        with self._slots:
            found: Found
            try:
                found = self._read(login, self._environ)
            except SourceError as error:
                found = error
            except Exception:
                clincus.log.exception("reading the login %s failed", login.name)
                found = SourceError("it cannot be read: see the server's log")
        patience = TRY_AGAIN if isinstance(found, SourceError) else min(login.keep, time_left(found))
        with self._lock:
            self._kept[login.name] = Kept(login, found, time.monotonic() + patience)
            state = found.state if isinstance(found, SourceError) else "good"
            words = found.message if isinstance(found, SourceError) else ""
            until = 0.0 if isinstance(found, SourceError) else found.good_until
            known = self._states.get(login.name, State())
            self._states[login.name] = State(state, words, known.last_used, until)
            takers = self._takers.pop(login.name)
        timer = threading.Timer(patience, self._drop, (login.name,))
        timer.daemon = True
        timer.start()
        for wanted, take in takers:
            if wanted == login:
                take(found)
            else:  # the configuration has changed meanwhile
                self.ask(wanted, take)

    def _drop(self, name: str) -> None:
        """Forget an expired value; a newer one has its own time."""
        with self._lock:
            kept = self._kept.get(name)
            if kept and time.monotonic() >= kept.until:
                del self._kept[name]


def time_left(secret: Secret) -> float:
    """The seconds for which a value may be used before it is renewed."""
    return max(0.0, secret.good_until - EARLY - time.time()) if secret.good_until else math.inf


# -- Revoked


def revoked(environ: Mapping[str, str]) -> frozenset[str]:
    """The names of the logins that no session may use. Raises ConfigError if they cannot be read."""
    data = clincus.read_plain_file(clincus.own_file(environ, REVOKED_FILE), LIMIT)
    if data is None:
        return frozenset()
    try:
        names = json.loads(data)
    except ValueError:
        names = None
    if not isinstance(names, list):
        path = clincus.own_file(environ, REVOKED_FILE)
        raise clincus.ConfigError(f"{path} is torn: no login is lent until you remove it, or revoke one anew", 500)
    return frozenset(map(str, names))


def set_revoked(environ: Mapping[str, str], name: str, *, is_revoked: bool) -> None:
    """Revoke a login for all sessions, or allow it again. Raises ClincusError."""
    with clincus.locked_folder(clincus.state_directory(environ)):
        try:
            names = set(revoked(environ))
        except clincus.ConfigError:
            if not is_revoked:
                raise
            names = set()
        names = names | {name} if is_revoked else names - {name}
        text = json.dumps(sorted(names)) + "\n"
        clincus.replace_file(clincus.own_file(environ, REVOKED_FILE), text.encode(), 0o600)


class Revocations:
    """The file of revoked logins, read again when it has changed: another server may have written it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._mark: object = ()
        self._names: frozenset[str] | None = frozenset()  # None: they cannot be read

    def holds(self, name: str) -> bool:
        """True if a login is revoked."""
        path = clincus.own_file(self._environ, REVOKED_FILE)
        mark = clincus.config_fingerprint([path])
        if mark != self._mark:
            try:
                self._names = revoked(self._environ)
            except clincus.ConfigError as error:
                clincus.log.warning("%s", error)
                self._names = None
            self._mark = mark
        return self._names is None or name in self._names
