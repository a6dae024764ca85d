"""Logins that stay on this host, on a real Incus, against root in the container: it has placeholders, no more."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from login_box import ADDRESS, OTHER_ADDRESS, Box, Vendor, lending_server, put_secret, vendor_context, vendor_of
from network_box import command_with_hosts
from test_agents import Tool, config

from clincus_features.logins.authority import memory_folder
from clincus_features.logins.loans import run_name
from tests.more_tools import mounts
from tests.one_use_vendor import claude_file
from tests.programs import DEADLINE, wait_until
from tests.vendor_api import VendorApi

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
KEY = "sk-ant-api03-the-real-key-Zq8vX2"
TOKEN = "ghp_TheRealTokenOfTheHost0123456789abcdef"
API = "api.anthropic.com"
NAMES = (API, "github.com", "other.example", "api.openai.com", "chatgpt.com", "auth.openai.com", "api.github.com")
NAMES += ("generativelanguage.googleapis.com", "api.individual.githubcopilot.com")
REACHABLE = f'[network]\nreachable = ["{ADDRESS}/32", "{OTHER_ADDRESS}/32"]\n'
LOGINS = f"""{REACHABLE}[defaults]
logins = ["anthropic", "github"]
[logins.anthropic]
from = {{ file = "~/anthropic-key" }}
[logins.metered]
hosts = ["other.example"]
header = "x-key"
form = "{{secret}}"
variable = "METERED_KEY"
limit = {{ requests_per_session = 2 }}
from = {{ file = "~/anthropic-key" }}
[logins.github]
from = {{ command = ["cat", "github-token"] }}
"""


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Iterator[Vendor]:
    with vendor_of(Path(tmp_path_factory.mktemp("vendors")), NAMES) as made:
        yield made


def put_secrets(home: Path) -> None:
    put_secret(home / "anthropic-key", KEY)
    put_secret(home / "github-token", TOKEN)


@pytest.fixture(scope="module")
def start_lender(start_shared, vendor):
    """A function that starts a server which has real logins, in its files and in its own variables."""
    return lambda: lending_server(start_shared, vendor, LOGINS, GH_TOKEN=TOKEN, ANTHROPIC_API_KEY=KEY)


@pytest.fixture(scope="module")
def box(bed, start_lender, keep_session, vendor) -> Box:
    server = start_lender()
    put_secrets(server.home)
    put_secret(server.home / ".claude" / ".credentials.json", json.dumps({"claudeAiOauth": {"accessToken": KEY}}))
    kept = {"primaryApiKey": KEY, "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []}}
    (server.home / ".claude.json").write_text(json.dumps({**kept, "theme": "light"}))
    return Box(bed, server, keep_session(server, tool="claude")["id"])


@pytest.mark.day
def test_a_placeholder_becomes_the_value_at_its_host_and_the_answer_does_not_show_it(box, vendor):
    session = box.server.get(f"/api/sessions/{box.id}").json
    assert (session["logins"], session["network"]["mode"]) == (["anthropic", "github"], "open")
    placeholder = box.variable("ANTHROPIC_API_KEY")
    assert placeholder.startswith("sk-ant-api03-clincus-")
    answer = box.ask(API, f"X-Api-Key: {placeholder}")
    assert vendor.heads[-1]["x-api-key"] == KEY
    assert '"x-api-key": "' + "*" * len(KEY) in answer, answer
    assert "refs/heads/main" in box.shell("git ls-remote https://github.com/a/b 2>&1 || true")
    sent = base64.b64decode(vendor.heads[-1]["authorization"].removeprefix("Basic ")).decode()
    assert sent == f"x-access-token:{TOKEN}"


@pytest.mark.day
def test_a_login_that_is_revoked_is_lent_to_nobody_until_it_is_allowed(box, vendor):
    field = f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}"
    assert box.server.post("/api/logins/anthropic/check").json["state"] == "good"
    assert box.server.post("/api/logins/anthropic/revoke").json["state"] == "revoked"
    before = len(vendor.heads)
    assert "it is revoked (clincus login allow anthropic)" in box.ask(API, field)
    assert len(vendor.heads) == before
    assert box.server.delete("/api/logins/anthropic/revoke").json["state"] == "good"
    box.ask(API, field)
    assert vendor.heads[-1]["x-api-key"] == KEY
    (one,) = [one for one in box.server.get("/api/logins").json if one["name"] == "anthropic"]
    assert (one["sessions"], bool(one["last_used"])) == ([box.id], True)


@pytest.mark.day
def test_a_session_may_borrow_others_than_the_config_says_until_they_are_taken_from_it(bed, box, vendor, workspace):
    answer = box.server.post("/api/sessions", {"workspace": str(workspace), "tool": "shell", "logins": ["nope"]})
    assert (answer.status, "there is no [logins.nope]" in answer.json["error"]) == (400, True)
    session = box.server.create(workspace, tool="shell", logins=["github", "metered"])
    other = Box(bed, box.server, session["id"])
    assert session["logins"] == ["github", "metered"]
    assert bed.shell(other.id, "printenv ANTHROPIC_API_KEY || true") == ""
    field = f"Authorization: Bearer {other.variable('GH_TOKEN')}"
    other.ask("github.com", field)
    assert vendor.heads[-1]["authorization"] == f"Bearer {TOKEN}"
    said = [other.ask("other.example", f"X-Key: {other.variable('METERED_KEY')}") for _ in range(3)]
    assert [f'"x-key": "{len(KEY) * "*"}"' in one for one in said] == [True, True, False]
    assert "its limit of 2 requests a session is reached (limit in [logins.metered]" in said[2]
    (one,) = [one for one in box.server.get("/api/logins").json if one["name"] == "metered"]
    assert (one["today"]["requests"], one["limit"]) == (2, {"requests_per_session": 2})
    before = len(vendor.heads)
    assert box.server.request("PATCH", f"/api/sessions/{other.id}", {"logins": []}).status == 200
    assert "it was taken from this session" in other.ask("github.com", field)
    assert len(vendor.heads) == before
    rows = {row["login"]: row for row in box.server.get(f"/api/sessions/{other.id}/network").json["lent"]}
    assert (rows["github"]["requests"], rows["github"]["refused"], rows["metered"]["refused"]) == (1, 1, 1)
    assert box.server.delete(f"/api/sessions/{other.id}?force=true").status == 204


@pytest.mark.day
def test_a_placeholder_elsewhere_stays_one(box, vendor):
    placeholder, before = box.variable("ANTHROPIC_API_KEY"), len(vendor.heads)
    for host, fields, more in (
        (API, [f"X-Other: {placeholder}"], {}),
        (API, [], {"target": f"/?key={placeholder}"}),
        (API, [f"X-Api-Key: {placeholder}"], {"name": "github.com"}),
        ("github.com", [f"Authorization: Bearer {placeholder}"], {}),
    ):
        assert "Clincus: " in box.ask(host, *fields, **more)
    assert len(vendor.heads) == before
    assert "the placeholder of the login anthropic was in the header x-other" in box.server.log()


@pytest.mark.day
def test_neither_root_of_the_container_nor_this_host_tells_a_secret(box):
    """After both were used: memory of all processes, files, environments, the instance, API, logs, journal."""
    box.ask(API, f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}")
    box.shell("git ls-remote https://github.com/a/b")
    assert "light" in box.shell("cat ~/.claude.json")
    for secret in (KEY, KEY[-20:], TOKEN, "PRIVATE KEY"):
        assert [one for one in box.holders(secret) if "/usr/" not in one and "/etc/ssl/private" not in one] == []
    assert box.holders(box.variable("ANTHROPIC_API_KEY")), "what is there is found"
    texts = [json.dumps(box.bed.incus.query(f"/1.0/instances/{box.id}?recursion=1")), box.server.log()]
    paths = ("/api/config", "/api/sessions", "/api/logins", "/metrics")
    texts += [box.server.get(path).body.decode() for path in paths]
    incus = Path(box.bed.folder or "/nowhere")
    for path in (
        *(box.server.home / ".clincus").rglob("*"),
        *(incus / "logs").rglob("*"),
        *incus.glob("database/**/*"),
    ):
        with suppress(FileNotFoundError):  # the server replaces its files while they are read
            texts += [path.read_bytes().decode("latin-1")] if path.is_file() and not path.is_symlink() else []
    assert [text for text in texts if KEY in text or TOKEN in text] == []


def certificates_of(bed, id: str) -> Path:
    """The file with the certificates of a session."""
    label = bed.ask(f"/1.0/instances/{id}")["config"]["user.clincus.logins"]
    return Path(memory_folder(os.geteuid())) / f"{run_name(id, label)}.pem"


@pytest.mark.day
def test_a_session_keeps_its_placeholders_over_a_resume_and_the_next_server_and_leaves_no_certificates(
    bed, box, vendor, start_lender
):
    placeholder = box.variable("ANTHROPIC_API_KEY")
    bundle = "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt; ls /etc/ssl/certs/*.0 | wc -l"
    before = box.shell(bundle)
    assert box.shell("ls ~/.claude/.credentials.json 2>/dev/null || true") == "", "a new session gets no copy"
    box.shell("echo copy >~/.claude/.credentials.json")
    path = f"/api/sessions/{box.id}"
    assert box.server.delete(path).status == 204
    assert box.server.post(f"{path}/resume").status == 200
    assert box.shell("ls ~/.claude/.credentials.json 2>/dev/null || true") == ""
    assert (box.variable("ANTHROPIC_API_KEY"), box.shell(bundle)) == (placeholder, before)
    authority = box.shell("cat /usr/local/share/ca-certificates/clincus-logins.crt")
    box.server.kill()
    box.server = start_lender()
    wait_until(lambda: "x-api-key" in box.ask(API, f"X-Api-Key: {placeholder}"), "the way out")
    assert vendor.heads[-1]["x-api-key"] == KEY
    assert box.shell("cat /usr/local/share/ca-certificates/clincus-logins.crt") == authority
    certificates = certificates_of(bed, box.id)
    assert certificates.exists()
    assert box.server.delete(f"{path}?force=true").status == 204
    wait_until(lambda: not certificates.exists(), "the end of the certificates")


# ---- real tools


@pytest.fixture
def real_vendor(vendor, home) -> Iterator[VendorApi]:
    """The stand-in that answers real tools, at the vendors' own names."""
    made = VendorApi(OTHER_ADDRESS, 443)
    (home / "hosts").write_text((vendor.folder / "hosts").read_text().replace(ADDRESS, OTHER_ADDRESS))
    context = vendor_context(vendor.folder)
    made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    put_secrets(home)
    yield made
    made.close()


