"""Files that a person gives to a tool: their names, and the program in the container that keeps them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import clincus
from clincus_features import uploads
from tests.table import table


@table(
    ("given", "name"),
    [
        ("shot.png", "shot.png"),
        ("Screen Shot 2026-11-25 at 5.04.12 PM.png", "Screen-Shot-2026-11-25-at-5.04.12-PM.png"),
        ("Größe 大きさ.jpeg", "Größe-大きさ.jpeg"),
        ("../../etc/passwd", "passwd"),
        ("-rf", "rf"),
        (".bashrc", "bashrc"),
        ("a\n\x1b[201~b;$(reboot)'\".txt", "a-201-b-reboot.txt"),
        ("\u202egnp.exe", "gnp.exe"),
        ("", "file"),
        ("x" * 300 + ".tar.gz", "x" * 97 + ".gz"),
        ("ü" * 300, "ü" * 50),
        ("\udcff.png", "png"),
    ],
)
def test_a_file_keeps_its_name_as_far_as_no_tool_needs_quotes_for_it(given, name):
    assert uploads.file_name(given) == name
    assert len(uploads.file_name(given).encode()) <= uploads.NAME_BYTES


def upload(home: Path, name: str, data: bytes, *, size: int | None = None, room: int = 1000) -> int:
    """Run guest/upload.sh on this machine; its exit code."""
    words = "sh", "-c", clincus.guest_program("upload"), "clincus", uploads.FOLDER, name
    argv = [*words, str(len(data) if size is None else size), str(room)]
    environ = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    return subprocess.run(argv, input=data, env=environ, cwd="/", timeout=60, check=False).returncode


def kept(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / uploads.FOLDER).iterdir()}


def test_a_whole_file_is_kept_for_its_owner_alone_and_takes_the_place_of_none(tmp_path):
    assert upload(tmp_path, "a.png", b"\0picture\xff") == 0
    assert upload(tmp_path, "a.png", b"second") == 47
    assert upload(tmp_path, "b", b"half", size=9) == 48
    assert kept(tmp_path) == {"a.png": b"\0picture\xff"}
    assert (tmp_path / uploads.FOLDER / "a.png").stat().st_mode & 0o777 == 0o600


def test_the_oldest_files_go_when_there_is_no_room(tmp_path):
    for number in range(4):
        assert upload(tmp_path, f"{number}", bytes(300)) == 0
        path = tmp_path / uploads.FOLDER / f"{number}"
        os.utime(path, (number, number))
    assert upload(tmp_path, "new", bytes(400)) == 0
    assert sorted(kept(tmp_path)) == ["2", "3", "new"]
