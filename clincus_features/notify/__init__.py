"""Calls a person when an agent needs one: web push to phones and browsers, and a webhook. Keys of `[notify]`.

news.py says what is worth a call, hours.py when nobody is called, outbox.py sends it, vapid.py signs it, store.py keeps
devices and what was told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from functools import partial

import clincus
from clincus_features.notify import store, vapid
from clincus_features.notify.agenda import Agenda
from clincus_features.notify.hours import check_hours, check_zone, quiet_for
from clincus_features.notify.news import COOLDOWN, DWELL, DWELL_WAITING, News, is_told, read_news, remember
from clincus_features.notify.outbox import PUSH_SERVICES, Outbox, Services, check_endpoint, host_of

WORKERS = 4  # threads that check and send; each of them may wait for a push service
HERE_FOR = 60.0  # seconds that a page's word of being in use holds; the page repeats it every 20
OVER_AFTER = 2.0  # seconds after which a device is told that what it shows is over
LOOK_AGAIN = 300.0  # seconds after which quiet hours are looked at again: a machine that sleeps counts no seconds
CHANGEABLE = ("on", "quiet", "with_text", "quiet_hours", "zone")  # keys of `[notify]` that the page may change
TEST_TEXT = "Notifications of Clincus reach this device."

NEWS_WORD = clincus.matching("waiting|done|failed|stuck", "write waiting, done, failed or stuck")
FIELDS = clincus.table_of(clincus.check_text, clincus.WORD, "write a plain name for a field")
ADDRESS = clincus.matching(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?([/?][!-~]*)?", "write an http: or https: address")
clincus.register_settings(
    clincus.Setting("notify.on", ["waiting", "done", "failed", "stuck"], clincus.list_of(NEWS_WORD), in_page=True),
    clincus.Setting("notify.quiet", True, clincus.check_switch, in_page=True),
    clincus.Setting("notify.with_text", False, clincus.check_switch, in_page=True),
    clincus.Setting("notify.quiet_hours", "", check_hours, in_page=True),
    clincus.Setting("notify.zone", "", check_zone, in_page=True),
    clincus.Setting("notify.address", "", ADDRESS),
    clincus.Setting("notify.webhook", "", ADDRESS, secret=True),
    clincus.Setting("notify.template", {}, FIELDS, secret=True),
)


def install(extensions: clincus.Extensions) -> None:
    """Add the routes, the listener and the threads."""
    notifier = Notifier(extensions.app)
    extensions.agent_listeners.append(notifier.hear)
    extensions.alarm_listeners.append(notifier.hear_alarm)
    extensions.listeners.append(notifier.tell)
    extensions.config_listeners.append(notifier.look_at_all)
    extensions.routes += [
        ("GET", "/api/push", lambda request: notifier.document()),
        ("PATCH", "/api/push", notifier.change),
        ("POST", "/api/push/subscriptions", notifier.subscribe),
        ("DELETE", "/api/push/subscriptions/{id}", notifier.unsubscribe),
        ("POST", "/api/push/subscriptions/{id}/news", lambda request: notifier.take_news(request.values["id"])),
        ("POST", "/api/push/subscriptions/{id}/presence", notifier.note_presence),
        ("POST", "/api/push/test", notifier.test),
    ]
    extensions.duties += [
        clincus.Duty(f"notifying ({number})", 0.0, notifier.agenda.work) for number in range(1, WORKERS + 1)
    ]


class Notifier:
    """Decides for each change of an agent whether, when and where a person is called.

    `services` are the only hosts that are ever asked to push. No API and no config changes them; tests do.
    """

    def __init__(self, app: clincus.Application, services: Services = PUSH_SERVICES) -> None:
        self._app = app
        self._services = services
        self.agenda = Agenda()
        self._outbox: Outbox | None = None
        # Each of these is only read and set by key, which needs no lock.
        self._agents: dict[str, Mapping[str, object]] = {}  # session -> what its tool does now
        self._alarms: dict[str, Mapping[str, object]] = {}  # session -> what a person must know: it beats its agent
        self._called: dict[str, float] = {}  # session -> time.monotonic of the last call for it
        self._in_use: dict[str, float] = {}  # device -> time.monotonic until which its page counts as in use
        self._taken: dict[str, set[tuple[str, str, str]]] = {}  # device -> sessions and events that it has
        self._tests: dict[str, bool] = {}  # the devices that a test is on its way to

    @property
    def outbox(self) -> Outbox:
        """The sender. It is made late: while features install themselves the application is not whole."""
        if self._outbox is None:
            self._outbox = Outbox(self._app.environ, lambda: self._app.config, self.agenda, self._services)
            self._outbox.on_result = lambda: self._app.hub.publish({"type": "push.changed"}, extension=True)
        return self._outbox

    # -- What agents do

    def tell(self, moment: str, session: clincus.Session) -> None:
        """A moment in a session's life: one that is gone has no news, and one may have been muted."""
        if moment == "changed":
            self._look(session)
        elif moment == "deleted":
            for kept in (self._agents, self._alarms, self._called):
                kept.pop(session.id, None)
            self.agenda.drop(("check", session.id))
            self._close_elsewhere(session.id, None)

    def hear(self, session: clincus.Session, agent: Mapping[str, object]) -> None:
        """Take in a new state of a session's tool. This never waits: the caller holds locks."""
        self._agents[session.id] = agent
        if agent.get("seen"):
            self._called.pop(session.id, None)  # somebody is there, so the next event is news at once
        self._look(session)

    def hear_alarm(self, session: clincus.Session, alarm: Mapping[str, object] | None) -> None:
        """Take in what a person must know at once, or that it is over. This never waits."""
        if alarm is None and session.id not in self._alarms:
            return
        if alarm is None:
            self._alarms.pop(session.id)
        else:
            self._alarms[session.id] = alarm
            self._called.pop(session.id, None)
        self._look(session)

    def look_at_all(self) -> None:
        """Look at each session anew: what a person is called for, and when, may be another by now."""
        for session in self._app.registry.all():
            self.agenda.drop(("check", session.id))
            self._look(session)

    def _look(self, session: clincus.Session) -> None:
        """Plan a call if there is news of a session, and none if there is not."""
        news = self._news(session)
        if news is None:
            self.agenda.drop(("check", session.id))
        else:
            delay = DWELL_WAITING if news.state == "waiting" else DWELL
            self.agenda.put(("check", session.id), delay, lambda: self._check(session.id), news.event)
        self._close_elsewhere(session.id, news)

    def _news(self, session: clincus.Session) -> News | None:
        config = self._app.config
        agent = self._alarms.get(session.id) or ({} if session.muted else self._agents.get(session.id, {}))
        return read_news(session, agent, config.get("notify.on"), config.get("notify.with_text"))

    def _check(self, id: str) -> None:
        """Call the person, if a session's news has lasted, is new, and no call for this session was made just now."""
        session = self._app.registry.find(id)
        news = self._news(session) if session is not None else None
        told = store.read(self._app.environ).told
        if session is None or news is None or is_told(told, session.session_id, news):
            return
        wait = max(self._called.get(id, -COOLDOWN) + COOLDOWN - time.monotonic(), self._quiet_for())
        if wait > 0:
            self.agenda.put(("check", id), wait, lambda: self._check(id), news.event)
            return
        self._called[id] = time.monotonic()
        with store.changing(self._app.environ) as state:
            state.told = remember(state.told, session.session_id, news, clincus.utc_now())
            devices = list(state.devices.values())
        for device in devices:
            if not self._is_in_use(device.id):
                self._push(device.id, 0)
        if self._app.config.get("notify.webhook"):
            values = {**news.document(), "url": f"{self._address()}/sessions/{id}"}
            self.outbox.post_webhook(id, values, lambda: self._is_open(id, news))

    def _close_elsewhere(self, id: str, news: News | None) -> None:
        """Wake the devices that show what is over for a session by now, so that their workers close it."""
        for device_id, taken in list(self._taken.items()):
            if any(one[0] == id and (news is None or one[1:] != news.event) for one in taken):
                self.agenda.put(("over", device_id), OVER_AFTER, partial(self._tell_over, device_id))

    def _quiet_for(self) -> float:
        """The seconds until the quiet hours are looked at again, 0 if they are not now."""
        config = self._app.config
        now = datetime.now(timezone.utc)
        return min(LOOK_AGAIN, quiet_for(config.get("notify.quiet_hours"), config.get("notify.zone"), now))

    def _tell_over(self, device_id: str) -> None:
        wait = self._quiet_for()
        if wait > 0:
            self.agenda.put(("over", device_id), wait, partial(self._tell_over, device_id))
        elif self._in_use.get(device_id, 0.0) > time.monotonic():
            self._taken.pop(device_id, None)  # the page that is open there closes what is over
        elif self._shows_over(device_id):
            self._push(device_id, 0)

    def _shows_over(self, device_id: str) -> bool:
        """Whether a device has taken news that wait no more."""
        waiting = {(one.id, *one.event) for one in self._told_news()}
        return any(one not in waiting for one in self._taken.get(device_id, ()))

    def _is_open(self, id: str, news: News) -> bool:
        session = self._app.registry.find(id)
        now = self._news(session) if session is not None else None
        return now is not None and now.event == news.event

    def _push(self, device_id: str, delay: float) -> None:
        def is_wanted() -> bool:
            return device_id in self._tests or bool(self._told_news()) or self._shows_over(device_id)

        self.outbox.push(device_id, delay, is_wanted)

    def _is_in_use(self, device_id: str) -> bool:
        is_here = self._in_use.get(device_id, 0.0) > time.monotonic()
        return is_here and bool(self._app.config.get("notify.quiet"))

    def _told_news(self) -> list[News]:
        """The news that a person was told and has not looked at, newest first."""
        told = store.read(self._app.environ).told
        found: list[News] = []
        for session in self._app.registry.all():
            news = self._news(session)
            if news is not None and is_told(told, session.session_id, news):
                found.append(news)
        return sorted(found, key=lambda news: news.since, reverse=True)

    def _address(self) -> str:
        """Where links lead: the address that the config names, else where this machine's browser finds the page."""
        return str(self._app.config.get("notify.address") or self._app.url).rstrip("/")

    # -- Routes

    def document(self) -> dict[str, object]:
        """The answer to GET /api/push."""
        environ, config, key, problem = self._app.environ, self._app.config, "", ""
        try:
            key = vapid.load_key(environ).public
        except clincus.ClincusError as error:
            problem = error.message
        state = store.read(environ)
        webhook = config.get("notify.webhook")
        return {
            "public_key": key,
            "problem": problem,
            **{key: config.get(f"notify.{key}") for key in CHANGEABLE},
            "is_quiet": self._quiet_for() > 0,
            "webhook": {"host": host_of(webhook), "last": state.webhook} if webhook else None,
            "devices": [device.document() for device in state.devices.values()],
        }

    def change(self, request: clincus.Request) -> object:
        """Change when the person is called. Raises ClincusError: 400, 409 while a config file is broken."""
        given = {f"notify.{key}": request.values[key] for key in CHANGEABLE}
        changes = {key: value for key, value in given.items() if value is not None}
        if changes:
            self._app.save_settings(changes)
            self._app.hub.publish({"type": "push.changed"}, extension=True)
        return self.document()

    def subscribe(self, request: clincus.Request) -> object:
        """Add a device, or change its name or sound.

        Raises ClincusError: 400 for an unknown push service, 409 for too many, 410 if it replaces a removed device.
        """
        values = request.values
        endpoint = check_endpoint(values["endpoint"], self._services)
        origin = request.headers.get("Origin", "")[:300]
        with store.changing(self._app.environ) as state:
            state.check_removed(values["replaces"] or "")
            old = state.devices.pop(values["replaces"] or "", None)
            name = " ".join(clincus.printable(values["name"] or (old.name if old else "")).split())[:80]
            sound = old.sound if old and values["sound"] is None else values["sound"]
            device = store.add_device(state, endpoint, name or host_of(endpoint), origin, sound)
        return device.document()

    def unsubscribe(self, request: clincus.Request) -> object:
        """Forget a device. Raises ClincusError: 404, 410."""
        with store.changing(self._app.environ) as state:
            state.remove(request.values["id"])
        self._taken.pop(request.values["id"], None)
        return clincus.Response(204)

    def take_news(self, device_id: str) -> object:
        """The news for the worker of a device, `fresh` where it has not taken them. Raises ClincusError: 404, 410."""
        device = store.read(self._app.environ).device(device_id)
        news = self._told_news()
        silent = not device.sound or self._quiet_for() > 0
        known = self._taken.get(device_id, set())
        self._taken[device_id] = {(one.id, *one.event) for one in news}
        found = [one.shown_on_device(fresh=(one.id, *one.event) not in known, silent=silent) for one in news]
        if self._tests.pop(device_id, False):
            test = News("", "Clincus", "test", "", TEST_TEXT, clincus.utc_now())
            shown = test.shown_on_device(fresh=True, silent=not device.sound)
            found.insert(0, {**shown, "title": "A test of Clincus"})
        return clincus.json_response(found)

    def note_presence(self, request: clincus.Request) -> object:
        """Whether a person is at a device's page. Raises ClincusError: 404, 410."""
        device = store.read(self._app.environ).device(request.values["id"])
        self._in_use[device.id] = time.monotonic() + HERE_FOR if request.values["here"] else 0.0
        return clincus.Response(204)

    def test(self, request: clincus.Request) -> object:
        """Send a test after a delay. Raises ClincusError: 404, 410, and 409 for a device that is gone."""
        target, delay = request.values["device"], float(request.values["delay"])
        if target == "webhook":
            if not self._app.config.get("notify.webhook"):
                raise clincus.ClincusError("no webhook is set: see notify.webhook in docs/configuration.md", 409)
            test = News("", "Clincus", "test", "", TEST_TEXT, clincus.utc_now())
            values = {**test.document(), "title": "A test of Clincus", "url": self._address()}
            self.outbox.post_webhook("", values, lambda: True, delay)
        else:
            if not store.read(self._app.environ).device(target).endpoint:
                raise clincus.ClincusError(
                    "the push service has forgotten this device: turn notifications on again", 409
                )
            self._tests[target] = True
            self._push(target, delay)
        at = datetime.now(timezone.utc) + timedelta(seconds=delay)
        return clincus.json_response({"at": clincus.format_time(at)}, 202)
