"""What a tool's hook leaves in its container (guest/hook.sh, run by our own shell), and the settings of the tools."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

import clincus
from clincus_features.agents import hooks, state
from tests.builders import a_session
from tests.programs import wait_until
from tests.table import table


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A code user's home with our hook, and a ring that notes that it rang."""
    (tmp_path / ".clincus" / "agent").mkdir(parents=True)
    ring = '#!/bin/sh\necho rang >>"$HOME/rang"\n'
    for name, text in {"hook": clincus.guest_program("hook"), "ring": ring}.items():
        (tmp_path / ".clincus" / name).write_text(text)
        (tmp_path / ".clincus" / name).chmod(0o700)
    return tmp_path


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


def test_each_event_is_a_line(home):
    hook(home, "UserPromptSubmit", stdin={"prompt": 'say "hé"\n\\'})
    hook(home, "Stop", stdin={"background_tasks": []})
    assert [(event.name, dict(event.data)) for event in events(home)] == [
        ("UserPromptSubmit", {"prompt": 'say "hé"\n\\'}),
        ("Stop", {"background_tasks": []}),
    ]


@pytest.mark.parametrize("filler", ["x", "é", "\\", '"', "\n", "\u0001"])
def test_a_long_text_is_cut_and_the_rest_stays_json(home, filler):
    hook(home, "Stop", stdin={"a": filler * 5000, "b": [{"c": filler * 5000}], "d": "end"})
    (event,) = events(home)
    assert set(event.data) == {"a", "b", "d"}
    assert event.data["d"] == "end"
    assert len((home / ".clincus/agent/events").read_bytes()) < 2000


def test_a_plan_is_kept_whole(home):
    hook(home, "PermissionRequest", "whole", stdin={"tool_input": {"plan": "step\n" * 3000}})
    assert events(home)[0].data["tool_input"]["plan"] == "step\n" * 3000


def test_of_a_brief_event_only_a_few_words_are_kept(home):
    hook(home, "PostToolUse", "brief", stdin={"tool_name": "Bash", "tool_response": "secret"})
    assert events(home)[0].data == {"tool_name": "Bash"}


def test_an_event_may_be_wanted_only_if_it_speaks_of_something(home):
    hook(home, "PreToolUse", "only=AskUserQuestion", stdin={"tool_name": "Bash"})
    hook(home, "PreToolUse", "only=AskUserQuestion", stdin={"tool_name": "AskUserQuestion"})
    assert [event.data["tool_name"] for event in events(home)] == ["AskUserQuestion"]


@pytest.mark.parametrize("junk", [b"", b"junk", b"\xff\xfe{", b"[1]", b"{" * 100_000, b'{"a":"' + b"x" * 400_000])
def test_what_is_no_json_still_tells_that_something_happened(home, junk):
    hook(home, "Stop", stdin=junk)
    assert [event.name for event in events(home)] == ["Stop"]


def test_the_file_does_not_grow_without_end(home):
    file = home / ".clincus" / "agent" / "events"
    file.write_bytes(b"x" * 200_000)
    hook(home, "Stop")
    assert file.stat().st_size < 1000


def test_no_event_is_lost_when_several_hooks_find_the_file_full(home):
    folder = home / ".clincus" / "agent"
    (folder / "events").write_bytes(b"x" * 131_000 + b"\n")
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
    words = [str(home / ".clincus" / "hook"), "Stop"]
    text = json.dumps({"a": "y" * 400}).encode()
    running = [subprocess.Popen(words, stdin=subprocess.PIPE, env=environ) for _ in range(12)]
    for one in running:
        one.communicate(text, timeout=60)
    told = (folder / "events.old").read_bytes() + (folder / "events").read_bytes()
    assert told.count(b'"event":"Stop"') == 12


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
    "behind a wrapper": (f"sh -c '{ONE.format('Main')}; :'", ["Main"]),
    "started again": (f"{ONE.format('Main')}; {ONE.format('Again')}", ["Main", "Again"]),
    "one that the tool has started": (NESTED, ["Main"]),
    "one elsewhere in the container": (
        f'sleep 60 & echo $! >"$HOME/.clincus/agent/run"; {ONE.format("Other")}; kill $!',
        [],
    ),
}


