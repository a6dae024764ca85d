"""`engine list|add|check`: the Incus servers and clusters elsewhere on which sessions can run."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence

import clincus
from clincus_cli import TYPE_CHECKING, console
from clincus_cli import commands as cli
from clincus_cli.context import Context

if TYPE_CHECKING:
    from typing import Any

    from clincus_features.engines import Facts

CONNECT_TIMEOUT = 10  # seconds for each address of an engine
IMAGE_TIMEOUT = 1800  # seconds for an image to be copied: some hundred megabytes over a person's network
NEW_TOKEN = "ask for a new one, which `incus config trust add NAME` prints on that host"

ADD_FLAGS = (
    cli.Flag("--project NAME", "the Incus project there (default: default)", default=""),
    cli.Flag("--target MEMBER", "cluster member, or @ and a group, for new sessions (default: any)", default=""),
    cli.Flag("--root PATH", "folder of that host below which workspaces may be mounted", repeats=True),
    cli.Flag("--image ALIAS", "image to copy there and to use (default: the config's)", default=""),
    cli.Flag("--copy-image", "copy the image if it is not there (default; off: --copy-image=false)", default=True),
)


@cli.Command("engine list", cli.format_flag("text", "json"))
def run_engine_list(context: Context) -> int:
    """List the engines of the config

    $ clincus engine list --format json  # For a program.
    """
    from clincus_features.engines import ask_facts

    found = context.each_engine(ask_facts, here=False)
    rows: Mapping[str, Mapping[str, Any]] = context.config.get("engines")
    entries = [entry_of(name, row, found[name]) for name, row in sorted(rows.items())]
    if not entries:
        console.say("There are no engines: sessions run on this host. `clincus engine add` adds one.")
    shown = [(one["name"], one["kind"], one["project"], one["version"], one["state"]) for one in entries]
    lines = [console.table(("NAME", "KIND", "PROJECT", "INCUS", "STATE"), shown)] if shown else []
    return context.show(entries, lines)


def entry_of(name: str, row: Mapping[str, Any], said: Facts | clincus.ClincusError) -> dict[str, Any]:
    """An engine in `engine list --format json`."""
    from clincus_features.engines import Facts

    is_reached = not isinstance(said, clincus.ClincusError)
    known = said if isinstance(said, Facts) else Facts()
    state = state_words(known) if is_reached else str(said)
    return {
        "name": name,
        "kind": "cluster" if known.is_cluster else "remote",
        "remote": row.get("remote") or name,
        "project": row.get("project") or "default",
        "target": row.get("target", ""),
        "roots": list(row.get("roots", [])),
        "version": known.version,
        "members": [{"name": member, "status": status} for member, status, _ in known.members],
        "reachable": is_reached,
        "state": state,
    }


def state_words(known: Facts) -> str:
    """The state of a reachable engine in words, with the members that are down."""
    words = f"{len(known.members)} members" if known.members else "reachable"
    down = [member for member, status, _ in known.members if status != "Online"]
    if down:
        words += f", down: {', '.join(down)}"
    return words


@cli.Command("engine add NAME [TOKEN]", *ADD_FLAGS, cli.RESULT_JSON, writes=True)
def run_engine_add(context: Context) -> int:
    """Add an Incus server or cluster elsewhere as an engine

    TOKEN is the output of `incus config trust add` there. With `--projects P --restricted`, it is for one project,
    which is enough. With -, the command reads it from stdin, at a terminal without an echo, which keeps it out of your
    shell's history. The token holds the fingerprint of the server's certificate, so Clincus talks to no other server.
    Without TOKEN, NAME must be a remote in `incus remote list`.

    $ clincus engine add tower -  # Ask for the token, trust it, copy the image, write [engines.tower], and check.
    $ clincus engine add tower --root /srv/projects  # The remote is there already; folders of it may be mounted.

    Exits: 0 the engine works; 1 it does not, and the output says why
    """
    from clincus_cli.build import image_fingerprint

    options = context.options
    name = context.options.name
    if not re.fullmatch(clincus.ENGINE_NAME, name):
        raise cli.UsageError(f"invalid name '{name}': an engine's name has small letters, digits and -")
    if name in context.config.get("engines"):
        raise clincus.ClincusError(f'there is an engine "{name}" already: edit [engines.{name}] of your config', 409)
    token = read_token() if options.token == "-" else options.token
    if token:
        add_remote(context.incus, name, token, options.project, context.environ)
    restrict_key(context.environ)
    given = {"project": options.project, "target": options.target, "image": options.image, "roots": [*options.root]}
    row = {key: value for key, value in given.items() if value}
    incus = clincus.Incus(options.project or "default", engine=name, remote=name)
    try:
        incus.query("/1.0", timeout=clincus.READ_TIMEOUT)
    except clincus.IncusError as error:
        if error.kind is not clincus.FailureKind.NO_REMOTE:
            raise
        words = f'there is no remote "{name}": give the TOKEN that `incus config trust add` prints on that host'
        raise clincus.ClincusError(words, 404) from error
    image = options.image or context.config.get("defaults.image")
    if options.copy_image and not image_fingerprint(incus, image):
        give_image(context, incus, image)
    path = write_engine(context.environ, name, row)
    console.say(f'Added the engine "{name}" to {path}')
    return report(context, examine(incus, image, row.get("roots", [])))


def read_token() -> str:
    """The token from stdin, or as a person pastes it at the terminal, which does not show it.

    Raises ClincusError(400) for an empty one.
    """
    if sys.stdin.isatty():
        import getpass

        token = getpass.getpass("Token: ")
    else:
        token = sys.stdin.readline()
    if not token.strip():
        raise clincus.ClincusError(f"there is no token on stdin: {NEW_TOKEN}", 400)
    return token.strip()


def give_image(context: Context, incus: clincus.Incus, alias: str) -> bool:
    """Copy this host's image of an alias to an engine, in place of the one there. True if there was anything to copy.

    The image whose place it takes is deleted, unless it has another name. Raises ClincusError.
    """
    from clincus_cli import images
    from clincus_cli.build import image_fingerprint, point_alias

    ours = image_fingerprint(context.incus, alias)
    theirs = image_fingerprint(incus, alias)
    if not ours:
        raise clincus.ClincusError(f'the image "{alias}" is not on this host: `clincus build` makes it', 404)
    if ours == theirs:
        return False
    if ours not in [one["fingerprint"] for one in incus.query("/1.0/images?recursion=1") or ()]:
        with console.progress(f'Copying the image "{alias}" to {incus.engine}'):
            words = "--quiet", f"--target-project={incus.project}", "--mode=relay"
            context.incus.run("image", "copy", alias, f"{incus.remote}:", *words, timeout=IMAGE_TIMEOUT)
    point_alias(incus, alias, ours)
    if theirs and not incus.query(f"/1.0/images/{theirs}")["aliases"]:
        images.delete_image(incus, theirs)
    return True


@cli.Command("engine update NAME", cli.RESULT_JSON)
def run_engine_update(context: Context) -> int:
    """Give an engine this host's image, after a build

    Sessions that were started there before keep their image until they are deleted.

    $ clincus build && clincus engine update tower  # New sessions on tower start from the new image.
    """
    incus = clincus.engine_door(context.config, context.options.name)
    image = engine_image(context, incus.engine)
    is_new = give_image(context, incus, image)
    words = "starts new sessions from it now" if is_new else "has it already"
    document = {"engine": incus.engine, "image": image, "copied": is_new}
    return context.report(f'The image "{image}": {incus.engine} {words}', document)


def engine_image(context: Context, engine: str) -> str:
    """The alias of the image that sessions on an engine start from."""
    return str(context.config.get("engines")[engine].get("image") or context.config.get("defaults.image"))


def add_remote(incus: clincus.Incus, name: str, token: str, project: str, environ: Mapping[str, str]) -> None:
    """Let the `incus` command and a server trust each other. Raises ClincusError with advice.

    The token goes to `incus` on stdin: every user of this machine can read its arguments. In that form it does not
    compare the server with the token, so this does, and puts the certificate where `incus` reads the only one that it
    accepts (shared/cliconfig/remote.go).
    """
    import base64
    import hashlib
    import json
    import ssl

    try:
        document = json.loads(base64.b64decode(token, validate=True))
        addresses = [str(address) for address in document["addresses"]]
        fingerprint = str(document["fingerprint"])
    except (ValueError, TypeError, KeyError):
        raise clincus.ClincusError(f"that is no token: {NEW_TOKEN}", 400) from None
    if name in json.loads(incus.run("remote", "list", "--format=json")):
        hint = f"`clincus engine add {name}` without a token takes it; or remove it with `incus remote remove {name}`"
        raise clincus.ClincusError(f'there is a remote "{name}" already: {hint}', 409)
    address, certificate = first_certificate(addresses)
    if hashlib.sha256(certificate).hexdigest() != fingerprint:
        hint = f"its certificate is another one. Is the address still its own? Then {NEW_TOKEN}"
        raise clincus.ClincusError(f"{address} is not the server that the token is for: {hint}", 400)
    path = os.path.join(client_folder(environ), "servercerts", f"{name}.crt")
    os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
    clincus.replace_file(path, ssl.DER_cert_to_PEM_cert(certificate).encode(), 0o644)
    project_flag = [f"--project={project}"] if project else []
    try:
        incus.run("remote", "add", name, f"https://{address}", *project_flag, stdin=f"{token}\n".encode(), timeout=60)
    except clincus.IncusError as error:
        os.unlink(path)
        if error.kind is clincus.FailureKind.OTHER_PROJECT:
            hint = f"name it: `clincus engine add {name} - --project PROJECT`"
            raise clincus.ClincusError(f"the token is for certain projects only: {hint}", 400) from error
        if error.kind is clincus.FailureKind.BAD_TOKEN:
            raise clincus.ClincusError(f"the token is not good any more ({error}): {NEW_TOKEN}", 400) from error
        raise


def first_certificate(addresses: list[str]) -> tuple[str, bytes]:
    """The first of some addresses (HOST:PORT) at which a server answers, and its certificate as DER.

    Raises ClincusError(503) if none answers.
    """
    import socket
    import ssl

    trusting = ssl.create_default_context()
    trusting.check_hostname = False  # the caller compares the certificate with a fingerprint
    trusting.verify_mode = ssl.CERT_NONE
    reasons = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT)
            with connection, trusting.wrap_socket(connection) as secured:
                return address, secured.getpeercert(binary_form=True) or b""
        except (OSError, ValueError) as error:
            reasons.append(f"{address}: {error}")
    where = "; ".join(reasons) or "the token names no address"
    advice = (
        "is it on, and does its firewall let this machine in? `incus config get core.https_address` there has its port"
    )
    raise clincus.ClincusError(f"the server of the token does not answer ({where}): {advice}", 503)


def client_folder(environ: Mapping[str, str]) -> str:
    """The folder in which the `incus` command keeps its remotes, its key and the certificates that it trusts."""
    return environ.get("INCUS_CONF") or clincus.expand("~/.config/incus", environ)


def restrict_key(environ: Mapping[str, str]) -> None:
    """Let nobody else read the client's key: it opens everything that the engines allow."""
    path = os.path.join(client_folder(environ), "client.key")
    if os.path.exists(path) and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        os.chmod(path, 0o600)
        console.warn(f"{path} was open to others: its mode is 0600 now")


