"""A program of the agent's, in C, that waits in the workspace for the person's git."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.programs import git

# For git as root in a folder of the code user.
TRUSTING = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}


def compiled(folder: Path, source: str) -> Path:
    """The program of a source, which needs no library of a container."""
    program = folder / "program"
    (folder / "program.c").write_text(source)
    subprocess.run(["gcc", "-O2", "-static", "-o", program, folder / "program.c"], check=True)
    return program


def lay(workspace: Path, program: Path, name: str) -> Path:
    """Give a workspace two commits, an index and the program under a name, and all of it to the code user."""
    git(workspace, "commit", "-q", "--allow-empty", "-m", "one")
    git(workspace, "commit", "-q", "--allow-empty", "-m", "two")
    git(workspace, "reset", "-q", "--hard")
    (workspace / name).write_bytes(program.read_bytes())
    (workspace / name).chmod(0o755)
    subprocess.run(["chown", "-R", "1000:1000", workspace], check=True)
    return workspace
