"""What a person reads has the words of docs/dev/words.md, and none of those that it rules out."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

from tests.pages import PAGES, name_of
from tests.programs import ROOT

RULED_OUT = sorted(set(re.findall(r"\*([\w ]+)\*", (ROOT / "docs/dev/words.md").read_text().partition("| --- |")[2])))
STRAYS = re.compile(rf"\b({'|'.join(RULED_OUT)}|whoever|all else)(e?s)?\b", re.IGNORECASE)
# The page names a tool where a person chooses the program, as in "New session" and the history.
WORKER_AS_TOOL = re.compile(r"\b(the|ai) tool\b|box for prompts", re.IGNORECASE)
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"/\*.*?\*/|^ *// .*?$", re.MULTILINE | re.DOTALL)
# Between tags, or in quotes with a blank in it, on one line.
PAGE_TEXT = re.compile(r">([^<>{}]+)<|'([^'\n]* [^'\n]*)'|`([^`\n]* [^`\n]*)`|\"([^\"\n]* [^\"\n]*)\"")


def described(part: object) -> Iterator[str]:
    """The summaries and descriptions of the API."""
    if isinstance(part, dict):
        yield from (text for key, text in part.items() if key in ("summary", "description") and isinstance(text, str))
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from described(one)


def sentences(source: str) -> Iterator[str]:
    """The texts in a Python file that have blanks, but for docstrings: docs/commands.md has those of the commands."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings)
    texts = (node.value for node in constants if isinstance(node.value, str))
    yield from (text for text in texts if " " in text and "(?" not in text)  # no regular expressions


def texts() -> Iterator[tuple[str, str]]:
    """Each text that a person reads, by its place."""
    for page in PAGES:
        if page.name != "words.md":
            yield name_of(page), CODE.sub("", page.read_text())
    yield "openapi.json", "\n".join(described(json.loads((ROOT / "openapi.json").read_text())))
    for path in (ROOT / "clincus.py", ROOT / "wall/protect.py", *ROOT.glob("clincus_*/**/*.py")):
        yield name_of(path), "\n".join(sentences(path.read_text()))
    for path in (*ROOT.glob("spa/src/**/*.svelte"), *ROOT.glob("spa/src/**/*.ts")):
        if ".test." not in path.name and path.name != "wire.ts":
            found = ("".join(parts) for parts in PAGE_TEXT.findall(COMMENT.sub("", path.read_text())))
            yield name_of(path), "\n".join(found)


def test_no_text_has_a_word_that_is_ruled_out():
    assert {"whitelist", "assistant", "workdir"} <= set(RULED_OUT)
    wrong = []
    for place, text in texts():
        wrong += [(place, match[0]) for match in STRAYS.finditer(text)]
        if place.startswith("spa/"):
            wrong += [(place, match[0]) for match in WORKER_AS_TOOL.finditer(text)]
    assert wrong == [], "docs/dev/words.md has the word for it"
