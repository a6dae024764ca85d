"""A conversation in parts: from the file of a container, which may say anything, to the API."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest

import clincus
from clincus_features import transcript
from clincus_features.transcript import claude, reading
from tests.table import table

SCHEMA = clincus.inlined(clincus.load_contract()["components"]["schemas"], clincus.load_contract())["Conversation"]
NAME = "0d9bd5f4-6a3b-4a3e-9d55-0a2f4b8f2a11.jsonl"
AT = "2026-11-29T10:52:07.000Z"
AGENT = ("agent", "text")
PERSON = ("person", "text")
NOTICE = ("system", "notice")


def line(kind: str, content: object, **more: object) -> str:
    """A line of Claude Code's file."""
    entry = {"parentUuid": None, "type": kind, "timestamp": AT, "message": {"content": content}, **more}
    return json.dumps(entry) + "\n"


def typed(*texts: str) -> str:
    return "".join(line("user", text) for text in texts)


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """The file of a saved conversation."""
    folder = tmp_path / ".claude/projects/-workspace"
    folder.mkdir(parents=True)
    return folder / NAME


def part(directory: Path, tool: str = "claude", **values: object) -> dict:
    """The answer to a request."""
    saved = clincus.SavedSession("5b0c7d1e", tool, str(directory))
    asked = {"before": None, "after": None, "limit": 100, "q": "", **values}
    found = transcript.read_part(saved, asked)
    jsonschema.validate(found, SCHEMA)
    return found


def texts(found: dict) -> list[str]:
    return [one["text"] for one in found["messages"]]


def of_line(text: str) -> list[tuple]:
    return [(one.role, one.kind, one.text) for one in claude.read(json.loads(text))]


# ---- the form ---------------------------------------------------------------------------------------------------


@table(
    ("entry", "expected"),
    [
        (line("user", "Fix it"), [(*PERSON, "Fix it")]),
        (line("user", [{"type": "image"}]), [(*PERSON, "[picture]")]),
        (line("assistant", [{"type": "thinking", "thinking": ""}]), []),


        (line("user", "<command-name>/a</command-name><command-args>b</command-args>"), [(*PERSON, "/a b")]),
        (line("user", "<local-command-stdout>done</local-command-stdout>"), [(*NOTICE, "done")]),

        (line("user", "What was said", isCompactSummary=True), [(*NOTICE, "What was said")]),
        (line("user", "of the tool", isMeta=True), []),


        (line("assistant", [{"type": "text", "text": "Done."}]), [(*AGENT, "Done.")]),
        (line("assistant", [{"type": "thinking", "thinking": "Hm"}]), [("agent", "thought", "Hm")]),

        (line("assistant", [{"type": "tool_use", "input": {"plan": "# A"}}]), [("agent", "plan", "# A")]),
        (line("assistant", [{"type": "text", "text": "529"}], isApiErrorMessage=True), [(*NOTICE, "529")]),
        (line("system", "", subtype="compact_boundary"), [(*NOTICE, claude.COMPACTED)]),

        (line("user", [{"type": "new"}, 5, None]), []),

        (json.dumps({"type": "user", "message": 5}), []),

    ],
)  # fmt: skip
def test_a_line_has_the_messages_that_people_read(entry, expected):
    assert of_line(entry) == expected


def test_a_call_and_its_result_belong_together():
    use = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "make\nmake all", "timeout": 5}}
    content = [{"type": "text", "text": "2 failed"}]
    done = {"type": "tool_result", "tool_use_id": "t1", "content": content, "is_error": True}
    [call] = claude.read(json.loads(line("assistant", [use])))
    [result] = claude.read(json.loads(line("user", [done], timestamp="soon")))
    assert (call.kind, call.tool, call.title, call.at) == ("call", "Bash", "make make all", AT)
    assert call.text == "command: make\nmake all\ntimeout: 5"
    assert (result.kind, result.text, result.failed, result.at) == ("result", "2 failed", True, None)
    assert call.call == result.call == "t1"


# ---- the parts --------------------------------------------------------------------------------------------------


def test_the_newest_part_comes_first_and_older_ones_follow(tmp_path, talk):
    talk.write_text(typed(*"abcde"))
    newest = part(tmp_path, limit=2)
    older = part(tmp_path, limit=2, before=newest["start"])
    oldest = part(tmp_path, limit=2, before=older["start"])
    assert [texts(newest), texts(older), texts(oldest)] == [["d", "e"], ["b", "c"], ["a"]]
    assert (oldest["start"], newest["end"]) == (0, newest["size"])
    ids = [one["id"] for found in (newest, older, oldest) for one in found["messages"]]
    assert len(set(ids)) == 5
    assert [one["id"] for one in part(tmp_path, after=newest["start"])["messages"]] == ids[:2]
    for place in ({"before": 10**15}, {"after": 10**15}, {"before": 0}, {"before": 3}, {"after": 3}):
        assert part(tmp_path, **place)["size"] == newest["size"], "a place that is none is no error"


