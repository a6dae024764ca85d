"""Real tools with nothing but placeholders in their container: each works at what stands in for its server.

A server here refuses whoever comes without the value, so that an answer proves that it came. The tools are the real
ones: git of the image, gh and curl of Debian, npm of npm's registry, pip and twine of PyPI.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from login_box import ADDRESS, SEARCH, Asked, Box, Vendor, vendor_context, write_certificates
from network_box import command_with_hosts

from tests.more_tools import mounts
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, git

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.timeout(1200),  # tools are fetched
    pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root"),
]
SECRETS = {
    "github": "ghp_TheRealTokenOfTheHost0123456789abcdef",
    "npm": "npm_TheRealTokenOfTheHost0123456789abcdef",
    "pypi": "pypi-TheRealTokenOfTheHost0123456789abcdef",
    "index": "the-real/password+of=the.index",
    "own": "the-real-key-of-a-service-of-ones-own",
}
SOURCES = "".join(f"[logins.{name}]\nfrom = {{ file = '~/key-{name}' }}\n" for name in ("github", "npm", "pypi"))
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[defaults]
logins = {json.dumps([*SECRETS])}
{SOURCES}
[logins.index]
hosts = ["index.example"]
header = "authorization"
form = "Basic *:{{secret}}"
variable = "INDEX_PASSWORD"
from = {{ file = '~/key-index' }}
[logins.own]
hosts = ["own.example"]
header = "x-key"
form = "{{secret}}"
variable = "OWN_KEY"
from = {{ file = '~/key-own' }}
"""
NAMES = ("github.com", "api.github.com", "registry.npmjs.org", "upload.pypi.org", "index.example", "own.example")


