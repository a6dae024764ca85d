"""Figures of the server for Prometheus: GET /metrics, in its text format (docs/metrics.md lists them).

Every label has few values, all known in advance: operations, statuses, words of the `incus` command. No name that a
container or a person chooses becomes a label, so the answer stays small whatever happens.
"""

from __future__ import annotations

import bisect
import functools
import logging
import os
import re
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import clincus

Samples = Iterator[tuple[str, float]]  # labels as the format has them, number

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STARTED = time.time()
# A child's command line is called by the word after `incus`, or by the method of `incus query`.
CALL = re.compile(r"(?:sg \S+ -c ')?incus (?:--project \S+ )?(?:query --request (?P<method>\w+)|(?P<word>\S+))")
CALLS = {"GET", "POST", "PUT", "PATCH", "DELETE", "config", "delete", "exec", "info", "launch", "list", "start", "stop"}
# The label of each kind of work that the core tallies.
LABELS = {"answer": "status", "save": "outcome", "push": "outcome", "webhook": "outcome"}


class Family(NamedTuple):
    """One metric."""

    kind: str  # counter, gauge or histogram
    help: str


FAMILIES = {
    "clincus_build_info": Family("gauge", "The version that runs; always 1."),
    "clincus_sessions": Family("gauge", "Sessions by their status."),
    "clincus_agents": Family("gauge", "Sessions by what their tool does."),
    "clincus_engine_up": Family("gauge", "Whether an engine answers; this host is the engine with no name."),
    "clincus_sockets": Family("gauge", "Open WebSockets: terminals, shells and pages that listen to events."),
    "clincus_request_seconds": Family("histogram", "Time that requests took, by operation of the API."),
    "clincus_request_failures_total": Family("counter", "Requests that an operation refused or failed at."),
    "clincus_answers_total": Family("counter", "Answers by HTTP status, including requests for no known operation."),
    "clincus_incus_call_seconds": Family("histogram", "Time that calls of the incus command took, by kind."),
    "clincus_incus_call_failures_total": Family("counter", "Calls of the incus command that ended with an error."),
    "clincus_saves_total": Family("counter", "Copies of conversations to this host."),
    "clincus_pushes_total": Family("counter", "Web pushes to devices, by how it went."),
    "clincus_webhooks_total": Family("counter", "Messages to the webhook, by how it went."),
    "clincus_log_messages_total": Family("counter", "Lines in the server's log, by level."),
    "clincus_threads": Family("gauge", "Threads of the server."),
    "process_cpu_seconds_total": Family("counter", "CPU time of the server itself."),
    "process_resident_memory_bytes": Family("gauge", "Memory of the server itself."),
    "process_open_fds": Family("gauge", "Open file descriptors."),
    "process_max_fds": Family("gauge", "How many there may be."),
    "process_start_time_seconds": Family("gauge", "When the server started (Unix time)."),
}


def label(name: str, value: str) -> str:
    """A label in the text format."""
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{name}="{escaped}"'


# Label and values of counters that are there from the start, at 0: Prometheus sees no increase in the first value.
FROM_START = {
    "clincus_saves_total": ("outcome", "done failed"),
    "clincus_pushes_total": ("outcome", "delivered retrying refused gone failed"),
    "clincus_webhooks_total": ("outcome", "delivered retrying refused failed"),
    "clincus_log_messages_total": ("level", "info warning error"),
}


@dataclass
class Histogram:
    """How long requests or commands took."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))  # of each bucket; the last has the rest
    seconds: float = 0.0  # in all

    def samples(self, labels: str) -> Iterator[tuple[str, str, float]]:
        """Suffix of the name, labels and number of each line. A bucket counts everything that took no longer."""
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts):
            total += count
            yield "_bucket", f'{labels},le="{bound}"', total
        yield "_sum", labels, self.seconds
        yield "_count", labels, total


class Tallies:
    """All counts since the process began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()  # by name and labels
        for name, (key, values) in FROM_START.items():
            for value in values.split():
                self._counts[name, label(key, value)] = 0
        self._times: dict[tuple[str, str], Histogram] = {}

    def count(self, name: str, labels: str) -> None:
        """Add one to a count."""
        with self._lock:
            self._counts[name, labels] += 1

    def time(self, name: str, labels: str, seconds: float) -> None:
        """Note how long something took."""
        bucket = bisect.bisect_left(BUCKETS, seconds)
        with self._lock:
            histogram = self._times.setdefault((name, labels), Histogram())
            histogram.counts[bucket] += 1
            histogram.seconds += seconds

    def note(self, kind: str, which: str, seconds: float) -> None:
        """Count a tally of the core."""
        if kind in LABELS:
            plural = "pushes" if kind == "push" else f"{kind}s"
            self.count(f"clincus_{plural}_total", label(LABELS[kind], which))
            return
        found = CALL.match(which)
        if found is None or kind not in {"child", "failed child"}:
            return
        word = found["method"] or found["word"]
        call = label("call", word if word in CALLS else "other")
        self.time("clincus_incus_call_seconds", call, seconds)
        if kind == "failed child":
            self.count("clincus_incus_call_failures_total", call)

    def lines(self) -> dict[str, list[str]]:
        """The lines of each metric."""
        lines: dict[str, list[str]] = {}
        with self._lock:
            for (name, labels), number in self._counts.items():
                lines.setdefault(name, []).append(sample(name, labels, number))
            for (name, labels), histogram in self._times.items():
                of_metric = lines.setdefault(name, [])
                for suffix, more, value in histogram.samples(labels):
                    of_metric.append(sample(name + suffix, more, value))
        return lines


