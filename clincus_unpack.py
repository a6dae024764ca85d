"""Unpacks the archive into the user's cache directory, at the first start of a build; see START of build_zipapp.py."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress

MONTH = 30 * 86400  # seconds


def unpack(archive: str, folder: str, is_whole: Callable[[str], bool]) -> None:
    """Put all files into the folder, completely or not at all; two first starts at once do not disturb each other."""
    top = os.path.dirname(folder)
    drop_other_builds(folder)
    new = tempfile.mkdtemp(prefix="new-", dir=top)
    try:
        with zipfile.ZipFile(archive) as files:
            files.extractall(new)
        compile_modules(new)
        if os.path.isdir(folder) and not is_whole(folder):
            shutil.rmtree(folder)
        os.rename(new, folder)
    except OSError:
        if not is_whole(folder):  # else another start was faster
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def compile_modules(folder: str) -> None:
    """Compile in a child: a server would keep the compiler's memory as long as it runs."""
    child = os.fork()
    if not child:
        try:
            import compileall

            compileall.compile_dir(folder, quiet=2)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def drop_other_builds(folder: str) -> None:
    """Remove the builds beside a folder that are older than a month and do not run, and the rest of a killed start."""
    top, build = os.path.split(folder)
    for name in os.listdir(top):
        is_ours = len(name) == len(build) or name.startswith("new-")
        if is_ours:
            with suppress(OSError):  # a link, or gone meanwhile: no reason not to start
                drop_old_build(os.path.join(top, name))


def drop_old_build(folder: str) -> None:
    """Remove a build that is older than a month, unless a server runs from it. Raises OSError."""
    if os.lstat(folder).st_mtime >= time.time() - MONTH:
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
