"""The way of a start to the session's proxy, which Incus adds beside the start of the tool, on a real Incus."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.programs import DEADLINE, NO_CHECKPOINTS, wait_until

LOGINS = '[logins.anthropic]\nfrom = { env = "REAL_KEY" }\n'
WAYS: dict[str, dict[str, Any]] = {
    "login": {"logins": ["anthropic"]},
    "allow-list": {"network": "allow-list", "allow": ["pypi.org"]},
}
LISTENS = "grep -c ' 0100007F:0C38 00000000:0000 0A ' /proc/net/tcp || true"


@pytest.fixture
def incus(tmp_path) -> Path:
    """A folder with an `incus` that waits with changes of instances while the file `held` is there.

    It refuses them while `refused` is there.
    """
    folder = Path(tmp_path) / "bin"
    folder.mkdir()
    (folder / "incus").write_text(f"""#!/bin/sh
case " $* " in *" PATCH "*clincus-network*)
    [ ! -e {folder}/refused ] || {{ echo "Error: no room for another device" >&2; exit 1; }}
    : >{folder}/asked
    while [ -e {folder}/held ]; do sleep 0.05; done ;;
esac
exec {shutil.which("incus")} "$@"
""")
    (folder / "incus").chmod(0o755)
    return folder


@pytest.fixture
def environ(incus) -> dict[str, str]:
    return {"PATH": f"{incus}:{os.environ['PATH']}", "REAL_KEY": "sk-ant-api03-real"}


@pytest.fixture
def server(start_server, environ):
    return start_server(config=NO_CHECKPOINTS + LOGINS, environ=environ)


@pytest.mark.parametrize("way", WAYS)
def test_a_start_whose_way_incus_refuses_says_why_and_leaves_nothing(bed, server, workspace, incus, way):
    (incus / "refused").touch()
    answer = server.post("/api/sessions", {"workspace": str(workspace), **WAYS[way]})
    assert (answer.status, answer.json["error"]) == (500, "no room for another device")
    assert bed.names() == []
    assert server.get("/api/sessions").json == []
    assert [path for path in Path("/dev/shm").glob("clincus-logins*/*") if "clincus-" in path.name] == []
    (incus / "refused").unlink()
    server.create(workspace, **WAYS[way])  # the next one has the slot


@pytest.mark.parametrize("way", WAYS)
def test_no_tool_starts_before_its_way_is_there(bed, server, workspace, incus, way):
    """And no card is there meanwhile, if the list closes the network."""
    (incus / "held").touch()
    with ThreadPoolExecutor(1) as pool:
        creating = pool.submit(server.create, workspace, **WAYS[way])
        wait_until((incus / "asked").exists, "the change")
        (id,) = bed.names()
        assert bed.shell(id, LISTENS).strip() == "0"
        assert bed.shell(id, "tmux ls 2>/dev/null | wc -l; ls ~/.clincus 2>/dev/null | wc -l").split() == ["0", "0"]
        assert way == "login" or bed.shell(id, "ls /sys/class/net").split() == ["lo"]
        (incus / "held").unlink()
        session = creating.result(DEADLINE)
    assert session["status"] == "running"
    assert bed.shell(id, LISTENS).strip() == "1"
    assert bed.shell(id, "tmux ls | wc -l").strip() == "1"
