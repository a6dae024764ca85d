"""The logins that a session borrows: as a label of its instance, and as variables of its programs.

The label `user.clincus.logins` has the placeholder of each login. It holds no secret: the container has the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import clincus

from .lending import Loan, new_placeholder
from .settings import Login

LABEL = f"{clincus.LABEL}logins"
AUTHORITY = "/usr/local/share/ca-certificates/clincus-logins.crt"  # in the container; see guest/logins.sh
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# Node adds a file to its own authorities, and gemini reads no other one. The others read one file instead of theirs.
TRUST = {
    "NODE_EXTRA_CA_CERTS": AUTHORITY,
    **dict.fromkeys(
        (
            *("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO"),
            *("CODEX_CA_CERTIFICATE", "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "NIX_SSL_CERT_FILE"),
        ),
        BUNDLE,
    ),
}

CLAUDE_LOGINS = ("CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_API_KEY", ".claude/.credentials.json")  # one shadows the others


def read_label(label: str) -> dict[str, str]:
    """The placeholders of a label by the names of logins; none if it cannot be read, which lends nothing."""
    try:
        found = clincus.parse_json(label or "{}")
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: text for name, text in found.items() if isinstance(text, str) and len(text) >= 32}


def write_label(logins: Iterable[Login], before: Mapping[str, str]) -> str:
    """The label of a session that borrows logins. `before` are its placeholders so far: its files may have them."""
    return json.dumps(
        {login.name: before.get(login.name) or new_placeholder(login) for login in logins}, sort_keys=True
    )


def loans_of(label: str, logins: Mapping[str, Login]) -> list[Loan]:
    """The loans of a label. A login that is no longer configured is left out, and its placeholder is not replaced."""
    return [Loan(logins[name], text) for name, text in read_label(label).items() if name in logins]


def files_of(loans: Iterable[Loan]) -> list[str]:
    """The files of a session's home that are made for its loans, by path."""
    found: list[str] = []
    for loan in loans:
        found += loan.login.service.files
        found += [loan.login.vendor.guest_file] if loan.login.vendor else []
    return found


def run_name(id: str, label: str) -> str:
    """The name of a session's certificates: other logins, and so another label, have others."""
    return hashlib.sha256(f"{id} {label}".encode()).hexdigest()[:32]


def check_together(logins: Iterable[Login]) -> None:
    """Raise ClincusError(400) for logins that a session cannot borrow together."""
    owners: dict[str, str] = {}
    for login in logins:
        if login.vendor and owners.setdefault(login.vendor.guest_file, login.name) != login.name:
            other = owners[login.vendor.guest_file]
            words = f"the logins {other} and {login.name} are both lent as {login.vendor.guest_file}: choose one"
            raise clincus.ClincusError(words, 400)
        for name in login.service.variables:
            other = owners.setdefault(name, login.name)
            if other != login.name:
                words = (
                    f"the logins {other} and {login.name} both set {name}: choose one, or give one another `variable`"
                )
                raise clincus.ClincusError(words, 400)
    claude = [owners[name] for name in CLAUDE_LOGINS if name in owners]
    if len(claude) > 1:
        names = " and ".join(claude)
        raise clincus.ClincusError(f"Claude Code uses one of the logins {names}: choose one for a session", 400)


def variables_of(loans: Iterable[Loan]) -> dict[str, str]:
    """The variables of a session's programs: placeholders, settings to use them, and the authorities to trust."""
    found: dict[str, str] = {}
    helpers: list[tuple[str, str]] = []
    for loan in loans:
        service = loan.login.service
        found.update(service.settings)
        found.update(TRUST if loan.login.vendor else {})
        found.update(dict.fromkeys(service.variables, loan.placeholder))
        url, user = service.git
        if url:
            words = f"!f() {{ echo username={user}; echo password={loan.placeholder}; }}; f"
            helpers.append((f"credential.{url}.helper", words))
    if not found and not helpers:
        return {}
    if helpers:  # git-config(1)
        found["GIT_CONFIG_COUNT"] = str(len(helpers))
        for number, (key, value) in enumerate(helpers):
            found[f"GIT_CONFIG_KEY_{number}"] = key
            found[f"GIT_CONFIG_VALUE_{number}"] = value
    return {**found, **TRUST}
