"""What a session borrows: its label, and the variables of its programs."""

from __future__ import annotations

import os
import subprocess

import pytest

import clincus
from clincus_features.logins import loans
from clincus_features.logins.services import SERVICES
from clincus_features.logins.settings import Host, Login
from clincus_features.logins.vendors import VENDORS
from tests.table import table

LOGINS = {
    name: Login(name, service, name, tuple(Host.read(host) for host in service.hosts), "env", "A", 60.0)
    for name, service in SERVICES.items()
}


def borrowed(*names: str) -> list[loans.Loan]:
    return loans.loans_of(loans.write_label([LOGINS[name] for name in names], {}), LOGINS)


def test_a_login_keeps_its_placeholder_when_others_come_and_go():
    first = loans.write_label([LOGINS["github"], LOGINS["npm"]], {})
    again = loans.write_label([LOGINS["github"], LOGINS["pypi"]], loans.read_label(first))
    assert loans.read_label(again)["github"] == loans.read_label(first)["github"]
    assert loans.read_label(again).keys() == {"github", "pypi"}


@table("label", ["{", "[]", '{"github": "short"}', '{"unknown": "' + 40 * "x" + '"}'])
def test_a_label_that_cannot_be_read_lends_nothing(label):
    assert loans.loans_of(label, LOGINS) == []


def test_the_variables_hold_placeholders_and_whom_to_trust():
    (loan,) = borrowed("anthropic")
    found = loans.variables_of([loan])
    assert found["ANTHROPIC_API_KEY"] == loan.placeholder
    assert found["NODE_EXTRA_CA_CERTS"] == loans.AUTHORITY
    assert found["SSL_CERT_FILE"] == found["GIT_SSL_CAINFO"] == loans.BUNDLE
    assert "" not in found.values(), "Incus drops a key without a value"
    assert loans.variables_of([]) == {}


def test_git_takes_the_placeholder_for_the_services_url_alone():
    (loan,) = borrowed("github")
    environ = {**os.environ, **loans.variables_of([loan]), "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}
    said = [
        subprocess.run(
            ["git", "credential", "fill"], input=f"url=https://{host}/a/b\n\n", env=environ,
            capture_output=True, text=True, check=False,
        ).stdout
        for host in ("github.com", "example.com")
    ]  # fmt: skip
    assert f"username=x-access-token\npassword={loan.placeholder}\n" in said[0]
    assert loan.placeholder not in said[1]


@table("names", [("anthropic", "claude"), ("github", "work")])
def test_logins_that_would_get_into_each_others_way_are_refused(names):
    logins = {**LOGINS, "work": LOGINS["github"]._replace(name="work")}
    with pytest.raises(clincus.ClincusError, match=r"choose one|give one") as caught:
        loans.check_together([logins[name] for name in names])
    assert caught.value.status == 400
    loans.check_together([LOGINS["claude"], LOGINS["github"], LOGINS["copilot"]])


def test_a_lent_login_of_claude_code_and_a_key_are_refused_together():
    """The key would win, and the subscription would not be used."""
    claude = LOGINS["claude"]._replace(vendor=VENDORS["claude"], service=SERVICES["claude"]._replace(variables=()))
    for other in (LOGINS["anthropic"], LOGINS["claude"]._replace(name="other"), claude._replace(name="other")):
        with pytest.raises(clincus.ClincusError, match="choose one"):
            loans.check_together([claude, other])
    (loan,) = loans.loans_of(loans.write_label([claude], {}), {"claude": claude})
    found = loans.variables_of([loan])
    assert "CLAUDE_CODE_OAUTH_TOKEN" not in found
    assert found["NODE_EXTRA_CA_CERTS"] == loans.AUTHORITY
