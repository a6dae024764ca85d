"""The section `errors`: what the log writes, and that nothing about stderr ever ends the thread that writes."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from contextlib import suppress

import clincus
from clincus_features.journal import JsonFormatter
from tests.table import table


def gone():
    return None


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def full():
    return open("/dev/full", "w", encoding="utf-8")


def without_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def not_read():
    """A pipe that holds as much as it can."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 65536)
    except BlockingIOError:
        os.set_blocking(writer, True)
    return Unread(reader, writer)


class Unread(io.TextIOWrapper):
    """The writing end of a pipe, which keeps the reading end open."""

    def __init__(self, reader, writer):
        super().__init__(os.fdopen(writer, "wb"), encoding="utf-8")
        self.reader = reader

    def close(self):
        if (
            not self.closed
        ):  # a stream is closed once more when it is collected: by then the number may be another file's
            os.close(self.reader)
        super().close()


@table("stderr", [gone, closed, full, without_reader, not_read])
def test_a_stderr_that_takes_nothing_ends_no_thread(monkeypatch, stderr):
    monkeypatch.setattr(clincus.LogHandler, "PATIENCE", 0.01)
    stream, done = stderr(), []
    monkeypatch.setattr(sys, "stderr", stream)
    clincus.survive("work", lambda: (_ for _ in ()).throw(clincus.ClincusError("broken")))
    clincus.survive("work", lambda: done.append(1 / 0))
    clincus.survive("work", lambda: done.append("more"))
    assert done == ["more"]
    with suppress(AttributeError, OSError):
        stream.close()


def test_a_message_has_the_time_and_its_text(capsys):
    clincus.log.info("Dashboard running at %s", "http://127.0.0.1:3000")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d Dashboard running at http://127\.0\.0\.1:3000\n", capsys.readouterr().err
    )


def test_text_of_a_container_gets_neither_a_line_of_its_own_nor_a_control_character(capsys):
    clincus.log.warning("clincus-abc123-1: 100%% \x1b]52;c;aGk=\x07\n2026-01-01 00:00:00 forged".replace("%%", "%"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("clincus-abc123-1: 100% \\x1b]52;c;aGk=\\x07 2026-01-01 00:00:00 forged")


def test_a_bug_is_logged_with_its_traceback(capsys):
    clincus.survive("looking", lambda: int("x"))
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("looking failed")
    assert said[1] == "Traceback (most recent call last):"
    assert said[-1] == "ValueError: invalid literal for int() with base 10: 'x'"


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
