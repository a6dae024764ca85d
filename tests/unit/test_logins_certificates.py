"""The certificates of a session: they hold for the hosts of its logins, and for nothing else, whoever has the keys."""

from __future__ import annotations

import functools
import os
import socket
import ssl
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

import clincus
from clincus_features.logins import authority
from clincus_features.logins.authority import Certificates, Store, make_certificates
from clincus_features.logins.settings import Host
from tests.more_tools import tool_folder
from tests.programs import DEADLINE
from tests.table import table

HOSTS = [Host("api.example.com"), Host("cdn.example.com", is_wild=True, port=8443)]
ENVIRON = dict(os.environ)
OWNER = authority.Owner("clincus-1", "here")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Certificates:
    return make_certificates(HOSTS, ENVIRON, str(tmp_path_factory.mktemp("certificates")))


@functools.cache
def stolen(name: str) -> Certificates:
    """What a thief of an authority's key can make with it: a certificate for another name."""
    with tempfile.TemporaryDirectory() as folder:
        return signed_by_thief(Path(folder), name)


def signed_by_thief(folder: Path, name: str) -> Certificates:
    said = authority.openssl(
        ENVIRON, *authority.new_key("-x509", "-days", "2"), stdin=authority.authority_request(HOSTS)
    )
    authority_key, root = authority.split_pem(said)
    key, request = authority.split_pem(
        authority.openssl(ENVIRON, *authority.new_key(), stdin=authority.plain_request())
    )
    (folder / "root").write_text(root)
    (folder / "request").write_text(request)
    (folder / "extensions").write_text(f"subjectAltName = {name}\n")
    words = f"x509 -req -in {folder}/request -CA {folder}/root -CAkey /dev/stdin -extfile {folder}/extensions -days 2"
    leaf = authority.openssl(ENVIRON, *words.split(), "-set_serial", authority.new_serial(), stdin=authority_key)
    return Certificates(root, leaf + root, key)


@contextmanager
def serving(certificates: Certificates, folder: Path) -> Iterator[int]:
    """A TLS server on loopback that says hello over HTTP; its port. It is a proxy, too, whose every name is itself."""
    (folder / "server.pem").write_text(certificates.key + certificates.chain)
    (folder / "root.pem").write_text(certificates.authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.settimeout(DEADLINE)
                if connection.recv(1, socket.MSG_PEEK) == b"C":
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                with suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                    tls.recv(65536)
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE)


# Each client gets a name, a port and the authority's file. It returns what it got and why it got nothing.


def run(*words: str, **variables: str) -> tuple[str, str]:
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=DEADLINE, check=False, env={**os.environ, **variables}
    )
    return done.stdout, done.stderr


def by_python(name: str, port: int, root: Path) -> tuple[str, str]:
    context = ssl.create_default_context(cafile=root)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python does by itself from 3.13 on
    try:
        with closing(socket.create_connection(("127.0.0.1", port), DEADLINE)) as connection:
            tls = context.wrap_socket(connection, server_hostname=name)
            tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return tls.recv(65536).decode(), ""
    except ssl.SSLError as error:
        return "", str(error)


def by_node(name: str, port: int, root: Path) -> tuple[str, str]:
    script = f"""require("https").get({{host: "127.0.0.1", port: {port}, servername: "{name}"}}, answer => {{
        answer.on("data", data => process.stdout.write(data)) }}).on("error", error => console.error(error.message))"""
    return run("node", "-e", script, NODE_EXTRA_CA_CERTS=str(root))


def by_curl(name: str, port: int, root: Path) -> tuple[str, str]:
    words = f"curl -sS --noproxy * --cacert {root} --connect-to ::127.0.0.1:{port} https://{name}/"
    return run(*words.split())


def by_git(name: str, port: int, root: Path) -> tuple[str, str]:
    """Debian's git has GnuTLS. It takes `hello` for the list of an empty repository."""
    settings = {"GIT_SSL_CAINFO": str(root), "GIT_TERMINAL_PROMPT": "0", "no_proxy": "*"}
    address = f"https://{name}:{port}/x"
    resolve = f"http.curloptResolve={name}:{port}:127.0.0.1"
    _, failure = run("git", "-c", resolve, "ls-remote", address, **settings)
    return ("" if failure else "hello"), failure


def by_go(name: str, port: int, root: Path) -> tuple[str, str]:
    """gh is written in Go, whose own TLS it has."""
    settings = {"SSL_CERT_FILE": str(root), "SSL_CERT_DIR": "/nowhere", "HTTPS_PROXY": f"http://127.0.0.1:{port}"}
    gh = tool_folder("gh") / "gh"
    return run(str(gh), "api", f"https://{name}/x", GH_TOKEN="x", GH_PROMPT_DISABLED="1", **settings)


