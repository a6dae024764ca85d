"""The two ways to a port of a container. Both connect from within the container, which needs no network for that.

A device is fast, half a millisecond for a connection: Incus's own relay (type `proxy`) from a unix socket of this user
on the host. It takes a second to set up, and must be removed: without its folder the container would not start again.
A command is slow, a tenth of a second for a connection, and works wherever commands do: on engines, and where this user
may add no device.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from typing import Union

import clincus

PATH_MOST = 107  # bytes of a socket's path (unix(7))
CONNECT_WITHIN = 15.0  # seconds
END_WITHIN = 2.0  # seconds for a relay that is not connected to say why
SAID_MOST = 4096  # bytes of its reason
READY = b"+"  # the first byte from the relay in the container, once it is connected

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
            with contextlib.ExitStack() as files:
                with self._relay() as (relay, ours):
                    if relay.stderr:
                        files.enter_context(relay.stderr)
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
            clincus.kill_group(relay)

    def close(self) -> None:
        """Do nothing: this kind of door leaves nothing to remove."""


class DeviceDoor:
    """A device of the container that listens at a unix socket of this user's on the host."""

    def __init__(self, incus: clincus.Incus, id: str, address: str, port: int, folder: str) -> None:
        """Add the device. Raises ClincusError if this Incus, or this place, does not allow it."""
        pid = os.getpid()
        self._incus = incus
        self._id = id
        self._name = device_name(pid, port)
        self._path = socket_path(folder, pid, port, id)
        if len(os.fsencode(self._path)) > PATH_MOST:
            problem = f"the path of a socket may not be so long: {self._path}"
            raise clincus.ClincusError(problem, 400)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        host = f"[{address}]" if ":" in address else address
        options = (
            f"listen=unix:{self._path}",
            f"connect=tcp:{host}:{port}",
            "bind=host",
            f"uid={os.geteuid()}",
            f"gid={os.getegid()}",
            "mode=0600",
        )
        # A mark comes before the device: by it, a later server finds what this one left.
        with open(f"{self._path}.mark", "w", encoding="ascii"):
            pass
        place = incus.place(id)
        try:
            incus.run("config", "device", "add", place, self._name, "proxy", *options, finish=True)
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
    """The name of the device. It has the process id, since servers of one user may open the same port."""
    return f"clincus-preview-{pid}-{port}"


def socket_path(folder: str, pid: int, port: int, id: str) -> str:
    """The path of a device's socket. Its name has all that is needed to remove the device."""
    return os.path.join(folder, f"{pid}.{port}.{id}")


def take_away(incus: clincus.Incus, id: str, name: str, path: str) -> None:
    """Remove a device of a container that may be gone, and its files on the host."""
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
    """Remove what killed servers left."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(folder):
            found = re.fullmatch(r"(\d+)\.(\d+)\.(.+)\.mark", entry)
            if not found or os.path.exists(f"/proc/{found[1]}"):
                continue
            pid = int(found[1])
            port = int(found[2])
            id = found[3]
            take_away(incus, id, device_name(pid, port), socket_path(folder, pid, port, id))
