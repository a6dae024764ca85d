"""Sends pushes and messages to the webhook, retries where that helps, and keeps the results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import clincus
from clincus_features.notify import store, vapid
from clincus_features.notify.agenda import Agenda

TIMEOUT = 10.0  # seconds for a push service or a webhook to answer
BACKOFF = (5.0, 20.0, 60.0, 300.0)  # seconds before each further try
PUSH_HEADERS = {
    "TTL": str(6 * 3600),  # seconds that a push service keeps a push for a device that is off
    "Urgency": "high",  # a phone in deep sleep gets it now (RFC 8030, 5.3)
    "Topic": "clincus-news",  # pushes have no content, so a newer one replaces an older one (RFC 8030, 5.4)
}
LOCAL_CONTACT = "https://localhost"  # which all services but Apple's accept
APPLE = "web.push.apple.com"


class Services(NamedTuple):
    """The endpoints that belong to a push service."""

    schemes: str  # patterns
    hosts: str
    ports: str

    def match(self, url: str) -> bool:
        """True for a URL of one of them. It must be plain: no user, no fragment, no other spelling."""
        place = rf"({self.schemes})://({self.hosts})({self.ports})"
        path = r"/[\w.~:/?=&%+,;!*()$'@-]{1,1000}"
        return bool(re.fullmatch(place + path, url, re.ASCII))


# The services of Chrome and Edge on Android, of Firefox, of Safari, and of Edge on Windows.
PUSH_SERVICES = Services(
    "https",
    r"fcm\.googleapis\.com"
    r"|[a-z0-9-]+\.push\.services\.mozilla\.com"
    r"|web\.push\.apple\.com"
    r"|[a-z0-9-]+(\.[a-z0-9-]+)*\.notify\.windows\.com",
    "",
)


def check_endpoint(url: str, services: Services) -> str:
    """An endpoint of a known push service. Raises ClincusError(400): Clincus connects to no other address."""
    if services.match(url):
        return url
    known = "fcm.googleapis.com, push.services.mozilla.com, web.push.apple.com, notify.windows.com"
    problem = f'"endpoint" belongs to no push service that Clincus knows ({known}, by https)'
    raise clincus.ClincusError(problem, 400)


def host_of(url: str) -> str:
    """The host of a URL, which is the only part that may be shown or logged."""
    with suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


def contact_for(*addresses: str) -> str:
    """The contact for a push service: the first https: address with a public name."""
    for address in addresses:
        host = host_of(address)
        is_public = re.fullmatch(r"[a-z0-9.-]+\.[a-z][a-z0-9-]+", host)
        if address.startswith("https://") and is_public:
            return f"https://{host}"
    return LOCAL_CONTACT


def fill(template: Mapping[str, str], values: Mapping[str, object]) -> dict[str, object]:
    """The message for a webhook: a value replaces each {name} in the template's texts. Without a template, all values.

    Values are not read as templates.
    """
    if not template:
        return dict(values)

    def value_of(found: re.Match[str]) -> str:
        return str(values.get(found[1], found[0]))

    return {key: re.sub(r"\{(\w+)\}", value_of, text) for key, text in template.items()}


def without_mentions(values: Mapping[str, object]) -> dict[str, object]:
    """Values without mentions and links of Slack (https://docs.slack.dev/messaging/formatting-message-text)."""

    def escape(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    return {key: escape(value) if isinstance(value, str) else value for key, value in values.items()}


def outcome_of(status: int) -> tuple[str, str]:
    """The outcome of `store.result` for a status, and words for a person."""
    if 200 <= status < 300:
        return "delivered", "taken"
    if status in (404, 410):
        return "gone", "the device is not known any more: turn notifications on again there"
    if status == 429 or status >= 500:
        return "retrying", f"answered {status}"
    return "refused", f"answered {status}"


class Sent(NamedTuple):
    """The result of one request."""

    outcome: str  # of `store.result`
    words: str  # for a person
    status: int = 0  # of the answer, 0 for none

    def document(self) -> dict[str, object]:
        """The result in the form that is stored."""
        return store.result(self.outcome, self.words, self.status)


class Outbox:
    """Sends by the agenda, one request at a time for each device, and for each session's message to the webhook."""

    def __init__(
        self,
        environ: Mapping[str, str],
        load: Callable[[], clincus.Config],
        agenda: Agenda,
        services: Services,
    ) -> None:
        self._environ = environ
        self._load = load
        self._agenda = agenda
        self._services = services
        self.on_result: Callable[[], None] = lambda: None

    def push(self, device_id: str, delay: float, is_wanted: Callable[[], bool], tried: int = 0) -> None:
        """Wake a device's worker in `delay` seconds, if `is_wanted` then."""
        self._agenda.put(("push", device_id), delay, partial(self._push_now, device_id, is_wanted, tried))

    def _push_now(self, device_id: str, is_wanted: Callable[[], bool], tried: int) -> None:
        device = store.read(self._environ).devices.get(device_id)
        if device is None or not device.endpoint or not is_wanted():
            return
        sent = self._attempt(lambda: self._ask(device), tried)
        with store.changing(self._environ) as state:
            known = state.devices.get(device_id)
            if known is not None:
                endpoint = "" if sent.outcome == "gone" else device.endpoint
                state.devices[device_id] = replace(known, endpoint=endpoint, last=sent.document())
        clincus.tally("push", sent.outcome)
        if sent.outcome != "delivered":
            host = host_of(device.endpoint)
            clincus.log.warning("push to %r by %s: %s, %s", device.name, host, sent.outcome, sent.words)
        if sent.outcome == "retrying":
            self.push(device_id, BACKOFF[tried], is_wanted, tried + 1)
        self.on_result()

    def _attempt(self, ask: Callable[[], int], tried: int) -> Sent:
        """Make a request once, after `tried` failed ones."""
        try:
            status = ask()
        except clincus.ClincusError as error:
            outcome = "failed" if error.status == 503 else "retrying"
            sent = Sent(outcome, error.message)
        else:
            outcome, words = outcome_of(status)
            sent = Sent(outcome, words, status)
        is_last = tried >= len(BACKOFF)
        if sent.outcome == "retrying" and is_last:
            return sent._replace(outcome="failed")
        return sent

    def _ask(self, device: store.Device) -> int:
        """Ask the push service of a device to wake it; returns the status of its answer."""
        url = urlsplit(check_endpoint(device.endpoint, self._services))
        contact = contact_for(self._load().get("notify.address"), device.origin)
        if url.hostname == APPLE and contact == LOCAL_CONTACT:
            problem = "Apple wants to know whom to turn to: set notify.address to this dashboard's https address"
            raise clincus.ClincusError(problem, 503)
        signed = vapid.authorization(self._environ, f"{url.scheme}://{url.netloc}", contact)
        headers = {**PUSH_HEADERS, "Authorization": signed}
        status, _ = clincus.post(device.endpoint, headers, b"", timeout=TIMEOUT)
        return status

    def post_webhook(
        self, key: str, values: Mapping[str, object], is_wanted: Callable[[], bool], delay: float = 0.0, tried: int = 0
    ) -> None:
        """Send a message to the webhook in `delay` seconds, if `is_wanted` then; `key` is its session."""
        work = partial(self._post_webhook_now, key, values, is_wanted, tried)
        self._agenda.put(("webhook", key), delay, work)

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
        sent = self._attempt(lambda: clincus.post(url, headers, body, timeout=TIMEOUT)[0], tried)
        if sent.outcome == "gone":
            sent = sent._replace(outcome="refused", words=f"answered {sent.status}")
        with store.changing(self._environ) as state:
            state.webhook = sent.document()
        clincus.tally("webhook", sent.outcome)
        log = clincus.log.info if sent.outcome == "delivered" else clincus.log.warning
        log("webhook at %s: %s, %s", host, sent.outcome, sent.words)
        if sent.outcome == "retrying":
            self.post_webhook(key, values, is_wanted, BACKOFF[tried], tried + 1)
        self.on_result()
