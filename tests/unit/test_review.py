"""Review and undo: what git's lists mean, what goes when there is too much, where a comment stands."""

from __future__ import annotations

import io
from typing import Any

import pytest

import clincus
from clincus_features.review import changes, comments, recorder, thinning
from clincus_features.review.records import Checkpoint, Record, Records, tree_of, turn_pairs
from tests.table import table

ZEROS, BLOB = "0" * 40, "b" * 40


def raw(status: str, *paths: str, old: str = "100644", new: str = "100644") -> bytes:
    """An entry as `git diff-tree --raw -z` prints it."""
    return f":{old} {new} {BLOB} {BLOB} {status}\0".encode() + b"".join(f"{path}\0".encode() for path in paths)


# ---- lists


def test_a_list_is_read_with_its_counts():
    listed = raw("M", "a b") + raw("A", "new\nline", old="000000") + raw("R087", "old", "moved")
    listed += b":100644 100644 %b %b M\0\xff'\"\0" % (BLOB.encode(), BLOB.encode()) + raw("D", "bin")
    output = listed + b"1\t2\ta b\0" + b"3\t0\tnew\nline\0" + b"4\t5\t\0old\0moved\0" + b"-\t-\tbin\0"
    found = changes.parse_changes(output)
    assert [(one.path, one.old_path, one.status, one.added, one.removed, one.binary) for one in found] == [
        ("a b", "", "M", 1, 2, False),
        ("new\nline", "", "A", 3, 0, False),
        ("moved", "old", "R", 4, 5, False),
        ("\udcff'\"", "", "M", None, None, False),
        ("bin", "", "D", 0, 0, True),
    ]
    assert len(changes.parse_changes(output[:130])) == 1, "a list that is cut"


def test_only_pictures_that_run_nothing_are_shown():
    kinds = {b"\x89PNG\r\n\x1a\n": "image/png", b"GIF89a": "image/gif", b"RIFF\0\0\0\0WEBP": "image/webp"}
    assert {begin: clincus.picture_type(begin + b"rest") for begin in kinds} == kinds
    assert clincus.picture_type(b"<svg xmlns='http://www.w3.org/2000/svg'>") == ""


# ---- scopes


def checkpoints(*whys: str) -> list[Checkpoint]:
    """Checkpoints with these reasons, whose trees are 1, 2, 3 …"""
    return [
        Checkpoint(str(number), f"2026-01-{number:02}T00:00:00Z", why, "", str(number))
        for number, why in enumerate(whys, 1)
    ]


@table(
    ("whys", "is_alone", "pairs"),
    [
        (("start", "prompt", "turn", "prompt", "turn"), True, [("2", "3"), ("4", "5")]),
        (("start", "prompt"), True, [("2", "now")]),
        (("start", "prompt", "person", "restore", "turn"), True, [("2", "3"), ("3", "4"), ("4", "5")]),
        (("start", "turn", "person"), True, [("1", "2")]),
        (("start", "timer", "prompt", "turn"), False, [("3", "4")]),
    ],
)
def test_only_changes_in_turns_are_the_tools(whys, is_alone, pairs):
    """Beside another session only a turn tells whose a change is."""
    assert turn_pairs(checkpoints(*whys), "now", is_alone=is_alone) == pairs


def test_a_scope_means_a_tree():
    record = Record(
        "a", "s", "/w", "claude", "mount", checkpoints("start", "prompt", "turn", "prompt", "turn"), tree="now"
    )
    assert [tree_of(record, name) for name in ("start", "turn", "now", "3")] == ["1", "4", "now", "3"]
    for name, status in (("9", 404), ("branch", 409)):
        with pytest.raises(clincus.ClincusError) as caught:
            tree_of(record, name)
        assert caught.value.status == status


# ---- the answer of the container


def head(line: bytes, rest: bytes = b"") -> Any:
    return recorder.read_head(io.BufferedReader(io.BytesIO(line + b"\n" + rest)))  # type: ignore[arg-type]


