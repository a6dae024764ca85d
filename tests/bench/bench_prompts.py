"""Send prompts in a row to the real Claude Code, and count what is lost and what comes twice. Asserts nothing.

    python tests/bench/bench_prompts.py [PROMPTS]

As root it starts an Incus of its own, as the tests do, and a stand-in for the vendor's API, which sees what arrives.
Prompts are sent as fast as they are taken; most go through the queue.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from tests import incus_bed
from tests.programs import Server, program
from tests.real_tools import real_tool
from tests.vendor_api import VendorApi

PROMPTS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
FULL = 90  # prompts in the queue at which to wait
CONFIG = """[tool]
name = "claude"
binary = "/opt/tools/claude"
[[mounts.default]]
host = "{folder}"
container = "/opt/tools"
readonly = true
[profiles.real]
environment = {{ ANTHROPIC_BASE_URL = "{url}", ANTHROPIC_API_KEY = "sk-ant-test-0123456789012345678901234567890" }}
"""


def text_of(number: int) -> str:
    """A prompt of a few lines that no other one contains."""
    return f"prompt {number:06} 👩‍🚀\n    second line\nthe end of {number:06}"


def send_all(server: Server, path: str) -> tuple[Counter[str], list[float]]:
    """Send all prompts, and wait until the queue is empty; the results, and how long each answer took."""
    results: Counter[str] = Counter()
    times = []

    def queued() -> int:
        return sum(one["result"] in ("queued", "sending") for one in server.get(f"{path}/prompts").json)

    for number in range(PROMPTS):
        while queued() >= FULL:
            time.sleep(1)
        begin = time.monotonic()
        answer = server.post(f"{path}/prompt", {"text": text_of(number)}, headers={"Idempotency-Key": str(number)})
        times.append(time.monotonic() - begin)
        results[answer.json.get("result", str(answer.status))] += 1
    while queued():
        time.sleep(1)
    return results, sorted(times)


def main() -> None:
    with contextlib.ExitStack() as held:
        bed = held.enter_context(incus_bed.own_daemon())
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        (folder / "project").mkdir()
        address = bed.incus.query(f"/1.0/networks/{bed.bridge}")["config"]["ipv4.address"].partition("/")[0]
        api = VendorApi(address)
        held.callback(api.close)
        config = folder / ".config" / "clincus" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(bed.config + CONFIG.format(folder=real_tool("claude").parent, url=api.url))
        environ = {**os.environ, **bed.environ, "HOME": str(folder)}
        server = Server([*program(), "serve", "--port", "0"], environ, folder / "log", folder)
        held.callback(server.stop)
        path = f"/api/sessions/{server.create(folder / 'project', profile='real')['id']}"
        while server.get(f"{path}/agent").json["state"] != "idle":
            time.sleep(0.5)
        begin = time.monotonic()
        results, times = send_all(server, path)
        took = time.monotonic() - begin
        time.sleep(5)  # for the last answer
        # A request holds the whole conversation, so each prompt counts where it is the last message.
        arrived = Counter(api.texts)
        counts = [arrived[text_of(number)] for number in range(PROMPTS)]
        print(f"{PROMPTS} prompts in {took:.0f} s: {dict(results)}, answered p50 {statistics.median(times):.2f} s")
        print(f"lost: {counts.count(0)}, twice: {sum(count > 1 for count in counts)}")
        server.request("DELETE", f"{path}?force=true")


main()
