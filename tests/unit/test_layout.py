"""The layout of the code: which file may import which, and how long a component of the page may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("clincus_cli", "clincus_features", "wall")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
CORE = ROOT / "clincus.py"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {module_name(path) for path in MODULES}


def imports(path: Path, *, at_top: bool = False) -> Iterator[str]:
    """The dotted names of ours that a file imports; with `at_top` only when it is loaded, not later in a function.

    What stands below `if TYPE_CHECKING` is never loaded.
    """
    for node in walk(ast.parse(path.read_text("utf-8")), at_top=at_top):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("clincus"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("clincus"):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in NAMES else node.module


def walk(node: ast.AST, *, at_top: bool) -> Iterator[ast.AST]:
    """The nodes below one, without those that do not run when the module is loaded, if asked so."""
    for child in ast.iter_child_nodes(node):
        is_later = isinstance(child, (ast.FunctionDef, ast.Lambda)) or "TYPE_CHECKING" in ast.dump(
            getattr(child, "test", ast.Pass())
        )
        if not (at_top and is_later):
            yield child
            yield from walk(child, at_top=at_top)


def test_the_core_imports_no_feature_and_no_command_when_it_is_loaded():
    assert [name for name in imports(CORE, at_top=True) if name != "clincus"] == []


def test_a_feature_imports_the_core_and_itself_only():
    """What several of them use is a mechanism of the core; a third place must not grow."""
    wrong = []
    for path in (ROOT / "clincus_features").rglob("*.py"):
        feature = ".".join(module_name(path).split(".")[:2])
        others = {name for name in imports(path) if not f"{name}.".startswith(f"{feature}.")} - {"clincus"}
        wrong += [(module_name(path), name) for name in others]
    assert wrong == []
    shared = ast.parse((ROOT / "clincus_features/__init__.py").read_text("utf-8"))
    assert [type(node) for node in shared.body] == [ast.Expr], "no more than its docstring"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module_name(path): set(imports(path, at_top=True)) for path in MODULES}
    while leaves := [name for name, needed in graph.items() if not needed & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}


def test_no_component_of_the_page_has_more_than_200_lines():
    """No other file has a limit: tests/measures.py shows how the code reads."""
    lengths = {path: path.read_text("utf-8").count("\n") for path in (ROOT / "spa/src").rglob("*.svelte")}
    assert {path.name: length for path, length in lengths.items() if length > 200} == {}


def test_the_places_where_to_change_what_are_in_the_code():
    page = (ROOT / "docs/architecture.md").read_text("utf-8").partition("\n## Where would I change")[2]
    code = "\n".join(path.read_text("utf-8") for path in [CORE, *MODULES, *ROOT.glob("guest/**/*.sh")])
    names = re.findall(r"`([A-Za-z_][\w.]+)(?:\(.*?\))?`", page.partition("\n## ")[0])
    words = {word for name in names if not (ROOT / name).exists() for word in name.split(".")}
    assert [word for word in sorted(words) if not re.search(rf"\b{word}\b", code)] == []
