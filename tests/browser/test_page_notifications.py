"""Notifications in a real Chromium: an agent asks, and a button of the notification answers; when none is shown.

Headless Chromium neither has a push service nor draws notifications. So the subscription is ours, the test hands over
each push that comes to our service, and an event that has the notification which was shown stands for a press on it.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from browser_bed import DESK, QUESTION
from playwright.sync_api import Page, Worker, expect
from test_page_push import deliver_push, prepared_worker, service, shown, subscription  # noqa: F401  # a fixture

from tests.incus_bed import CLAUDE_RESTS, Bed
from tests.programs import DEADLINE, NO_CHECKPOINTS, Server, wait_until
from tests.push_service import PushService

pytest_plugins = ("browser_bed",)

SERVER = (sys.executable, str(Path(__file__).parents[1] / "serve_with_local_push.py"))

# A script's own event may not wait for work, so this one waits by itself.
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

# The badge of the icon as the worker has set it last: no system draws one here.
NOTE_BADGE = "() => { navigator.setAppBadge = async (count) => { self.badge = count } }"


@dataclass
class Desk:
    """A browser that is called, and the server that calls it."""

    page: Page
    worker: Worker
    server: Server
    service: PushService
    root: Path
    handed_over: int = field(default=0)  # pushes

    def set_choice(self, name: str, *, to: bool) -> None:
        """Change a choice of the settings, and wait until the server has it."""
        box = self.page.get_by_role("checkbox", name=name)
        paths = ("/api/push", "/api/push/subscriptions")  # all devices; this one
        with self.page.expect_response(lambda one: one.request.method != "GET" and one.url.endswith(paths)):
            box.set_checked(to)
        expect(box).to_be_checked(checked=to)

    def take_push(self) -> None:
        """Hand over the next push to the browser, once it has come."""
        wait_until(lambda: self.page.evaluate("1") and self.hand_over(), "a push")

    def hand_over(self) -> bool:
        """Hand over one push that has come, as a browser does with each; whether there was one."""
        if len(self.service.pushes) <= self.handed_over:
            return False
        self.handed_over += 1
        deliver_push(self.page, self.server.url)
        return True

    def shown(self) -> list[dict[str, Any]]:
        """The notifications that the system shows now."""
        return shown(self.worker)

    def expect_shown(self, **fields: object) -> dict[str, Any]:
        """Wait for a notification, and hand over each push that comes meanwhile."""
        now: list[dict[str, Any]] = []

        def find() -> list[dict[str, Any]]:
            now[:] = self.shown()
            found = [one for one in now if fields.items() <= one.items()]
            if not found:
                self.hand_over()
            return found

        try:
            return wait_until(find, str(fields))[0]
        except AssertionError as error:
            raise AssertionError(f"{error}; shown after {self.handed_over} pushes: {now}") from None


@pytest.fixture
def desk(bed, whole_browser, start_server, make_workspace, service):  # noqa: F811
    """A browser that is called also while its person is at the page, and told what the agent says."""
    root = make_workspace("my-app").parent
    make_workspace("other")
    server = start_server(config=f'[dashboard]\nworkspace_roots = ["{root}"]\n{NO_CHECKPOINTS}', command=SERVER)
    context = whole_browser.new_context(base_url=server.url, **DESK)
    context.set_default_timeout(DEADLINE * 1000)
    context.grant_permissions(["notifications"], origin=server.url)
    context.add_init_script(subscription(service.endpoint("laptop"), in_worker=False))
    page = context.new_page()
    page.goto("/settings")
    page.get_by_label("Notify me when a session needs me").check()
    expect(page.get_by_role("listitem").filter(has_text="this device")).to_be_visible()
    worker = prepared_worker(page, service)
    worker.evaluate(NOTE_BADGE)
    made = Desk(page, worker, server, service, root)
    made.set_choice("Not on a device whose dashboard I am using", to=False)
    made.set_choice("Show what the agent says", to=True)
    yield made
    with suppress(Exception):
        context.close()


def ask(bed: Bed, id: str) -> None:
    """Let the stand-in of a tool ask as the real one does: a key chooses, and the question goes."""
    bed.await_screen(id, "STUB-READY")
    question, rest = ("\\n".join(lines) for lines in (QUESTION, CLAUDE_RESTS))
    asks = f"stty -icanon -echo; printf '\\033[2J\\033[H{question}\\n\\a'"
    goes_on = f'stty icanon; printf "\\033[2J\\033[HYou chose $key\\n{rest}\\n\\a"'
    for line in ("sh stty -echo", f"sh {asks}; key=$(head -c 1); {goes_on}"):
        target = f"-t =clincus-{id}:"
        bed.shell(id, f"tmux send-keys {target} -l {shlex.quote(line)} \\; send-keys {target} Enter")


@pytest.mark.day
def test_a_question_is_answered_by_a_button_of_its_notification(desk, bed):
    """It has the question and its answers, with a sound; the icon counts it; the tool gets the key."""
    session = desk.server.create(desk.root / "my-app")
    ask(bed, session["id"])
    desk.take_push()
    notification = desk.expect_shown(tag=session["id"])
    assert notification == {
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


def test_a_button_answers_no_other_question_than_that_of_its_notification(desk, bed):
    """The tool asks the next one meanwhile: the press says so, and types nothing."""
    session = desk.server.create(desk.root / "my-app")
    ask(bed, session["id"])
    desk.take_push()
    desk.expect_shown(tag=session["id"])
    bed.shell(session["id"], f"tmux send-keys -t =clincus-{session['id']}: 1")
    bed.await_screen(session["id"], "You chose 1")
    desk.worker.evaluate(PRESS, "Green")
    told = desk.expect_shown(title="my-app was not answered")
    assert told["actions"] == []
    assert "2" not in bed.screen(session["id"]).replace("You chose 1", "").split()


def test_a_tap_beside_the_buttons_leads_to_the_session(desk, bed):
    session = desk.server.create(desk.root / "my-app")
    ask(bed, session["id"])
    desk.take_push()
    desk.expect_shown(tag=session["id"])
    desk.worker.evaluate(PRESS, "")
    expect(desk.page).to_have_url(f"{desk.server.url}/sessions/{session['id']}")


def test_a_muted_session_calls_nobody_and_a_silent_device_makes_no_sound(desk, bed):
    """The first is chosen in the session's menu, the second in the settings."""
    muted, other = (desk.server.create(desk.root / name) for name in ("my-app", "other"))
    desk.set_choice("With a sound on this device", to=False)
    wait_until(lambda: not device_of(desk)["sound"], "the server to know")
    desk.page.goto(f"/sessions/{muted['id']}")
    desk.page.get_by_role("button", name="More actions").click()
    desk.page.get_by_role("menuitem", name="Mute notifications").click()
    wait_until(lambda: desk.server.get(f"/api/sessions/{muted['id']}").json["muted"], "the server to know")
    ask(bed, muted["id"])
    is_waiting(desk, muted["id"])
    ask(bed, other["id"])
    desk.take_push()
    assert desk.expect_shown(tag=other["id"])["silent"] is True
    assert [one["tag"] for one in desk.shown()] == [other["id"]]
    assert desk.worker.evaluate("badge") == 1


