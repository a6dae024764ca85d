"""The files of a session's workspace over the API, on a real Incus."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest

from clincus_features.files import FILE_LIMIT

pytestmark = pytest.mark.day
NEW = {"If-None-Match": "*"}
ANY = {"If-Match": "*"}


@pytest.fixture
def workspace(shared_session):
    """The workspace of this file's session, which is as it was again after each test."""
    folder = Path(shared_session["workspace"])
    there = set(os.listdir(folder))
    yield folder
    for name in set(os.listdir(folder)) - there:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    readme = folder / "README.md"
    readme.write_text("# project\n")
    give(readme)


def give(*paths: Path) -> None:
    """Let files that root has made belong to the person."""
    for path in paths:
        os.chown(path, 1000, 1000)


@pytest.fixture
def files(shared_server, shared_session, workspace):
    """What asks for the files of a running session: (method, path) -> answer."""

    def ask(method: str, path: str, body: bytes | None = None, *, place: str = "files/content", **headers: str):
        where = path if "%" in path else quote(path)
        address = f"/api/sessions/{shared_session['id']}/{place}?path={where}"
        return shared_server.request(method, address, body, headers=headers)

    return ask


def listing(files, path: str = "") -> dict[str, dict[str, object]]:
    return {entry["name"]: entry for entry in files("GET", path, place="files").json["entries"]}


def test_a_directory_is_listed_and_names_of_any_bytes_are_opened_and_saved(files, workspace):
    folder, file = workspace / os.fsdecode(b"f\xe9"), workspace / os.fsdecode(b"f\xe9/raw\xff")
    folder.mkdir()
    file.write_text("1")
    give(folder, file)
    (workspace / "a\nb\t'\"").write_text("12345")
    os.symlink("/etc/passwd", workspace / "link")
    found = listing(files)
    assert {name: found[name]["type"] for name in (".git", "README.md", "link")} == {
        ".git": "directory",
        "README.md": "file",
        "link": "symlink",
    }
    assert found["a\nb\t'\""]["size"] == 5
    assert [entry["encoded"] for entry in listing(files, "f%E9").values()] == ["raw%FF"]
    seen = files("GET", "f%E9/raw%FF")
    assert files("PUT", "f%E9/raw%FF", b"2", **{"If-Match": seen.headers["etag"]}).status == 204
    assert file.read_text() == "2"


def test_what_is_locked_is_told_and_can_be_read_and_not_written(files, workspace):
    """The project has `.git/hooks`; the wall put an empty `.vscode` there, so that the container makes none."""
    found = {**listing(files), **listing(files, ".git")}
    marks = {
        name: sorted({"readonly", "placeholder"}.intersection(found[name]))
        for name in ("README.md", "hooks", ".vscode")
    }
    assert marks == {"README.md": [], "hooks": ["readonly"], ".vscode": ["placeholder", "readonly"]}
    before = (workspace / ".git/config").read_text()
    assert files("GET", ".git/config").body.decode() == before
    for headers in (ANY, NEW):
        assert files("PUT", ".git/config", b"[core]\n\tfsmonitor = x\n", **headers).status in {409, 412}
    assert files("PUT", ".git/hooks/post-commit", b"#!/bin/sh\n", **NEW).status == 409
    assert (workspace / ".git/config").read_text() == before


def test_a_file_is_read_and_written_only_as_it_was_seen(files, workspace):
    seen = files("GET", "README.md")
    assert (seen.status, seen.body) == (200, b"# project\n")
    tag = {"If-Match": seen.headers["etag"]}
    assert files("GET", "README.md", **{"If-None-Match": seen.headers["etag"]}).status == 304
    assert files("PUT", "README.md", b"mine\n").status == 428
    saved = files("PUT", "README.md", "mine ü\n".encode(), **tag)
    assert saved.status == 204
    assert files("PUT", "README.md", b"too late", **tag).status == 412
    assert files("PUT", "README.md", b"again", **{"If-Match": saved.headers["etag"]}).status == 204
    assert (workspace / "README.md").read_text() == "again"
    assert files("PUT", "new file", b"1", **NEW).status == 204
    assert files("PUT", "new file", b"2", **NEW).status == 412
    assert files("PUT", "no/such/folder", b"1", **NEW).status == 404
    script = workspace / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    give(script)
    os.symlink("run.sh", workspace / "link")
    assert files("PUT", "link", b"#!/bin/sh\nexit 1\n", **ANY).status == 204
    assert ((workspace / "link").is_symlink(), script.stat().st_mode & 0o777) == (True, 0o755)
    assert sorted(path.name for path in workspace.iterdir() if "clincus-" in path.name) == []


def test_nothing_outside_the_workspace_is_reached(files, workspace):
    os.symlink("/etc/passwd", workspace / "out")
    os.symlink("/etc", workspace / "folder")
    for path in ("out", "folder/passwd", "../project/README.md", "/etc/passwd", "a/../../x"):
        for method, body, headers in (("GET", None, {}), ("PUT", b"x", ANY), ("PUT", b"x", NEW)):
            answer = files(method, path, body, **headers)
            assert (answer.status, b"workspace" in answer.body) == (400, True), path


def test_what_is_no_text_file_of_a_fair_size_is_refused_and_a_picture_can_be_nothing_else(files, workspace):
    (workspace / "binary").write_bytes(b"a\0b")
    (workspace / "large").write_bytes(bytes(FILE_LIMIT + 1))
    os.mkfifo(workspace / "pipe")
    refusals = {"binary": 415, "large": 413, "pipe": 400, ".git": 400, "none": 404}
    assert {path: files("GET", path).status for path in refusals} == refusals
    assert files("PUT", "pipe", b"x", **ANY).status == 400
    assert files("PUT", "x", bytes(FILE_LIMIT + 1), **NEW).status == 413
    (workspace / "shot.png").write_bytes(b"\x89PNG\r\n\x1a\n and the rest")
    (workspace / "page.png").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    answer = files("GET", "shot.png", place="files/image")
    assert (answer.status, answer.body) == (200, b"\x89PNG\r\n\x1a\n and the rest")
    names = ("content-type", "x-content-type-options", "content-disposition")
    assert [answer.headers[name] for name in names] == ["image/png", "nosniff", "attachment"]
    assert files("GET", "page.png", place="files/image").status == 415
