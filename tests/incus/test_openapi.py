"""The API keeps its own description: schemathesis asks the running server what the document allows, and what not."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

import clincus

CONTRACT = clincus.load_contract()
# Requests for each operation and mode.
EXAMPLES = [3, pytest.param(200, marks=pytest.mark.nightly)]


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


@pytest.fixture(scope="module")
def all_operations(shared_server):
    """The operations that the server describes."""
    import schemathesis  # it takes a second to load, which each worker would spend on collecting this file

    schema = schemathesis.openapi.from_url(f"{shared_server.url}/api/openapi.json")
    return [found.ok() for found in schema.get_all_operations()]


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_is_one_that_the_document_promises(shared_server, all_operations, mode, examples):
    import schemathesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    mode, operations = schemathesis.GenerationMode(mode), all_operations
    if mode.is_negative:
        operations = [one for one in operations if can_be_asked_wrongly(one)]
    assert len(operations) > 8
    for operation in operations:

        @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case):
            # What fits the schema may still name a workspace or a session that is not there.
            without_port(case).call_and_validate(excluded_checks=[positive_data_acceptance])

        ask()
    assert shared_server.process.poll() is None
    assert "Traceback" not in shared_server.log()
