"""The two ways to a port of a container. Neither needs a network there: both connect from within the container.

A device is fast, half a millisecond for a connection: Incus's own relay (type `proxy`) from a unix socket of this user
on the host. It takes a second to come, and must go: with its folder missing, the container would not start again.
A command is slow, a tenth of a second for a connection, and works wherever commands do: on engines, and where this user
may add no device.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Union

import clincus

PATH_MOST = 107  # bytes of a socket's path (unix(7))
CONNECT_WITHIN = 15.0  # seconds
END_WITHIN = 2.0  # seconds for a relay that is not connected to say why
SAID_MOST = 4096  # bytes of that
READY = b"+"  # what the relay in the container writes when it is connected

# Arguments: address, port. It ends when the app closes the connection, and when its client is ended.
RELAY = r"""
if command -v bash >/dev/null; then exec bash -c '
    exec 3<>"/dev/tcp/$1/$2" 4<&0 || exit 7
    printf + && { cat <&4 >&3 & cat <&3; kill $!; }' relay "$1" "$2"
fi
printf + && exec busybox nc "$1" "$2"
"""


class CommandDoor:
    """A command in the container for each connection, whose stdin and stdout are the connection."""

    def __init__(self, incus: clincus.Incus, id: str, address: str, port: int, user: int) -> None:
        self._argv = incus.exec_argv(id, ["sh", "-c", RELAY, "relay", address, str(port)], user=user)

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A stream to the port, for the `with` block: from a relay in the container. Raises OSError if it fails."""
        for left in reversed(range(clincus.BEGIN_TRIES)):
            with self._relay() as (relay, ours):
                if ours.recv(1) == READY:
                    yield ours
                    return
                with contextlib.suppress(subprocess.TimeoutExpired):
                    relay.wait(END_WITHIN)
            said = relay.stderr.read(SAID_MOST) if relay.stderr else b""
            if not left or not clincus.has_not_begun(said):
                raise ConnectionRefusedError("nothing answers there")

    @contextlib.contextmanager
    def _relay(self) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
        ours, theirs = socket.socketpair()
        with theirs:
            end = theirs.fileno()
            relay = subprocess.Popen(self._argv, stdin=end, stdout=end, stderr=subprocess.PIPE, start_new_session=True)
        try:
            with ours:
                ours.settimeout(CONNECT_WITHIN)
                yield relay, ours
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(relay.pid, signal.SIGKILL)
            relay.wait()

    def close(self) -> None:
        """Do nothing: this kind of door makes nothing that would have to be taken away."""


class DeviceDoor:
    """A device of the container that listens at a unix socket of this user's on the host."""

    def __init__(self, incus: clincus.Incus, id: str, address: str, port: int, folder: str) -> None:
        """Add the device. Raises ClincusError if this Incus, or this place, does not allow it."""
        self._incus, self._id = incus, id
        self._name, self._path = device_name(os.getpid(), port), socket_path(folder, os.getpid(), port, id)
        if len(os.fsencode(self._path)) > PATH_MOST:
            raise clincus.ClincusError(f"the path of a socket may not be so long: {self._path}", 400)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        there = f"tcp:[{address}]:{port}" if ":" in address else f"tcp:{address}:{port}"
        owner = (f"uid={os.geteuid()}", f"gid={os.getegid()}", "mode=0600")
        options = (f"listen=unix:{self._path}", f"connect={there}", "bind=host", *owner)
        # A mark, by which a later server finds what this one left, comes before the device.
        with open(f"{self._path}.mark", "w", encoding="ascii"):
            pass
        try:
            incus.run("config", "device", "add", incus.place(id), self._name, "proxy", *options, finish=True)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A stream to the port, for the `with` block. Raises OSError if it fails.

        Incus accepts before it has connected to the app: a dead app shows as an early end.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(CONNECT_WITHIN)
            stream.connect(self._path)
            yield stream

    def close(self) -> None:
        """Remove the device, the socket and its mark."""
        take_away(self._incus, self._id, self._name, self._path)


Door = Union[CommandDoor, DeviceDoor]


def device_name(pid: int, port: int) -> str:
    """The name of the device: servers of one user may open the same port."""
    return f"clincus-preview-{pid}-{port}"


def socket_path(folder: str, pid: int, port: int, id: str) -> str:
    """Where a device listens. The name says all that is needed to take it away."""
    return os.path.join(folder, f"{pid}.{port}.{id}")


def take_away(incus: clincus.Incus, id: str, name: str, path: str) -> None:
    """Remove a device of a container that may be gone, and what belongs to it on the host."""
    try:
        incus.run("config", "device", "remove", incus.place(id), name)
    except clincus.IncusError as error:
        if error.status != 404 and error.kind is not clincus.FailureKind.NO_DEVICE:
            clincus.log.warning("preview: the device %s of %s is still there: %s", name, id, error)
            return  # its mark stays: a later server tries again
    for leftover in (path, f"{path}.mark"):
        with contextlib.suppress(OSError):
            os.unlink(leftover)


def sweep(incus: clincus.Incus, folder: str) -> None:
    """Take away what servers left that were killed."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(folder):
            found = re.fullmatch(r"(\d+)\.(\d+)\.(.+)\.mark", entry)
            if found and not os.path.exists(f"/proc/{found[1]}"):
                pid, port, id = int(found[1]), int(found[2]), found[3]
                take_away(incus, id, device_name(pid, port), socket_path(folder, pid, port, id))
