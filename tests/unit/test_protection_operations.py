"""Files of an operation in progress of an agent's making: what git does by each, and that it is put aside and told."""

from __future__ import annotations

import mmap
import os
import subprocess

import pytest

from clincus_features.protection import links, operations, unfinished
from clincus_features.protection.guard import ChangedError
from tests.programs import wait_until
from tests.table import table
from tests.unit import wall_bench

bench = wall_bench.bench
nothing_left = wall_bench.nothing_left

ID = "1" * 40
PROGRAM = "#!/bin/sh\ntouch $HOME/ran\n"


class Person:
    """A person with a repository, and files in their home that are none of an agent's business."""

    def __init__(self, folder):
        self.home = folder / "home"
        self.root = self.home / "work"
        self.root.mkdir(parents=True)
        (self.home / "secret").write_text("secret\n")
        self.git("init -q -b main")
        (self.root / "file").write_text("".join(f"{number}\n" for number in range(20)))
        self.git("add file")
        self.git("commit -qm base")
        for branch, last in (("one", "1"), ("two", "2")):
            self.git(f"checkout -qb {branch} main")
            for word in ("first", last):
                (self.root / "file").write_text(f"{word}\n" + "".join(f"{number}\n" for number in range(1, 20)))
                self.git(f"commit -qam {word}-{branch}")

    @property
    def environ(self):
        return {
            **os.environ, "HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_EDITOR": "true",
            "GIT_SEQUENCE_EDITOR": "sed -i '2,$s/^pick/edit/'",
        }  # fmt: skip

    def git(self, words, *, fails=None):
        """Run git as the person does; `fails` None: either way."""
        command = ["git", "-c", "user.name=O'Neil", "-c", "user.email=a@b", *words.split()]
        done = subprocess.run(command, cwd=self.root, env=self.environ, check=False, capture_output=True, text=True)
        assert fails is None or (done.returncode != 0) == fails, done.stderr
        return done

    def write(self, files):
        for path, content in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(content)

    def harm(self):
        """What git has read, written or run elsewhere."""
        found = {path.name for path in self.home.iterdir()} - {"work", "secret"}
        if (self.home / "secret").read_text() != "secret\n":
            found.add("written")
        copies = (self.root / ".git/rr-cache").rglob("postimage*")
        if any("secret" in path.read_text() for path in copies):
            found.add("read")
        return found

    def look(self):
        """The files that are bad, relative to .git, each with what is wrong."""
        found = links.find([f"{self.root}/.git"])
        bad = unfinished.look(found.operations, {}).bad
        return {path[len(f"{self.root}/.git/") :]: wrong for path, wrong in bad.items()}

    def put_aside(self):
        found = links.find([f"{self.root}/.git"])
        return unfinished.put_aside(unfinished.look(found.operations, {}).bad, found.operations)


@pytest.fixture
def person(tmp_path):
    return Person(tmp_path)


# What the person has begun, what an agent writes then, and what the person's git does next.
ATTACKS = {
    "a file is read by a commit": (
        (),
        {".git/MERGE_RR": f"{ID}\t../secret\0", f".git/rr-cache/{ID}/preimage": "x\n"},
        "commit --allow-empty -m x",
    ),
    "a file is written by a commit": (
        (),
        {
            ".git/MERGE_RR": f"{ID}.-1\t../secret\0",
            f".git/rr-cache/{ID}/preimage": "secret\n",
            f".git/rr-cache/{ID}/postimage": "evil\n",
        },
        "commit --allow-empty -m x",
    ),
    "a file is written by am": (
        ("checkout -q two", "am ../0001"),
        {".git/rebase-apply/apply-opt": " '--build-fake-ancestor=../fake'"},
        "am --skip",
    ),
    "a strategy of a cherry-pick": (
        (),
        {".git/sequencer/opts": "[options]\n\tstrategy = x/evil\n", ".git/sequencer/todo": "pick HEAD\npick two\n"},
        "cherry-pick --continue",
    ),
}


