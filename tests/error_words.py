"""The errors of the program side by side, as people read them: `python -m tests.error_words` prints them.

`tests/unit/test_errors.py` demands of each that it says what to do.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.programs import ROOT

# What people and clients see; a usage error is followed by a hint at the help of its command.
KINDS = ("ClincusError", "ConfigError", "IncusError", "SourceError", "UnsavedError", "ChangedError", "CoveredError")
SOURCES = (
    ROOT / "clincus.py",
    *sorted(ROOT.glob("wall/*.py")),
    *sorted(ROOT.glob("clincus_cli/*.py")),
    *sorted(ROOT.glob("clincus_features/**/*.py")),
)
VALUE = "…"  # in the place of a value, or of another program's words


class Message(NamedTuple):
    path: Path
    line: int
    text: str


def messages() -> Iterator[Message]:
    """Each error of the sources, once."""
    trees = {path: ast.parse(path.read_text()) for path in SOURCES}
    constants = {name: value for tree in trees.values() for name, value in assigned(tree.body)}
    seen = set()
    for path, tree in trees.items():
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            names = {**constants, **dict(assigned(ast.walk(function)))}
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args):
                kind = getattr(call.func, "attr", getattr(call.func, "id", ""))
                text = " ".join(words_of(call.args[0], names).split())
                if kind in KINDS and text.strip(f"{VALUE}: ") and text not in seen:
                    seen.add(text)
                    yield Message(path, call.lineno, text)


def assigned(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def words_of(node: ast.expr, names: Mapping[str, ast.expr], depth: int = 3) -> str:
    """The words of a text in the source, with `…` for what is known only when the program runs."""
    words = functools.partial(words_of, names=names, depth=depth)
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else VALUE
    if isinstance(node, ast.JoinedStr):
        return "".join(map(words, node.values))
    if isinstance(node, ast.FormattedValue):
        return words(node.value)
    if isinstance(node, ast.BinOp):
        return words(node.left) + words(node.right)
    if isinstance(node, ast.IfExp):
        return words(node.body)
    name = getattr(node, "attr", getattr(node, "id", ""))
    is_text = isinstance(names.get(name), (ast.Constant, ast.JoinedStr, ast.BinOp, ast.IfExp))
    return words_of(names[name], names, depth - 1) if depth and is_text else VALUE


if __name__ == "__main__":
    for one in sorted(messages(), key=lambda one: one.text):
        print(f"{one.path.relative_to(ROOT)}:{one.line}: {one.text}")
