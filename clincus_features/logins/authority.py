"""The certificates of one session: an authority that vouches only for the hosts of its logins, and one server key.

`openssl` makes them; nothing here does cryptography. The authority signs one certificate, for all hosts, and its key
exists only in the process that made it: it is in no file, so nobody can steal it later. The key of the certificate
stays, in a folder in memory that only this user can enter; before a session takes it, in the memory of the server
alone. The next server of this user uses it too, since a tool reads the authorities that it trusts once, when it starts.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import clincus

from .settings import Host

LIFETIME = 397  # days: the longest time that today's clients accept for a server
TIMEOUT = 20.0  # seconds for one run of `openssl`
SPARES = 8  # sets of hosts for which certificates are made before a run asks
SPARE_FOR = 86400.0  # seconds in which a run takes them: their lifetime has begun
SERIAL_BITS = 63
NOBODY = "clincus.invalid"
# Memory, in order of preference; the first one is the user's own.
PLACES = ("/run/user/{uid}", "/dev/shm")
IN_MEMORY = ("tmpfs", "ramfs")
# The name by which OpenSSL looks for an authority: `openssl x509 -subject_hash`, of a subject that is always the same.
SUBJECT_HASH = "72492839"
OWNER_LIMIT = 1024  # bytes of the first line of a file


class Certificates(NamedTuple):
    """The certificates that a session's proxy shows, in PEM."""

    authority: str  # the certificate that the container trusts
    chain: str  # that of the hosts, and the authority's
    key: str  # that of the hosts

    def __repr__(self) -> str:
        return "<certificates>"


class Spare(NamedTuple):
    """Certificates that no run has yet."""

    made_at: float  # seconds since 1970
    certificates: Certificates


class Owner(NamedTuple):
    """The owner of certificates."""

    id: str  # of a session
    place: str  # names its Incus, and the folder of Clincus's own files: those of other places are left alone


def openssl(environ: Mapping[str, str], *words: str, stdin: str = "") -> str:
    """Run `openssl` and return its output. Keys go in and out by pipes. Raises ClincusError: 503 if it is missing."""
    program = shutil.which("openssl", path=environ.get("PATH"))
    if program is None:
        raise clincus.ClincusError("logins need the program `openssl`: install it (apt-get install openssl)", 503)
    done = clincus.run_child([program, *words], stdin=stdin.encode(), timeout=TIMEOUT, environ=environ)
    if done.code:
        raise clincus.ClincusError(f"`openssl {words[0]}` failed: {done.reason}")
    return done.stdout.decode("ascii", "replace")


def make_certificates(hosts: Iterable[Host], environ: Mapping[str, str], folder: str) -> Certificates:
    """New certificates for hosts, by three runs of `openssl`. `folder` gets no secret. Raises ClincusError."""
    hosts = sorted(set(hosts))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as work:
        said = openssl(environ, *new_key("-x509", "-days", str(LIFETIME)), stdin=authority_request(hosts))
        authority_key, authority = split_pem(said)
        said = openssl(environ, *new_key(), stdin=plain_request())
        key, request = split_pem(said)
        for name, text in (("authority", authority), ("request", request), ("extensions", server_extensions(hosts))):
            with open(f"{work}/{name}", "w", encoding="ascii") as file:
                file.write(text)
        certificate = openssl(
            environ,
            *("x509", "-req", "-in", f"{work}/request", "-CA", f"{work}/authority", "-CAkey", "/dev/stdin"),
            *("-extfile", f"{work}/extensions", "-days", str(LIFETIME), "-sha256", "-set_serial", new_serial()),
            stdin=authority_key,
        )
    return Certificates(authority, certificate + authority, key)


def new_key(*words: str) -> Sequence[str]:
    """The words for a new key and a request for it, or with `-x509` a certificate of its own; both go to stdout."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/stdout")
    serial = ("-set_serial", new_serial()) if words else ()
    return ("req", "-new", *words, *serial, "-config", "/dev/stdin", "-sha256", *curve)


def new_serial() -> str:
    """A serial number that no other certificate has."""
    return hex(1 << SERIAL_BITS | int.from_bytes(os.urandom(SERIAL_BITS // 8), "big"))


def plain_request() -> str:
    """The configuration of an empty request: the content of a certificate is decided when it is signed.

    GnuTLS would take a CN for the name of a host, which the authority may not vouch for.
    """
    return "[req]\nprompt = no\ndistinguished_name = name\n[name]\nO = Clincus\n"


def authority_request(hosts: Sequence[Host]) -> str:
    """The configuration of the authority's certificate. It may vouch for the hosts, and for no address or other name.

    RFC 5280, 4.2.1.10: a kind of name without a constraint would be free. Mail and URIs are confined to a name that
    nobody has (RFC 2606), since GnuTLS takes no certificate that excludes all of them.
    """
    permitted = "".join(f"permitted;DNS.{number} = {name}\n" for number, name in enumerate(plain_names(hosts)))
    permitted += f"permitted;email.0 = {NOBODY}\npermitted;URI.0 = {NOBODY}\n"
    excluded = "excluded;IP.0 = 0.0.0.0/0.0.0.0\nexcluded;IP.1 = 0:0:0:0:0:0:0:0/0:0:0:0:0:0:0:0\n"
    return (
        "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = authority\n"
        "[name]\nO = Clincus\nCN = Clincus: logins of one session\n"
        "[authority]\nbasicConstraints = critical,CA:TRUE,pathlen:0\nkeyUsage = critical,keyCertSign\n"
        "subjectKeyIdentifier = hash\nnameConstraints = critical,@names\n"
        f"[names]\n{permitted}{excluded}"
    )


def plain_names(hosts: Iterable[Host]) -> list[str]:
    """The names of hosts, each once; a name stands for those below it too, so a wild one needs no other."""
    return sorted({host.name for host in hosts})


def server_extensions(hosts: Sequence[Host]) -> str:
    """The configuration for the content of the hosts' certificate."""
    names = ",".join(sorted({f"DNS:{host.pattern}" for host in hosts}))
    return (
        "basicConstraints = critical,CA:FALSE\nkeyUsage = critical,digitalSignature\nextendedKeyUsage = serverAuth\n"
        f"subjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\nsubjectAltName = {names}\n"
    )


