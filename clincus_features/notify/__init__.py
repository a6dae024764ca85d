"""Notifies a person when an agent needs one: web push to phones and browsers, and a webhook. Settings: `[notify]`.

news.py decides which states are news, hours.py knows the quiet hours, outbox.py sends, vapid.py signs pushes, and
store.py keeps devices and past calls.
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
HERE_FOR = 60.0  # seconds for which a page's report of being in use holds; it repeats the report every 20
OVER_AFTER = 2.0  # seconds after which a device learns that the news it shows is over
LOOK_BEFORE = 1.0  # seconds before a call: the time for one more look at its session
LOOK_AGAIN = 300.0  # seconds between two looks at the quiet hours: a machine that sleeps counts no seconds
CHANGEABLE = ("on", "quiet", "with_text", "quiet_hours", "zone")  # keys of `[notify]` that the page may change
TEST_TITLE = "A test of Clincus"
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
    """Decides for each change of an agent whether, when and where a person is notified.

    `services` are the only push services that Clincus ever connects to. No API and no config changes them; tests do.
    """

    def __init__(self, app: clincus.Application, services: Services = PUSH_SERVICES) -> None:
        self._app = app
        self._services = services
        self.agenda = Agenda()
        # The next dicts are only read and set by key, which needs no lock.
        self._agents: dict[str, Mapping[str, object]] = {}  # session -> what its tool does now
        self._alarms: dict[str, Mapping[str, object]] = {}  # session -> its alarm, which replaces the agent's news
        self._called: dict[str, float] = {}  # session -> time.monotonic of the last notification for it
        self._in_use: dict[str, float] = {}  # device -> time.monotonic until which its page counts as in use
        self._taken: dict[str, set[tuple[str, str, str]]] = {}  # device -> keys of the news that it has
        self._tests: dict[str, bool] = {}  # devices for which a test is planned

    @clincus.locked_property
    def outbox(self) -> Outbox:
        """The sender. It is created late: the application is incomplete while features install themselves."""
        outbox = Outbox(self._app.environ, lambda: self._app.config, self.agenda, self._services)
        event = {"type": "push.changed"}
        outbox.on_result = lambda: self._app.hub.publish(event, extension=True)
        return outbox

    # -- States of agents

    def tell(self, moment: str, session: clincus.Session) -> None:
        """Handle a moment in a session's life: it may have been muted, and a session that is gone has no news."""
        if moment in ("changed", "started"):
            self._look(session)
        elif moment == "deleted":
            for by_id in (self._agents, self._alarms, self._called):
                by_id.pop(session.id, None)
            self.agenda.drop(("check", session.id))
            self._close_elsewhere(session.id, None)

    def hear(self, session: clincus.Session, agent: Mapping[str, object]) -> None:
        """Take note of a new state of a session's tool. This never waits: the caller holds locks."""
        self._agents[session.id] = agent
        if agent.get("seen"):
            self._called.pop(session.id, None)  # a person has looked, so the next event is news at once
        self._look(session)

    def hear_alarm(self, session: clincus.Session, alarm: Mapping[str, object] | None) -> None:
        """Take note of an alarm, or of its end (None). This never waits."""
        if alarm is None and session.id not in self._alarms:
            return
        if alarm is None:
            self._alarms.pop(session.id)
        else:
            self._alarms[session.id] = alarm
            self._called.pop(session.id, None)
        self._look(session)

    def look_at_all(self) -> None:
        """Look at each session again, after a change of the settings or of the hours."""
        for session in self._app.registry.all():
            self.agenda.drop(("check", session.id))
            self._look(session)

    def _look(self, session: clincus.Session) -> None:
        """Plan a call if a session has news, and drop the planned one if it has none."""
        news = self._news(session)
        if news is None:
            self.agenda.drop(("check", session.id))
        else:
            delay = DWELL_WAITING if news.state == "waiting" else DWELL
            work = partial(self._check_anew, session.id, news.event)
            self.agenda.put(("check", session.id), delay - LOOK_BEFORE, work, news.event)
        self._close_elsewhere(session.id, news)

    def _news(self, session: clincus.Session | None) -> News | None:
        """The news of a session; None if it has none, or is gone."""
        if session is None:
            return None
        config = self._app.config
        agent = {} if session.muted else self._agents.get(session.id, {})
        agent = self._alarms.get(session.id) or agent
        return read_news(session, agent, config.get("notify.on"), config.get("notify.with_text"))

    def _check(self, id: str) -> None:
        """Notify the person if a session's news still exists, is new, and the last notification is long enough ago."""
        session = self._app.registry.find(id)
        news = self._news(session)
        told = store.read(self._app.environ).told
        if session is None or news is None or is_told(told, session.session_id, news):
            return
        if news.number is not None and (session.paused or session.unreachable_since):
            return  # what is known of its tool may be over; `tell` plans the call anew once it can be looked at
        now = time.monotonic()
        cooldown = self._called.get(id, -COOLDOWN) + COOLDOWN - now
        wait = max(cooldown, self._quiet_for())
        if wait > 0:
            later = partial(self._check_anew, id, news.event)
            self.agenda.put(("check", id), max(0.0, wait - LOOK_BEFORE), later, news.event)
            return
        self._called[id] = now
        with store.changing(self._app.environ) as state:
            state.told = remember(state.told, session.session_id, news, clincus.utc_now())
            devices = list(state.devices.values())
        for device in devices:
            if not self._is_in_use(device.id):
                self._push(device.id, 0)
        if self._app.config.get("notify.webhook"):
            values = {**news.document(), "url": f"{self._address()}/sessions/{id}"}
            self.outbox.post_webhook(id, values, lambda: self._is_open(id, news))

    def _check_anew(self, id: str, event: tuple[str, str]) -> None:
        """Have a session looked at, and check then: a question may have been answered since the last look."""
        session = self._app.registry.find(id)
        if session is not None:
            self._app.extensions.tell("before_call", session)
            self.agenda.put(("check", id), LOOK_BEFORE, lambda: self._check(id), event)

    def _close_elsewhere(self, id: str, news: News | None) -> None:
        """Wake the devices that show past news of a session, so that their workers close it."""
        present = (id, *news.event) if news is not None else None
        for device_id, taken in list(self._taken.items()):
            shown = [key for key in taken if key[0] == id]
            if any(key != present for key in shown):
                tell_over = partial(self._tell_over, device_id)
                self.agenda.put(("over", device_id), OVER_AFTER, tell_over)

    def _quiet_for(self) -> float:
        """Seconds until the next look at the quiet hours, 0 outside of them."""
        config = self._app.config
        hours = config.get("notify.quiet_hours")
        left = quiet_for(hours, config.get("notify.zone"), datetime.now(timezone.utc))
        return min(LOOK_AGAIN, left)

    def _tell_over(self, device_id: str) -> None:
        wait = self._quiet_for()
        if wait > 0:
            self.agenda.put(("over", device_id), wait, partial(self._tell_over, device_id))
        elif self._in_use.get(device_id, 0.0) > time.monotonic():
            self._taken.pop(device_id, None)  # the open page there closes past news itself
        elif self._shows_over(device_id):
            self._push(device_id, 0)

    def _shows_over(self, device_id: str) -> bool:
        """True if a device shows news that is over."""
        open_news = {news.key for news in self._told_news()}
        return not open_news.issuperset(self._taken.get(device_id, ()))

    def _is_open(self, id: str, news: News) -> bool:
        present = self._news(self._app.registry.find(id))
        return present is not None and present.event == news.event

    def _push(self, device_id: str, delay: float) -> None:
        def is_wanted() -> bool:
            if device_id in self._tests or self._told_news():
                return True
            return self._shows_over(device_id)

        self.outbox.push(device_id, delay, is_wanted)

    def _is_in_use(self, device_id: str) -> bool:
        is_here = self._in_use.get(device_id, 0.0) > time.monotonic()
        return is_here and bool(self._app.config.get("notify.quiet"))

    def _told_news(self) -> list[News]:
        """The open news that a person was notified of, newest first."""
        told = store.read(self._app.environ).told
        found: list[News] = []
        for session in self._app.registry.all():
            news = self._news(session)
            if news is not None and is_told(told, session.session_id, news):
                found.append(news)
        return sorted(found, key=lambda news: news.since, reverse=True)

    def _address(self) -> str:
        """The base of links: the address from the config, else the page's address on this machine."""
        return str(self._app.config.get("notify.address") or self._app.url).rstrip("/")

    # -- Routes

    def document(self) -> dict[str, object]:
        """The answer to GET /api/push."""
        config = self._app.config
        key = ""
        problem = ""
        try:
            key = vapid.load_key(self._app.environ).public
        except clincus.ClincusError as error:
            problem = error.message
        state = store.read(self._app.environ)
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
        """Change the settings of the notifications. Raises ClincusError: 400, 409 while a config file is broken."""
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
        replaced = values["replaces"] or ""
        with store.changing(self._app.environ) as state:
            state.check_removed(replaced)
            old = state.devices.pop(replaced, None)
            name = values["name"] or (old.name if old else "")
            plain = " ".join(clincus.printable(name).split())[:80]
            sound = old.sound if old and values["sound"] is None else values["sound"]
            device = store.add_device(state, endpoint, plain or host_of(endpoint), origin, sound)
        return device.document()

    def unsubscribe(self, request: clincus.Request) -> object:
        """Forget a device. Raises ClincusError: 404, 410."""
        with store.changing(self._app.environ) as state:
            state.remove(request.values["id"])
        self._taken.pop(request.values["id"], None)
        return clincus.Response(204)

    def take_news(self, device_id: str) -> object:
        """The news for the worker of a device, `fresh` if it has not taken them yet. Raises ClincusError: 404, 410."""
        device = store.read(self._app.environ).device(device_id)
        is_silent = not device.sound or self._quiet_for() > 0
        open_news = self._told_news()
        known = self._taken.get(device_id, set())
        self._taken[device_id] = {news.key for news in open_news}
        documents = []
        for news in open_news:
            documents.append(news.shown_on_device(fresh=news.key not in known, silent=is_silent))
        if self._tests.pop(device_id, False):
            shown = test_news().shown_on_device(fresh=True, silent=not device.sound)
            documents.insert(0, {**shown, "title": TEST_TITLE})
        return clincus.json_response(documents)

    def note_presence(self, request: clincus.Request) -> object:
        """Note if a person is at a device's page. Raises ClincusError: 404, 410."""
        device = store.read(self._app.environ).device(request.values["id"])
        is_here = request.values["here"]
        self._in_use[device.id] = time.monotonic() + HERE_FOR if is_here else 0.0
        return clincus.Response(204)

    def test(self, request: clincus.Request) -> object:
        """Send a test after a delay. Raises ClincusError: 404, 410, and 409 for a device that is gone."""
        target = request.values["device"]
        delay = float(request.values["delay"])
        if target == "webhook":
            self._test_webhook(delay)
        else:
            self._test_device(target, delay)
        at = datetime.now(timezone.utc) + timedelta(seconds=delay)
        return clincus.json_response({"at": clincus.format_time(at)}, 202)

    def _test_webhook(self, delay: float) -> None:
        if not self._app.config.get("notify.webhook"):
            problem = "no webhook is set: see notify.webhook in docs/configuration.md"
            raise clincus.ClincusError(problem, 409)
        values = {**test_news().document(), "title": TEST_TITLE, "url": self._address()}
        self.outbox.post_webhook("", values, lambda: True, delay)

    def _test_device(self, id: str, delay: float) -> None:
        if not store.read(self._app.environ).device(id).endpoint:
            problem = "the push service has forgotten this device: turn notifications on again"
            raise clincus.ClincusError(problem, 409)
        self._tests[id] = True
        self._push(id, delay)


def test_news() -> News:
    """The news of a test."""
    return News("", "Clincus", "test", "", TEST_TEXT, clincus.utc_now())
