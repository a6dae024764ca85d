"""What a session takes of the machine: from what Incus says to the answer of the API."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

import clincus
from clincus_features import usage

STATE = {
    "pid": 0,
    "cpu": {"usage": 1_500_000_000},
    "memory": {"usage": 300, "total": 1000},
    "disk": {"root": {"usage": 70}},
    "processes": 5,
    "network": {
        "eth0": {"counters": {"bytes_received": 7, "bytes_sent": 3}},
        "lo": {"counters": {"bytes_received": 100, "bytes_sent": 100}},
    },
}
KNOWN = {
    "cpu_seconds": 1.5,
    "memory_bytes": 300,
    "memory_limit": 1000,
    "disk_bytes": 70,
    "processes": 5,
    "received_bytes": 7,
    "sent_bytes": 3,
}


@pytest.mark.parametrize(
    ("changes", "cache", "expected"),
    [
        ({}, None, {}),
        ({}, 100, {"memory_bytes": 200}),
        ({}, 400, {"memory_bytes": 0}),
        ({"network": None}, None, {"received_bytes": None, "sent_bytes": None}),
        ({"disk": None}, None, {"disk_bytes": None}),
        ({"memory": {"usage": -1, "total": 0}}, 5, {"memory_bytes": None, "memory_limit": None}),
        ({"cpu": {"usage": -1}, "processes": -1}, None, {"cpu_seconds": None, "processes": None}),
    ],
)
def test_what_incus_does_not_know_is_null(changes, cache, expected):
    assert usage.usage_document({**STATE, **changes}, cache, "now") == {**KNOWN, **expected, "at": "now"}


def test_another_process_of_that_number_is_not_taken_for_the_containers():
    assert usage.page_cache("clincus-a1b2c3-1", os.getpid()) is None


def test_incus_is_asked_once_however_many_pages_look(monkeypatch):
    asked = []

    class Sessions:
        class Door(clincus.Incus):
            def query(self, path, **options):
                asked.append(path)
                return STATE

        @classmethod
        def door(cls, id):
            return cls.Door()

    now = iter([10.0, 11.0, 12.5, 12.5])
    monkeypatch.setattr(usage, "time", SimpleNamespace(monotonic=lambda: next(now)))  # not that of other threads
    session = clincus.Session("clincus-a1b2c3-1", "/w", "claude", 1, "running", persistent=False)
    meter = usage.Meter()
    answers = [meter.read(Sessions, session) for _ in range(3)]
    assert len(asked) == 2
    assert answers[0] is answers[1]
