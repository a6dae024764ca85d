"""Errors of the API: each has a code of one table, and the contract and the documents list the same codes."""

from __future__ import annotations

import ast
import json
import re

import clincus
from tests.error_words import VALUE, messages
from tests.programs import ROOT
from tests.table import table

CONTRACT = clincus.load_contract()
SOURCES = [ROOT / "clincus.py", ROOT / "wall/protect.py", *sorted((ROOT / "clincus_features").rglob("*.py"))]
ERRORS = {"ClincusError", "IncusError", "WallUnsupportedError", "WallExposedError", "CoveredError", "ChangedError"}


def causes_in(path):
    for node in ast.walk(ast.parse(path.read_text())):
        name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
        if name in ERRORS and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            yield node.args[1].value


def answer_to(error):
    response = clincus.error_response(error)
    return response.status, dict(response.headers), json.loads(response.body)


def test_an_error_in_the_code_names_a_row_of_the_table():
    causes = [(path.name, cause) for path in SOURCES for cause in causes_in(path)]
    assert [one for one in causes if one[1] not in clincus.CAUSES and one[1] not in clincus.CODES] == []


@table(
    ("error", "status", "code"),
    [
        (clincus.ClincusError("x", 400), 400, "bad_request"),
        (clincus.ClincusError("x"), 500, "failed"),
        (clincus.ClincusError("x", "question_open"), 409, "question_open"),
        (clincus.Refused("x", 401), 401, "sign_in_required"),
        (clincus.IncusError("x"), 500, "incus_failed"),
        (clincus.IncusError("x", 503), 503, "incus_unreachable"),
    ],
)
def test_an_error_has_a_code_beside_its_words(error, status, code):
    answered, _, document = answer_to(error)
    assert (answered, document) == (status, {"error": "x", "code": code})


def test_a_client_is_told_when_to_ask_again_for_what_is_unavailable():
    assert answer_to(clincus.ClincusError("x", 503))[1]["Retry-After"] == str(clincus.RETRY_AFTER)
    many = clincus.ClincusError("x", "too_many_connections", [("Retry-After", "1")])
    assert answer_to(many)[1]["Retry-After"] == "1"
    assert "Retry-After" not in answer_to(clincus.ClincusError("x", 409))[1]


def test_the_contract_and_the_documents_list_each_code_with_its_status_and_remedy():
    schema = CONTRACT["components"]["schemas"]["ErrorCode"]
    known = {code: (cause.status, cause.remedy) for code, cause in clincus.CAUSES.items()}
    assert schema["enum"] == list(known)
    words = [f"`{code}` ({status}): {remedy}" for code, (status, remedy) in known.items()]
    assert [one for one in words if one not in schema["description"]] == []
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.*) \|$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert {code: (int(status), remedy) for code, status, remedy in rows} == known


# After the fact: a verb in the imperative, a command, what is right, or that there is nothing to do.
DOING = """
    add answer ask attach break build change check chmod choose close comment copy correct delete does edit fetch find
    free give install leave list look make mend merge mount move name open press put read remove rename restart resume
    revoke run save see send set shorten start stop subscribe take try turn type undo unset update use wait write
"""
ADVICE = re.compile(
    rf"(^|[:;,.(] ?)(or |then |and |else )?({'|'.join(DOING.split())})\b|`|--\w|clincus [a-z]|\?"
    r"|\b(must|needs?|at most|larger than|can hold|supported|known are|there (is|are) …|nothing to|there already)\b"
    r"|\b(lists?|list of|opens one|it is written when)\b",
    re.IGNORECASE,
)
# A hostile or broken container sent it, and no step of a person's would change that.
OF_CONTAINERS = re.compile(r"^the container (has sent|sent|sends|gave)|^engine …: (… is no JSON|its answer for)")
# The command line adds where the sessions are listed; others are a part of a longer sentence, or of a state.
ENDED_ELSEWHERE = ('session "…" not found', "…: the session was deleted", "Incus is shutting down.")


def test_an_error_says_what_to_do():
    words = [*messages()]
    assert len(words) > 300
    wrong = []
    for one in words:
        has_reason = one.text.endswith((VALUE, f"{VALUE})"))  # what failed tells why, in words of its own
        is_left = OF_CONTAINERS.search(one.text) or one.text in ENDED_ELSEWHERE
        if not (has_reason or is_left or ADVICE.search(one.text)):
            wrong.append(f"{one.path.name}:{one.line}: {one.text}")
    assert wrong == []
