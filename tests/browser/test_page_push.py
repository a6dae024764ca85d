"""Web push in a real Chromium: the settings, the service worker, and a push service of our own. No Incus is needed."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from browser_bed import DESK, Chromium
from playwright.sync_api import Page, Worker, expect

import clincus
from clincus_features import notify
from tests.programs import DEADLINE, wait_until
from tests.push_service import LOCAL_SERVICES, PushService

pytest_plugins = ("browser_bed",)

# What the worker of a page shows, once all is drawn that it has begun to show. Chromium writes a notification down
# first, and draws it then. If it is asked for all notifications in between, it forgets one that is not drawn yet
# (PlatformNotificationContextImpl): that one is shown, but is in no list after that, and no press on it comes.
NOTE_SHOWS = """
() => {
  const show = registration.showNotification.bind(registration);
  self.shows = new Set();
  registration.showNotification = async (...words) => {
    const one = show(...words);
    self.shows.add(one);
    try {
      await one;
    } finally {
      self.shows.delete(one);
    }
  };
}
"""
ALL_SHOWN = """
async () => {
  while (self.shows.size > 0) await Promise.allSettled(self.shows);
  return (await registration.getNotifications()).map(({title, body, tag, silent, actions}) =>
    ({title, body, tag, silent, actions: actions.map(({title}) => title)}));
}
"""

# Headless Chromium has no push service, so the subscription is ours; all else is the browser's own.
SUBSCRIPTION = """
    const subscription = {endpoint: ENDPOINT, options: {applicationServerKey: null}, unsubscribe: async () => true};
    PushManager.prototype.subscribe = async () => subscription;
    PushManager.prototype.getSubscription = async () => IN_WORKER ? subscription : null;
"""


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with PushService() as running:
        yield running
    assert running.faults == []


@pytest.fixture
def server(tmp_path, monkeypatch, service):
    """A server in this process, whose push service is ours."""
    monkeypatch.setattr(notify.Notifier.__init__, "__defaults__", (LOCAL_SERVICES,))
    monkeypatch.setenv("HOME", str(tmp_path))
    app = clincus.Application({"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, {"dashboard.port": 0})
    app.start()
    yield app
    app.close()


@pytest.fixture
def page(whole_browser: Chromium, server, service):
    """A page that may show notifications, which Chromium without windows cannot."""
    context = whole_browser.new_context(base_url=server.url, **DESK)
    context.set_default_timeout(DEADLINE * 1000)
    context.grant_permissions(["notifications"], origin=server.url)
    context.add_init_script(subscription(service.endpoint("laptop"), in_worker=False))
    yield context.new_page()
    with suppress(Exception):
        context.close()


def subscription(endpoint: str, *, in_worker: bool) -> str:
    """The script that gives the page, or the worker, its subscription."""
    return SUBSCRIPTION.replace("ENDPOINT", f'"{endpoint}"').replace("IN_WORKER", str(in_worker).lower())


def prepared_worker(page: Page, service: PushService) -> Worker:
    """The worker of a page, with the subscription of its device, whose notifications can be looked at."""
    worker = wait_until(lambda: page.evaluate("1") and page.context.service_workers, "the worker")[0]
    worker.evaluate(f"() => {{ {subscription(f'{service.url}/push/laptop', in_worker=True)} }}")
    worker.evaluate(NOTE_SHOWS)
    return worker


def shown(worker: Worker) -> list[dict[str, Any]]:
    """The notifications that the system shows now."""
    return list(worker.evaluate(ALL_SHOWN))


def deliver_push(page: Page, origin: str) -> None:
    """Do what the browser does when a push comes from its push service."""
    cdp = page.context.new_cdp_session(page)
    found: list[str] = []
    cdp.on("ServiceWorker.workerRegistrationUpdated", lambda event: found.extend(event["registrations"]))
    cdp.send("ServiceWorker.enable")
    wait_until(lambda: bool(page.evaluate("1")) and bool(found), "the registration")
    number = SimpleNamespace(**found[0]).registrationId
    cdp.send("ServiceWorker.deliverPushMessage", {"origin": origin, "registrationId": number, "data": ""})


@pytest.mark.day
def test_a_device_is_added_tested_and_removed(page, server, service):
    page.goto("/settings")
    page.get_by_label("Notify me when a session needs me").check()
    row = page.get_by_role("listitem").filter(has_text="this device")
    expect(row).to_contain_text("Chrome on Linux")
    expect(row).to_contain_text("Nothing was sent yet")
    row.get_by_role("button", name="Send test").click()
    wait_until(lambda: bool(page.evaluate("1")) and bool(service.pushes), "the push")
    expect(row).to_contain_text("Delivered")

    worker = prepared_worker(page, service)
    deliver_push(page, server.url)
    wait_until(lambda: [one["title"] for one in shown(worker)] == ["A test of Clincus"], "the notification")

    row.get_by_role("button", name="Remove").click()
    expect(row).to_have_count(0)
    expect(page.get_by_label("Notify me when a session needs me")).not_to_be_checked()


def test_the_worker_keeps_nothing_and_answers_no_request(page, server):
    page.goto("/settings")
    page.get_by_label("Notify me when a session needs me").check()
    row = page.get_by_role("listitem").filter(has_text="this device")
    expect(row).to_be_visible()
    page.reload()
    expect(row).to_be_visible()
    assert page.evaluate("caches.keys()") == []
    answer = page.request.get("/worker.js")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-type"].startswith("text/javascript")


# What the browser does when its push service has given it another subscription. A script's own event may not wait.
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


def test_a_subscription_that_the_browser_renews_leaves_notifications_on(page, server, service):
    """The worker tells the server, and each page takes the new one over: one device is left, and it is this one."""
    page.goto("/settings")
    page.get_by_label("Notify me when a session needs me").check()
    rows = page.get_by_role("listitem").filter(has_text="this device")
    expect(rows).to_be_visible()
    old, fresh = f"{service.url}/push/laptop", service.endpoint("renewed")
    worker = wait_until(lambda: page.evaluate("1") and page.context.service_workers, "the worker")[0]
    worker.evaluate(RENEW, [old, fresh])
    page.context.add_init_script(subscription(fresh, in_worker=False))
    page.reload()
    expect(rows).to_be_visible()
    expect(page.get_by_label("Notify me when a session needs me")).to_be_checked()
    expect(page.get_by_role("button", name="Send test")).to_have_count(1)
    expect(page.get_by_text("was removed")).to_have_count(0)
    rows.get_by_role("button", name="Send test").click()
    wait_until(lambda: bool(page.evaluate("1")) and [push.name for push in service.pushes] == ["renewed"], "the push")
