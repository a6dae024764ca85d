"""A hostile agent in a real container: it lies about itself, and neither stops, slows nor fills the server."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults_bed import wait_for_screen
from tests.programs import NO_CHECKPOINTS, Server, wait_until

HANGS = "#!/bin/sh\nexec sleep 1000\n"
FLOODS = "#!/bin/sh\nexec yes\n"
LIES = "#!/bin/sh\necho 999999999999.0\n"
WRITES = "#!/bin/sh\ndd if=/dev/zero bs=1M count=30 | tr \\\\0 x\n"
RINGS = r"""perl -MSocket -e 'while (1) { for my $state ("Ready", "Started") {
    socket(my $guest, PF_UNIX, SOCK_STREAM, 0) or next;
    connect($guest, sockaddr_un("/dev/incus/sock")) or next;
    my $body = qq({"state":"$state"});
    syswrite $guest, join "\r\n", "PATCH /1.0 HTTP/1.1", "Host: incus", "Connection: close",
        "Content-Type: application/json", "Content-Length: " . length $body, "", $body;
    1 while sysread $guest, my $answer, 4096;
} }'"""
EVENTS = "cd ~/.clincus/agent; rm -rf events;"


def replaced(program: str, text: str) -> str:
    """A script that puts a program of the container aside and another one into its place."""
    return f"cd /usr/bin; cp -a {program} {program}.kept; printf '%s' '{text}' >new; chmod 755 new; mv new {program}"


EVENT = r"""'{"at":1,"event":"Stop","data":{"a":%s}}'"""
NAMING = EVENT % '"HONEST", "session_id":"HONEST"'
# What the agent does, as which user; and what ends it.
ATTACKS = {
    "it rings without end": (0, f"setsid {RINGS} >/dev/null 2>&1 &", "pkill perl"),
    "it writes events without end": (
        1000,
        f'{EVENTS} echo {EVENT % 1} >/tmp/event; setsid yes "$(cat /tmp/event)" >>events 2>&1 &',
        "pkill yes",
    ),
    "it writes a line of 100 MB": (1000, f"{EVENTS} head -c 100000000 /dev/zero | tr '\\0' x >events", ""),
    "it writes a number of 60,000 digits": (
        1000,
        f"{EVENTS} n=$(head -c 60000 /dev/zero | tr '\\0' 9); printf {EVENT}'\\n' $n >events",
        "",
    ),
    "it nests JSON deeply": (
        1000,
        f"{EVENTS} n=$(head -c 60000 /dev/zero | tr '\\0' '['); printf {EVENT}'\\n' $n >events",
        "",
    ),
    "the file of events is a pipe": (1000, f"{EVENTS} mkfifo events", ""),
    "the file of events is a link to a device": (1000, f"{EVENTS} ln -s /dev/zero events", ""),
    "the file of events is a folder": (1000, f"{EVENTS} mkdir events", ""),
    "it names another session": (1000, f"{EVENTS} echo {NAMING} >events", ""),
    "its clock is 30,000 years ahead": (
        0,
        f"{replaced('date', LIES)}; {EVENTS} echo {EVENT % 1} >events",
        "mv /usr/bin/date.kept /usr/bin/date; rm ~/.clincus/agent/events",
    ),
    "tmux hangs": (0, replaced("tmux", HANGS), "mv /usr/bin/tmux.kept /usr/bin/tmux; pkill sleep"),
    "head writes without end": (0, replaced("head", FLOODS), "mv /usr/bin/head.kept /usr/bin/head"),
    "cut writes 30 MB": (0, replaced("cut", WRITES), "mv /usr/bin/cut.kept /usr/bin/cut"),
}


def peak_memory(server: Server) -> int:
    """The most memory that the server has had so far, in MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def test_a_hostile_agent_changes_nothing_but_its_own_state(bed, start_server, make_workspace):
    server = start_server(config=NO_CHECKPOINTS)
    liar, honest = (server.create(make_workspace(name))["id"] for name in ("liar", "honest"))
    for id in (liar, honest):
        wait_for_screen(bed, id, "STUB-READY")  # its start forgets what a hook has told before
    before = peak_memory(server)

    def hook(id: str, event: str, **data: object) -> None:
        bed.shell(id, f"echo '{json.dumps(data)}' | ~/.clincus/hook {event} ring")

    def becomes(id: str, state: str, text: str, attack: str) -> None:
        def is_so() -> bool:
            agent = server.get(f"/api/sessions/{id}").json["agent"]
            return (agent["state"], agent["text"]) == (state, text)

        wait_until(is_so, f"{state} {text!r} while {attack}")

    for attack in sorted(ATTACKS):
        user, script, end = ATTACKS[attack]
        bed.shell(liar, script.replace("HONEST", honest), user)
        bed.shell(liar, "~/.clincus/ring >/dev/null 2>&1 &")
        hook(honest, "UserPromptSubmit", prompt="go")
        becomes(honest, "working", "", attack)
        hook(honest, "Stop", last_assistant_message=attack)
        becomes(honest, "done", attack, attack)
        assert server.get(f"/api/sessions/{liar}/agent").status == 200, attack
        bed.shell(liar, f"{end} || true" if end else "true", 0)
    assert peak_memory(server) - before < 96, "less than the line of 100 MB, so it was never read whole"
    bed.shell(liar, EVENTS)
    hook(liar, "Stop", last_assistant_message="well again")
    becomes(liar, "done", "well again", "nothing is wrong any more")
