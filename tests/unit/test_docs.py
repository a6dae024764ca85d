"""The documents against the program: the page of commands is current, and every command in them can be parsed."""

from __future__ import annotations

import re
import shlex

import pytest

from clincus_cli.all_commands import load_commands
from clincus_cli.commands import find_command, parse_words
from tests.commands_page import PAGE, page_text
from tests.programs import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^ *```(?:sh)?\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
ENDS = {"&&", "||", "|", ";", ">", "<", "&"}


def commands_in(text: str) -> list[str]:
    """The lines of code blocks that run clincus, after a prompt or without one."""
    lines = [line.strip() for block in BLOCK.findall(text) for line in block.splitlines()]
    bare = [line.removeprefix("$ ") for line in lines]
    return [line for line in bare if re.match(r"clincus( |$)", line)]


EXAMPLES = [
    (str(page.relative_to(ROOT)), line) for page in PAGES if page != PAGE for line in commands_in(page.read_text())
]


def test_the_page_of_commands_is_what_the_program_prints():
    assert PAGE.read_text() == page_text(), "run `make docs`"


@pytest.mark.parametrize(("page", "line"), EXAMPLES)
def test_a_command_in_a_document_is_one_of_the_program(page, line):
    words = shlex.split(line, comments=True)[1:]
    end = next((number for number, word in enumerate(words) if word in ENDS), len(words))
    load_commands(*words[:1])
    command, rest = find_command(words[:end])
    parse_words(command, rest)


def test_the_first_page_is_read_at_once():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    outside = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


ANCHORED = [
    (str(page.relative_to(ROOT)), path, anchor)
    for page in (*PAGES, ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md")
    for path, anchor in re.findall(r"\]\((?![a-z]+:)([^)#]*)#([^)]+)\)", page.read_text())
]


@pytest.mark.parametrize(("page", "path", "anchor"), ANCHORED)
def test_a_link_into_a_page_leads_to_a_heading(page, path, anchor):
    source = ROOT / page
    target = source.parent / path if path else source
    assert anchor in anchors(target.read_text())


STRAYS = re.compile(r"\b([Ww]hitelist\w*|[Bb]lacklist\w*|(?<!-)[Ww]orkdir|[Ww]hoever|all else)\b")


@pytest.mark.parametrize("page", [one for one in PAGES if one.name != "words.md"], ids=lambda page: page.name)
def test_a_document_has_no_word_that_is_not_ours(page):
    """docs/dev/words.md has those that are."""
    assert STRAYS.findall(page.read_text()) == []
