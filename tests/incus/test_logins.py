"""Logins that stay on this host, on a real Incus, against root in the container: it has placeholders, no more."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from login_box import ADDRESS, OTHER_ADDRESS, SEARCH, Box, Vendor, vendor_context, write_certificates
from network_box import command_with_hosts
from test_agents import Tool, config

from clincus_features.logins.authority import memory_folder
from clincus_features.logins.loans import run_name
from tests.more_tools import mounts
from tests.one_use_vendor import claude_file
from tests.programs import DEADLINE, NO_CHECKPOINTS, program, wait_until
from tests.real_tools import FRUGAL
from tests.vendor_api import VendorApi

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root")
KEY = "sk-ant-api03-the-real-key-Zq8vX2"
TOKEN = "ghp_TheRealTokenOfTheHost0123456789abcdef"
LOGINS = f"""[network]
reachable = ["{ADDRESS}/32", "{OTHER_ADDRESS}/32"]
[defaults]
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
def certificates(tmp_path_factory) -> Path:
    """A folder with the vendors' certificates, and the authority that only the server of the tests trusts."""
    folder = Path(tmp_path_factory.mktemp("vendors"))
    names = ("api.openai.com", "chatgpt.com", "auth.openai.com", "generativelanguage.googleapis.com")
    names += ("api.github.com", "api.individual.githubcopilot.com")
    write_certificates(folder, ("api.anthropic.com", "github.com", "other.example", *names), ADDRESS)
    return folder


@pytest.fixture(scope="module")
def vendor(certificates) -> Iterator[Vendor]:
    made = Vendor(vendor_context(certificates), ADDRESS)
    yield made
    made.close()


def put_secrets(home: Path) -> None:
    put_secret(home / "anthropic-key", KEY)
    put_secret(home / "github-token", TOKEN)


def put_secret(file: Path, value: str) -> None:
    file.write_text(f"{value}\n")
    file.chmod(0o600)


def reachable() -> str:
    """The setting by which the stand-in for real tools may be asked."""
    return f'[network]\nreachable = ["{OTHER_ADDRESS}/32"]\n'


@pytest.fixture(scope="module")
def start_lender(start_shared, certificates):
    """A function that starts a server which has real logins, in its files and in its own variables."""
    return lambda: start_shared(
        config=NO_CHECKPOINTS + LOGINS,
        command=command_with_hosts(certificates / "hosts"),
        environ={"SSL_CERT_FILE": str(certificates / "trust.pem"), "GH_TOKEN": TOKEN, "ANTHROPIC_API_KEY": KEY},
    )


