"""Notifications: who is called when, that pushes are signed as push services want it, and what their answers do."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import clincus
from clincus_features import notify
from clincus_features.notify import Notifier, store, vapid
from clincus_features.notify.agenda import Agenda
from clincus_features.notify.hours import quiet_for
from clincus_features.notify.news import read_news
from clincus_features.notify.outbox import BACKOFF, PUSH_SERVICES, check_endpoint, contact_for, fill, without_mentions
from tests.push_service import LOCAL_SERVICES, PushService
from tests.table import table

ONE, TWO = "clincus-0a1b2c-1", "clincus-0a1b2c-2"
ON = ["waiting", "done", "failed", "stuck"]


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with PushService() as running:
        yield running
        assert running.faults == []


@pytest.fixture
def caller(tmp_path, monkeypatch):
    return Caller(tmp_path, monkeypatch)


class Caller:
    """A Notifier with a registry of two sessions, at a time that a test sets."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, **config: object) -> None:
        self.environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
        self.now = 1000.0  # time.monotonic
        self._number, self._last = 0, ("", "", "")  # of turns and questions; what was told last
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.registry = clincus.Registry("clincus-", lambda change: None)
        for name in (ONE, TWO):
            self._appear(name)
        self.app: Any = SimpleNamespace(environ=self.environ, registry=self.registry, url="http://127.0.0.1:3000")
        self.configure(**config)
        self.restart()

    def configure(self, **keys: object) -> None:
        flags = {f"notify.{key}": value for key, value in keys.items()}
        self.app.config = clincus.make_config([clincus.Layer(clincus.USER_RANK, "test", flags)])

    def restart(self) -> None:
        """A new server on the same home."""
        self.app.hub, self.app.extensions = clincus.EventHub(), clincus.Extensions()
        self.notifier = Notifier(self.app, LOCAL_SERVICES)

    def agent(self, state: str, reason: str = "", *, id: str = ONE, age: float = 0, **more: object) -> None:
        """A session's tool begins to do something, `age` seconds ago."""
        since = clincus.format_time(clincus.datetime.now(clincus.timezone.utc) - clincus.timedelta(seconds=age))
        self._number += (id, state, reason) != self._last
        self._last = id, state, reason
        agent = {"state": state, "reason": reason, "text": "", "since": since, "seen": False}
        self.notifier.hear(self.registry.get(id), {**agent, "turn": self._number, "question": self._number, **more})

    def wait(self, seconds: float) -> None:
        """Let time pass, and do what becomes due in it."""
        end, jobs = self.now + seconds, self.notifier.agenda._jobs
        while jobs and min(job.due for job in jobs.values()) <= end:
            self.now = max(self.now, min(job.due for job in jobs.values()))
            self.notifier.agenda.work()
        self.now = end

    def request(self, **values: object) -> Any:
        given = {"name": "", "replaces": "", "sound": None, "delay": 5, **values}
        return SimpleNamespace(values=given, headers={"Origin": "https://laptop.example.net"})

    def _appear(self, name: str, **more: str) -> None:
        labels = {"workspace": f"/srv/app-{name[-1]}", "tool": "claude", "session_id": f"talk-{name[-1]}", **more}
        config = {clincus.LABEL + key: value for key, value in labels.items()}
        instance = {"name": name, "status": "Running", "last_used_at": "2026-01-01T08:00:00Z", "config": config}
        self.registry.compare_one(next(self.registry.questions), name, instance)

    def mute(self, muted: bool) -> None:
        """A person mutes the first session, or has it call again."""
        self._appear(ONE, muted=str(muted).lower())
        self.notifier.tell("changed", self.registry.get(ONE))

    def set_clock(self, clock: str) -> None:
        """It is this time of a day in UTC, from now on: as time passes for the notifier, so it does on the clock."""
        begin, at = self.now, clincus.datetime.fromisoformat(f"2026-06-01T{clock}:00+00:00")

        def now(zone: Any = None) -> clincus.datetime:
            return (at + clincus.timedelta(seconds=self.now - begin)).astimezone(zone)

        self._monkeypatch.setattr(notify, "datetime", SimpleNamespace(now=now))

    def add(self, endpoint: str, **values: object) -> str:
        return str(self.notifier.subscribe(self.request(endpoint=endpoint, **values))["id"])

    def device(self, id: str) -> Any:
        return next(one for one in self.notifier.document()["devices"] if one["id"] == id)

    def news(self, id: str) -> Any:
        return json.loads(self.notifier.take_news(id).body)


