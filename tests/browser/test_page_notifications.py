"""Notifications in a real Chromium: an agent asks, and a button of the notification answers; when none is shown.

Headless Chromium neither has a push service nor draws notifications. So the subscription is ours, the test hands over
each push that comes to our service, and an event that has the notification which was shown stands for a press on it.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from browser_bed import DESK, QUESTION
from playwright.sync_api import Page, expect

from tests.incus_bed import CLAUDE_RESTS, Bed
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, wait_until
from tests.push_service import PushService

pytest_plugins = ("browser_bed",)

SERVER = (sys.executable, str(Path(__file__).parents[1] / "serve_with_local_push.py"))

SUBSCRIPTION = """{  // a page may run two of these
  const subscription = {endpoint: ENDPOINT, options: {applicationServerKey: null}, unsubscribe: async () => true};
  PushManager.prototype.subscribe = async () => subscription;
  PushManager.prototype.getSubscription = async () => IN_WORKER ? subscription : null;
}"""
# What the worker shows, once all is drawn that it has begun to show. Chromium writes a notification down first, and
# draws it then. If it is asked for all notifications in between, it forgets one that is not drawn yet
# (PlatformNotificationContextImpl): that one is in no list after that, and no press on it comes. And the badge of the
# icon as the worker has set it last.
NOTE_SHOWS = """
  const show = registration.showNotification.bind(registration);
  self.shows = new Set();
  registration.showNotification = (...words) => {
    const one = show(...words);
    self.shows.add(one);
    return one.finally(() => self.shows.delete(one));
  };
  navigator.setAppBadge = async (count) => { self.badge = count };
