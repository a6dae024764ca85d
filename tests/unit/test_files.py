"""The files of a workspace: what the container's answers become."""

from __future__ import annotations

import pytest

import clincus

SESSION = clincus.Session("clincus-a1b2c3-1", "/w", "claude", 1, "running", persistent=False)


class Sessions:
    """Sessions whose containers answer as they are told."""

    def __init__(self, stdout):
        self.stdout = stdout
        self.asked = []

    def guest(self, session):
        return clincus.Guest(1000, "code", "/workspace")

    def run(self, session, command, **options):
        self.asked.append(options)
        return clincus.Completed(0, self.stdout, b"")


def listing(stdout):
    return clincus.Files(Sessions(stdout)).listing(SESSION, "")


def test_folders_come_first():
    entries = listing(b"f\t5\t0.5\tb\0d\t9\t1\tc\0l\t1\t0\ta\0s\t0\t0\tsocket\0")
    assert [(entry["type"], entry["name"]) for entry in entries] == [
        ("directory", "c"),
        ("symlink", "a"),
        ("file", "b"),
        ("other", "socket"),
    ]
    assert entries[2] == {"name": "b", "type": "file", "size": 5, "modified": "1970-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("seconds", "year"),
    [("253402300800", 9999), ("9e18", 9999), ("inf", 9999), ("-9e18", 1000), ("1735689600.0000000000", 2025)],
)
def test_a_file_of_any_year_is_listed(seconds, year):
    (entry,) = listing(f"f\t0\t{seconds}\tfar\0".encode())
    assert str(entry["modified"]).startswith(f"{year}-01-01T")


def test_a_name_that_is_not_utf8_is_told_in_a_form_that_opens_it():
    (entry,) = listing(b"f\t0\t0\traw\xff\0")
    assert (entry["name"], entry["encoded"]) == ("raw\N{REPLACEMENT CHARACTER}", "raw%FF")


@pytest.mark.parametrize(
    "stdout", [b"nonsense", b"f\tlarge\t0\ta\0", b"f\t0\tnan\ta\0", b"f\t0\tnow\ta\0", b"\xff\t0\t0\ta\0"]
)
def test_a_container_that_answers_nonsense_is_told_of(stdout):
    with pytest.raises(clincus.ClincusError, match="did not answer with a listing"):
        listing(stdout)


def test_nobody_waits_long_for_a_file():
    sessions = Sessions(b"text")
    files = clincus.Files(sessions)
    files.read(SESSION, "a")
    files.write(SESSION, "a", b"text", "any")
    assert [options["timeout"] for options in sessions.asked] == [clincus.READ_TIMEOUT] * 2
    assert clincus.READ_TIMEOUT < 10
