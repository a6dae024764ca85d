"""A request that is sent twice is done once."""

from __future__ import annotations

import threading
from email.message import Message
from typing import Any

import pytest

import clincus
from clincus_features import idempotency
from tests.programs import DEADLINE
from tests.table import table


def request(key: str | None = "k", body: bytes = b"{}", path: str = "/api/sessions") -> Any:
    headers = Message()
    if key is not None:
        headers["Idempotency-Key"] = key
    peer = clincus.Peer("127.0.0.1", ("127.0.0.1", 3000), "")
    return clincus.Request("POST", path, {}, headers, len(body), peer, None, body=body)  # type: ignore[arg-type]


class Counter:
    """A handler that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _request: object) -> int:
        self.calls += 1
        return self.calls


def test_the_same_key_gets_the_same_answer():
    answers, handler = idempotency.Answers(), Counter()
    assert [answers.once(request(), handler) for _ in range(3)] == [1, 1, 1]
    assert answers.once(request("another"), handler) == 2
    assert [answers.once(request(None), handler) for _ in range(2)] == [3, 4]


@table("other", [{"body": b'{"a": 1}'}, {"path": "/api/sessions/x/prompt"}])
def test_a_key_belongs_to_one_request_and_has_a_length(other):
    answers = idempotency.Answers()
    answers.once(request(), Counter())
    with pytest.raises(clincus.ClincusError, match="another request") as caught:
        answers.once(request(**other), Counter())
    assert caught.value.status == 409
    for key in ("", "k" * 201):
        with pytest.raises(clincus.ClincusError) as caught:
            answers.once(request(key), Counter())
        assert caught.value.status == 400


def test_a_second_request_waits_for_the_first():
    answers, begun, go_on, found = idempotency.Answers(), threading.Event(), threading.Event(), []

    def handler(_request: object) -> str:
        begun.set()
        assert go_on.wait(DEADLINE)
        return "done"

    first = threading.Thread(target=lambda: found.append(answers.once(request(), handler)))
    second = threading.Thread(target=lambda: found.append(answers.once(request(), Counter())))
    first.start()
    assert begun.wait(DEADLINE)
    second.start()
    go_on.set()
    first.join()
    second.join()
    assert found == ["done", "done"]


def test_a_request_that_runs_is_not_forgotten_for_many_others():
    answers, second, found = idempotency.Answers(), Counter(), []
    again = threading.Thread(target=lambda: found.append(answers.once(request(), second)))

    def handler(_request: object) -> str:
        for number in range(idempotency.LIMIT + 1):
            answers.once(request(f"key {number}"), Counter())
        again.start()
        return "done"

    assert answers.once(request(), handler) == "done"
    again.join()
    assert (found, second.calls) == (["done"], 0)


def test_a_failure_is_not_kept():
    answers = idempotency.Answers()

    def fail(_request: object) -> None:
        raise clincus.ClincusError("no", 409)

    with pytest.raises(clincus.ClincusError, match="no"):
        answers.once(request(), fail)
    assert answers.once(request(body=b'{"a": 1}'), Counter()) == 1


def test_answers_are_forgotten_in_time_and_by_number():
    now = 0.0
    answers, handler = idempotency.Answers(lambda: now), Counter()
    answers.once(request(), handler)
    now = idempotency.KEPT - 1
    assert answers.once(request(), handler) == 1
    now = idempotency.KEPT
    assert answers.once(request(), handler) == 2
    for number in range(idempotency.LIMIT):
        answers.once(request(f"key {number}"), handler)
    assert answers.once(request(), handler) == idempotency.LIMIT + 3


def test_only_the_operations_that_say_so_take_a_key():
    extensions = clincus.Extensions()
    idempotency.install(extensions)
    (wrap,) = extensions.wrappers

    def is_wrapped(method: str, path: str) -> bool:
        return wrap(method, path, print) is not print

    assert is_wrapped("POST", "/api/sessions")
    assert is_wrapped("POST", "/api/sessions/{id}/prompt")
    assert not is_wrapped("GET", "/api/sessions")
    assert not is_wrapped("DELETE", "/api/sessions/{id}")
