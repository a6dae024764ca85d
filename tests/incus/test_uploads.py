"""Files that a person gives to a session's tool, on a real Incus."""

from __future__ import annotations

import hashlib
import http.client
import os
from pathlib import Path

import pytest

from clincus_features.uploads import FOLDER
from tests.programs import DEADLINE


@pytest.fixture
def session(bed, shared_session):
    """The session of this file, with no upload in it."""
    bed.shell(shared_session["id"], f"rm -rf ~/{FOLDER}")
    return shared_session


def send(server, session, data: bytes, name: str = "shot.png", **headers: str):
    path = f"/api/sessions/{session['id']}/uploads?name={name}"
    return server.request("POST", path, data, headers={"Content-Type": "image/png", **headers})


def begin(server, session, size: int) -> http.client.HTTPConnection:
    """Begin to send a file of a size."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=DEADLINE)
    connection.putrequest("POST", f"/api/sessions/{session['id']}/uploads?name=a")
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    return connection


@pytest.mark.day
def test_a_file_lies_outside_the_workspace_and_belongs_to_the_code_user(bed, shared_server, session):
    picture = os.urandom(3 << 20)
    path = send(shared_server, session, picture).json["path"]
    assert path.startswith(f"/home/code/{FOLDER}/")
    assert path.endswith("-shot.png")
    found = bed.shell(session["id"], f"stat -c '%U %a' {path}; sha256sum <{path}")
    assert found.split()[:3] == ["code", "600", hashlib.sha256(picture).hexdigest()]
    assert list(Path(session["workspace"]).rglob("*shot*")) == []
    assert send(shared_server, session, b"x", Origin="https://example.org").status == 403
    assert send(shared_server, {"id": "clincus-ffffff-1"}, b"x").status == 404
    large = begin(shared_server, session, (40 << 20) + 1)
    assert large.getresponse().status == 413, "before it is sent"
    large.close()


def test_a_folder_of_uploads_that_is_a_link_leads_to_nothing_that_is_sealed(bed, shared_server, session):
    workspace, id = Path(session["workspace"]), session["id"]
    for place in (".git/hooks", ".git/config", ".husky"):
        before = {path: path.is_file() and path.read_bytes() for path in (workspace / place).parent.rglob("*")}
        for user in (1000, 0):
            link = f"cd; rm -rf {FOLDER}; mkdir -p .clincus; chown 1000 .clincus; ln -sT /workspace/{place} {FOLDER}"
            bed.shell(id, link, user)
            answer = send(shared_server, session, b"#!/bin/sh\n", "pre-commit")
            bed.shell(id, f"rm ~/{FOLDER}")
            assert answer.status >= 400, answer.body
        assert {path: path.is_file() and path.read_bytes() for path in (workspace / place).parent.rglob("*")} == before