def split_pem(text: str) -> tuple[str, str]:
    """The private key in a text, and the text after it. Raises ClincusError without a key."""
    key, end, rest = text.partition("-----END PRIVATE KEY-----\n")
    if not end or "-----BEGIN PRIVATE KEY-----" not in key or "-----BEGIN CERTIFICATE" not in rest:
        raise clincus.ClincusError("`openssl req` gave no key: update it (1.1.1 or newer is needed)")
    begin = key.index("-----BEGIN PRIVATE KEY-----")
    return key[begin:] + end, rest[rest.index("-----BEGIN CERTIFICATE") :]


# -- Kept in memory


def memory_folder(uid: int, mounts: str = "/proc/self/mounts") -> str:
    """Make a folder in memory that only a user can enter. Raises ClincusError if this host has no place for it."""
    path = place_in_memory(uid, mounts)
    make_private(path, uid)
    return path


def place_in_memory(uid: int, mounts: str = "/proc/self/mounts") -> str:
    """The path of that folder, which may not exist. Raises ClincusError if this host has none."""
    with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
        kinds = {words[1]: words[2] for words in map(str.split, file) if len(words) > 2}
    for place in (one.format(uid=uid) for one in PLACES):
        if kinds.get(place) in IN_MEMORY and os.access(place, os.W_OK | os.X_OK):
            return f"{place}/clincus-logins-{uid}"
    places = " or ".join(one.format(uid=uid) for one in PLACES)
    raise clincus.ClincusError(f"logins need a folder in memory (tmpfs): there is none at {places}", 503)


def make_private(path: str, uid: int) -> None:
    """Make a folder of a user's own. Raises ClincusError if somebody else made it, or can enter it."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if found.st_mode != 0o40700 or found.st_uid != uid:
        raise clincus.ClincusError(f"{path} is not a folder that is yours alone (mode 0700): remove it", 500)


class Store:
    """The certificates of the sessions of this user, each in a file in memory."""

    def __init__(self, folder: str, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self._spares: dict[frozenset[Host], Spare] = {}

    def path(self, run: str) -> str:
        """The file with key and chain, which `ssl` reads. `run` names a session and its logins: letters and digits."""
        return f"{self._folder}/{run}.pem"

    def make(self, run: str, hosts: Iterable[Host], owner: Owner) -> str:
        """Make new certificates for a run; returns the authority's, in PEM. Raises ClincusError."""
        chosen = frozenset(hosts)
        spare = self._spares.pop(chosen, None)
        if spare is not None and time.time() - spare.made_at < SPARE_FOR:
            made = spare.certificates
        else:
            made = make_certificates(chosen, self._environ, self._folder)
        first = json.dumps(owner._asdict())  # `ssl` begins to read at the first key or certificate
        clincus.replace_file(self.path(run), f"{first}\n{made.key}{made.chain}".encode(), 0o600)
        return made.authority

    def prepare(self, hosts: Iterable[Host]) -> None:
        """Make certificates for the next run with these hosts, which then does not wait. Raises ClincusError.

        Each run still has an authority of its own. `openssl` takes 20 ms of a processor, which the start of a container
        needs itself.
        """
        chosen = frozenset(hosts)
        if chosen in self._spares:
            return
        made = make_certificates(chosen, self._environ, self._folder)
        if len(self._spares) < SPARES:
            self._spares[chosen] = Spare(time.time(), made)

    def forget(self, run: str) -> None:
        """Remove the certificates of a run, if there are any."""
        with suppress(FileNotFoundError):
            os.unlink(self.path(run))

    def made_before(self, seconds: float, place: str) -> Iterator[tuple[str, str]]:
        """The runs whose certificates were made at a place before a time (since 1970), with the ids of sessions."""
        for entry in sorted(os.scandir(self._folder), key=lambda one: one.name):
            run = entry.name.removesuffix(".pem")
            is_ours = entry.name.endswith(".pem")
            with suppress(FileNotFoundError):  # somebody else removes it
                if is_ours and entry.stat(follow_symlinks=False).st_mtime < seconds:
                    owner = read_owner(entry.path)
                    if owner and owner.place == place:
                        yield run, owner.id


def read_owner(path: str) -> Owner | None:
    """The owner of a file, None for one that an older Clincus has made. Raises FileNotFoundError."""
    with open(path, "rb") as file:
        first = file.readline(OWNER_LIMIT)
    try:
        found = json.loads(first)
        return Owner(str(found["id"]), str(found["place"]))
    except (ValueError, TypeError, KeyError):
        return None
