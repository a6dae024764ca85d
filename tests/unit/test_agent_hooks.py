"""What a tool's hook leaves in its container (guest/hook.sh, run by our own shell), and the settings of the tools."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import clincus
from clincus_features.agents import hooks, state
from tests.builders import a_session
from tests.programs import wait_until
from tests.table import table


def make_home(folder: Path) -> Path:
    """A code user's home with our hook, and a ring that notes that it rang."""
    (folder / ".clincus" / "agent").mkdir(parents=True)
    ring = '#!/bin/sh\necho rang >>"$HOME/rang"\n'
    for name, text in {"hook": clincus.guest_program("hook"), "ring": ring}.items():
        (folder / ".clincus" / name).write_text(text)
        (folder / ".clincus" / name).chmod(0o700)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


def run(home: Path, *words: str, stdin: bytes | str = b"") -> subprocess.CompletedProcess[bytes]:
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
    data = stdin if isinstance(stdin, bytes) else stdin.encode()
    return subprocess.run(words, input=data, env=environ, capture_output=True, timeout=60, check=False)


def hook(home: Path, *words: str, stdin: object = None) -> None:
    """Run the hook; it says nothing and succeeds, whatever it is given."""
    data = stdin if isinstance(stdin, bytes) else json.dumps(stdin or {}).encode()
    done = run(home, str(home / ".clincus" / "hook"), *words, stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def events(home: Path) -> list[state.Event]:
    file = home / ".clincus" / "agent" / "events"
    lines = file.read_bytes().splitlines() if file.exists() else []
    return [event for line in lines if (event := state.parse_event(line, time.time() + 1))]


def test_each_event_is_a_line_whole_or_brief(home):
    plan = {"tool_input": {"plan": "step\n" * 3000}}
    hook(home, "UserPromptSubmit", stdin={"prompt": 'say "hé"\n\\'})
    hook(home, "PermissionRequest", "whole", stdin=plan)
    hook(home, "PostToolUse", "brief", stdin={"tool_name": "Bash", "tool_response": "secret"})
    assert [(event.name, dict(event.data)) for event in events(home)] == [
        ("UserPromptSubmit", {"prompt": 'say "hé"\n\\'}),
        ("PermissionRequest", plan),
        ("PostToolUse", {"tool_name": "Bash"}),
    ]


@table("filler", ["é", "\\", '"', "\u0001"])
def test_a_long_text_is_cut_and_the_rest_stays_json(tmp_path, filler):
    home = make_home(tmp_path)
    hook(home, "Stop", stdin={"a": filler * 5000, "b": [{"c": filler * 5000}], "d": "end"})
    (event,) = events(home)
    assert set(event.data) == {"a", "b", "d"}
    assert event.data["d"] == "end"
    assert len((home / ".clincus/agent/events").read_bytes()) < 2000


def test_an_event_may_be_wanted_only_if_it_speaks_of_something_and_may_ring(home):
    hook(home, "PreToolUse", "only=AskUserQuestion", stdin={"tool_name": "Bash"})
    hook(home, "PreToolUse", "only=AskUserQuestion", stdin={"tool_name": "AskUserQuestion"})
    assert [event.data["tool_name"] for event in events(home)] == ["AskUserQuestion"]
    assert not (home / "rang").exists()
    hook(home, "Stop", "ring")
    wait_until((home / "rang").exists, "the ring")


@table("junk", [b"", b"junk", b"\xff\xfe{", b"{" * 100_000, b'{"a":"' + b"x" * 400_000])
def test_what_is_no_json_still_tells_that_something_happened(tmp_path, junk):
    home = make_home(tmp_path)
    hook(home, "Stop", stdin=junk)
    assert [event.name for event in events(home)] == ["Stop"]


def test_a_full_file_gives_way_and_no_event_is_lost(home):
    """Several hooks find it full."""
    folder = home / ".clincus" / "agent"
    (folder / "events").write_bytes(b"x" * 131_000 + b"\n")
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
    words = [str(home / ".clincus" / "hook"), "Stop"]
    running = [subprocess.Popen(words, stdin=subprocess.PIPE, env=environ) for _ in range(12)]
    for one in running:
        one.communicate(json.dumps({"a": "y" * 400}).encode(), timeout=60)
    told = (folder / "events.old").read_bytes() + (folder / "events").read_bytes()
    assert told.count(b'"event":"Stop"') == 12
    assert (folder / "events").stat().st_size < 131_000


# Runs a hook as a tool does: from a shell, below some other processes.
TOOL = 'echo {} | ~/.clincus/hook "$1" from=$$; [ -z "$2" ] || sh -c "$2"; :'


def tell_from(home: Path, script: str) -> list[str]:
    """The events that are kept of those that the processes of a script tell. `run` holds the script's process."""
    (home / "tool").write_text(TOOL)
    done = run(home, "sh", "-c", f'echo $$ >"$HOME/.clincus/agent/run"; {script}')
    assert done.returncode == 0, done.stderr
    return [event.name for event in events(home)]


ONE, NESTED = 'sh "$HOME/tool" {} ""', 'sh "$HOME/tool" Main "sh $HOME/tool Nested"'
PROCESSES = {
    "the tool of the session": (ONE.format("Main"), ["Main"]),
    "started again": (f"{ONE.format('Main')}; {ONE.format('Again')}", ["Main", "Again"]),
    "one that the tool has started": (NESTED, ["Main"]),
    "one elsewhere in the container": (
        f'sleep 60 & echo $! >"$HOME/.clincus/agent/run"; {ONE.format("Other")}; kill $!',
        [],
    ),
}


@table(("script", "kept"), PROCESSES.values(), ids=PROCESSES.keys())
def test_only_the_tool_that_the_session_has_started_is_heard(tmp_path, script, kept):
    assert tell_from(make_home(tmp_path), script) == kept


def test_a_link_in_the_place_of_the_file_is_not_followed(home):
    (home / ".clincus" / "agent" / "events").symlink_to(home / "target")
    hook(home, "Stop")
    assert not (home / "target").exists()


def test_without_its_folder_or_perl_a_hook_still_succeeds(home):
    (home / ".clincus" / "agent").rmdir()
    hook(home, "Stop", "ring")
    done = subprocess.run(
        ["/bin/sh", str(home / ".clincus/hook"), "Stop"], env={"HOME": str(home), "PATH": ""}, timeout=60, check=False
    )
    assert done.returncode == 0


def run_plugin(home: Path, program: str, hook: str, is_over: Callable[[str], bool]) -> list[str]:
    """The lines that a hook writes until all is told, as node runs a program beside the plugin of opencode."""
    (home / ".clincus/hook").write_text(hook)
    (home / "plugin.mjs").write_text(clincus.packaged_text("guest/opencode.js"))
    told, environ = home / "told", {"HOME": str(home), "PATH": os.environ["PATH"]}
    with subprocess.Popen(["node", "--input-type=module", "-e", program], cwd=home, env=environ) as node:
        try:
            wait_until(lambda: told.exists() and is_over(told.read_text()), "all events")
        finally:
            node.kill()
    return told.read_text().splitlines()


def test_opencode_tells_its_events_in_their_order(home):
    """The process of the first one takes longest, and is killed."""
    hook = """#!/bin/sh
        [ "$1" != session.status ] || { sleep 0.3; echo "$1" >>"$HOME/told"; kill -9 $$; }
        echo "$1 $(cat)" >>"$HOME/told"
        """
    program = """import { Clincus } from "./plugin.mjs"
        setInterval(() => {}, 1000)  // opencode goes on
        const { event } = await Clincus()
        for (const type of ["session.status", "unknown", "session.idle", "session.error"])
          await event({ event: { type, properties: { a: 1 } } })"""
    told = run_plugin(home, program, hook, lambda text: text.count("\n") == 3)
    assert told == ["session.status", 'session.idle {"a":1}', 'session.error {"a":1}']


SUB_AGENT = """import { Clincus } from "./plugin.mjs"
    setInterval(() => {}, 1000)
    const client = { session: { get: async ({ path }) => ({ data: { id: path.id, parentID: "old" } }) } }
    const { event, ...rest } = await Clincus({ client })
    const part = { type: "text", text: "x" }
    const say = (type, properties) => event({ event: { type, properties } })
    await say("session.created", { info: { id: "main" } })
    await say("session.created", { info: { id: "part", parentID: "main" } })
    for (const sessionID of ["part", "resumed", "main"]) {
      await rest["chat.message"]({ sessionID }, { parts: [part] })
      await say("session.status", { sessionID, status: { type: "busy" } })
      await say("question.asked", { sessionID })
      await say("session.error", { sessionID })
      await say("session.idle", { sessionID })
    }"""


def test_of_a_sub_agent_of_opencode_only_what_it_asks_is_told(home):
    hook = '#!/bin/sh\necho "$1 $(cat)" >>"$HOME/told"\n'
    told = run_plugin(home, SUB_AGENT, hook, lambda text: "session.idle" in text)
    main = ["UserPromptSubmit", "session.status", "question.asked", "session.error", "session.idle"]
    assert [line.partition(" ")[0] for line in told] == ["question.asked", "question.asked", *main]


def test_a_tools_settings_run_the_hook_and_succeed_without_it(home):
    groups = [group for groups in hooks.claude_settings()["hooks"].values() for group in groups]
    commands = [group["hooks"][0]["command"] for group in groups]
    commands += [entries[0]["bash"] for entries in hooks.copilot_hooks()["hooks"].values()]
    for command in commands:
        run(home, "sh", "-c", command, stdin='{"tool_name": "AskUserQuestion"}')
    wait_until(lambda: len(events(home)) == len(commands), "all events")
    assert {event.data["tool_name"] for event in events(home)} == {"AskUserQuestion"}
    (home / ".clincus" / "hook").unlink()
    for command in commands:
        done = run(home, "sh", "-c", command)
        assert (done.returncode, done.stderr) == (0, b"")


def test_each_tool_gets_its_own_file():
    paths = {"claude": [hooks.CLAUDE_SETTINGS], "copilot": [hooks.COPILOT_FILE], "opencode": [hooks.OPENCODE_FILE]}
    for tool in ("claude", "copilot", "opencode", "shell"):
        files = hooks.guest_files(a_session(workspace="/srv/app", tool=tool))
        assert [file.path for file in files] == [".clincus/hook", ".clincus/left", *paths.get(tool, [])]
