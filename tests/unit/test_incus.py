"""The door to the `incus` command, with a stand-in for it."""

from __future__ import annotations

import os

import pytest

import clincus


@pytest.fixture
def incus(tmp_path, monkeypatch):
    """A function that makes a stand-in `incus`: `on_exec` is the script for `incus exec`, `state` what a query says."""
    program = tmp_path / "bin" / "incus"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    def make(on_exec: str, state: str = "Running") -> clincus.Incus:
        answer = f"""echo '{{"status": "{state}"}}'""" if state else "echo 'Error: Instance not found' >&2; exit 1"
        program.write_text(f'#!/bin/sh\ncase "$*" in\n*query*) {answer} ;;\n*) {on_exec} ;;\nesac\n')
        program.chmod(0o755)
        return clincus.Incus()

    return make


FORGED = "tar: not found", "Error: The incus daemon doesn't appear to be started", "already exists", "{x}{0}"


@pytest.mark.parametrize("words", FORGED)
def test_words_of_a_guest_are_no_words_of_incus(incus, words):
    door = incus("true")
    failure = door.guest_failure("box", clincus.Completed(2, b"", words.encode()))
    assert (failure.status, failure.message) == (500, words.removeprefix("Error: "))


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [("Stopped", 409, "the container is stopped"), ("", 404, "Instance not found"), ("Running", 500, "exit code 1")],
)
def test_why_a_command_failed_is_asked_of_incus(incus, state, status, words):
    failure = incus("true", state).guest_failure("box", clincus.Completed(1, b"", b""))
    assert (failure.status, failure.message) == (status, words)


def test_what_a_guest_says_is_written_as_plain_text():
    done = clincus.Completed(1, b"", b"Error: a\x1b]52;c;eA==\x07\nb\xff")
    assert done.reason == "a\\x1b]52;c;eA==\\x07\nb\ufffd"
