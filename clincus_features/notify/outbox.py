"""Sends pushes and messages to the webhook, tries again where that helps, and keeps how it went."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import clincus
from clincus_features.notify import store, vapid
from clincus_features.notify.agenda import Agenda

TIMEOUT = 10.0  # seconds for a push service or a webhook to answer
BACKOFF = (5.0, 20.0, 60.0, 300.0)  # seconds before each further try
PUSH_HEADERS = {
    "TTL": str(6 * 3600),  # seconds that a push service keeps a push for a device that is off
    "Urgency": "high",  # a phone in deep sleep gets it now (RFC 8030, 5.3)
    "Topic": "clincus-news",  # all pushes say the same, so a newer one replaces an older one (RFC 8030, 5.4)
}
LOCAL_CONTACT = "https://localhost"  # all but Apple take it
APPLE = "web.push.apple.com"


class Services(NamedTuple):
    """Which endpoints are those of a push service."""

    schemes: str  # patterns
    hosts: str
    ports: str

    def match(self, url: str) -> bool:
        """Whether a URL is of one of them. Everything in it is plain: no user, no fragment, no other spelling."""
        place = rf"({self.schemes})://({self.hosts})({self.ports})"
        return bool(re.fullmatch(place + r"/[\w.~:/?=&%+,;!*()$'@-]{1,1000}", url, re.ASCII))


# The services of Chrome and Edge on Android, of Firefox, of Safari, and of Edge on Windows.
PUSH_SERVICES = Services(
    "https",
    r"fcm\.googleapis\.com|[a-z0-9-]+\.push\.services\.mozilla\.com|web\.push\.apple\.com|[a-z0-9-]+(\.[a-z0-9-]+)*\.notify\.windows\.com",
    "",
)


def check_endpoint(url: str, services: Services) -> str:
    """An endpoint of a known push service. Raises ClincusError(400): no other address is ever asked for anything."""
    if not services.match(url):
        known = "fcm.googleapis.com, push.services.mozilla.com, web.push.apple.com, notify.windows.com"
        raise clincus.ClincusError(f'"endpoint" is not of a push service that is known here ({known}, by https)', 400)
    return url


def host_of(url: str) -> str:
    """The host of a URL: all of it that may be shown or logged."""
    with suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


def contact_for(*addresses: str) -> str:
    """Whom a push service can turn to: the first address that is an https: one with a public name."""
    for address in addresses:
        host = host_of(address)
        if address.startswith("https://") and re.fullmatch(r"[a-z0-9.-]+\.[a-z][a-z0-9-]+", host):
            return f"https://{host}"
    return LOCAL_CONTACT


def fill(template: Mapping[str, str], values: Mapping[str, object]) -> dict[str, object]:
    """The message for a webhook: each {name} in the template's texts becomes that value. No template is all values.

    A value is put in once and never read as a template itself.
    """

    def put_in(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), text)

    return {key: put_in(text) for key, text in template.items()} if template else dict(values)


def without_mentions(values: Mapping[str, object]) -> dict[str, object]:
    """Values in which Slack sees no mention and no link (https://docs.slack.dev/messaging/formatting-message-text)."""

    def escape(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    return {key: escape(value) if isinstance(value, str) else value for key, value in values.items()}


def post(url: str, headers: Mapping[str, str], body: bytes) -> int:
    """The status of the answer to a POST, also of a redirect. Raises ClincusError, without the URL, for no answer."""
    # Each command loads this file, and none of them sends anything.
    import http.client
    import urllib.error
    import urllib.request

    class NoRedirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: Any, **kwargs: Any) -> None:
            """There is no other request."""

    request = urllib.request.Request(url, body or None, dict(headers), method="POST")
    try:
        with urllib.request.build_opener(NoRedirects).open(request, timeout=TIMEOUT) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)  # of URLError
        words = "it took too long" if isinstance(reason, TimeoutError) else getattr(reason, "strerror", None)
        words = words or type(reason).__name__
        raise clincus.ClincusError(f"no answer: {words}") from None


def outcome_of(status: int) -> tuple[str, str]:
    """The outcome of `store.result` that an answer means, and words for a person."""
    if 200 <= status < 300:
        return "delivered", "taken"
    if status in (404, 410):
        return "gone", "the device is not known any more: turn notifications on again there"
    if status == 429 or status >= 500:
        return "retrying", f"answered {status}"
    return "refused", f"answered {status}"