def test_what_is_written_later_follows_the_end(tmp_path, talk):
    talk.write_text(typed("a") + typed("b")[:-5])
    first = part(tmp_path)
    assert texts(first) == ["a"], "the line of b is still being written"
    talk.write_text(typed(*"abcd"))
    more = part(tmp_path, after=first["end"], limit=2)
    assert texts(more) == ["b", "c"]
    rest = part(tmp_path, after=more["end"], limit=2)
    assert texts(rest) == ["d"]
    assert texts(part(tmp_path, after=rest["end"])) == []


def test_a_search_finds_messages_by_their_words(tmp_path, talk):
    call = line("assistant", [{"type": "tool_use", "name": "Bash", "input": {"command": "make login"}}])
    talk.write_text(typed("Fix the LOGIN page", "no", "the logout") + call)
    found = part(tmp_path, q="login")
    assert [one["kind"] for one in found["messages"]] == ["text", "call"]
    assert found["start"] == 0


def test_the_conversation_that_was_written_last_is_shown(tmp_path, talk):
    talk.write_text(typed("old"))
    other = talk.parent.parent / "-workspace-part" / NAME.replace("0d9b", "1d9b")
    other.parent.mkdir()
    other.write_text(typed("new"))
    os.utime(talk, (1, 1))
    found = part(tmp_path)
    assert (texts(found), found["conversation"]) == (["new"], other.stem)


def test_the_state_says_why_there_is_nothing(tmp_path, talk):
    for tool, state in (("claude", "none"), ("opencode", "unreadable"), ("own", "unreadable"), ("claude", "ready")):
        if state == "ready":
            talk.write_text("")
        found = part(tmp_path, tool)
        assert (found["state"], found["messages"], found["saved_at"]) == (state, [], None)


# ---- hostile files ----------------------------------------------------------------------------------------------


def test_no_link_is_followed(tmp_path):
    real = tmp_path / "real"
    (real / "-workspace").mkdir(parents=True)
    for folder in (real, real / "-workspace"):
        (folder / NAME).write_text(typed("secret"))
    for number, spoil in enumerate(("link", "fifo", "folder", "linked folder", "linked home")):
        home = tmp_path / str(number)
        folder = home / ".claude/projects/-workspace"
        (home / ".claude" if spoil == "linked home" else folder.parent).mkdir(parents=True)
        if spoil == "linked home":
            folder.parent.symlink_to(real)
        elif spoil == "linked folder":
            folder.symlink_to(real)
        else:
            folder.mkdir()
            if spoil == "link":
                (folder / NAME).symlink_to(real / NAME)
            elif spoil == "fifo":
                os.mkfifo(folder / NAME)
            else:
                (folder / NAME).mkdir()
        assert part(home)["state"] == "none", spoil


def test_a_line_that_is_no_message_is_left_out(tmp_path, talk):
    for junk in ("not json", "[" * 100_000, "\n\n", "5", "\0\0", "\x80", '{"type": ' + "9" * 5000 + "}"):
        talk.write_bytes(typed("a").encode() + junk.encode("latin-1") + b"\n" + typed("b").encode())
        assert texts(part(tmp_path)) == ["a", "b"], junk[:20]


def test_a_line_that_is_too_large_is_named_and_not_parsed(tmp_path, talk):
    for content in ("x" * (reading.LINE + 1), [0] * (reading.COMMAS + 1)):
        talk.write_text(typed("a") + line("user", content) + typed("b"))
        assert texts(part(tmp_path)) == ["a", reading.NOT_SHOWN, "b"]


def test_an_answer_has_a_bounded_text(tmp_path, talk, monkeypatch):
    talk.write_text(typed("x" * 30_000))
    [only] = part(tmp_path)["messages"]
    assert (len(only["text"]), only["cut"]) == (20_000, True)
    monkeypatch.setattr(reading, "TEXTS", 25)
    talk.write_text(typed(*("0123456789" for _ in range(10))))
    assert len(part(tmp_path)["messages"]) == 3
    assert len(part(tmp_path, after=0)["messages"]) == 3


def walked(home: Path, direction: str, place: int | None) -> list[str]:
    """All texts, from part to part; each part moves on."""
    found: list[str] = []
    while True:
        answer = part(home, **{direction: place})
        following = answer["start" if direction == "before" else "end"]
        if following == place:
            break
        assert place is None or (following < place) == (direction == "before")
        place = following
        found = [*found, *texts(answer)] if direction == "after" else [*texts(answer), *found]
    return found


def test_every_part_moves_on_whatever_the_file_is(tmp_path, talk, monkeypatch):
    """Lines longer than an answer reads, in both directions; each message beside them is found once."""
    monkeypatch.setattr(reading, "READ", 400)
    for long in (100, 1000, 4000):
        talk.write_text(typed("a") + "x" * long + "\n" + typed("b") + "x" * long + "\n" + "y" * long)
        assert walked(tmp_path, "before", None) == walked(tmp_path, "after", 0) == ["a", "b"]
