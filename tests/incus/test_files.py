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
    os.chown(readme, folder.stat().st_uid, folder.stat().st_gid)


@pytest.fixture
def files(shared_server, shared_session, workspace):
    """What asks for the files of a running session: (method, path) -> answer."""

    def ask(method: str, path: str, body: bytes | None = None, *, place: str = "files/content", **headers: str):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        where = path if "%" in path else quote(path)
        address = f"/api/sessions/{shared_session['id']}/{place}?path={where}"
        return shared_server.request(method, address, body, headers=names)

    return ask


def listing(files, path: str = "") -> dict[str, dict[str, object]]:
    return {entry["name"]: entry for entry in files("GET", path, place="files").json["entries"]}


def test_a_directory_is_listed_with_folders_first(files, workspace):
    (workspace / "src").mkdir()
    (workspace / "src/a\nb\t'\"").write_text("12345")
    os.symlink("/etc/passwd", workspace / "link")
    (workspace / os.fsdecode(b"raw\xff")).write_text("")
    names = [entry["name"] for entry in files("GET", "", place="files").json["entries"]]
    assert names.index("src") < names.index("README.md")
    found = listing(files)
    assert {name: found[name]["type"] for name in ("src", "README.md", "link")} == {
        "src": "directory",
        "README.md": "file",
        "link": "symlink",
    }
    assert listing(files, "src")["a\nb\t'\""]["size"] == 5
    encoded = found["raw\N{REPLACEMENT CHARACTER}"]["encoded"]
    assert files("GET", encoded).body == b""


def test_what_is_locked_is_told_from_what_only_stands_in_its_place(files):
    """The project has `.git/hooks`; the wall put an empty `.vscode` there, so that the container makes none."""
    found = {**listing(files), **listing(files, ".git")}
    marks = {
        name: sorted({"readonly", "placeholder"}.intersection(found[name]))
        for name in ("README.md", "hooks", ".vscode")
    }
    assert marks == {"README.md": [], "hooks": ["readonly"], ".vscode": ["placeholder", "readonly"]}


def test_a_file_is_read_and_written_only_as_it_was_seen(files, workspace):
    seen = files("GET", "README.md")
    assert (seen.status, seen.body) == (200, b"# project\n")
    tag = seen.headers["etag"]
    assert files("GET", "README.md", If_None_Match=tag).status == 304
    assert files("PUT", "README.md", b"mine\n").status == 428
    saved = files("PUT", "README.md", "mine ü\n".encode(), If_Match=tag)
    assert saved.status == 204
    assert (workspace / "README.md").read_text() == "mine ü\n"
    assert files("PUT", "README.md", b"too late", If_Match=tag).status == 412
    assert files("PUT", "README.md", b"again", If_Match=saved.headers["etag"]).status == 204
    assert files("PUT", "README.md", b"whatever was there", If_Match="*").status == 204
    assert files("PUT", "README.md", b"x", If_Match='"no tag of ours"').status == 412
    assert (workspace / "README.md").read_text() == "whatever was there"
    assert sorted(path.name for path in workspace.iterdir() if "clincus-" in path.name) == []


def test_a_new_file_never_takes_the_place_of_one(files, workspace):
    assert files("PUT", "new file", b"1", **NEW).status == 204
    assert (workspace / "new file").stat().st_mode & 0o777 == 0o644
    assert files("PUT", "new file", b"2", **NEW).status == 412
    assert (workspace / "new file").read_text() == "1"
    assert files("PUT", "no/such/folder", b"1", **NEW).status == 404
    assert files("PUT", "gone", b"1", If_Match="*").status == 412


def test_a_name_that_is_not_utf8_is_opened_and_saved(files, workspace):
    folder = workspace / os.fsdecode(b"f\xe9")
    folder.mkdir()
    (folder / os.fsdecode(b"raw\xff")).write_text("1")
    os.chown(folder, workspace.stat().st_uid, workspace.stat().st_gid)
    os.chown(folder / os.fsdecode(b"raw\xff"), workspace.stat().st_uid, workspace.stat().st_gid)
    assert [entry["encoded"] for entry in files("GET", "f%E9", place="files").json["entries"]] == ["raw%FF"]
    seen = files("GET", "f%E9/raw%FF")
    assert (seen.status, seen.body) == (200, b"1")
    assert files("PUT", "f%E9/raw%FF", b"2", If_Match=seen.headers["etag"]).status == 204
    assert (folder / os.fsdecode(b"raw\xff")).read_text() == "2"
    assert files("PUT", "f%E9/raw%FF", b"3", If_Match=seen.headers["etag"]).status == 412


