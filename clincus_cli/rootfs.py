"""Part of the command line."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from urllib.parse import quote

import clincus
from clincus_cli.host import Host
from clincus_cli.host import Say
from clincus_cli.recipe import ImageFile
from clincus_cli.recipe import Recipe
from clincus_cli.recipe import pack_image_files

# ---- the image: making it ------------------------------------------------------------------------------------

# What mmdebstrap says when a stage begins, and what we say instead.
BUILD_STAGES = (
    ("I: running apt-get update", "reading the package lists"),
    ("I: downloading packages", "downloading the base system"),
    ("I: extracting archives", "unpacking the base system"),
    ("I: installing essential", "installing the base system"),
    ("I: installing remaining", "installing packages"),
    ("I: cleaning package lists", "cleaning up"),
    ("I: creating tarball", "packing the image"),
    ("clincus: fetching ", "fetching {rest}"),
)


@dataclass
class BuildNotes:
    """What a build reports besides its stages."""

    versions: dict[str, str] = field(default_factory=dict)  # tool -> version that was fetched
    missing: dict[str, str] = field(default_factory=dict)  # tool -> why it could not be

    def hear(self, line: str, say: Say) -> None:
        """Take in one line of the build's output and tell the user what stage it stands for, if any."""
        if line.startswith("clincus: tool "):
            _, _, name, version = line.split(" ", 3)
            self.versions[name] = version
        elif line.startswith("clincus: missing "):
            _, _, name, reason = line.split(" ", 3)
            self.missing[name] = reason
        for mark, words in BUILD_STAGES:
            if line.startswith(mark):
                say(words.format(rest=line[len(mark) :]))

    def properties(self) -> dict[str, str]:
        """The image properties that record them."""
        return {
            "clincus.tools": " ".join(f"{name}={version}" for name, version in sorted(self.versions.items())),
            "clincus.missing": " ".join(sorted(self.missing)),
        }


def build_rootfs(host: Host, recipe: Recipe, target: Path, say: Say, *, npmrc: bytes = b"") -> BuildNotes:
    """Build the recipe's file system into `target`, a tar archive packed with zstd. Raises ClincusError.

    mmdebstrap does it, as root or, without root, in a user namespace (its mode "unshare"). Nothing is left behind
    when it fails. `npmrc` is the user's npm configuration, used for the fetch only and never part of the image.
    """
    notes = BuildNotes()
    with tempfile.TemporaryDirectory(prefix="clincus-build-", dir=str(target.parent)) as folder:
        scripts = {"overlay.tar": pack_image_files(recipe.overlay()), "provision": recipe.provision().encode()}
        if recipe.tools:
            scripts["fetch"] = recipe.fetch_tools().encode()
        for name, data in scripts.items():
            Path(folder, name).write_bytes(data)
        if npmrc and recipe.tools:
            descriptor = os.open(f"{folder}/npmrc", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(npmrc)
        part = Path(folder, "rootfs.tar.zst")
        argv = mmdebstrap_argv(recipe, folder, str(part), has_npmrc=bool(npmrc and recipe.tools))
        # zstd, which mmdebstrap starts, reads its level and threads here (zstd(1)): the image is unpacked only once.
        environ = {"SOURCE_DATE_EPOCH": BUILD_EPOCH, "ZSTD_CLEVEL": "1", "ZSTD_NBTHREADS": "0"}
        host.follow(argv, lambda line: notes.hear(line, say), timeout=1800, env=environ)
        os.replace(part, target)
    return notes


# Files get this time at the latest (2020-01-01), so that the same packages give the same bytes.
BUILD_EPOCH = "1577836800"


def mmdebstrap_argv(recipe: Recipe, folder: str, target: str, *, has_npmrc: bool) -> list[str]:
    """The command line that builds a recipe whose scripts lie in `folder` (mmdebstrap(1))."""
    argv = ["mmdebstrap", "--variant=minbase", f"--include={','.join(recipe.packages)}"]
    argv += ["--dpkgopt=force-unsafe-io", "--skip=output/dev", "--format=tar"]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "info", "locale")]
    if recipe.distribution == "ubuntu":
        argv.append("--components=main,universe")
    hooks = [f"tar-in {shlex.quote(folder)}/overlay.tar /", f"upload {shlex.quote(folder)}/provision /tmp/provision"]
    hooks.append('chroot "$1" sh /tmp/provision')
    if recipe.tools:
        hooks.append(f"upload {shlex.quote(folder)}/fetch /tmp/fetch")
        if has_npmrc:
            hooks.append(f"upload {shlex.quote(folder)}/npmrc /tmp/clincus-npmrc")
        hooks.append('chroot "$1" sh /tmp/fetch; rm -rf "$1"/tmp/clincus-*')
    # mmdebstrap copies these from the host; each container gets its own.
    hooks.append('rm -rf "$1"/tmp/provision "$1"/tmp/fetch "$1"/etc/hostname; : > "$1"/etc/resolv.conf')
    argv += [f"--customize-hook={hook}" for hook in hooks]
    return [*argv, recipe.suite, "-" if target == "-" else target, *recipe.mirrors]


def image_metadata(recipe: Recipe, properties: Mapping[str, str], created: int) -> bytes:
    """The metadata archive of a split image (Incus, "Image format"); `created` is in seconds since 1970."""
    document = {
        "architecture": os.uname().machine,
        "creation_date": created,
        "properties": {
            "os": recipe.distribution.capitalize(),
            "release": recipe.suite,
            "description": f"clincus: {recipe.distribution.capitalize()} {recipe.suite}",
            "clincus.recipe": recipe.key(),
            "clincus.user": recipe.user,
            **properties,
        },
    }
    # JSON is YAML too.
    return pack_image_files([ImageFile("/metadata.yaml", json.dumps(document, indent=1).encode())])


def import_rootfs(incus: clincus.Incus, rootfs: Path, metadata: bytes, alias: str) -> str:
    """Hand a built file system to Incus as a new image with a new alias; the fingerprint."""
    with tempfile.NamedTemporaryFile(prefix="clincus-metadata-", suffix=".tar") as file:
        file.write(metadata)
        file.flush()
        incus.run("image", "import", "--quiet", file.name, str(rootfs), f"--alias={alias}", timeout=600)
    return image_fingerprint(incus, alias)


def image_fingerprint(incus: clincus.Incus, alias: str) -> str:
    """The fingerprint that an alias stands for, or nothing when there is no such alias."""
    try:
        answer = incus.query(f"/1.0/images/aliases/{quote(alias, safe='')}")
    except clincus.IncusError as error:
        if error.status != 404:
            raise
        return ""
    return str(answer["target"])
