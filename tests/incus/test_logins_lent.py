"""A login that its vendor renews, lent to two sessions on a real Incus: nobody is logged out."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from login_box import ADDRESS, Asked, Box, lending_server, put_secret, vendor_of

from clincus_features.logins.renewal import EARLY
from clincus_features.logins.vendors import REFRESH
from tests.one_use_vendor import OneUseVendor, claude_file
from tests.programs import DEADLINE, Server, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
NAMES = ("api.anthropic.com", "platform.claude.com")
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[defaults]
logins = ["claude"]
[logins.claude]
lend = true
"""
RENEWALS = 4
FILE = "~/.claude/.credentials.json"


class Renewing(Asked):
    """What Anthropic's two names answer."""

    server: Any

    def do_GET(self) -> None:
        access = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.answer(200, {"it": "works"}) if self.server.logins.takes(access) else self.answer(401, {"error": access})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tokens = self.server.logins.renew(asked["refresh_token"])
        self.answer(200 if tokens else 400, tokens or {"error": "invalid_grant"})

    def answer(self, status: int, document: object) -> None:
        self.server.statuses.append(status)
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Iterator[Any]:
    """Its tokens are good for two seconds before it is time to renew them."""
    with vendor_of(tmp_path_factory.mktemp("vendors"), NAMES, Renewing) as made:
        made.logins, made.statuses = OneUseVendor(lasts=EARLY + 2.0), []
        yield made


@pytest.fixture(scope="module")
def server(start_shared, vendor) -> Server:
    started = lending_server(start_shared, vendor, CONFIG)
    put_secret(started.home / ".claude" / ".credentials.json", json.dumps(claude_file(vendor.logins.issue())))
    return started


@pytest.fixture(scope="module")
def boxes(bed, server, keep_session) -> list[Box]:
    return [Box(bed, server, keep_session(server, tool="shell", folder=name)["id"]) for name in ("one", "two")]


def tokens_of(box: Box) -> dict[str, Any]:
    return dict(json.loads(box.shell(f"cat {FILE}"))["claudeAiOauth"])


def renewals_told(server: Server, box: Box) -> int:
    """How many renewals the log of a session has."""
    lines = [one["what"] for one in server.get(f"/api/sessions/{box.id}/log").json]
    return sum("The login claude was renewed on this host: good until" in line for line in lines)


@pytest.mark.day
def test_two_sessions_work_through_some_renewals_and_nobody_is_logged_out(boxes, server, vendor):
    """Each asks all the time; each token holds for two seconds."""
    one, two = (tokens_of(box) for box in boxes)
    assert one["accessToken"].startswith("sk-ant-oat01-clincus-")
    assert (one["refreshToken"], one["subscriptionType"]) == (one["accessToken"] + REFRESH, "max")
    assert one["accessToken"] != two["accessToken"]
    is_over = threading.Event()
    said: list[str] = []

    def work(box: Box) -> None:
        field = f"Authorization: Bearer {tokens_of(box)['accessToken']}"
        while not is_over.is_set():
            said.append(box.ask("api.anthropic.com", field))

    threads = [threading.Thread(target=work, args=(box,)) for box in boxes]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: vendor.logins.renewals >= RENEWALS or vendor.logins.is_logged_out, "renewals", 4 * DEADLINE)
    finally:
        is_over.set()
        for thread in threads:
            thread.join(DEADLINE)
    assert not vendor.logins.is_logged_out
    assert [one for one in said if '"it": "works"' not in one] == []
    assert set(vendor.statuses) == {200}
    (login,) = server.get("/api/logins").json
    assert (login["source"], login["state"], login["sessions"]) == ("vendor", "good", sorted(box.id for box in boxes))
    assert login["good_until"]
    for box in boxes:
        wait_until(lambda box=box: renewals_told(server, box) >= RENEWALS, "the journal")


def test_what_a_tool_asks_the_token_endpoint_for_never_gets_there(boxes, vendor):
    before = vendor.logins.renewals
    tokens = tokens_of(boxes[0])
    vendor.logins.lasts = EARLY + 3600.0
    body = json.dumps({"grant_type": "refresh_token", "refresh_token": tokens["refreshToken"]})
    said = boxes[0].post("platform.claude.com", "/v1/oauth/token", body)
    assert tokens["accessToken"] in said
    body = json.dumps({"grant_type": "authorization_code", "code": "x"})
    assert "sign in on the host" in boxes[0].post("platform.claude.com", "/v1/oauth/token", body)
    assert vendor.logins.renewals == before


@pytest.mark.day
def test_root_finds_neither_token_in_the_container(boxes, server):
    real = json.loads((server.home / ".claude" / ".credentials.json").read_text())["claudeAiOauth"]
    assert [boxes[0].holders(real[name]) for name in ("accessToken", "refreshToken")] == [[], []]


def test_a_login_that_is_over_is_told_in_words_and_good_again_after_a_sign_in(boxes, server, vendor):
    file = server.home / ".claude" / ".credentials.json"
    content = json.loads(file.read_text())
    content["claudeAiOauth"]["expiresAt"] = 0
    file.write_text(json.dumps(content))
    vendor.logins.is_logged_out = True
    field = f"Authorization: Bearer {tokens_of(boxes[1])['accessToken']}"
    wait_until(lambda: "run `claude` and type /login on this host" in boxes[1].ask("api.anthropic.com", field), "words")
    assert server.post("/api/logins/claude/check").json["state"] == "expired"
    vendor.logins.is_logged_out = False
    file.write_text(json.dumps(claude_file(vendor.logins.issue())))
    assert server.post("/api/logins/claude/check").json["state"] == "good"
    assert '"it": "works"' in boxes[1].ask("api.anthropic.com", field)
