"""The list of all sessions is made once for each change, and is what the core would answer."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

import clincus
from clincus_features import listing
from tests.builders import a_session


class App:
    """As much of the application as the list uses, with two sessions."""

    def __init__(self) -> None:
        self.hub = clincus.EventHub()
        self.extensions = clincus.Extensions()
        self.sessions = [a_session(slot, workspace="/süd") for slot in (1, 2)]
        self.made: list[str] = []
        self.extensions.session_fields.append(self.fields)

    def fields(self, session: clincus.Session) -> dict[str, object]:
        self.made.append(session.id)
        return {"agent": session.name}

    def all_sessions(self) -> list[clincus.Session]:
        return self.sessions


@pytest.fixture
def app() -> App:
    return App()


REQUEST: Any = SimpleNamespace(headers={}, options=lambda name: set(), values={"id": None})


def test_the_list_is_what_the_core_answers_and_changes_with_an_event(app):
    answer = listing.Listing(app).answer  # type: ignore[arg-type]

    def expected() -> list[dict[str, object]]:
        return json.loads(json.dumps([{**one.document(), "agent": one.name} for one in app.sessions]))

    assert json.loads(answer(REQUEST).body) == expected()
    made = len(app.made)
    assert json.loads(answer(REQUEST).body) == expected()
    assert len(app.made) == made, "nothing has changed, so nothing is made anew"
    app.sessions = [app.sessions[0]._replace(name="ready"), app.sessions[1]]
    app.hub.publish({"type": "session.changed"}, extension=True)
    assert [one["name"] for one in json.loads(answer(REQUEST).body)] == ["ready", ""]


def test_a_client_that_has_the_list_gets_no_body(app):
    answer = listing.Listing(app).answer  # type: ignore[arg-type]
    etag = dict(answer(REQUEST).headers)["ETag"]
    again = SimpleNamespace(**{**vars(REQUEST), "headers": {"If-None-Match": etag}})
    assert answer(again).status == 304  # type: ignore[arg-type]


def test_one_session_can_be_asked_for_and_is_no_failure_when_it_is_gone(app):
    answer = listing.Listing(app).answer  # type: ignore[arg-type]

    def listed(id: str) -> list[str]:
        request = SimpleNamespace(**{**vars(REQUEST), "values": {"id": id}})
        return [one["id"] for one in json.loads(answer(request).body)]

    assert [listed("clincus-a1b2c3-2"), listed("clincus-a1b2c3-3")] == [["clincus-a1b2c3-2"], []]
