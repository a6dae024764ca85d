"""The logins that their vendor renews, in the tools' files on this host: reads them, and renews them when they expire.

A refresh token is good for one use. Clincus therefore sends it under two locks, one of all servers of this user and the
tool's own, and reads the file again before that: another program may have written a newer token into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import clincus

from .settings import Login
from .sources import Secret, SourceError, check_owner
from .vendors import Tokens, UnreadableError, Vendor

EARLY = 300.0  # seconds before its end that a login is renewed
YOUNG = 60.0  # seconds after a change of the file in which a refusal is no reason to renew: an agent can provoke one
PAUSE = 30.0  # seconds after a failure before the vendor is asked again
LOCK_WITHIN = 30.0  # seconds for another server to renew
ANSWER_WITHIN = 8.0  # seconds for the vendor; less than a lock of the tool holds without a sign of life
STALE = 10.0  # seconds after which such a lock counts as left behind (proper-lockfile's own default)
TRIES = 5  # readings of an incomplete file
MOMENT = 0.05  # seconds between two of them
FILE_LIMIT = 256 << 10  # bytes

Post = Callable[[str, Mapping[str, str]], "tuple[int, bytes]"]


class Renewal:
    """Reads the logins of vendors, and renews them."""

    def __init__(
        self,
        environ: Mapping[str, str],
        post: Post | None = None,
        on_renewed: Callable[[Vendor, float], None] = lambda vendor, good_until: None,
    ) -> None:
        self._environ = environ
        self._post = post or post_json
        self._on_renewed = on_renewed
        self._refused: dict[str, str] = {}  # file -> the digest of an access token that the vendor rejected
        self._spent: dict[str, tuple[str, float, SourceError]] = {}  # file -> a refresh token, when and why it failed

    def path(self, vendor: Vendor) -> str:
        """The file of the tool on this host, which may be behind a link."""
        variable, usual = vendor.folder
        folder = self._environ.get(variable) or usual
        return os.path.realpath(os.path.join(clincus.expand(folder, self._environ), vendor.file))

    def document(self, login: Login) -> dict[str, Any]:
        """The tool's document, from which the container's part is made.

        Raises SourceError if the tool has no login here.
        """
        return self._load(vendor_of(login))[0]

    def read(self, login: Login) -> Secret:
        """The value of a login, which is renewed first if necessary. That may take a minute. Raises SourceError."""
        vendor = vendor_of(login)
        path = self.path(vendor)
        _, tokens = self._load(vendor)
        if not self._is_due(path, tokens):
            return Secret(tokens.access, tokens.good_until)
        try:
            return self._renew(vendor, path)
        except SourceError:
            if time.time() < tokens.good_until and self._refused.get(path) != digest(tokens.access):
                return Secret(tokens.access, tokens.good_until)  # it is still valid for some minutes
            raise

    def refuse(self, login: Login, secret: Secret) -> None:
        """A vendor rejected a value: it is renewed at the next use, unless it is brand-new."""
        path = self.path(vendor_of(login))
        with suppress(OSError):
            if time.time() - os.stat(path).st_mtime > YOUNG:
                self._refused[path] = digest(secret.reveal())

    def _is_due(self, path: str, tokens: Tokens) -> bool:
        is_refused = self._refused.get(path) == digest(tokens.access)
        return is_refused or tokens.good_until - time.time() < EARLY

    def _load(self, vendor: Vendor) -> tuple[dict[str, Any], Tokens]:
        """The file and its tokens. A tool that writes it in two steps has a moment to finish. Raises SourceError."""
        for _ in range(TRIES - 1):
            try:
                return self._load_now(vendor)
            except SourceError:
                time.sleep(MOMENT)
        return self._load_now(vendor)

    def _load_now(self, vendor: Vendor) -> tuple[dict[str, Any], Tokens]:
        path = self.path(vendor)
        try:
            data = clincus.read_plain_file(path, FILE_LIMIT)
            if data is None:
                raise SourceError(f"there is no login on this host ({path}): run {vendor.tool}", "missing")
            check_owner(path, os.stat(path))
            document = clincus.as_object(clincus.parse_json(data))
            return document, vendor.read(document)
        except (clincus.ConfigError, OSError) as error:
            raise SourceError(str(error)) from None
        except UnreadableError as error:
            words = f"{path} holds no login that can be lent: {error}. Run {vendor.tool}"
            raise SourceError(words, "missing") from None
        except ValueError:
            raise SourceError(f"{path} is no JSON: run {vendor.tool}") from None

    def _renew(self, vendor: Vendor, path: str) -> Secret:
        try:
            with clincus.locked_folder(clincus.own_file(self._environ, "logins"), LOCK_WITHIN):
                folder = os.path.dirname(path)
                if not vendor.has_folder_lock:
                    return self._renew_alone(vendor, path)
                with folder_lock(folder):
                    return self._renew_alone(vendor, path)
        except SourceError:
            raise
        except clincus.ClincusError as error:
            raise SourceError(error.message) from None

    def _renew_alone(self, vendor: Vendor, path: str) -> Secret:
        document, tokens = self._load(vendor)
        if not self._is_due(path, tokens):
            return Secret(tokens.access, tokens.good_until)
        self._check_spent(path, tokens)
        with place_for(path) as write:  # a full disk must not lose what the vendor gives once
            try:
                fresh = self._ask(vendor, document, tokens)
            except SourceError as error:
                self._spent[path] = (digest(tokens.refresh), time.time(), error)
                raise
            write(fresh)
        clincus.log.info("%s is renewed", path)
        new = vendor.read(fresh)
        self._on_renewed(vendor, new.good_until)
        return Secret(new.access, new.good_until)

    def _check_spent(self, path: str, tokens: Tokens) -> None:
        """Raise the last failure again if it is recent, or if the vendor called it final."""
        token, at, error = self._spent.get(path, ("", 0.0, None))
        if error and token == digest(tokens.refresh) and (error.state == "expired" or time.time() < at + PAUSE):
            raise error

    def _ask(self, vendor: Vendor, document: Mapping[str, Any], tokens: Tokens) -> dict[str, Any]:
        """The file with new tokens. Raises SourceError, whose words contain nothing from the vendor."""
        asked = {"grant_type": "refresh_token", "refresh_token": tokens.refresh, "client_id": vendor.client}
        status, body = self._post(vendor.token_url, {**asked, **vendor.request(document)})
        if status in (400, 401, 403):
            words = f"its vendor does not renew it any more (status {status}): run {vendor.tool} on this host"
            raise SourceError(words, "expired")
        if status != 200:
            raise SourceError(f"its vendor cannot renew it just now (status {status})")
        try:
            fresh = vendor.renewed(document, clincus.as_object(clincus.parse_json(body)), time.time())
            vendor.read(fresh)
        except ValueError:
            raise SourceError("its vendor's answer cannot be read: update Clincus") from None
        return fresh


def vendor_of(login: Login) -> Vendor:
    """The vendor of a login that is lent."""
    assert login.vendor
    return login.vendor


def digest(token: str) -> str:
    """The digest by which a token is remembered."""
    return hashlib.sha256(token.encode()).hexdigest()


@contextmanager
def place_for(path: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Give the block a function that replaces a file's document; the space on the disk is reserved before.

    Raises SourceError if the disk is full. The file keeps its owner and mode.
    """
    folder, name = os.path.split(path)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.clincus-", dir=folder)
    except OSError as error:
        raise SourceError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        with open(descriptor, "wb") as stream:
            old = os.stat(path)
            os.fchown(descriptor, old.st_uid, old.st_gid)
            os.posix_fallocate(descriptor, 0, FILE_LIMIT)

            def write(document: Mapping[str, Any]) -> None:
                stream.write(json.dumps(document).encode())
                stream.truncate()
                stream.flush()
                os.fsync(descriptor)
                os.replace(temporary, path)

            yield write
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


@contextmanager
def folder_lock(folder: str) -> Iterator[None]:
    """Lock a folder as npm's proper-lockfile does: FOLDER.lock is created, and its time shows that its owner lives.

    Raises SourceError if another program holds it for too long.
    """
    path = f"{folder}.lock"
    deadline = time.monotonic() + LOCK_WITHIN
    while True:
        try:
            os.mkdir(path)
            break
        except FileExistsError:
            with suppress(OSError):
                if time.time() - os.lstat(path).st_mtime > STALE:
                    os.rmdir(path)
                    continue
        except OSError as error:
            raise SourceError(f"{path} cannot be made: {error.strerror}") from None
        if time.monotonic() > deadline:
            raise SourceError(f"another program has locked {folder}: end it, or remove {path}")
        time.sleep(0.1)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.rmdir(path)


def post_json(url: str, document: Mapping[str, str]) -> tuple[int, bytes]:
    """Status and body of a vendor's answer to a POST request. Raises SourceError without an answer."""
    fields = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "clincus"}
    try:
        return clincus.post(url, fields, json.dumps(document).encode(), timeout=ANSWER_WITHIN, limit=FILE_LIMIT)
    except clincus.ClincusError as error:
        raise SourceError(f"its vendor gives {error.message}") from None
