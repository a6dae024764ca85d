"""What a container may send as a checkpoint, taken in by the git of this machine; and guest/checkpoint.sh itself."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import threading
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import clincus
from clincus_features.review import changes, store
from clincus_features.review.recorder import FILE_LIMIT, Look, pieces_of, read_head
from clincus_features.review.records import Skipped
from tests.programs import DEADLINE, git

SPY = "#!/bin/sh\ntouch '{mark}'\ncat\n"
ROOM = 1 << 30


@pytest.fixture
def kept(tmp_path: Path) -> store.Store:
    """The store of a workspace."""
    (tmp_path / "work").mkdir()
    return store.Store(str(tmp_path / "checkpoints"), str(tmp_path / "work"), os.environ)


def checkpoint(tmp_path: Path, known: str = "-", mode: str = "now", most: int = 200) -> tuple[Look, bytes]:
    """Run guest/checkpoint.sh on a folder of this machine; what it says, and the pack."""
    words = str(tmp_path / "work"), known, str(FILE_LIMIT), str(most), mode, "-"
    argv = ["sh", "-c", clincus.guest_program("checkpoint"), "clincus", *words]
    (tmp_path / "home").mkdir(exist_ok=True)
    environ = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    done = subprocess.run(argv, env=environ, capture_output=True, cwd="/", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    stream = io.BufferedReader(io.BytesIO(done.stdout))  # type: ignore[arg-type]
    return read_head(stream), b"".join(pieces_of(stream))


def take(kept: store.Store, tmp_path: Path, **how: str) -> Look:
    """Take a checkpoint into the store."""
    look, pack = checkpoint(tmp_path, **how)
    kept.take([pack], look.tree, "test/now", ROOM)
    return look


def names(kept: store.Store, tree: str) -> set[str]:
    """The paths in a tree."""
    return set(os.fsdecode(kept.run("ls-tree", "-r", "-z", "--name-only", tree)).split("\0")[:-1])


# ---- what is recorded


def test_git_gets_so_much_memory_and_no_more(kept):
    """What a container sends can unfold to any size."""
    argv = kept._argv("-c", "alias.memory=!ulimit -v", "memory")
    said = subprocess.run(argv, env=kept._environ(), cwd="/", capture_output=True, text=True, check=True, timeout=60)
    assert int(said.stdout) == store.MEMORY_KIB


def test_a_folder_of_checkpoints_that_is_gone_is_told_by_git(tmp_path):
    gone = store.Store(str(tmp_path / "no" / "checkpoints"), str(tmp_path), os.environ)
    with pytest.raises(clincus.ClincusError, match="not a git repository"):
        gone.run("rev-parse", "HEAD")


def test_untracked_files_are_in_and_the_repository_is_left_as_it_is(kept, tmp_path):
    work = tmp_path / "work"
    git(work, "init", "-q")
    (work / "tracked").write_text("1")
    git(work, "add", ".")
    git(work, "commit", "-qm", "one")
    (work / "new").write_text("2")
    before = git(work, "status", "--porcelain"), (work / ".git" / "index").read_bytes()
    look = take(kept, tmp_path)
    assert names(kept, look.tree) == {"tracked", "new"}
    assert (git(work, "status", "--porcelain"), (work / ".git" / "index").read_bytes()) == before


def test_what_is_left_out_is_told(kept, tmp_path):
    work = tmp_path / "work"
    git(work, "init", "-q")
    (work / ".git" / "info" / "exclude").write_text("mine\n")
    for name in ("ignored.log", "mine", "seen", "logs/a", "logs/b"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text("x")
    (work / ".gitignore").write_text("*.log\nlogs/\n")
    (work / "husk").mkdir()
    (work / "husk" / ".gitignore").write_text("*\n")
    with open(work / "large", "wb") as file:
        file.truncate(FILE_LIMIT + 1)
    os.mkfifo(work / "pipe")
    os.mkfifo(work / "logs" / "pipe")
    for name in ("nested", "empty repository"):
        (work / name).mkdir()
        git(work / name, "init", "-q")
    (work / "nested" / "file").write_text("x")
    git(work / "nested", "add", ".")
    git(work / "nested", "commit", "-qm", "one")
    look = take(kept, tmp_path)
    assert names(kept, look.tree) == {".gitignore", "seen"}
    assert {(one.why, one.path) for one in look.skipped} == {
        ("ignored", "ignored.log"),
        ("ignored", "mine"),
        ("ignored", "logs/"),
        ("large", "large"),
        ("special", "pipe"),
        ("repository", "nested"),
        ("repository", "empty repository"),
    }


def test_a_file_is_recorded_byte_by_byte_whatever_attributes_say(kept, tmp_path):
    work = tmp_path / "work"
    (work / ".gitattributes").write_text("* text=auto eol=crlf ident filter=x working-tree-encoding=UTF-16\n")
    content = b"a\r\nb\n$Id$\r\n\xff"
    (work / "file").write_bytes(content)
    look = take(kept, tmp_path)
    assert kept.run("cat-file", "blob", f"{look.tree}:file") == content


def test_the_first_checkpoint_is_the_tree_that_git_makes(kept, tmp_path):
    """All files are recorded at once there, and none is known yet."""
    work = tmp_path / "work"
    (work / "a" / "b").mkdir(parents=True)
    for name, content in {"a/b/file": b"1", "a.b": b"\0" * 70_000, "a-": b"", "same": b"1"}.items():
        (work / name).write_bytes(content)
    (work / "a" / "run").write_text("#!/bin/sh\n")
    (work / "a" / "run").chmod(0o755)
    (work / "link").symlink_to("no/where")
    look = take(kept, tmp_path)
    git(work, "init", "-q")
    git(work, "add", "-A")
    assert look.tree == git(work, "write-tree").strip()
    again, pack = checkpoint(tmp_path, look.tree)
    assert (again.tree, pack) == (look.tree, b"")


def test_a_name_that_git_does_not_take_leaves_out_that_file_alone(kept, tmp_path):
    for name in ("git~1", "file"):
        (tmp_path / "work" / name).write_text("x")
    look = take(kept, tmp_path)
    assert (names(kept, look.tree), look.skipped) == ({"file"}, [Skipped("git~1", "unreadable")])


def test_only_what_is_new_is_sent(kept, tmp_path):
    for number in range(300):
        (tmp_path / "work" / f"{number}").write_bytes(os.urandom(1000))
    first, pack = checkpoint(tmp_path)
    kept.take([pack], first.tree, "test/1", ROOM)
    (tmp_path / "work" / "7").write_text("changed")
    second, more = checkpoint(tmp_path, first.tree)
    kept.take([more], second.tree, "test/2", ROOM)
    assert len(more) < len(pack) / 10
    assert [one.path for one in changes.list_changes(kept, first.tree, second.tree).files] == ["7"]
    third, nothing = checkpoint(tmp_path, second.tree)
    assert (third.tree, nothing) == (second.tree, b"")


def test_a_second_look_says_the_same_of_what_rests_and_sees_what_is_gone(kept, tmp_path):
    work = tmp_path / "work"
    for name in ("seen", "other", "ignored.log"):
        (work / name).write_text("x")
    (work / ".gitignore").write_text("*.log\n")
    os.mkfifo(work / "pipe")
    first = take(kept, tmp_path)
    os.utime(work / "seen", (1, 1))
    assert checkpoint(tmp_path, first.tree) == (first, b"")
    (work / "other").unlink()
    assert names(kept, take(kept, tmp_path, known=first.tree).tree) == {".gitignore", "seen"}


def test_a_damaged_repository_in_the_container_is_made_anew(kept, tmp_path):
    (tmp_path / "work" / "file").write_text("one")
    first = take(kept, tmp_path)
    for pack in (tmp_path / "home" / ".clincus" / "shadow" / "objects" / "pack").iterdir():
        pack.chmod(0o600)
        pack.write_bytes(b"nonsense")
    (tmp_path / "work" / "file").write_text("2")
    second, pack = checkpoint(tmp_path, first.tree, mode="fresh")
    kept.take([pack], second.tree, "test/2", ROOM)
    assert kept.run("cat-file", "blob", f"{second.tree}:file") == b"2"


def test_the_base_of_a_branch_is_where_it_left_main(kept, tmp_path):
    work = tmp_path / "work"
    git(work, "init", "-q", "--initial-branch=main")
    (work / "file").write_text("base")
    git(work, "add", ".")
    git(work, "commit", "-qm", "one")
    git(work, "switch", "-qc", "topic")
    (work / "file").write_text("topic")
    git(work, "commit", "-qam", "two")
    base = git(work, "rev-parse", "main").strip()
    look, pack = checkpoint(tmp_path, mode="branch")
    kept.take([pack], look.tree, "test/branch", ROOM)
    assert (look.commit, kept.run("cat-file", "blob", f"{look.tree}:file")) == (base, b"base")


def test_a_folder_without_a_commit_has_no_branch(tmp_path):
    (tmp_path / "work").mkdir()
    git(tmp_path / "work", "init", "-q")
    with pytest.raises(clincus.ClincusError) as caught:
        checkpoint(tmp_path, mode="branch")
    assert (caught.value.status, "no git repository with a commit" in caught.value.message) == (409, True)


@pytest.mark.parametrize("name", ["line\nbreak", "quote\"'`$(touch x)", b"\xff\xfe", "-rf", ":(top)x", "a\tb", " "])
def test_any_name_comes_through(kept, tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path / "work"), os.fsencode(name))
    Path(os.fsdecode(path)).write_text("x")
    empty = take(kept, tmp_path)
    assert names(kept, empty.tree) == {os.fsdecode(name)}
    side = changes.blob_of(kept, empty.tree, os.fsdecode(name))
    assert side is not None
    assert changes.content(kept, side, 10) == b"x"


# ---- what a hostile container sends


def pack_of(folder: Path, objects: Mapping[str, tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """A pack with objects that no git would make, and their ids, by names of ours: (kind, content; {NAME} is an id)."""
    git(folder, "init", "-q", "--bare", "bad.git")
    ids: dict[str, str] = {}
    for name, (kind, text) in objects.items():
        content = re.sub(rb"\{(\w+)\}", lambda word: bytes.fromhex(ids.get(word[1].decode(), "")), text)
        whole = f"{kind} {len(content)}\0".encode() + content
        ids[name] = hashlib.sha1(whole).hexdigest()
        file = folder / "bad.git" / "objects" / ids[name][:2] / ids[name][2:]
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(zlib.compress(whole, 1))
    argv = ["git", "-C", str(folder / "bad.git"), "pack-objects", "-q", "--stdout"]
    listed = "".join(f"{id}\n" for id in ids.values()).encode()
    return subprocess.run(argv, input=listed, capture_output=True, check=True).stdout, ids


def tree(*entries: str) -> tuple[str, bytes]:
    """A tree with a file of each name."""
    return "tree", b"".join(b"100644 " + os.fsencode(name) + b"\0{file}" for name in entries)


FILE = ("blob", b"content\n")


@pytest.mark.parametrize(
    "objects",
    [
        {"file": FILE, "tree": tree(".git")},
        {"file": FILE, "tree": tree("..")},
        {"file": FILE, "tree": tree("a/b")},
        {"file": FILE, "tree": tree("GIT~1")},
        {"file": FILE, "tree": tree("b", "a")},
        {"file": FILE, "tree": tree("a", "a")},
        {"tree": ("tree", b"100644 missing\0" + b"\x01" * 20)},
        {"tree": ("tree", b"no tree at all")},
        {"tree": FILE},
    ],
    ids=["git folder", "parent", "slash", "short name", "unsorted", "twice", "missing", "nonsense", "file"],
)
def test_a_tree_that_git_does_not_find_sound_is_refused(kept, tmp_path, objects):
    pack, ids = pack_of(tmp_path, objects)
    with pytest.raises(clincus.ClincusError):
        kept.take([pack], ids["tree"], "test/now", ROOM)
    assert kept.run("for-each-ref") == b""


@pytest.mark.parametrize(
    "pack", [b"", b"PACK", b"#!/bin/sh\n", b"# v2 git bundle\n\nPACK", b"PACK\0\0\0\2\0\1\0\0" + b"x" * 99]
)
def test_what_is_no_pack_is_refused(kept, pack):
    with pytest.raises(clincus.ClincusError):
        kept.take([pack], "a" * 40, "test/now", ROOM)
    assert os.listdir(os.path.join(kept.path, "objects", "pack")) == []
    assert [name for name in os.listdir(kept.path) if name.startswith("incoming")] == []


def test_a_pack_larger_than_the_room_ends_there(kept, tmp_path):
    (tmp_path / "work" / "file").write_bytes(os.urandom(1 << 20))
    look, pack = checkpoint(tmp_path)
    with pytest.raises(clincus.ClincusError) as caught:
        kept.take(iter([pack[:1000], pack[1000:]]), look.tree, "test/now", 1 << 19)
    assert caught.value.status == 409


def test_a_container_that_sends_slowly_holds_up_no_other_of_that_workspace(kept, tmp_path):
    """It kept the lock for two minutes, and then another session of the same folder had no checkpoint."""
    (tmp_path / "work" / "one").write_text("1")
    look, pack = checkpoint(tmp_path)
    has_begun, goes_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield pack[:100]
        has_begun.set()
        assert goes_on.wait(DEADLINE)
        yield pack[100:]

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(kept.take, slowly(), look.tree, "slow/now", ROOM)
        assert has_begun.wait(DEADLINE)
        kept.take([pack], look.tree, "quick/now", ROOM)
        assert not slow.done()
        goes_on.set()
        slow.result()
    assert set(kept._named(["quick/now", "slow/now"]).values()) == {look.tree}


def test_what_comes_in_does_not_take_the_last_of_the_disk(kept, tmp_path, monkeypatch):
    """As when several send at the same time, each of whom found room as it began."""
    (tmp_path / "work" / "one").write_text("1")
    look, pack = checkpoint(tmp_path)

    def pieces() -> Iterator[bytes]:
        yield pack[:100]
        monkeypatch.setattr(clincus, "DISK_RESERVE", 1 << 60)
        yield pack[100:]

    with pytest.raises(clincus.ClincusError, match="room for") as refused:
        kept.take(pieces(), look.tree, "test/now", ROOM)
    assert (refused.value.status, os.listdir(f"{kept.path}/objects/pack")) == (409, [])


def test_a_file_that_unfolds_to_more_than_the_limit_is_refused(kept, tmp_path):
    pack, ids = pack_of(tmp_path, {"file": ("blob", bytes(store.OBJECT_LIMIT + 1)), "tree": tree("zeros")})
    assert len(pack) < 1 << 20
    with pytest.raises(clincus.ClincusError) as caught:
        kept.take([pack], ids["tree"], "test/now", ROOM)
    assert "too large" in caught.value.message


def nested(levels: int, width: int) -> dict[str, tuple[str, bytes]]:
    """Trees so many levels deep, each of which holds the one below so many times."""
    objects, below = {"file": FILE, "0": tree("file")}, "{0}"
    for level in range(1, levels + 1):
        entries = b"".join(b"40000 d%02d\0" % number + below.encode() for number in range(width))
        objects["tree" if level == levels else str(level)] = "tree", entries
        below = f"{{{level}}}"
    return objects


@pytest.mark.parametrize(("levels", "width"), [(12, 16), (1100, 1)], ids=["of 16^12 files", "1,100 levels deep"])
def test_a_tree_whose_paths_cannot_all_be_listed_is_refused_and_hinders_no_other(kept, tmp_path, levels, width):
    pack, ids = pack_of(tmp_path, nested(levels, width))
    with pytest.raises(clincus.ClincusError, match=r"too many files, or too deep|no sound checkpoint"):
        kept.take([pack], ids["tree"], "test/now", ROOM)
    assert kept.run("for-each-ref") == b""
    look = take(kept, tmp_path)
    kept.tidy(even_few=True)
    assert names(kept, look.tree) == set()


def test_a_workspace_may_break_the_rules_of_files_that_only_a_checkout_reads(kept, tmp_path):
    (tmp_path / "work" / ".gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = -u./payload\n')
    (tmp_path / "work" / ".gitattributes").write_text("x" * 3000 + " text\n")
    look = take(kept, tmp_path)
    assert names(kept, look.tree) == {".gitmodules", ".gitattributes"}


def test_nothing_that_a_tree_or_a_person_configures_runs_on_the_host(kept, tmp_path, monkeypatch):
    work, mark = tmp_path / "work", tmp_path / "ran"
    spy = tmp_path / "spy"
    spy.write_text(SPY.format(mark=mark))
    spy.chmod(0o755)
    config = tmp_path / "hostile"
    config.write_text(
        f'[diff]\n\texternal = {spy}\n[diff "x"]\n\ttextconv = {spy}\n\tcommand = {spy}\n'
        f'[filter "x"]\n\tclean = {spy}\n\tsmudge = {spy}\n[core]\n\tfsmonitor = {spy}\n\thooksPath = {tmp_path}\n'
        f"\tpager = {spy}\n"
    )
    for name, value in {
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_SYSTEM": str(config),
        "GIT_EXTERNAL_DIFF": str(spy),
        "GIT_PAGER": str(spy),
        "GIT_DIR": str(work / ".git"),
    }.items():
        monkeypatch.setenv(name, value)
    (work / ".gitattributes").write_text("* diff=x filter=x merge=x\n")
    (work / "file").write_text("one\n")
    first = take(kept, tmp_path)
    (work / "file").write_text("two\n")
    second = take(kept, tmp_path)
    found = changes.list_changes(kept, first.tree, second.tree)
    assert [(one.path, one.added) for one in found.files] == [("file", 1)]
    assert b"+two" in changes.patch(kept, first.tree, second.tree, None)
    kept.tidy(even_few=True)
    assert not mark.exists()


# ---- what is kept


def test_trees_without_a_name_go_and_the_others_stay(kept, tmp_path):
    trees = []
    for number in range(3):
        (tmp_path / "work" / "file").write_bytes(os.urandom(200_000))
        look, pack = checkpoint(tmp_path)
        kept.take([pack], look.tree, f"test/{number}", ROOM)
        trees.append(look.tree)
    before = kept.size()
    kept.forget(["test/1", "test/no-such-name"])
    kept.tidy(even_few=True)
    assert kept.size() < before * 0.75
    assert names(kept, trees[0]) == {"file"}
    with pytest.raises(clincus.ClincusError):
        names(kept, trees[1])


def reference(kept: store.Store, name: str) -> Path:
    return Path(kept.path, "refs", "clincus", name)


@pytest.mark.parametrize("torn", [b"", b"4b825d", bytes(41), b"\xff\xfe"], ids=["empty", "cut", "zeros", "binary"])
def test_a_name_that_a_power_cut_has_torn_is_used_again(kept, tmp_path, torn):
    tree = take(kept, tmp_path).tree
    reference(kept, "test/now").write_bytes(torn)
    kept.keep(tree, "test/now")
    assert reference(kept, "test/now").read_text().strip() == tree
    reference(kept, "test/now").write_bytes(torn)
    kept.forget(["test/now"])
    assert not reference(kept, "test/now").exists()


def test_a_lock_that_a_power_cut_has_left_holds_nobody_up(kept, tmp_path):
    tree = take(kept, tmp_path).tree
    lock = reference(kept, "test/1.lock")
    lock.touch()
    os.utime(lock, (0, 0))
    kept.keep(tree, "test/1")
    assert reference(kept, "test/1").exists()


def test_what_a_power_cut_has_torn_keeps_nothing_else_from_being_tidied(kept, tmp_path):
    tree = take(kept, tmp_path).tree
    for name, data in (("empty", ""), ("lost", f"{'1' * 40}\n")):
        reference(kept, f"test/{name}").write_text(data)
    kept.tidy(even_few=True)
    assert sorted(path.name for path in reference(kept, "test").iterdir()) == ["now"]
    assert kept.run("cat-file", "-t", tree) == b"tree\n"


def test_many_files_are_listed_in_part_and_say_so(kept, tmp_path):
    for number in range(50):
        (tmp_path / "work" / f"{number}").write_text(str(number))
    look = take(kept, tmp_path)
    (tmp_path / "work" / "0").unlink()
    empty = take(kept, tmp_path)
    assert empty.tree != look.tree
    found = changes.list_changes(kept, empty.tree, look.tree, most=0)
    assert (found.files, found.truncated) == ([], True)
