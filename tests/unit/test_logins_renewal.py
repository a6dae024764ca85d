"""Logins that their vendor renews: once, on the host, in the tool's file, whoever else does so at the same time."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
import time
from collections.abc import Mapping

import pytest

from clincus_features.logins.renewal import EARLY, Renewal, folder_lock
from clincus_features.logins.services import SERVICES
from clincus_features.logins.settings import Host, Login
from clincus_features.logins.sources import SourceError
from clincus_features.logins.vendors import REFRESH, VENDORS, answer_tokens, claims
from tests.one_use_vendor import OneUseVendor, claude_file
from tests.programs import DEADLINE
from tests.table import table


def lent(name: str) -> Login:
    hosts = tuple(Host.read(host) for host in SERVICES[name].hosts)
    return Login(name, SERVICES[name], name, hosts, "vendor", None, 10.0, VENDORS[name])


CLAUDE, CODEX = lent("claude"), lent("codex")
PLACEHOLDER = "sk-ant-oat01-clincus-" + 32 * "a"


class PersonsHost:
    """A person's home with Claude Code's login, its vendor, and servers that lend it."""

    def __init__(self, home) -> None:
        self.home, self.vendor, self.asked = home, OneUseVendor(EARLY + 1000.0), []
        self.file = home / ".claude" / ".credentials.json"
        self.file.parent.mkdir()
        self.sign_in()

    def sign_in(self) -> None:
        self.file.write_text(json.dumps({**claude_file(self.vendor.issue()), "mcpOAuth": {"kept": True}}))
        self.file.chmod(0o600)

    def server(self) -> Renewal:
        return Renewal({"HOME": str(self.home)}, self.post)

    def post(self, url: str, document: Mapping[str, str]) -> tuple[int, bytes]:
        self.asked.append((url, dict(document)))
        answer = self.vendor.renew(document["refresh_token"])
        return (200, json.dumps(answer).encode()) if answer else (400, b'{"error": "invalid_grant"}')

    def content(self):
        return json.loads(self.file.read_text())

    def expire(self) -> None:
        content = self.content()
        content["claudeAiOauth"]["expiresAt"] = int(time.time() * 1000)
        self.file.write_text(json.dumps(content))


@pytest.fixture
def host(tmp_path) -> PersonsHost:
    return PersonsHost(tmp_path)


def test_one_whose_time_is_over_is_renewed_in_the_tools_own_file(host):
    host.expire()
    before = host.content()
    told: list[tuple[object, float]] = []
    secret = Renewal({"HOME": str(host.home)}, host.post, on_renewed=lambda *words: told.append(words)).read(CLAUDE)
    assert host.vendor.takes(secret.reveal())
    assert told == [(CLAUDE.vendor, pytest.approx(secret.good_until))]
    ((url, asked),) = host.asked
    assert url == "https://platform.claude.com/v1/oauth/token"
    assert asked == {
        "grant_type": "refresh_token",
        "refresh_token": before["claudeAiOauth"]["refreshToken"],
        "client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
        "scope": "user:inference user:profile",
    }
    content = host.content()
    assert content["claudeAiOauth"]["accessToken"] == secret.reveal()
    assert (content["mcpOAuth"], content["claudeAiOauth"]["subscriptionType"]) == ({"kept": True}, "max")
    assert stat.S_IMODE(host.file.stat().st_mode) == 0o600
    assert sorted(path.name for path in host.file.parent.iterdir()) == [".credentials.json"]
    assert not (host.home / ".claude.lock").exists()


def test_ten_renewals_by_two_servers_and_the_tool_itself_log_nobody_out(host):
    servers, failures = [host.server(), host.server()], []

    def ask(server: Renewal) -> None:
        try:
            assert host.vendor.takes(server.read(CLAUDE).reveal())
        except BaseException as error:
            failures.append(error)

    def run_tool() -> None:
        with folder_lock(str(host.file.parent)):
            content = host.content()
            if content["claudeAiOauth"]["expiresAt"] / 1000 - time.time() < EARLY:
                answer = host.vendor.renew(content["claudeAiOauth"]["refreshToken"])
                if not answer:
                    failures.append(AssertionError("the tool is logged out"))
                else:
                    host.file.write_text(json.dumps(claude_file(answer)))

    for _ in range(10):
        host.expire()
        threads = [threading.Thread(target=ask, args=(server,)) for server in 3 * servers]
        threads.append(threading.Thread(target=run_tool))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    assert failures == []
    assert (host.vendor.renewals, host.vendor.is_logged_out) == (10, False)


def test_one_that_the_vendor_does_not_take_is_renewed_although_its_time_is_not_over(host):
    server = host.server()
    secret = server.read(CLAUDE)
    host.vendor.end()
    os.utime(host.file, (0, time.time() - 3600))
    server.refuse(CLAUDE, secret)
    assert host.vendor.takes(server.read(CLAUDE).reveal())


def test_a_refusal_of_a_login_that_was_just_renewed_is_no_reason(host):
    """An agent can provoke refusals as often as it likes."""
    server = host.server()
    server.refuse(CLAUDE, server.read(CLAUDE))
    assert host.vendor.takes(server.read(CLAUDE).reveal())
    assert host.asked == []


def test_a_login_that_is_over_for_good_is_told_and_asked_for_once(host):
    host.expire()
    host.vendor.is_logged_out = True
    before = host.file.read_bytes()
    server = host.server()
    for _ in range(3):
        with pytest.raises(SourceError, match="run `claude` and type /login on this host") as caught:
            server.read(CLAUDE)
        assert caught.value.state == "expired"
    assert len(host.asked) == 1
    assert host.file.read_bytes() == before
    host.vendor.is_logged_out = False
    host.sign_in()
    assert host.vendor.takes(server.read(CLAUDE).reveal()), "after a person has signed in again"


def test_a_vendor_that_is_away_costs_nobody_a_login_that_still_holds(host):
    def away(url, document):
        raise SourceError("its vendor does not answer")

    content = host.content()
    content["claudeAiOauth"]["expiresAt"] = int((time.time() + EARLY / 2) * 1000)
    host.file.write_text(json.dumps(content))
    server = Renewal({"HOME": str(host.home)}, away)
    assert host.vendor.takes(server.read(CLAUDE).reveal())
    host.expire()
    with pytest.raises(SourceError, match="does not answer"):
        server.read(CLAUDE)
    assert host.content()["claudeAiOauth"]["refreshToken"] == content["claudeAiOauth"]["refreshToken"]


@table("answer", [b"[]", b'{"access_token": "tok en", "expires_in": 9}'])
def test_an_answer_that_cannot_be_read_changes_nothing(host, answer):
    host.expire()
    before = host.file.read_bytes()
    with pytest.raises(SourceError, match="cannot be read"):
        Renewal({"HOME": str(host.home)}, lambda url, document: (200, answer)).read(CLAUDE)
    assert host.file.read_bytes() == before


def test_it_waits_for_the_tool_that_renews_just_now(host):
    """Claude Code locks ~/.claude.lock while it does."""
    host.expire()
    lock = host.home / ".claude.lock"
    lock.mkdir()
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(host.server().read(CLAUDE).reveal()))
    thread.start()
    answer = host.vendor.renew(host.content()["claudeAiOauth"]["refreshToken"])
    assert answer
    host.file.write_text(json.dumps(claude_file(answer)))
    lock.rmdir()
    thread.join(DEADLINE)
    assert found == [answer["access_token"]]
    assert host.asked == []


def test_a_lock_that_was_left_behind_holds_nobody_up(host):
    host.expire()
    (host.home / ".claude.lock").mkdir()
    os.utime(host.home / ".claude.lock", (0, time.time() - 60))
    assert host.vendor.takes(host.server().read(CLAUDE).reveal())


@table(
    ("content", "mode", "words", "state"),
    [
        (None, 0o600, "there is no login on this host", "missing"),
        ("{", 0o600, "is no JSON", "failed"),
        ('{"claudeAiOauth": {}}', 0o600, "holds no login that can be lent", "missing"),
        ("{}", 0o644, "others may read or write", "failed"),
    ],
)
def test_what_is_wrong_with_the_tools_file_is_told(host, content, mode, words, state):
    host.file.unlink(missing_ok=True)
    if content is not None:
        host.file.write_text(content)
        host.file.chmod(mode)
    with pytest.raises(SourceError, match=words) as caught:
        host.server().read(CLAUDE)
    assert caught.value.state == state


def token(**says: object) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=") for one in ({"alg": "RS256"}, says)
    ]
    return ".".join([*parts, "signature"])


def test_a_login_of_codex_is_renewed_when_its_token_says_so(tmp_path):
    old, new = token(exp=time.time() - 1), token(exp=time.time() + 3600)
    file = tmp_path / "codex" / "auth.json"
    file.parent.mkdir()
    tokens = {"id_token": token(email="a@b"), "access_token": old, "refresh_token": "rt_old_one", "account_id": "acc"}
    file.write_text(
        json.dumps({"OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": "2026-01-01T00:00:00.123456789Z"})
    )
    file.chmod(0o600)
    asked = []

    def post(url, document):
        asked.append((url, document["refresh_token"]))
        answer = {"access_token": new, "refresh_token": "rt_new_one", "id_token": token(email="c@d")}
        return 200, json.dumps(answer).encode()

    secret = Renewal({"HOME": str(tmp_path), "CODEX_HOME": str(file.parent)}, post).read(CODEX)
    assert asked == [("https://auth.openai.com/oauth/token", "rt_old_one")]
    content = json.loads(file.read_text())
    assert secret.reveal() == content["tokens"]["access_token"] == new
    assert (content["tokens"]["refresh_token"], content["tokens"]["account_id"]) == ("rt_new_one", "acc")
    assert content["last_refresh"] > "2026-11"


# -- What a container has


@table("name", VENDORS)
def test_a_container_gets_placeholders_with_a_far_end(name):
    account = {"chatgpt_plan_type": "pro", "chatgpt_account_id": "acc", "chatgpt_user_id": "user"}
    real = {
        "claude": {"claudeAiOauth": {"accessToken": "real-access", "refreshToken": "real-refresh", "scopes": ["a"]}},
        "codex": {
            "tokens": {
                "id_token": token(email="person@example.com", **{"https://api.openai.com/auth": account}),
                "access_token": "real-access",
                "refresh_token": "real-refresh",
            }
        },
    }[name]
    vendor = VENDORS[name]
    found = vendor.lent(real, PLACEHOLDER, time.time())
    tokens = vendor.read(found)
    assert (tokens.access, tokens.refresh) == (PLACEHOLDER, PLACEHOLDER + REFRESH)
    assert tokens.good_until > time.time() + 7 * 86400
    text = json.dumps(found)
    for one in ("real-", "person@example.com", real.get("tokens", {}).get("id_token", "real-")):
        assert one not in text
    if name == "codex":
        assert claims(found["tokens"]["id_token"])["https://api.openai.com/auth"]["chatgpt_plan_type"] == "pro"


@table(
    ("fields", "status"),
    [
        ({"grant_type": "refresh_token", "refresh_token": PLACEHOLDER + REFRESH}, 200),
        ({"grant_type": "authorization_code", "code": "x"}, 403),
        ({"grant_type": "refresh_token", "refresh_token": "real"}, 400),
        ({}, 403),
    ],
)
def test_a_program_that_renews_its_placeholder_gets_it_again_and_any_other_request_is_refused(fields, status):
    found, document = answer_tokens(PLACEHOLDER, json.dumps(fields).encode(), "application/json")
    assert found == status
    assert document.get("access_token") == (PLACEHOLDER if status == 200 else None)
    assert CLAUDE.gives_tokens("platform.claude.com", 443)
    assert not CLAUDE.is_for("platform.claude.com", 443)
