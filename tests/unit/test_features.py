"""Where features attach to the core: what one may add, and that a broken one harms nobody."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import clincus
from clincus_features.contract import served_contract
from clincus_features.protection.records import Change, Records, Run
from tests.builders import a_session
from tests.table import table

GOOD = """
def install(extensions):
    extensions.routes.append(("GET", "/api/weather", lambda request: "fine"))
    extensions.session_fields.append(lambda session: {"weather": "fine"})
"""
BROKEN = """
def install(extensions):
    extensions.routes.append(("GET", "/api/broken", None))
    raise RuntimeError("out of order")
"""
NUMBERS = itertools.count()
SESSION = a_session(workspace="/srv/app")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that makes a package of features and returns its name."""

    def make(**modules: str) -> str:
        name = f"some_features_{next(NUMBERS)}"
        (tmp_path / name).mkdir()
        for module, text in {"__init__": "", **modules}.items():
            (tmp_path / name / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return name

    yield make
    for name in [name for name in sys.modules if name.startswith("some_features_")]:
        del sys.modules[name]


def test_a_command_gets_the_fields_of_a_frozen_session_without_a_server(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    change = Change("/srv/app/.git/logs", "replaced", "container", "2026-01-01T00:00:00Z", False, "words", "link")
    with Records({"HOME": str(tmp_path)}).changing("/srv/app") as record:
        record.runs[SESSION.id] = Run("0", [], 0.0, is_broken=True, changes=[change])
    frozen = SESSION._replace(status="stopped", paused=True, protection=clincus.protect.BROKEN, session_id="a" * 32)
    clincus.log.addHandler(caplog.handler)
    try:
        found = clincus.install_features(None).fields(frozen)
    finally:
        clincus.log.removeHandler(caplog.handler)
    assert (found["protection"], found["protection_changes"]) == (clincus.protect.BROKEN, [change.document()])
    assert caplog.text == ""


def test_a_file_in_the_package_is_a_feature_and_one_that_raises_is_left_out_whole(package, caplog):
    clincus.log.addHandler(caplog.handler)
    try:
        extensions = clincus.install_features(None, package(broken=BROKEN, good=GOOD))
    finally:
        clincus.log.removeHandler(caplog.handler)
    assert [route[:2] for route in extensions.routes] == [("GET", "/api/weather")]
    assert extensions.fields(SESSION) == {"weather": "fine"}
    assert "the feature broken is left out" in caplog.text
    assert "out of order" in caplog.text
    assert clincus.install_features(None, "no_such_features").routes == []


def test_no_session_starts_while_a_feature_that_guards_it_is_left_out(package, caplog):
    extensions = clincus.install_features(None, package(network=BROKEN))
    (refuse,) = extensions.instance_parts
    with pytest.raises(clincus.ClincusError, match=r"no session can start, .* sees to network"):
        refuse(None, SESSION, None, {})


def test_a_route_of_a_feature_is_answered_if_the_contract_has_it(tmp_path, monkeypatch):
    def install(app):
        extensions = clincus.Extensions(app)
        extensions.routes += [("GET", "/api/tools", answer), ("GET", "/api/weather", answer)]
        return extensions

    def answer(request):
        return ["from a feature"]

    monkeypatch.setattr(clincus, "install_features", install)
    monkeypatch.setattr(clincus, "api_routes", lambda app: [])
    app = clincus.Application({"HOME": str(tmp_path)}, {})
    assert app.router.find("GET", "/api/tools")[0].handler is answer
    assert list(served_contract(app.router)["paths"]) == ["/api/tools"]


def test_the_program_and_its_features_share_one_module():
    """As a script the module is called __main__; a second copy would have its own classes and its own state."""
    script = "import sys, clincus; print(clincus is sys.modules['__main__'])"
    argv = [sys.executable, "-i", clincus.__file__, "version"]
    done = subprocess.run(argv, input=script, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "True"


# -- The last answer for each session


def numbers():
    """A question whose answers are 1, 2, 3, …"""
    return functools.partial(next, itertools.count(1))


@table(("seconds", "expected"), [(1e9, [1, 1, 1]), (0.0, [1, 2, 3])])
def test_an_answer_holds_for_some_seconds_however_many_ask(seconds, expected):
    answers, ask = clincus.LastAnswers(seconds), numbers()
    assert [answers.get(SESSION, ask) for _ in range(3)] == expected


def test_each_run_of_each_session_has_an_answer_of_its_own():
    answers, ask = clincus.LastAnswers(1e9), numbers()
    assert [answers.get(SESSION._replace(id=id), ask) for id in ("a", "b", "a")] == [1, 2, 1]
    assert [answers.get(SESSION._replace(run=run), ask) for run in ("one", "two", "two")] == [3, 4, 4]


def test_a_question_that_fails_is_asked_again():
    answers = clincus.LastAnswers(1e9)
    with pytest.raises(ZeroDivisionError):
        answers.get(SESSION, lambda: 1 // 0)
    assert answers.get(SESSION, lambda: "well") == "well"
