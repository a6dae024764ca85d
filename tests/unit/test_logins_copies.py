"""Copies of one login that its vendor renews: who has them, and what is said of that."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import clincus
from clincus_features.logins import Lending
from tests.builders import a_session
from tests.table import table

clincus.install_features(None)  # they add settings
MARK = "clincus-0123456789abcdef0123456789abcdef"
COPYING = """[logins]
copy = true
[logins.claude]
lend = true
[logins.github]
from = { env = "GITHUB" }
"""


@pytest.fixture
def environ(tmp_path, monkeypatch) -> dict[str, str]:
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "none"))
    (tmp_path / ".config" / "clincus").mkdir(parents=True)
    return {"HOME": str(tmp_path)}


@pytest.fixture
def lending(tmp_path, environ):

    def make(*sessions: clincus.Session, text: str = "") -> Lending:
        (tmp_path / ".config" / "clincus" / "config.toml").write_text(text)
        file = tmp_path / ".claude" / ".credentials.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}")
        registry = SimpleNamespace(all=lambda: sessions)
        return Lending(environ, SimpleNamespace(registry=registry, config=clincus.load_config(environ)))

    return make


def named(id: str, **fields: str) -> clincus.Session:
    return a_session(id=id, **{"tool": "claude", "status": "running", **fields})


def test_two_running_copies_of_one_login_are_told(lending, environ):
    one, two = named("one"), named("two")
    found = lending(one, two)
    (words,) = found.copy_warnings(one)
    assert "two" in words
    for asked in (found, Lending(environ, None)):  # the other one is that of a command, which knows no server
        warning = asked.examine({}, lambda: [one, two])
        assert warning
        assert "one, two" in warning[0]


@table(
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
    assert [found.copy_warnings(one), found.copy_warnings(two), found.examine({}, lambda: [one, two])] == [[], [], None]


@table(("login", "has_copy"), [("claude", False), ("github", True)])
def test_where_others_are_copied_a_session_holds_a_copy_unless_it_borrows_that_login(lending, login, has_copy):
    one, two = named("one"), named("two", logins=f'{{"{login}": "{MARK}"}}')
    found = lending(one, two, text=COPYING)
    assert [bool(found.copy_warnings(session)) for session in (one, two)] == [has_copy, has_copy]
