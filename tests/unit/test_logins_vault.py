"""Values while they are in use: read once for all who wait, forgotten in time, and refused once they are revoked."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import clincus
from clincus_features.logins import vault as vaults
from clincus_features.logins.sources import Secret, SourceError
from clincus_features.logins.vault import Revocations, Vault, set_revoked
from tests.programs import DEADLINE, wait_until
from tests.unit.test_logins_lending import VALUE, a_loan

LOGIN = a_loan("token", "Bearer {secret}").login


class Source:
    def __init__(self) -> None:
        self.reads, self.failure, self.may_go_on = 0, "", threading.Event()
        self.may_go_on.set()

    def read(self, login, environ):
        self.reads += 1
        assert self.may_go_on.wait(DEADLINE)
        if self.failure:
            raise SourceError(self.failure)
        return Secret(VALUE)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def vault(source) -> Iterator[Vault]:
    yield Vault({}, source.read)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()
            thread.join(DEADLINE)


def taken(vault: Vault, login=LOGIN) -> vaults.Found:
    found: list[vaults.Found] = []
    vault.ask(login, found.append)
    wait_until(lambda: found, "the value")
    return found[0]


def test_all_who_wait_share_one_reading(vault, source):
    source.may_go_on.clear()
    found: list[vaults.Found] = []
    for _ in range(20):
        vault.ask(LOGIN, found.append)
    source.may_go_on.set()
    wait_until(lambda: len(found) == 20, "the values")
    assert source.reads == 1


def test_a_value_is_read_again_when_its_time_is_over(vault, source):
    short = LOGIN._replace(keep=0.05)
    taken(vault, short)
    wait_until(lambda: not vault._kept, "the value to be forgotten")
    taken(vault, short)
    assert source.reads == 2


def test_a_value_is_kept_until_then_and_never_after_it_was_refused(vault, source):
    for _ in range(3):
        taken(vault)
    assert source.reads == 1
    vault.used(LOGIN)
    assert vault.state("token").last_used
    assert VALUE not in repr(vars(vault))
    vault.forget("token")
    taken(vault)
    assert source.reads == 2
    taken(vault, LOGIN._replace(place="OTHER"))
    assert source.reads == 3, "its source has changed"


def test_a_source_that_fails_is_not_tried_all_the_time(vault, source):
    source.failure = "there is no file /x"
    for _ in range(5):
        assert isinstance(taken(vault), SourceError)
    assert source.reads == 1
    assert vault.state("token")[:2] == ("failed", "there is no file /x")
    source.failure = ""
    assert isinstance(vault.check(LOGIN), Secret)
    assert vault.state("token").state == "good"


def test_what_is_revoked_holds_in_every_server_until_it_is_allowed(tmp_path):
    environ = {"HOME": str(tmp_path)}
    here, there = Revocations(environ), Revocations(environ)
    assert not here.holds("token")
    set_revoked(environ, "token", is_revoked=True)
    assert here.holds("token")
    assert there.holds("token")
    assert not here.holds("other")
    set_revoked(environ, "token", is_revoked=False)
    assert not here.holds("token")
    assert not there.holds("token")


def test_a_torn_list_lends_nothing(tmp_path, caplog):
    environ = {"HOME": str(tmp_path)}
    path = tmp_path / ".clincus" / vaults.REVOKED_FILE
    path.parent.mkdir()
    path.write_text('["tok')
    assert Revocations(environ).holds("anything")
    with pytest.raises(clincus.ConfigError, match="is torn"):
        set_revoked(environ, "token", is_revoked=False)
    set_revoked(environ, "token", is_revoked=True)
    assert not Revocations(environ).holds("other")