def test_quiet_hours_hold_a_call_until_they_are_over(desk, bed):
    """A test, which is sent at any hour, comes meanwhile, and only it is shown."""
    page = desk.page
    desk.set_choice("Quiet hours", to=True)
    # All day but for a minute that is half a day away.
    minute = page.evaluate("new Date(Date.now() + 12 * 3600e3).toTimeString().slice(0, 5)")
    begin = page.evaluate("new Date(Date.now() + 12 * 3600e3 + 60e3).toTimeString().slice(0, 5)")
    page.get_by_label("Quiet from").fill(begin)
    page.get_by_label("Quiet until").fill(minute)
    page.get_by_label("Quiet until").blur()
    wait_until(lambda: desk.server.get("/api/push").json["is_quiet"], "the quiet hours")
    session = desk.server.create(desk.root / "my-app")
    ask(bed, session["id"])
    is_waiting(desk, session["id"])
    # Later than the call would come.
    assert desk.server.post("/api/push/test", {"device": device_of(desk)["id"], "delay": 15}).status == 202
    desk.take_push()
    desk.expect_shown(title="A test of Clincus")
    assert [one["title"] for one in desk.shown()] == ["A test of Clincus"]
    desk.set_choice("Quiet hours", to=False)
    desk.take_push()
    desk.expect_shown(tag=session["id"])


def device_of(desk: Desk) -> dict[str, Any]:
    """The browser as the server knows it."""
    return dict(desk.server.get("/api/push").json["devices"][0])


def is_waiting(desk: Desk, id: str) -> None:
    """Wait until the server knows that a session's tool asks."""
    path = f"/api/sessions/{id}"
    wait_until(lambda: desk.server.get(path).json["agent"]["state"] == "waiting", "the question")