# ---- what is worth a call


def test_only_what_needs_a_person_and_was_not_seen_is_news(caller):
    titles = {
        "app-1 asks you a question": {"state": "waiting", "reason": "question"},
        "app-1 waits for you": {"state": "waiting", "reason": "something new"},
        "app-1 is done": {"state": "done"},
        "app-1 has reached its limit": {"state": "failed", "reason": "rate_limit"},
        "app-1 seems to be stuck": {"state": "stuck"},
        "app-1 has crashed": {"state": "ended", "reason": "crashed"},
    }
    session = caller.registry.get(ONE)
    for title, agent in titles.items():
        assert read_news(session, agent, ON, False).document()["title"] == title
    for state in ("ended", "working", "idle", "unknown"):
        assert read_news(session, {"state": state}, ON, False) is None
    assert read_news(session, {"state": "waiting", "seen": True}, ON, False) is None
    assert read_news(session, {}, ON, False) is None
    assert read_news(session, {"state": "done"}, ["waiting"], False) is None, "the config leaves it out"
    texts = [read_news(session, {"state": "waiting", "text": "Delete?"}, ON, with_text).text for with_text in (0, 1)]
    assert texts == ["", "Delete?"], "what a tool says stays here unless the config lets it out"


# ---- when


def test_an_event_is_told_once_it_has_lasted_and_the_next_one_a_minute_later_unless_a_person_has_looked(
    caller, service
):
    caller.add(service.endpoint("phone"))
    for text in "abc":  # its words change
        caller.agent("waiting", "question", text=text, since="2026-01-01T10:00:00Z")
        caller.wait(1.9)
    assert service.pushes == []
    caller.wait(0.5)
    assert len(service.pushes) == 1
    caller.agent("waiting", "question", text="d", since="2026-01-01T10:00:00Z")
    caller.wait(40)
    caller.agent("working")
    caller.agent("waiting", "permission")
    caller.wait(15)
    assert len(service.pushes) == 1
    caller.wait(10)
    assert len(service.pushes) == 2
    caller.agent("waiting", "permission", seen=True)
    caller.agent("done")
    caller.wait(4.1)
    assert len(service.pushes) == 3


def test_a_device_in_use_is_not_called_and_any_other_is(caller, service):
    used = caller.add(service.endpoint("laptop"))
    caller.add(service.endpoint("phone"))

    def called(state: str, pause: float, here: bool | None = None) -> list[str]:
        before = len(service.pushes)
        caller.wait(pause)
        if here is not None:
            caller.notifier.note_presence(caller.request(id=used, here=here))
        caller.agent(state)
        caller.wait(6)
        return sorted(push.name for push in service.pushes[before:])

    assert called("waiting", 0, here=True) == ["phone"]
    assert called("done", 60) == ["laptop", "phone"], "the page has said nothing more"
    caller.notifier.note_presence(caller.request(id=used, here=True))
    assert called("waiting", 60, here=False) == ["laptop", "phone"], "it was left"
    caller.configure(quiet=False)
    assert called("done", 60, here=True) == ["laptop", "phone"]


