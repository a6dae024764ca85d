"""The documents against the program: pages that it writes are current, and what a page names is there."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator

import jsonschema

import clincus
from clincus_cli.all_commands import load_commands
from clincus_cli.commands import COMMANDS, UsageError, find_command, parse_words
from tests.commands_page import API_PAGE, PAGE, page_text, with_calls
from tests.pages import PAGES, name_of
from tests.programs import ROOT

BLOCK = re.compile(r"^ *```(?:sh)?\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
OUTSIDE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
ENDS = {"&&", "||", "|", ";", ">", "<", "&"}
ALL = {name_of(page): page.read_text() for page in (*PAGES, ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md")}
TEXTS = {name: OUTSIDE.sub("", text) for name, text in ALL.items()}
CONTRACT = clincus.load_contract()


def found(pattern: str) -> Iterator[tuple[str, str]]:
    for name, text in TEXTS.items():
        for match in re.findall(pattern, text):
            yield name, match


def commands() -> Iterator[tuple[str, str]]:
    """Each command line of Clincus in a page: after a prompt or without one, and within a sentence."""
    load_commands()
    for name, text in ALL.items():
        lines = [line.strip().removeprefix("$ ") for block in BLOCK.findall(text) for line in block.splitlines()]
        if name != name_of(PAGE):
            yield from ((name, line) for line in lines if re.match(r"clincus( |$)", line))
    for name, line in found(r"`(clincus [^`…]+)`"):
        words = " ".join(line.split())
        if words.removeprefix("clincus ") not in COMMANDS:  # it may stand there as a name, without arguments
            yield name, words


def test_the_pages_that_the_program_writes_are_current():
    assert PAGE.read_text() == page_text(), "run `make docs`"
    assert API_PAGE.read_text() == with_calls(API_PAGE.read_text()), "run `make docs`"


def test_a_command_in_a_document_is_one_of_the_program():
    wrong = []
    for name, line in commands():
        words = shlex.split(line, comments=True)[1:]
        end = next((number for number, word in enumerate(words) if word in ENDS), len(words))
        try:
            parse_words(*find_command(words[:end]))
        except UsageError as error:
            wrong.append(f"{name}: {line}: {error}")
    assert wrong == []


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_a_link_leads_to_a_file_and_a_heading():
    wrong = []
    for name, (path, anchor) in found(r"\]\((?![a-z]+:)([^)#]*)(?:#([^)]+))?\)"):
        target = (ROOT / name).parent / path if path else ROOT / name
        is_there = target.exists() and (not anchor or anchor in anchors(OUTSIDE.sub("", target.read_text())))
        if not is_there and not path.endswith("../releases"):  # a page of the site that hosts the repository
            wrong.append(f"{name}: {path}#{anchor}")
    assert wrong == []


def test_a_file_that_a_document_names_is_there():
    files = found(r"`((?:tests|clincus_\w+|guest|wall|spa)/[\w/.-]+)`")
    assert [(name, path) for name, path in files if not (ROOT / path).exists()] == []


def test_a_call_or_event_that_a_document_names_is_one_of_the_api():
    def plain(path: str) -> str:
        return re.sub(r"\{\w+\}", "{}", path)

    known = {(method.upper(), plain(path)) for path, item in CONTRACT["paths"].items() for method in item}
    wrong = []
    for name, (method, path) in found(r"`(GET|POST|PUT|PATCH|DELETE) ((?:/api|…)/[\w/{}.-]*)"):
        ends = [one for how, one in known if how == method and one.endswith(plain(path).lstrip("…"))]
        if not ends or (path.startswith("/") and plain(path) not in ends):
            wrong.append((name, method, path))
    assert wrong == []
    events = CONTRACT["paths"]["/ws/events"]["get"]["x-messages"]
    assert [one["type"] for one in events if one["type"] not in TEXTS["docs/api.md"]] == []


def test_the_examples_of_answers_are_as_the_contract_says():
    schemas = {name: clincus.inlined(schema, CONTRACT) for name, schema in CONTRACT["components"]["schemas"].items()}
    blocks = re.findall(r"^```json\n(.*?)^```", ALL["docs/api.md"], re.MULTILINE | re.DOTALL)
    session, event, error = map(json.loads, blocks)
    jsonschema.validate(session, schemas["Session"])
    jsonschema.validate(event["agent"], schemas["Agent"])
    jsonschema.validate(error, schemas["Error"])
    assert set(schemas["Session"]["required"]) <= set(session)


# Groups of docs/troubleshooting.md with words of other programs, or of no program.
OF_OTHERS = ("Git on your side", "The agent or its network", "Docker, Podman and bubblewrap", "Logs")


def own_messages() -> str:
    """All texts of Clincus's own programs, one after the other; a value in one is left out."""
    sources = [ROOT / "clincus.py", *(path for part in ("clincus_*", "wall") for path in ROOT.glob(f"{part}/**/*.py"))]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source.read_text()))]
    constants = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join([*constants, *(script.read_text() for script in ROOT.glob("guest/**/*.sh"))])


def test_a_heading_of_troubleshooting_has_the_words_of_a_message():
    groups = re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", ALL["docs/troubleshooting.md"], re.MULTILINE)
    ours = [text for group, text in groups if group not in OF_OTHERS]
    headings = [heading for text in ours for heading in re.findall(r"^### (.+)", text, re.MULTILINE)]
    messages = own_messages()
    wrong = [one for one in headings if any(part not in messages for part in re.split(r"\d+", one))]
    assert headings
    assert wrong == []
