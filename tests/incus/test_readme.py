"""The examples of README and docs/api.md, run as they stand but for the address, the paths and the session's id."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

import clincus

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
EXAMPLES = ("docs/api.md", "README.md")
LINKS = [(page, path) for page in PAGES for path in re.findall(r"\]\((?![a-z]+:)([^)#]+)", page.read_text())]


def curl_examples() -> list[str]:
    blocks = [re.search(r"# The API.*?```sh\n(.*?)```", (ROOT / name).read_text(), re.DOTALL) for name in EXAMPLES]
    lines = "".join(block[1] for block in blocks if block).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl")]


def test_each_curl_example_works_as_written(clincus_server, make_workspace, tmp_path):
    workspace = make_workspace("my-app")
    (workspace / "shot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    real = {
        "http://127.0.0.1:3000": clincus_server.url,
        "/home/you/projects/my-app": str(workspace),
        "/home/you/projects": str(workspace.parent),
        "clincus-a1b2c3-1": clincus.session_name("clincus-", str(workspace), 1),
    }
    for example in curl_examples():
        command = example
        for written, meant in real.items():
            command = command.replace(written, meant)
        done = subprocess.run(
            ["sh", "-c", command.replace("curl", "curl --silent --show-error --fail-with-body", 1)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, f"{example}\n{done.stdout}{done.stderr}"


def test_the_command_of_protection_md_prints_what_a_session_runs_as_root(bed, shared_session):
    (block,) = re.findall(r"```sh\n([^`]*raw\.lxc.*?)```", (ROOT / "docs/protection.md").read_text(), re.DOTALL)
    command = block.replace("NAME", shared_session["id"])
    environ = {**os.environ, **bed.environ}
    done = subprocess.run(["sh", "-ec", command], env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == (ROOT / "wall/hook.py").read_text()


@pytest.mark.parametrize(("page", "path"), LINKS, ids=[f"{page.name}: {path}" for page, path in LINKS])
def test_each_link_leads_to_a_file(page, path):
    assert (page.parent / path).exists()


def test_every_endpoint_of_the_reference_has_an_example():
    for path in ("config", "tools", "sessions", "sessions/history", "workspaces", "workspaces/folder"):
        assert any(re.search(rf"/api/{path}[\s\"?]", f"{line} ") for line in curl_examples()), path
