"""The real AI tools, fetched from npm as an image build does, and kept between runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from clincus_cli import host as cli_host
from clincus_cli import recipe as cli_recipe
from tests.incus_bed import image_cache, one_at_a_time
from tests.programs import ROOT

VERSIONS = {"claude": "2.1.332", "copilot": "1.0.102", "opencode": "1.18.34"}  # those that the rules were seen on
# Claude Code runs on Bun, whose optimising compiler costs more than it gains in a life of a minute.
FRUGAL = {"BUN_JSC_useDFGJIT": "0"}
SMALLEST = 10 << 20  # bytes: what stands in for a tool that cannot be had is smaller


def real_tool(name: str) -> Path:
    """The program of a tool. A test that needs it is skipped where npm cannot be reached, and fails in CI."""
    folder = image_cache() / f"tool-{name}-{VERSIONS[name]}"
    program = folder / "root" / "opt" / "clincus" / "bin" / name
    with one_at_a_time(f"tool-{name}"):
        if not (program.exists() and program.stat().st_size > SMALLEST):
            fetch(name, folder)
    if not program.exists() or program.stat().st_size < SMALLEST:
        reason = program.read_text() if program.exists() else "npm is not installed"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {name} from npm: {reason}")
    return program


def fetch(name: str, folder: Path) -> None:
    """Let guest/image/fetch-tools.sh fetch a tool into a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "root").mkdir(parents=True)
    shutil.copy(ROOT / "guest" / "image" / "fetch-tools.sh", folder)
    npmrc = Path.home() / ".npmrc"
    if npmrc.exists():
        shutil.copy(npmrc, folder / "npmrc")
    wanted = cli_recipe.host_recipe(cli_host.Host(), {}, tools=(f"{name}@{VERSIONS[name]}",), user="code", uid=1000)
    subprocess.run(
        ["sh", str(folder / "fetch-tools.sh"), *wanted.tool_arguments()],
        env={**os.environ, "ROOT": str(folder / "root")},
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=600,
    )
    shutil.rmtree(folder / "cache", ignore_errors=True)
