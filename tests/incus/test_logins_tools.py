"""Real tools with nothing but placeholders in their container: each works at what stands in for its server.

A server here refuses whoever comes without the value, so that an answer proves that it came. The tools are the real
ones: git of the image, gh and curl of Debian, npm of npm's registry, pip and twine of PyPI.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from login_box import ADDRESS, SEARCH, Box, Vendor, vendor_context, write_certificates
from network_box import command_with_hosts
from registries_box import INDEX, NAMES, TOOLS, Registries, wanted

from tests.more_tools import mounts
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, git

pytestmark = [
    pytest.mark.timeout(1200),  # tools are fetched
    pytest.mark.skipif(os.geteuid() != 0, reason="a file of host names of the test's own needs root"),
]
SECRETS = {
    "github": "ghp_TheRealTokenOfTheHost0123456789abcdef",
    "npm": "npm_TheRealTokenOfTheHost0123456789abcdef",
    "pypi": "pypi-TheRealTokenOfTheHost0123456789abcdef",
    "index": "the-real/password+of=the.index",
    "own": "the-real-key-of-a-service-of-ones-own",
}
SOURCES = "".join(f"[logins.{name}]\nfrom = {{ file = '~/key-{name}' }}\n" for name in ("github", "npm", "pypi"))
CONFIG = f"""[network]
reachable = ["{ADDRESS}/32"]
[defaults]
logins = {json.dumps([*SECRETS])}
{SOURCES}
[logins.index]
hosts = ["index.example"]
header = "authorization"
form = "Basic *:{{secret}}"
variable = "INDEX_PASSWORD"
from = {{ file = '~/key-index' }}
[logins.own]
hosts = ["own.example"]
header = "x-key"
form = "{{secret}}"
variable = "OWN_KEY"
from = {{ file = '~/key-own' }}
"""


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Iterator[Any]:
    folder = Path(tmp_path_factory.mktemp("vendors"))
    write_certificates(folder, NAMES, ADDRESS)
    made: Any = Vendor(vendor_context(folder), ADDRESS, Registries)
    made.folder, made.repositories = folder, str(folder / "repositories")
    made.wanted = wanted(SECRETS)
    (folder / "repositories" / "me").mkdir(parents=True)
    git(folder, "init", "-q", "--bare", "repositories/me/thing.git")
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(start_shared, vendor) -> Server:
    tools = "".join(mounts(name, f"/opt/tools/{name}") for name in TOOLS)
    started: Server = start_shared(
        config=NO_CHECKPOINTS + CONFIG + tools,
        command=command_with_hosts(vendor.folder / "hosts"),
        environ={"SSL_CERT_FILE": str(vendor.folder / "trust.pem")},
    )
    for name, value in SECRETS.items():
        (started.home / f"key-{name}").write_text(value)
        (started.home / f"key-{name}").chmod(0o600)
    return started


@pytest.fixture(scope="module")
def box(bed, server, keep_session) -> Box:
    return Box(bed, server, keep_session(server, tool="shell", folder="one")["id"])


class Case(NamedTuple):
    """What a person types, and what comes of it."""

    script: str
    shown: str
    host: str


PATH = f'export PATH="{":".join(f"/opt/tools/{name}" for name in TOOLS)}:$PATH"; mkdir -p ~/here; cd ~/here'
COMMIT = "git -c user.name=me -c user.email=me@x commit -q --allow-empty -m first"
CASES = {
    "git clones": Case("git clone -q https://github.com/me/thing cloned && ls -d cloned/.git", "cloned/.git", NAMES[0]),
    "git pushes": Case(
        f"git clone -q https://github.com/me/thing pushed; cd pushed; {COMMIT}; "
        "git push -q origin HEAD:refs/heads/made && git ls-remote origin",
        "refs/heads/made",
        NAMES[0],
    ),
    "gh asks the API": Case("gh api user --jq .login", "me-at-github", NAMES[1]),
    "gh asks by GraphQL": Case(
        "gh api graphql -f query='{viewer{login}}' --jq .data.viewer.login", "me-at-github", NAMES[1]
    ),
    "npm says who it is": Case("npm whoami", "me-at-npm", NAMES[2]),
    "npm installs what is private": Case("npm install @me/thing && cat node_modules/@me/thing/*", "1.0.0", NAMES[2]),
    "npm publishes": Case(
        """mkdir -p other; cd other; echo '{"name":"@me/other","version":"1.0.0"}' >package.json; npm publish""",
        "+ @me/other@1.0.0",
        NAMES[2],
    ),
    "pip installs from an index with a password": Case(
        f'pip install -q --no-deps --target site --index-url "{INDEX}" thing && cat site/thing.py', "works", NAMES[4]
    ),
    "twine uploads": Case(
        f'pip download -q --no-deps -d dist --index-url "{INDEX}" thing && twine upload --disable-progress-bar dist/*',
        "View at",
        NAMES[3],
    ),
    "curl": Case('curl -sS -H "X-Key: $OWN_KEY" https://own.example/', '"it": "works"', NAMES[5]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_tool_works_with_a_placeholder(box, server, vendor, name):
    case = CASES[name]
    vendor.heads.clear()
    said = box.shell(f"{PATH}; {{ {case.script}; }} 2>&1 || true")
    assert case.shown in said, (said, vendor.heads)
    assert case.host in {one["host"] for one in vendor.heads}
    assert server.get(f"/api/sessions/{box.id}/network").json["alarms"] == []


def test_no_value_is_in_the_container_after_all_of_it(box):
    for secret in SECRETS.values():
        backwards = secret[::-1].encode().hex()
        done = box.bed.incus.exec(box.id, ["perl", "-e", SEARCH, backwards], user=0, timeout=2 * DEADLINE)
        assert done.stdout.decode().splitlines() == ["searched"], secret
