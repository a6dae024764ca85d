"""Git's objects as wall/objects.py reads them: as git does, and none whose content is not that of its name."""

import os
import subprocess
import zlib

import pytest

from tests.programs import git
from wall import objects

TEXT = "".join(f"line {number} of a text that is long enough for a delta\n" for number in range(400))
PACKED = ("-c", "core.packedRefsTimeout=0", "repack", "-q", "-a", "-d", "-f", "--depth=50")


@pytest.fixture(params=["sha1", "sha256"])
def repository(request, tmp_path):
    """A repository with files that change a little from commit to commit."""
    top = tmp_path / "work"
    top.mkdir()
    git(top, "init", "-q", f"--object-format={request.param}")
    for number in range(8):
        (top / "text").write_text(TEXT.replace(f"line {number} ", f"another {number} "))
        (top / "empty").write_text("")
        git(top, "add", ".")
        git(top, "commit", "-q", "-m", f"commit {number}")
    git(top, "tag", "-a", "-m", "a tag", "tag")
    return top


def reader(top, hash_size=None):
    size = hash_size or len(git(top, "rev-parse", "HEAD").strip()) // 2
    folder = os.open(top / ".git", os.O_RDONLY)
    try:
        return objects.Objects(folder, size)
    finally:
        os.close(folder)


def all_objects(top):
    lines = git(top, "cat-file", "--batch-all-objects", "--batch-check").splitlines()
    return {name: kind for name, kind, _ in map(str.split, lines)}


def content(top, kind, name):
    return subprocess.run(["git", "-C", top, "cat-file", kind, name], capture_output=True, check=True).stdout


@pytest.mark.parametrize("words", [(), PACKED], ids=["loose", "deltas"])
def test_each_object_is_read_as_git_reads_it(repository, words):
    if words:
        git(repository, *words)
    if words == PACKED:
        [pack] = repository.glob(".git/objects/pack/*.idx")
        assert "chain length" in git(repository, "verify-pack", "-v", str(pack))
    found = all_objects(repository)
    assert {*found.values()} == {"blob", "tree", "commit", "tag"}
    reading = reader(repository)
    for name, kind in found.items():
        one = reading.read(bytes.fromhex(name))
        assert (one.kind, one.data) == (kind, content(repository, kind, name))
    reading.close()


def test_a_delta_of_an_object_by_its_name_is_read(repository):
    packed = subprocess.run(
        ["git", "-C", repository, "pack-objects", "--revs", "--stdout", "--no-reuse-delta", "-q"],
        input=b"HEAD\n", capture_output=True, check=True,
    ).stdout  # fmt: skip
    found = all_objects(repository)
    for path in repository.glob(".git/objects/??/*"):
        path.unlink()
    subprocess.run(["git", "-C", repository, "index-pack", "--stdin"], input=packed, capture_output=True, check=True)
    reading = reader(repository)
    for name in set(found) & set(all_objects(repository)):
        assert reading.read(bytes.fromhex(name)).kind == found[name]
    reading.close()


def test_what_is_not_there_is_missing(repository):
    size = len(git(repository, "rev-parse", "HEAD").strip()) // 2
    with pytest.raises(objects.MissingError):
        reader(repository).read(b"\1" * size)


def loose(top, name):
    return top / ".git/objects" / name[:2] / name[2:]


@pytest.mark.parametrize("is_packed_too", [False, True])
def test_an_object_with_another_content_is_told_though_git_may_take_it(repository, is_packed_too):
    """Each copy is compared."""
    name = git(repository, "rev-parse", "HEAD:empty").strip()
    if is_packed_too:
        git(repository, *PACKED)
    write_loose(repository, name, zlib.compress(b"blob 4\0evil"))
    with pytest.raises(objects.ForgedError):
        reader(repository).read(bytes.fromhex(name))


def write_loose(repository, name, data):
    path = loose(repository, name)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)


BROKEN = (b"", b"no zlib", zlib.compress(b"blob 4"), zlib.compress(b"blob x\0evil"), zlib.compress(b"blob 9\0evil"))


def test_a_broken_object_is_missing_and_one_that_unfolds_to_much_is_too_large(repository):
    name = git(repository, "rev-parse", "HEAD:empty").strip()
    for data in BROKEN:
        write_loose(repository, name, data)
        with pytest.raises(objects.MissingError):
            reader(repository).read(bytes.fromhex(name))
    write_loose(repository, name, zlib.compress(b"blob %d\0" % (1 << 30)))
    with pytest.raises(objects.TooLargeError):
        reader(repository).read(bytes.fromhex(name))


def test_no_link_is_followed_and_nothing_waits(repository):
    name = git(repository, "rev-parse", "HEAD:empty").strip()
    path = loose(repository, name)
    for make in (lambda: path.symlink_to("/etc/passwd"), lambda: os.mkfifo(path)):
        path.unlink()
        make()
        with pytest.raises(objects.MissingError):
            reader(repository).read(bytes.fromhex(name))


@pytest.mark.parametrize("ending", ["idx", "pack"])
def test_a_pack_that_is_cut_off_raises_nothing_else(repository, ending):
    name = git(repository, "rev-parse", "HEAD").strip()
    git(repository, *PACKED)
    [path] = repository.glob(f".git/objects/pack/*.{ending}")
    path.chmod(0o644)
    for keep in (100, 6, 0):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(objects.MissingError):
            reader(repository).read(bytes.fromhex(name))


def test_a_delta_that_leads_to_itself_ends(repository):
    """Its base is named, and is the object itself."""
    size = len(git(repository, "rev-parse", "HEAD").strip()) // 2
    name = b"\1" * size
    entry = bytes([objects.REF_DELTA << 4 | 1]) + name + zlib.compress(b"x")
    folder = repository / ".git/objects/pack"
    (folder / "pack-x.pack").write_bytes(b"PACK" + b"\0" * 8 + entry)
    fanout = b"".join((1 if number >= 1 else 0).to_bytes(4, "big") for number in range(256))
    index = objects.INDEX_HEAD + fanout + name + b"\0" * 4 + (12).to_bytes(4, "big")
    (folder / "pack-x.idx").write_bytes(index)
    with pytest.raises(objects.MissingError):
        reader(repository).read(name)
