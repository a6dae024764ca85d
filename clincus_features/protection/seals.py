"""Lists the paths of the host that are sealed for a session, and finds seals that came off, by the kernel's mounts.

The wall's hook puts each workspace together below /run/clincus, and mounts every sealed path there over itself. The
list of mounts therefore has exactly the sealed paths, and lacks those whose seal came off. A server in another mount
namespace may not see these mounts; then the patterns of the plan are used.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import clincus

MOUNTS = "/proc/self/mountinfo"
MOST_SEALED = 4000  # as MOST_MOUNTS of the hook
LOOKS, BETWEEN_LOOKS = 3, 0.02  # the kernel's list may miss a mount while others come and go; seconds
WHY = (  # the first match counts
    (r"(.*/)?hooks|\.husky", "git runs what is in it"),
    (r"(.*/)?(config|config\.worktree|\.gitconfig)", "git reads its settings there, and runs the commands in them"),
    (r"(.*/)?commondir", "it would lead git to other settings"),
    (r"(.*/)?attributes", "it says which files go through which command"),
    (r"\.clincus\.toml", "Clincus reads its settings for the project there"),
    (r"\.vscode|\.zed|\.idea|\.cursor|\.devcontainer", "an editor runs what it says"),
    (r"\.git", "git would take its settings from there"),
)
OTHER_WHY = "your configuration, or git's, names it"


class Stage(NamedTuple):
    """The place where the wall assembles a session's folders, and the protected paths there."""

    name: str  # the folder below clincus.protect.STAGES
    trees: tuple[tuple[str, tuple[str, ...]], ...]  # each folder of the host, and its patterns

    @classmethod
    def of(cls, config: Mapping[str, str]) -> Stage | None:
        """The stage of an instance, from its configuration; None without one."""
        plan: dict[str, Any] = clincus.protect.hook_plan(config)
        if not plan.get("trees"):  # with plain devices, the hook only notes the folders
            return None
        return cls(plan["stage"], tuple((one["source"], patterns_of(one)) for one in plan["trees"]))

    def path(self, tree: int, relative: str = "") -> str:
        """The mount point of a path of a tree."""
        return f"{clincus.protect.STAGES}/{self.name}/{tree}" + (f"/{relative}" if relative else "")

    def place(self, path: str) -> str:
        """The mount point of a path of the host; "" if it lies in no tree."""
        for number, (source, _) in enumerate(self.trees):
            if clincus.path_inside(path, source):
                return self.path(number, path[len(source) :].strip("/"))
        return ""

    def in_tree(self, workspace: str) -> list[str]:
        """The paths of a workspace's working tree that are sealed, there or not, relative to it."""
        found = next((patterns for source, patterns in self.trees if source == workspace), ())
        return [one for one in found if "*" not in one.split("/") and ".git" not in one.split("/")]

    def source(self, path: str) -> str:
        """The folder of the host that contains a sealed path."""
        return next((source for source, _ in self.trees if clincus.path_inside(path, source)), "")


def patterns_of(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """The patterns of a plan's tree that are sealed whether the paths exist or not; none for a read-only tree."""
    if tree["readonly"]:
        return ()
    return tuple(pattern for pattern, stand_in in tree["protect"].items() if stand_in is not False)


def mounted() -> dict[str, bool]:
    """The mount points below clincus.protect.STAGES, and whether each is read-only (proc(5), mountinfo)."""
    found: dict[str, bool] = {}
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if clincus.protect.STAGES in line:
                words = line.split(" ")
                point = words[4]
                if "\\" in point:
                    point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
                found[point] = "ro" in words[5].split(",")
    return found


def is_up(stage: Stage, mounts: Mapping[str, bool]) -> bool:
    """True if the trees of a stage are mounted: the stage's container has not ended."""
    return any(stage.path(number) in mounts for number in range(len(stage.trees)))


def sealed_paths(stage: Stage) -> tuple[list[str], bool]:
    """The absolute paths that are sealed in a stage now, and True if this process sees its mounts."""
    mounts = mounted()
    if not is_up(stage, mounts):
        return sealed_by_patterns(stage), False
    found = []
    for number, (source, patterns) in enumerate(stage.trees):
        top = stage.path(number) + "/"
        points = [point[len(top) :] for point, readonly in mounts.items() if readonly and point.startswith(top)]
        found += [f"{source}/{point}" for point in points] if patterns else []
    return sorted(set(found))[:MOST_SEALED], True


def sealed_by_patterns(stage: Stage) -> list[str]:
    """The sealed paths by the patterns, as the hook finds them, without missing ones."""
    found: list[str] = []
    for source, patterns in stage.trees:
        if patterns:
            covers = clincus.protect.ask_places(source=source, patterns=list(patterns))["covers"]
            found += [f"{source}/{path}" for path, sealed in covers if sealed]
    return sorted(set(found))[:MOST_SEALED]


def without_seal(stage: Stage, paths: Collection[str]) -> set[str]:
    """The given paths whose seal is off although the container runs."""
    missing = set(paths)
    for look in range(LOOKS):
        mounts = mounted()
        if not is_up(stage, mounts):
            return set()
        missing = {path for path in missing if stage.place(path) not in mounts}
        if not missing:
            break
        time.sleep(BETWEEN_LOOKS if look < LOOKS - 1 else 0)
    return missing


def why_sealed(path: str, source: str) -> str:
    """The reason why a path is sealed, for the person."""
    relative = path[len(source) :].strip("/")
    return next((why for pattern, why in WHY if re.fullmatch(pattern, relative)), OTHER_WHY)
