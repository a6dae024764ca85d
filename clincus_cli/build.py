"""Which images there are to be: the standard one, a user's own, and their versions in Incus."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import secrets
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import clincus
from clincus_cli.builders import BuildOutput, ContainerBuilder, build_container, build_rootfs
from clincus_cli.host import Host, Say
from clincus_cli.recipe import (
    TOOL_PACKAGES,
    WORK_FOLDER,
    ImageFile,
    Recipe,
    host_files,
    host_recipe,
    npm_cpu,
    pack_image_files,
)

SETUP_BRIDGE = "clincusbr0"
VERSIONS_KEPT = 3  # images of one alias, the newest included


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


@dataclass(frozen=True)
class BuildContext:
    """What every build works with."""

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

    def to_json(self) -> dict[str, object]:
        """The document that `build custom` prints; a skipped build has no fingerprint."""
        document: dict[str, object] = {"alias": self.alias, "skipped": self.skipped}
        return document if self.skipped else {**document, "fingerprint": self.fingerprint}


# -- Images and aliases in Incus


def image_fingerprint(incus: clincus.Incus, alias: str) -> str:
    """The fingerprint of the image that an alias stands for, or nothing when there is no such alias."""
    try:
        return str(incus.query(f"/1.0/images/aliases/{quote(alias, safe='')}")["target"])
    except clincus.IncusError as error:
        if error.status != 404:
            raise
        return ""


def image_properties(incus: clincus.Incus, fingerprint: str) -> dict[str, str]:
    """The properties of an image."""
    return dict(incus.query(f"/1.0/images/{fingerprint}").get("properties") or {})


def point_alias(incus: clincus.Incus, alias: str, fingerprint: str) -> None:
    """Let an alias stand for an image, in one step when it stood for another."""
    body = {"target": fingerprint, "description": ""}
    if image_fingerprint(incus, alias):
        incus.query(f"/1.0/images/aliases/{quote(alias, safe='')}", "PUT", body)
    else:
        incus.query("/1.0/images/aliases", "POST", {**body, "name": alias})


def version_alias(alias: str, now: float) -> str:
    """The alias of one build, such as clincus-20270301-080000 (UTC)."""
    return f"{alias}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"


def prune_versions(incus: clincus.Incus, alias: str, keep: int) -> list[str]:
    """Delete the oldest builds of an alias beyond `keep`; the version aliases that went.

    An image that has any other alias, or that clincus did not build, is left alone. So is the image that the alias
    stands for, which has two.
    """
    pattern = re.compile(re.escape(alias) + r"-\d{8}-\d{6}")
    found = []
    for image in incus.query("/1.0/images?recursion=1") or ():
        names = [str(entry["name"]) for entry in image.get("aliases") or []]
        if len(names) == 1 and pattern.fullmatch(names[0]) and "clincus.recipe" in image.get("properties", {}):
            found.append((names[0], str(image["fingerprint"])))
    gone = sorted(found, reverse=True)[max(0, keep - 1) :]
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
        with suppress(clincus.IncusError):
            incus.run("delete", "--force", name)


def put_in_force(build: BuildContext, alias: str, version: str, notes: tuple[str, ...] = ()) -> Built:
    """Let an alias stand for the image that was just made under a version alias, and prune older ones."""
    fingerprint = image_fingerprint(build.incus, version)
    build.say("unpacking the image, so that the first session starts at once")
    unpack_image(build.incus, fingerprint)
    point_alias(build.incus, alias, fingerprint)
    prune_versions(build.incus, alias, VERSIONS_KEPT)
    return Built(alias, fingerprint, version=version, notes=notes)


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


def publish(build: BuildContext, container: str, alias: str, properties: Mapping[str, str]) -> str:
    """Make an image of a container, which stops; the version alias that it got."""
    name = build.incus.instance(container)
    build.say("stopping the container")
    build.incus.run("stop", name, "--timeout=30", timeout=60)
    build.say("packing the image")
    version = version_alias(alias, time.time())
    words = [f"{key}={value}" for key, value in properties.items()]
    # zstd takes 2 s where the default, gzip, takes 16.
    build.incus.run("publish", name, "--quiet", f"--alias={version}", "--compression=zstd", *words, timeout=1800)
    return version


def derived_key(base: str, recipe: bytes) -> str:
    """The recipe key of an image that was made out of another one."""
    return hashlib.sha256(base.encode() + b"\0" + recipe).hexdigest()[:16]


def build_from_image(build: BuildContext, base: str, recipe: Recipe, alias: str, *, npmrc: bytes = b"") -> Built:
    """Make the standard image out of another Debian or Ubuntu image, such as images:debian/13. Raises ClincusError.

    The image keeps the init that it has.
    """
    output = BuildOutput(build.say)
    build.say(f"starting a container of '{base}'")
    with build_container(build.incus, build.prefix, base) as container:
        if build.incus.exec(container, ["sh", "-c", "command -v apt-get"]).code != 0:
            raise clincus.ClincusError(f"the image '{base}' has no apt-get: give one of Debian or Ubuntu", 400)
        build.say("installing packages")
        recipe.build(ContainerBuilder(build.incus, build.host, container, output.on_line), npmrc=npmrc, own_init=False)
        properties = {
            "description": f"clincus: from {base}",
            "clincus.recipe": derived_key(base, recipe.key().encode()),
            "clincus.user": recipe.user,
            **output.properties(),
        }
        version = publish(build, container, alias, properties)
    return put_in_force(build, alias, version, output.notes())


def build_custom(build: BuildContext, alias: str, script: bytes, *, base: str, force: bool) -> Built:
    """Make an image by running a script as root in a container of `base`. Raises ClincusError.

    An alias that is there already is left alone unless `force`.
    """
    incus = build.incus
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
        known = image_properties(incus, fingerprint)
    build.say(f"starting a container of '{base}'")
    with build_container(incus, build.prefix, base) as container:
        builder = ContainerBuilder(incus, build.host, container, build.say)
        program = f"{WORK_FOLDER}/script"
        builder.add_files([ImageFile(program, script, 0o700)])
        build.say("running the script")
        builder.run([program] if script.startswith(b"#!") else ["sh", program])
        builder.run(["rm", "-rf", WORK_FOLDER])
        properties = {
            "description": f"clincus: {alias}, made from {base}",
            "clincus.recipe": derived_key(known.get("clincus.recipe", base), script),
            "clincus.user": known.get("clincus.user", "code"),
        }
        version = publish(build, container, alias, properties)
    return put_in_force(build, alias, version)


# -- The standard image


def user_npmrc(host: Host, environ: Mapping[str, str]) -> bytes:
    """The npm configuration of the person who builds (with sudo: not root's), so that a private registry works."""
    home = environ.get("HOME", "/root")
    if environ.get("SUDO_USER"):
        with suppress(KeyError):
            home = pwd.getpwnam(environ["SUDO_USER"]).pw_dir
    return host.read(f"{home}/.npmrc").encode()


def build_standard(
    build: BuildContext, options: SetupOptions, environ: Mapping[str, str], *, force: bool = False, source: str = "host"
) -> Built:
    """Make the standard image, from this host's packages or from another image. Raises ClincusError.

    An image that is there is left alone unless `force`, and a note tells when it came from another recipe.
    """
    host = build.host
    if source == "host":
        recipe = options.recipe or host_recipe(host, environ, tools=options.tools, user=options.user, uid=options.uid)
    else:
        files = host_files(host, environ)
        recipe = Recipe(tools=options.tools, user=options.user, uid=options.uid, files=files, cpu=npm_cpu())
    found = image_fingerprint(build.incus, options.image)
    if found and not force:
        made = image_properties(build.incus, found).get("clincus.recipe", "")
        wanted = recipe.key() if source == "host" else derived_key(source, recipe.key().encode())
        note = f"the image '{options.image}' is of another recipe; `clincus build --force` makes it anew"
        return Built(options.image, found, skipped=True, notes=() if made == wanted else (note,))
    npmrc = user_npmrc(host, environ)
    if source != "host":
        return build_from_image(build, source, recipe, options.image, npmrc=npmrc)
    if not host.which("mmdebstrap") or not host.which("zstd"):
        raise clincus.ClincusError("mmdebstrap and zstd build the image and are not installed: run `clincus setup`")
    return build_from_host(build, recipe, options.image, npmrc=npmrc, cache=options.cache)
