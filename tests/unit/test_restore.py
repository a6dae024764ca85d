"""An undo in a container, run by this machine's own shell and Perl."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import clincus
from clincus_features.review.recorder import FILE_LIMIT, SKIPPED
from tests.table import table

# Goes into Perl before the program, and stands in for what the kernel or a tool does at one of its calls.
MEANWHILE = {
    "nothing happens": "",
    "a tool writes before the file gets its rights": """
        *CORE::GLOBAL::chmod = sub {{
            open my $f, ">>", "{file}"; print $f "tool\\n"; close $f;
            CORE::chmod($_[0], $_[1]);
        }};
    """,
    "a tool puts another file there": """
        *CORE::GLOBAL::chmod = sub {{
            open my $f, ">", "{file}.tool"; print $f "tool\\n"; close $f; rename "{file}.tool", "{file}";
            CORE::chmod($_[0], $_[1]);
        }};
    """,
    "the file system has no hard links": "*CORE::GLOBAL::link = sub {{ $! = 1; 0 }};",
}


class Undo:
    """A home whose workspace was recorded, and an undo in it."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.home, self.project = home, home / "project"
        self.project.mkdir()
        (self.project / "file").write_text("now\n")
        self.keep(**variables)

    def keep(self, **variables: str) -> None:
        """Take a checkpoint."""
        words = [str(self.project), "-", str(FILE_LIMIT), str(SKIPPED), "now", "-"]
        self.run("checkpoint", *words, **variables)

    def run(self, name: str, *words: str, stdin: bytes = b"", **variables: str) -> str:
        environ = {"HOME": str(self.home), "PATH": os.environ["PATH"], **variables}
        argv = ["sh", "-c", clincus.guest_program(name), "clincus", *words]
        done = subprocess.run(argv, env=environ, input=stdin, capture_output=True, timeout=60, check=True)
        return done.stdout.decode("latin-1")

    def put(self, name: str, content: str, *, is_new: bool, meanwhile: str = "nothing happens") -> str:
        """Put a file back while something happens; the word for it."""
        (self.home / "Meanwhile.pm").write_text(
            f"package Meanwhile; BEGIN {{ {MEANWHILE[meanwhile].format(file=self.project / name)} }} 1;\n"
        )
        order = f"put 100644 {int(is_new)} {len(name)} {len(content)}\n{name}{content}".encode()
        perl = {"PERL5LIB": str(self.home), "PERL5OPT": "-MMeanwhile"}
        return self.run("restore", str(self.project), stdin=order, **perl).strip()


@pytest.fixture
def undo(tmp_path) -> Undo:
    return Undo(tmp_path)


def test_an_undo_waits_until_the_first_checkpoint_knows_the_times_of_the_files(tmp_path):
    slow = tmp_path / "slow"
    slow.mkdir()
    git = shutil.which("git")
    (slow / "git").write_text(f'#!/bin/sh\ncase "$*" in *--refresh) sleep 1;; esac\nexec {git} "$@"\n')
    (slow / "git").chmod(0o755)
    undo = Undo(tmp_path, PATH=f"{slow}:{os.environ['PATH']}")
    assert undo.put("file", "then\n", is_new=False) == "done"
    assert (undo.project / "file").read_text() == "then\n"


def test_a_pipe_in_the_place_of_attributes_holds_up_no_checkpoint_and_no_undo(undo):
    folder = undo.project / "folder"
    folder.mkdir()
    (folder / "file").write_text("now\n")
    for place in (undo.project, folder):
        os.mkfifo(place / ".gitattributes")
    undo.keep()
    assert undo.put("folder/file", "then\n", is_new=False) == "done"
    assert (folder / "file").read_text() == "then\n"


@table("meanwhile", [what for what in MEANWHILE if "tool" in what])
def test_what_a_tool_writes_while_a_file_is_put_back_stays(tmp_path, meanwhile):
    undo = Undo(tmp_path)
    assert undo.put("file", "then\n", is_new=False, meanwhile=meanwhile) == "changed"
    assert (undo.project / "file").read_text() in ("now\ntool\n", "tool\n")
    assert os.listdir(undo.project) == ["file"]


def test_a_file_comes_back_where_there_are_no_hard_links(undo):
    assert undo.put("new", "then\n", is_new=True, meanwhile="the file system has no hard links") == "done"
    assert (undo.project / "new").read_text() == "then\n"
    assert (undo.project / "new").stat().st_mode & 0o777 == 0o644
    assert undo.put("new", "other\n", is_new=True, meanwhile="the file system has no hard links") == "occupied"
    assert sorted(os.listdir(undo.project)) == ["file", "new"]
