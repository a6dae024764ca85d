"""Takes protections and bounds out of the code, one after the other, and shows that a test notices each.

    python3 -m tests.mutants           all of them
    python3 -m tests.mutants WORD…     those with a word in their name

A mutant that no test notices is a promise that can be broken by mistake: write the test. The nightly test
tests/unit/test_mutants.py runs all of them, and each day's tests see that they still fit the code. Whoever adds a
protection adds a line here.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NETWORK = "clincus_features/network"
PREVIEW = "clincus_features/preview"
PROTECTION = "clincus_features/protection"
BYTECODE_TIMES = itertools.count(1_000_000_000)  # Python knows bytecode that is out of date by the time of the source


class Mutant(NamedTuple):
    """One protection that is taken out: `old` is in the file exactly once."""

    name: str
    file: str
    old: str
    new: str
    tests: str  # the file of tests/unit/ that has to notice


# The test file, the file with the protection, and each mutant: its name, what is replaced, and by what.
OTHERS: list[tuple[str, str, list[tuple[str, str, str]]]] = [
    (
        "gate",
        "clincus.py",
        [
            ("host", "if len(hosts) != 1 or not self._is_ours(hosts[0], peer):", "if len(hosts) != 1:"),
            ("one-host", "if len(hosts) != 1 or not self._is_ours", "if not self._is_ours"),
            ("origin", 'if scheme not in {"http", "https"} or not', "if False and not"),
            ("fetch-site", 'get("Sec-Fetch-Site", "none").lower() not in {"none",', 'get("X", "none") not in {"none",'),
            ("peer", "        if peer.why_token:\n", "        if False:\n"),
            ("forwarded", "return any(name.lower() in self.PROXY_FIELDS for", "return any(False for"),
        ],
    ),
    (
        "http",
        "clincus.py",
        [
            ("content-type", 'if is_browser or media_type not in {"",', 'if media_type not in {"",'),
            ("nosniff", '    ("X-Content-Type-Options", "nosniff"),\n', ""),
            ("frame-ancestors", "frame-ancestors 'none'; base-uri", "base-uri"),
            ("head-limit", "if len(head) >= HEAD_LIMIT:", "if False:"),
            ("field-limit", "if len(lines) > FIELD_LIMIT:", "if False:"),
        ],
    ),
    ("incus", "clincus.py", [("output-limit", "limit or OUTPUT_LIMIT", "limit or 1 << 24")]),
    (
        "config",
        "clincus.py",
        [("config-size", "text = read_text(path, CONFIG_FILE_LIMIT)", "text = read_text(path, 1 << 24)")],
    ),
    ("history", "clincus.py", [("history-size", "if size + len(lines) > HISTORY_LIMIT:", "if False:")]),
    ("tools", "clincus.py", [("carried-size", "left: int = CARRIED_LIMIT", "left: int = 1 << 60")]),
    ("conversations", "clincus.py", [("listed-files", 'b"\\0", LISTED_FILES)[:LISTED_FILES]', 'b"\\0")')]),
    ("websocket", "clincus.py", [("message-size", "max_size=MAX_MESSAGE_SIZE", "max_size=None")]),
    (
        "gate",
        "clincus_features/sign_in.py",
        [
            ("token", "return hmac.compare_digest(digest(shown), digest(secret))", "return True"),
            ("cookie", "HttpOnly; SameSite=Strict", "HttpOnly"),
        ],
    ),
    ("clone", "clincus_features/clone/private.py", [("git-memory-clone", "ulimit -v {MEMORY_KIB} && ", "")]),
    ("review_store", "clincus_features/review/store.py", [("git-memory-store", "ulimit -v {MEMORY_KIB} && ", "")]),
    (
        "idempotency",
        "clincus_features/idempotency.py",
        [
            ("key-running", "if not answer.lock.locked():", "if True:"),
            ("key-request", "if answer.asked != asked:", "if False:"),
            ("key-length", "if not 0 < len(key) <= KEY_LIMIT:", "if False:"),
            ("key-number", " and len(self._answers) < LIMIT", ""),
        ],
    ),
    (
        "network_proxy",
        f"{NETWORK}/link.py",
        [
            ("life", "LIFE = 24 * 3600.0", "LIFE = 1e9"),
            ("ask-within", "self._deadline = now + ASK_WITHIN", "self._deadline = now + 1e9"),
            ("sni", "elif name != host and (name or port in WEB_PORTS):", "elif False:"),
        ],
    ),
    (
        "network_proxy",
        f"{NETWORK}/proxy.py",
        [
            ("most-in-all", "min(MOST_IN_ALL, files // 4)", "files // 4"),
            ("most-of-session", "min(MOST_OF_SESSION, self._most", "(self._most"),
        ],
    ),
    (
        "network_policy",
        f"{NETWORK}/addresses.py",
        [("private", "if is_special(plain) and longest(plain_opened, plain) < 0:", "if False:")],
    ),
    (
        "network_addresses",
        f"{NETWORK}/addresses.py",
        [
            ("own-address", "if not route.is_elsewhere and", "if False and"),
            ("own-containers", "if route.is_inside and", "if False and"),
            ("neighbour", "if route.near and", "if False and"),
        ],
    ),
    (
        "network_relay",
        f"{NETWORK}/relay.py",
        [
            ("held-most", "for one in self._streams.values()) >= HELD_MOST", "for one in ()) >= HELD_MOST"),
            ("window", "if stream.room < 0 or stream.heard_fin:", "if stream.heard_fin:"),
        ],
    ),
    ("network_policy", f"{NETWORK}/devices.py", [("vsock", 'FAMILIES = {"vsock": 40, ', "FAMILIES = {")]),
    (
        "preview",
        f"{PREVIEW}/heads.py",
        [
            ("clear-site-data", '"clear-site-data", ', ""),
            ("frame-options", "\"frame-ancestors 'self'", '"frame-ancestors *'),
        ],
    ),
    (
        "preview",
        f"{PREVIEW}/openings.py",
        [
            ("navigation", "if not is_link or request.method not in", "if not is_link and request.method not in"),
            ("ticket-time", "time.monotonic() + TICKET_HOLDS", "time.monotonic() + 1e9"),
            ("tickets-most", "[1 - TICKETS_MOST :]", "[:]"),
            ("opening-most", "if len(self._sockets) >= 2 * CONNECTIONS_MOST:", "if False:"),
        ],
    ),
    ("preview", f"{PREVIEW}/__init__.py", [("previews-most", "Semaphore(openings.IN_ALL_MOST)", "Semaphore(1 << 30)")]),
    ("preview", f"{PREVIEW}/relay.py", [("body-rate", "clincus.HEAD_TIMEOUT + left / clincus.BODY_RATE", "1e9")]),
    (
        "protection",
        "wall/protect.py",
        [
            ("held-rules", 'HOLDING_RULES = ("unmount", "lease", "fault")', "HOLDING_RULES = ()"),
            ("fuse", "        lines.append(NO_FUSE)\n", ""),
        ],
    ),
]
OPERATIONS = [
    Mutant(f"operation-{name}", f"{PROTECTION}/{file}.py", old, new, "protection_operations")
    for name, file, old, new in (
        ("path", "operations", "if REFUSED_NAME.search(path)]", "if False]"),
        ("id", "operations", "if records[-1] or not all(found):", "if records[-1]:"),
        ("apply", "operations", "if not APPLY_OPTION.fullmatch(option)]", "if False]"),
        ("quoting", "operations", 'if QUOTED.sub(b"", data).strip():', "if False:"),
        ("strategy", "operations", "if name and name not in STRATEGIES else []", "if False else []"),
        ("options", "operations", "if option is None or option[1] not in SEQUENCER_OPTIONS", "if option is None"),
        ("size", "unfinished", "if len(data) > SIZE_LIMIT:", "if False:"),
        ("link", "unfinished", "        if steps[place]:\n", "        if False:\n"),
        ("baseline", "unfinished", "if check and check.may_be_yours and", "if check and"),
        ("in-place", "watch", '"gitdir", *NAMES', '"gitdir"'),
        ("total", "unfinished", "        if left > 0:\n", "        if True:\n"),
    )
]
RENAMES = [
    Mutant(f"rename-{name}", f"{PROTECTION}/moves.py", old, new, "protection_moves")
    for name, old, new in (
        ("away", "            if move.name in GITS_OWN:\n                bad[path] = AWAY", "            pass"),
        ("back", "        if source in self._went.get((move.folder, move.name), ()):", "        if False:"),
        ("name", "if move.name in GITS_OWN and not name.startswith", "if False and not name.startswith"),
        ("half", "                self._learn(move)\n", ""),
        ("folder", "return folder == move.folder or move.name not in GITS_OWN | EDITED", "return True"),
    )
]
# One fault in each capability, which the tests of the day notice.
CAPABILITIES: list[tuple[str, str, list[tuple[str, str, str]]]] = [
    ("sessions", "clincus.py", [("slots", "SLOTS = range(1, 11)", "SLOTS = range(2, 11)")]),
    (
        "config",
        "clincus.py",
        [("layers", "            result[key] = merged(result[key], value)\n", "            result[key] = value\n")],
    ),
    (
        "limits",
        "clincus.py",
        [("max-duration", 'parse_duration(runtime["max_duration"] or "0") if', 'parse_duration("0") if')],
    ),
    (
        "tools",
        "clincus.py",
        [("resume-command", "words = tool.resume if conversation else tool.start", "words = tool.start")],
    ),
    ("registry", "clincus.py", [("ready", 'return "Running" if status == "Ready" else status', "return status")]),
    (
        "cost",
        "clincus_features/cost/ledger.py",
        [("cost-known", "    return same and len(known) == len(seen)\n", "    return len(known) == len(seen)\n")],
    ),
    (
        "agent_prompts",
        "clincus_features/agents/queue.py",
        [
            (
                "queue-order",
                "            prompts.append(prompt)\n        return prompt",
                "            prompts.insert(0, prompt)\n        return prompt",
            )
        ],
    ),
    ("notify", "clincus_features/notify/news.py", [("told-once", ">= news.number", "> news.number")]),
    (
        "review",
        "clincus_features/review/thinning.py",
        [("thinning", "kept = [*first, *young, *last]", "kept = [*young, *last]")],
    ),
    (
        "network_policy",
        "clincus_features/network/policy.py",
        [
            ("allow-list", 'host.endswith(f".{self.host}") if', "host.endswith(self.host) if"),
            ("allowed-port", "        if port not in ports:\n", "        if port in ports and False:\n"),
        ],
    ),
    (
        "limits",
        "clincus_features/limits.py",
        [("disk-limit", '        return {"limits.max": incus_unit(top)}, []', "        return {}, []")],
    ),
    ("fairness", "clincus_features/fairness.py", [("slow-down", "and min(hot) >= limit", "and max(hot) >= limit")]),
    (
        "snapshots",
        "clincus_features/snapshots.py",
        [("snapshot-order", 'key=lambda snapshot: str(snapshot["created_at"])', "key=str")],
    ),
    ("uploads", "clincus_features/uploads.py", [("upload-name", 'own = name.rpartition("/")[2]', "own = name")]),
    (
        "usage",
        "clincus_features/usage.py",
        [("usage", "isinstance(value, int) and value >= 0", "isinstance(value, int)")],
    ),
    (
        "clone",
        "clincus_features/clone/repository.py",
        [
            (
                "clone-refs",
                'return name.startswith("refs/") and not NO_REF.search(name)',
                'return name.startswith("refs/")',
            )
        ],
    ),
    (
        "journal",
        "clincus_features/journal.py",
        [("journal-text", "return text if len(text) <= TEXT_LIMIT else", "return text if True else")],
    ),
    (
        "agent_answers",
        "clincus_features/agents/answers.py",
        [
            (
                "answer",
                "return self._is_open() and (menu.chosen == option - 1 or",
                "return self._is_open() and (menu.chosen == option or",
            )
        ],
    ),
]
MUTANTS = [
    *(Mutant(name, file, old, new, tests) for tests, file, rows in [*OTHERS, *CAPABILITIES] for name, old, new in rows),
    *OPERATIONS,
    *RENAMES,
]


def copy_tree(folder: Path) -> Path:
    """A copy of the checkout's code and tests, in which mutants live."""
    tree = folder / "tree"
    left_out = shutil.ignore_patterns(
        ".*", "node_modules", "dist", "__pycache__", "test-results", "browser", "bench", "incus"
    )
    shutil.copytree(ROOT, tree, ignore=left_out)
    return tree


