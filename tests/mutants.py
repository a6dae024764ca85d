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


GATE = [
    Mutant(
        "host", "clincus.py", "if len(hosts) != 1 or not self._is_ours(hosts[0], peer):", "if len(hosts) != 1:", "gate"
    ),
    Mutant("one-host", "clincus.py", "if len(hosts) != 1 or not self._is_ours", "if not self._is_ours", "gate"),
    Mutant("origin", "clincus.py", 'if scheme not in {"http", "https"} or not', "if False and not", "gate"),
    Mutant(
        "fetch-site",
        "clincus.py",
        'get("Sec-Fetch-Site", "none").lower() not in {"none",',
        'get("X", "none") not in {"none",',
        "gate",
    ),
    Mutant("peer", "clincus.py", "        if peer.why_token:\n", "        if False:\n", "gate"),
    Mutant(
        "forwarded", "clincus.py", "return any(name.lower() in self.PROXY_FIELDS for", "return any(False for", "gate"
    ),
    Mutant(
        "content-type", "clincus.py", 'if is_browser or media_type not in {"",', 'if media_type not in {"",', "http"
    ),
    Mutant("nosniff", "clincus.py", '    ("X-Content-Type-Options", "nosniff"),\n', "", "http"),
    Mutant("frame-ancestors", "clincus.py", "frame-ancestors 'none'; base-uri", "base-uri", "http"),
    Mutant("head-limit", "clincus.py", "if len(head) >= HEAD_LIMIT:", "if False:", "http"),
    Mutant("field-limit", "clincus.py", "if len(lines) > FIELD_LIMIT:", "if False:", "http"),
    Mutant(
        "token",
        "clincus_features/sign_in.py",
        "return hmac.compare_digest(digest(shown), digest(secret))",
        "return True",
        "gate",
    ),
    Mutant("cookie", "clincus_features/sign_in.py", "HttpOnly; SameSite=Strict", "HttpOnly", "gate"),
]
LIMITS = [
    Mutant("output-limit", "clincus.py", "limit or OUTPUT_LIMIT", "limit or 1 << 60", "incus"),
    Mutant(
        "config-size",
        "clincus.py",
        "text = read_text(path, CONFIG_FILE_LIMIT)",
        "text = read_text(path, 1 << 60)",
        "config",
    ),
    Mutant("history-size", "clincus.py", "if size + len(lines) > HISTORY_LIMIT:", "if False:", "history"),
    Mutant("carried-size", "clincus.py", "left: int = CARRIED_LIMIT", "left: int = 1 << 60", "tools"),
    Mutant("listed-files", "clincus.py", 'b"\\0", LISTED_FILES)[:LISTED_FILES]', 'b"\\0")', "conversations"),
    Mutant("message-size", "clincus.py", "max_size=MAX_MESSAGE_SIZE", "max_size=None", "websocket"),
    Mutant("git-memory-clone", "clincus_features/clone/private.py", "ulimit -v {MEMORY_KIB} && ", "", "clone"),
    Mutant("git-memory-store", "clincus_features/review/store.py", "ulimit -v {MEMORY_KIB} && ", "", "review_store"),
    Mutant("key-running", "clincus_features/idempotency.py", "if not answer.lock.locked():", "if True:", "idempotency"),
    Mutant("key-request", "clincus_features/idempotency.py", "if answer.asked != asked:", "if False:", "idempotency"),
    Mutant(
        "key-length", "clincus_features/idempotency.py", "if not 0 < len(key) <= KEY_LIMIT:", "if False:", "idempotency"
    ),
    Mutant("key-number", "clincus_features/idempotency.py", " and len(self._answers) < LIMIT", "", "idempotency"),
]
OUTSIDE = [
    Mutant("life", f"{NETWORK}/link.py", "LIFE = 24 * 3600.0", "LIFE = 1e9", "network_proxy"),
    Mutant(
        "ask-within",
        f"{NETWORK}/link.py",
        "self._deadline = now + ASK_WITHIN",
        "self._deadline = now + 1e9",
        "network_proxy",
    ),
    Mutant(
        "sni",
        f"{NETWORK}/link.py",
        "elif name != host and (name or port in WEB_PORTS):",
        "elif False:",
        "network_proxy",
    ),
    Mutant("most-in-all", f"{NETWORK}/proxy.py", "min(MOST_IN_ALL, files // 4)", "files // 4", "network_proxy"),
    Mutant("most-of-session", f"{NETWORK}/proxy.py", "min(MOST_OF_SESSION, self._most", "(self._most", "network_proxy"),
    Mutant(
        "private",
        f"{NETWORK}/addresses.py",
        "if is_special(plain) and longest(plain_opened, plain) < 0:",
        "if False:",
        "network_policy",
    ),
    Mutant(
        "own-address", f"{NETWORK}/addresses.py", "if not route.is_elsewhere and", "if False and", "network_addresses"
    ),
    Mutant("own-containers", f"{NETWORK}/addresses.py", "if route.is_inside and", "if False and", "network_addresses"),
    Mutant("neighbour", f"{NETWORK}/addresses.py", "if route.near and", "if False and", "network_addresses"),
    Mutant(
        "held-most",
        f"{NETWORK}/relay.py",
        "for one in self._streams.values()) >= HELD_MOST",
        "for one in ()) >= HELD_MOST",
        "network_relay",
    ),
    Mutant(
        "window",
        f"{NETWORK}/relay.py",
        "if stream.room < 0 or stream.heard_fin:",
        "if stream.heard_fin:",
        "network_relay",
    ),
    Mutant("vsock", f"{NETWORK}/devices.py", 'FAMILIES = {"vsock": 40, ', "FAMILIES = {", "network_policy"),
    Mutant("clear-site-data", f"{PREVIEW}/heads.py", '"clear-site-data", ', "", "preview"),
    Mutant("frame-options", f"{PREVIEW}/heads.py", "\"frame-ancestors 'self'", '"frame-ancestors *', "preview"),
    Mutant(
        "navigation",
        f"{PREVIEW}/openings.py",
        "if not is_link or request.method not in",
        "if not is_link and request.method not in",
        "preview",
    ),
    Mutant(
        "ticket-time", f"{PREVIEW}/openings.py", "time.monotonic() + TICKET_HOLDS", "time.monotonic() + 1e9", "preview"
    ),
    Mutant("tickets-most", f"{PREVIEW}/openings.py", "[1 - TICKETS_MOST :]", "[:]", "preview"),
    Mutant(
        "opening-most",
        f"{PREVIEW}/openings.py",
        "if len(self._sockets) >= 2 * CONNECTIONS_MOST:",
        "if False:",
        "preview",
    ),
    Mutant(
        "previews-most", f"{PREVIEW}/__init__.py", "Semaphore(openings.IN_ALL_MOST)", "Semaphore(1 << 30)", "preview"
    ),
    Mutant("body-rate", f"{PREVIEW}/relay.py", "clincus.HEAD_TIMEOUT + left / clincus.BODY_RATE", "1e9", "preview"),
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
WALL = [
    Mutant(
        "held-rules",
        "wall/protect.py",
        'HOLDING_RULES = ("unmount", "lease", "fault")',
        "HOLDING_RULES = ()",
        "protection",
    ),
    Mutant("fuse", "wall/protect.py", "        lines.append(NO_FUSE)\n", "", "protection"),
]
MUTANTS = [*GATE, *LIMITS, *OUTSIDE, *OPERATIONS, *RENAMES, *WALL]


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