def attack(person, name):
    begun, files, then = ATTACKS[name]
    if name.endswith("am"):
        patch = person.git("format-patch --stdout main..one").stdout
        (person.root / "../0001").write_text(patch)
    person.git("checkout -q one")
    for words in begun:
        person.git(words)
    if name.endswith("am"):
        (person.root / "../0001").unlink()
    if name.endswith("cherry-pick"):
        head = person.git("rev-parse HEAD").stdout
        files = {**files, ".git/sequencer/head": head, ".git/sequencer/abort-safety": head}
    person.write(files)
    if "strategy" in name:
        person.write({"git-merge-x/evil": PROGRAM})
        (person.root / "git-merge-x/evil").chmod(0o755)
    return then


@table("is_put_aside", [False, True])
@table("name", ATTACKS)
def test_git_gains_nothing_from_what_is_put_aside(tmp_path, name, is_put_aside):
    """Where nobody looks, each of them is an attack."""
    person = Person(tmp_path)
    then = attack(person, name)
    if is_put_aside:
        told = person.put_aside().told
        assert told
        assert all("put aside in" in words for words in told.values())
    person.git(then)
    assert bool(person.harm()) != is_put_aside


# ---- what is bad, and what is not ------------------------------------------------------------------------------------

NOT_GITS = [operations.NOT_GITS]
OTHER = "2" * 64
HEADS = (
    *("ORIG_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD", "BISECT_HEAD", "AUTO_MERGE"),
    "BISECT_EXPECTED_REV",
)
CASES = [
    ("MERGE_RR", f"{ID}\tfile\0{OTHER}.3\ta/.gitignore\0", []),
    ("MERGE_RR", f"{ID}\tfile\0{ID}\t../../x\0", ["../../x"]),
    ("MERGE_RR", f"{ID}\t/home/x\0", ["/home/x"]),
    ("MERGE_RR", f"{ID}\ta/.GIT/config\0", ["a/.GIT/config"]),
    ("MERGE_RR", f"{ID}\tfile", NOT_GITS),
    ("MERGE_RR", f"{ID}\tfile\0" * 6000, ["more than 5000 conflicts"]),
    ("rebase-apply/apply-opt", " '-C3' '-p2' '--whitespace=fix' '--ignore-whitespace' '--reject'\n", []),
    ("rebase-apply/apply-opt", r" '--directory=sub/it'\''s' '--include=*.c' '--exclude=x'", []),
    ("rebase-apply/apply-opt", " '--directory=../x'", ["--directory=../x"]),
    ("rebase-apply/apply-opt", r" '--build-fa'\''ke'", ["--build-fa'ke"]),
    ("rebase-apply/apply-opt", " --unsafe-paths", NOT_GITS),
    ("rebase-merge/git-rebase-todo", f"pick {ID} exec x\n# x, exec\nlabel onto\nbreak\n", []),
    ("rebase-merge/git-rebase-todo", "  x  make\nexec\tevil\n", ["make", "evil"]),
    ("sequencer/todo", "x make\n", ["make"]),
    ("rebase-merge/strategy", "ort\n", []),
    ("rebase-merge/strategy", "x/evil\n", ["x/evil"]),
    ("sequencer/opts", "[options]\n\tstrategy = ort\n\tstrategy-option = theirs\n\tmainline = 1\n", []),
    ("sequencer/opts", "[options]\n\tstrategy = x/evil\n", ["x/evil"]),
    ("sequencer/opts", "[options]\n\tpath = x\n", [f"{operations.NOT_GITS}: \tpath = x"]),
    ("rebase-merge/autostash", "--index\n", ["--index\n"]),
    ("MERGE_AUTOSTASH", "--index\n", ["--index\n"]),
    ("rebase-apply/gpg_sign_opt", "--exec=x\n", ["--exec=x\n"]),
    ("BISECT_START", "$(evil)\n", ["$(evil)\n"]),
    ("rebase-merge/msgnum", "12\n", []),
    ("rebase-merge/msgnum", "$(evil)\n", ["$(evil)\n"]),
    ("rebase-merge/end", "2\r$(evil)\n", ["2\r$(evil)\n"]),
    ("rebase-apply/next", "`evil`\n", ["`evil`\n"]),
    ("rebase-apply/last", "2 x\n", ["2 x\n"]),
    ("rebase-merge/head-name", "refs/heads/$(evil)\n", ["refs/heads/$(evil)\n"]),
    ("rebase-apply/head-name", "refs/heads/x\n$(evil)", ["refs/heads/x\n$(evil)"]),
    ("rebase-merge/onto", "$(evil)\n", ["$(evil)\n"]),
    ("rebase-apply/orig-head", "main\n", ["main\n"]),
    ("rebase-merge/strategy_opts", " --ours --find-renames=50% 'a b' \"a b\"", []),
    ("rebase-merge/strategy_opts", "--ours; evil", ["--ours; evil"]),
    ("BISECT_NAMES", r" 'it'\''s' 'b $(c)'" "\n", []),
    ("BISECT_NAMES", "'a' $(evil)\n", ["'a' $(evil)\n"]),
    *((name, "ref: commondir\n", ["ref: commondir\n"]) for name in HEADS),
    ("rebase-merge/update-refs", f"refs/heads/a\n{ID}\n{OTHER}\n", []),
    ("rebase-merge/update-refs", f"refs/../commondir\n{ID}\n{ID}\n", ["refs/../commondir"]),
    ("rebase-merge/author-script", r"GIT_AUTHOR_NAME='O'\''Neil'" "\nGIT_AUTHOR_EMAIL='a@b'\n", []),
    ("rebase-merge/author-script", "GIT_AUTHOR_NAME='x'$(evil)\n", ["GIT_AUTHOR_NAME='x'$(evil)"]),
]