class LogCounter(logging.Handler):
    """Counts the lines of the log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Count one line."""
        TALLIES.count("clincus_log_messages_total", label("level", record.levelname.lower()))


# The process has one log and one door to Incus, so it has one set of counts.
TALLIES = Tallies()
clincus.meters.append(TALLIES.note)
clincus.log.addHandler(LogCounter())


def sample(name: str, labels: str, number: float) -> str:
    """One line of the answer."""
    return f"{name}{{{labels}}} {number}" if labels else f"{name} {number}"


def install(extensions: clincus.Extensions) -> None:
    """Add the route, and measure all other routes."""
    contract = clincus.load_contract()
    gauges = Gauges(extensions.app, contract)
    paths = contract["paths"]

    def wrap(method: str, path: str, handler: clincus.Handler) -> clincus.Handler:
        operation = paths.get(path, {}).get(method.lower(), {}).get("operationId")
        if operation is None:
            return handler
        if path.startswith("/ws/"):
            return functools.partial(gauges.follow_socket, handler, operation)
        return functools.partial(follow_request, handler, label("operation", operation))

    extensions.wrappers.append(wrap)
    extensions.routes.append(("GET", "/metrics", lambda request: gauges.answer()))


def follow_request(handler: clincus.Handler, labels: str, request: clincus.Request) -> object:
    """Handle a request, and note how long that took and if it failed."""
    began = time.monotonic()
    try:
        return handler(request)
    except Exception as error:
        status = error.status if isinstance(error, clincus.ClincusError) else 500
        TALLIES.count("clincus_request_failures_total", f"{labels},{label('status', str(status))}")
        raise
    finally:
        TALLIES.time("clincus_request_seconds", labels, time.monotonic() - began)


class Gauges:
    """The present figures, read for each answer."""

    def __init__(self, app: Any, contract: clincus.Schema) -> None:
        schemas = contract["components"]["schemas"]
        self._app = app
        self._statuses: list[str] = schemas["Session"]["properties"]["status"]["enum"]
        self._states: list[str] = schemas["Agent"]["properties"]["state"]["enum"]
        self._lock = threading.Lock()
        self._sockets: dict[str, int] = {}  # operation -> number of handlers at work
        for path, item in contract["paths"].items():
            if path.startswith("/ws/"):
                self._sockets[item["get"]["operationId"]] = 0

    def follow_socket(self, handler: clincus.Handler, operation: str, request: clincus.Request) -> object:
        """Handle a WebSocket. It is open until the handler returns, or has handed it to the hub of events."""
        self._add(operation, 1)
        try:
            return handler(request)
        finally:
            self._add(operation, -1)

    def _add(self, operation: str, number: int) -> None:
        with self._lock:
            self._sockets[operation] += number

    def answer(self) -> clincus.Response:
        """The answer to GET /metrics. It needs no answer of Incus or a container."""
        lines = TALLIES.lines()
        for name, samples in self._now():
            lines[name] = [sample(name, labels, number) for labels, number in samples]
        text = []
        for name, family in FAMILIES.items():
            if name in lines:
                text.append(f"# HELP {name} {family.help}")
                text.append(f"# TYPE {name} {family.kind}")
                text += lines[name]
        body = "".join(f"{line}\n" for line in text)
        return clincus.Response(200, body.encode(), [("Content-Type", CONTENT_TYPE)])

    def _now(self) -> Iterator[tuple[str, Samples]]:
        sessions = self._app.registry.all()
        states = []
        for fields in map(self._app.extensions.fields, sessions):
            agent = fields.get("agent")
            if isinstance(agent, dict):
                states.append(agent.get("state"))
        yield "clincus_build_info", iter([(label("version", clincus.__version__), 1)])
        yield "clincus_sessions", counted("status", self._statuses, (session.status for session in sessions))
        yield "clincus_agents", counted("state", self._states, states)
        up = {name: int(not engine.reach.error) for name, engine in self._app.engines.items()}
        yield "clincus_engine_up", numbers("engine", up)
        sockets = {**self._sockets, "open_events": len(self._app.hub.subscribers)}
        yield "clincus_sockets", numbers("operation", sockets)
        for name, number in process_figures().items():
            yield name, iter([("", number)])


def counted(name: str, known: Iterable[str], found: Iterable[object]) -> Samples:
    """The counts of all known values, 0 for those that were not found."""
    counts = Counter(found)
    return numbers(name, {value: counts[value] for value in known})


def numbers(name: str, values: Mapping[str, float]) -> Samples:
    """A number for each value of a label."""
    return ((label(name, value), number) for value, number in values.items())


def process_figures() -> dict[str, float]:
    """The resources that this process uses."""
    sizes = clincus.read_plain_file("/proc/self/statm", 1 << 10) or b"0 0"
    pages = int(sizes.split()[1])
    most_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "clincus_threads": threading.active_count(),
        "process_cpu_seconds_total": time.process_time(),
        "process_resident_memory_bytes": pages * resource.getpagesize(),
        "process_open_fds": len(os.listdir("/proc/self/fd")) - 1,  # one was open to list them
        "process_max_fds": min(most_files, sys.maxsize),
        "process_start_time_seconds": STARTED,
    }
