"""The commands of README and docs/, what each page shows below them, and what a run may print differently.

tests/incus/test_pages.py types them on a machine of its own, page by page. `make docs-checked` does the same, and then
writes into each page when it was last checked.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.programs import ROOT

# Written by a program and compared with it: the help of all commands, and the record of the last night.
GENERATED = ("docs/commands.md", "docs/nightly.md")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^ *```", re.MULTILINE | re.DOTALL)
NO_COMMANDS = ("toml", "yaml", "json", "mermaid", "caddyfile")  # kinds of blocks
PROMPT = re.compile(r"^\w*\$ ")  # that of another machine has its name in front
QUESTION = re.compile(r"\[y/N\]:? ")

# Commands that cannot run on the machine of the tests, each with the reason. Nothing else of a page may be left out.
NOT_RUN = {
    ("docs/remote-access.md", "laptop$ ssh -N -L 3000:127.0.0.1:3000 host"): "needs a second machine",
    ("docs/remote-access.md", "sudo tailscale serve --bg 3000"): "needs an account at Tailscale",
    ("docs/remote-access.md", "sudo systemctl reload caddy"): "needs a domain that leads to the machine",
    ("docs/preview.md", "chromium"): "needs a desktop; tests/browser/test_page_preview.py runs it without one",
    ("docs/configuration.md", "clincus container exec box -- npm install"): "needs the npm registry in a container",
    ("docs/configuration.md", "session$ docker run"): "needs Docker in a session and a login to lend",
}

# What differs from machine to machine and from run to run, each kind under one word.
VARIES = [
    (re.compile(form), word)
    for form, word in (
        (r"clincus-[0-9a-f]{6}-\d+", "clincus-ID"),
        (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID"),
        (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?( ?[+-]\d{4}|Z| UTC)?", "TIME"),
        (r"\b\d{1,3}(\.\d{1,3}){3}\b", "ADDRESS"),
        (r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b", "HASH"),
        (r"\b\d+(\.\d+)? (B|KiB|MiB|GiB|s|ms)\b", "SIZE"),
        (r"(?<=--to )\d+", "N"),
        (r"(?<= )\d+[smhd]$", "AGE"),
    )
]


class Step(NamedTuple):
    """A command of a page, and the lines that the page shows below it."""

    page: str
    line: int
    command: str
    shown: tuple[str, ...]

    @property
    def plain(self) -> str:
        """The command without the comment behind it."""
        return re.sub(r" +# .*", "", self.command)

    @property
    def why_not_run(self) -> str:
        """Why the machine of the tests cannot run it, "" if it can."""
        found = (why for (page, begin), why in NOT_RUN.items() if page == self.page and self.command.startswith(begin))
        return next(found, "")


def name_of(page: Path) -> str:
    """A page's path as it is written here."""
    return page.relative_to(ROOT).as_posix()


def steps_of(page: str, text: str) -> Iterator[Step]:
    """The commands of a page in their order. Raises ValueError for a block that is neither a session nor known."""
    for block in BLOCK.finditer(text):
        first = text[: block.start()].count("\n") + 2
        indent, kind = len(block["indent"]), block["kind"]
        lines = [line[indent:] for line in block["text"].splitlines()]
        if kind in NO_COMMANDS:
            continue
        if kind == "sh":
            yield from _script_steps(page, first, lines)
        elif kind == "" and lines and PROMPT.match(lines[0]):
            yield from _session_steps(page, first, lines)
        else:
            raise ValueError(f"{page}:{first}: this block is no session that begins with `$ `, no sh, and not known")


def _script_steps(page: str, first: int, lines: Sequence[str]) -> Iterator[Step]:
    command = ""
    for number, line in enumerate(lines, first):
        if not command and (not line.strip() or line.startswith("#")):
            continue
        command += line.strip()
        if command.endswith("\\"):
            command = command[:-1]
        elif command.endswith("|"):
            command += " "
        else:
            yield Step(page, number, command, ())
            command = ""


def _session_steps(page: str, first: int, lines: Sequence[str]) -> Iterator[Step]:
    starts = [number for number, line in enumerate(lines) if PROMPT.match(line)]
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        command = lines[start].removeprefix("$ ")
        yield Step(page, first + start, command, tuple(line for line in lines[start + 1 : end] if line))


def without_values(line: str) -> str:
    """A line of output with a word in the place of each value that varies."""
    for form, word in VARIES:
        line = form.sub(word, line)
    return " ".join(line.split())  # columns are as wide as what stands in them


def differences(shown: Sequence[str], printed: Iterable[str]) -> list[str]:
    """How a page's lines differ from those that a command has printed; `…` alone stands for any lines."""
    import difflib

    expected = [without_values(line) for line in shown]
    found = [without_values(line) for line in printed if line.strip()]
    if "…" in expected:
        at = expected.index("…")
        rest = len(expected) - at - 1
        found = [*found[:at], "…", *found[max(at, len(found) - rest) :]]
    return [line for line in difflib.ndiff(expected, found) if not line.startswith("  ")]


# -- When a page was last checked

CHECKED = re.compile(r"^\*Last checked on (\d{4}-\d\d-\d\d)\b.*\*\n", re.MULTILINE)
TESTS = ("tests/unit/test_docs.py", "tests/unit/test_words.py", "tests/unit/test_pages.py", "tests/incus/test_pages.py")


def stamped(text: str, *, day: str, machine: str, steps: Sequence[Step]) -> str:
    """A page with the line that says when it was checked, and how."""
    left_out = [step.command for step in steps if step.why_not_run]
    run = len(steps) - len(left_out)
    what = f"{run} command{'' if run == 1 else 's'}" if steps else "links and names, as it has no commands"
    not_run = f"; not run: {', '.join(f'`{command}`' for command in left_out)}" if left_out else ""
    line = f"*Last checked on {day} with {machine}: {what}{not_run}.*\n"
    return f"{CHECKED.sub('', text).rstrip()}\n\n{line}"


def machine() -> str:
    """The system and the Incus of the tests."""
    system = platform.freedesktop_os_release()
    version = subprocess.run(["incus", "--version"], capture_output=True, text=True, check=True).stdout.split()[0]
    return f"{system['NAME'].removesuffix(' GNU/Linux')} {system['VERSION_ID']} and Incus {version}"


def stamp_pages() -> None:
    """Write into each page that it was checked today."""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    for page in PAGES:
        name = name_of(page)
        if name not in GENERATED:
            steps = [*steps_of(name, page.read_text())]
            page.write_text(stamped(page.read_text(), day=day, machine=machine(), steps=steps))


def main() -> int:
    """Run the tests of the documents; if none fails, write into each page that it was checked today."""
    flags = [
        "-m",
        "nightly or not nightly",
        "--deselect=tests/unit/test_pages.py::test_each_page_has_that_line",
        *sys.argv[1:],
    ]
    code = subprocess.run([sys.executable, "-m", "pytest", *TESTS, *flags], cwd=ROOT, check=False).returncode
    if code == 0:
        stamp_pages()
    return code


if __name__ == "__main__":
    sys.exit(main())
