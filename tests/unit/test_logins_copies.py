"""Copies of one login that its vendor renews: who has them, and what is said of that."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import clincus
from clincus_features.logins import Lending
from tests.builders import a_session


@pytest.fixture
def lending(tmp_path):
    """A function that makes what the server knows, of some sessions."""

    def make(*sessions: clincus.Session) -> Lending:
        file = tmp_path / ".claude" / ".credentials.json"
        file.parent.mkdir()
        file.write_text("{}")
        return Lending({"HOME": str(tmp_path)}, SimpleNamespace(registry=SimpleNamespace(all=lambda: sessions)))

    return make


def named(id: str, **fields: str) -> clincus.Session:
    return a_session(id=id, **{"tool": "claude", "status": "running", **fields})


def test_two_running_copies_of_one_login_are_told(lending):
    one, two = named("one"), named("two")
    found = lending(one, two)
    (words,) = found.copy_warnings(one)
    assert "as does two: the first one that renews it logs the others out. Lend it instead: `lend = true`" in words
    warning = found.examine({})
    assert warning
    assert warning[0].startswith("2 running sessions hold copies of one login of claude: one, two.")


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "stopped"},
        {"tool": "copilot"},
        {"logins": '{"claude": "sk-ant-oat01-clincus-0123456789abcdef0123456789abcdef"}'},
        {"command": "make"},
    ],
)
def test_a_session_that_holds_none_is_no_reason(lending, fields):
    one, two = named("one"), named("two", **fields)
    found = lending(one, two)
    assert [found.copy_warnings(one), found.copy_warnings(two), found.examine({})] == [[], [], None]


def test_nothing_is_said_where_this_host_has_no_such_login(lending, tmp_path):
    one = named("one")
    found = lending(one, named("two"))
    (tmp_path / ".claude" / ".credentials.json").unlink()
    assert found.copy_warnings(one) == []