def test_a_new_server_keeps_key_and_devices_and_tells_only_what_is_new(caller, service):
    caller.add(service.endpoint("phone"))
    before = caller.notifier.document()
    caller.agent("waiting")
    caller.wait(6)
    caller.restart()
    vapid._keys.clear()
    caller.agent("waiting", age=3)
    caller.wait(600)
    assert len(service.pushes) == 1
    files = Path(caller.environ["HOME"], ".clincus").iterdir()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    assert modes == {"push.json": 0o600, "push-key.pem": 0o600}
    after = caller.notifier.document()
    assert after["public_key"] == before["public_key"]
    assert [one["id"] for one in after["devices"]] == [one["id"] for one in before["devices"]]
    caller.agent("waiting", id=TWO, age=300)  # it happened while no server ran
    caller.wait(6)
    assert len(service.pushes) == 2


# ---- what a person chooses in the page


@table(
    ("hours", "zone", "now", "seconds"),
    [
        ("22:00-07:00", "UTC", "2026-06-01T22:00:00+00:00", 9 * 3600),
        ("22:00-07:00", "Europe/Berlin", "2026-06-01T20:00:00+00:00", 9 * 3600),
        ("22:00-07:00", "Europe/Berlin", "2026-03-28T21:00:00+00:00", 8 * 3600),  # the clock goes forward that night
    ],
)
def test_quiet_hours_end_at_their_time_of_the_persons_clock(hours, zone, now, seconds):
    assert quiet_for(hours, zone, clincus.datetime.fromisoformat(now)) == seconds


