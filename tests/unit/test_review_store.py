"""What a container may send as a checkpoint, taken in by the git of this machine; and guest/checkpoint.sh itself."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import clincus
from clincus_features.review import changes, store
from clincus_features.review.recorder import FILE_LIMIT, Look, pieces_of, read_head
from tests.programs import git

ROOM = 1 << 30


@pytest.fixture
def kept(tmp_path: Path) -> store.Store:
    (tmp_path / "work").mkdir()
    return store.Store(str(tmp_path / "checkpoints"), str(tmp_path / "work"), os.environ)


def checkpoint(tmp_path: Path, known: str = "-", mode: str = "now", most: int = 200) -> tuple[Look, bytes]:
    words = str(tmp_path / "work"), known, str(FILE_LIMIT), str(most), mode, "-"
    argv = ["sh", "-c", clincus.guest_program("checkpoint"), "clincus", *words]
    (tmp_path / "home").mkdir(exist_ok=True)
    environ = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    done = subprocess.run(argv, env=environ, capture_output=True, cwd="/", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    stream = io.BufferedReader(io.BytesIO(done.stdout))  # type: ignore[arg-type]
    return read_head(stream), b"".join(pieces_of(stream))


def take(kept: store.Store, tmp_path: Path, **how: str) -> Look:
    look, pack = checkpoint(tmp_path, **how)
    kept.take([pack], look.tree, "test/now", ROOM)
    return look


def names(kept: store.Store, tree: str) -> set[str]:
    return set(os.fsdecode(kept.run("ls-tree", "-r", "-z", "--name-only", tree)).split("\0")[:-1])


# ---- what is recorded


def test_git_gets_so_much_memory_and_no_more(kept):
    argv = kept._argv("-c", "alias.memory=!ulimit -v", "memory")
    said = subprocess.run(argv, env=kept._environ(), cwd="/", capture_output=True, text=True, check=True, timeout=60)
    assert int(said.stdout) == store.MEMORY_KIB


def test_the_repository_is_left_as_it_is_and_the_base_of_a_branch_is_where_it_left_main(kept, tmp_path):
    work = tmp_path / "work"
    git(work, "init", "-q", "--initial-branch=main")
    with pytest.raises(clincus.ClincusError, match="no git repository with a commit"):
        checkpoint(tmp_path, mode="branch")
    (work / "file").write_text("base")
    git(work, "add", ".")
    git(work, "commit", "-qm", "one")
    git(work, "switch", "-qc", "topic")
    (work / "file").write_text("topic")
    git(work, "commit", "-qam", "two")
    (work / "new").write_text("2")
    before = git(work, "status", "--porcelain"), (work / ".git" / "index").read_bytes()
    assert names(kept, take(kept, tmp_path).tree) == {"file", "new"}
    look, pack = checkpoint(tmp_path, mode="branch")
    kept.take([pack], look.tree, "test/branch", ROOM)
    assert (git(work, "status", "--porcelain"), (work / ".git" / "index").read_bytes()) == before
    base = git(work, "rev-parse", "main").strip()
    assert (look.commit, kept.run("cat-file", "blob", f"{look.tree}:file")) == (base, b"base")


def test_what_is_left_out_is_told(kept, tmp_path):
    work = tmp_path / "work"
    git(work, "init", "-q")
    (work / ".git" / "info" / "exclude").write_text("mine\n")
    for name in ("mine", "seen", "logs/a", "logs/b"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text("x")
    (work / ".gitignore").write_text("logs/\n")
    with open(work / "large", "wb") as file:
        file.truncate(FILE_LIMIT + 1)
    os.mkfifo(work / "pipe")
    (work / "git~1").write_text("git takes no such name")
    git(work, "init", "-q", "nested")
    (work / "nested" / "file").write_text("x")
    look = take(kept, tmp_path)
    assert names(kept, look.tree) == {".gitignore", "seen"}
    assert {(one.why, one.path) for one in look.skipped} == {
        ("ignored", "mine"),
        ("ignored", "logs/"),
        ("large", "large"),
        ("special", "pipe"),
        ("unreadable", "git~1"),
        ("repository", "nested"),
    }


def test_the_first_checkpoint_is_the_tree_that_git_makes_without_a_look_at_attributes(kept, tmp_path):
    """All files are recorded at once there, and none is known yet."""
    work = tmp_path / "work"
    (work / "a" / "b").mkdir(parents=True)
    for name, content in {"a/b/file": b"1", "a.b": b"\0" * 70_000, "same": b"1"}.items():
        (work / name).write_bytes(content)
    (work / "a" / "run").write_text("#!/bin/sh\n")
    (work / "a" / "run").chmod(0o755)
    (work / "link").symlink_to("no/where")
    look = take(kept, tmp_path)
    git(work, "init", "-q")
    git(work, "add", "-A")
    assert look.tree == git(work, "write-tree").strip()
    (work / ".gitattributes").write_text("* text=auto eol=crlf ident filter=x working-tree-encoding=UTF-16\n")
    content = b"a\r\nb\n$Id$\r\n\xff"
    (work / "same").write_bytes(content)
    look = take(kept, tmp_path)
    assert kept.run("cat-file", "blob", f"{look.tree}:same") == content


# ---- what a hostile container sends


def pack_of(folder: Path, objects: Mapping[str, tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """A pack with objects that no git would make, and their ids, by names of ours: (kind, content; {NAME} is an id)."""
    folder.mkdir(exist_ok=True)
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
    return "tree", b"".join(b"100644 " + os.fsencode(name) + b"\0{file}" for name in entries)


FILE = ("blob", b"content\n")


BAD_TREES = {
    "git folder": {"file": FILE, "tree": tree(".git")},
    "parent": {"file": FILE, "tree": tree("..")},
    "twice": {"file": FILE, "tree": tree("a", "a")},
    "missing": {"tree": ("tree", b"100644 missing\0" + b"\x01" * 20)},
}


def test_a_tree_that_git_does_not_find_sound_is_refused(kept, tmp_path):
    for kind, objects in BAD_TREES.items():
        pack, ids = pack_of(tmp_path / kind, objects)
        with pytest.raises(clincus.ClincusError):
            kept.take([pack], ids["tree"], "test/now", ROOM)
        assert kept.run("for-each-ref") == b"", kind


def test_what_is_no_pack_is_refused(kept):
    for pack in (b"", b"PACK\0\0\0\2\0\1\0\0" + b"x" * 99):
        with pytest.raises(clincus.ClincusError):
            kept.take([pack], "a" * 40, "test/now", ROOM)
    assert os.listdir(os.path.join(kept.path, "objects", "pack")) == []
    assert [name for name in os.listdir(kept.path) if name.startswith("incoming")] == []


def test_what_comes_in_does_not_take_more_than_its_room_nor_the_last_of_the_disk(kept, tmp_path, monkeypatch):
    (tmp_path / "work" / "one").write_bytes(os.urandom(2000))
    look, pack = checkpoint(tmp_path)

    def pieces() -> Iterator[bytes]:
        yield pack[:100]
        monkeypatch.setattr(clincus, "DISK_RESERVE", 1 << 60)  # others send too
        yield pack[100:]

    for sent, room in (([pack], 1000), (pieces(), ROOM)):
        with pytest.raises(clincus.ClincusError) as refused:
            kept.take(sent, look.tree, "test/now", room)
        assert (refused.value.status, os.listdir(f"{kept.path}/objects/pack")) == (409, [])


def test_a_file_that_unfolds_to_more_than_the_limit_is_refused(kept, tmp_path):
    pack, ids = pack_of(tmp_path, {"file": ("blob", bytes(store.OBJECT_LIMIT + 1)), "tree": tree("zeros")})
    assert len(pack) < 1 << 20
    with pytest.raises(clincus.ClincusError) as caught:
        kept.take([pack], ids["tree"], "test/now", ROOM)
    assert "too large" in caught.value.message


def nested(levels: int, width: int) -> dict[str, tuple[str, bytes]]:
    objects, below = {"file": FILE, "0": tree("file")}, "{0}"
    for level in range(1, levels + 1):
        entries = b"".join(b"40000 d%02d\0" % number + below.encode() for number in range(width))
        objects["tree" if level == levels else str(level)] = "tree", entries
        below = f"{{{level}}}"
    return objects


def test_a_tree_whose_paths_cannot_all_be_listed_is_refused_and_hinders_no_other(kept, tmp_path):
    for levels, width in ((12, 16), (1100, 1)):
        pack, ids = pack_of(tmp_path / f"{levels}", nested(levels, width))
        with pytest.raises(clincus.ClincusError, match=r"too many files, or too deep|no sound checkpoint"):
            kept.take([pack], ids["tree"], "test/now", ROOM)
        assert kept.run("for-each-ref") == b""
    look = take(kept, tmp_path)
    kept.tidy(even_few=True)
    assert names(kept, look.tree) == set()


def test_nothing_that_a_tree_or_a_person_configures_runs_on_the_host(kept, tmp_path, monkeypatch):
    work, mark, spy = tmp_path / "work", tmp_path / "ran", tmp_path / "spy"
    spy.write_text(f"#!/bin/sh\ntouch '{mark}'\ncat\n")
    spy.chmod(0o755)
    (tmp_path / "hostile").write_text(
        f'[diff]\n\texternal = {spy}\n[diff "x"]\n\ttextconv = {spy}\n\tcommand = {spy}\n'
        f'[filter "x"]\n\tclean = {spy}\n\tsmudge = {spy}\n[core]\n\tfsmonitor = {spy}\n\tpager = {spy}\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", f"{tmp_path}/hostile")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(spy))
    monkeypatch.setenv("GIT_DIR", f"{work}/.git")
    (work / ".gitattributes").write_text("* diff=x filter=x merge=x\n")
    trees = []
    for text in ("one\n", "two\n"):
        (work / "file").write_text(text)
        trees.append(take(kept, tmp_path).tree)
    found = changes.list_changes(kept, *trees)
    assert [(one.path, one.added, found.truncated) for one in found.files] == [("file", 1, False)]
    assert b"+two" in changes.patch(kept, *trees, None)
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


def test_what_a_power_cut_has_torn_holds_nobody_up(kept, tmp_path):
    tree = take(kept, tmp_path).tree
    now = reference(kept, "test/now")
    for torn in (b"", b"4b825d", bytes(41)):
        now.write_bytes(torn)
        kept.keep(tree, "test/now")
        assert now.read_text().strip() == tree
        now.write_bytes(torn)
        kept.forget(["test/now"])
        assert not now.exists()
    lock = reference(kept, "test/1.lock")
    lock.touch()
    os.utime(lock, (0, 0))
    kept.keep(tree, "test/1")
    for name, data in (("empty", ""), ("lost", f"{'1' * 40}\n")):
        reference(kept, f"test/{name}").write_text(data)
    kept.tidy(even_few=True)
    assert sorted(path.name for path in reference(kept, "test").iterdir()) == ["1"]
    assert kept.run("cat-file", "-t", tree) == b"tree\n"