def test_a_file_from_the_year_10000_is_listed(files, workspace):
    (workspace / "far").write_text("")
    try:
        os.utime(workspace / "far", (253402300800, 253402300800))
    except OSError:
        pytest.skip("this file system knows no such time")
    assert listing(files)["far"]["modified"][:4] in {"9999", "2446"}  # ext4 ends in 2446


def test_a_files_mode_stays(files, workspace):
    script = workspace / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    os.chown(script, workspace.stat().st_uid, workspace.stat().st_gid)
    assert files("PUT", "run.sh", b"#!/bin/sh\nexit 1\n", If_Match="*").status == 204
    assert script.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("path", ["out", "folder/passwd", "../project/README.md", "/etc/passwd", "a/../../x"])
def test_nothing_outside_the_workspace_is_reached(files, workspace, path):
    os.symlink("/etc/passwd", workspace / "out")
    os.symlink("/etc", workspace / "folder")
    for method, body, headers in (("GET", None, {}), ("PUT", b"x", {"If-Match": "*"}), ("PUT", b"x", NEW)):
        answer = files(method, path, body, **headers)
        assert (answer.status, b"workspace" in answer.body) == (400, True)


def test_a_link_within_the_workspace_is_followed(files, workspace):
    os.symlink("README.md", workspace / "link")
    assert files("GET", "link").body == b"# project\n"
    assert files("PUT", "link", b"new", If_Match="*").status == 204
    assert (workspace / "link").is_symlink()
    assert (workspace / "README.md").read_text() == "new"


def test_what_is_no_text_file_of_a_fair_size_is_refused_with_the_reason(files, workspace):
    (workspace / "binary").write_bytes(b"a\0b")
    (workspace / "latin").write_bytes(b"\xe9")
    (workspace / "large").write_bytes(bytes(FILE_LIMIT + 1))
    os.mkfifo(workspace / "pipe")
    (workspace / "dir").mkdir()
    refusals = {"binary": 415, "latin": 415, "large": 413, "pipe": 400, "dir": 400, "none": 404}
    assert {path: files("GET", path).status for path in refusals} == refusals
    assert files("GET", "README.md", place="files").status == 400
    assert files("GET", "none", place="files").status == 404
    assert files("PUT", "pipe", b"x", If_Match="*").status == 400
    assert files("PUT", "x", bytes(FILE_LIMIT + 1), **NEW).status == 413


def test_a_picture_comes_with_headers_that_let_it_be_nothing_else(files, workspace):
    (workspace / "shot.png").write_bytes(b"\x89PNG\r\n\x1a\n and the rest")
    (workspace / "page.png").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    answer = files("GET", "shot.png", place="files/image")
    assert (answer.status, answer.body) == (200, b"\x89PNG\r\n\x1a\n and the rest")
    names = ("content-type", "x-content-type-options", "content-disposition")
    assert [answer.headers[name] for name in names] == ["image/png", "nosniff", "attachment"]
    assert files("GET", "shot.png", place="files/image", If_None_Match=answer.headers["etag"]).status == 304
    assert files("GET", "page.png", place="files/image").status == 415
    os.symlink("/etc/hostname", workspace / "out.png")
    assert files("GET", "out.png", place="files/image").status == 400


def test_protected_files_can_be_read_and_not_written(files, workspace):
    before = (workspace / ".git/config").read_text()
    assert files("GET", ".git/config").body.decode() == before
    for headers in ({"If-Match": "*"}, NEW):
        assert files("PUT", ".git/config", b"[core]\n\tfsmonitor = x\n", **headers).status in {409, 412}
    assert files("PUT", ".git/hooks/post-commit", b"#!/bin/sh\n", **NEW).status == 409
    assert (workspace / ".git/config").read_text() == before
