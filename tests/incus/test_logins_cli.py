"""`clincus login …` on a real Incus, beside a session that borrows."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from login_box import ADDRESS, Box, Streaming, Vendor, vendor_of
from network_box import command_with_hosts

from tests.more_tools import mounts
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, program, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
KEY = "sk-ant-api03-the-real-key-Zq8vX2"
API = "api.anthropic.com"
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
    with vendor_of(tmp_path_factory.mktemp("vendors"), (API,), Streaming) as made:
        yield made


@pytest.fixture(scope="module")
def server(start_shared, vendor) -> Server:
    started: Server = start_shared(
        config=NO_CHECKPOINTS + CONFIG + mounts("curl", "/opt/tools/curl"),
        command=command_with_hosts(vendor.folder / "hosts"),
        environ={"SSL_CERT_FILE": str(vendor.folder / "trust.pem")},
    )
    for name, mode in (("anthropic-key", 0o600), ("shown-key", 0o644)):
        (started.home / name).write_text(KEY)
        (started.home / name).chmod(mode)
    return started


@pytest.fixture(scope="module")
def box(bed, server, keep_session) -> Box:
    return Box(bed, server, keep_session(server, tool="shell")["id"])


@pytest.fixture(scope="module")
def login(bed, server):
    """A function that runs `clincus login …` and returns its exit code and all that it prints."""

    def run(*words: str, home: Path = server.home, port: int = server.port) -> tuple[int, str]:
        done = subprocess.run(
            [*program(), "login", *words, *(["--port", str(port)] if port else [])],
            env={**os.environ, **bed.environ, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )
        assert KEY not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    return run


def row(login, name: str) -> dict[str, Any]:
    """A login as `clincus login list --format json` has it."""
    code, text = login("list", "--format", "json")
    assert code == 0, text
    return next(dict(one) for one in json.loads(text) if one["name"] == name)


def use(box: Box) -> str:
    """What a program gets that asks with its placeholder."""
    return box.ask(API, f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}")


@pytest.mark.day
def test_the_list_names_the_sessions_that_borrow(login, box):
    assert row(login, "anthropic")["sessions"] == [box.id]
    assert row(login, "shown")["sessions"] == []
    (line,) = [line for line in login("list")[1].splitlines() if line.startswith("anthropic ")]
    assert line.endswith(box.id)


def test_the_list_tells_when_a_login_was_last_used(login, box):
    use(box)
    used = row(login, "anthropic")["last_used"]
    assert used
    (line,) = [line for line in login("list")[1].splitlines() if line.startswith("anthropic ")]
    assert used in line
    (line,) = [line for line in login("list")[1].splitlines() if line.startswith("shown ")]
    assert " never " in line


def test_a_login_that_is_added_is_borrowed_by_the_next_session(login, server, bed, box, workspace):
    key = server.home / "added-key"
    key.write_text(KEY)
    key.chmod(0o600)
    words = ("--host", "own.example", "--header", "x-key", "--form", "{secret}", "--variable", "OWN_KEY")
    code, text = login("add", "own", "--file", str(key), *words, port=0)
    assert code == 0, text
    wait_until(lambda: "own" in {one["name"] for one in server.get("/api/logins").json}, "the config to be read")
    session = server.create(workspace, tool="shell", logins=["own"])
    assert bed.shell(session["id"], "printenv OWN_KEY").startswith("clincus-")
    assert row(login, "own")["sessions"] == [session["id"]]
    assert server.delete(f"/api/sessions/{session['id']}?force=true").status == 204


def test_a_config_that_add_makes_can_be_read_by_its_user_alone(login, tmp_path):
    code, text = login("add", "github", "--command", "gh auth token", home=tmp_path, port=0)
    assert code == 0, text
    assert (tmp_path / ".config" / "clincus" / "config.toml").stat().st_mode & 0o777 == 0o600


def test_a_check_of_a_good_value_says_so(login):
    assert login("check", "anthropic") == (0, "anthropic: good\n")


def test_a_check_of_a_value_that_others_may_read_fails_and_says_why(login):
    code, text = login("check", "shown")
    assert code == 1
    assert text.startswith("shown: failed: others may read or write ")


@pytest.mark.day
def test_a_revoke_holds_at_once_until_the_login_is_allowed(login, box, vendor):
    assert '"x-api-key"' in use(box)
    code, text = login("revoke", "anthropic")
    before = len(vendor.heads)
    assert "it is revoked (clincus login allow anthropic)" in use(box)
    assert len(vendor.heads) == before
    assert (code, f"no longer lent to {box.id}" in text) == (0, True)
    assert login("allow", "anthropic")[0] == 0
    assert '"x-api-key"' in use(box)


def test_a_revoke_ends_the_requests_that_use_the_login(login, box):
    box.shell(HOLD)
    wait_until(lambda: "begun" in box.shell("cat /tmp/stream 2>/dev/null || true"), "the begin of an answer")
    assert login("revoke", "anthropic")[0] == 0
    wait_until(lambda: "ended" in box.shell("cat /tmp/stream"), "the end of the answer")
    assert login("allow", "anthropic")[0] == 0
