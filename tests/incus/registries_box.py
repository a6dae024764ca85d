"""Stand-ins for GitHub, npm's registry, PyPI and others: each answers nobody who comes without the value."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any

from login_box import Asked

from tests.programs import DEADLINE

NAMES = ("github.com", "api.github.com", "registry.npmjs.org", "upload.pypi.org", "index.example", "own.example")

TOOLS = ("gh", "npm", "twine", "curl")  # beside git, and pip, which comes with twine
INDEX = "https://me:$INDEX_PASSWORD@index.example/simple/"


def basic(user: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


def wanted(secrets: Mapping[str, str]) -> dict[str, str]:
    """What each name wants to see."""
    return {
        "github.com": basic("x-access-token", secrets["github"]),
        "api.github.com": f"token {secrets['github']}",
        "registry.npmjs.org": f"Bearer {secrets['npm']}",
        "upload.pypi.org": basic("__token__", secrets["pypi"]),
        "index.example": basic("me", secrets["index"]),
        "own.example": secrets.get("own", ""),
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
    """Answers whoever brings the value, and lets git serve a repository.

    The server has `wanted`, and `repositories`, a folder.
    """

    server: Any

    def do_GET(self) -> None:
        host, (path, _, query) = self.headers["Host"], self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if self.headers.get("Transfer-Encoding") is None else self.read_chunks()
        given = self.headers.get("X-Key") if host == "own.example" else self.headers.get("Authorization")
        is_welcome = bool(given) and given == self.server.wanted[host]
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