def basic(user: str, name: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{SECRETS[name]}".encode()).decode()


WANTED = {  # what each name wants to see
    "github.com": {basic("x-access-token", "github")},
    "api.github.com": {f"token {SECRETS['github']}"},
    "registry.npmjs.org": {f"Bearer {SECRETS['npm']}"},
    "upload.pypi.org": {basic("__token__", "pypi")},
    "index.example": {basic("me", "index")},
}


def tarball() -> bytes:
    """A package of npm's."""
    content = json.dumps({"name": "@me/thing", "version": "1.0.0"}).encode()
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return found.getvalue()


def wheel() -> bytes:
    """A package of Python's."""
    found, info = io.BytesIO(), "thing-1.0.dist-info"
    with zipfile.ZipFile(found, "w") as archive:
        archive.writestr("thing.py", "IT = 'works'\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return found.getvalue()


TARBALL, WHEEL, WHEEL_NAME = tarball(), wheel(), "thing-1.0-py3-none-any.whl"
TARBALL_URL = "https://registry.npmjs.org/@me/thing/-/thing-1.0.0.tgz"
PACKAGE = {
    "name": "@me/thing",
    "dist-tags": {"latest": "1.0.0"},
    "versions": {
        "1.0.0": {
            "name": "@me/thing",
            "version": "1.0.0",
            "dist": {"tarball": TARBALL_URL, "shasum": hashlib.sha1(TARBALL, usedforsecurity=False).hexdigest()},
        }
    },
}
ANSWERS: dict[tuple[str, str, str], object] = {
    ("api.github.com", "GET", "/user"): {"login": "me-at-github"},
    ("api.github.com", "POST", "/graphql"): {"data": {"viewer": {"login": "me-at-github"}}},
    ("registry.npmjs.org", "GET", "/-/whoami"): {"username": "me-at-npm"},
    ("registry.npmjs.org", "GET", "/@me%2fthing"): PACKAGE,
    ("registry.npmjs.org", "GET", "/@me/thing/-/thing-1.0.0.tgz"): TARBALL,
    ("registry.npmjs.org", "PUT", "/@me%2fother"): {"ok": True},
    ("upload.pypi.org", "POST", "/legacy/"): b"",
    ("index.example", "GET", "/simple/thing/"): f'<a href="{WHEEL_NAME}">{WHEEL_NAME}</a>'.encode(),
    ("index.example", "GET", f"/simple/thing/{WHEEL_NAME}"): WHEEL,
    ("own.example", "GET", "/"): {"it": "works"},
}


class Registries(Asked):
    """Answers whoever brings the value, and lets git serve a repository."""

    server: Any

    def do_GET(self) -> None:
        host, (path, _, query) = self.headers["Host"], self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if self.headers.get("Transfer-Encoding") is None else self.read_chunks()
        given = self.headers.get("X-Key") if host == "own.example" else self.headers.get("Authorization")
        is_welcome = given in WANTED.get(host, {SECRETS["own"]})
        self.server.heads.append({"host": host, "path": path, "given": given or ""})
        if not is_welcome:
            self.answer(401, {"error": "who are you?"})
        elif host == "github.com":
            self.serve_git(path, query, body)
        elif (host, self.command, path) in ANSWERS:
            self.answer(200, ANSWERS[host, self.command, path])
        else:
            self.answer(404, {"error": f"{self.command} {path}"})

    do_POST = do_PUT = do_GET

    def read_chunks(self) -> bytes:
        """A body in chunks."""
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self, status: int, content: object, kind: str = "") -> None:
        """Answer with bytes, or with JSON."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        is_page = data.startswith(b"<a")
        self.send_response(status)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Type", kind or ("text/html" if is_page else "application/json"))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def serve_git(self, path: str, query: str, body: bytes) -> None:
        """What git's own program for it answers (git-http-backend(1))."""
        environ = {
            **os.environ,
            "GIT_PROJECT_ROOT": self.server.repositories,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "http.receivepack",
            "GIT_CONFIG_VALUE_0": "true",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_USER": "me",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=environ, capture_output=True, check=True, timeout=DEADLINE
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.answer(int(fields.get("Status", "200").split()[0]), content, fields.get("Content-Type", "text/plain"))


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Iterator[Any]:
    folder = Path(tmp_path_factory.mktemp("vendors"))
    write_certificates(folder, NAMES, ADDRESS)
    made: Any = Vendor(vendor_context(folder), ADDRESS, Registries)
    made.folder, made.repositories = folder, str(folder / "repositories")
    (folder / "repositories" / "me").mkdir(parents=True)
    git(folder, "init", "-q", "--bare", "repositories/me/thing.git")
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(start_shared, vendor) -> Server:
    tools = "".join(mounts(name, f"/opt/tools/{name}") for name in TOOLS)
    started: Server = start_shared(
        config=NO_CHECKPOINTS + CONFIG + tools,
        command=command_with_hosts(vendor.folder / "hosts"),
        environ={"SSL_CERT_FILE": str(vendor.folder / "trust.pem")},
    )
    for name, value in SECRETS.items():
        (started.home / f"key-{name}").write_text(value)
        (started.home / f"key-{name}").chmod(0o600)
    return started


@pytest.fixture(scope="module")
def box(bed, server, keep_session) -> Box:
    return Box(bed, server, keep_session(server, tool="shell", folder="one")["id"])


class Case(NamedTuple):
    """What a person types, and what comes of it."""

    script: str
    shown: str
    host: str


TOOLS = ("gh", "npm", "twine", "curl")
PATH = f'export PATH="{":".join(f"/opt/tools/{name}" for name in TOOLS)}:$PATH"; mkdir -p ~/here; cd ~/here'
INDEX = "https://me:$INDEX_PASSWORD@index.example/simple/"
COMMIT = "git -c user.name=me -c user.email=me@x commit -q --allow-empty -m first"
CASES = {
    "git clones": Case("git clone -q https://github.com/me/thing cloned && ls -d cloned/.git", "cloned/.git", NAMES[0]),
    "git pushes": Case(
        f"git clone -q https://github.com/me/thing pushed; cd pushed; {COMMIT}; "
        "git push -q origin HEAD:refs/heads/made && git ls-remote origin",
        "refs/heads/made",
        NAMES[0],
    ),
    "gh asks the API": Case("gh api user --jq .login", "me-at-github", NAMES[1]),
    "gh asks by GraphQL": Case(
        "gh api graphql -f query='{viewer{login}}' --jq .data.viewer.login", "me-at-github", NAMES[1]
    ),
    "npm says who it is": Case("npm whoami", "me-at-npm", NAMES[2]),
    "npm installs what is private": Case("npm install @me/thing && cat node_modules/@me/thing/*", "1.0.0", NAMES[2]),
    "npm publishes": Case(
        """mkdir -p other; cd other; echo '{"name":"@me/other","version":"1.0.0"}' >package.json; npm publish""",
        "+ @me/other@1.0.0",
        NAMES[2],
    ),
    "pip installs from an index with a password": Case(
        f'pip install -q --no-deps --target site --index-url "{INDEX}" thing && cat site/thing.py', "works", NAMES[4]
    ),
    "twine uploads": Case(
        f'pip download -q --no-deps -d dist --index-url "{INDEX}" thing && twine upload --disable-progress-bar dist/*',
        "View at",
        NAMES[3],
    ),
    "curl": Case('curl -sS -H "X-Key: $OWN_KEY" https://own.example/', '"it": "works"', NAMES[5]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_tool_works_with_a_placeholder(box, server, vendor, name):
    case = CASES[name]
    vendor.heads.clear()
    said = box.shell(f"{PATH}; {{ {case.script}; }} 2>&1 || true")
    assert case.shown in said, (said, vendor.heads)
    assert case.host in {one["host"] for one in vendor.heads}
    assert server.get(f"/api/sessions/{box.id}/network").json["alarms"] == []


def test_no_value_is_in_the_container_after_all_of_it(box):
    for secret in SECRETS.values():
        backwards = secret[::-1].encode().hex()
        done = box.bed.incus.exec(box.id, ["perl", "-e", SEARCH, backwards], user=0, timeout=2 * DEADLINE)
        assert done.stdout.decode().splitlines() == ["searched"], secret