@table(("path", "content", "wrong"), CASES)
def test_what_is_wrong_with_a_file_is_found(path, content, wrong):
    check = operations.check_of(path)
    assert (check.wrong(content.encode()) if check else []) == wrong


def test_each_file_is_one_whose_changes_are_seen():
    assert {path.rpartition("/")[2] for path, _, wrong in CASES if wrong} == operations.NAMES


@table(("limit", "count"), [("SIZE_LIMIT", 2), ("TOTAL_LIMIT", 1)])
def test_more_than_a_look_can_read_is_bad(tmp_path, monkeypatch, limit, count):
    person = Person(tmp_path)
    monkeypatch.setattr(unfinished, limit, 10)
    todo = "# a comment\n"
    person.write({".git/rebase-merge/git-rebase-todo": todo, ".git/sequencer/todo": todo})
    assert len(person.look()) == count


# ---- a day's work of git ---------------------------------------------------------------------------------------------

DAY = [
    ("merge one", "add file", "commit -qm merged"),
    ("rebase -i --autosquash --autostash main", "rebase --edit-todo", "rebase --abort"),
    ("rebase one", "add file", "rebase --continue", "rebase --skip"),
    ("rebase -s resolve one", "rebase --abort"),
    ("rebase --rebase-merges --update-refs -i main", "rebase --abort"),
    ("rebase --apply --whitespace=fix -C2 --autostash one", "rebase --skip", "rebase --quit"),
    ("am -3 -p1 --directory=sub --reject --include=* --ignore-whitespace ../0001", "am --skip", "am --abort"),
    ("cherry-pick -x -s --strategy=ort -X patience main..one", "cherry-pick --quit"),
    ("revert --no-edit HEAD~1 HEAD", "revert --abort"),
    ("bisect start HEAD main", "bisect good", "bisect run true", "bisect reset"),
    ("stash", "stash pop", "stash push file", "stash apply"),
    ("worktree add ../wt one", "-C ../wt rebase two", "-C ../wt rebase --abort"),
]


@table("day", DAY)
def test_nothing_of_a_days_work_is_bad(tmp_path, day):
    person = Person(tmp_path)
    (person.home / "0001").write_text(person.git("format-patch --stdout main..one").stdout)
    person.git("config rerere.enabled true")
    if "stash" in day[0]:
        (person.root / "file").write_text("more\n")
    for words in day:
        person.git(words)
        assert person.look() == {}, words


# ---- while a server watches ------------------------------------------------------------------------------------------


def await_told(bench, path):
    """Wait until a file is out of the way and told; the words for the person."""
    wait_until(lambda: (f".git/{path}", "replaced") in bench.changes, "the file to be told")
    assert not (bench.root / ".git" / path).exists()
    [change] = [one for one in bench.record.changes if one.path == f"{bench.root}/.git/{path}"]
    return change.words


