"""A project's own .clincus.toml, and the user's trust in it.

A clone brings the file along, so a stranger may have written it. An untrusted file may choose the tool, a local image
and one of the user's profiles; everything else in it waits for `clincus trust`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import NamedTuple

import clincus
from clincus import Config, ConfigError

PROJECT_FILE = ".clincus.toml"
PROJECT_FILE_LIMIT = 64 << 10  # bytes
PROJECT_LINE_LIMIT = 1000  # characters; tomllib takes 15 s for a key of 32,000 parts, and a key is on one line
UNTRUSTED_KEYS = ("defaults.image", "defaults.profile", "tool.name")  # that an untrusted file may set


def install(extensions: clincus.Extensions) -> None:
    """Lay the file of a workspace under the configuration of its sessions."""
    extensions.workspace_configs.append(project_config)


class ProjectFile(NamedTuple):
    """A workspace's .clincus.toml as it was read once, so that what is trusted is what is applied."""

    path: str
    text: str
    digest: str  # SHA-256 of the text, hexadecimal


def read_project(workspace: str) -> ProjectFile | None:
    """The .clincus.toml of a workspace (an absolute, resolved path), None without one; a symlink is refused."""
    path = os.path.join(workspace, PROJECT_FILE)
    if os.path.isdir(path) and not os.path.islink(path):
        return None  # the placeholder that keeps a running session from creating the file
    text = clincus.read_text(path, PROJECT_FILE_LIMIT, follow=False)
    for number, line in enumerate((text or "").split("\n"), 1):
        if len(line) > PROJECT_LINE_LIMIT:
            reason = f"the line is longer than {PROJECT_LINE_LIMIT} characters"
            raise ConfigError(f"{path}, line {number}: {reason}: break it up")
    return None if text is None else ProjectFile(path, text, hashlib.sha256(text.encode()).hexdigest())


def trusted_digests(environ: Mapping[str, str]) -> dict[str, str]:
    """The SHA-256 of the .clincus.toml files that the user trusts, by workspace. A damaged list trusts nothing."""
    path = clincus.own_file(environ, "trust.json")

    def fit(found: Mapping[str, object]) -> dict[str, str]:
        return {key: str(value) for key, value in found.items()}

    return clincus.read_json(path, clincus.CONFIG_FILE_LIMIT, fit) or {}


def set_trust(environ: Mapping[str, str], workspace: str, project: ProjectFile | None) -> bool:
    """Trust a workspace's file as it was read; with None, withdraw the trust. True if there was trust before."""
    with clincus.locked_folder(clincus.state_directory(environ)):
        trusted = trusted_digests(environ)
        had = trusted.pop(os.path.realpath(workspace), None) is not None
        if project is not None:
            trusted[os.path.realpath(workspace)] = project.digest
        text = json.dumps(trusted, indent=2, sort_keys=True) + "\n"
        clincus.replace_file(clincus.own_file(environ, "trust.json"), text.encode("utf-8", "surrogateescape"), 0o600)
    return had


def is_trusted(environ: Mapping[str, str], workspace: str, project: ProjectFile) -> bool:
    """True if the user trusted exactly this content in this workspace."""
    return trusted_digests(environ).get(os.path.realpath(workspace)) == project.digest


def project_config(config: Config, environ: Mapping[str, str], workspace: str) -> Config:
    """The configuration for a session in a workspace: `apply_project` with what the user trusts."""
    project = read_project(workspace)
    if project is None:
        return config
    return apply_project(config, project, trusted=is_trusted(environ, workspace, project))


def apply_project(config: Config, project: ProjectFile, *, trusted: bool) -> Config:
    """The configuration with a workspace's .clincus.toml laid under $CLINCUS_CONFIG, variables, profile and flags.

    A file that is not trusted may choose the tool, a local image and a profile; each other key is left out and becomes
    a warning. ConfigError (400) if the file is broken.
    """
    reader = clincus.Reader()
    layer = reader.file(project.path, project.text, clincus.PROJECT_RANK)
    reader.raise_faults()
    reasons = {}
    if not trusted:
        reasons = {key: why_refused(config, key, value) for key, value in layer.values.items()}
    for key, reason in sorted(reasons.items()):
        if reason:
            words = f"{key} is left out, since {reason} (clincus trust allows it)"
            reader.warnings.append(f"{project.path}: {words}")
    allowed = {key: value for key, value in layer.values.items() if not reasons.get(key)}
    return clincus.make_config(
        [*config.layers, layer._replace(values=allowed)],
        {**config.files, project.path: True},
        [*config.warnings, *reader.warnings],
        config.wanted_profile,
    )


def why_refused(config: Config, key: str, value: str) -> str:
    """The reason why an untrusted project file may not set a key to a value, "" if it may.

    A stranger may choose no profile that brings a secret, a mount, nested containers (which cost protection), or
    another value for a limit that the user set.
    """
    if key not in UNTRUSTED_KEYS:
        return "the file is not trusted"
    if key == "defaults.image" and ":" in value:
        return "the file is not trusted and names an image of another server"
    if key != "defaults.profile" or config.wanted_profile or value == config.profile:
        return ""
    return why_profile_refused(config, value)


def why_profile_refused(config: Config, name: str) -> str:
    """The reason why an untrusted project file may not choose a profile, "" if it may."""
    if config.profile:
        return f"you chose the profile {config.profile!r}"
    if name not in config.get("profiles"):
        return f"you have no profile {name!r}"
    profile = clincus.profile_values(config.get("profiles"), name)
    for key in ("mounts", "environment"):
        if profile.get(key):
            return f"the file is not trusted and your profile {name!r} sets {key}"
    if profile.get("nesting") and not config.get("security.nesting"):
        return f"the file is not trusted and your profile {name!r} sets nesting"
    of_user = [key for key, origin in config.origins.items() if origin != "default"]
    sections_of_user = {key.rpartition(".")[0] for key in of_user}
    limits = {key.rpartition(".")[0] for key in profile if key.startswith("limits.")}
    changed = sorted(limits & sections_of_user)
    if changed:
        return f"the file is not trusted and your profile {name!r} sets {changed[0]}"
    return ""
