"""What is kept of a session's requests with logins, and what is told of it."""

from __future__ import annotations

from clincus_features.logins import records
from clincus_features.logins.records import Records


def test_requests_are_counted_by_login_and_host():
    kept = Records()
    assert [kept.count("github", "api.github.com") for _ in range(2)] == [True, False], "the first one is told"
    assert not kept.count("github", "github.com")
    kept.count("github", "github.com", is_refused=True)
    kept.add_tokens("github", "github.com", 5)
    kept.add_tokens("github", "elsewhere", 5)
    assert {(row["host"], row["requests"], row["refused"], row["tokens"]) for row in kept.documents()["lent"]} == {
        ("api.github.com", 2, 0, 0),
        ("github.com", 1, 1, 5),
    }


def test_an_alarm_is_told_once_for_each_place():
    kept = Records()
    assert [kept.alarm("github", "in the address", host) for host in ("a", "a", "b")] == [True, False, True]
    assert [one["host"] for one in kept.documents()["alarms"]] == ["b", "a"]


def test_neither_alarms_nor_rows_are_without_an_end():
    kept = Records()
    for number in range(1000):
        kept.alarm("github", f"in the header x{number}", "a")
        kept.count("github", f"host{number}")
    assert len(kept.alarms) == records.MOST_ALARMS
    assert len(kept.rows) == records.MOST_ROWS
