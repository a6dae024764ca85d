"""Builds images: the standard one, from this host's packages or another image, and a user's own by a script."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import cast
from urllib.parse import quote

import clincus
from clincus_cli import containers, images
from clincus_cli.host import Host, Say, hand_on_lines, program_failure
from clincus_cli.recipe import (
    TOOL_PACKAGES,
    WORK_FOLDER,
    ImageFile,
    Recipe,
    host_recipe,
    pack_image_files,
)
from clincus_features.network.outside import in_both_cases, proxy_settings

SETUP_BRIDGE = "clincusbr0"
VERSIONS_KEPT = 3  # images of one alias, the newest included

LACKS = "the image is without"  # the beginning of a note about a tool
TRIES_AGAIN = "`clincus build --force` tries again"
FOREIGN_TLS = (
    "If a proxy of your network opens TLS, put its certificate into /usr/local/share/ca-certificates, run "
    "`sudo update-ca-certificates`, then `clincus build --force`"
)


@dataclass(frozen=True)
class SetupOptions:
    """The aims of setup and build; the defaults are those of the config."""

    image: str = "clincus"
    project: str = "default"
    group: str = "incus-admin"
    user: str = "code"
    uid: int = 1000
    tools: tuple[str, ...] = tuple(TOOL_PACKAGES)
    bridge: str = SETUP_BRIDGE
    subnet: str = ""  # CIDR of the bridge's own address; empty: the first free one
    recipe: Recipe | None = None  # instead of the standard image
    cache: Path | None = None  # the folder that keeps that recipe's file system for the next time


@dataclass(frozen=True)
class BuildContext:
    """The means of every build."""

    incus: clincus.Incus
    host: Host
    say: Say
    prefix: str  # of the names of containers


@dataclass(frozen=True)
class Built:
    """The outcome of a build; `notes` are sentences for the user."""

    alias: str
    fingerprint: str
    skipped: bool = False
    version: str = ""  # the alias that stays when `alias` moves on
    notes: tuple[str, ...] = ()


# -- Images and aliases in Incus


def image_fingerprint(incus: clincus.Incus, alias: str) -> str:
    """The fingerprint of the image that an alias points to, "" if there is no such alias."""
    try:
        return str(incus.query(f"/1.0/images/aliases/{quote(alias, safe='')}")["target"])
    except clincus.IncusError as error:
        if error.status != 404:
            raise
        return ""


def point_alias(incus: clincus.Incus, alias: str, fingerprint: str) -> None:
    """Let an alias point to an image, in one step if it pointed to another one."""
    body = {"target": fingerprint, "description": ""}
    if image_fingerprint(incus, alias):
        incus.query(f"/1.0/images/aliases/{quote(alias, safe='')}", "PUT", body)
    else:
        incus.query("/1.0/images/aliases", "POST", {**body, "name": alias})


def version_alias(alias: str, now: float) -> str:
    """The alias of one build, such as clincus-20270301-080000 (UTC)."""
    return f"{alias}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"


def prune_versions(incus: clincus.Incus, alias: str, keep: int) -> list[str]:
    """Delete all builds of an alias except the newest `keep`. Returns the deleted version aliases.

    An image that has another alias stays, and so does one that clincus did not build. The newest image has two: its
    version alias and the alias itself.
    """
    pattern = re.compile(re.escape(alias) + r"-\d{8}-\d{6}")
    found = []
    for image in incus.query("/1.0/images?recursion=1") or ():
        names = [str(entry["name"]) for entry in image.get("aliases") or []]
        if len(names) == 1 and pattern.fullmatch(names[0]) and "clincus.recipe" in image.get("properties", {}):
            found.append((names[0], str(image["fingerprint"])))
    gone = sorted(found, reverse=True)[max(0, keep - 1) :]
    for _, fingerprint in gone:
        images.delete_image(incus, fingerprint)
    return [name for name, _ in gone]


def unpack_image(incus: clincus.Incus, fingerprint: str) -> None:
    """Let a copy-on-write pool unpack an image now: otherwise the first instance of the image would wait for that."""
    devices = incus.query("/1.0/profiles/default")["devices"].values()
    pool = next((str(device["pool"]) for device in devices if device.get("path") == "/"), "")
    if not pool or incus.query(f"/1.0/storage-pools/{quote(pool, safe='')}")["driver"] == "dir":
        return
    name = f"clincus-unpack-{secrets.token_hex(4)}"
    try:
        incus.run("create", "--quiet", fingerprint, name, timeout=600)
    finally:
        with suppress(clincus.IncusError):
            incus.run("delete", "--force", name)


def put_in_force(build: BuildContext, alias: str, version: str, notes: tuple[str, ...] = ()) -> Built:
    """Let an alias point to the image that was just made under a version alias, and prune older ones."""
    fingerprint = image_fingerprint(build.incus, version)
    build.say("unpacking the image, so that the first session starts at once")
    unpack_image(build.incus, fingerprint)
    point_alias(build.incus, alias, fingerprint)
    prune_versions(build.incus, alias, VERSIONS_KEPT)
    return Built(alias, fingerprint, version=version, notes=notes)


# -- The output of a build

# The words that mmdebstrap prints when a stage begins, and those for the user.
BUILD_STAGES = {
    "I: running apt-get update": "reading the package lists",
    "I: downloading packages": "downloading the base system",
    "I: extracting archives": "unpacking the base system",
    "I: installing essential": "installing the base system",
    "I: installing remaining": "installing packages",
    "I: cleaning package lists": "cleaning up",
    "I: creating tarball": "packing the image",
}
BUILD_TIME = 3600.0  # seconds that one program of a build may take
BUILD_EPOCH = "1577836800"  # files get this time at the latest (2020-01-01): the same packages give the same bytes


@dataclass
class BuildOutput:
    """Reads the output of a build: reports each stage to the user, and keeps fetch-tools.sh's report on the tools."""

    say: Say
    versions: dict[str, str] = field(default_factory=dict)  # tool -> version that was fetched
    missing: dict[str, str] = field(default_factory=dict)  # tool -> the reason why it could not be fetched

    def on_line(self, line: str) -> None:
        """Take in one line."""
        report = re.fullmatch(r"clincus: (fetching|tool|missing) (\S+) ?(.*)", line)
        if report:
            word, name, text = report.groups()
            if word == "fetching":
                self.say(f"fetching {name}")
            else:
                {"tool": self.versions, "missing": self.missing}[word][name] = text or "unknown"
        for mark, words in BUILD_STAGES.items():
            if line.startswith(mark):
                self.say(words)

    def properties(self) -> dict[str, str]:
        """The image properties that record the tools."""
        return {
            "clincus.tools": " ".join(f"{name}={version}" for name, version in sorted(self.versions.items())),
            "clincus.missing": " ".join(sorted(self.missing)),
        }

    def notes(self) -> tuple[str, ...]:
        """A sentence for each tool that could not be fetched."""
        return tuple(
            f"{LACKS} {name}: {reason}. {FOREIGN_TLS if 'certificate' in reason else TRIES_AGAIN}"
            for name, reason in sorted(self.missing.items())
        )


