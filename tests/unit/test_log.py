"""The section `errors`: what the log writes, and that nothing about stderr ever ends the thread that writes."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import resource
import sys

import pytest

import clincus
from clincus_features.journal import JsonFormatter


@contextlib.contextmanager
def pipe(*, is_read: bool = True, is_full: bool = False):
    """The writing end of a pipe."""
    reader, writer = os.pipe()
    if is_full:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 65536)
        os.set_blocking(writer, True)
    if not is_read:
        os.close(reader)
    with open(writer, "wb", buffering=0) as raw:
        yield io.TextIOWrapper(raw, write_through=True)
    if is_read:
        os.close(reader)


def survive(monkeypatch, stderr):
    """Let pieces of work go wrong whose failures go to this stderr."""
    done = []
    monkeypatch.setattr(clincus.LogHandler, "PATIENCE", 0.01)
    monkeypatch.setattr(sys, "stderr", stderr)
    clincus.survive("work", lambda: (_ for _ in ()).throw(clincus.ClincusError("broken")))
    clincus.survive("work", lambda: done.append(1 / 0))
    clincus.survive("work", lambda: done.append("more"))
    assert done == ["more"]


def test_a_stderr_that_takes_nothing_ends_no_thread(monkeypatch):
    closed = io.StringIO()
    closed.close()
    survive(monkeypatch, None)
    survive(monkeypatch, closed)
    with pipe(is_read=False) as stderr:
        survive(monkeypatch, stderr)
    with pipe(is_full=True) as stderr:
        survive(monkeypatch, stderr)


def test_text_of_a_container_gets_neither_a_line_of_its_own_nor_a_control_character(capsys):
    clincus.log.warning("clincus-abc123-1: 100% \x1b]52;c;aGk=\x07\n2026-01-01 00:00:00 forged")
    clincus.survive("looking", lambda: int("x"))
    message, *bug = capsys.readouterr().err.splitlines()
    text = r"clincus-abc123-1: 100% \x1b]52;c;aGk=\x07 2026-01-01 00:00:00 forged"
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d {re.escape(text)}", message)
    assert bug[0].endswith("looking failed")
    assert bug[1] == "Traceback (most recent call last):"
    assert bug[-1] == "ValueError: invalid literal for int() with base 10: 'x'"


def test_a_stderr_with_a_number_that_select_does_not_know_is_written_to(monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2048:
        pytest.skip("this kernel has no room for so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, limits[1]))
    try:
        reader, writer = os.pipe()
        high = fcntl.fcntl(writer, fcntl.F_DUPFD, 1500)
        os.close(writer)
        os.set_blocking(reader, False)
        with open(reader, "rb", buffering=0) as said, open(high, "w", encoding="utf-8") as stderr:
            monkeypatch.setattr(sys, "stderr", stderr)
            clincus.log.warning("it is heard")
            assert (said.read(100) or b"").endswith(b"it is heard\n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_log_as_json_has_an_object_on_each_line_with_the_fields_of_the_record(capsys, monkeypatch):
    monkeypatch.setattr(clincus.log.handlers[0], "formatter", JsonFormatter())
    clincus.log.info("a\nb \x1b[2J", extra={"fields": {"session": "clincus-0a1b2c-1"}})
    try:
        int("x")
    except ValueError:
        clincus.log.exception("it failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["level"], first["message"], first["session"]) == ("info", "a b \x1b[2J", "clincus-0a1b2c-1")
    assert first["at"].endswith("Z")
    assert second["traceback"].endswith("ValueError: invalid literal for int() with base 10: 'x'")
