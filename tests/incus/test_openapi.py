"""The API keeps its own description: schemathesis asks the running server what the document allows, and what not."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import clincus
from tests.conftest import new_workspace
from tests.programs import DEADLINE, NO_CHECKPOINTS
from tests.seeds import night_seed

CONTRACT = clincus.load_contract()
OF_SESSION = "/api/sessions/{id}"
# Requests for each operation and mode; by night others each time.
EXAMPLES = [200]
EXAMPLES_OF_SESSION = [50]
STEPS = 40  # of each story by night
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
    """Ask each operation so many times: by day the same each time, by night at random."""
    import schemathesis

    mode = schemathesis.GenerationMode(mode)
    if mode.is_negative:
        operations = [one for one in operations if can_be_asked_wrongly(one)]
    assert len(operations) > 8
    is_day = examples < 10
    chosen = 0 if is_day else night_seed(note, "requests of schemathesis")
    for operation in operations:

        @seed(chosen)
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask_one(case):
            ask(prepare(case))

        ask_one()


@pytest.fixture(scope="module")
def all_operations(shared_server):
    """The operations of the file's server."""
    return operations_of(shared_server)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_is_one_that_the_document_promises(shared_server, all_operations, mode, examples, note):
    asks(all_operations, mode, examples, note)
    assert shared_server.process.poll() is None
    assert "Traceback" not in shared_server.log()


@pytest.mark.parametrize("examples", EXAMPLES_OF_SESSION)
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_about_a_session_is_one_that_the_document_promises(
    start_shared, keep_session, mode, examples, note
):
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
    asks(operations, mode, examples, note, name)
    assert server.process.poll() is None
    assert "Traceback" not in server.log()
    assert server.get(f"/api/sessions/{session['id']}").status == 200


def test_a_story_of_requests_gets_what_the_document_promises(start_shared, tmp_path_factory, bed, note):
    """Sessions are created, stopped, resumed and deleted, and asked for anything between."""
    import schemathesis

    server = start_shared(config=NO_CHECKPOINTS)
    operations = [
        one
        for one in operations_of(server)
        if one.path.startswith("/api/") and (one.method.upper(), one.path) not in ENDS
    ]
    modes = [schemathesis.GenerationMode(mode) for mode in ("positive", "negative")]
    workspace = new_workspace(tmp_path_factory.mktemp("story") / "project")

    class Story(RuleBasedStateMachine):
        """One life of a server."""

        def __init__(self):
            super().__init__()
            self.sessions = []

        @precondition(lambda self: len(self.sessions) < 2)
        @rule()
        def create(self):
            self.sessions.append(server.create(workspace)["id"])

        @precondition(lambda self: self.sessions)
        @rule(data=st.data(), method=st.sampled_from(["DELETE", "POST"]))
        def stop_or_resume(self, data, method):
            id = data.draw(st.sampled_from(self.sessions))
            answer = server.request(method, f"/api/sessions/{id}" + ("/resume" if method == "POST" else ""))
            assert answer.status in (200, 204, 409), answer.body

        @precondition(lambda self: self.sessions)
        @rule(data=st.data())
        def delete(self, data):
            id = data.draw(st.sampled_from(self.sessions))
            answer = server.delete(f"/api/sessions/{id}?force=true")
            assert answer.status in (204, 409), answer.body
            if answer.status == 204:
                self.sessions.remove(id)

        @rule(data=st.data(), mode=st.sampled_from(modes))
        def anything(self, data, mode):
            known = [one for one in operations if mode.is_positive or can_be_asked_wrongly(one)]
            operation = data.draw(st.sampled_from(known))
            case = data.draw(operation.as_strategy(generation_mode=mode))
            if self.sessions and operation.path.startswith(OF_SESSION):
                case.path_parameters = {**case.path_parameters, "id": data.draw(st.sampled_from(self.sessions))}
            ask(case)

        def teardown(self):
            bed.delete_all()

    how = settings(
        max_examples=STORIES, stateful_step_count=STEPS, deadline=None, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    run_state_machine_as_test(seed(night_seed(note, "stories of schemathesis"))(Story), settings=how)
    assert server.process.poll() is None
    assert "Traceback" not in server.log()