@pytest.fixture(scope="module")
def box(bed, start_lender, keep_session, vendor) -> Box:
    server = start_lender()
    put_secrets(server.home)
    (server.home / ".claude").mkdir(exist_ok=True)
    (server.home / ".claude" / ".credentials.json").write_text(json.dumps({"claudeAiOauth": {"accessToken": KEY}}))
    kept = {"primaryApiKey": KEY, "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []}}
    (server.home / ".claude.json").write_text(json.dumps({**kept, "theme": "light"}))
    return Box(bed, server, keep_session(server, tool="claude")["id"])


@pytest.mark.day
def test_a_session_tells_what_it_borrows(box):
    session = box.server.get(f"/api/sessions/{box.id}").json
    assert session["logins"] == ["anthropic", "github"]
    assert session["network"]["mode"] == "open"


@pytest.mark.day
def test_a_placeholder_becomes_the_value_at_its_host_and_the_answer_does_not_show_it(box, vendor):
    placeholder = box.variable("ANTHROPIC_API_KEY")
    assert placeholder.startswith("sk-ant-api03-clincus-")
    answer = box.ask("api.anthropic.com", f"X-Api-Key: {placeholder}")
    assert vendor.heads[-1]["x-api-key"] == KEY
    assert '"x-api-key": "' + "*" * len(KEY) in answer, answer


@pytest.mark.day
def test_a_login_that_is_revoked_is_lent_to_nobody_until_it_is_allowed(box, vendor):
    placeholder = box.variable("ANTHROPIC_API_KEY")
    field = f"X-Api-Key: {placeholder}"
    assert box.server.post("/api/logins/anthropic/check").json["state"] == "good"
    assert box.server.post("/api/logins/anthropic/revoke").json["state"] == "revoked"
    before = len(vendor.heads)
    assert "it is revoked (clincus login allow anthropic)" in box.ask("api.anthropic.com", field)
    assert len(vendor.heads) == before
    assert box.server.delete("/api/logins/anthropic/revoke").json["state"] == "good"
    box.ask("api.anthropic.com", field)
    assert vendor.heads[-1]["x-api-key"] == KEY
    (one,) = [one for one in box.server.get("/api/logins").json if one["name"] == "anthropic"]
    assert one["sessions"] == [box.id]
    assert one["last_used"]
    assert box.server.post("/api/logins/none/check").status == 404


@pytest.mark.day
def test_a_session_may_borrow_others_than_the_config_says(bed, box, vendor, workspace):
    answer = box.server.post("/api/sessions", {"workspace": str(workspace), "tool": "shell", "logins": ["nope"]})
    assert (answer.status, "there is no [logins.nope]" in answer.json["error"]) == (400, True)
    other = Box(bed, box.server, box.server.create(workspace, tool="shell", logins=["github"])["id"])
    assert box.server.get(f"/api/sessions/{other.id}").json["logins"] == ["github"]
    assert bed.shell(other.id, "printenv ANTHROPIC_API_KEY || true") == ""
    token = other.variable("GH_TOKEN")
    other.ask("github.com", f"Authorization: Bearer {token}")
    assert vendor.heads[-1]["authorization"] == f"Bearer {TOKEN}"
    before = len(vendor.heads)
    assert box.server.request("PATCH", f"/api/sessions/{other.id}", {"logins": []}).status == 200
    assert "it was taken from this session" in other.ask("github.com", f"Authorization: Bearer {token}")
    assert len(vendor.heads) == before
    (row,) = box.server.get(f"/api/sessions/{other.id}/network").json["lent"]
    assert (row["login"], row["requests"], row["refused"]) == ("github", 1, 1)
    assert box.server.delete(f"/api/sessions/{other.id}?force=true").status == 204


def test_a_session_that_borrows_may_have_copies_of_other_logins(bed, start_server, workspace, home):
    put_secrets(home)
    (home / ".claude").mkdir(exist_ok=True)
    (home / ".claude" / ".credentials.json").write_text(json.dumps({"claudeAiOauth": {"accessToken": "a-copy"}}))
    server = start_server(
        config=NO_CHECKPOINTS + LOGINS.replace("[logins.anthropic]", "[logins]\ncopy = true\n[logins.anthropic]")
    )
    session = server.create(workspace, tool="claude", logins=["github"])
    assert "a-copy" in bed.shell(session["id"], "cat ~/.claude/.credentials.json")
    assert server.delete(f"/api/sessions/{session['id']}").status == 204
    assert server.post(f"/api/sessions/{session['id']}/resume").status == 200
    assert "a-copy" in bed.shell(session["id"], "cat ~/.claude/.credentials.json")


def test_a_limit_ends_what_a_session_may_use_and_says_so(bed, box, vendor, workspace):
    other = Box(bed, box.server, box.server.create(workspace, tool="shell", logins=["metered"])["id"])
    field = f"X-Key: {other.variable('METERED_KEY')}"
    said = [other.ask("other.example", field) for _ in range(3)]
    assert [f'"x-key": "{len(KEY) * "*"}"' in one for one in said] == [True, True, False]
    assert "its limit of 2 requests a session is reached (limit in [logins.metered]" in said[2]
    (one,) = [one for one in box.server.get("/api/logins").json if one["name"] == "metered"]
    assert (one["today"]["requests"], one["limit"]) == (2, {"requests_per_session": 2})
    (row,) = box.server.get(f"/api/sessions/{other.id}/network").json["lent"]
    assert (row["requests"], row["refused"]) == (2, 1)
    log = f"/api/sessions/{other.id}/log"
    words = "The session does not get the login metered: its limit of 2 requests a session is reached"
    wait_until(lambda: any(one["what"].startswith(words) for one in box.server.get(log).json), "the journal")
    assert box.server.delete(f"/api/sessions/{other.id}?force=true").status == 204


@pytest.mark.day
def test_git_works_over_https_as_it_does_by_itself(box, vendor):
    assert "refs/heads/main" in box.shell("git ls-remote https://github.com/a/b 2>&1 || true")
    sent = base64.b64decode(vendor.heads[-1]["authorization"].removeprefix("Basic ")).decode()
    assert sent == f"x-access-token:{TOKEN}"


@pytest.mark.day
def test_a_placeholder_elsewhere_stays_one(box, vendor):
    placeholder, before = box.variable("ANTHROPIC_API_KEY"), len(vendor.heads)
    for host, fields, more in (
        ("api.anthropic.com", [f"X-Other: {placeholder}"], {}),
        ("api.anthropic.com", [], {"target": f"/?key={placeholder}"}),
        ("api.anthropic.com", [f"Authorization: Bearer {placeholder}"], {}),
        ("api.anthropic.com", [f"X-Api-Key: {placeholder}"], {"name": "github.com"}),
        ("github.com", [f"Authorization: Bearer {placeholder}"], {}),
    ):
        assert "Clincus: " in box.ask(host, *fields, **more)
    assert len(vendor.heads) == before
    assert "the placeholder of the login anthropic was in the header x-other" in box.server.log()


@pytest.mark.day
def test_root_finds_no_secret_in_the_container(box):
    """After both were used, in memory of all processes, files and environments."""
    box.ask("api.anthropic.com", f"X-Api-Key: {box.variable('ANTHROPIC_API_KEY')}")
    box.shell("git ls-remote https://github.com/a/b")
    assert "light" in box.shell("cat ~/.claude.json")
    for secret in (KEY, KEY[-20:], TOKEN, "PRIVATE KEY"):
        backwards = secret[::-1].encode().hex()
        done = box.bed.incus.exec(box.id, ["perl", "-e", SEARCH, backwards], user=0, timeout=DEADLINE)
        found = [
            line for line in done.stdout.decode().splitlines() if "/usr/" not in line and "/etc/ssl/private" not in line
        ]
        assert found == ["searched"], secret
    shown = box.variable("ANTHROPIC_API_KEY")[::-1].encode().hex()
    done = box.bed.incus.exec(box.id, ["perl", "-e", SEARCH, shown], user=0, timeout=DEADLINE)
    assert len(done.stdout.decode().splitlines()) > 1, "what is there is found"


def test_nothing_of_this_host_tells_a_secret(box):
    """Instance, API, logs, journal: everything but the sources."""
    texts = [json.dumps(box.bed.incus.query(f"/1.0/instances/{box.id}?recursion=1")), box.server.log()]
    texts += [
        box.server.get(path).body.decode() for path in ("/api/config", "/api/sessions", "/api/logins", "/metrics")
    ]
    for path in (box.server.home / ".clincus").rglob("*"):
        with suppress(FileNotFoundError):  # the server replaces its files while they are read
            texts += [path.read_bytes().decode("latin-1")] if path.is_file() and not path.is_symlink() else []
    assert [text for text in texts if KEY in text or TOKEN in text] == []


@pytest.mark.day
def test_a_session_keeps_its_placeholders_and_loses_an_old_copy_when_it_is_resumed(box, vendor):
    placeholder = box.variable("ANTHROPIC_API_KEY")
    assert box.shell("ls ~/.claude/.credentials.json 2>/dev/null || true") == "", "a new session gets no copy"
    box.shell("echo copy >~/.claude/.credentials.json")
    path = f"/api/sessions/{box.id}"
    assert box.server.delete(path).status == 204
    assert box.server.post(f"{path}/resume").status == 200
    assert box.shell("ls ~/.claude/.credentials.json 2>/dev/null || true") == ""
    assert box.variable("ANTHROPIC_API_KEY") == placeholder
    box.ask("api.anthropic.com", f"X-Api-Key: {placeholder}")
    assert vendor.heads[-1]["x-api-key"] == KEY
    bundle = box.shell("grep -c BEGIN /etc/ssl/certs/ca-certificates.crt; ls /etc/ssl/certs/*.0 | wc -l")
    box.server.delete(path)
    box.server.post(f"{path}/resume")
    assert box.shell("grep -c BEGIN /etc/ssl/certs/ca-certificates.crt; ls /etc/ssl/certs/*.0 | wc -l") == bundle


def test_the_next_server_lends_on_with_the_same_certificates(box, vendor, start_lender):
    authority = box.shell("cat /usr/local/share/ca-certificates/clincus-logins.crt")
    box.server.kill()
    box.server = start_lender()
    placeholder = box.variable("ANTHROPIC_API_KEY")
    wait_until(lambda: "x-api-key" in box.ask("api.anthropic.com", f"X-Api-Key: {placeholder}"), "the way out")
    assert vendor.heads[-1]["x-api-key"] == KEY
    assert box.shell("cat /usr/local/share/ca-certificates/clincus-logins.crt") == authority


def certificates_of(bed, id: str) -> Path:
    """The file with the certificates of a session."""
    label = bed.incus.query(f"/1.0/instances/{id}")["config"]["user.clincus.logins"]
    file = Path(memory_folder(os.geteuid())) / f"{run_name(id, label)}.pem"
    assert file.exists()
    return file


@pytest.mark.day
def test_a_session_that_is_deleted_leaves_no_certificates(box, bed):
    certificates = certificates_of(bed, box.id)
    assert box.server.delete(f"/api/sessions/{box.id}?force=true").status == 204
    wait_until(lambda: not certificates.exists(), "the end of the certificates")


def test_a_delete_without_a_server_leaves_no_certificates(bed, start_server, workspace, home):
    put_secrets(home)
    server = start_server(config=NO_CHECKPOINTS + LOGINS)
    id = server.create(workspace, tool="shell")["id"]
    certificates = certificates_of(bed, id)
    server.stop()
    done = subprocess.run(
        [*program(), "kill", id, "--force"],
        env={**os.environ, **bed.environ, "HOME": str(home)},
        capture_output=True,
        timeout=2 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not certificates.exists()


def test_a_server_that_starts_removes_the_certificates_of_a_session_that_is_gone(bed, start_server, workspace, home):
    put_secrets(home)
    server = start_server(config=NO_CHECKPOINTS + LOGINS)
    gone, kept = (server.create(workspace, tool="shell", mode="clone")["id"] for _ in range(2))
    files = [certificates_of(bed, id) for id in (gone, kept)]
    server.stop()
    bed.incus.run("delete", "--force", gone)
    for file in files:
        os.utime(file, (0, 0))
    start_server(config=NO_CHECKPOINTS + LOGINS)
    wait_until(lambda: not files[0].exists(), "the end of the certificates")
    assert files[1].exists()


def test_a_session_without_logins_has_nothing_of_it(bed, start_server, workspace):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(workspace, tool="shell")
    assert session["logins"] == []
    instance = bed.incus.query(f"/1.0/instances/{session['id']}")
    assert "clincus-network" not in instance["devices"]
    assert "user.clincus.logins" not in instance["config"]
    assert (
        bed.shell(session["id"], "ls /usr/local/share/ca-certificates 2>/dev/null; printenv SSL_CERT_FILE || true", 0)
        == ""
    )


@pytest.fixture
def real_vendor(certificates, home) -> Iterator[VendorApi]:
    """The stand-in that answers real tools, at the vendors' own names."""
    made = VendorApi(OTHER_ADDRESS, 443)
    (home / "hosts").write_text((certificates / "hosts").read_text().replace(ADDRESS, OTHER_ADDRESS))
    made.socket = vendor_context(certificates).wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    put_secrets(home)
    yield made
    made.close()


@pytest.fixture
def start_real(start_server, home, certificates):
    """A function that starts a server with a configuration, whose names lead to the stand-in."""
    return lambda text: start_server(
        config=text,
        command=command_with_hosts(home / "hosts"),
        environ={"SSL_CERT_FILE": str(certificates / "trust.pem")},
    )


def work_a_turn(bed, server, workspace, vendor: VendorApi) -> str:
    """Let a real tool answer one prompt; the id of its session."""
    session = server.create(workspace, profile="real")
    real = Tool(bed, server, session["id"])
    real.becomes("idle", timeout=4 * DEADLINE)
    real.type("say hello there")
    real.becomes("done", timeout=2 * DEADLINE)
    assert any("say hello there" in one for one in vendor.requests)
    assert bed.shell(session["id"], "grep -rlF real-key /home /tmp 2>/dev/null || true", 0) == ""
    return str(session["id"])


def test_claude_code_works_a_turn_with_nothing_but_a_placeholder(bed, start_real, workspace, real_vendor):
    work_a_turn(bed, start_real(config("claude") + LOGINS), workspace, real_vendor)
    assert real_vendor.keys - {""} == {KEY}


def test_claude_code_works_a_turn_with_a_subscription_that_is_lent(bed, start_real, workspace, home, real_vendor):
    (home / ".claude").mkdir(exist_ok=True)
    file = home / ".claude" / ".credentials.json"
    tokens = {"access_token": "sk-ant-oat01-real-key-of-mine", "refresh_token": "sk-ant-ort01-real-key-too"}
    file.write_text(json.dumps(claude_file({**tokens, "expires_in": 3600})))
    file.chmod(0o600)
    lent = '[defaults]\nlogins = ["claude"]\n[logins.claude]\nlend = true\n'
    id = work_a_turn(bed, start_real(config("claude") + reachable() + lent), workspace, real_vendor)
    assert real_vendor.tokens - {""} == {tokens["access_token"]}
    assert "-refresh" in bed.shell(id, "cat ~/.claude/.credentials.json")


def test_claude_code_shows_that_a_limit_is_reached(bed, start_real, workspace, real_vendor):
    """On its screen, in words that a person can read. The API has the sum, the limit and the refusal."""
    limited = LOGINS.replace("[logins.anthropic]\n", "[logins.anthropic]\nlimit = { tokens_per_session = 50 }\n")
    server = start_real(config("claude", **FRUGAL) + limited)
    real = Tool(bed, server, server.create(workspace, profile="real")["id"])
    real.becomes("idle", timeout=4 * DEADLINE)
    for number in range(1, 9):
        before = len(real_vendor.requests)
        if real.works_a_turn(f"say hello {number}")["state"] == "failed":
            break
    assert number > 1, "the first turn is within the limit"
    words = "its limit of 50 tokens a session is reached (limit in [logins.anthropic] of the config)"
    wait_until(lambda: words in " ".join(real.screen().split()), real.screen)
    assert len(real_vendor.requests) == before
    assert words in real.agent()["text"]
    (one,) = [one for one in server.get("/api/logins").json if one["name"] == "anthropic"]
    assert (one["limit"], one["today"]["tokens"] >= 50) == ({"tokens_per_session": 50}, True)
    (row,) = server.get(f"/api/sessions/{real.id}/network").json["lent"]
    assert row["refused"] >= 1
    log = f"/api/sessions/{real.id}/log"
    wait_until(lambda: any(words in one["what"] for one in server.get(log).json), "the journal")


def test_claude_code_works_a_turn_with_a_token_of_its_setup(start_real, workspace, home, bed, real_vendor):
    token = "sk-ant-oat01-real-key-of-a-year"
    put_secret(home / "claude-token", token)
    login = '[defaults]\nlogins = ["claude"]\n[logins.claude]\nfrom = { file = "~/claude-token" }\n'
    work_a_turn(bed, start_real(config("claude", **FRUGAL) + reachable() + login), workspace, real_vendor)
    assert real_vendor.tokens - {""} == {token}


def test_opencode_works_a_turn_with_nothing_but_a_placeholder(bed, start_real, workspace, home, real_vendor):
    folder = home / ".config" / "opencode"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "opencode.json").write_text(json.dumps({"model": "anthropic/claude-sonnet-4-5"}))
    work_a_turn(bed, start_real(config("opencode") + LOGINS), workspace, real_vendor)
    assert real_vendor.keys - {""} == {KEY}


def test_copilot_works_a_turn_with_a_placeholder_for_a_key_of_ones_own(bed, start_real, workspace, real_vendor):
    """Its variable is one that no service of the table has."""
    variables = {
        "COPILOT_OFFLINE": "true",
        "COPILOT_PROVIDER_TYPE": "anthropic",
        "COPILOT_PROVIDER_BASE_URL": "https://api.anthropic.com",
        "COPILOT_MODEL": "claude-sonnet-4.5",
    }
    logins = (
        LOGINS.replace('["anthropic", "github"]', '["own"]')
        + """[logins.own]
hosts = ["api.anthropic.com"]
header = "x-api-key"
form = "{secret}"
variable = "COPILOT_PROVIDER_API_KEY"
from = { file = "~/anthropic-key" }
"""
    )
    work_a_turn(bed, start_real(config("copilot", **variables) + logins), workspace, real_vendor)
    assert real_vendor.keys - {""} == {KEY}


def test_copilot_works_a_turn_with_a_token_of_github_that_is_not_that_of_git(
    bed, start_real, workspace, home, real_vendor
):
    """It asks for no token of its own, which would be refused."""
    token = "gho_the-real-key-of-copilot-0123456789abcdef"
    put_secret(home / "copilot-token", token)
    logins = LOGINS.replace('["anthropic", "github"]', '["copilot", "github"]')
    logins += '[logins.copilot]\nfrom = { file = "~/copilot-token" }\n'
    server = start_real(config("copilot", COPILOT_MODEL="claude-sonnet-4.5") + logins)
    id = work_a_turn(bed, server, workspace, real_vendor)
    assert real_vendor.tokens - {""} == {token}
    assert "GET /copilot_internal/user" in real_vendor.requests
    assert bed.shell(id, "printenv COPILOT_GITHUB_TOKEN").startswith("ghu_")
    network = server.get(f"/api/sessions/{id}/network").json
    assert {row["refused"] for row in network["lent"]} == {0}
    assert network["alarms"] == []


OTHER_TOOLS = {"codex": "openai", "gemini": "gemini", "aider": "openai"}
OTHER_KEYS = """[logins.openai]
from = { file = "~/anthropic-key" }
[logins.gemini]
from = { file = "~/anthropic-key" }
"""


@pytest.fixture
def work_other_turn(bed, start_real, workspace, real_vendor):
    """A function that lets Codex, Gemini CLI or aider answer one prompt; it gives the id of the session."""

    def work(config: str, tool: str) -> str:
        server = start_real(mounts(tool) + config)
        session = server.create(workspace, tool=tool)
        real = Tool(bed, server, session["id"])
        real.becomes("idle", timeout=4 * DEADLINE)
        real.post("prompt", {"text": "say hello there"})
        real.becomes("done", timeout=2 * DEADLINE)
        assert any("say hello there" in one for one in real_vendor.texts)
        for secret in (KEY, "the-real-token"):
            assert bed.shell(session["id"], f"grep -rlF {secret} /home /tmp 2>/dev/null || true", 0) == ""
        return str(session["id"])

    return work


@pytest.mark.timeout(1200)  # tools are fetched
@pytest.mark.parametrize("tool", OTHER_TOOLS)
def test_another_tool_works_a_turn_with_nothing_but_a_placeholder(work_other_turn, home, real_vendor, tool):
    (home / ".aider.conf.yml").write_text("model: openai/gpt-4o\n")
    work_other_turn(LOGINS.replace('["anthropic", "github"]', f'["{OTHER_TOOLS[tool]}"]') + OTHER_KEYS, tool)
    assert (real_vendor.keys | real_vendor.tokens) - {""} == {KEY}


@pytest.mark.timeout(1200)
def test_codex_works_a_turn_with_a_subscription_that_is_renewed_meanwhile(bed, work_other_turn, home, real_vendor):
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
    file.write_text(json.dumps(document))
    file.chmod(0o600)
    lent = '[defaults]\nlogins = ["codex"]\n[logins.codex]\nlend = true\n'
    id = work_other_turn(reachable() + lent, "codex")
    assert real_vendor.tokens - {""} == {"the-real-token-of-new"}
    assert json.loads(file.read_text())["tokens"]["access_token"] == "the-real-token-of-new"
    assert "-refresh" in bed.shell(id, "cat ~/.codex/auth.json")


def codex_id_token() -> str:
    """A token as OpenAI writes it about a person."""
    account = {"chatgpt_plan_type": "plus", "chatgpt_account_id": "acc-1"}
    says = {"email": "me@example.com", "https://api.openai.com/auth": account}
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "none"}, says)
    )
    return f"{head}.{body}.x"
