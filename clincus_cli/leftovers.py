"""For `uninstall`: finds the parts that Clincus has left on this machine, each with the command that removes it.

Projects and Incus stay. A part is named and kept unless setup is known to have made it.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import clincus
from clincus_cli import console, images, service, setup
from clincus_cli.appeared import end_session
from clincus_cli.beside import attempt_beside
from clincus_cli.build import SETUP_BRIDGE
from clincus_cli.context import Context
from clincus_cli.host import Host
from clincus_cli.server import known_port
from clincus_features import health

MADE_KEY = setup.MADE_LABEL.partition("=")[0]


class Part(NamedTuple):
    """One thing that can be removed."""

    what: str
    command: str  # removes it by hand
    remove: Callable[[], object]  # raises ClincusError or OSError
    kept: str = ""  # the reason why it has to stay for now; "" if it can go


class Leftovers:
    """Everything that Clincus has left on this machine, in the order in which it can be removed."""

    def __init__(self, context: Context, host: Host) -> None:
        self.context = context
        self.host = host
        self.environ = context.environ
        self.is_unknown = False  # an Incus exists, and does not list its instances
        # Root believes no file of another user.
        files = {setup.MADE_FILE, setup.made_file(host, self.environ)}
        self.made = [line.partition(" ")[::2] for path in sorted(files) for line in host.read(path).splitlines()]

    def parts(self) -> Iterator[Part]:
        """The parts. The generator looks for a part when the caller has removed those before it."""
        yield from self.service()
        try:
            yield from self.sessions()
            yield from self.incus_parts()
        except clincus.ClincusError as error:
            self.is_unknown = bool(self.host.which("incus"))
            console.warn(f"sessions, image, network and storage were not looked for: {error.message}")
        yield from self.machine_parts()
        yield from self.conversations()
        yield from self.folders()
        yield from self.program()

    def service(self) -> Iterator[Part]:
        """The systemd user service."""
        path = service.unit_path(self.environ)
        if os.path.exists(path):
            yield Part(
                f"the service {path}", "clincus service remove", lambda: service.run_service_remove(self.context)
            )

    def sessions(self) -> Iterator[Part]:
        """The containers of sessions, and those that a killed `clincus run` left."""
        ids = [one.id for one in self.context.sessions.registry.all()]
        if not ids:
            return

        def remove() -> None:
            done = attempt_beside(self.context.sessions, ids, lambda id: end_session(self.context, id, delete=True))
            if len(done) < len(ids):
                words = "fetch what they hold, or copy it to ~/.clincus by `clincus kill --force NAME`, and try again"
                raise clincus.ClincusError(f"{len(ids) - len(done)} session(s) stay: {words}", 409)

        yield Part(f"{len(ids)} session(s): {', '.join(ids)}", "clincus kill --all", remove)

    # -- In Incus

    def incus_parts(self) -> Iterator[Part]:
        """Images, the devices of the default profile, the bridge and the pool."""
        incus = self.context.incus
        for image in images.query_images(incus):
            if "clincus.recipe" in image.get("properties", {}):
                names = images.alias_names(image)
                fingerprint = str(image["fingerprint"])
                name = names[0] if names else fingerprint
                delete = functools.partial(images.delete_image, incus, fingerprint)
                yield Part(f"the image {', '.join(names) or name}", f"incus image delete {shlex.quote(name)}", delete)
        bridges = [one for one in incus.query("/1.0/networks?recursion=1") or () if is_bridge(one)]
        pools = [one for one in incus.query("/1.0/storage-pools?recursion=1") or () if is_marked(one)]
        yield from self.devices({one["name"] for one in bridges}, {one["name"] for one in pools})
        for word, folder, found in (("network", "networks", bridges), ("storage", "storage-pools", pools)):
            for one in found:
                name = str(one["name"])
                remove = functools.partial(delete_from_incus, incus, word, name)
                kept = self.other_users(f"/1.0/{folder}/{quote(name, safe='')}")
                what = "the bridge" if word == "network" else "the storage pool"
                yield Part(f"{what} {name}", f"incus {word} delete {shlex.quote(name)}", remove, kept)

    def devices(self, bridges: set[str], pools: set[str]) -> Iterator[Part]:
        """The devices of the default profile that lead to our bridge and our pool."""
        incus = self.context.incus
        devices: Mapping[str, Mapping[str, str]] = incus.query("/1.0/profiles/default")["devices"]
        for name, device in devices.items():
            if device.get("network") in bridges or device.get("pool") in pools:
                words = ("profile", "device", "remove", "default", name)
                remove = functools.partial(incus.run, *words)
                kept = self.other_users("/1.0/profiles/default")
                yield Part(f"the device {name} of the default profile", f"incus {shlex.join(words)}", remove, kept)

    def other_users(self, path: str) -> str:
        """The reason why a part of Incus has to stay: an instance or a volume uses it; "" without any.

        Sessions that are here when their turn is over stay, and need it as much as foreign instances do.
        """
        known = self.context.sessions.registry.all() if self.context.options.dry_run else []
        ours = {clincus.instance_name(one.id) for one in known}
        users = [str(one).partition("?")[0] for one in self.context.incus.query(path).get("used_by") or ()]
        others = [one for one in users if not is_ours(one, ours)]
        return f"also used by {', '.join(others[:3])}" if others else ""

    # -- On the machine

    def machine_parts(self) -> Iterator[Part]:
        """The git setting, the membership of the group and the ranges of ids, where setup made them."""
        kept = self.why_program_stays()  # sessions need the settings: the git one protects this machine from them
        for kind, name in self.made:
            if kind == "git":
                command = ["git", "config", "--global", "--unset", health.BARE_KEY]
                yield from self.by_command("the git setting " + name, command, self.git_setting() == "explicit", kept)
            elif kind == "group":
                group, _, person = name.partition(" ")
                members = [line for line in self.host.read("/etc/group").splitlines() if line.startswith(f"{group}:")]
                is_member = any(person in line.rpartition(":")[2].split(",") for line in members)
                yield from self.as_root(
                    f"the membership of {person} in the group {group}",
                    ["gpasswd", "-d", person, group],
                    is_member,
                    kept,
                )
            elif kind in ("/etc/subuid", "/etc/subgid"):
                there = name in self.host.read(kind).splitlines()
                yield from self.as_root(f"the line {name} of {kind}", ["sed", "-i", f"/^{name}$/d", kind], there, kept)

    def git_setting(self) -> str:
        """The value of the setting that setup makes, in the configuration of this user."""
        done = self.host.attempt(["git", "config", "--global", "--get", health.BARE_KEY])
        return done.stdout.decode("utf-8", "replace").strip()

    def by_command(self, what: str, command: list[str], is_there: bool, kept: str = "") -> Iterator[Part]:
        """A part that a program of this machine removes."""
        if is_there:
            yield Part(what, shlex.join(command), lambda: self.host.run(command), kept)

    def as_root(self, what: str, command: list[str], is_there: bool, kept: str) -> Iterator[Part]:
        """The same for root."""
        if self.host.is_root():
            yield from self.by_command(what, command, is_there, kept)
        elif is_there:
            yield Part(what, f"sudo {shlex.join(command)}", lambda: None, kept or "only root can")

    # -- Files

    def conversations(self) -> Iterator[Part]:
        """The saved conversations of all tools."""
        saved = clincus.list_saved(self.context.config, self.environ)
        folders = sorted({os.path.dirname(one.directory) for one in saved})
        if folders:
            what = f"{len(saved)} saved conversation(s) in {', '.join(folders)}"
            kept = self.why_program_stays()
            yield Part(what, f"rm -r {shlex.join(folders)}", lambda: remove_all(one.directory for one in saved), kept)

    def folders(self) -> Iterator[Part]:
        """Our own files, settings and cache."""
        cache = os.path.join(self.environ.get("XDG_CACHE_HOME") or clincus.expand("~/.cache", self.environ), "clincus")
        state = clincus.state_directory(self.environ)
        named = {
            state: "history, checkpoints, copies of unsaved work and the rest of",
            **{os.path.dirname(path): "the settings in" for path in clincus.user_configs(self.environ)},
            cache: "the cache",
        }
        for path, words in named.items():
            if os.path.isdir(path) and not os.path.islink(path):
                kept = self.why_state_stays() if path == state else "" if path == cache else self.why_program_stays()
                yield Part(
                    f"{words} {path}", f"rm -r {shlex.quote(path)}", functools.partial(shutil.rmtree, path), kept
                )

    def why_state_stays(self) -> str:
        """The reason why ~/.clincus has to stay for now."""
        if self.context.options.dry_run:
            return ""
        kept = self.why_program_stays()
        if kept:
            return kept
        if clincus.list_saved(self.context.config, self.environ):
            return "it holds the saved conversations"
        if is_listening(known_port(self.context)):
            return "a server runs: end `clincus serve` first"
        return ""

    def why_program_stays(self) -> str:
        """The reason why program, settings and conversations have to stay for now: remaining sessions need them."""
        if self.context.options.dry_run:
            return ""
        if self.is_unknown:
            return "Incus does not say whether there are sessions"
        if vars(self.context).get("sessions") and self.context.sessions.registry.all():
            return "there are sessions"
        return ""

    def program(self) -> Iterator[Part]:
        """The file of the program, unless a checkout or a package has it."""
        path = os.path.abspath(sys.argv[0])
        if zipfile.is_zipfile(path):
            kept = self.why_program_stays()
            yield Part(f"the program {path}", f"rm {shlex.quote(path)}", lambda: os.unlink(path), kept)


def delete_from_incus(incus: clincus.Incus, word: str, name: str) -> None:
    """Delete a network or a pool (`word`). Raises IncusError.

    Incus (6.0) looks at every interface of the machine before it deletes a bridge, and fails when one vanishes
    meanwhile, as those of the containers do that were just deleted.
    """
    for _ in range(setup.NETWORK_TRIES - 1):
        try:
            incus.run(word, "delete", name, timeout=120)
        except clincus.IncusError as error:
            if error.kind is not clincus.FailureKind.INTERFACE_GONE:
                raise
        else:
            return
    incus.run(word, "delete", name, timeout=120)


def is_marked(thing: Mapping[str, Any]) -> bool:
    """True if setup made a network or a pool."""
    return (thing.get("config") or {}).get(MADE_KEY) == "true"


def is_bridge(network: Mapping[str, Any]) -> bool:
    """True if setup made a network: by its label or, before it wrote one, by a name that only we use."""
    base = SETUP_BRIDGE.rstrip("0123456789")
    name = str(network["name"])
    is_named = name.startswith(base) and name[len(base) :].isdecimal()
    return bool(network.get("managed")) and (is_marked(network) or is_named)


def is_ours(path: str, sessions: set[str]) -> bool:
    """True if the user of a bridge, a pool or the default profile goes with the other parts: a session, the profile."""
    kind, _, name = path.removeprefix("/1.0/").partition("/")
    return (kind, name) == ("profiles", "default") or (kind == "instances" and name in sessions) or kind == "images"


def is_listening(port: int) -> bool:
    """True if a program listens at a port of this machine."""
    import socket

    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def remove_all(paths: Iterable[str]) -> None:
    """Remove folders of ours with their content. Raises OSError."""
    for path in paths:
        shutil.rmtree(path)


def part_text(part: Part) -> str:
    """A part in words: its name, the reason why it has to stay, and the command that removes it."""
    kept = f" ({part.kept})" if part.kept else ""
    return f"{clincus.printable(part.what)}{kept}\n  $ {clincus.printable(part.command)}"


def is_removed(part: Part, *, yes: bool) -> bool:
    """Ask for one part and remove it; False if it is still there."""
    if part.kept:
        console.say(part_text(part))
        return False
    if not console.confirm(f"Remove {clincus.printable(part.what)}?", yes=yes):
        return False
    try:
        part.remove()
    except (clincus.ClincusError, OSError) as error:
        console.warn(f"{part.what}: {error}")
        return False
    console.say(f"Removed {clincus.printable(part.what)}")
    return True
