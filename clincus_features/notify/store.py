"""The devices that get pushes, and the calls so far: one file in the person's state directory."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import clincus
from clincus_features.notify.news import Told

DEVICE_LIMIT = 30
REMOVED_LIMIT = 200  # ids of devices that a person removed
FILE_LIMIT = 1 << 20  # bytes


@dataclass(frozen=True)
class Device:
    """A browser that gets pushes."""

    id: str
    endpoint: str  # of the push service, a secret: it suffices to push. "" once the service has forgotten the device
    name: str
    origin: str  # of the page that subscribed it
    created_at: str
    sound: bool = True  # its notifications may make a sound
    last: Mapping[str, object] | None = None  # the `result` of the last push

    def document(self) -> dict[str, object]:
        """The device for the API, without its endpoint."""
        service = urlsplit(self.endpoint).hostname or ""
        shown = {key: value for key, value in vars(self).items() if key not in ("endpoint", "origin")}
        return {**shown, "service": service, "gone": not self.endpoint}


@dataclass
class State:
    """The content of the file."""

    devices: dict[str, Device] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)  # session_id -> the last call for it
    webhook: Mapping[str, object] | None = None  # the `result` of the last message
    removed: list[str] = field(default_factory=list)  # ids of devices that a person removed, the latest last

    def device(self, id: str) -> Device:
        """One device. Raises ClincusError: 410 if a person removed it, 404 if it was never here.

        A page that gets 404 subscribes again: its browser has renewed the subscription, or this file was lost.
        """
        self.check_removed(id)
        if id not in self.devices:
            problem = f"device {clincus.shorten(id)} not found: turn its notifications on again"
            raise clincus.ClincusError(problem, 404)
        return self.devices[id]

    def check_removed(self, id: str) -> None:
        """Raise ClincusError(410) for a device that a person removed."""
        if id in self.removed:
            problem = f"device {clincus.shorten(id)} was removed: turn its notifications on again"
            raise clincus.ClincusError(problem, 410)

    def remove(self, id: str) -> None:
        """Forget a device, and remember that a person removed it. Raises ClincusError: 404, 410."""
        del self.devices[self.device(id).id]
        self.removed = [*self.removed, id][-REMOVED_LIMIT:]


def result(outcome: str, message: str, status: int = 0) -> dict[str, object]:
    """The result of a push or a message to the webhook: `delivered`, `retrying`, `gone`, `refused` or `failed`."""
    return {"at": clincus.utc_now(), "outcome": outcome, "status": status, "message": message}


def add_device(state: State, endpoint: str, name: str, origin: str, sound: bool | None) -> Device:
    """Add the device of an endpoint, or change its name or sound. Raises ClincusError(409) for too many.

    None leaves the sound as it is; a new device makes one.
    """
    import hashlib

    id = hashlib.sha256(endpoint.encode()).hexdigest()[:16]
    old = state.devices.get(id)
    if old is None and len(state.devices) >= DEVICE_LIMIT:
        raise clincus.ClincusError(f"{DEVICE_LIMIT} devices are registered: remove one first", "limit_reached")
    device = Device(id, endpoint, name, origin, clincus.utc_now(), sound is not False)
    if old is not None and old.endpoint:
        device = replace(old, name=name, origin=origin, sound=old.sound if sound is None else sound)
    state.devices[id] = device
    state.removed = [one for one in state.removed if one != id]
    return device


def file_of(environ: Mapping[str, str]) -> str:
    """The path of the file."""
    return clincus.own_file(environ, "push.json")


def read(environ: Mapping[str, str]) -> State:
    """The state on disk; an empty one if the file is damaged: devices then subscribe again. Raises ClincusError."""

    def fit(document: dict[str, Any]) -> State:
        devices = [Device(**one) for one in document.get("devices", [])]
        told = {key: told_of(one) for key, one in document.get("told", {}).items()}
        removed = [str(one) for one in document.get("removed", [])]
        return State({device.id: device for device in devices}, told, document.get("webhook"), removed)

    return clincus.read_json(file_of(environ), FILE_LIMIT, fit) or State()


def told_of(words: Mapping[str, Any]) -> Told:
    """The last calls for a session, without the words and times of an older Clincus."""
    return Told(**{name: value for name, value in words.items() if name in Told._fields})


@contextmanager
def changing(environ: Mapping[str, str]) -> Iterator[State]:
    """The state on disk, to be changed in a `with` block. Its end writes the file whole, unless the block raises."""
    with LOCK, clincus.locked_folder(clincus.state_directory(environ)):
        state = read(environ)
        yield state
        document = {
            "devices": [vars(device) for device in state.devices.values()],
            "told": {key: one._asdict() for key, one in state.told.items()},
            "webhook": state.webhook,
            "removed": state.removed,
        }
        clincus.replace_file(file_of(environ), json.dumps(document, indent=1).encode() + b"\n", 0o600)


LOCK = threading.Lock()  # threads of this process wait for each other without limit; for other processes 5 s