class Outbox:
    """Sends by the agenda; for each device, and for each session's message to the webhook, one thing at a time."""

    def __init__(
        self,
        environ: Mapping[str, str],
        load: Callable[[], clincus.Config],
        agenda: Agenda,
        services: Services,
        backoff: tuple[float, ...] = BACKOFF,
    ) -> None:
        self._environ = environ
        self._load = load
        self._agenda = agenda
        self._services = services
        self._backoff = backoff
        self.on_result: Callable[[], None] = lambda: None

    def push(self, device_id: str, delay: float, is_wanted: Callable[[], bool], tried: int = 0) -> None:
        """Wake a device's worker in `delay` seconds, if that is wanted then still."""
        self._agenda.put(("push", device_id), delay, partial(self._push_now, device_id, is_wanted, tried))

    def _push_now(self, device_id: str, is_wanted: Callable[[], bool], tried: int) -> None:
        device = store.read(self._environ).devices.get(device_id)
        if device is None or not device.endpoint or not is_wanted():
            return
        outcome, words, status = self._attempt(lambda: self._ask(device), tried)
        with store.changing(self._environ) as state:
            if device_id in state.devices:
                last = store.result(outcome, words, status)
                endpoint = "" if outcome == "gone" else device.endpoint
                state.devices[device_id] = replace(state.devices[device_id], endpoint=endpoint, last=last)
        clincus.tally("push", outcome)
        if outcome != "delivered":
            clincus.log.warning("push to %r by %s: %s, %s", device.name, host_of(device.endpoint), outcome, words)
        if outcome == "retrying":
            self.push(device_id, self._backoff[tried], is_wanted, tried + 1)
        self.on_result()

    def _attempt(self, ask: Callable[[], int], tried: int) -> tuple[str, str, int]:
        """Ask once; the outcome of `store.result`, words for a person, and the status of the answer, 0 for none."""
        try:
            status = ask()
            outcome, words = outcome_of(status)
        except clincus.ClincusError as error:
            outcome, words, status = "failed" if error.status == 503 else "retrying", error.message, 0
        is_last = outcome == "retrying" and tried >= len(self._backoff)
        return "failed" if is_last else outcome, words, status

    def _ask(self, device: store.Device) -> int:
        """Ask the push service of a device to wake it; the status of its answer."""
        url = urlsplit(check_endpoint(device.endpoint, self._services))
        contact = contact_for(self._load().get("notify.address"), device.origin)
        if url.hostname == APPLE and contact == LOCAL_CONTACT:
            words = "Apple wants to know whom to turn to: set notify.address to this dashboard's https address"
            raise clincus.ClincusError(words, 503)
        signed = vapid.authorization(self._environ, f"{url.scheme}://{url.netloc}", contact)
        return post(device.endpoint, {**PUSH_HEADERS, "Authorization": signed}, b"")

    def post_webhook(
        self, key: str, values: Mapping[str, object], is_wanted: Callable[[], bool], delay: float = 0.0, tried: int = 0
    ) -> None:
        """Send a message to the webhook in `delay` seconds, if that is wanted then still; `key` is its session."""
        self._agenda.put(("webhook", key), delay, partial(self._post_webhook_now, key, values, is_wanted, tried))

    def _post_webhook_now(
        self, key: str, values: Mapping[str, object], is_wanted: Callable[[], bool], tried: int
    ) -> None:
        config = self._load()
        url = config.get("notify.webhook")
        if not url or not is_wanted():
            return
        host = host_of(url)
        safe = without_mentions(values) if host.endswith("slack.com") else values
        body = json.dumps(fill(config.get("notify.template"), safe)).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "Clincus"}
        outcome, words, status = self._attempt(lambda: post(url, headers, body), tried)
        if outcome == "gone":
            outcome, words = "refused", f"answered {status}"
        with store.changing(self._environ) as state:
            state.webhook = store.result(outcome, words, status)
        clincus.tally("webhook", outcome)
        level = clincus.log.info if outcome == "delivered" else clincus.log.warning
        level("webhook at %s: %s, %s", host, outcome, words)
        if outcome == "retrying":
            self.post_webhook(key, values, is_wanted, self._backoff[tried], tried + 1)
        self.on_result()