@pytest.fixture
def work_a_turn(bed, start_server, workspace, home, *, vendor, real_vendor):
    """A function that lets a real tool answer one prompt, and gives the server and the id of its session."""

    def work(text: str, **fields: str):
        server = start_server(
            config=text,
            command=command_with_hosts(home / "hosts"),
            environ={"SSL_CERT_FILE": str(vendor.folder / "trust.pem")},
        )
        real = Tool(bed, server, server.create(workspace, **fields)["id"])
        real.becomes("idle", timeout=4 * DEADLINE)
        real.post("prompt", {"text": "say hello there"})
        real.becomes("done", timeout=2 * DEADLINE)
        assert any("say hello there" in one for one in (*real_vendor.requests, *real_vendor.texts))
        for secret in ("real-key", "the-real-token"):
            assert bed.shell(real.id, f"grep -rlF {secret} /home /tmp 2>/dev/null || true", 0) == ""
        return server, real.id

    return work


def test_claude_code_works_a_turn_with_a_subscription_that_is_lent(bed, work_a_turn, home, real_vendor):
    tokens = {"access_token": "sk-ant-oat01-real-key-of-mine", "refresh_token": "sk-ant-ort01-real-key-too"}
    put_secret(home / ".claude" / ".credentials.json", json.dumps(claude_file({**tokens, "expires_in": 3600})))
    lent = '[defaults]\nlogins = ["claude"]\n[logins.claude]\nlend = true\n'
    _, id = work_a_turn(config("claude") + REACHABLE + lent, profile="real")
    assert real_vendor.tokens - {""} == {tokens["access_token"]}
    assert "-refresh" in bed.shell(id, "cat ~/.claude/.credentials.json")


