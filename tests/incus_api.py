"""The API of Incus by its socket. An `incus` command takes 30 ms of a core, and tests ask thousands of times."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import clincus


class Connection(http.client.HTTPConnection):
    """A connection to a daemon on this machine."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("incus", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, address: str, data: object = None, timeout: float = 60) -> Any:
    """The metadata of an answer, or of the operation that it names once that has ended. Raises IncusError."""
    connection = Connection(path, timeout)
    try:
        connection.request(method, address, None if data is None else json.dumps(data))
        answer = json.load(connection.getresponse())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise clincus.IncusError(f"Incus does not answer: {error!r}", 503) from error
    finally:
        connection.close()
    if answer["type"] == "error":
        raise clincus.IncusError(answer["error"], answer["error_code"])
    if answer["type"] == "async":
        done = ask(path, "GET", f"{answer['operation']}/wait?timeout=-1", timeout=timeout)
        if done["err"]:
            raise clincus.IncusError(done["err"], done["status_code"])
        return done
    return answer["metadata"]
