"""A table of cases is one test: `@table("text, expected", [("a", 1), ("b", 2)])` in place of pytest's `parametrize`.

The test runs for each row, and prints all rows that are wrong. Each row has a `tmp_path` and a `monkeypatch` of its
own; what it prints or logs is told apart by `capsys` and `caplog` too. Tables may be stacked.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from _pytest.outcomes import Failed, Skipped

TEXT = 60  # characters of a row's name


def table(names: str | Iterable[str], rows: Iterable[Any], **_: object) -> Callable[[Callable[..., None]], Any]:
    """A decorator: run the test for each row of values for `names`; `ids`, as parametrize has them, are not needed."""
    words = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)
        fixtures = [one for name, one in signature.parameters.items() if name not in words]

        @functools.wraps(test)
        def all_rows(**fixed: Any) -> None:
            wrong: list[str] = []
            skipped = ""
            count = 0
            for count, row in enumerate(rows, 1):
                values = values_of(row, len(words))
                try:
                    run_row(test, dict(zip(words, values)), fixed, count)
                except Skipped as reason:
                    skipped = str(reason)
                except (Exception, Failed) as error:
                    wrong.append(f"row {count} {row_name(row, values)}:\n{told(error)}")
            if wrong:
                pytest.fail(f"{len(wrong)} of {count} rows are wrong\n" + "\n".join(wrong), pytrace=False)
            if skipped and count == 1:
                pytest.skip(skipped)

        all_rows.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        del all_rows.__wrapped__  # pytest would look for the fixtures there
        return all_rows

    return decorate


def values_of(row: Any, count: int) -> tuple[Any, ...]:
    """The values of a row, which may be one value or a `pytest.param`."""
    if hasattr(row, "values") and hasattr(row, "marks"):
        return tuple(row.values)
    return (row,) if count == 1 else tuple(row)


def row_name(row: Any, values: tuple[Any, ...]) -> str:
    """What tells a row from the others."""
    return getattr(row, "id", None) or repr(values)[:TEXT]


def run_row(test: Callable[..., None], row: dict[str, Any], fixed: dict[str, Any], number: int) -> None:
    """Run a test for one row, with what belongs to it alone."""
    given = dict(fixed)
    if isinstance(fixed.get("tmp_path"), Path):
        given["tmp_path"] = fixed["tmp_path"] / f"row-{number}"
        given["tmp_path"].mkdir()
    if "capsys" in fixed:
        fixed["capsys"].readouterr()
    if "caplog" in fixed:
        fixed["caplog"].clear()
    with pytest.MonkeyPatch.context() as patch:
        if "monkeypatch" in fixed:
            given["monkeypatch"] = patch
        test(**row, **given)


def told(error: BaseException) -> str:
    """An error, and where in the test it was."""
    lines = traceback.format_exception_only(type(error), error)
    frames = [one for one in traceback.extract_tb(error.__traceback__) if Path(one.filename).name.startswith("test_")]
    place = f"  {Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}\n" if frames else ""
    return place + "".join(f"  {line}\n" for line in "".join(lines).splitlines())
