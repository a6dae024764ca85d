"""Shows how large each part of Clincus is, and how tightly it is written; `make lint` prints it, and limits nothing.

    python3 -m tests.measures

A code line has more than a comment or a docstring on it. Its characters are counted without indentation and comment:
modules of other projects that read well have 28 to 38 of them. Statements and conditional expressions are Python's.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "core": ["clincus.py"],
    "features": ["clincus_features/**/*.py"],
    "command line": ["clincus_cli/**/*.py"],
    "wall": ["wall/*.py"],
    "guest": ["guest/**/*.sh"],
    "page": ["spa/src/**/*.ts", "spa/src/**/*.svelte"],
}
GENERATED = "spa/src/lib/wire.ts"
LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}
# A line of a shell program, TypeScript or Svelte that is a comment, or goes on with one.
COMMENT = re.compile(r"\s*(#|//|/?\*|<!--)")


class Size(NamedTuple):
    """The size of one file, or of several together."""

    lines: int  # of code
    characters: int  # of these lines
    statements: int = 0
    conditionals: int = 0  # expressions `a if b else c`

    @property
    def density(self) -> float:
        """Characters a code line."""
        return self.characters / max(self.lines, 1)


def python_size(path: Path) -> Size:
    """The size of a Python file."""
    text = path.read_text("utf-8")
    lines = text.split("\n")
    nodes = list(ast.walk(ast.parse(text)))
    code: set[int] = set()  # numbers of lines
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            first, last = token.start[0], token.end[0]
            if token.type == tokenize.COMMENT:
                lines[first - 1] = lines[first - 1][: token.start[1]]
            elif token.type not in LAYOUT:
                code.update(range(first, last + 1))
    for docstring in filter(is_docstring, nodes):
        code -= set(range(docstring.lineno, docstring.end_lineno + 1))
    return Size(
        lines=len(code),
        characters=sum(len(lines[number - 1].strip()) for number in code),
        statements=sum(isinstance(node, ast.stmt) for node in nodes),
        conditionals=sum(isinstance(node, ast.IfExp) for node in nodes),
    )


def is_docstring(node: ast.AST) -> bool:
    """True for a statement that is a text and nothing else."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def text_size(path: Path) -> Size:
    """The size of a file in another language, without its comments as far as they stand on lines of their own."""
    lines = path.read_text("utf-8").split("\n")
    code = [line.strip() for line in lines if line.strip() and not COMMENT.match(line)]
    return Size(len(code), sum(map(len, code)))


def part_size(patterns: Iterable[str]) -> Size:
    """The size of all files that the patterns match."""
    paths = {path for pattern in patterns for path in ROOT.glob(pattern) if path != ROOT / GENERATED}
    sizes = [python_size(path) if path.suffix == ".py" else text_size(path) for path in sorted(paths)]
    return Size(*map(sum, zip(*sizes)))


def main() -> None:
    """Print the table."""
    print(f"{'part':<14}{'statements':>12}{'code lines':>12}{'characters a line':>20}{'conditionals':>14}")
    for name, patterns in PARTS.items():
        size = part_size(patterns)
        statements = size.statements or "-"
        conditionals = size.conditionals if size.statements else "-"
        print(f"{name:<14}{statements:>12}{size.lines:>12}{size.density:>20.1f}{conditionals:>14}")


if __name__ == "__main__":
    main()
