"""The certificates of a session: they hold for the hosts of its logins, and for nothing else, whoever has the keys."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import subprocess
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


def stolen(folder: Path, *names: str) -> Certificates:
    """What a thief of an authority's key can make with it: a certificate for other names."""
    said = authority.openssl(
        ENVIRON, *authority.new_key("-x509", "-days", "2"), stdin=authority.authority_request(HOSTS)
    )
    authority_key, root = authority.split_pem(said)
    key, request = authority.split_pem(
        authority.openssl(ENVIRON, *authority.new_key(), stdin=authority.plain_request())
    )
    (folder / "root").write_text(root)
    (folder / "request").write_text(request)
    (folder / "extensions").write_text(f"subjectAltName = {','.join(names)}\n")
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


def by_openssl(name: str, port: int, root: Path) -> tuple[str, str]:
    ask = f"printf 'GET / HTTP/1.1\\r\\n\\r\\n' | openssl s_client -quiet -verify_return_error -CAfile {root}"
    return run("sh", "-c", f"{ask} -verify_hostname {name} -servername {name} -connect 127.0.0.1:{port}")


def by_node(name: str, port: int, root: Path) -> tuple[str, str]:
    script = f"""require("https").get({{host: "127.0.0.1", port: {port}, servername: "{name}"}}, answer => {{
        answer.on("data", data => process.stdout.write(data)) }}).on("error", error => console.error(error.message))"""
    return run("node", "-e", script, NODE_EXTRA_CA_CERTS=str(root))


def by_curl(name: str, port: int, root: Path) -> tuple[str, str]:
    return run(
        "curl",
        "-sS",
        "--noproxy",
        "*",
        "--cacert",
        str(root),
        "--connect-to",
        f"::127.0.0.1:{port}",
        f"https://{name}/",
    )


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


CLIENTS = [by_python, by_openssl, by_node, by_curl, by_git, by_go]
needs_program = pytest.mark.parametrize(
    "client", [pytest.param(one, id=one.__name__.removeprefix("by_")) for one in CLIENTS]
)


@needs_program
@pytest.mark.parametrize("name", ["api.example.com", "img.cdn.example.com"])
def test_each_client_takes_them_for_the_hosts_of_the_logins(made, tmp_path, client, name):
    with serving(made, tmp_path) as port:
        said, failure = client(name, port, tmp_path / "root.pem")
    assert said.endswith("hello"), failure


@needs_program
def test_no_client_takes_them_for_another_host(made, tmp_path, client):
    with serving(made, tmp_path) as port:
        said, failure = client("evil.example.com", port, tmp_path / "root.pem")
    assert "hello" not in said
    assert failure


@needs_program
@pytest.mark.parametrize("name", ["www.bank.test", "example.com", "evil.example.com"])
def test_no_client_takes_what_a_stolen_authority_signs_for_another_host(tmp_path, client, name):
    with serving(stolen(tmp_path, f"DNS:{name}"), tmp_path) as port:
        said, failure = client(name, port, tmp_path / "root.pem")
    assert "hello" not in said
    assert failure


@table("client", [by_python, by_node, by_curl], ids=lambda one: one.__name__)
def test_no_client_takes_what_a_stolen_authority_signs_for_an_address(tmp_path, client):
    with serving(stolen(tmp_path, "IP:127.0.0.1"), tmp_path) as port:
        said, failure = client("127.0.0.1", port, tmp_path / "root.pem")
    assert "hello" not in said
    assert failure


@needs_program
def test_the_thief_would_be_taken_for_a_host_of_the_logins(tmp_path, client):
    """What the refusals above rest on is the name alone."""
    with serving(stolen(tmp_path, "DNS:api.example.com"), tmp_path) as port:
        said, failure = client("api.example.com", port, tmp_path / "root.pem")
    assert said.endswith("hello"), failure


def test_openssl_looks_for_every_authority_by_the_same_name(made):
    said = authority.openssl(ENVIRON, "x509", "-noout", "-subject_hash", stdin=made.authority)
    assert said.strip() == authority.SUBJECT_HASH


def test_no_file_is_left_and_no_word_of_a_command_holds_a_key(tmp_path, monkeypatch):
    run_child, words = clincus.run_child, []
    monkeypatch.setattr(clincus, "run_child", lambda argv, **more: words.append(argv) or run_child(argv, **more))
    made = make_certificates(HOSTS, ENVIRON, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert len(words) == 3
    assert made.key.splitlines()[1] not in repr(words)
    assert "PRIVATE" not in made.authority + made.chain + repr(made)


def test_the_key_of_the_authority_is_never_in_a_file(tmp_path, monkeypatch):
    files: list[str] = []
    openssl = authority.openssl

    def looking(*words: object, **more: str) -> str:
        said = openssl(*words, **more)  # type: ignore[arg-type]
        files.extend(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
        return said

    monkeypatch.setattr(authority, "openssl", looking)
    make_certificates(HOSTS, ENVIRON, str(tmp_path))
    assert files
    assert [text for text in files if "PRIVATE KEY" in text] == []


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


def test_each_session_has_an_authority_of_its_own(tmp_path):
    store = Store(str(tmp_path), ENVIRON)
    assert store.make("one", HOSTS, OWNER) != store.make("two", HOSTS, OWNER)


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


def test_certificates_that_have_waited_for_a_day_are_made_anew(tmp_path, monkeypatch):
    store = Store(str(tmp_path), ENVIRON)
    store.prepare(HOSTS)
    monkeypatch.setattr(authority, "SPARE_FOR", -1.0)
    assert store.make("one", HOSTS, OWNER)
    assert store._spares == {}


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
    assert path == authority.memory_folder(os.geteuid(), str(tmp_path / "mounts"))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_a_host_without_openssl_is_told(tmp_path):
    with pytest.raises(clincus.ClincusError, match="install it") as caught:
        make_certificates(HOSTS, {"PATH": str(tmp_path)}, str(tmp_path))
    assert caught.value.status == 503


def test_the_programs_of_these_tests_are_there():
    """A client that is missing would refuse everything."""
    assert [name for name in ("openssl", "node", "curl", "git") if not shutil.which(name)] == []
