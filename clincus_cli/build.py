"""Part of the command line."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import secrets
import tempfile
import time
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import clincus
from clincus_cli.host import Host
from clincus_cli.host import Say
from clincus_cli.recipe import TOOL_PACKAGES
from clincus_cli.recipe import ImageFile
from clincus_cli.recipe import Recipe
from clincus_cli.recipe import host_files
from clincus_cli.recipe import host_recipe
from clincus_cli.recipe import npm_cpu
from clincus_cli.recipe import pack_image_files
from clincus_cli.recipe import proxy_settings
from clincus_cli.rootfs import BuildNotes
from clincus_cli.rootfs import build_rootfs
from clincus_cli.rootfs import image_fingerprint
from clincus_cli.rootfs import image_metadata
from clincus_cli.rootfs import import_rootfs

# ---- the steps -----------------------------------------------------------------------------------------------

SETUP_BRIDGE = "clincusbr0"


@dataclass(frozen=True)
class SetupOptions:
    """What setup and build aim for; the defaults are those of the config."""

    image: str = "clincus"
    project: str = "default"
    group: str = "incus-admin"
    user: str = "code"
    uid: int = 1000
    tools: tuple[str, ...] = tuple(TOOL_PACKAGES)
    bridge: str = SETUP_BRIDGE
    subnet: str = ""  # CIDR of the bridge's own address; empty: the first free one
    recipe: Recipe | None = None  # instead of the standard image
    cache: Path | None = None  # where that recipe's file system is kept for the next time


def user_npmrc(host: Host, environ: Mapping[str, str]) -> bytes:
    """The npm configuration of the person who builds (with sudo: not root's), so that a private registry works."""
    home = environ.get("HOME", "/root")
    if environ.get("SUDO_USER"):
        with contextlib.suppress(KeyError):
            home = pwd.getpwnam(environ["SUDO_USER"]).pw_dir
    return host.read(f"{home}/.npmrc").encode()


@dataclass(frozen=True)
class Built:
    """The outcome of a build; `notes` are sentences for the user."""

    alias: str
    fingerprint: str
    skipped: bool = False
    version: str = ""  # the alias that stays when `alias` moves on
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The document that `build custom` prints; a skipped build has no fingerprint."""
        document: dict[str, object] = {"alias": self.alias, "skipped": self.skipped}
        return document if self.skipped else {**document, "fingerprint": self.fingerprint}


def version_alias(alias: str, now: float) -> str:
    """The alias of one build, such as clincus-20270301-080000 (UTC)."""
    return f"{alias}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"


VERSIONS_KEPT = 3  # images of one alias, the newest included


def missing_notes(notes: BuildNotes) -> tuple[str, ...]:
    """A sentence for each tool that could not be fetched."""
    return tuple(
        f"the image is without {name}: {reason}. `clincus build --force` tries again"
        for name, reason in sorted(notes.missing.items())
    )


def point_alias(incus: clincus.Incus, alias: str, fingerprint: str) -> None:
    """Let an alias stand for an image, in one step when it stood for another."""
    body = {"target": fingerprint, "description": ""}
    if image_fingerprint(incus, alias):
        incus.query(f"/1.0/images/aliases/{quote(alias, safe='')}", "PUT", body)
    else:
        incus.query("/1.0/images/aliases", "POST", {**body, "name": alias})


def prune_versions(incus: clincus.Incus, alias: str, keep: int) -> list[str]:
    """Delete the oldest builds of an alias beyond `keep`; the version aliases that went.

    An image that has any other alias, or that clincus did not build, is left alone.
    """
    pattern = re.compile(re.escape(alias) + r"-\d{8}-\d{6}")
    found = []
    for image in incus.query("/1.0/images?recursion=1") or ():
        names = [str(entry["name"]) for entry in image.get("aliases") or []]
        if len(names) == 1 and pattern.fullmatch(names[0]) and "clincus.recipe" in image.get("properties", {}):
            found.append((names[0], str(image["fingerprint"])))
    newest_first = sorted(found, reverse=True)
    # The image that the alias itself stands for has two names, so it is not among them.
    gone = newest_first[max(0, keep - 1) :]
    for _, fingerprint in gone:
        incus.query(f"/1.0/images/{fingerprint}", "DELETE", wait=True)
    return [name for name, _ in gone]


def unpack_image(incus: clincus.Incus, fingerprint: str) -> None:
    """Let a copy-on-write pool unpack an image now: the first instance of an image waits for that."""
    devices = incus.query("/1.0/profiles/default")["devices"].values()
    pool = next((str(device["pool"]) for device in devices if device.get("path") == "/"), "")
    if not pool or incus.query(f"/1.0/storage-pools/{quote(pool, safe='')}")["driver"] == "dir":
        return
    name = f"clincus-unpack-{secrets.token_hex(4)}"
    try:
        incus.run("create", "--quiet", fingerprint, name, timeout=600)
    finally:
        with contextlib.suppress(clincus.IncusError):
            incus.run("delete", "--force", name)


def build_from_host(
    incus: clincus.Incus,
    host: Host,
    recipe: Recipe,
    alias: str,
    say: Say,
    *,
    npmrc: bytes = b"",
    cache: Path | None = None,
) -> Built:
    """Build the recipe's image from this host's packages and give it the alias. Raises ClincusError.

    With `cache` the packed file system is kept in that folder under the recipe's key and used again.
    """
    now = time.time()
    version = version_alias(alias, now)
    with tempfile.TemporaryDirectory(prefix="clincus-", dir="/var/tmp") as folder:
        rootfs = (cache or Path(folder)) / f"image-{recipe.key()}.tar.zst"
        notes = BuildNotes()
        if not rootfs.exists():
            rootfs.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            notes = build_rootfs(host, recipe, rootfs, say, npmrc=npmrc)
        say("handing the image to Incus")
        fingerprint = import_rootfs(incus, rootfs, image_metadata(recipe, notes.properties(), int(now)), version)
    say("unpacking the image, so that the first session starts at once")
    unpack_image(incus, fingerprint)
    point_alias(incus, alias, fingerprint)
    prune_versions(incus, alias, VERSIONS_KEPT)
    return Built(alias, fingerprint, version=version, notes=missing_notes(notes))


@dataclass(frozen=True)
class Workshop:
    """Where images are made out of others: a container that is built in, published and thrown away."""

    incus: clincus.Incus
    host: Host
    say: Say
    prefix: str  # of the names of containers

    @contextmanager
    def container(self, base: str) -> Iterator[str]:
        """A running container of an image, with its network up; it is gone afterwards whatever happens."""
        name = f"{self.prefix}build-{secrets.token_hex(4)}"
        self.say(f"starting a container of '{base}'")
        config = {"user.clincus.build": "true", "boot.autostart": "false"}
        try:
            self.incus.launch(name, base, {"config": config}, timeout=900)
            # A script that needs no network must not fail for want of one, so this only waits for a while.
            wait = "for i in $(seq 100); do grep -q '^[^ \t]*\t00000000\t' /proc/net/route && exit; sleep 0.1; done"
            self.incus.exec(name, ["sh", "-c", wait], timeout=60)
            yield name
        finally:
            try:
                self.incus.run("delete", "--force", self.incus.instance(name), timeout=120)
            except clincus.IncusError as error:
                if error.status != 404:
                    raise

    def put(self, container: str, path: str, data: bytes, mode: str = "0700") -> None:
        """Write a file as root into a container, by stdin: it may be secret."""
        script = 'umask 077; cat > "$1" && chmod "$2" "$1"'
        done = self.incus.exec(container, ["sh", "-c", script, "sh", path, mode], stdin=data)
        if done.code != 0:
            raise clincus.ClincusError(f"could not write {path} in the build container: {done.reason}")

    def unpack(self, container: str, files: Iterable[ImageFile]) -> None:
        """Put files into a container."""
        done = self.incus.exec(container, ["tar", "-x", "-C", "/"], stdin=pack_image_files(files))
        if done.code != 0:
            raise clincus.ClincusError(f"could not unpack files in the build container: {done.reason}")

    def run(self, container: str, command: Sequence[str], hear: Say) -> None:
        """Run a command as root in a container and hand over what it says. Raises ClincusError when it fails."""
        variables = {"HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", **proxy_settings(os.environ)}
        argv = self.incus.exec_argv(container, command, environment=variables)
        try:
            self.host.follow(argv, hear, timeout=3600)
        except clincus.ClincusError as error:
            words = error.message.replace(f"`{argv[0]}`", f"`{command[-1]}` in the build container", 1)
            raise clincus.ClincusError(words) from error

    def publish(self, container: str, alias: str, properties: Mapping[str, str]) -> Built:
        """Make an image of a container under a version alias, then let the alias stand for it."""
        self.say("stopping the container")
        self.incus.run("stop", self.incus.instance(container), "--timeout=30", timeout=60)
        self.say("packing the image")
        version = version_alias(alias, time.time())
        words = [f"{key}={value}" for key, value in properties.items()]
        # zstd takes 2 s where the default, gzip, takes 16.
        flags = ["--quiet", f"--alias={version}", "--compression=zstd"]
        self.incus.run("publish", self.incus.instance(container), *flags, *words, timeout=1800)
        fingerprint = image_fingerprint(self.incus, version)
        point_alias(self.incus, alias, fingerprint)
        prune_versions(self.incus, alias, VERSIONS_KEPT)
        return Built(alias, fingerprint, version=version)


INSTALL_SCRIPT = 'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" && apt-get clean'


def build_from_image(shop: Workshop, base: str, recipe: Recipe, alias: str, *, npmrc: bytes = b"") -> Built:
    """Make the standard image out of another Debian or Ubuntu image, such as images:debian/13. Raises ClincusError.

    The image keeps the init that it has.
    """
    notes = BuildNotes()

    def hear(line: str) -> None:
        notes.hear(line, shop.say)

    with shop.container(base) as container:
        if shop.incus.exec(container, ["sh", "-c", "command -v apt-get"]).code != 0:
            raise clincus.ClincusError(f"the image '{base}' has no apt-get: give one of Debian or Ubuntu", 400)
        shop.unpack(container, [file for file in recipe.overlay() if "/sbin/clincus-" not in file.path])
        shop.say("installing packages")
        shop.run(container, ["sh", "-c", INSTALL_SCRIPT, "apt-get", *recipe.packages], hear)
        if npmrc and recipe.tools:
            shop.put(container, "/tmp/clincus-npmrc", npmrc, "0600")
        for path, script in (
            ("/tmp/provision", recipe.provision(own_init=False)),
            ("/tmp/fetch", recipe.fetch_tools()),
        ):
            if script:
                shop.put(container, path, script.encode())
                shop.run(container, ["sh", path], hear)
        shop.run(container, ["sh", "-c", "rm -rf /tmp/provision /tmp/fetch /tmp/clincus-*"], hear)
        properties = {
            "description": f"clincus: from {base}",
            "clincus.recipe": derived_key(base, recipe.key()),
            "clincus.user": recipe.user,
            **notes.properties(),
        }
        built = shop.publish(container, alias, properties)
    return replace(built, notes=missing_notes(notes))


def derived_key(base: str, recipe: str | bytes) -> str:
    """The recipe key of an image that was made out of another one."""
    data = recipe if isinstance(recipe, bytes) else recipe.encode()
    return hashlib.sha256(base.encode() + b"\0" + data).hexdigest()[:16]


def build_custom(shop: Workshop, alias: str, script: bytes, *, base: str, force: bool) -> Built:
    """Make an image by running a script as root in a container of `base`. Raises ClincusError.

    An alias that is there already is left alone unless `force`.
    """
    incus = shop.incus
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", alias):
        raise clincus.ClincusError(f"'{alias}' cannot be the name of an image: use letters, digits, dots, - and _", 400)
    found = image_fingerprint(incus, alias)
    if found and not force:
        return Built(alias, found, skipped=True)
    known: dict[str, str] = {}
    if ":" not in base:
        fingerprint = image_fingerprint(incus, base)
        if not fingerprint:
            raise clincus.ClincusError(f"the base image '{base}' does not exist; `clincus build` makes 'clincus'", 404)
        known = incus.query(f"/1.0/images/{fingerprint}")["properties"]
    with shop.container(base) as container:
        shop.put(container, "/tmp/clincus-script", script)
        shop.say("running the script")
        shop.run(container, [*([] if script.startswith(b"#!") else ["sh"]), "/tmp/clincus-script"], shop.say)
        shop.run(container, ["rm", "-f", "/tmp/clincus-script"], shop.say)
        properties = {
            "description": f"clincus: {alias}, made from {base}",
            "clincus.recipe": derived_key(known.get("clincus.recipe", base), script),
            "clincus.user": known.get("clincus.user", "code"),
        }
        return shop.publish(container, alias, properties)


def build_standard(
    shop: Workshop, options: SetupOptions, environ: Mapping[str, str], *, force: bool = False, source: str = "host"
) -> Built:
    """Make the standard image, from this host's packages or from another image. Raises ClincusError.

    An image that is there is left alone unless `force`, and a note tells when it came from another recipe.
    """
    incus, host = shop.incus, shop.host
    if source == "host":
        recipe = options.recipe or host_recipe(host, environ, tools=options.tools, user=options.user, uid=options.uid)
    else:
        files = host_files(host, environ)
        recipe = Recipe(tools=options.tools, user=options.user, uid=options.uid, files=files, cpu=npm_cpu())
    found = image_fingerprint(incus, options.image)
    if found and not force:
        made = incus.query(f"/1.0/images/{found}").get("properties", {}).get("clincus.recipe", "")
        wanted = recipe.key() if source == "host" else derived_key(source, recipe.key())
        note = f"the image '{options.image}' is of another recipe; `clincus build --force` makes it anew"
        return Built(options.image, found, skipped=True, notes=() if made == wanted else (note,))
    npmrc = user_npmrc(host, environ)
    if source != "host":
        return build_from_image(shop, source, recipe, options.image, npmrc=npmrc)
    if not host.which("mmdebstrap") or not host.which("zstd"):
        raise clincus.ClincusError("mmdebstrap and zstd build the image and are not installed: run `clincus setup`")
    return build_from_host(incus, host, recipe, options.image, shop.say, npmrc=npmrc, cache=options.cache)