def test_copilot_works_a_turn_with_a_token_of_github_that_is_not_that_of_git(bed, work_a_turn, home, real_vendor):
    """It asks for no token of its own, which would be refused."""
    token = "gho_the-real-key-of-copilot-0123456789abcdef"
    put_secret(home / "copilot-token", token)
    logins = LOGINS.replace('["anthropic", "github"]', '["copilot", "github"]')
    logins += '[logins.copilot]\nfrom = { file = "~/copilot-token" }\n'
    server, id = work_a_turn(config("copilot", COPILOT_MODEL="claude-sonnet-4.5") + logins, profile="real")
    assert real_vendor.tokens - {""} == {token}
    assert bed.shell(id, "printenv COPILOT_GITHUB_TOKEN").startswith("ghu_")
    network = server.get(f"/api/sessions/{id}/network").json
    assert ({row["refused"] for row in network["lent"]}, network["alarms"]) == ({0}, [])


OTHER_TOOLS = {"codex": "openai", "gemini": "gemini", "aider": "openai"}
OTHER_KEYS = "".join(f'[logins.{name}]\nfrom = {{ file = "~/anthropic-key" }}\n' for name in ("openai", "gemini"))


@pytest.mark.timeout(1200)  # tools are fetched
@pytest.mark.parametrize("tool", OTHER_TOOLS)
def test_another_tool_works_a_turn_with_nothing_but_a_placeholder(work_a_turn, home, real_vendor, tool):
    (home / ".aider.conf.yml").write_text("model: openai/gpt-4o\n")
    logins = LOGINS.replace('["anthropic", "github"]', f'["{OTHER_TOOLS[tool]}"]')
    work_a_turn(mounts(tool) + logins + OTHER_KEYS, tool=tool)
    assert (real_vendor.keys | real_vendor.tokens) - {""} == {KEY}


