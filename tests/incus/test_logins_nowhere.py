"""One search for the secrets over everything that sessions leave: nothing has them, and their placeholders are found.

The real Claude Code works with an API key and runs git, gh, npm, pip and twine with tokens. Another one works with a
subscription that is renewed meanwhile. All secrets have a part in common, which nothing else has.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from login_box import ADDRESS, OTHER_ADDRESS, Vendor, vendor_context, write_certificates
from network_box import command_with_hosts
from registries_box import INDEX, NAMES, TOOLS, Registries, wanted
from search_box import Search, watched_commands
from test_agents import Tool, config
from websockets.exceptions import ConnectionClosed

from clincus_features.logins.renewal import EARLY
from tests.contract import DOCUMENT, resolved
from tests.more_tools import mounts
from tests.one_use_vendor import OneUseVendor, claude_file
from tests.programs import DEADLINE, Server, connect, git
from tests.vendor_api import Handler, VendorApi

pytestmark = [
    pytest.mark.timeout(1800),  # tools are fetched
    pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root"),
]
SECRET = f"OfTheHost{secrets.token_hex(12)}"
KEY = f"sk-ant-api03-{SECRET}"
SECRETS = {
    "github": f"ghp_{SECRET}",
    "npm": f"npm_{SECRET}",
    "pypi": f"pypi-{SECRET}",
    "index": f"the-real/password+of={SECRET}",
}
LOGINS = f"""[network]
reachable = ["{ADDRESS}/32", "{OTHER_ADDRESS}/32"]
[logins.claude]
lend = true
[logins.index]
hosts = ["index.example"]
header = "authorization"
form = "Basic *:{{secret}}"
variable = "INDEX_PASSWORD"
from = {{ file = "~/keys/index" }}
""" + "".join(
    f'[logins.{name}]\nfrom = {{ file = "~/keys/{name}" }}\n' for name in ("anthropic", "github", "npm", "pypi")
)
MODELS = ("api.anthropic.com", "platform.claude.com")
VARIABLES = {"key": "ANTHROPIC_API_KEY", "github": "GH_TOKEN", "npm": "NPM_TOKEN", "pypi": "TWINE_PASSWORD"}
VARIABLES |= {"index": "INDEX_PASSWORD"}
WORK = f"""export PATH="{":".join(f"/opt/more/{name}" for name in TOOLS)}:$PATH"
mkdir -p ~/here; cd ~/here
git clone -q https://github.com/me/thing pushed && cd pushed
git -c user.name=me -c user.email=me@x commit -q --allow-empty -m first
git push -q origin HEAD:refs/heads/made && git ls-remote origin; cd ..
gh api user --jq .login
npm whoami
npm install @me/thing && ls -d node_modules/@me/thing
pip download -q --no-deps -d dist --index-url "{INDEX}" thing
twine upload --disable-progress-bar dist/*
printenv {" ".join(VARIABLES.values())} | tee /workspace/placeholders.txt
"""
SAID = ("refs/heads/made", "me-at-github", "me-at-npm", "node_modules/@me/thing", "View at")
LENT = "cat ~/.claude/.credentials.json | tee /workspace/placeholders.txt"
PLACEHOLDERS = {*VARIABLES, "lent"}
# Each kind of place has to be seen with these, so that a search of nothing does not pass.
SHOWN = {
    "disk": PLACEHOLDERS,
    "environ": {*VARIABLES},
    "memory": PLACEHOLDERS,
    "cmdline": {"tool"},
    "argv": {"session"},
    "variables of all": {*VARIABLES},
    "config of the instance": PLACEHOLDERS,
    "folder of Incus": PLACEHOLDERS,
    "log": {"session"},
    "home": {"session", "journal"},
    "objects of git": PLACEHOLDERS,
    "API": {*PLACEHOLDERS, "journal"},
    "events": {"session"},
    "terminal": {"tool"},
    "home afterwards": PLACEHOLDERS,
    "API afterwards": {"session", "journal"},
}


class Models(Handler):
    """Anthropic's two names: they serve whoever brings the key, or a token that is good now."""

    server: Any

    def do_POST(self) -> None:
        bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.path == "/v1/oauth/token":
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            tokens = self.server.logins.renew(asked["refresh_token"])
            self.send_json(200 if tokens else 400, tokens or {"error": "invalid_grant"})
        elif self.headers.get("X-Api-Key") == KEY or self.server.logins.takes(bearer):
            super().do_POST()
        else:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_json(401, {"type": "error", "error": {"type": "authentication_error", "message": "who are you?"}})


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    folder = Path(tmp_path_factory.mktemp("vendors"))
    write_certificates(folder, (*NAMES, *MODELS), ADDRESS)
    lines = ("127.0.0.1 localhost", f"{ADDRESS} {' '.join(NAMES)}", f"{OTHER_ADDRESS} {' '.join(MODELS)}")
    (folder / "hosts").write_text("\n".join((*lines, "")))
    return folder


@pytest.fixture(scope="module")
def registries(certificates) -> Iterator[Any]:
    made: Any = Vendor(vendor_context(certificates), ADDRESS, Registries)
    made.wanted, made.repositories = wanted(SECRETS), str(certificates / "repositories")
    (certificates / "repositories" / "me").mkdir(parents=True)
    git(certificates, "init", "-q", "--bare", "repositories/me/thing.git")
    yield made
    made.close()


@pytest.fixture(scope="module")
def models(certificates) -> Iterator[Any]:
    """Its tokens are good for two seconds before it is time to renew them."""
    made: Any = VendorApi(OTHER_ADDRESS, 443)
    made.RequestHandlerClass = Models
    made.logins = OneUseVendor(EARLY + 2.0, SECRET)
    made.socket = vendor_context(certificates).wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    yield made
    made.close()


@pytest.fixture(scope="module")
def vendors(models, registries) -> tuple[Any, Any]:
    return models, registries


@pytest.fixture(scope="module")
def server(start_shared, certificates, vendors) -> Server:
    tools = "".join(mounts(name, f"/opt/more/{name}") for name in TOOLS)
    started: Server = start_shared(
        config=config("claude") + tools + LOGINS,
        command=command_with_hosts(certificates / "hosts"),
        environ={"SSL_CERT_FILE": str(certificates / "trust.pem")},
    )
    sources = {f"keys/{name}": value for name, value in {**SECRETS, "anthropic": KEY}.items()}
    sources[".claude/.credentials.json"] = json.dumps(claude_file(vendors[0].logins.issue()))
    for name, content in sources.items():
        path = started.home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)
    return started


def listen(search: Search, server: Server) -> None:
    """Look at all events of a server until it ends."""
    with suppress(ConnectionClosed, OSError), connect(f"{server.socket_url}/ws/events") as socket:
        for message in socket:
            search.look("events", message, str(message).encode())


def ask_all(search: Search, kind: str, server: Server, ids: list[str]) -> list[str]:
    """Send each GET that the API has; the requests that got an error."""
    failed = []
    for path, item in DOCUMENT["paths"].items():
        if "get" not in item or path.startswith("/ws/"):
            continue
        fields = [resolved(one) for one in (*item.get("parameters", ()), *item["get"].get("parameters", ()))]
        needs_file = any(one["name"] == "path" and one.get("required") for one in fields)
        for id in ids if "{id}" in path else ids[:1]:
            target = path.replace("{id}", id) + "?path=placeholders.txt" * needs_file
            answer = server.get(target)
            search.look(kind, target, repr(answer.headers).encode() + answer.body)
            failed += [path] if answer.status >= 400 else []
    return failed


def look_at_terminal(search: Search, server: Server, id: str) -> None:
    """Look at what a terminal shows to somebody who comes."""
    with connect(f"{server.socket_url}/ws/terminal/{id}?readonly=true") as socket, suppress(TimeoutError):
        while True:
            message = socket.recv(timeout=3)
            search.look("terminal", id, message if isinstance(message, bytes) else message.encode())


def own_places(server: Server) -> set[Path]:
    """Where the secrets are of right, and the cache that all homes have in common."""
    return {server.home / name for name in ("keys", ".claude/.credentials.json", ".cache")}


def repositories_below(*folders: Path) -> list[Path]:
    return [file.parent for folder in folders for file in folder.rglob("HEAD") if (file.parent / "objects").is_dir()]


@pytest.fixture(scope="module")
def search() -> Search:
    made = Search(SECRET)
    made.mark("journal", "uses the login")
    made.mark("tool", "claude")
    return made


@pytest.fixture(scope="module")
def sessions(bed, server, keep_session, search, vendors) -> Iterator[list[Any]]:
    """Both sessions, once they have worked. Everything that happens meanwhile is looked at."""
    models, registries = vendors
    threading.Thread(target=listen, args=(search, server), daemon=True).start()
    with watched_commands(search):
        keys = keep_session(server, folder="one", profile="real", logins=["anthropic", *SECRETS])
        lent = keep_session(server, folder="two", profile="real", logins=["claude"])
        search.mark("session", keys["id"])
        for name, variable in VARIABLES.items():
            search.mark(name, bed.shell(keys["id"], f"printenv {variable}").strip())
        placeholders = json.loads(bed.shell(lent["id"], "cat ~/.claude/.credentials.json"))["claudeAiOauth"]
        search.mark("lent", placeholders["accessToken"])
        (Path(keys["workspace"]) / "work.sh").write_text(WORK)
        tools = [Tool(bed, server, one["id"]) for one in (keys, lent)]
        for tool in tools:
            tool.becomes("idle", timeout=4 * DEADLINE)
        tools[0].works_a_turn("bash sh work.sh 2>&1 | tee said.txt")
        said = (Path(keys["workspace"]) / "said.txt").read_text()
        assert [one for one in SAID if one not in said] == [], (said, registries.heads)
        for prompt in (f"bash {LENT}", "say hello again"):
            tools[1].works_a_turn(prompt)
        assert models.keys - {""} == {KEY}
        assert models.logins.renewals >= 2
        yield [keys, lent]


def test_no_secret_is_anywhere_once_each_kind_of_login_has_worked(bed, server, sessions, search, note):
    ids, workspaces = [one["id"] for one in sessions], [Path(one["workspace"]) for one in sessions]
    for id in ids:
        init = bed.ask(f"/1.0/instances/{id}/state")["pid"]
        root = Path(f"/proc/{init}/root")
        search.folder("disk", root, {root / name for name in ("proc", "sys", "dev", "opt/tools", "opt/more")})
        search.processes(init)
        search.look("config of the instance", id, bed.incus.run("config", "show", "--expanded", id))
        look_at_terminal(search, server, id)
    search.folder("folder of Incus", bed.folder)
    search.file("log", server.log_file)
    search.folder("home", server.home, own_places(server))
    for folder in repositories_below(server.home, *workspaces):
        search.repository("objects of git", folder)
    failed = ask_all(search, "API", server, ids)
    assert not [one for one in failed if not one.endswith("/image")]
    for id in ids:
        assert server.delete(f"/api/sessions/{id}").status == 204
    search.folder("home afterwards", server.home, own_places(server))
    search.folder("folder of Incus", bed.folder)
    ask_all(search, "API afterwards", server, ids)
    sizes = ", ".join(f"{kind} {size / 1e6:,.1f}" for kind, size in search.looked_at.items())
    note(f"searched for secrets of logins, MB: {sizes}")
    assert search.leaks == set()
    missing = {kind: names - search.seen[kind] for kind, names in SHOWN.items() if names - search.seen[kind]}
    assert missing == {}


def test_the_same_search_finds_a_secret(search, tmp_path):
    """In each of its ways to look."""
    planted = Search(SECRET)
    (tmp_path / "file").write_bytes(bytes((4 << 20) - 5) + KEY.encode())
    planted.folder("disk", tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "file")
    planted.repository("objects of git", tmp_path)
    holding = "key = [sys.argv[1], open(sys.argv[2]).read()]; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", sys.executable, "-c", f"import sys; {holding}", "x", str(tmp_path / "file")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.readline()
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        planted.processes(int(child))
        process.stdin.close()
    kinds = {one.partition(":")[0] for one in planted.leaks}
    assert kinds == {"disk", "objects of git", "memory"}
