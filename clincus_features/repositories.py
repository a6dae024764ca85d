"""A new project folder as a Git repository: POST /api/workspaces/folder with `git`.

A session's tool could not make the repository: no container writes a .git/config.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping
from typing import Any

import clincus

PASSED = ("HOME", "LANG", "LC_ALL", *clincus.protect.GIT_VARIABLES)  # variables that git gets


def install(extensions: clincus.Extensions) -> None:
    """Wrap the handler that makes the folder."""
    environ = os.environ if extensions.app is None else extensions.app.environ
    extensions.wrappers.append(functools.partial(with_repository, environ))


def with_repository(environ: Mapping[str, str], method: str, path: str, handler: clincus.Handler) -> clincus.Handler:
    """Make a new folder a repository if the request asks for it."""
    if (method, path) != ("POST", "/api/workspaces/folder"):
        return handler

    def make(request: clincus.Request) -> object:
        made: Any = handler(request)
        if request.values["git"]:
            make_repository(made["path"], environ)
        return made

    return make


def make_repository(folder: str, environ: Mapping[str, str]) -> None:
    """Make an empty folder a repository. If that fails, remove the folder and raise ClincusError(500).

    It has no hooks, and is in the folder itself: templates and the server's own variables (such as GIT_DIR) do not
    count. The person's configuration does, for example for the name of the first branch.
    """
    problem = why_no_repository(folder, environ)
    if problem:
        shutil.rmtree(folder, ignore_errors=True)
        raise clincus.ClincusError(f'cannot make "{folder}" a Git repository: {problem}', 500)


def why_no_repository(folder: str, environ: Mapping[str, str]) -> str:
    """Run `git init`; returns the reason why it failed, "" if it did not."""
    git = clincus.protect.find_git(folder, environ)
    if not git:
        return "git is not in $PATH: install it on this host"
    variables = {name: environ[name] for name in PASSED if name in environ}
    variables["PATH"] = os.defpath
    argv = [git, "init", "--quiet", "--template=", "--", folder]
    try:
        done = clincus.run_child(argv, timeout=30, environ=variables, cwd="/")
    except clincus.ChildError as error:
        return error.message
    return done.reason if done.code != 0 else ""
