"""Checks the files in which git keeps an operation in progress: some can make git run, read or write other things.

Git trusts these files, since it writes them itself. Each function below reads one of them and returns its faults, in
words that a person can find in the file, and nothing for a harmless one. All of this is pure.

Other files of an operation hold object names, references, texts and numbers, which git checks or passes to nobody:
MERGE_MODE, MERGE_MSG, BISECT_TERMS, NOTES_MERGE_REF, rebase-merge/{amend,stopped-sha,squash-onto,done},
rebase-apply/{patch,sign,keep,rebasing}, sequencer/abort-safety (git 2.47 to 2.52).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

SIZE_LIMIT = 4 << 20  # bytes of one file; a todo list of 15,000 commits has 1 MiB
MOST_CONFLICTS = 5_000  # records of a MERGE_RR
NOT_GITS = "git never writes such a file"
STRATEGIES = frozenset(("ort", "recursive", "resolve", "octopus", "ours", "subtree"))  # builtin/merge.c
# read_rr in git's rerere.c, and the output of write_rr.
CONFLICT = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?(?:\.[0-9]{1,4})?\t(.+)", re.DOTALL)
# Git takes no such name into an index (verify_path in read-cache.c).
REFUSED_NAME = re.compile(rb"^/|(?:^|/)(?:(?:\.git|git~1)[. ]*|\.\.?)?(?:/|$)", re.IGNORECASE)
QUOTED = re.compile(rb"'[^']*'(?:\\['!]'[^']*')*")  # one word, as sq_quote_buf in git's quote.c writes it
# The options that `git am` takes for `git apply` (OPT_PASSTHRU_ARGV in builtin/am.c).
APPLY_OPTION = re.compile(
    rb"--(?:no-)?(?:ignore-space-change|ignore-whitespace|reject|whitespace|directory|include|exclude)"
    rb"|--(?:whitespace|include|exclude)=.*|--directory=(?!/)(?!(?:.*/)?\.\.(?:/|$)).*|-[Cp][0-9]*",
    re.DOTALL,
)
EXEC_LINE = re.compile(rb"^[ \t]*(?:x|exec)[ \t]+(.*)", re.MULTILINE)  # parse_insn_line in sequencer.c
# populate_opts_cb in sequencer.c: a configuration, of which git writes one entry a line.
OPTION_LINE = re.compile(rb"[ \t]*([a-z-]+) = (.*)")
SEQUENCER_OPTIONS = frozenset(
    b"no-commit edit allow-empty allow-empty-message drop-redundant-commits keep-redundant-commits signoff"
    b" record-origin allow-ff mainline strategy gpg-sign strategy-option allow-rerere-auto default-msg-cleanup".split()
)
OBJECT_NAME = re.compile(rb"\s*(?:[0-9a-f]{40}(?:[0-9a-f]{24})?\s*)?")
REFERENCE = re.compile(rb"refs/(?!(?:.*/)?\.)(?!.*\.\.).+")
NUMBER = re.compile(rb"\s*[0-9]{0,9}\s*")
# Makes a shell run a command within a text, or within a name that it expands twice (bash 5.3 has `${ ` too).
SHELL_CALL = re.compile(rb"`|\$[({\[]|[\x00-\x08\x0a-\x1f\x7f]")
PLAIN_WORDS = re.compile(rb"(?:[ \t]|[^\s'\"`$;&|<>()\\]|\"[^\"`$\\]*\"|'[^']*'|\\['!])*")
AUTHOR_LINE = re.compile(rb"GIT_AUTHOR_(?:NAME|EMAIL|DATE)='[^']*'(?:\\['!]'[^']*')*")


def conflicts(data: bytes) -> tuple[list[bytes], list[str]]:
    """The paths in MERGE_RR, and its faults: a wrong form, or paths that lead rerere out of the work tree.

    If `rr-cache` exists, `git commit`, `git merge`, `git rebase` and `git rerere` read the file at each path into
    rr-cache/ID/postimage, and write a recorded text there (do_rerere_one_path in rerere.c, which checks no path).
    """
    if not data:
        return [], []
    records = data.split(b"\0")
    found = [CONFLICT.fullmatch(record) for record in records[:-1]]
    if records[-1] or not all(found):
        return [], [NOT_GITS]
    paths = [one[1] for one in found if one is not None]
    if len(paths) > MOST_CONFLICTS:
        return [], [f"more than {MOST_CONFLICTS} conflicts"]
    return paths, [text(path) for path in paths if REFUSED_NAME.search(path)]


def conflict_record(data: bytes) -> list[str]:
    """The faults of MERGE_RR, except for links in the work tree."""
    return conflicts(data)[1]


def apply_options(data: bytes) -> list[str]:
    """The options of rebase-apply/apply-opt that `git am` would not have taken.

    `git am --continue` and `git rebase --continue` pass all of them to apply_parse_options (run_apply in builtin/am.c):
    `--build-fake-ancestor=FILE` writes a file anywhere.
    """
    words = QUOTED.findall(data)
    if QUOTED.sub(b"", data).strip():
        return [NOT_GITS]
    options = [re.sub(rb"'\\(['!])'", rb"\1", word[1:-1]) for word in words]
    return [text(option) for option in options if not APPLY_OPTION.fullmatch(option)]


def commands(data: bytes) -> list[str]:
    """The commands in a todo list of a rebase (do_exec in sequencer.c)."""
    return [text(line) for line in EXEC_LINE.findall(data)]


def strategy(data: bytes) -> list[str]:
    """A merge strategy that is not git's own: git runs git-merge-NAME for it (try_merge_command in merge.c).

    A name with a slash is a program in the work tree.
    """
    name = text(data.rstrip(b"\n"))
    return [name] if name and name not in STRATEGIES else []


def sequencer_options(data: bytes) -> list[str]:
    """The options of a cherry-pick or revert that name a foreign strategy, or have a form that git never writes."""
    found = []
    for line in data.split(b"\n"):
        if line in (b"", b"[options]"):
            continue
        option = OPTION_LINE.fullmatch(line)
        if option is None or option[1] not in SEQUENCER_OPTIONS or line.endswith(b"\\"):
            found.append(f"{NOT_GITS}: {text(line)}")
        elif option[1] == b"strategy":
            found += strategy(option[2])
    return found


def sign_option(data: bytes) -> list[str]:
    """Any option except that of a key: `git rebase` passes the line to `git am` (run_am in builtin/rebase.c)."""
    line = data.strip()
    return [] if not line or (line.startswith(b"-S") and b"\n" not in line) else [text(data)]


def bisect_start(data: bytes) -> list[str]:
    """An option in the place of a branch: `git bisect reset` passes it to `git checkout` (builtin/bisect.c)."""
    return [text(data)] if data.startswith(b"-") else branch(data)


def number(data: bytes) -> list[str]:
    """Anything but a number: __git_ps1 in git-prompt.sh puts it into PS1 as it is, and bash then runs a `$(…)` in it.

    This concerns shells that call it from PROMPT_COMMAND or precmd. It passes on a branch in a variable, which is safe.
    """
    return [] if NUMBER.fullmatch(data) else [text(data)]


def branch(data: bytes) -> list[str]:
    """A branch with a command in its name, for a prompt that expands it."""
    return [text(data)] if SHELL_CALL.search(data.rstrip(b"\r\n")) else []


def commit(data: bytes) -> list[str]:
    """Anything but an object name: prompts and scripts show it, or git takes it for an option.

    For the second, see apply_save_autostash_oid in sequencer.c.
    """
    return [] if OBJECT_NAME.fullmatch(data) else [text(data)]


def reference(data: bytes) -> list[str]:
    """A symbolic reference where git has none: git writes the file in .git that it names, such as `commondir`.

    refs_resolve_ref_unsafe in git's refs.c takes any name of one level.
    """
    return [text(data)] if data.startswith(b"ref:") else []


def updates(data: bytes) -> list[str]:
    """Files in .git that a rebase would write at its end as if they were references (do_update_refs in sequencer.c)."""
    lines = data.split(b"\n")
    return [text(line) for line in lines if not OBJECT_NAME.fullmatch(line) and not REFERENCE.fullmatch(line)]


def shell_words(data: bytes) -> list[str]:
    """Words that a shell would not take as they are.

    `git bisect visualize` passed those of BISECT_NAMES to `eval` before 2.40 (git-bisect.sh), and a rebase those of
    strategy_opts before 2.20 (git-rebase--merge.sh).
    """
    return [] if PLAIN_WORDS.fullmatch(data.rstrip(b"\n")) else [text(data)]


def author(data: bytes) -> list[str]:
    """Lines that set any variable except those of an author: git before 2.20, and scripts, accept them all."""
    return [text(line) for line in data.split(b"\n") if line and not AUTHOR_LINE.fullmatch(line)]


def text(data: bytes) -> str:
    """Bytes of a file, for a person."""
    return data.decode("utf-8", "backslashreplace")


class Check(NamedTuple):
    """The check of a file in a Git folder."""

    files: str  # a regular expression for its path there
    wrong: Callable[[bytes], list[str]]
    does: str  # the effect on git, for a person
    how_on: str  # how to continue without it
    may_be_yours: bool = False  # such a file from before a session stays


GIVE_UP_AM = "`git am --continue` goes on without its options, and `git am --abort` gives it up"
PUT_BACK = "if you let the session go on, it is put back; once the session has stopped, you can move it back"
GIVE_UP_REBASE = "`git rebase --abort` gives the rebase up"
GIVE_UP_OR_BACK = f"{GIVE_UP_REBASE}; {PUT_BACK}"
GIVE_UP_PICK = f"`git cherry-pick --abort` or `git revert --abort` gives it up; {PUT_BACK}"
CHECKS = (
    Check(
        "MERGE_RR", conflict_record,
        "`git commit` and `git rerere` would have read or overwritten the file there", "you need not do anything",
    ),
    Check("rebase-apply/apply-opt", apply_options, "`git am --continue` would have obeyed it", GIVE_UP_AM),
    Check(
        "(rebase-(merge|apply)/git-rebase-todo|sequencer/todo)", commands,
        "`git rebase --continue` would have run it", GIVE_UP_OR_BACK, may_be_yours=True,
    ),
    Check(
        "rebase-(merge|apply)/strategy", strategy,
        "`git rebase --continue` would have run git-merge-NAME", GIVE_UP_OR_BACK, may_be_yours=True,
    ),
    Check(
        "sequencer/opts", sequencer_options,
        "`git cherry-pick --continue` would have run git-merge-NAME", GIVE_UP_PICK, may_be_yours=True,
    ),
    Check(
        "rebase-(merge|apply)/autostash|MERGE_AUTOSTASH", commit,
        "`git stash apply` would have got it as an option", "`git stash list` shows your stashes",
    ),
    Check(
        "rebase-(merge|apply)/gpg_sign_opt", sign_option,
        "`git am` would have got it as an option", "the rebase goes on without a signature",
    ),
    Check(
        "BISECT_START", bisect_start,
        "`git bisect reset` would have handed it to `git checkout` as an option", "`git bisect reset HEAD` ends it",
    ),
    Check(
        "rebase-merge/(msgnum|end)|rebase-apply/(next|last)", number,
        "a prompt that shows the state of git would have run it", GIVE_UP_REBASE,
    ),
    Check(
        "rebase-(merge|apply)/head-name", branch,
        "a prompt that shows the branch may have run it", GIVE_UP_REBASE,
    ),
    Check(
        "rebase-(merge|apply)/(onto|orig-head)", commit,
        "prompts and scripts may have run it", GIVE_UP_REBASE,
    ),
    Check(
        "rebase-merge/strategy_opts|BISECT_NAMES", shell_words,
        "old versions of git would have run it", "`git rebase --abort` or `git bisect reset` gives it up",
    ),
    Check(
        "(ORIG|MERGE|CHERRY_PICK|REVERT|REBASE|BISECT)_HEAD|AUTO_MERGE|BISECT_EXPECTED_REV", reference,
        "git would have written the file in .git that it names, such as `commondir`", "git makes it anew",
    ),
    Check(
        "rebase-merge/update-refs", updates,
        "`git rebase --continue` would have written that file in .git", GIVE_UP_REBASE,
    ),
    Check(
        "rebase-(merge|apply)/author-script", author,
        "scripts and old versions of git would have run it", GIVE_UP_REBASE,
    ),
)  # fmt: skip
# A submodule or a worktree may have any name.
PLACES = [(re.compile(rf"(?:(?:modules|worktrees)/.+/)?(?:{check.files})"), check) for check in CHECKS]
NAMES = frozenset(  # of all these files
    (
        *("MERGE_RR", "apply-opt", "git-rebase-todo", "todo", "strategy", "opts", "autostash", "MERGE_AUTOSTASH"),
        *("gpg_sign_opt", "BISECT_START", "author-script", "msgnum", "end", "next", "last", "head-name", "onto"),
        *("orig-head", "strategy_opts", "BISECT_NAMES", "ORIG_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"),
        *("REBASE_HEAD", "BISECT_HEAD", "AUTO_MERGE", "BISECT_EXPECTED_REV", "update-refs"),
    )
)


def check_of(path: str) -> Check | None:
    """The check of a file, by its path in a Git folder; None without one."""
    if path.rpartition("/")[2] not in NAMES:
        return None
    return next((check for place, check in PLACES if place.fullmatch(path)), None)
