"""Files of ours that a power cut or a disk has torn: what is torn is told and kept aside, and nothing else is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import clincus
from clincus_cli import entry
from clincus_features import engines, trust
from clincus_features.agents import queue
from clincus_features.agents import records as agent_records
from clincus_features.agents.reading import Known
from clincus_features.agents.state import Agent, Past
from clincus_features.notify import store
from clincus_features.review import records
from tests.builders import a_session
from tests.table import table

NAME = "clincus-0a1b2c-1"
SESSION = a_session(id=NAME, workspace="/project", session_id="one")
DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "a half": lambda data: data[: len(data) // 2],
    "nothing": lambda data: b"",
    "another form": lambda data: b"[7]",
}


class Kept(NamedTuple):
    """A file that holds JSON: how a text gets into it, and how it is read again ("" for none)."""

    path: str
    write: Callable[[Mapping[str, str], str], object]
    read: Callable[[Mapping[str, str]], str]


def in_home(environ: Mapping[str, str], *parts: str) -> str:
    return os.path.join(clincus.state_directory(environ), *parts)


def prompts(environ: Mapping[str, str]) -> queue.Prompts:
    return queue.Prompts(lambda: in_home(environ, "prompts"))


def agents(environ: Mapping[str, str]) -> agent_records.Records:
    return agent_records.Records(lambda: in_home(environ, "agents"))


def note_agent(environ: Mapping[str, str], text: str) -> None:
    agents(environ).write(SESSION, agent_records.Record(Known(), Past(Agent("done", text=text))))


def agent_of(environ: Mapping[str, str]) -> str:
    agent = agents(environ).read(SESSION).past.agent
    return agent.text if agent is not None else ""


def reviewed(environ: Mapping[str, str]) -> records.Records:
    return records.Records(lambda: in_home(environ, "checkpoints"))


def note_record(environ: Mapping[str, str], text: str) -> None:
    with reviewed(environ).changing(reviewed(environ).of(SESSION)) as record:
        record.tree = text


def note_device(environ: Mapping[str, str], text: str) -> None:
    os.makedirs(in_home(environ), exist_ok=True)
    with store.changing(environ) as state:
        state.devices = {text: store.Device(text, "https://push.test/1", "phone", "http://here", clincus.utc_now())}


def note_facts(environ: Mapping[str, str], text: str) -> None:
    app = type("App", (), {"environ": environ, "config": clincus.load_config(environ)})
    engines.Survey(app)._keep("", engines.Facts(text))


def trust_text(environ: Mapping[str, str], text: str) -> None:
    trust.set_trust(environ, "/project", trust.ProjectFile("/project/.clincus.toml", "", text))


KEPT = [
    Kept(
        "dashboard.json",
        lambda environ, text: clincus.save_dashboard(environ, {"dashboard.workspace_roots": [f"/{text}"]}),
        lambda environ: "".join(clincus.load_config(environ).get("dashboard.workspace_roots")).strip("/"),
    ),
    Kept("trust.json", trust_text, lambda environ: trust.trusted_digests(environ).get("/project", "")),
    Kept(f"agents/{NAME}.json", note_agent, agent_of),
    Kept(
        f"prompts/{NAME}.json",
        lambda environ, text: prompts(environ).add(SESSION, text, "queued"),
        lambda environ: "".join(one.text for one in prompts(environ).of(SESSION)),
    ),
    Kept("push.json", note_device, lambda environ: "".join(store.read(environ).devices)),
    Kept("engines.json", note_facts, lambda environ: engines.read_facts(environ).get("", engines.Facts()).version),
    Kept(
        f"checkpoints/{NAME}.{records.short_key('one')}.json",
        note_record,
        lambda environ: reviewed(environ).of(SESSION).tree,
    ),
]


@table("damage", DAMAGES.values())
@table("kept", KEPT)
def test_a_torn_file_is_told_and_kept_aside(kept, damage, tmp_path, caplog):
    environ = {"HOME": str(tmp_path)}
    kept.write(environ, "xx")
    assert kept.read(environ) == "xx"
    path = Path(in_home(environ, kept.path))
    torn = damage(path.read_bytes())
    path.write_bytes(torn)
    assert kept.read(environ) == ""
    assert f"{path} is torn, so it is left out" in caplog.text
    assert Path(f"{path}.torn").read_bytes() == torn
    kept.write(environ, "x")
    assert kept.read(environ) == "x"


def test_a_file_that_cannot_be_read_now_is_not_put_aside(tmp_path):
    path = tmp_path / "file.json"
    path.mkdir()
    with pytest.raises(clincus.ConfigError, match="cannot be read"):
        clincus.read_json(str(path), 1000, dict)
    assert os.listdir(tmp_path) == ["file.json"]


@table("damage", DAMAGES.values())
def test_a_torn_conversation_folder_is_still_found_by_its_name(damage, tmp_path):
    environ = {"HOME": str(tmp_path)}
    directory = tmp_path / ".clincus" / "sessions-claude" / "one"
    directory.mkdir(parents=True)
    config = clincus.load_config(environ)
    assert clincus.list_saved(config, environ) == [], "a folder without a conversation"
    talk = directory / ".claude" / "projects" / "-work" / "one.jsonl"
    talk.parent.mkdir(parents=True)
    talk.write_text("hello\n")
    clincus.write_metadata(clincus.SavedSession("one", "claude", str(directory), NAME, "/project"))
    metadata = directory / "metadata.json"
    metadata.write_bytes(damage(metadata.read_bytes()))
    (found,) = clincus.list_saved(config, environ)
    assert (found.session_id, found.tool, found.directory) == ("one", "claude", str(directory))


@table("damage", [b"", b"\xff" * 30, bytes(30)])
def test_a_torn_token_lets_nobody_in_and_says_what_to_do(damage, tmp_path):
    path = tmp_path / "token"
    entry.load_token(str(path), {})
    path.write_bytes(damage)
    with pytest.raises(clincus.ClincusError, match=r"(delete it, and a token is made|is not UTF-8 text)"):
        entry.load_token(str(path), {})
