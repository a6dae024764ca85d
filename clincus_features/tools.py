"""The tools beside the three of the reference: codex, gemini, aider, a plain shell, and those of `[tools.NAME]`.

agents/rules.py has the meaning of their screens. A user's own tool has its own rules.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping

import clincus
from clincus import TYPE_CHECKING, Carried, Setting, Tool, ToolFile, Unfit

if TYPE_CHECKING:
    from typing import Any

# -- The ready rows, in guest/more-tools.json


def complete_codex(carried: Carried, workspace_path: str, _environment: Mapping[str, str]) -> None:
    """Answer Codex's question if the workspace is trusted (seen with 0.169.0, which has no flag for that)."""
    path = ".codex/config.toml"
    header = f'[projects."{workspace_path}"]'
    text = carried.files[path].data.decode("utf-8", "surrogateescape") if path in carried.files else ""
    if header not in text and '"' not in workspace_path:
        text = f'{text.rstrip()}\n\n{header}\ntrust_level = "trusted"\n'.lstrip()
        carried.files[path] = ToolFile(path, text.encode("utf-8", "surrogateescape"))


def complete_gemini(carried: Carried, _workspace_path: str, environment: Mapping[str, str]) -> None:
    """Answer Gemini's question about the login, if the user gives it a key, and pin its version (0.61.0)."""
    settings = carried.document(".gemini/settings.json")
    security = clincus.as_object(settings.get("security"))
    auth = clincus.as_object(security.get("auth"))
    if environment.get("GEMINI_API_KEY") and not auth.get("selectedType"):
        settings["security"] = {**security, "auth": {**auth, "selectedType": "gemini-api-key"}}
    settings["general"] = {"enableAutoUpdate": False, **clincus.as_object(settings.get("general"))}
    carried.put(".gemini/settings.json", settings)


# The file of the two that a person's own ~/.gitconfig and the project beat.
GIT_FILE = ".config/git/config"
GIT_NAME = b"[user]\n\tname = Your Name\n\temail = you@example.com\n"


def complete_aider(carried: Carried, _workspace_path: str, _environment: Mapping[str, str]) -> None:
    """Give Git a name if it has none: aider would write this one into .git/config, or end if it can't (0.86.2)."""
    carried.files.setdefault(GIT_FILE, ToolFile(GIT_FILE, GIT_NAME))


COMPLETE = {"codex": complete_codex, "gemini": complete_gemini, "aider": complete_aider}
READY = {
    **clincus.read_tools("guest/more-tools.json", COMPLETE),
    clincus.SHELL.name: clincus.SHELL,
}


# -- Those of the config


RULE_STATES = {  # the states of a rule, and the reasons that it may give
    "working": ("retry",),
    "waiting": ("question", "plan", "permission", "dialog", "login"),
    "failed": ("rate_limit", "auth", "billing", "overloaded", "network", "server_error", "other"),
    "ready": ("over", "interrupted"),
}
LINES = 24  # of a screen, which rules are applied to


def check_pattern(value: object) -> str:
    """A regular expression, not an empty one."""
    text = clincus.check_text(value)
    try:
        re.compile(text)
    except re.error as error:
        raise Unfit(f"the pattern is broken: {error}") from None
    if not text:
        raise Unfit("a pattern may not be empty")
    if is_nested(text):
        raise Unfit("a repetition in a repetition, as in (a+)+, can take for ever: write it without the inner one")
    return text


# A sign that is meant, a class, the begin and the end of a group, a repetition, and any other character.
SIGN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]|[()]|[*+]|\{\d*,?\d*\}|.", re.DOTALL)
OFTEN = re.compile(r"[*+]|\{\d*,(?:|\d{2,})\}|\{\d{2,}\}")  # ten times or more


def is_nested(pattern: str) -> bool:
    """True if a regular expression repeats a group that itself has a repetition without a small bound.

    Such a pattern can take exponential time on a text that a container chose, and `re` lets no other thread run.
    """
    groups = [False]  # one for each open group: True if something is repeated in it
    is_group_of_many = False  # the part before is a group in which something is repeated
    for sign in SIGN.findall(pattern):
        is_often = OFTEN.fullmatch(sign) is not None
        if is_often and is_group_of_many:
            return True
        is_group_of_many = False
        if sign == "(":
            groups.append(False)
        elif sign == ")" and len(groups) > 1:
            is_group_of_many = groups.pop()
            groups[-1] = groups[-1] or is_group_of_many
        elif is_often:
            groups[-1] = True
    return False


