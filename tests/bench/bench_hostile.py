"""Honest and hostile sessions side by side, on this host and on an engine. Prints tables; asserts nothing.

    python -m tests.bench.bench_hostile [--sessions 200] [--minutes 20] [--rate 5]

As root it starts two Incus daemons of its own. A third of the sessions are hostile: as root in their containers they
lie, flood, hang, fill their disks or use up their processes. The others work: they are told things, write files,
commit in their clones, and are stopped and resumed. Meanwhile the API is asked. For half of that time before, nobody
is hostile: the same figures of that time are the baselines, since a machine that is busy with something else is slow by
itself. At the end all honest sessions are stopped, and what they were told, wrote and committed is looked for on this
host, in the clones as well. The rows say how many there were.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shlex
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests import programs
from tests.bench.bench_engines import server_with_engine
from tests.bench.figures import Results, Row
from tests.bench.measuring import House, Process, delete, percentile, run_alone

ANSWER, STOP = 2.0, 3.0  # seconds: the goals
PATIENCE = 300.0  # seconds after which an answer counts as none
END_PATIENCE = 1200.0  # the same for the forced delete of a hostile session, which is to be over before the next look
BACK_WITHIN = 300.0  # seconds for an engine to answer again: on a busy machine it may count as lost for a while
AT_ONCE = 3  # creates
WORK_PAUSE = 1.0  # seconds between two honest works
STOP_EVERY = 4  # of so many works one stops its session
GIVE_BACK = 65.0  # seconds in which the server gives freed memory back
LOOKS, LOOK_PAUSE = 10, 2.0  # looks at a server at rest, and seconds between them
CONFIG = "[limits.runtime]\nmax_processes = 200\n"
WAYS = "/agent /usage /log /changes /unsaved /files?path= /scrollback /ports /cost"
# Programs of the container, each of which replaces the real ones. What they do is bounded by the container: 200
# processes, and 200 MB of a disk that all share.
HOSTILE = {
    "lies": """
        printf '%s\\n' '#!/bin/sh' 'echo HEAD 999999999 .claude/x.jsonl' 'head -c 300000000 /dev/urandom' >/tmp/lie
        chmod 755 /tmp/lie
        for name in git find stat cat ls tar flock perl tmux; do cp /tmp/lie "$(command -v $name)"; done""",
    "floods": """
        while :; do
            tty=$(ls /dev/pts/0 2>/dev/null) && timeout 5 yes "$(printf 'loud \\a\\033]0;title\\007')" >"$tty"
            timeout 1 yes '{"event": "Stop"}' >>/home/code/.clincus/agent/events; : >/home/code/.clincus/agent/events
        done""",
    "hangs": """
        printf '%s\\n' '#!/bin/sh' 'exec sleep 100000' >/tmp/hang && chmod 755 /tmp/hang
        for name in git find tar flock perl tmux env; do cp /tmp/hang "$(command -v $name)"; done""",
    "fills": """
        folder=/home/code/.claude/projects/-workspace; mkdir -p $folder
        truncate -s 8G $folder/00000000-0000-4000-8000-000000000000.jsonl
        seq 20000 | (cd $folder && xargs touch); cd /workspace
        head -c 200000000 /dev/zero >large; chown -R code /home/code/.claude
        deep=/home/code/.claude/deep; for n in $(seq 200); do deep=$deep/aaaaaaaaaaaaaaaa; done; mkdir -p $deep""",
    "forks": ":(){ sleep 1000 & : ; }; n=0; while [ $n -lt 400 ]; do n=$((n + 1)); sleep 100000 & done",
}


@dataclass
class Member:
    """A session of the run."""

    id: str
    session_id: str
    folder: Path
    is_clone: bool
    kind: str = ""  # of HOSTILE, "" for an honest one
    told: list[str] = field(default_factory=list)


@dataclass
class Seen:
    """What was measured in one phase, in seconds."""

    answers: dict[str, list[tuple[float, str]]] = field(
        default_factory=lambda: {"list": [], "honest": [], "hostile": []}
    )
    stops: list[float] = field(default_factory=list)


class Run:
    """A server with its sessions, and what was seen."""

    def __init__(self, made: House, server: programs.Server, options: argparse.Namespace) -> None:
        self.made, self.server, self.options = made, server, options
        self.honest: list[Member] = []
        self.hostile: list[Member] = []
        self.seen = Seen()  # in the current phase
        self.failures: list[str] = []
        self.sought = 0  # things that were looked for at the end
        self.unseen: list[str] = []  # honest sessions in which nothing could be looked for, and why
        self.over = threading.Event()

    # -- Sessions

    def start(self) -> None:
        """Start all sessions: by turns here with a mounted folder and on the engine with a clone."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.create, range(self.options.sessions)))

    def create(self, number: int) -> None:
        with self.noting(f"create {number}"):
            folder = self.made.repository(f"work-{number}", 20)
            is_far = number % 2 == 1
            fields = {"engine": "far", "mode": "clone"} if is_far else {"mode": "mount"}
            session = self.server.create(folder, network="none", **fields)
            kind = list(HOSTILE)[number // 3 % len(HOSTILE)] if number % 3 == 2 else ""
            party = self.hostile if kind else self.honest
            party.append(Member(session["id"], session["session_id"], folder, is_far, kind))

    def exec(self, member: Member, script: str, *, user: int = 1000, timeout: float = 60) -> None:
        """Run a script in a session's container, past the server."""
        words = ["exec", member.id, "--user", str(user), "--env", "HOME=/home/code", "--", "sh", "-c", script]
        self.made.bed.incus.run(*words, timeout=timeout)

    def attack(self, member: Member) -> None:
        """Let a hostile session do what it does until it ends."""
        script = f"setsid sh -c {shlex.quote(HOSTILE[member.kind])} </dev/null >/dev/null 2>&1 &"
        with self.noting(f"attack {member.kind}"):
            self.exec(member, script, user=0)

    # -- Clients

    @contextlib.contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Note a failure, and go on."""
        try:
            yield
        except Exception as error:
            self.failures.append(f"{what}: {type(error).__name__}: {str(error)[:200]}")

    def timed(self, method: str, path: str) -> tuple[float, int]:
        """Seconds and status of an answer."""
        began, status = time.monotonic(), 0
        with self.noting(f"{method} {path}"):
            status = self.server.request(method, path, timeout=PATIENCE).status
        return time.monotonic() - began, status

    def load(self, minutes: float) -> Seen:
        """Let the clients work for a while; what they saw, to which the caller may add."""
        self.seen = Seen()
        self.over.clear()
        clients = [threading.Thread(target=self.work, args=(self.honest[which::4],)) for which in range(4)]
        clients.append(threading.Thread(target=self.ask))
        for client in clients:
            client.start()
        for _ in range(round(minutes * 6)):
            time.sleep(10)
            if self.server.process.poll() is not None:
                break
        self.over.set()
        for client in clients:
            client.join()
        return self.seen

    def ask(self) -> None:
        """Ask the API until the run is over, some times a second, each time without waiting for the last answer."""
        places = [("", "list")]
        for way in ("", *WAYS.split()):
            places += [(f"/{one.id}{way}", "hostile" if one.kind else "honest") for one in self.honest + self.hostile]

        def get(path: str, party: str) -> None:
            seconds, _ = self.timed("GET", f"/api/sessions{path}")
            self.seen.answers[party].append((seconds, path))

        questions = itertools.cycle(one for place in places[1:] for one in (places[0], place))
        with ThreadPoolExecutor(64) as pool:
            while not self.over.wait(1 / self.options.rate):
                pool.submit(get, *next(questions))

    def work(self, members: Sequence[Member]) -> None:
        """Let honest sessions work in turns, and stop and resume one now and then, until the run is over."""
        for number, member in enumerate(itertools.cycle(members)):
            if self.over.wait(WORK_PAUSE):
                return
            with self.noting(f"work of {member.id}"):
                self.tell(member, f"note-{number}")
                if number % STOP_EVERY == STOP_EVERY - 1:
                    self.stop(member)
                    answer = self.server.post(f"/api/sessions/{member.id}/resume", timeout=PATIENCE)
                    assert answer.status == 200, f"resume: {answer.status} {answer.json.get('error')}"

    def tell(self, member: Member, words: str) -> None:
        """Tell a session's tool something, and let it write a file, which a clone commits."""
        target = f"-t =clincus-{member.id.rpartition(':')[2]}:"
        typed = f"tmux send-keys {target} -l '{words}' \\; send-keys {target} Enter"
        who = "-c user.name=A -c user.email=a@localhost"
        commit = f"git add -A && git {who} commit -qm work" if member.is_clone else ":"
        self.exec(member, f"cd /workspace && echo {words} >>told && {commit} && {typed}")
        member.told.append(words)
        wanted = f"until grep -rq {words} ~/.claude/projects; do sleep 0.1; done"
        self.exec(member, f"timeout 20 sh -c '{wanted}'")  # the tool has it

    def stop(self, member: Member) -> None:
        seconds, status = self.timed("DELETE", f"/api/sessions/{member.id}")
        self.seen.stops.append(seconds)
        if status != 204:
            self.failures.append(f"stop {member.id}: {status}")

    # -- The end

    def end(self, member: Member) -> None:
        """Delete a hostile session, whatever it does."""
        with self.noting(f"delete {member.kind}"):
            self.server.delete(f"/api/sessions/{member.id}?force=true", timeout=END_PATIENCE)

    def lost(self, member: Member) -> list[str]:
        """What an honest session was told or wrote, and this host does not have."""
        saved = self.server.home / ".clincus/sessions-claude" / member.session_id
        try:
            talk = "".join(path.read_text() for path in saved.rglob("*.jsonl")) if saved.is_dir() else ""
            written = self.written(member) if member.told else ""
        except (OSError, subprocess.SubprocessError, AssertionError) as error:
            self.unseen.append(f"{member.id}: {error}")
            return []
        self.sought += 2 * len(member.told)
        return [
            f"{member.id}: {words} is not in {where}"
            for words in member.told
            for where, text in (("the conversation", talk), ("the file", written))
            if f"{words}\n" not in f"{text}\n".replace('"}', "\n")
        ]

    def written(self, member: Member) -> str:
        """What this host has of the file that a session wrote. Raises AssertionError if a clone cannot be fetched."""
        if not member.is_clone:
            return (member.folder / "told").read_text()
        end = time.monotonic() + BACK_WITHIN
        while True:
            self.server.post(f"/api/sessions/{member.id}/resume", timeout=PATIENCE)
            fetched = self.server.post(f"/api/sessions/{member.id}/fetch", {}, timeout=PATIENCE)
            if fetched.status != 503 or time.monotonic() > end:
                break
            time.sleep(WORK_PAUSE)
        assert fetched.status == 200, f"cannot be fetched: {fetched.json.get('error')}"
        return programs.git(member.folder, "show", f"{fetched.json['branch']}:told")


def at_rest(process: Process) -> tuple[float, ...]:
    """Memory in MB, threads and descriptors once the server has given back what it needed before.

    A save or a look at all sessions takes some MB for a moment, so the lowest of several looks counts.
    """
    time.sleep(GIVE_BACK)
    seen = []
    for _ in range(LOOKS):
        seen.append((process.own_memory, process.threads, process.descriptors))
        time.sleep(LOOK_PAUSE)
    return tuple(map(min, zip(*seen)))


def measure(made: House, results: Results, options: argparse.Namespace) -> None:
    """The whole bench."""
    with server_with_engine(made, CONFIG) as (server, _):
        run, process = Run(made, server, options), Process(server.process.pid)
        run.start()
        before = at_rest(process)
        calm = run.load(options.minutes / 2)
        warm = at_rest(process)
        for member in run.hostile:
            run.attack(member)
        beside = run.load(options.minutes)
        for member in run.honest:
            run.stop(member)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(run.end, run.hostile))
            lost = [words for found in pool.map(run.lost, run.honest) for words in found]
        for member in run.honest:
            with run.noting(f"resume {member.id}"):
                server.post(f"/api/sessions/{member.id}/resume", timeout=PATIENCE)
        results.add(*rows(run, calm, beside), *end_rows(run, lost))
        for what, then, calm_one, now in zip(("memory", "threads", "descriptors"), before, warm, at_rest(process)):
            words = f"the bound is from before the load, {then:.1f}; held against the time after the calm half"
            unit = "MB" if what == "memory" else ""
            results.add(Row(f"hostile: {what} afterwards", unit, now, then * 1.1 + 2, calm_one, note=words))
        print(*run.failures[:40], *run.unseen[:20], *lost[:20], sep="\n  ")
        for member in run.honest + run.hostile:
            with run.noting("delete"):
                delete(server, member.id)


