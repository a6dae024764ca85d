"""A message of a conversation, of any tool, with texts of bounded length."""

from __future__ import annotations

from typing import NamedTuple

TEXT = 20_000  # characters of a message
TITLE = 200  # characters of a call's title, a tool's name and an id


class Message(NamedTuple):
    """A message as the API has it."""

    role: str  # person, agent or system
    kind: str  # text, thought, plan, call, result or notice
    text: str
    at: str | None = None  # RFC 3339
    tool: str | None = None  # the name of the called tool
    title: str | None = None  # what it is called for, in one line
    call: str | None = None  # joins a call and its result
    failed: bool = False
    cut: bool = False  # the text goes on
    id: str = ""

    @property
    def words(self) -> str:
        """The text that a search looks through."""
        return "\n".join(filter(None, (self.tool, self.title, self.text)))

    def document(self) -> dict[str, object]:
        """The object of the API."""
        return self._asdict()


def message(role: str, kind: str, text: str, **more: object) -> Message:
    """A message with its texts cut to their limits."""
    made = Message(role, kind, text[:TEXT], **more)  # type: ignore[arg-type]
    return made._replace(cut=len(text) > TEXT)


def short(value: object) -> str | None:
    """A text in one line, None for anything else."""
    if not isinstance(value, str):
        return None
    line = " ".join(value[: 4 * TITLE].split())
    return "".join(filter(str.isprintable, line))[:TITLE] or None