def check_rule(value: object) -> dict[str, Any]:
    """A rule for the last lines of a screen, such as {state = "working", pattern = "esc to stop", last = 3}."""
    if not isinstance(value, Mapping) or not {"state", "pattern"} <= set(value):
        raise Unfit("a rule has state, pattern and, if wanted, reason, last and name")
    checks: dict[str, Callable[[Any], Any]] = {
        "name": clincus.matching(clincus.WORD, "write a plain name"),
        "state": clincus.matching("|".join(RULE_STATES), f"write {', '.join(RULE_STATES)}"),
        "pattern": check_pattern,
        "reason": clincus.check_text,
        "last": clincus.whole(1, LINES),
    }
    for key in value:
        if key not in checks:
            raise Unfit(f"{key!r} is not known; a rule has {', '.join(checks)}")
    rule = {key: clincus.fit_item(checks[key], item, key) for key, item in value.items()}
    reasons = RULE_STATES[rule["state"]]
    if rule.get("reason", reasons[0]) not in reasons:
        raise Unfit(f"reason: of the state {rule['state']} it is {', '.join(reasons)}")
    return rule


def check_home_path(value: object) -> str:
    """A path below the home, in normal form. Neither the whole home nor a path of Clincus."""
    path = posixpath.normpath(clincus.check_text(value).removeprefix("~/"))
    if path == "." or not clincus.safe_relative(path) or clincus.path_inside(path, ".clincus"):
        raise Unfit("write a path of your home other than .clincus, such as .config/mytool")
    return path


def check_words(value: object) -> list[str]:
    """A command whose first word is a program, and neither a flag nor a variable."""
    words = clincus.check_command(value)
    if words[0].startswith("-") or "=" in words[0]:
        raise Unfit("the first word is the name or the path of a program")
    return words


def check_conversation(value: object) -> str:
    """A pattern for the path of a conversation's file, whose group `id` is the conversation's id."""
    text = check_pattern(value)
    if "id" not in re.compile(text).groupindex:
        raise Unfit("the pattern needs a group (?P<id>…), which is the conversation's id")
    return text


def check_prompt(value: object) -> list[str]:
    """The words for a first prompt; one of them has `{prompt}` in it."""
    words: list[str] = clincus.list_of(clincus.check_text)(value)
    if words and not any("{prompt}" in word for word in words):
        raise Unfit('one of the words holds {prompt}, such as ["--prompt={prompt}"]')
    return words


RESERVED = (*clincus.TOOLS, clincus.SHELL.name)
NAME = r"(?!(?:" + "|".join(RESERVED) + r")$)[a-z][a-z0-9-]{0,31}"
WORDS = clincus.list_of(clincus.check_text)
PATHS = clincus.list_of(check_home_path)
ROW = {
    setting.key: setting
    for setting in (
        Setting("command", [], check_words),
        Setting("resume", [], WORDS),
        Setting("prompt", [], check_prompt),
        Setting("model", False, clincus.check_switch),
        Setting("credentials", [], PATHS),
        Setting("settings", [], PATHS),
        Setting("saved", [], PATHS),
        Setting("conversation", "", check_conversation),
        Setting("rules", [], clincus.list_of(check_rule)),
    )
}
NAME_ADVICE = f"a tool's name is made of a-z, 0-9 and '-', begins with a letter and is none of {', '.join(RESERVED)}"
clincus.register_settings(Setting("tools", {}, clincus.matching(NAME, NAME_ADVICE), merge=clincus.merged, rows=ROW))


def configured_tool(name: str, row: Mapping[str, Any], base: Tool | None, source: str) -> Tool:
    """The tool of `[tools.NAME]`, laid over a ready one of that name. ConfigError if it has no command."""
    command = tuple(row.get("command", base.start if base else ()))
    if not command:
        raise clincus.ConfigError(f'{source}: tools.{name} has no command: write one, such as command = ["{name}"]')
    tool = base or Tool(name, (), ())
    more = row.get("resume", base.resume[len(base.start) :] if base else ())
    fields: dict[str, Any] = {}
    for key in ("prompt", "credentials", "settings", "saved", "rules"):
        if key in row:
            fields[key] = tuple(row[key])
    tool = tool._replace(start=command, resume=(*command, *more), **fields)
    # Without a pattern, a resume may continue any saved file.
    usual = "(?P<id>.+)" if "saved" in row else tool.conversation
    pattern = row.get("conversation") or usual
    secrets = []
    for path in tool.credentials:
        secrets += [path, f"{path}/*"]
    return tool._replace(
        models=".+" if row.get("model", bool(tool.models)) else "",
        conversation=pattern,
        unsaved=tuple(dict.fromkeys((*tool.unsaved, *secrets))),
    )


def tools_of(config: clincus.Config) -> dict[str, Tool]:
    """The tools beyond those of the core, by name: the ready ones, then the user's in their order."""
    source = config.origins["tools"]
    tools = dict(READY)
    for name, row in config.get("tools").items():
        tools[name] = configured_tool(name, row, READY.get(name), source)
    return tools


clincus.MORE_TOOLS.append(tools_of)


def install(_extensions: clincus.Extensions) -> None:
    """Add nothing: importing this file adds keys and tools, before the configuration is read."""