# -- An image from this host's packages


def image_metadata(recipe: Recipe, properties: Mapping[str, str], created: int) -> bytes:
    """The metadata archive of a split image (Incus, "Image format"); `created` is in seconds since 1970."""
    system = recipe.distribution.capitalize()
    own = {"os": system, "release": recipe.suite, "description": f"clincus: {system} {recipe.suite}"}
    document = {
        "architecture": os.uname().machine,
        "creation_date": created,
        "properties": {**own, "clincus.recipe": recipe.key(), "clincus.user": recipe.user, **properties},
    }
    # JSON is YAML too.
    return pack_image_files([ImageFile("/metadata.yaml", json.dumps(document, indent=1).encode())])


def mmdebstrap_argv(recipe: Recipe, files: Path, commands: Iterable[Sequence[str]], target: Path) -> list[str]:
    """The command line that builds the recipe's file system; `files` is a tar archive of the recipe's files."""
    argv = ["mmdebstrap", "--variant=minbase", f"--include={','.join(recipe.packages)}"]
    argv += ["--dpkgopt=force-unsafe-io", "--skip=output/dev", "--format=tar"]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "info", "locale")]
    if recipe.distribution == "ubuntu":
        argv.append("--components=main,universe")
    hooks = [f"tar-in {shlex.quote(str(files))} /", *(f'chroot "$1" {shlex.join(command)}' for command in commands)]
    # mmdebstrap copies these from the host; each container gets its own.
    hooks.append('rm -f "$1"/etc/hostname; : > "$1"/etc/resolv.conf')
    return [*argv, *(f"--customize-hook={hook}" for hook in hooks), recipe.suite, str(target), *recipe.mirrors]