"""
ALL_SHOWN = """
async () => {
  while (self.shows.size > 0) await Promise.allSettled(self.shows);
  return (await registration.getNotifications()).map(({title, body, tag, silent, actions}) =>
    ({title, body, tag, silent, actions: actions.map(({title}) => title)}));
}
"""
# A script's own event may not wait for work, so these wait by themselves.
PRESS = """
async (title) => {
  const [notification] = await registration.getNotifications();
  const {action = ''} = notification.actions.find((one) => one.title === title) ?? {};
  const event = new NotificationEvent('notificationclick', {notification, action});
  const work = [];
  event.waitUntil = (one) => work.push(one);
  dispatchEvent(event);
  await Promise.allSettled(work);  // only a person's own press may bring a window to the front
}
"""
RENEW = """
async ([old, fresh]) => {
  const work = [];
  const subscriptions = {oldSubscription: {endpoint: old, options: {}}, newSubscription: {endpoint: fresh}};
  dispatchEvent(Object.assign(new ExtendableEvent('pushsubscriptionchange'), subscriptions, {
    waitUntil: (one) => work.push(one),
  }));
  await Promise.all(work);
}
"""


def subscription(endpoint: str, *, in_worker: bool) -> str:
    """The script that gives the page, or the worker, its subscription."""
    return SUBSCRIPTION.replace("ENDPOINT", f'"{endpoint}"').replace("IN_WORKER", str(in_worker).lower())


class Desk:
    """A browser that is called, and the server that calls it."""

    def __init__(self, page: Page, server: Server, service: PushService) -> None:
        self.page, self.server, self.service = page, server, service
        self._handed_over = 0  # pushes
        self.worker = wait_until(lambda: page.evaluate("1") and page.context.service_workers, "the worker")[0]
        own = subscription(f"{service.url}/push/laptop", in_worker=True)
        self.worker.evaluate(f"() => {{ {own} {NOTE_SHOWS} }}")

    def set_choice(self, name: str, *, to: bool) -> None:
        """Change a choice of the settings, and wait until the server has it."""
        box = self.page.get_by_role("checkbox", name=name)
        with self.page.expect_response(lambda one: one.request.method != "GET" and one.url.endswith("/api/push")):
            box.set_checked(to)
        expect(box).to_be_checked(checked=to)

    def _hand_over(self) -> None:
        """Hand over one push if one has come, as a browser does with each."""
        if len(self.service.pushes) <= self._handed_over:
            return
        self._handed_over += 1
        cdp = self.page.context.new_cdp_session(self.page)
        found: list[dict[str, Any]] = []
        cdp.on("ServiceWorker.workerRegistrationUpdated", lambda event: found.extend(event["registrations"]))
        cdp.send("ServiceWorker.enable")
        wait_until(lambda: bool(self.page.evaluate("1")) and bool(found), "the registration")
        push = {"origin": self.server.url, "registrationId": found[0]["registrationId"], "data": ""}
        cdp.send("ServiceWorker.deliverPushMessage", push)

    def shown(self) -> list[dict[str, Any]]:
        """The notifications that the system shows now."""
        return list(self.worker.evaluate(ALL_SHOWN))

    def expect_shown(self, title: str) -> dict[str, Any]:
        """Wait for a notification, and hand over each push that comes meanwhile."""

        def find() -> list[dict[str, Any]]:
            found = [one for one in self.shown() if one["title"] == title]
            if not found:
                self._hand_over()
            return found

        return dict(wait_until(find, title)[0])


def ask(bed: Bed, id: str) -> None:
    """Let the stand-in of a tool ask as the real one does: a key chooses, and the question goes."""
    bed.await_screen(id, "STUB-READY")
    question, rest = ("\\n".join(lines) for lines in (QUESTION, CLAUDE_RESTS))
    asks = f"stty -icanon -echo; printf '\\033[2J\\033[H{question}\\n\\a'"
    goes_on = f'stty icanon; printf "\\033[2J\\033[HYou chose $key\\n{rest}\\n\\a"'
    for line in ("sh stty -echo", f"sh {asks}; key=$(head -c 1); {goes_on}"):
        target = f"-t =clincus-{id}:"
        bed.shell(id, f"tmux send-keys {target} -l {shlex.quote(line)} \\; send-keys {target} Enter")


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with PushService() as running:
        yield running
    assert running.faults == []


@pytest.fixture
def desk(whole_browser, start_server, make_workspace, service):
    """A browser that is called also while its person is at the page, and told what the agent says.

    Chromium without windows calls notifications denied, whatever it is told.
    """
    root = make_workspace("my-app").parent
    server = start_server(config=f'[dashboard]\nworkspace_roots = ["{root}"]\n{NO_CHECKPOINTS}', command=SERVER)
    context = whole_browser.new_context(base_url=server.url, **DESK)
    context.set_default_timeout(DEADLINE * 1000)
    context.grant_permissions([], origin=server.url)
    context.add_init_script(subscription(service.endpoint("laptop"), in_worker=False))
    page = context.new_page()
    page.goto("/settings")
    refusal, choice = page.get_by_text("does not let this page"), page.get_by_label("Notify me when a session needs me")
    expect(refusal).to_be_visible()
    expect(choice).to_be_disabled()
    context.grant_permissions(["notifications"], origin=server.url)
    expect(refusal).to_have_count(0)
    choice.check()
    expect(page.get_by_role("listitem").filter(has_text="this device")).to_be_visible()
    yield Desk(page, server, service)
    with suppress(Exception):
        context.close()


@pytest.mark.day
def test_a_device_is_added_tested_renewed_and_removed(desk):
    """A subscription that the browser renews leaves one device, which is this one. The worker keeps nothing."""
    page, service = desk.page, desk.service
    row = page.get_by_role("listitem").filter(has_text="this device")
    test = row.get_by_role("button", name="Send test")
    expect(row).to_contain_text("Chrome on Linux")
    test.click()
    desk.expect_shown("A test of Clincus")
    expect(row).to_contain_text("Delivered")
    assert page.evaluate("caches.keys()") == []
    assert page.request.get("/worker.js").headers["cache-control"] == "no-cache"

    fresh = service.endpoint("renewed")
    desk.worker.evaluate(RENEW, [f"{service.url}/push/laptop", fresh])
    page.context.add_init_script(subscription(fresh, in_worker=False))
    page.reload()
    expect(page.get_by_role("button", name="Send test")).to_have_count(1)
    test.click()
    wait_until(lambda: page.evaluate("1") and [push.name for push in service.pushes][1:] == ["renewed"], "the push")
    row.get_by_role("button", name="Remove").click()
    expect(row).to_have_count(0)
    expect(page.get_by_label("Notify me when a session needs me")).not_to_be_checked()


@pytest.mark.day
def test_a_question_is_answered_by_a_button_of_its_notification(desk, bed, make_workspace):
    """It has the question and its answers, with a sound, and the icon counts it."""
    server = desk.server
    desk.set_choice("Not on a device whose dashboard I am using", to=False)
    desk.set_choice("Show what the agent says", to=True)
    session = server.create(make_workspace("other"), name="my-app")
    ask(bed, session["id"])
    assert desk.expect_shown("my-app asks you a question") == {
        "title": "my-app asks you a question",
        "body": "Which colour do you want?",
        "tag": session["id"],
        "silent": False,
        "actions": ["Red", "Green"],
    }
    assert desk.worker.evaluate("badge") == 1
    desk.worker.evaluate(PRESS, "Green")
    bed.await_screen(session["id"], "You chose 2")
    assert desk.shown() == []  # neither the question nor a word that it was not answered
