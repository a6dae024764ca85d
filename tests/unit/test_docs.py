"""The documents against the program: the page of commands is current, and every command in them can be parsed."""

from __future__ import annotations

import ast
import json
import re
import shlex

import jsonschema

import clincus
from clincus_cli.all_commands import load_commands
from clincus_cli.commands import COMMANDS, find_command, parse_words
from clincus_features.review import recorder
from tests.commands_page import API_PAGE, PAGE, page_text, with_calls
from tests.programs import ROOT
from tests.table import table

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


def test_the_page_on_the_api_has_each_call_with_method_and_path():
    page = API_PAGE.read_text()
    assert page == with_calls(page), "run `make docs`"
    assert page.count("\n| ") > len(CALLS)


def parse_line(line):
    """Parse a command line of a page; raises as the command line does."""
    words = shlex.split(line, comments=True)[1:]
    end = next((number for number, word in enumerate(words) if word in ENDS), len(words))
    load_commands(*words[:1])
    command, rest = find_command(words[:end])
    parse_words(command, rest)


@table(("page", "line"), EXAMPLES)
def test_a_command_in_a_document_is_one_of_the_program(page, line):
    parse_line(line)


def test_the_first_page_is_read_at_once():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


OUTSIDE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", OUTSIDE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


ANCHORED = [
    (str(page.relative_to(ROOT)), path, anchor)
    for page in (*PAGES, ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md")
    for path, anchor in re.findall(r"\]\((?![a-z]+:)([^)#]*)#([^)]+)\)", page.read_text())
]


@table(("page", "path", "anchor"), ANCHORED)
def test_a_link_into_a_page_leads_to_a_heading(page, path, anchor):
    source = ROOT / page
    target = source.parent / path if path else source
    assert anchor in anchors(target.read_text())


TEXTS = {page: OUTSIDE.sub("", page.read_text()) for page in (*PAGES, ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md")}
INLINE = [
    (str(page.relative_to(ROOT)), " ".join(line.split()))
    for page, text in TEXTS.items()
    for line in re.findall(r"`(clincus [^`…]+)`", text)
]


@table(("page", "line"), INLINE)
def test_a_command_within_a_sentence_is_one_of_the_program(page, line):
    """With its arguments it can be parsed; it may also stand there as a name, without them."""
    load_commands()
    if line.removeprefix("clincus ") not in COMMANDS:
        parse_line(line)


LINKS = [
    (str(page.relative_to(ROOT)), path)
    for page, text in TEXTS.items()
    for path in re.findall(r"\]\((?![a-z]+:)([^)#]+)", text)
    if not path.endswith("../releases")  # a page of the site that hosts the repository
]


@table(("page", "path"), LINKS)
def test_a_link_leads_to_a_file(page, path):
    assert ((ROOT / page).parent / path).exists()


FILES = [
    (str(page.relative_to(ROOT)), path)
    for page, text in TEXTS.items()
    for path in re.findall(r"`((?:tests|clincus_\w+|guest|wall|spa)/[\w/.-]+)`", text)
]


@table(("page", "path"), FILES)
def test_a_file_that_a_document_names_is_there(page, path):
    assert (ROOT / path).exists()


CALLS = [
    (method.upper(), re.sub(r"\{\w+\}", "{}", path))
    for path, item in clincus.load_contract()["paths"].items()
    for method in item
]
NAMED_CALLS = [
    (str(page.relative_to(ROOT)), *named)
    for page, text in TEXTS.items()
    for named in re.findall(r"`(GET|POST|PUT|PATCH|DELETE) ((?:/api|…)/[\w/{}.-]*)", text)
]


@table(("page", "method", "path"), NAMED_CALLS)
def test_a_call_that_a_document_names_is_one_of_the_api(page, method, path):
    wanted = re.sub(r"\{\w+\}", "{}", path)
    known = [one for how, one in CALLS if how == method]
    assert any(one.endswith(wanted.lstrip("…")) if wanted.startswith("…") else one == wanted for one in known)


@table("message", clincus.load_contract()["paths"]["/ws/events"]["get"]["x-messages"])
def test_an_event_is_in_the_page_on_the_api(message):
    assert message["type"] in TEXTS[ROOT / "docs/api.md"]


def test_the_examples_of_answers_are_as_the_contract_says():
    contract = clincus.load_contract()
    schemas = {name: clincus.inlined(schema, contract) for name, schema in contract["components"]["schemas"].items()}
    page = (ROOT / "docs/api.md").read_text()
    session, event, error = map(json.loads, re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    jsonschema.validate(session, schemas["Session"])
    jsonschema.validate(event["agent"], schemas["Agent"])
    jsonschema.validate(error, schemas["Error"])
    assert set(schemas["Session"]["required"]) <= set(session)


def test_the_page_on_review_names_the_size_from_which_a_file_is_in_no_checkpoint():
    assert f"files over {recorder.FILE_LIMIT >> 20} MiB" in TEXTS[ROOT / "docs/review.md"]


# Groups of docs/troubleshooting.md with words of other programs, or of no program.
OF_OTHERS = ("Git on your side", "The agent or its network", "Docker, Podman and bubblewrap", "Logs")


def own_messages() -> str:
    """All texts of Clincus's own programs, one after the other; a value in one is left out."""
    sources = [
        ROOT / "clincus.py",
        ROOT / "wall/protect.py",
        *ROOT.glob("clincus_cli/*.py"),
        *ROOT.glob("clincus_features/**/*.py"),
    ]
    trees = [ast.parse(source.read_text()) for source in [*sources, *ROOT.glob("wall/*.py")]]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    scripts = [script.read_text() for script in ROOT.glob("guest/**/*.sh")]
    return "\n".join([*(text for text in constants if isinstance(text, str)), *scripts])


MESSAGES = own_messages()
GROUPS = re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
HEADINGS = [
    heading for group, text in GROUPS if group not in OF_OTHERS for heading in re.findall(r"^### (.+)", text, re.M)
]


@table("heading", HEADINGS)
def test_a_heading_of_troubleshooting_has_the_words_of_a_message(heading):
    assert [part for part in re.split(r"\d+", heading) if part not in MESSAGES] == []