def rows(run: Run, calm: Seen, beside: Seen) -> Iterator[Row]:
    """The rows of the calm phase and of that beside attacks: the longest of each kind, and the median."""
    note = f"{len(run.honest)} honest and {len(run.hostile)} hostile sessions, {run.options.minutes:g} minutes"

    def pair(what: str, ours: list[float], bare: list[float], goal: float, words: str) -> Iterator[Row]:
        ours, bare = ours or [0.0], bare or [0.0]
        p99 = f"p99 {percentile(ours, 0.99):.2f} s of {len(ours)}"
        yield Row(f"hostile: longest {what}", "s", max(ours), goal, max(bare), note=f"{words}; {p99}")
        yield Row(f"hostile: p50 of it, {what}", "s", percentile(ours, 0.5), None, percentile(bare, 0.5))

    for party, samples in beside.answers.items():
        late = dict(Counter(path.rpartition("/")[2] for seconds, path in samples if seconds > ANSWER))
        ours, bare = ([seconds for seconds, _ in seen.answers[party]] for seen in (beside, calm))
        words = f"{note}; over {ANSWER:g} s: {late or 'none'}"
        yield from pair(f"answer of the API, {party}", ours, bare, ANSWER, words)
    late_stops = f"{sum(one > STOP for one in beside.stops)} over {STOP:g} s"
    yield from pair("stop of an honest session", beside.stops, calm.stops, STOP, late_stops)


def end_rows(run: Run, lost: Sequence[str]) -> Iterator[Row]:
    """The rows of what was lost or went wrong."""
    told = 2 * sum(len(member.told) for member in run.honest)
    note = f"of {run.sought} that were looked for, of {told}"
    yield Row("hostile: honest works that are lost", "", len(lost), 0, note=note)
    note = "; ".join(run.unseen[:3])
    yield Row("hostile: honest sessions that could not be looked into", "", len(run.unseen), 0, note=note)
    yield Row("hostile: other failures", "", len(run.failures), 0, note="; ".join(run.failures[:3]))


if __name__ == "__main__":
    run_alone(__doc__, measure, minutes=20.0, sessions=200, rate=5.0)
