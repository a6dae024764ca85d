"""What is kept of each run: by whom it is written, what it may hold, and what a container gains by lying."""

from __future__ import annotations

import json
import os
import stat

import pytest

from clincus_features.runs import LETTERS, Notes, branch_of
from tests.builders import a_session
from tests.table import table

SESSION = a_session()


@pytest.fixture
def notes(tmp_path):
    return Notes(str(tmp_path / "state" / "runs.json"))


def test_what_is_known_of_a_session_outlives_the_server(notes, tmp_path):
    notes.add("s1", name="", prompt="Fix the\n totals", branch="")
    notes.add("s1", branch="topic")
    notes.add("s1", name="billing")
    again = Notes(str(tmp_path / "state" / "runs.json"))
    assert again.of("s1") == {"name": "billing", "prompt": "Fix the totals", "branch": "topic"}
    assert again.of("another") == {"name": "", "prompt": "", "branch": ""}
    assert stat.S_IMODE(os.stat(tmp_path / "state" / "runs.json").st_mode) == 0o600


def test_the_first_prompt_stays_and_another_process_is_heard(notes, tmp_path):
    other = Notes(str(tmp_path / "state" / "runs.json"))
    other.add("s1", prompt="the first", is_first=True)
    notes.add("s1", prompt="the second", is_first=True)
    assert notes.of("s1")["prompt"] == "the first"
    notes.add("s1", prompt="a\x1b[31m\u202eb\n" + "c" * 1000)
    assert notes.of("s1")["prompt"].startswith("a[31mb c")
    assert len(notes.of("s1")["prompt"]) == LETTERS


def test_a_torn_file_costs_no_answer(notes, tmp_path):
    file = tmp_path / "state" / "runs.json"
    file.parent.mkdir()
    for content in ('{"s1": 1}', "[]", "{", '{"s1": {"name": 1}}'):
        file.write_text(content)
        assert notes.of("s1")["name"] == ""
        notes.add("s1", name="again")
        assert json.loads(file.read_text()) == {"s1": {"name": "again"}}


def repository(folder, head):
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_bytes(head)
    return SESSION._replace(workspace=str(folder))


@table(
    ("head", "branch"),
    [
        (b"ref: refs/heads/feature/totals\n", "feature/totals"),
        (b"9187465c0123456789012345678901234567890a\n", ""),
        (b"", ""),
        (b"ref: refs/heads/" + b"x" * 5000, "x" * 496),
        (b"\xff\xfe", ""),
    ],
)
def test_the_branch_is_what_head_names(tmp_path, head, branch):
    assert branch_of(repository(tmp_path, head)) == branch


def test_nothing_is_followed_to_the_branch(tmp_path):
    """A link, a FIFO, which would be waited for, and no repository at all."""
    secret = tmp_path / "secret"
    secret.write_text("ref: refs/heads/secret")
    for number, spoil in enumerate(("link", "fifo", "folder", "nothing", "linked git")):
        folder = tmp_path / str(number)
        folder.mkdir()
        session = repository(folder, b"ref: refs/heads/main")
        head = folder / ".git" / "HEAD"
        head.unlink()
        if spoil == "link":
            head.symlink_to(secret)
        elif spoil == "fifo":
            os.mkfifo(head)
        elif spoil == "folder":
            head.mkdir()
        elif spoil == "linked git":
            real = tmp_path / "real"
            (folder / ".git").rename(real)
            (real / "HEAD").write_text("ref: refs/heads/elsewhere")
            (folder / ".git").symlink_to(real)
        assert branch_of(session) == "", spoil
    assert branch_of(SESSION._replace(workspace=str(tmp_path), engine="tower")) == ""
