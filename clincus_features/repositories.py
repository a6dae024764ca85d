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

PASSED = ("HOME", "LANG", "LC_ALL", *clincus.GIT_VARIABLES)  # variables that git gets


def install(extensions: clincus.Extensions) -> None:
    """Put it around the handler that makes the folder."""
    environ = os.environ if extensions.app is None else extensions.app.environ
    extensions.wrappers.append(functools.partial(with_repository, environ))


def with_repository(environ: Mapping[str, str], method: str, path: str, handler: clincus.Handler) -> clincus.Handler:
    """Let a folder become a repository, where that is wanted."""
    if (method, path) != ("POST", "/api/workspaces/folder"):
        return handler

    def make(request: clincus.Request) -> object:
        made: Any = handler(request)
        if request.values["git"]:
            make_repository(made["path"], environ)
        return made

    return make


def make_repository(folder: str, environ: Mapping[str, str]) -> None:
    """Make an empty folder a repository. ClincusError(500) if it cannot be one: then it is removed.

    It has no hooks, and is where the folder is: no template and no variable of the server's (GIT_DIR and its like)
    counts, but the person's own configuration does, as for the name of the first branch.
    """
    git = clincus.find_git(folder, environ)
    kept = {name: environ[name] for name in PASSED if name in environ}
    problem = "" if git else "git is not in $PATH: install it on this host"
    if git:
        words = [git, "init", "--quiet", "--template=", "--", folder]
        try:
            done = clincus.run_child(words, timeout=30, environ={"PATH": os.defpath, **kept}, cwd="/")
            problem = done.reason if done.code != 0 else ""
        except clincus.ChildError as error:
            problem = error.message
    if problem:
        shutil.rmtree(folder, ignore_errors=True)
        raise clincus.ClincusError(f'cannot make "{folder}" a Git repository: {problem}', 500)
