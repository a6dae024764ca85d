"""Shows how large each part of Clincus is, and how tightly it is written; `make lint` prints it, and limits nothing.

    python3 -m tests.measures

A code line has more than a comment or a docstring on it. Its characters are counted without indentation and comment:
modules of other projects that read well have 28 to 38 of them. Statements and conditional expressions are Python's.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "core": ["clincus.py"],
    "features": ["clincus_features/**/*.py"],
    "command line": ["clincus_cli/**/*.py"],
    "wall": ["wall/*.py"],
    "guest": ["guest/**/*.sh"],
    "page": ["spa/src/**/*.ts", "spa/src/**/*.svelte"],
}
GENERATED = ROOT / "spa/src/lib/wire.ts"
# A line that is a comment, or goes on with one.
COMMENT = re.compile(r"\s*(#|//|/?\*|<!--)")


def code_lines(path: Path) -> list[str]:
    """The lines of a file that are neither empty nor a comment, nor in a docstring."""
    lines = dict(enumerate(path.read_text("utf-8").split("\n"), 1))
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if is_text and isinstance(node.value.value, str):
                for number in range(node.lineno, node.end_lineno + 1):
                    lines.pop(number, None)
    return [re.sub("  # .*", "", line.strip()) for line in lines.values() if line.strip() and not COMMENT.match(line)]


def main() -> None:
    print(f"{'part':<14}{'statements':>12}{'code lines':>12}{'characters a line':>20}{'conditionals':>14}")
    for name, patterns in PARTS.items():
        paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern)) if path != GENERATED]
        lines = [line for path in paths for line in code_lines(path)]
        sources = [path.read_text("utf-8") for path in paths if path.suffix == ".py"]
        nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
        statements = sum(isinstance(node, ast.stmt) for node in nodes) or "-"
        conditionals = sum(isinstance(node, ast.IfExp) for node in nodes) if nodes else "-"
        density = sum(map(len, lines)) / max(len(lines), 1)
        print(f"{name:<14}{statements:>12}{len(lines):>12}{density:>20.1f}{conditionals:>14}")


if __name__ == "__main__":
    main()