@pytest.mark.timeout(1200)
def test_codex_works_a_turn_with_a_subscription_that_is_renewed_meanwhile(bed, work_a_turn, home, real_vendor):
    """Its token is over when it starts. The container never hears of a new one."""
    file = home / ".codex" / "auth.json"
    file.parent.mkdir()
    # The stand-in reads no zstd, in which Codex sends its requests to ChatGPT.
    (file.parent / "config.toml").write_text("[features]\nenable_request_compression = false\n")
    tokens = {name: f"the-real-token-of-{name}" for name in ("access_token", "refresh_token")}
    document = {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": {**tokens, "id_token": codex_id_token(), "account_id": "acc-1"},
        "last_refresh": "2020-01-01T00:00:00.000000000Z",
    }
    put_secret(file, json.dumps(document))
    lent = '[defaults]\nlogins = ["codex"]\n[logins.codex]\nlend = true\n'
    _, id = work_a_turn(mounts("codex") + REACHABLE + lent, tool="codex")
    assert real_vendor.tokens - {""} == {"the-real-token-of-new"}
    assert json.loads(file.read_text())["tokens"]["access_token"] == "the-real-token-of-new"
    assert "-refresh" in bed.shell(id, "cat ~/.codex/auth.json")


def codex_id_token() -> str:
    """A token as OpenAI writes it about a person."""
    account = {"chatgpt_plan_type": "plus", "chatgpt_account_id": "acc-1"}
    says = {"email": "me@example.com", "https://api.openai.com/auth": account}
    encode = lambda part: base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")  # noqa: E731
    return f"{encode({'alg': 'none'})}.{encode(says)}.x"