def test_what_the_container_says_is_read():
    look = head(f"{BLOB} - 2".encode(), b"large big file\0ignored \xff\0PACK")
    assert (look.tree, look.commit) == (BLOB, "")
    assert [(one.why, one.path) for one in look.skipped] == [("large", "big file"), ("ignored", "\udcff")]
    assert not look.is_cut


@table(
    ("line", "rest", "status"),
    [
        (b"! git", b"", 409),
        (b"--upload-pack=x - 0", b"", 500),
        (f"{BLOB} - 99999".encode(), b"", 500),
        (f"{BLOB} refs/heads/main 0".encode(), b"", 500),
        (f"{BLOB} - 1".encode(), b"large " + bytes([97]) * 9000, 500),
    ],
)
def test_nonsense_of_a_container_is_refused(line, rest, status):
    with pytest.raises(clincus.ClincusError) as caught:
        head(line, rest)
    assert caught.value.status == status


# ---- records and what goes


def test_a_record_outlives_its_session_and_the_next_one_of_its_name(tmp_path):
    records = Records(lambda: str(tmp_path / "checkpoints"))
    for session_id, looked in (("one", "2026-01-01"), ("two/../three", "2026-01-02")):
        with records.changing(Record("clincus-a1b2c3-1", session_id, "/w", "claude")) as record:
            record.checkpoints, record.looked_at = checkpoints("start", "turn"), looked
    first = records.find("clincus-a1b2c3-1", "one")
    assert first is not None
    assert first.checkpoints == checkpoints("start", "turn")
    last = records.find("clincus-a1b2c3-1")
    assert last is not None
    assert last.session_id == "two/../three"
    assert records.find("clincus-a1b2c3-11") is None
    assert len(list(records.all())) == 2
    (tmp_path / "checkpoints/clincus-b-1.0123456789abcdef.json").write_text('{"checkpoints": 3}')
    assert records.find("clincus-b-1") is None


def test_the_first_and_the_last_checkpoint_stay():
    many = checkpoints("start", *["turn"] * 20)
    gone = thinning.too_many(many, 10, "")
    left = [one.checkpoint for one in many if one not in gone]
    assert (left[0], left[-4:], len(left) <= 10) == ("1", ["18", "19", "20", "21"], True)
    assert len(thinning.too_many(many, 100, "2026-01-15")) == 13
    assert thinning.too_many(checkpoints("start"), 10, "9999") == []


# ---- comments


@table(
    ("lines", "line", "stale"),
    [
        (["a", "b", "c"], 2, False),
        (["new", "a", "b", "c"], 3, False),
        (["a", "c"], 2, True),
        (["b", "x", "b"], 2, True),
    ],
)
def test_a_comment_follows_its_code_while_that_is_clear(lines, line, stale):
    comment = {"path": "f", "line": 2, "end_line": 2, "code": "b", "text": "t"}
    placed = comments.placed(comment, lines)
    assert (placed["line"], placed["end_line"], placed["stale"]) == (line, line, stale)


@table(
    ("lines", "line", "end_line", "text", "status"),
    [
        (["a"], 2, 2, "t", 400),
        (None, 1, 1, "t", 409),
        (["a"], 1, 1, " \n", 400),
        (["a" * 20_001], 1, 1, "t", 400),
    ],
)
def test_a_comment_that_cannot_be_is_refused(lines, line, end_line, text, status):
    with pytest.raises(clincus.ClincusError) as caught:
        comments.make("f", lines, line, end_line, text)
    assert caught.value.status == status


def test_comments_become_one_message():
    one = {"path": "a\nb.js", "line": 3, "end_line": 3, "code": "x = `1`\n```", "text": "why? ", "stale": False}
    whole = {"path": "README", "line": 0, "end_line": 0, "code": "", "text": "nice", "stale": False}
    assert comments.message([one, whole]) == (
        "Review comments (2):\n\na\\nb.js, line 3\n````\nx = `1`\n```\n````\nwhy?\n\nREADME\nnice"
    )
