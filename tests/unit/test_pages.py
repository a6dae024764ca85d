"""How the commands of a page are read, and what is compared; tests/incus/test_pages.py runs them."""

from __future__ import annotations

import datetime

import pytest

from tests import pages
from tests.table import table

TEXT = """# A page

```
$ clincus list   # all of them
NAME              STATE
clincus-098787-1  running

$ clincus stop NAME
laptop$ ssh host
```

  ```sh
  # A comment
  curl -X PUT http://127.0.0.1:3000/api \\
      -d '{}'
  cat file |
    wc -l
  ```

```toml
[tool]
```
"""


def test_a_page_is_read_as_commands_with_what_it_shows_below_them():
    assert [(step.line, step.command, step.shown) for step in pages.steps_of("docs/a.md", TEXT)] == [
        (4, "clincus list   # all of them", ("NAME              STATE", "clincus-098787-1  running")),
        (8, "clincus stop NAME", ()),
        (9, "laptop$ ssh host", ()),
        (15, "curl -X PUT http://127.0.0.1:3000/api -d '{}'", ()),
        (17, "cat file | wc -l", ()),
    ]


def test_a_block_that_nothing_would_run_is_an_error():
    with pytest.raises(ValueError, match=r"docs/a\.md:2: this block is no session"):
        list(pages.steps_of("docs/a.md", "```\nclincus list\n```\n"))


@table(
    ("shown", "printed"),
    [
        ("✓ Stopped clincus-098787-1", "✓ Stopped clincus-ab12cd-2"),
        ("Created: 2026-11-29 10:46:32", "Created: 2031-01-01 00:00:00 +0100"),
        ("IPv4: 10.7.7.21", "IPv4: 10.200.1.9"),
        ("a1b2c3d Add it", "98f7e6d5 Add it"),
        ("NAME  STATE", "NAME             STATE"),
    ],
)
def test_values_that_vary_are_no_difference(shown, printed):
    assert pages.differences([shown], [printed]) == []


def test_everything_else_is_a_difference_but_for_lines_that_are_left_out():
    assert pages.differences(["one", "…", "four"], ["one", "two", "three", "four"]) == []
    for shown, printed in (
        (["Stopped 1 container(s)"], ["Stopped 2 container(s)"]),
        (["one", "two"], ["one"]),
        (["one", "…", "four"], ["one", "two", "three"]),
    ):
        assert pages.differences(shown, printed)


READ = {pages.name_of(page): page.read_text() for page in pages.PAGES}
RUN = [name for name in READ if name not in pages.GENERATED]


def test_few_commands_are_not_run_and_each_of_these_is_in_a_page():
    steps = [step for name in RUN for step in pages.steps_of(name, READ[name])]
    left_out = [step for step in steps if step.why_not_run]
    assert len(left_out) == len(pages.NOT_RUN)
    assert len(left_out) <= 6
    assert len(steps) > 120


def test_each_page_has_that_line():
    for name in RUN:
        (day,) = pages.CHECKED.findall(READ[name])
        assert datetime.date.fromisoformat(day) <= datetime.date.today() + datetime.timedelta(days=1), name
