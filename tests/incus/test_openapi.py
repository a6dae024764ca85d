"""The API keeps its own description: schemathesis asks the running server what the document allows, and what not."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, seed, settings

import clincus
from tests.programs import DEADLINE
from tests.seeds import night_seed

CONTRACT = clincus.load_contract()
OF_SESSION = "/api/sessions/{id}"
EXAMPLES = 200  # requests for each operation and mode
EXAMPLES_OF_SESSION = 50
STEPS = 40  # of each story
STORIES = 5
# They take the session away from the requests that follow; a story has rules of its own for them.
ENDS = {("DELETE", OF_SESSION), ("POST", f"{OF_SESSION}/snapshots/{{name}}/restore")}


def without_port(case):
    """A valid port would make the server move there, away from the rest of the test."""
    if case.path == "/api/config" and isinstance(case.body, dict) and type(case.body.get("port")) is int:
        case.body = {key: value for key, value in case.body.items() if key != "port"}
    return case


def can_be_asked_wrongly(operation):
    """Whether it takes more than texts: any text fits a text."""
    item = clincus.inlined(CONTRACT["paths"][operation.path], CONTRACT)
    known = clincus.Route(operation.method, operation.path, item, print)
    return bool(known.body) or any(parameter["schema"]["type"] != "string" for parameter in known.parameters)


def operations_of(server):
    """The operations that a server describes."""
    import schemathesis  # it takes a second to load, which each worker would spend on collecting this file

    schema = schemathesis.openapi.from_url(f"{server.url}/api/openapi.json")
    return [found.ok() for found in schema.get_all_operations()]


def ask(case):
    """Send a request and hold the answer against the document."""
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    # What fits the schema may still name a workspace or a session that is not there.
    # An interruption waits until the tool's screen shows that it has stopped.
    without_port(case).call_and_validate(excluded_checks=[positive_data_acceptance], timeout=DEADLINE)


def asks(operations, mode, examples, note, prepare=lambda case: case):
    """Ask each operation so many times, at random."""
    import schemathesis

    mode = schemathesis.GenerationMode(mode)
    if mode.is_negative:
        operations = [one for one in operations if can_be_asked_wrongly(one)]
    assert len(operations) > 8
    chosen = night_seed(note, "requests of schemathesis")
    for operation in operations:

        @seed(chosen)
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask_one(case):
            ask(prepare(case))

        ask_one()


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_is_one_that_the_document_promises(shared_server, mode, note):
    asks(operations_of(shared_server), mode, EXAMPLES, note)
    assert shared_server.process.poll() is None
    assert "Traceback" not in shared_server.log()


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_about_a_session_is_one_that_the_document_promises(start_shared, keep_session, mode, note):
    """The session runs, with checkpoints: a request gets as far as its own words allow."""
    server = start_shared()
    session = keep_session(server)

    def name(case):
        case.path_parameters = {**case.path_parameters, "id": session["id"]}
        return case

    operations = [
        one
        for one in operations_of(server)
        if one.path.startswith(OF_SESSION) and (one.method.upper(), one.path) not in ENDS
    ]
    assert len(operations) > 35
    asks(operations, mode, EXAMPLES_OF_SESSION, note, name)
    assert server.process.poll() is None
    assert "Traceback" not in server.log()
    assert server.get(f"/api/sessions/{session['id']}").status == 200
