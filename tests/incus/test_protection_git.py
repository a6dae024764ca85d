"""An agent as root in a real container plants what git on the host is told to run; a person then commits on the host.

Each case is a way in which a configuration names something in the workspace. The owner plants the same on the host too,
where it must run: that shows that git on the host really goes this way.
"""

import os
import subprocess

import pytest
from wall_box import CODE, OWNER, new_box

import clincus

EVIL = "#!/bin/sh\ntouch {mark}\n"

PLANT = """
hook() { mkdir -p "$(dirname "$1")"; cp "$evil" "$1"; chmod 755 "$1"; }
hooks_path() { hook evil/pre-commit; mkdir -p "$(dirname "$1")"; printf '[core]\\n\\thooksPath = evil\\n' >> "$1"; }
plant() { SIMPLE; }
plant
"""
# The same once more after each way to get what git reads or runs out of the way.
FORCE = """
for path in PATHS .git; do
    umount "$path"; plant; umount -l "$path"; plant; mount -o remount,bind,rw "$path"; plant
    mv "$path" moved; plant; ln -sfn "$PWD/evil" "$path"; plant; rm -f "$path"; rmdir "$path"; plant
    mkdir -p /mnt/w; mount --rbind . /mnt/w; umount -l "/mnt/w/$path"; (cd /mnt/w && plant)
done
"""


class Person:
    """OWNER on the host, whose home folder holds the workspace."""

    def __init__(self, box):
        self.box = box
        self.home = box.root.parent
        self.marks = self.home / "marks"
        self.marks.mkdir()
        self.marks.chmod(0o777)
        self.repository = box.root

    def run(self, argv, script=""):
        return subprocess.run(
            argv, input=script, capture_output=True, text=True, check=False, user=OWNER, group=OWNER, extra_groups=[],
            env={"PATH": os.environ["PATH"], "HOME": str(self.home)}, cwd=self.box.root,
        )  # fmt: skip

    def git(self, *words, cwd=None):
        return self.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(cwd or self.repository), *words])

    def commit(self, case):
        """Commit once, as the person's next one."""
        where = self.repository / "lib" if case is submodule_far_down else self.box.root
        return self.git("commit", "--allow-empty", "-qm", "x", cwd=where)

    def write(self, path, text, mode=0o644):
        path = self.home / path
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        path.chmod(mode)

    def own(self):
        """Make all of it the person's, whoever made it."""
        for entry in [self.repository, self.box.root, *self.repository.rglob("*"), *self.box.root.rglob("*")]:
            os.chown(entry, OWNER, OWNER, follow_symlinks=False)


def nested_include(person):
    person.write("work/team.config", "[include]\n\tpath = ci/git.config\n")
    person.write("work/ci/git.config", "[core]\n\thooksPath = ci/hooks\n")
    person.git("config", "include.path", "../team.config")
    return "hook ci/hooks/pre-commit; hooks_path ci/git.config", "team.config ci/git.config ci/hooks ci"


def submodule_far_down(person):
    folder = ".git/modules/" + "/".join("abcdefghijklmnop")
    (person.repository / folder).parent.mkdir(parents=True)
    person.own()
    assert person.git("init", "-q", "--separate-git-dir", folder, "lib").returncode == 0
    return f"hook {folder}/hooks/pre-commit", f"{folder}/hooks {folder}/config"


def hook_that_is_a_link(person):
    person.write("work/scripts/hook.sh", "#!/bin/sh\n", 0o755)
    (person.repository / ".git/hooks/pre-commit").symlink_to("../../scripts/hook.sh")
    return "hook scripts/hook.sh", "scripts/hook.sh scripts"


CASES = (hook_that_is_a_link, nested_include, submodule_far_down)


@pytest.fixture
def person(bed, monkeypatch):
    with new_box(bed) as box:
        monkeypatch.setenv("HOME", str(box.root.parent))
        yield Person(box)


def planting(person, evil, simple, force=""):
    """The script of an agent, which plants what leaves a mark when it runs."""
    copy = f"evil={evil}; cat > $evil <<'END'\n{EVIL.format(mark=person.marks / 'ran')}\nEND\n"
    return f"{copy}{PLANT.replace('SIMPLE', simple)}{force}\necho the end"


@pytest.mark.parametrize("case", CASES)
def test_what_an_agent_plants_does_not_run_on_the_host(person, case):
    simple, paths = case(person)
    person.own()
    name = person.box.launch()
    script = planting(person, "/tmp/evil", simple, FORCE.replace("PATHS", paths))
    for user in (CODE, 0):
        assert person.box.run(name, script, user).stdout.endswith(b"the end\n")
    commits = [person.commit(case)]
    person.box.delete(name)
    commits.append(person.commit(case))
    assert [done.returncode for done in commits] == [0, 0], commits
    assert not (person.marks / "ran").exists()


@pytest.mark.parametrize("case", CASES)
def test_without_protection_it_does(person, case):
    simple, _ = case(person)
    person.own()
    assert person.run(["sh"], planting(person, person.marks / "evil", simple)).stdout.endswith("the end\n")
    person.commit(case)
    assert (person.marks / "ran").exists()


def test_hooks_that_lie_in_an_extra_mount_are_protected_there(person):
    person.write("shared/readme", "")
    person.write(".gitconfig", "[core]\n\thooksPath = ~/shared/hooks\n")
    person.own()
    os.chown(person.home / "shared", OWNER, OWNER)
    shared = clincus.protect.host_folder(str(person.home / "shared"), "/shared")
    name = person.box.launch(person.box.protection(extra=[shared]))
    person.box.run(name, "echo x > /shared/mine; mkdir -p /shared/hooks; echo x > /shared/hooks/pre-commit", 0)
    assert (person.home / "shared/mine").exists()
    assert not (person.home / "shared/hooks/pre-commit").exists()