def write(bench, path, content):
    (bench.root / ".git" / path).parent.mkdir(exist_ok=True)
    (bench.root / ".git" / path).write_text(content)


def test_a_bad_file_freezes_the_session_and_does_not_come_back(bench):
    bench.start()
    write(bench, "MERGE_RR", f"{ID}\t../x\0")
    bench.await_broken()
    assert "git commit" in await_told(bench, "MERGE_RR")
    assert [change.kind for change in bench.record.changes] == ["operation"]
    bench.guard._go_on(bench.session)
    assert not (bench.root / ".git/MERGE_RR").exists()


def test_a_file_that_is_written_in_place_is_seen(bench):
    write(bench, "rebase-merge/git-rebase-todo", "break\n")
    bench.start()
    wait_until(lambda: bench.guard.examiner.seen.operation_files, "the first look")
    bench.settle()
    write(bench, "rebase-merge/git-rebase-todo", "exec evil\n")
    bench.await_broken()
    await_told(bench, "rebase-merge/git-rebase-todo")


class Mapped:
    """A file that an agent has mapped, with a page that is to be written back: a write there changes no time."""

    def __init__(self, path, before, after):
        self.path = path
        self.after = after.encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(before.encode().ljust(len(self.after), b"\n"))
        with open(path, "r+b") as file:
            self.pages = mmap.mmap(file.fileno(), 0)
        self.pages[-1:] = b"\n"

    def write(self):
        """Write into the mapping; whether the times of the file stay as they are."""
        before = os.stat(self.path)
        self.pages[: len(self.after)] = self.after
        now = os.stat(self.path)
        return (before.st_mtime_ns, before.st_ctime_ns) == (now.st_mtime_ns, now.st_ctime_ns)


def test_a_write_through_a_mapping_is_seen_by_what_is_in_the_file(bench):
    mapped = Mapped(bench.root / ".git/rebase-merge/git-rebase-todo", "noop\n", "exec evil\n")
    bench.start()
    wait_until(lambda: bench.guard.examiner.seen.operation_files, "the first look")
    bench.comes_to_rest()
    assert mapped.write()
    bench.guard.compare_indexes()
    bench.await_broken()
    await_told(bench, "rebase-merge/git-rebase-todo")


def test_a_command_that_was_there_at_the_start_stays_and_one_more_is_news(bench):
    write(bench, "rebase-merge/git-rebase-todo", "exec make\npick x\n")
    bench.start()
    write(bench, "rebase-merge/git-rebase-todo", "exec make\n")
    wait_until(lambda: bench.guard.examiner.seen.operation_files, "the first look")
    bench.comes_to_rest()
    assert bench.changes == []
    write(bench, "rebase-merge/git-rebase-todo", "exec make\nexec evil\n")
    bench.await_broken()
    words = await_told(bench, "rebase-merge/git-rebase-todo")
    assert "evil" in words
    assert "make" not in words


def test_an_operation_that_a_person_lets_go_on_is_put_back_and_asked_about_once(bench):
    path = "rebase-merge/git-rebase-todo"
    content = "exec make\npick x\n"
    bench.start()
    write(bench, path, content)
    bench.await_broken()
    await_told(bench, path)
    bench.guard._go_on(bench.session)
    assert (bench.root / ".git" / path).read_text() == content
    bench.comes_to_rest()
    bench.settle()
    assert bench.session.id not in bench.guard._broken
    write(bench, path, content.replace("make", "evil"))
    bench.await_broken()
    wait_until(lambda: not (bench.root / ".git" / path).exists(), "the other one to be put aside")


def test_a_bad_file_that_nobody_saw_is_put_aside_when_the_session_ends(bench):
    bench.start()
    bench.guard.examiner.link_looks.ask = lambda id: None
    write(bench, "MERGE_RR", f"{ID}\t../x\0")
    bench.stop()
    await_told(bench, "MERGE_RR")
    with pytest.raises(ChangedError, match="MERGE_RR"):
        bench.check()
