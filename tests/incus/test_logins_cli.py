"""`clincus login …` on a real Incus, beside a session that borrows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from login_box import ADDRESS, Box, Streaming, Vendor, lending_server, put_secret, vendor_of

from tests.faults_bed import run_cli
from tests.more_tools import mounts
from tests.programs import Server, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
KEY = "sk-ant-api03-the-real-key-Zq8vX2"
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[defaults]
logins = ["anthropic"]
[logins.anthropic]
from = {{ file = "~/anthropic-key" }}
[logins.shown]
service = "openai"
from = {{ file = "~/shown-key" }}
"""
# Holds a request that has no end, and says when it is over.
HOLD = (
    '(/opt/tools/curl/curl -sN -m 300 -H "X-Api-Key: $ANTHROPIC_API_KEY" https://api.anthropic.com/stream >/tmp/stream;'
    " echo ended >>/tmp/stream) >/dev/null 2>&1 &"
)


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Iterator[Vendor]:
    with vendor_of(tmp_path_factory.mktemp("vendors"), ("api.anthropic.com",), Streaming) as made:
        yield made


@pytest.fixture(scope="module")
def server(start_shared, vendor) -> Server:
    started = lending_server(start_shared, vendor, CONFIG + mounts("curl", "/opt/tools/curl"))
    for name in ("anthropic-key", "shown-key"):
        put_secret(started.home / name, KEY)
    (started.home / "shown-key").chmod(0o644)
    return started


@pytest.fixture(scope="module")
def box(bed, server, keep_session) -> Box:
    return Box(bed, server, keep_session(server, tool="shell")["id"])


@pytest.fixture
def login(bed, server):
    """A function that runs `clincus login …` and returns its exit code and all that it prints."""

    def run(*words: str) -> tuple[int, str]:
        done = run_cli(bed, server, "login", *words)
        assert KEY not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    return run


def row(login, name: str) -> dict[str, Any]:
    """A login as `clincus login list --format json` has it."""
    return next(dict(one) for one in json.loads(login("list", "--format", "json")[1]) if one["name"] == name)


@pytest.mark.day
def test_logins_are_listed_checked_and_added_for_the_next_session(bed, login, server, box, workspace):
    box.ask("api.anthropic.com", f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}")
    assert (row(login, "anthropic")["sessions"], bool(row(login, "anthropic")["last_used"])) == ([box.id], True)
    lines = login("list")[1].splitlines()
    assert [line.endswith(box.id) for line in lines if line.startswith("anthropic ")] == [True]
    assert [" never " in line for line in lines if line.startswith("shown ")] == [True]
    assert login("check", "anthropic") == (0, "anthropic: good\n")
    code, text = login("check", "shown")
    assert (code, "others may read or write " in text) == (1, True)
    put_secret(server.home / "added-key", KEY)
    words = ("--host", "own.example", "--header", "x-key", "--form", "{secret}", "--variable", "OWN_KEY")
    code, text = login("add", "own", "--file", str(server.home / "added-key"), *words)
    assert code == 0, text
    wait_until(lambda: "own" in {one["name"] for one in server.get("/api/logins").json}, "the config to be read")
    session = server.create(workspace, tool="shell", logins=["own"])
    assert bed.shell(session["id"], "printenv OWN_KEY").startswith("clincus-")
    assert row(login, "own")["sessions"] == [session["id"]]


def test_a_revoke_ends_the_requests_that_use_the_login_until_it_is_allowed(login, box):
    box.shell(HOLD)
    wait_until(lambda: "begun" in box.shell("cat /tmp/stream 2>/dev/null || true"), "the begin of an answer")
    code, text = login("revoke", "anthropic")
    assert (code, f"no longer lent to {box.id}" in text) == (0, True)
    wait_until(lambda: "ended" in box.shell("cat /tmp/stream"), "the end of the answer")
    field = f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}"
    assert "it is revoked (clincus login allow anthropic)" in box.ask("api.anthropic.com", field)
    assert login("allow", "anthropic")[0] == 0
    assert '"x-api-key"' in box.ask("api.anthropic.com", field)
