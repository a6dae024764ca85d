"""A box whose container has the attacker's tools, and a host that says whether it ran what an attack planted."""

import os
import shutil
import subprocess
from pathlib import Path

from namespace_attacks import TOOLS, programs
from wall_box import CODE, OWNER, PROTECTED, snapshot

from tests.programs import DEADLINE

HERE = Path(__file__).parent
RUN = "touch {}/{}"  # what the host's git must be brought to run
# What a person does next. Prompts and editors run `git status` by themselves.
NEXT_STEPS = (
    ("status",),
    ("commit", "--allow-empty", "-qm", "x"),
    ("checkout", "-qB", "other"),
    ("checkout", "-q", "-"),
)


def git_of_owner(root, *words):
    """Run the host's git as the owner of a workspace, without a configuration of that person's own."""
    words = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(root), *words]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(
        words, user=OWNER, group=OWNER, extra_groups=[], env=environment, capture_output=True, text=True, check=False
    )


class Judge:
    """The host: it goes on working, and a mark appears for each attack whose command it ran."""

    def __init__(self, root):
        self.root = root
        self.marks = root.parent / "marks"
        self.marks.mkdir(exist_ok=True)
        self.marks.chmod(0o777)
        self.before = snapshot(root, PROTECTED)

    def command(self, number):
        """What an attack plants."""
        return RUN.format(self.marks, number)

    def ran(self, *repositories):
        """The numbers of the attacks whose command ran when the owner went on working in the repositories."""
        for repository in repositories or (self.root,):
            for step in NEXT_STEPS if repository == self.root else NEXT_STEPS[:1]:
                git_of_owner(repository, *step)
        return {int(mark.name) for mark in self.marks.iterdir()}

    def changed(self):
        """The paths of what is sealed that are not as they were."""
        after = snapshot(self.root, PROTECTED)
        return {path for path in self.before.keys() | after.keys() if self.before.get(path) != after.get(path)}


def bring_tools(box, name):
    """Put the attacker's tools into a container."""
    tools = {TOOLS: (HERE / "attacks.pl").read_bytes(), **programs()}
    for path, data in tools.items():
        assert box.incus.exec(name, ["sh", "-c", f"cat >{path}; chmod 755 {path}"], stdin=data).code == 0


def run_attacks(box, name, lines, user=CODE, **environment):
    """Run attacks, each (number, top of the repository in the container, command, Perl), one after another."""
    text = "".join("\t".join(map(str, line)) + "\n" for line in lines)
    done = box.incus.exec(
        name, ["perl", TOOLS], stdin=text.encode(), user=user, timeout=300, environment={"HOME": "/tmp", **environment}
    )
    assert done.stdout == b"the end\n", f"the attacks themselves are broken: {done}"


def run_perl(box, name, code, user=CODE, command="true"):
    """Run Perl with the attacker's tools."""
    environment = {"HOME": "/tmp", "T": "/workspace", "RUN": command}
    return box.incus.exec(name, ["perl", TOOLS, code], user=user, timeout=DEADLINE, environment=environment)


def make_many(root, count):
    """Repositories below a folder, called 0, 1, 2 …: each attack has one of its own."""
    whole = root.parent / "template"
    root.rename(whole)
    for path in (".git/modules", ".git/hooks"):
        shutil.rmtree(whole / path)
    (whole / ".git/hooks").mkdir()
    os.chown(whole / ".git/hooks", OWNER, OWNER)
    root.mkdir()
    os.chown(root, OWNER, OWNER)
    for number in range(count):
        subprocess.run(["cp", "-a", whole, root / str(number)], check=True)
