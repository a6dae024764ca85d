"""The Transcript tab: a conversation read in parts, followed, and searched."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

pytest_plugins = ("browser_bed",)

TALK = "~/.claude/projects/-workspace"
RING = "sh printf '\\a'"  # as the tool does at the end of a turn: the copy on the host follows it


def line(kind: str, **block: object) -> str:
    """A line of Claude Code's file."""
    return json.dumps({"type": kind, "message": {"content": [block]}, "timestamp": "2026-11-30T10:00:00Z"})


def turn(number: int) -> list[str]:
    """A question, a call with its result, and an answer."""
    call = f"toolu_{number}"
    return [
        line("user", type="text", text=f"Question {number}"),
        line("assistant", type="tool_use", id=call, name="Bash", input={"command": f"make step-{number}"}),
        line("user", type="tool_result", tool_use_id=call, content=f"step {number} is made"),
        line("assistant", type="text", text=f"Answer **{number}**, with `code`."),
    ]


def write(bed, session, lines: list[str]) -> None:
    """Append lines to the session's conversation, in its container."""
    folder = TALK.replace("~", "/home/code")
    script = f"mkdir -p {folder} && cat >>{folder}/{session['session_id']}.jsonl"
    text = "".join(f"{one}\n" for one in lines).encode()
    assert bed.incus.exec(session["id"], ["sh", "-c", script], user=1000, stdin=text).code == 0


@pytest.mark.day
def test_a_conversation_is_followed_read_back_and_searched(bed, shared, tool):
    page = tool.page
    write(bed, shared.session, [one for number in range(150) for one in turn(number)])
    tool.type_line(RING)
    page.get_by_role("main").get_by_role("link", name="Transcript").click()
    talk = page.get_by_role("region", name="Conversation")
    expect(talk).to_contain_text("Answer 149")
    expect(talk.get_by_text("Answer 149")).to_be_in_viewport()
    expect(talk.get_by_text("Answer 0,")).to_have_count(0)
    talk.get_by_text("make step-149").click()
    expect(talk).to_contain_text("step 149 is made")

    first = talk.get_by_text("Question 137", exact=True)
    expect(first).to_have_count(0)
    talk.get_by_role("button", name="Older messages").click()
    expect(first).to_have_count(1)

    page.get_by_role("searchbox", name="Search the conversation").fill("STEP 12 IS")
    page.get_by_role("list", name="Hits").get_by_role("button").click()
    expect(page.locator("article:focus")).to_contain_text("step 12 is made")
    expect(talk.get_by_text("Answer 12,")).to_be_in_viewport()
    talk.get_by_role("button", name="Newest").click()
    expect(talk.get_by_text("Answer 149")).to_be_in_viewport()

    write(bed, shared.session, turn(150))
    page.get_by_role("main").get_by_role("link", name="Terminal").click()
    tool.type_line(RING)
    page.get_by_role("main").get_by_role("link", name="Transcript").click()
    expect(talk.get_by_text("Answer 150")).to_be_in_viewport()
