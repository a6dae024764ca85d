"""The state of the sessions that a server watches, as far as it is not in their records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import clincus

from .seals import Stage


class Fault(NamedTuple):
    """The reason why something without a seal was put aside."""

    kind: str  # as `Change.kind`
    words: str


class Live(NamedTuple):
    """A session that is watched."""

    session: clincus.Session
    stage: Stage
    is_watched: bool  # False if the kernel had no watches left


@dataclass
class Seen:
    """The results of the last looks at sessions, each by the session's id."""

    index_files: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the files of its indexes
    index_states: dict[str, object] = field(default_factory=dict)  # their signature at the last comparison
    unlike: dict[str, tuple[str, ...]] = field(default_factory=dict)  # sealed paths that git may write from an index
    links_before: dict[str, dict[str, str]] = field(default_factory=dict)  # `Run.links` before its next run
    links: dict[str, dict[str, str]] = field(default_factory=dict)  # `Run.links` of its run
    paths: dict[str, frozenset[str]] = field(default_factory=dict)  # `Run.paths`, for each session in `links`
    unsealed: dict[str, list[str]] = field(default_factory=dict)  # its Git folders without seals
    trees: dict[str, list[str]] = field(default_factory=dict)  # the working trees that these name
    module_states: dict[str, object] = field(default_factory=dict)  # the state of both at the last look
    # Its Git folders: unsealed ones, and all others.
    repositories: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    operation_files: dict[str, list[str]] = field(default_factory=dict)  # the files that its last look at them read
    operation_states: dict[str, object] = field(default_factory=dict)  # their signature before that look, or None

    def begin_run(self, id: str) -> None:
        """Forget the results of a session's last run."""
        for results in (self.links, self.unsealed, self.trees, self.module_states, self.repositories):
            results.pop(id, None)

    def end_run(self, id: str) -> None:
        """Forget the results of a run that has ended."""
        for results in (self.index_files, self.index_states, self.unlike, self.links, self.unsealed, self.trees):
            results.pop(id, None)
        self.repositories.pop(id, None)
        self.operation_files.pop(id, None)


@dataclass
class Mends:
    """The restorations in frozen sessions: something there, or outside, replaces a sealed path again."""

    in_progress: set[str] = field(default_factory=set)  # ids of sessions
    missed: dict[str, set[str]] = field(default_factory=dict)  # session -> names that moved meanwhile
    numbers: dict[str, int] = field(default_factory=dict)  # session -> number of restorations in its run
    last_at: dict[str, float] = field(default_factory=dict)  # session -> time.monotonic of the last one
