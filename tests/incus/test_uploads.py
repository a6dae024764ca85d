"""Files that a person gives to a session's tool, on a real Incus."""

from __future__ import annotations

import hashlib
import http.client
import os
import threading
from pathlib import Path

import pytest

from clincus_features.uploads import FOLDER
from tests.programs import DEADLINE, wait_until


@pytest.fixture
def session(bed, shared_session):
    """The session of this file, with no upload in it."""
    bed.shell(shared_session["id"], f"rm -rf ~/{FOLDER}")
    return shared_session


def send(server, session, data: bytes, name: str = "shot.png", **headers: str):
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    path = f"/api/sessions/{session['id']}/uploads?name={name}"
    return server.request("POST", path, data, headers={"Content-Type": "image/png", **names})


@pytest.mark.day
def test_a_file_lies_outside_the_workspace_and_belongs_to_the_code_user(bed, shared_server, session):
    picture = os.urandom(3 << 20)
    answer = send(shared_server, session, picture)
    assert answer.status == 201, answer.body
    path = answer.json["path"]
    assert path.startswith(f"/home/code/{FOLDER}/")
    assert path.endswith("-shot.png")
    found = bed.shell(session["id"], f"stat -c '%U %a' {path}; sha256sum <{path}")
    assert found.split()[:3] == ["code", "600", hashlib.sha256(picture).hexdigest()]
    assert list(Path(session["workspace"]).rglob("*shot*")) == []


def test_several_files_of_one_name_come_at_the_same_time(bed, shared_server, session):
    answers = []
    threads = [
        threading.Thread(
            target=lambda data: answers.append(send(shared_server, session, data)), args=(bytes([n]) * 500_000,)
        )
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [201] * 4
    assert len({answer.json["path"] for answer in answers}) == 4
    assert bed.shell(session["id"], f"cd; ls -A {FOLDER} | wc -l; cat {FOLDER}/* | wc -c").split() == ["4", "2000000"]


@pytest.mark.day
def test_who_may_not_write_may_not_upload(shared_server, session):
    for headers in ({"Origin": "https://example.org"}, {"Sec_Fetch_Site": "cross-site"}, {"Origin": "null"}):
        assert send(shared_server, session, b"x", **headers).status == 403
    assert send(shared_server, {"id": "clincus-ffffff-1"}, b"x").status == 404


@pytest.mark.parametrize("user", [1000, 0], ids=["code", "root"])
@pytest.mark.parametrize("place", [".git/hooks", ".git/config", ".husky"])
def test_a_folder_of_uploads_that_is_a_link_leads_to_nothing_that_is_sealed(bed, shared_server, session, place, user):
    workspace = Path(session["workspace"])
    before = {path: path.is_file() and path.read_bytes() for path in (workspace / place).parent.rglob("*")}
    link = f"rm -rf {FOLDER} && mkdir -p .clincus && chown 1000 .clincus && ln -sT /workspace/{place} {FOLDER}"
    assert bed.incus.exec(session["id"], ["sh", "-c", f"cd /home/code && {link}"], user=user).code == 0
    answer = send(shared_server, session, b"#!/bin/sh\n", "pre-commit")
    assert bed.incus.exec(session["id"], ["rm", f"/home/code/{FOLDER}"]).code == 0
    assert answer.status >= 400, answer.body
    assert {path: path.is_file() and path.read_bytes() for path in (workspace / place).parent.rglob("*")} == before


@pytest.mark.day
def test_a_file_that_is_too_large_is_refused_before_it_is_sent(shared_server, session):
    connection = http.client.HTTPConnection(shared_server.host, shared_server.port, timeout=DEADLINE)
    connection.putrequest("POST", f"/api/sessions/{session['id']}/uploads?name=a")
    connection.putheader("Content-Length", str((40 << 20) + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_what_breaks_off_leaves_nothing(bed, shared_server, session):
    connection = http.client.HTTPConnection(shared_server.host, shared_server.port, timeout=DEADLINE)
    connection.putrequest("POST", f"/api/sessions/{session['id']}/uploads?name=a")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    connection.send(b"x" * 500_000)
    connection.close()
    assert send(shared_server, session, b"whole").status == 201
    wait_until(
        lambda: bed.shell(session["id"], f"cd; ls -A {FOLDER} | wc -l").strip() == "1", "the end of the broken one"
    )
