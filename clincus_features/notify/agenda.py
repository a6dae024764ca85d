"""Tasks for a later time, each under a key. A new task replaces an old one with the same key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple


class Job(NamedTuple):
    """One task."""

    due: float  # time.monotonic
    work: Callable[[], None]
    mark: object


class Agenda:
    """The jobs of several threads, each of which calls `work` again and again. No thread wakes while nothing is due."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the jobs
        self._jobs: dict[Hashable, Job] = {}

    def put(self, key: Hashable, delay: float, work: Callable[[], None], mark: object = None) -> None:
        """Do `work` in `delay` seconds. A job of the same key and mark keeps its time."""
        with self._changed:
            old = self._jobs.get(key)
            if old is None or mark is None or old.mark != mark:
                self._jobs[key] = Job(time.monotonic() + delay, work, mark)
                self._changed.notify_all()

    def drop(self, key: Hashable) -> None:
        """Cancel a job."""
        with self._changed:
            self._jobs.pop(key, None)

    def work(self) -> None:
        """Wait until a job is due, and do it. The wait may end early, with nothing done."""
        with self._changed:
            key = min(self._jobs, key=lambda one: self._jobs[one].due, default=None)
            if key is None:
                self._changed.wait()
                return
            wait = self._jobs[key].due - time.monotonic()
            if wait > 0:
                self._changed.wait(wait)
                return
            job = self._jobs.pop(key)
        job.work()