@pytest.mark.parametrize(("script", "kept"), PROCESSES.values(), ids=PROCESSES.keys())
def test_only_the_tool_that_the_session_has_started_is_heard(home, script, kept):
    assert tell_from(home, script) == kept


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


def test_it_rings_if_asked_to(home):
    hook(home, "Stop")
    assert not (home / "rang").exists()
    hook(home, "Stop", "ring")
    wait_until((home / "rang").exists, "the ring")


def test_opencode_tells_its_events_in_their_order(home):
    """The process of the first one takes longest, and is killed."""
    hook = """#!/bin/sh
        [ "$1" != session.status ] || { sleep 0.3; echo "$1" >>"$HOME/told"; kill -9 $$; }
        echo "$1 $(cat)" >>"$HOME/told"
        """
    (home / ".clincus/hook").write_text(hook)
    (home / "plugin.mjs").write_text(clincus.packaged_text("guest/opencode.js"))
    program = """import { Clincus } from "./plugin.mjs"
        setInterval(() => {}, 1000)  // opencode goes on
        const { event } = await Clincus()
        for (const type of ["session.status", "unknown", "session.idle", "session.error"])
          await event({ event: { type, properties: { a: 1 } } })"""
    told, environ = home / "told", {"HOME": str(home), "PATH": os.environ["PATH"]}
    with subprocess.Popen(["node", "--input-type=module", "-e", program], cwd=home, env=environ) as node:
        try:
            wait_until(lambda: told.exists() and told.read_text().count("\n") == 3, "all events")
        finally:
            node.kill()
    assert told.read_text().splitlines() == ["session.status", 'session.idle {"a":1}', 'session.error {"a":1}']


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
    (home / ".clincus/hook").write_text('#!/bin/sh\necho "$1 $(cat)" >>"$HOME/told"\n')
    (home / "plugin.mjs").write_text(clincus.packaged_text("guest/opencode.js"))
    told, environ = home / "told", {"HOME": str(home), "PATH": os.environ["PATH"]}
    with subprocess.Popen(["node", "--input-type=module", "-e", SUB_AGENT], cwd=home, env=environ) as node:
        try:
            wait_until(lambda: told.exists() and "session.idle" in told.read_text(), "the end of the main session")
        finally:
            node.kill()
    names = [line.partition(" ")[0] for line in told.read_text().splitlines()]
    main = ["UserPromptSubmit", "session.status", "question.asked", "session.error", "session.idle"]
    assert names == ["question.asked", "question.asked", *main]


def session(tool: str) -> clincus.Session:
    return a_session(workspace="/srv/app", tool=tool)


def test_a_tools_settings_run_the_hook_and_succeed_without_it(home):
    commands = [
        group["hooks"][0]["command"] for groups in hooks.claude_settings()["hooks"].values() for group in groups
    ]
    commands += [entries[0]["bash"] for entries in hooks.copilot_hooks()["hooks"].values()]
    for command in commands:
        assert run(home, "sh", "-c", command, stdin='{"tool_name": "AskUserQuestion"}').returncode == 0
    wait_until(lambda: len(events(home)) == len(commands), "all events")
    assert {event.data["tool_name"] for event in events(home)} == {"AskUserQuestion"}
    (home / ".clincus" / "hook").unlink()
    for command in commands:
        done = run(home, "sh", "-c", command)
        assert (done.returncode, done.stderr) == (0, b"")


@table(
    ("tool", "path"),
    [("claude", hooks.CLAUDE_SETTINGS), ("copilot", hooks.COPILOT_FILE), ("opencode", hooks.OPENCODE_FILE)],
)
def test_each_tool_gets_its_own_file(tool, path):
    anyones = [".clincus/hook", ".clincus/left"]
    assert [file.path for file in hooks.guest_files(session(tool))] == [*anyones, path]
    assert [file.path for file in hooks.guest_files(session("shell"))] == anyones