def build_rootfs(host: Host, recipe: Recipe, target: Path, output: BuildOutput, *, npmrc: bytes = b"") -> None:
    """Build the recipe's file system into `target`, a tar archive packed with zstd. Raises ClincusError.

    mmdebstrap(1) does it as root or, without root, in a user namespace (its mode "unshare").
    """
    files, commands = recipe.contents(npmrc)
    # Only we may read the folder.
    with tempfile.TemporaryDirectory(prefix="clincus-build-", dir=str(target.parent)) as folder:
        archive = Path(folder, "files.tar")
        part = Path(folder, target.name)
        archive.write_bytes(pack_image_files(files))
        # mmdebstrap starts zstd(1), which reads its level and threads here: the image is unpacked only once.
        environ = {"SOURCE_DATE_EPOCH": BUILD_EPOCH, "ZSTD_CLEVEL": "1", "ZSTD_NBTHREADS": "0"}
        argv = mmdebstrap_argv(recipe, archive, commands, part)
        host.follow(argv, output.on_line, timeout=BUILD_TIME, env=environ)
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())  # else a power cut could leave the name with half the bytes
        os.replace(part, target)
    clincus.sync_directory(str(target.parent))


def build_from_host(
    build: BuildContext, recipe: Recipe, alias: str, *, npmrc: bytes = b"", cache: Path | None = None
) -> Built:
    """Build the recipe's image from this host's packages and give it the alias. Raises ClincusError.

    With `cache` the packed file system is kept in that folder under the recipe's key and used again.
    """
    now = time.time()
    version = version_alias(alias, now)
    output = BuildOutput(build.say)
    with tempfile.TemporaryDirectory(prefix="clincus-", dir="/var/tmp") as folder:
        rootfs = (cache or Path(folder)) / f"image-{recipe.key()}.tar.zst"
        if not rootfs.exists():
            rootfs.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            build_rootfs(build.host, recipe, rootfs, output, npmrc=npmrc)
        metadata = Path(folder, "metadata.tar")
        metadata.write_bytes(image_metadata(recipe, output.properties(), int(now)))
        build.say("handing the image to Incus")
        build.incus.run("image", "import", "--quiet", str(metadata), str(rootfs), f"--alias={version}", timeout=600)
    return put_in_force(build, alias, version, output.notes())


# -- An image out of another image

# The wait is short: a script that needs no network must not fail without one.
WAIT_FOR_NETWORK = "for i in $(seq 100); do grep -q '^[^ \t]*\t00000000\t' /proc/net/route && exit; sleep 0.1; done"


@contextmanager
def build_container(build: BuildContext, base: str) -> Iterator[str]:
    """Start a container of an image, wait for its network, and yield its name. The container is always removed."""
    incus = build.incus
    name = f"{build.prefix}build-{secrets.token_hex(4)}"
    build.say(f"starting a container of '{base}'")
    try:
        incus.launch(name, base, {"config": {"user.clincus.build": "true", "boot.autostart": "false"}}, timeout=900)
        incus.exec(name, ["sh", "-c", WAIT_FOR_NETWORK], timeout=60)
        yield name
    finally:
        containers.delete_instance(incus, name)


