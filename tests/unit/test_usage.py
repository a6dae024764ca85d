"""What a session takes of the machine: from what Incus says to the answer of the API."""

from __future__ import annotations

import os

import clincus
from clincus_features import usage
from tests.builders import a_session
from tests.table import table

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


@table(
    ("changes", "cache", "expected"),
    [
        ({}, 100, {"memory_bytes": 200}),
        ({}, 400, {"memory_bytes": 0}),
        ({"network": None}, None, {"received_bytes": None, "sent_bytes": None}),
        ({"memory": {"usage": -1, "total": 0}}, 5, {"memory_bytes": None, "memory_limit": None}),
        ({"cpu": {"usage": -1}, "processes": -1}, None, {"cpu_seconds": None, "processes": None}),
    ],
)
def test_what_incus_does_not_know_is_null(changes, cache, expected):
    assert usage.usage_document({**STATE, **changes}, cache, "now") == {**KNOWN, **expected, "at": "now"}


def test_another_process_of_that_number_is_not_taken_for_the_containers():
    assert usage.page_cache("clincus-a1b2c3-1", os.getpid()) is None


def test_a_session_is_asked_for_its_state():
    asked = []

    class Sessions:
        class Door(clincus.Incus):
            def query(self, path, **options):
                asked.append(path)
                return STATE

        @classmethod
        def door(cls, id):
            return cls.Door()

    session = a_session()
    answer = usage.ask_usage(Sessions, session)
    assert asked == ["/1.0/instances/clincus-a1b2c3-1/state"]
    assert answer == {**KNOWN, "at": answer["at"]}
