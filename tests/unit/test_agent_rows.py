"""The table of states and real tools: it is complete, and each test that it names tells of the state."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

from clincus_features.agents.rules import RULES
from tests.agent_rows import ROWS, TOOLS
from tests.programs import ROOT
from tests.table import table

CELLS = [(state, reason, tool, cell) for (state, reason), cells in ROWS.items() for tool, cell in cells.items()]
TESTS = [cell for cell in CELLS if "::" in cell[3]]


def documented_rows() -> Iterator[tuple[str, str]]:
    """Each state with each of its reasons, as the table of docs/api.md has them."""
    lines = (ROOT / "docs" / "api.md").read_text().split("| `state` | means | `reason` |\n")[1].splitlines()
    for line in lines[1:]:
        if not line.startswith("|"):
            return
        _, state, _, reasons, _ = line.split("|")
        name = state.strip(" `")
        yield from ((name, reason) for reason in re.findall(r"`(\w+)`", reasons))
        if name not in ("waiting", "failed"):  # which always have a reason
            yield name, ""


def test_the_table_has_each_state_that_is_documented():
    assert sorted(ROWS) == sorted(documented_rows())


@table("row", ROWS, ids=" ".join)
def test_each_row_has_each_tool(row):
    assert sorted(ROWS[row]) == sorted(TOOLS)


@functools.lru_cache
def names_of(module: str) -> dict[str, ast.stmt]:
    """What the top of a test module defines, by name."""
    tree = ast.parse((ROOT / "tests" / "incus" / f"{module}.py").read_text())
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):  # the classes that tests drive a tool by know words of all states
            found[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
    return found


def words_of(module: str, name: str) -> set[str]:
    """All words in the texts of a test, and of what it uses of its module."""
    known = names_of(module)
    words: set[str] = set()
    waiting, done = [name], set()
    while waiting:
        one = waiting.pop()
        if one in done or one not in known:
            continue
        done.add(one)
        for node in ast.walk(known[one]):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words |= set(re.findall(r"[\w.]+", node.value))
            elif isinstance(node, ast.Name):
                waiting.append(node.id)
            elif isinstance(node, ast.arg):
                waiting.append(node.arg)  # a fixture
    return words


@table(("state", "reason", "tool", "cell"), TESTS, ids=["-".join(cell[:3]) for cell in TESTS])
def test_each_test_of_the_table_exists_and_tells_of_the_state(state, reason, tool, cell):
    module, _, name = cell.partition("::")
    assert name in names_of(module), f"tests/incus/{module}.py has no {name}"
    assert {state, tool} | ({reason} - {""}) <= words_of(module, name)


@table("tool", TOOLS)
def test_what_the_rules_know_of_a_tool_is_seen_with_it(tool):
    rules = RULES[tool]
    known = {(rule.state, rule.reason) for rule in (*rules.screen, *rules.hooks.values())}
    told = {(state, reason) for state, reason, name, cell in TESTS if name == tool}
    assert {row for row in known if row in ROWS} <= told
