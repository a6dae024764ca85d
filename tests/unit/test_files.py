"""The files of a workspace: what the container's answers become."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

import clincus
from clincus_features import files
from tests.builders import a_session
from tests.programs import DEADLINE
from tests.table import table

SESSION = a_session()


class Sessions:
    """Sessions whose containers answer as they are told."""

    def __init__(self, stdout):
        self.stdout = stdout
        self.asked = []

    def guest(self, session):
        return clincus.Guest(1000, "code", "/workspace")

    def output(self, session, programs, *words, **options):
        self.asked.append(options)
        return self.stdout


def listing(stdout):
    return files.list_directory(Sessions(stdout), SESSION, "")[0]


def test_a_listing_has_a_bound_and_says_whether_the_directory_has_more():
    for count, is_cut in ((files.ENTRY_LIMIT, False), (3 * files.ENTRY_LIMIT, True)):
        sessions = Sessions(b"\tf\t1\t1\tname\0" * count)
        entries, has_more = files.list_directory(sessions, SESSION, "")
        assert (len(entries), has_more) == (files.ENTRY_LIMIT, is_cut)
        assert sessions.asked[0]["timeout"] < 10, "a person waits"


def test_folders_come_first():
    entries = listing(b"\tf\t5\t0.5\tb\0\td\t9\t1\tc\0\tl\t1\t0\ta\0\ts\t0\t0\tsocket\0")
    assert [(entry["type"], entry["name"]) for entry in entries] == [
        ("directory", "c"),
        ("symlink", "a"),
        ("file", "b"),
        ("other", "socket"),
    ]
    assert entries[2] == {"name": "b", "type": "file", "size": 5, "modified": "1970-01-01T00:00:00Z"}


@table(
    ("seconds", "year"),
    [("253402300800", 9999), ("9e18", 9999), ("inf", 9999), ("-9e18", 1000), ("1735689600.0000000000", 2025)],
)
def test_a_file_of_any_year_is_listed(seconds, year):
    (entry,) = listing(f"\tf\t0\t{seconds}\tfar\0".encode())
    assert str(entry["modified"]).startswith(f"{year}-01-01T")


def test_a_name_that_is_not_utf8_is_told_in_a_form_that_opens_it():
    (entry,) = listing(b"\tf\t0\t0\traw\xff\0")
    assert (entry["name"], entry["encoded"]) == ("raw\N{REPLACEMENT CHARACTER}", "raw%FF")


@table("stdout", [b"nonsense", b"\tf\tlarge\t0\ta\0", b"\tf\t0\tnan\ta\0", b"\tf\t0\tnow\ta\0", b"\t\xff\t0\t0\ta\0"])
def test_a_container_that_answers_nonsense_is_told_of(stdout):
    with pytest.raises(clincus.ClincusError, match="did not answer with a listing"):
        listing(stdout)


# ---- the program in the container ---------------------------------------------------------------------------------

WRITE = ["sh", str(Path(clincus.__file__).parent / "guest" / "files.sh"), "write"]


@table(("arrives", "code", "content"), [("new text", 0, "new text"), ("new te", 48, "old text")])
@table("expected", ["any", "new"])
def test_a_file_that_arrives_cut_short_takes_no_place(tmp_path, arrives, code, content, expected):
    if expected == "any":
        (tmp_path / "file").write_text("old text")
    command = [*WRITE, str(tmp_path), "4", expected, str(len("new text"))]
    done = subprocess.run(command, input=f"file{arrives}".encode(), capture_output=True, timeout=60, check=False)
    assert done.returncode == code
    left = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert left == ({} if (expected, code) == ("new", 48) else {"file": content})


def test_of_many_writers_who_read_the_same_file_one_wins(tmp_path):
    for turn in range(2):
        (tmp_path / "file").write_text(f"{turn}")
        expected = hashlib.sha256(f"{turn}".encode()).hexdigest()
        command = [*WRITE, str(tmp_path), "4", expected, "5"]
        writers = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(5)]
        for number, writer in enumerate(writers):
            writer.stdin.write(f"filenew-{number}".encode())
            writer.stdin.flush()
        for writer in writers:
            writer.stdin.close()
        codes = [writer.wait(DEADLINE) for writer in writers]
        assert sorted(codes) == [0, *[45] * 4]
        assert (tmp_path / "file").read_text() == f"new-{codes.index(0)}"


def test_a_picture_is_one_by_its_content():
    png = b"\x89PNG\r\n\x1a\n rest"
    assert files.read_picture(Sessions(png), SESSION, "shot.txt") == (png, "image/png")
    for content in (b"<svg xmlns='http://www.w3.org/2000/svg'>", b"<!doctype html>", b"GIF", b""):
        with pytest.raises(clincus.ClincusError, match="is no picture") as caught:
            files.read_picture(Sessions(content), SESSION, "shot.png")
        assert caught.value.status == 415