def test_quiet_hours_without_a_known_zone_are_those_of_this_machine(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        now = clincus.datetime.fromisoformat("2026-06-01T13:00:00+00:00")
        assert quiet_for("22:00-07:00", "", now) == quiet_for("22:00-07:00", "Gone/Away", now) == 9 * 3600
    finally:
        monkeypatch.undo()
        time.tzset()


def test_nobody_is_called_in_quiet_hours_and_what_still_waits_is_told_at_their_end(caller, service):
    caller.configure(quiet_hours="22:00-07:00", zone="UTC", webhook=service.webhook("team"))
    caller.set_clock("22:30")
    caller.add(service.endpoint("phone"))
    caller.agent("waiting", "question")
    caller.agent("done", id=TWO)
    caller.wait(3600)
    caller.agent("done", id=TWO, seen=True)
    caller.wait(7 * 3600)
    assert (service.pushes, service.messages) == ([], [])
    caller.wait(3600)
    assert [push.name for push in service.pushes] == ["phone"]
    assert [body["title"] for _, body in service.messages] == ["app-1 asks you a question"]
    caller.set_clock("22:30")
    caller.agent("done")
    caller.wait(100)
    caller.configure(quiet_hours="")
    caller.notifier.look_at_all()
    caller.wait(6)
    assert len(service.pushes) == 2, "hours that are taken back hold no call any longer"


def test_in_quiet_hours_no_phone_makes_a_sound_or_is_woken_to_close_what_is_over(caller, service):
    caller.configure(quiet_hours="22:00-07:00", zone="UTC")
    caller.set_clock("21:59")
    id = caller.add(service.endpoint("phone"))
    caller.agent("waiting", "question")
    caller.wait(30)
    assert [one["silent"] for one in caller.news(id)] == [False]
    caller.wait(60)
    assert [one["silent"] for one in caller.news(id)] == [True]
    caller.agent("waiting", "question", seen=True)
    caller.wait(8 * 3600)
    assert len(service.pushes) == 1
    caller.wait(2 * 3600)
    assert len(service.pushes) == 2


def test_a_session_that_is_muted_calls_for_a_broken_seal_only_until_that_is_taken_back(caller, service):
    id = caller.add(service.endpoint("phone"))
    caller.mute(True)
    caller.agent("waiting")
    caller.agent("waiting", id=TWO)
    caller.wait(60)
    assert [one["id"] for one in caller.news(id)] == [TWO]
    caller.mute(False)
    caller.wait(6)
    assert [one["id"] for one in caller.news(id)] == [ONE, TWO]
    caller.mute(True)
    caller.wait(6)
    assert [one["id"] for one in caller.news(id)] == [TWO], "the phone closes what it said"
    assert len(service.pushes) == 3
    alarm = {"state": "waiting", "reason": "protection", "text": "", "since": "2026-01-01T10:00:00Z", "seen": False}
    caller.notifier.hear_alarm(caller.registry.get(ONE), alarm)
    caller.wait(60)
    assert len(service.pushes) == 4


def test_a_device_keeps_its_name_and_its_sound_and_a_renewed_one_takes_its_place(caller, service):
    endpoint = service.endpoint("phone")
    old = caller.add(endpoint, sound=False, name=" My\n phone\x1b ")
    caller.agent("waiting")
    caller.wait(6)
    assert [one["silent"] for one in caller.news(old)] == [True]
    caller.restart()
    renewed = caller.add(service.endpoint("tablet"), replaces=old)
    (device,) = caller.notifier.document()["devices"]
    assert (device["id"], device["name"], device["sound"]) == (renewed, "My\\n phone\\x1b", False)
    assert endpoint not in json.dumps(device)
    caller.add(service.endpoint("tablet"), sound=True)
    assert caller.device(renewed)["sound"] is True
    with pytest.raises(clincus.ClincusError) as caught:
        caller.notifier.note_presence(caller.request(id=old, here=True))
    assert caught.value.status == 404
    for number in range(store.DEVICE_LIMIT - 1):
        caller.add(service.endpoint(f"phone-{number}"))
    with pytest.raises(clincus.ClincusError) as caught:
        caller.add(service.endpoint("one-more"))
    assert caught.value.status == 409


@table(
    ("asked", "is_offered"),
    [
        (("question", "Which port?", True), True),
        (("permission", "Run make?", True), True),
        (("question", "Which port?", False), False),
        (("question", "Why? " * 60, True), False),
        (("plan", "The plan", True), False),
        (("login", "Log in", True), False),
    ],
)
def test_a_notification_offers_answers_to_a_question_that_it_shows_whole(tmp_path, monkeypatch, asked, is_offered):
    reason, text, with_text = asked
    caller = Caller(tmp_path, monkeypatch, with_text=with_text)
    id = caller.add("http://127.0.0.1:9/phone")
    caller.agent("waiting", reason, text=text, options=["3000", "8080", "another"])
    caller.wait(6)
    (news,) = caller.news(id)
    assert news["answers"] == (["3000", "8080"] if is_offered else [])
    assert (news["number"] is not None) == is_offered


@pytest.fixture
def change(tmp_path):
    """A function that changes what a person is called for, as PATCH /api/push does; it returns the answer."""
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    app = clincus.Application(environ, {"dashboard.port": 0})
    app.extensions.duties.clear()
    app.extensions.config_listeners.clear()  # one sweeps certificates in a thread of its own
    app.start()
    notifier = Notifier(app)
    yield lambda **given: notifier.change(SimpleNamespace(values={**dict.fromkeys(notify.CHANGEABLE), **given}))
    app.close()


def test_what_the_page_changes_is_kept_and_the_rest_stays(change, tmp_path):
    change(on=["waiting"], quiet_hours="22:00-07:00", zone="Europe/Berlin")
    document = change(with_text=True)
    kept = {"on": ["waiting"], "with_text": True, "quiet_hours": "22:00-07:00", "zone": "Europe/Berlin"}
    assert {key: document[key] for key in kept} == kept
    config = clincus.load_config({"HOME": str(tmp_path)})
    assert config.get("notify.on") == ["waiting"]


def test_a_wish_that_cannot_be_is_refused_with_what_to_write(change):
    for wish, words in (
        ({"on": ["weather"]}, "write waiting, done"),
        ({"quiet_hours": "24:00-07:00"}, "write two times of a day"),
        ({"zone": "Mars/Olympus"}, "does not know that time zone"),
        ({"zone": "../../etc/passwd"}, "write a time zone"),
    ):
        with pytest.raises(clincus.ClincusError, match=words) as caught:
            change(**wish)
        assert caught.value.status == 400


# ---- pushes


def test_a_push_says_nothing_but_who_asks_and_how_urgent_it_is(caller, service):
    caller.add(service.endpoint("phone"))
    caller.agent("waiting")
    caller.wait(6)
    (push,) = service.pushes
    assert push.claims["sub"] == "https://laptop.example.net"
    assert (push.headers["Urgency"], push.headers["Topic"]) == ("high", "clincus-news")
    assert push.headers["Content-Length"] == "0"
    assert contact_for("http://a.example.net", "https://b.example.net:8443") == "https://b.example.net"
    assert contact_for("https://10.0.0.1", "https://[::1") == "https://localhost", "others do not know that address"


def test_what_a_push_service_answers_is_kept_at_the_device(caller, service):
    expected = {
        (201,): ("delivered", 201, 1),
        (410,): ("gone", 410, 1),
        (403,): ("refused", 403, 1),
        (503,): ("failed", 503, 1 + len(BACKOFF)),
        (429, 503, 201): ("delivered", 201, 3),
    }
    ids = {answers: caller.add(service.endpoint(f"to-{answers[0]}", *answers)) for answers in expected}
    caller.agent("waiting")
    caller.wait(1000)
    for answers, id in ids.items():
        last = caller.device(id)["last"]
        tries = sum(push.name == f"to-{answers[0]}" for push in service.pushes)
        assert (last["outcome"], last["status"], tries) == expected[answers]
        assert caller.device(id)["gone"] == (answers == (410,))


def test_a_device_that_is_gone_or_told_of_what_was_seen_is_not_asked_again(caller, service):
    gone, busy = service.endpoint("gone", 410, 201), service.endpoint("busy", 503)
    id = caller.add(gone)
    caller.add(busy)
    caller.agent("waiting")
    caller.wait(6)
    assert gone not in (Path(caller.environ["HOME"]) / ".clincus" / "push.json").read_text()
    caller.agent("waiting", seen=True)
    caller.wait(1000)
    assert sorted(push.name for push in service.pushes) == ["busy", "gone"]
    caller.agent("done")
    caller.wait(6)
    assert sorted(push.name for push in service.pushes) == ["busy", "busy", "gone"]
    assert caller.add(gone) == id
    assert (caller.device(id)["gone"], caller.device(id)["last"]) == (False, None)


ENDPOINTS = {
    "https://fcm.googleapis.com/fcm/send/abc:DEF_-1": True,
    "https://web.push.apple.com/QGf8": True,
    "http://fcm.googleapis.com/fcm/send/abc": False,
    "https://fcm.googleapis.com:8443/x": False,
    "https://user@fcm.googleapis.com/x": False,
    "https://fcm.googleapis.com.evil.example/x": False,
    "https://.notify.windows.com/x": False,
    "https://fcm.googleapis.com\\.evil.example/x": False,
    "https://fcm.googleapis.com/x\r\nHost: y": False,
    "https://fcm.googleapis.com/" + "x" * 1001: False,
}


def test_only_an_endpoint_of_a_known_push_service_is_taken_and_asked(caller, service):
    for endpoint, is_known in ENDPOINTS.items():
        if is_known:
            assert check_endpoint(endpoint, PUSH_SERVICES) == endpoint
            continue
        with pytest.raises(clincus.ClincusError) as caught:
            check_endpoint(endpoint, PUSH_SERVICES)
        assert caught.value.status == 400
    id = caller.add(service.endpoint("phone"))  # it came into the file another way
    caller.notifier = Notifier(caller.app)  # as the program makes it
    caller.agent("waiting")
    caller.wait(6)
    assert service.pushes == []
    assert "no push service" in caller.device(id)["last"]["message"]


# ---- the key


@table("torn", [b"", b"-----BEGIN EC PRIVATE KEY-----\nMHcC", bytes(227)])
def test_a_torn_key_is_told_with_what_to_do(tmp_path, monkeypatch, torn):
    caller = Caller(tmp_path, monkeypatch)
    caller.notifier.document()
    path = Path(vapid.key_file(caller.environ))
    path.write_bytes(torn)
    vapid._keys.clear()
    document = caller.notifier.document()
    assert document["public_key"] == ""
    assert f"{path} is torn" in document["problem"]
    path.unlink()
    assert caller.notifier.document()["public_key"]
    vapid._keys.clear()
    path.unlink()
    caller.app.environ = {**caller.environ, "PATH": "/nonexistent"}
    document = caller.notifier.document()
    assert (document["public_key"], "openssl" in document["problem"]) == ("", True)


def test_a_signature_becomes_two_numbers_of_32_bytes():
    one, two = "3006020101020102", "30270221" + "00" + "ff" * 32 + "020103"
    assert vapid.raw_signature(bytes.fromhex(one)).hex() == "00" * 31 + "01" + "00" * 31 + "02"
    assert vapid.raw_signature(bytes.fromhex(two)).hex() == "ff" * 32 + "00" * 31 + "03"
    for wrong in ("", "3003020101", "3106020101020102", "300602010102010202"):
        with pytest.raises(clincus.ClincusError):
            vapid.raw_signature(bytes.fromhex(wrong))


# ---- devices and their news


def test_the_worker_of_a_device_gets_what_waits_and_what_of_it_is_fresh(caller, service):
    id = caller.add(service.endpoint("phone"))
    caller.agent("waiting", "question", since="2026-01-01T10:00:00Z")
    caller.wait(6)
    assert [(one["id"], one["title"], one["fresh"]) for one in caller.news(id)] == [
        (ONE, "app-1 asks you a question", True)
    ]
    caller.agent("done", id=TWO)
    caller.wait(6)
    assert [(one["id"], one["fresh"]) for one in caller.news(id)] == [(TWO, True), (ONE, False)]
    caller.agent("waiting", "question", seen=True)
    assert [(one["id"], one["fresh"]) for one in caller.news(id)] == [(TWO, False)]


def test_a_device_that_shows_what_is_over_is_woken_once_to_close_it(caller, service):
    id = caller.add(service.endpoint("phone"))
    for count, over in enumerate(
        (
            lambda: caller.agent("waiting", "question", seen=True),
            lambda: caller.agent("working"),
            lambda: caller.notifier.tell("deleted", caller.registry.get(ONE)),
        )
    ):
        caller.agent("waiting", "question")
        caller.wait(60)
        assert [one["id"] for one in caller.news(id)] == [ONE]
        over()
        caller.wait(1)
        assert len(service.pushes) == 2 * count + 1, "another state may follow at once"
        caller.wait(2)
        assert len(service.pushes) == 2 * count + 2
        assert caller.news(id) == []
        caller.agent("idle")
        caller.wait(60)
        assert len(service.pushes) == 2 * count + 2
    caller.agent("waiting", "question")
    caller.wait(60)
    caller.agent("waiting", "question", seen=True)
    caller.wait(60)
    assert len(service.pushes) == 7, "nothing is to be closed that it has not shown"


def test_a_test_comes_after_its_delay_to_a_device_in_use_too_and_is_shown_once(caller, service):
    id = caller.add(service.endpoint("phone"))
    caller.notifier.note_presence(caller.request(id=id, here=True))
    assert caller.notifier.test(caller.request(device=id)).status == 202
    caller.wait(4)
    assert service.pushes == []
    caller.wait(2)
    assert len(service.pushes) == 1
    assert [[one["title"] for one in caller.news(id)] for _ in range(2)] == [["A test of Clincus"], []]
    with pytest.raises(clincus.ClincusError) as caught:
        caller.notifier.test(caller.request(device="webhook"))
    assert caught.value.status == 409, "there is none"
    caller.configure(webhook=service.webhook("secret"))
    caller.notifier.test(caller.request(device="webhook", delay=0))
    caller.wait(1)
    assert [body["title"] for _, body in service.messages] == ["A test of Clincus"]


def test_a_device_that_a_person_removed_differs_from_one_that_was_never_here(caller, service):
    """A page subscribes again after 404, as when its browser has renewed the subscription, and not after 410."""
    removed = caller.add(service.endpoint("phone"))
    caller.notifier.unsubscribe(caller.request(id=removed))
    for call in ("unsubscribe", "test", "take_news", "note_presence"):
        for id, status in ((removed, 410), ("0123456789abcdef", 404)):
            argument = id if call == "take_news" else caller.request(id=id, device=id, here=True)
            with pytest.raises(clincus.ClincusError) as caught:
                getattr(caller.notifier, call)(argument)
            assert caught.value.status == status
    with pytest.raises(clincus.ClincusError) as caught:
        caller.add(service.endpoint("phone-renewed"), replaces=removed)
    assert caught.value.status == 410, "a renewed subscription brings no removed device back"
    assert caller.notifier.document()["devices"] == []
    assert caller.add(service.endpoint("phone")) == removed, "but a person may"
    caller.notifier.note_presence(caller.request(id=removed, here=True))


# ---- the webhook


def test_the_webhook_gets_the_news_as_json_or_by_a_template_and_text_of_a_tool_stays_text(caller, service):
    caller.configure(webhook=service.webhook("secret"), address="https://clincus.example.net/")
    since = "2026-01-01T10:00:00Z"
    caller.agent("waiting", "question", text="Delete all?", since=since)
    caller.wait(6)
    told = {"id": ONE, "name": "app-1", "state": "waiting", "reason": "question", "text": "", "since": since}
    shown = {"title": "app-1 asks you a question", "url": f"https://clincus.example.net/sessions/{ONE}"}
    assert service.messages == [("/hook/secret", {**told, **shown})]
    template = {"chat_id": "4711", "text": "{title}: {text} {url} {other}"}
    caller.configure(webhook=service.webhook("other"), template=template, with_text=True)
    caller.agent("waiting", text='"}, {"url": "{url}"', id=TWO)
    caller.wait(6)
    text = f'app-2 waits for you: "}}, {{"url": "{{url}}" http://127.0.0.1:3000/sessions/{TWO} {{other}}'
    assert service.messages[1:] == [("/hook/other", {"chat_id": "4711", "text": text})]
    for_slack = fill({"text": "{text}"}, without_mentions({"text": "<!channel> & <@U1>"}))
    assert for_slack == {"text": "&lt;!channel&gt; &amp; &lt;@U1&gt;"}


def test_the_address_of_the_webhook_is_neither_logged_nor_shown(caller, service, caplog):
    caller.configure(webhook=service.webhook("secret", 500, 302))
    clincus.log.addHandler(caplog.handler)
    try:
        caller.agent("waiting")
        caller.wait(1000)
        assert [path for path, _ in service.messages] == ["/hook/secret"] * 2, "no redirect is followed"
        assert caller.notifier.document()["webhook"]["last"]["outcome"] == "refused"
        service.server_close()
        caller.agent("done", id=TWO)
        caller.wait(6)
    finally:
        clincus.log.removeHandler(caplog.handler)
    assert caplog.text.count("webhook at 127.0.0.1") == 3
    assert "secret" not in caplog.text + json.dumps(caller.notifier.document())
    assert clincus.config_document(caller.app.config)["notify"]["webhook"] == clincus.HIDDEN


# ---- the threads


def test_a_thread_that_waits_is_woken_by_a_job_that_is_due():
    agenda, done = Agenda(), []

    def work():
        while not done:
            agenda.work()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    agenda.put("late", 3600, lambda: done.append("late"))
    agenda.put("never", 3600, lambda: done.append("never"))
    agenda.drop("never")
    agenda.put("soon", 0, lambda: done.append("soon"))
    thread.join(60)
    assert done == ["soon"]
