"""Checkpoints of turns, with the real Claude Code: before a prompt, and after its turn."""

from __future__ import annotations

from tests.incus.test_prompts import Claude, api, real_server
from tests.programs import wait_until

__all__ = ["api", "real_server"]


def test_a_turn_has_a_checkpoint_before_and_after_it(bed, real_server, workspace, api):
    tool = Claude(bed, real_server, workspace)
    path = f"/api/sessions/{tool.id}"

    def whys() -> list[str]:
        return [one["why"] for one in reversed(real_server.get(f"{path}/checkpoints").json)]

    tool.becomes("idle")
    wait_until(lambda: whys() == ["start"], "the first checkpoint")
    bed.shell(tool.id, "echo mine >/workspace/mine")
    assert tool.prompt("stall") == "submitted"
    assert whys() == ["start", "prompt"]
    bed.shell(tool.id, "echo its >/workspace/its")
    assert tool.post("interrupt").status == 204
    wait_until(lambda: whys() == ["start", "prompt", "turn"], "the checkpoint after the turn")
    found = real_server.get(f"{path}/changes").json["files"]
    assert {one["path"]: one["touched"] for one in found} == {"its": True, "mine": False}
    assert [one["path"] for one in real_server.get(f"{path}/changes?from=turn").json["files"]] == ["its"]
    done = real_server.post(f"{path}/restore", {"checkpoint": "start"}).json
    assert (done["restored"], done["removed"]) == ([], ["its"])
    assert bed.shell(tool.id, "cat /workspace/mine") == "mine\n"