def fill_container(
    build: BuildContext, container: str, files: Iterable[ImageFile], commands: Iterable[Sequence[str]], on_line: Say
) -> None:
    """Put files in their places in a build container, then run commands there as root. Raises ClincusError."""
    # On stdin, since files may be secret.
    done = build.incus.exec(container, ["tar", "-x", "-C", "/"], stdin=pack_image_files(files))
    if done.code != 0:
        raise clincus.ClincusError(f"could not unpack files in the build container: {done.reason}")
    variables = {"HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
    # On stdin as well, since they may hold a password: Incus writes a command's environment into its events.
    proxies = clincus.shell_assignments(in_both_cases(proxy_settings(os.environ))).encode()
    for command in commands:
        merged = ["sh", "-c", 'set -a; eval "$(cat)"; set +a; exec "$@" 2>&1 </dev/null', "sh", *command]
        with build.incus.running_command(container, merged, BUILD_TIME, environment=variables) as running:
            running.feed([proxies])
            errors = clincus.Collector(running, running.stderr)
            words = hand_on_lines(cast("BufferedReader", running.stdout), on_line)
            code = running.wait([errors])
        if code != 0 or not running.is_whole:
            name = next(word for word in command if word != "sh")
            raise program_failure(f"{name} in the build container", code or 1, words)


def publish(build: BuildContext, container: str, alias: str, properties: Mapping[str, str]) -> str:
    """Stop a container and make an image of it. Returns the version alias that the image got."""
    build.say("stopping the container")
    build.incus.run("stop", container, "--timeout=30", timeout=60)
    build.say("packing the image")
    version = version_alias(alias, time.time())
    images.publish(build.incus, container, version, properties)
    return version


def build_from_image(build: BuildContext, recipe: Recipe, alias: str, *, npmrc: bytes = b"") -> Built:
    """Make the standard image out of another Debian or Ubuntu image, such as images:debian/13. Raises ClincusError."""
    output = BuildOutput(build.say)
    with build_container(build, recipe.base) as container:
        if build.incus.exec(container, ["sh", "-c", "command -v apt-get"]).code != 0:
            raise clincus.ClincusError(f"the image '{recipe.base}' has no apt-get: give one of Debian or Ubuntu", 400)
        build.say("installing packages")
        files, commands = recipe.contents(npmrc)
        fill_container(build, container, files, [*apt_commands(recipe.packages), *commands], output.on_line)
        properties = {
            "description": f"clincus: from {recipe.base}",
            "clincus.recipe": recipe.key(),
            "clincus.user": recipe.user,
            **output.properties(),
        }
        version = publish(build, container, alias, properties)
    return put_in_force(build, alias, version, output.notes())


def apt_commands(packages: Sequence[str]) -> list[list[str]]:
    """The commands that install packages of Debian or Ubuntu."""
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    return [["apt-get", "update", "-qq"], install, ["apt-get", "clean"]]


def build_custom(build: BuildContext, alias: str, script: bytes, *, base: str, force: bool) -> Built:
    """Make an image by running a script as root in a container of `base`. Raises ClincusError.

    An existing alias is left alone unless `force`.
    """
    incus = build.incus
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", alias):
        raise clincus.ClincusError(f"'{alias}' cannot be the name of an image: use letters, digits, dots, - and _", 400)
    found = image_fingerprint(incus, alias)
    if found and not force:
        return Built(alias, found, skipped=True)
    known = base if ":" in base else image_fingerprint(incus, base)
    if not known:
        raise clincus.ClincusError(f"the base image '{base}' does not exist; `clincus build` makes 'clincus'", 404)
    with build_container(build, base) as container:
        program = f"{WORK_FOLDER}/script"
        command = [program] if script.startswith(b"#!") else ["sh", program]
        build.say("running the script")
        files = [ImageFile(program, script, 0o700)]
        fill_container(build, container, files, [command, ["rm", "-rf", WORK_FOLDER]], build.say)
        properties = {
            "description": f"clincus: {alias}, made from {base}",
            "clincus.recipe": hashlib.sha256(known.encode() + script).hexdigest()[:16],
        }
        version = publish(build, container, alias, properties)
    return put_in_force(build, alias, version)


# -- The standard image


def build_standard(
    build: BuildContext, options: SetupOptions, environ: Mapping[str, str], *, force: bool = False, source: str = "host"
) -> Built:
    """Make the standard image, from this host's packages or from another image. Raises ClincusError.

    An existing image is left alone unless `force`, with a note if it came from another recipe.
    """
    host = build.host
    recipe = options.recipe or host_recipe(
        host, environ, tools=options.tools, user=options.user, uid=options.uid, source=source
    )
    found = image_fingerprint(build.incus, options.image)
    if found and not force:
        made = build.incus.query(f"/1.0/images/{found}")["properties"].get("clincus.recipe")
        note = f"the image '{options.image}' is of another recipe; `clincus build --force` makes it anew"
        return Built(options.image, found, skipped=True, notes=() if made == recipe.key() else (note,))
    # The npm configuration of the person who builds (with sudo: not root's), so that a private registry works.
    npmrc = host.read(os.path.expanduser(f"~{environ.get('SUDO_USER', '')}/.npmrc")).encode()
    if recipe.base:
        return build_from_image(build, recipe, options.image, npmrc=npmrc)
    if not host.which("mmdebstrap") or not host.which("zstd"):
        raise clincus.ClincusError("mmdebstrap and zstd build the image and are not installed: run `clincus setup`")
    return build_from_host(build, recipe, options.image, npmrc=npmrc, cache=options.cache)
