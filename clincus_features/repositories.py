"""A new project folder as a Git repository: POST /api/workspaces/folder with `git`.

A session's tool could not make the repository: no container writes a .git/config.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import clincus


def install(extensions: clincus.Extensions) -> None:
    """Put it around the handler that makes the folder."""
    extensions.wrappers.append(with_repository)


def with_repository(method: str, path: str, handler: clincus.Handler) -> clincus.Handler:
    """Let a folder become a repository, where that is wanted."""
    if (method, path) != ("POST", "/api/workspaces/folder"):
        return handler

    def make(request: clincus.Request) -> object:
        made: Any = handler(request)
        if request.values["git"]:
            make_repository(made["path"])
        return made

    return make


def make_repository(folder: str) -> None:
    """Make an empty folder a repository. ClincusError(500) if it cannot be one: then it is removed.

    Variables such as GIT_DIR would make git work on another repository.
    """
    git = clincus.find_git(folder, os.environ) or "git"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = clincus.run_child([git, "init", "--quiet"], timeout=30, cwd=folder, environ=environ)
        problem = done.reason if done.code != 0 else ""
    except clincus.ChildError as error:
        problem = error.message
    if problem:
        shutil.rmtree(folder, ignore_errors=True)
        raise clincus.ClincusError(f'cannot make "{folder}" a Git repository: {problem}', 500)