def put(path: Path, text: str) -> None:
    """Write a source whose bytecode Python finds out of date."""
    path.write_text(text)
    time = next(BYTECODE_TIMES)
    os.utime(path, (time, time))


def run_tests(tree: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """Run a file of unit tests in a copy, up to the first failure."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CLINCUS_"))}
    # A wait of a test that is to fail ends in vain: that is how it notices.
    environ = {**environ, "PYTHONPYCACHEPREFIX": str(tree.parent / "bytecode"), "CLINCUS_TEST_DEADLINE": "20"}
    argv = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=120"]
    argv.append(f"--basetemp={tree.parent / 'temporary'}")  # the common one is searched, and cleared, by each run
    return subprocess.run(
        [*argv, f"tests/unit/test_{tests}.py"], cwd=tree, env=environ, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=600, check=False,
    )  # fmt: skip


def noticed_by(mutant: Mutant, tree: Path) -> str:
    """The test that notices a mutant, or "". Raises AssertionError if the run ended in another way."""
    path = tree / mutant.file
    text = path.read_text()
    put(path, text.replace(mutant.old, mutant.new))
    try:
        done = run_tests(tree, mutant.tests)
    finally:
        put(path, text)
    assert done.returncode in (0, 1), (
        f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    )
    failed = [line.split(" ")[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failed[0] if failed else ""


def main(words: Sequence[str]) -> int:
    """Run the mutants and print who notices each."""
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    with tempfile.TemporaryDirectory(prefix="clincus-mutants-") as folder:
        tree = copy_tree(Path(folder))
        missed = 0
        for mutant in chosen:
            test = noticed_by(mutant, tree)
            missed += not test
            print(f"{mutant.name:20} {test or 'NOBODY NOTICES'}", flush=True)
    print(f"{len(chosen) - missed} noticed, {missed} missed")
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