CLIENTS = [by_python, by_node, by_curl, by_git, by_go]


@table("client", CLIENTS)
def test_each_client_takes_them_for_the_hosts_of_the_logins_alone(made, tmp_path, client):
    with serving(made, tmp_path) as port:
        for name in ("api.example.com", "img.cdn.example.com"):
            said, failure = client(name, port, tmp_path / "root.pem")
            assert said.endswith("hello"), failure
        said, failure = client("evil.example.com", port, tmp_path / "root.pem")
    assert "hello" not in said
    assert failure


@table(
    ("client", "name", "is_taken"),
    [
        *((client, "DNS:example.com", False) for client in CLIENTS),
        *((client, "DNS:evil.example.com", False) for client in CLIENTS),
        *((client, "IP:127.0.0.1", False) for client in (by_python, by_node, by_curl)),
        *((client, "DNS:api.example.com", True) for client in CLIENTS),  # what the others rest on is the name alone
    ],
)
def test_no_client_takes_what_a_stolen_authority_signs_for_another_host(tmp_path, client, name, is_taken):
    with serving(stolen(name), tmp_path) as port:
        said, failure = client(name.partition(":")[2], port, tmp_path / "root.pem")
    assert said.endswith("hello") is is_taken, failure
    assert is_taken or failure


def test_openssl_looks_for_every_authority_by_the_same_name(made):
    said = authority.openssl(ENVIRON, "x509", "-noout", "-subject_hash", stdin=made.authority)
    assert said.strip() == authority.SUBJECT_HASH


def test_no_file_and_no_word_of_a_command_holds_a_key(tmp_path, monkeypatch):
    run_child = clincus.run_child
    words: list[object] = []
    files: list[str] = []

    def looking(argv, **more):
        words.append(argv)
        done = run_child(argv, **more)
        files.extend(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
        return done

    monkeypatch.setattr(clincus, "run_child", looking)
    made = make_certificates(HOSTS, ENVIRON, str(tmp_path))
    assert list(tmp_path.iterdir()) == [], "nothing is left"
    assert files
    assert "PRIVATE KEY" not in "".join(files)
    assert made.key.splitlines()[1] not in repr(words)
    assert "PRIVATE" not in made.authority + made.chain + repr(made)


def test_a_store_keeps_what_a_server_shows_for_its_user_alone(tmp_path):
    store = Store(str(tmp_path), ENVIRON)
    root = store.make("one", HOSTS, OWNER)
    assert stat.S_IMODE(os.stat(store.path("one")).st_mode) == 0o600
    assert "BEGIN CERTIFICATE" in root
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(store.path("one"))
    for _ in range(2):
        store.forget("one")
    assert list(tmp_path.iterdir()) == []


def test_a_session_takes_the_certificates_that_were_made_for_the_next_one_and_nobody_takes_them_again(
    tmp_path, monkeypatch
):
    store = Store(str(tmp_path), ENVIRON)
    for _ in range(2):
        store.prepare(HOSTS)
    assert list(tmp_path.iterdir()) == [], "no key waits in a file"
    openssl, runs = authority.openssl, []
    monkeypatch.setattr(authority, "openssl", lambda *words, **more: runs.append(words) or openssl(*words, **more))
    other = store.make("other", HOSTS[:1], OWNER)
    assert len(runs) == 3, "they are for other hosts"
    first = store.make("one", HOSTS, OWNER)
    assert len(runs) == 3
    second = store.make("two", HOSTS, OWNER)
    assert len({other, first, second}) == 3
    store.prepare(HOSTS)
    monkeypatch.setattr(authority, "SPARE_FOR", -1.0)
    assert store.make("three", HOSTS, OWNER) not in (other, first, second)
    assert store._spares == {}, "what has waited for a day is made anew"


def test_a_folder_that_somebody_else_could_enter_is_refused(tmp_path):
    (tmp_path / "folder").mkdir(0o755)
    with pytest.raises(clincus.ClincusError, match="yours alone"):
        authority.make_private(str(tmp_path / "folder"), os.geteuid())
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(clincus.ClincusError, match="yours alone"):
        authority.make_private(str(tmp_path / "link"), os.geteuid())


def test_keys_are_kept_in_memory_only(tmp_path, monkeypatch):
    monkeypatch.setattr(authority, "PLACES", (str(tmp_path / "none"), str(tmp_path)))
    (tmp_path / "mounts").write_text(f"/dev/sda1 {tmp_path} ext4 rw 0 0\n")
    with pytest.raises(clincus.ClincusError, match="need a folder in memory"):
        authority.memory_folder(os.geteuid(), str(tmp_path / "mounts"))
    (tmp_path / "mounts").write_text(f"tmpfs {tmp_path} tmpfs rw 0 0\n")
    path = authority.memory_folder(os.geteuid(), str(tmp_path / "mounts"))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
