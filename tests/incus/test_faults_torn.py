"""Every file that a server has written is torn at once: the next server starts, and the conversations go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from test_faults_daemon import requests_of

from clincus_features import trust
from tests.faults_bed import saved, say, talk, wait_for_screen
from tests.incus_bed import CLAUDE_WORKS
from tests.programs import wait_until

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a half": lambda data: data[: len(data) // 2],
    "nothing": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
}

# Every kind of file in ~/.clincus, as a pattern of its path. What a disk does to one of them alone is in
# tests/unit/test_torn_files.py, which also has those that need an engine or a token.
KINDS = {
    r"agents/[^/]+\.json",
    r"appeared/[^/]+\.json",
    r"runs\.json",
    r"checkpoints/[^/]+\.json",
    r"checkpoints/[^/]+\.git/.+",
    r"dashboard\.json",
    r"engines\.json",
    r"history\.jsonl",
    r"logs/.+\.jsonl",
    r"port",
    r"prompts/[^/]+\.json",
    r"protection/[^/]+\.json",
    r"push-key\.pem",
    r"push\.json",
    r"sessions-claude/[^/]+/.*",
    r"trust\.json",
}

PHONE = "https://web.push.apple.com/1"
NOWHERE = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}  # so that nothing is sent there


def files_of(home: Path) -> dict[str, Path]:
    """The regular files in ~/.clincus by their paths there."""
    base = home / ".clincus"
    return {str(path.relative_to(base)): path for path in base.rglob("*") if path.is_file() and not path.is_symlink()}


def unknown_and_missing(home: Path) -> tuple[list[str], list[str]]:
    """The files that are of no kind of KINDS, and the kinds of which there is no file."""
    files = files_of(home)
    fitting = {path: [kind for kind in KINDS if re.fullmatch(kind, path)] for path in files}
    found = {kind for kinds in fitting.values() for kind in kinds}
    return sorted(path for path, kinds in fitting.items() if not kinds), sorted(KINDS - found)


def tear(home: Path, damage: Callable[[bytes], bytes], but: str) -> None:
    """Damage every file of a home, but for the conversation whose only copy is there, and the objects of checkpoints.

    Git wants all of these. They are on the disk before anything names them, so that no power cut tears them.
    """
    for name, path in files_of(home).items():
        if not name.endswith(f"/{but}.jsonl") and not re.search(r"\.git/(objects/|config$|HEAD$|packed-refs$)", name):
            mode = path.stat().st_mode
            path.chmod(0o600)
            path.write_bytes(damage(path.read_bytes()))
            path.chmod(mode)


def test_a_server_whose_files_are_all_torn_starts_and_goes_on(bed, start_server, make_workspace, home):
    server = start_server(environ=NOWHERE)
    runs, stopped, deleted = (talk(bed, server, make_workspace(name)) for name in ("runs", "stopped", "deleted"))
    for end in (f"{stopped['id']}", f"{deleted['id']}?force=true"):
        assert server.delete(f"/api/sessions/{end}").status == 204
    one = f"/api/sessions/{runs['id']}"
    environ = {"HOME": str(home)}

    def use_everything() -> None:
        """Let the server write each kind of file."""
        assert server.put("/api/config", {"workspace_roots": [str(home)]}).status == 200
        assert server.get("/api/push").json["problem"] == ""
        assert server.post(f"{one}/checkpoints", {"note": "mine"}).status == 201
        assert server.post(f"{one}/comments", {"path": "README.md", "line": 1, "text": "why?"}).status == 201
        assert server.post("/api/push/subscriptions", {"endpoint": PHONE, "name": "phone"}).status < 300
        trust.set_trust(environ, "/project", trust.ProjectFile("/project/.clincus.toml", "", "text"))
        bed.draw(runs["id"], CLAUDE_WORKS)
        wait_until(lambda: server.get(f"{one}/agent").json["state"] == "working", "the tool to work")
        assert server.post(f"{one}/prompt", {"text": "later"}).json["result"] == "queued"
        assert server.post(f"{one}/seen").status == 204

    def both_are_listed() -> bool:
        return {one["id"] for one in server.get("/api/sessions").json} == {runs["id"], stopped["id"]}

    use_everything()
    wait_until(lambda: unknown_and_missing(home) == ([], []), lambda: f"each kind of file: {unknown_and_missing(home)}")

    for number, name in enumerate(DAMAGES, 1):
        wait_until(lambda: not unknown_and_missing(home)[1], lambda: f"all kinds again: {unknown_and_missing(home)}")
        server.stop()
        tear(home, DAMAGES[name], deleted["session_id"])
        server = start_server(environ=NOWHERE)
        wait_until(both_are_listed, f"{name}: the sessions")
        asked = [path for method, path, _ in requests_of(runs["id"], "", "") if method == "GET"]
        failed = {path: answer.body for path in asked if (answer := server.get(path)).status not in (200, 404, 409)}
        assert failed == {}, name
        assert "push-key.pem is torn" in server.get("/api/push").json["problem"], name
        (home / ".clincus" / "push-key.pem").unlink()  # as it says, since all devices are bound to it
        assert server.post(f"/api/sessions/{stopped['id']}/resume").status == 200, name
        wait_for_screen(bed, stopped["id"], "earlier: remember the milk")
        say(bed, stopped["id"], f"line {number}.")
        assert server.delete(f"/api/sessions/{stopped['id']}").status == 204, name
        assert all(words in saved(server, stopped) for words in ("remember the milk", f"line {number}.")), name
        assert "Traceback" not in server.log(), server.log()
        assert "engines.json is torn, so it is left out" in server.log(), name
        use_everything()

    again = server.create(make_workspace("again"), resume=deleted["session_id"])
    wait_for_screen(bed, again["id"], "earlier: remember the milk")
    assert server.delete(f"{one}?force=true").status == 204
    assert "remember the milk" in saved(server, runs)