def write_engine(environ: Mapping[str, str], name: str, row: Mapping[str, object]) -> str:
    """Append the table of an engine to the user's config file, and return its path."""
    import json

    return append_table(environ, [f"[engines.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in row.items())])


def append_table(environ: Mapping[str, str], lines: Sequence[str]) -> str:
    """Append the lines of a table to the user's config file, and return its path."""
    paths = clincus.user_configs(environ)
    path = next((one for one in paths if os.path.exists(one)), paths[0])
    text = (clincus.read_text(path, 1 << 20) or "") if os.path.exists(path) else ""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    whole = f"{text.rstrip()}\n\n" if text.strip() else ""
    mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o600
    clincus.replace_file(os.path.realpath(path), (whole + "\n".join(lines) + "\n").encode(), mode)
    return path


@cli.Command("engine check NAME", cli.format_flag("text", "json"))
def run_engine_check(context: Context) -> int:
    """Show what an engine can do, and what it cannot do

    $ clincus engine check tower  # Does it answer, trust this host and have the image? What does its project forbid?

    Exits: 0 sessions can run there; 1 they cannot
    """
    from clincus_cli.build import image_fingerprint

    incus = clincus.engine_door(context.config, context.options.name)
    row = context.config.get("engines")[context.options.name]
    image = engine_image(context, incus.engine)
    restrict_key(context.environ)
    try:
        ours = image_fingerprint(context.incus, image)
    except clincus.IncusError:  # this host need not have an Incus of its own
        ours = ""
    return report(context, examine(incus, image, row.get("roots", []), ours))


# One fact about an engine; `status` is "ok", "note" or "failed".
Finding = namedtuple("Finding", ("status", "words"))


def report(context: Context, findings: Iterator[Finding]) -> int:
    """Print findings as they come, or all as JSON; returns the exit code: 1 if one failed."""
    marks = {"ok": "✓", "note": "·", "failed": "✗"}
    found = []
    for finding in findings:
        found.append(finding)
        if not context.prints_json:
            print(f"{marks[finding.status]} {clincus.printable(finding.words)}", flush=True)
    context.show({"findings": [finding._asdict() for finding in found]}, [])
    return 1 if any(finding.status == "failed" for finding in found) else 0


def examine(incus: clincus.Incus, image: str, roots: list[str], ours: str = "") -> Iterator[Finding]:
    """The findings about an engine. A failure that hides the rest is the last one.

    `ours` is the fingerprint of the image on this host.
    """
    from urllib.parse import quote

    from clincus_cli.build import image_fingerprint
    from clincus_features.engines import ask_facts

    try:
        facts = ask_facts(incus)
        project = incus.query(f"/1.0/projects/{quote(incus.project, safe='')}", timeout=clincus.READ_TIMEOUT)
    except clincus.IncusError as error:
        where = f'the project "{incus.project}" is not there, or not for us' if error.status == 404 else str(error)
        yield Finding("failed", where)
        return
    yield Finding("ok", f"Incus {facts.version} answers, and trusts this machine")
    for name, status, _ in facts.members:
        yield Finding("ok" if status == "Online" else "note", f"member {name}: {status.lower()}")
    yield from project_findings(project.get("config") or {}, incus.project, roots)
    reason = clincus.protect.protection_support(incus).reason
    if roots:
        words = (
            "a folder that is mounted there is locked" if not reason else f"a mounted folder is not protected: {reason}"
        )
        yield Finding("note" if reason else "ok", words)
    theirs = image_fingerprint(incus, image)
    if not theirs:
        yield Finding("failed", f'the image "{image}" is not there: `clincus engine update {incus.engine}` copies it')
    elif ours not in ("", theirs):
        words = f'the image "{image}" there is another one than here: `clincus engine update {incus.engine}` copies it'
        yield Finding("note", words)
    else:
        yield Finding("ok", f'the image "{image}" is there')
    devices = incus.query("/1.0/profiles/default", timeout=clincus.READ_TIMEOUT).get("devices") or {}
    if not any(device.get("path") == "/" for device in devices.values()):
        yield Finding("failed", "its default profile has no root disk, so no container can be made")
    if not any(device.get("type") == "nic" for device in devices.values()):
        yield Finding("note", "its default profile has no network: tools there reach nothing outside")


# A restricted project forbids these unless it says otherwise; the words are what sessions then lack. See
# https://linuxcontainers.org/incus/docs/main/reference/projects/, "Project restrictions".
RESTRICTIONS = {
    "restricted.containers.nesting": ("allow", "no containers in a session (security.nesting)"),
    "restricted.containers.lowlevel": ("allow", "no locked workspace, and no conversation read from a stopped session"),
    "restricted.snapshots": ("allow", "no snapshots"),
    "restricted.devices.proxy": ("allow", "no previews of ports"),
}


def project_findings(config: Mapping[str, str], project: str, roots: list[str]) -> Iterator[Finding]:
    """The consequences of a project's restrictions for sessions. Pure."""
    if config.get("restricted") != "true":
        yield Finding("note", f'the project "{project}" is not restricted: a certificate for it may do all in it')
        return
    lost = [words for key, (value, words) in RESTRICTIONS.items() if config.get(key) != value]
    yield Finding("ok", f'the project "{project}" is restricted' + (f": {'; '.join(lost)}" if lost else ""))
    if roots and config.get("restricted.devices.disk", "managed") != "allow":
        yield Finding("failed", "its project forbids to mount folders of that host (restricted.devices.disk=allow)")
