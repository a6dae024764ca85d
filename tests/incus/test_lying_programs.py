"""Root of a container puts programs of its own where Clincus runs the container's, and lies by what they print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_agents_hostile import peak_memory

from tests.faults_bed import saved, say, talk, wait_for_screen
from tests.incus_bed import Bed

KEPT = "/usr/lib/kept"  # the container's own programs, once they are replaced


def replace_program(bed: Bed, id: str, name: str, text: str) -> None:
    """Put a program in the place of another one, which is KEPT; `text` is in sh."""
    keep = f'place=$(command -v {name}); mkdir -p {KEPT}; [ -e {KEPT}/{name} ] || cp -a "$place" {KEPT}'
    script = f'{keep}; cat >/tmp/new; chmod 755 /tmp/new; mv /tmp/new "$place"'
    done = bed.incus.exec(id, ["sh", "-c", script], stdin=f"#!/bin/sh\n{text}\n".encode())
    assert done.code == 0, done.reason


def restore_programs(bed: Bed, id: str) -> None:
    """Put the container's own programs back."""
    bed.shell(id, f'for one in {KEPT}/*; do cp -a "$one" "$(command -v "${{one##*/}}")"; done', user=0)


def start_by_hand(bed: Bed, id: str) -> None:
    """Start a container if it does not run."""
    if bed.state(id) != "Running":
        bed.incus.run("start", id)


@pytest.fixture
def two(bed, shared_server, make_workspace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The session of a liar, and that of somebody else; in each something was said."""
    liar, honest = (talk(bed, shared_server, make_workspace(name)) for name in ("liar", "honest"))
    return liar, honest


def all_files(home: Path) -> dict[str, bytes]:
    """The saved conversations of a home, by their paths, without what tells when they were saved."""
    base = home / ".clincus" / "sessions-claude"
    files = [path for path in base.rglob("*") if path.is_file() and path.name != "metadata.json"]
    return {str(path.relative_to(base)): path.read_bytes() for path in files}


TALK = ".claude/projects/-workspace"
# What the program that lists the conversations prints before what is true: SIZE MTIME PATH.
LISTED = {
    "files elsewhere": (
        f"9 1900000000.5 ../HONEST/{TALK}/HONEST.jsonl",
        f"9 1900000000.5 {TALK}/../../../../HONEST/{TALK}/HONEST.jsonl",
        "9 1900000000.5 /etc/hostname",
        "9 1900000000.5 metadata.json",
        f"9 1900000000.5 {TALK}/LIAR.jsonl/in",
    ),
    "a file of a petabyte": (f"999999999999999 1900000000.5 {TALK}/large.jsonl",),
    "a size that is none": (f"-9 1900000000.5 {TALK}/less.jsonl",),
    "a time that is none": (f"9 nan {TALK}/never.jsonl",),
    "a time far away": (f"9 99999999999999999999 {TALK}/later.jsonl",),
}


def test_a_list_that_lies_changes_no_other_conversation_and_no_file_beside_its_own(bed, shared_server, two):
    server, (liar, honest) = shared_server, two
    assert server.delete(f"/api/sessions/{honest['id']}").status == 204
    before = {path: data for path, data in all_files(server.home).items() if not path.startswith(liar["session_id"])}
    assert any(b"remember the milk" in data for path, data in before.items() if path.startswith(honest["session_id"]))
    for number, what in enumerate(sorted(LISTED), 1):
        said = " ".join(f"'{line}'" for line in LISTED[what])
        said = said.replace("HONEST", honest["session_id"]).replace("LIAR", liar["session_id"])
        text = f"case $* in *'%T@ %p'*) printf '%s\\0' {said} ;; esac; exec {KEPT}/find \"$@\""
        replace_program(bed, liar["id"], "find", text)
        answer = server.delete(f"/api/sessions/{liar['id']}")
        assert answer.status == 204, f"{what}: {answer.body!r}"
        after = all_files(server.home)
        mine = {path for path in after if path.startswith(liar["session_id"])}
        assert all(path.startswith(f"{liar['session_id']}/.claude/") for path in mine), what
        assert {path: data for path, data in after.items() if path not in mine} == before, what
        assert "remember the milk" in saved(server, liar), what
        start_by_hand(bed, liar["id"])
        restore_programs(bed, liar["id"])
        assert server.post(f"/api/sessions/{liar['id']}/resume").status == 200, what
        wait_for_screen(bed, liar["id"], "STUB-READY")
        say(bed, liar["id"], f"line {number}.")
    assert server.delete(f"/api/sessions/{liar['id']}").status == 204
    assert f"line {len(LISTED)}." in saved(server, liar), "the truth was saved after all"


ENDLESS = f"exec {KEPT}/yes"
# The program that is replaced and by what, and what is asked of the server then.
FLOODS = {
    "the list of a conversation": (
        "sort",
        f"while :; do {KEPT}/seq -f '9 1900000000.5 {TALK}/%.0f.jsonl' 100000 | {KEPT}/tr '\\n' '\\0'; done",
        ("DELETE", ""),
    ),
    "what has left the screen": ("tmux", ENDLESS, ("GET", "/scrollback")),
    "the screen": ("tmux", ENDLESS, ("POST", "/interrupt")),
    "the ports": ("grep", f"exec {KEPT}/yes '0: 0100007F:1F90 00000000:0000 0A'", ("GET", "/ports")),
    "the files": ("find", f"exec {KEPT}/yes 'f'", ("GET", "/files?path=")),
}


def test_a_program_that_prints_without_end_fills_no_memory_and_keeps_nobody_waiting(bed, shared_server, two):
    server, (liar, honest) = shared_server, two
    path = f"/api/sessions/{liar['id']}"
    for name in ("yes", "seq", "tr", "head", "tmux", "grep", "find", "sort"):
        bed.shell(liar["id"], f'mkdir -p {KEPT}; cp -a "$(command -v {name})" {KEPT}', user=0)
    replace_program(bed, liar["id"], "head", "exec cat")  # nothing there cuts anything off
    before = peak_memory(server)
    for what in sorted(FLOODS):
        program, text, (method, rest) = FLOODS[what]
        replace_program(bed, liar["id"], program, text)
        answer = server.request(method, f"{path}{rest}", {} if method == "POST" else None)
        assert answer.status == 204 if method == "DELETE" else answer.json["error"], what
        say(bed, honest["id"], f"after {what}.")
        start_by_hand(bed, liar["id"])
        bed.shell(liar["id"], f'cp -a {KEPT}/{program} "$(command -v {program})"; pkill -x yes; pkill -x seq; true', 0)
    assert peak_memory(server) - before < 200, "some times 32 MiB, which one command may print"
    assert server.delete(f"/api/sessions/{honest['id']}").status == 204
    assert all(f"after {what}." in saved(server, honest) for what in FLOODS)
