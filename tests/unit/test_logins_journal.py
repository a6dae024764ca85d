"""The lines that the journal of a session has about its logins: first use, refusals and renewals, never a value."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

import clincus
from clincus_features.logins import Account, Lending
from clincus_features.logins.loans import loans_of
from clincus_features.logins.sources import Secret
from clincus_features.logins.vendors import VENDORS
from tests.builders import a_session

clincus.install_features(None)  # they add settings
CONFIG = """[logins.claude]
lend = true
[logins.github]
from = { env = "GITHUB" }
limit = { requests_per_session = 1 }
"""
VALUE = "ghp_TheRealTokenOfTheHost0123456789abcdef"
LABEL = f'{{"claude": "sk-ant-oat01-clincus-{32 * "a"}", "github": "ghp_{32 * "b"}clin"}}'


class House:
    """A server with a running session and one that has stopped. Both borrow."""

    def __init__(self, environ: dict[str, str], config: clincus.Config) -> None:
        self.lines: list[tuple[str, str]] = []  # of the journals
        self.one = a_session(id="one", logins=LABEL)
        sessions = [self.one, self.one._replace(id="two", status="stopped")]
        extensions = SimpleNamespace(happenings=[lambda session, words: self.lines.append((session.id, words))])
        registry = SimpleNamespace(all=lambda: sessions, find=lambda id: self.one)
        app: Any = SimpleNamespace(registry=registry, extensions=extensions, config=config)
        self.lending = Lending(environ, app)
        self.loan = next(one for one in loans_of(LABEL, self.lending._logins()) if one.login.name == "github")

    def ask(self) -> None:
        account = Account(self.lending, self.one, "github.com")
        self.lending.vault.check(self.loan.login)
        account.ask(self.loan, lambda found: account.lent(self.loan) if isinstance(found, Secret) else None)


@pytest.fixture
def environ(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "Timer", Mock())  # nothing is forgotten in time
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "none"))
    (tmp_path / ".config" / "clincus").mkdir(parents=True)
    (tmp_path / ".config" / "clincus" / "config.toml").write_text(CONFIG)
    return {"HOME": str(tmp_path), "GITHUB": VALUE}


@pytest.fixture
def house(environ) -> House:
    return House(environ, clincus.load_config(environ))


def test_a_first_use_and_the_reason_of_a_refusal_are_there_once(house):
    for _ in range(4):
        house.ask()
    (_, first), (_, refusal) = house.lines
    assert "uses the login github (at github.com)" in first
    assert "does not get the login github: its limit of 1 requests a session is" in refusal
    (row,) = house.lending.fields(house.one)["lent"]
    assert (row["requests"], row["refused"]) == (1, 3)
    assert VALUE not in repr(house.lines)


def test_a_value_that_cannot_be_read_is_a_refusal(house, environ):
    del environ["GITHUB"]
    house.ask()
    ((_, words),) = house.lines
    assert "GITHUB" in words
    (row,) = house.lending.fields(house.one)["lent"]
    assert (row["requests"], row["refused"]) == (0, 1)


def test_a_renewal_is_in_the_journals_of_those_who_run_and_borrow_it(house, environ):
    house.lending._tell_renewed(VENDORS["claude"], 1.8e9)
    house.lending._tell_renewed(VENDORS["codex"], 1.8e9)
    assert house.lines == [("one", "The login claude was renewed on this host: good until 2027-01-15T08:00:00Z")]
    Lending(environ, None)._tell_renewed(VENDORS["claude"], 1.8e9)  # of a command, which has no journal
