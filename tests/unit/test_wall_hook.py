"""The program that LXC runs as root on the host, as far as it needs neither root nor Incus."""

import base64
import json
import os
import re
import subprocess
import sys
import zlib

import pytest

import clincus
from tests.table import table
from wall import hook, places


@table("program", ["hook", "places"])
def test_a_program_needs_nothing_but_the_standard_library_of_a_system_python(program):
    imports = "import sys; assert not [name for name in sys.modules if name.startswith(('clincus', 'wall'))]"
    source = clincus.packaged_text(f"wall/{program}.py").partition('if __name__ == "__main__"')[0]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", source + imports], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# Git folders of submodules


def git_folders(path):
    """As the hook finds them, and as it is done for plain devices."""
    root = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        found = sorted(hook.git_folders(root, "modules"))
    finally:
        os.close(root)
    assert found == sorted(os.path.relpath(folder, path) for folder in places.plain_git_folders(f"{path}/modules"))
    return found


def make_git_folder(path):
    for folder in ("objects/12", "refs/remotes/origin", "logs/refs"):
        (path / folder).mkdir(parents=True)
    for file in ("HEAD", "config", "refs/remotes/origin/HEAD", "logs/HEAD"):
        (path / file).touch()


def test_submodules_are_found_at_any_depth(tmp_path):
    deep = tmp_path / "modules" / "/".join("a" * 40)
    make_git_folder(deep)
    make_git_folder(deep / "modules/inner")
    found = str(deep.relative_to(tmp_path))
    assert git_folders(tmp_path) == [found, f"{found}/modules/inner"]


@table("name", ["lib", "logs", "refs"])
def test_a_file_above_a_submodule_does_not_hide_it(tmp_path, name):
    make_git_folder(tmp_path / "modules/vendor" / name)
    (tmp_path / "modules/vendor/HEAD").touch()
    assert git_folders(tmp_path) == ["modules/vendor", f"modules/vendor/{name}"]


def test_links_are_not_followed_to_submodules(tmp_path):
    make_git_folder(tmp_path / "modules/real")
    (tmp_path / "modules/loop").symlink_to(".")
    (tmp_path / "modules/real/modules").symlink_to(tmp_path / "modules")
    assert git_folders(tmp_path) == ["modules/real"]


@table(("path", "words"), [("{}", "too many files"), ("{}/a/b/c", "more than 20 folders")])
def test_the_search_for_submodules_has_an_end(tmp_path, monkeypatch, path, words):
    monkeypatch.setattr(hook, "MOST_FOLDERS", 20)
    monkeypatch.setattr(places, "MOST_FOLDERS", 20)
    for number in range(20 if path == "{}" else 6):
        (tmp_path / "modules" / path.format(number)).mkdir(parents=True)
    with pytest.raises(hook.WallError, match=words):
        git_folders(tmp_path)
    with pytest.raises(places.Refusal, match="more than 20 folders"):
        places.plain_git_folders(str(tmp_path / "modules"))


# Id maps

RANGE = [(0, 1000000, 65536)]


@table(
    ("owner", "code", "spans", "expected"),
    [
        (
            1234,
            1000,
            [(1000000, 65536)],
            [(1234, 1001000, 1), (1000000, 1000000, 1000), (1001001, 1001001, 64535)],
        ),
        # An owner that lies in the container's own range changes places with the code user.
        (
            1000005,
            3,
            [(1000000, 10)],
            [
                (1000000, 1000000, 3),
                (1000003, 1000005, 1),
                (1000004, 1000004, 1),
                (1000005, 1000003, 1),
                (1000006, 1000006, 4),
            ],
        ),
        # All groups: the owner's is the code user's, each other one is itself.
        (
            100,
            1000,
            [(0, 2**32 - 1)],
            [
                (0, 0, 100),
                (100, 1001000, 1),
                (101, 101, 1000899),
                (1001000, 100, 1),
                (1001001, 1001001, 2**32 - 1001002),
            ],
        ),
    ],
)
def test_the_owner_is_the_code_user_and_everybody_else_is_who_they_are_on_the_host(owner, code, spans, expected):
    assert hook.mount_map(RANGE, owner, code, spans) == expected
    with pytest.raises(hook.WallError, match=f"no id {code}"):
        hook.mount_map([(0, 1000000, code)], owner, code, [])


# ---- the process that watches over the container --------------------------------------------------------------------


def test_a_container_whose_monitor_has_ended_does_not_start(tmp_path, monkeypatch):
    """The stage would name pid 1 as its user, which never ends, and stay for ever."""
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(hook, "locked_stages", lambda: pytest.fail("a stage was built"))
    config = tmp_path / "lxc.conf"
    config.write_text(f"lxc.log.file = {tmp_path}/lxc.log\n")
    plan = base64.urlsafe_b64encode(zlib.compress(json.dumps({"stage": "a"}).encode())).decode()
    assert hook.main(plan, {"LXC_CONFIG_FILE": str(config), "LXC_HOOK_TYPE": "pre-start"}) == 1
    log = (tmp_path / "lxc.log").read_text()
    assert log == "clincus refused: the process that watches over the container has ended\n"


# Sessions that share a folder

MOUNTINFO = """\
30 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
81 30 0:50 / /run/clincus/aa rw,nosuid - tmpfs clincus rw
82 81 254:0 /home/ada/app /run/clincus/aa/0 rw,nosuid,nodev,idmapped - ext4 /dev/vda rw
83 82 254:0 /home/ada/app/.git/config /run/clincus/aa/0/.git/config ro,nosuid - ext4 /dev/vda rw
84 81 254:0 /home/ada/my\\040cache /run/clincus/aa/1 ro,nosuid - ext4 /dev/vda rw
85 81 0:51 / /run/clincus/aa/others rw,nosuid shared:9 - tmpfs clincus rw
86 85 254:0 /home/ada/web /run/clincus/aa/others/bb.1/0 rw - ext4 /dev/vda rw
"""


def shared(**folders):
    """What a stage has: paths of one file system, and whether each can be written."""
    found = hook.Shared()
    found.trees = [hook.Shown("0", "254:0", path, writable) for path, writable in folders.items()]
    return found


def test_the_folders_and_seals_of_a_stage_are_read_from_the_mounts():
    found = hook.shared_of_stages(MOUNTINFO)
    assert found.keys() == {("aa", ""), ("aa", "bb.1")}
    own, other = found.values()
    trees = [(tree.number, tree.device, tree.path, tree.is_writable) for tree in own.trees]
    assert trees == [("0", "254:0", "/home/ada/app", True), ("1", "254:0", "/home/ada/my cache", False)]
    assert own.seals == {("254:0", "/home/ada/app/.git/config"): True}
    assert [tree.path for tree in other.trees] == ["/home/ada/web"]


@table(
    ("one", "other", "place"),
    [
        ({"/app": True}, {"/app/web": True}, "/app/web"),
        ({"/app/web": True}, {"/app": False}, "/app/web"),
        ({"/app": True}, {"/app2": True}, None),
        ({"/cache": False, "/a": True}, {"/cache": False, "/b": True}, None),
        ({"/cache": False, "/a": True}, {"/cache": True, "/b": True}, "/cache"),
    ],
)
def test_a_socket_can_lie_in_a_folder_that_two_have_if_one_may_write_there(one, other, place):
    expected = place and ("254:0", place)
    assert shared(**one).place_in_common(shared(**other)) == expected
    assert shared(**other).place_in_common(shared(**one)) == expected


def test_the_place_of_a_folder_is_that_in_its_file_system(tmp_path):
    device, path = hook.place_of(str(tmp_path))
    assert re.fullmatch(r"\d+:\d+", device)
    assert not path.startswith("//")
    assert hook.place_of(f"{tmp_path}/inner") == (device, f"{path}/inner")
    assert hook.place_of("default/shared") == ("volume", "/default/shared")


# A home on a file system of its own, a part of which is mounted once more; a subvolume as the root; a stage.
MOUNTS = r"""26 1 0:25 /@root / rw - btrfs /dev/vda rw
40 26 254:1 / /home rw - ext4 /dev/vdb rw
41 26 254:1 /ada/my\040app /srv/my\040app rw - ext4 /dev/vdb rw
42 26 254:1 /ada/app /run/clincus/cafe/0 rw - ext4 /dev/vdb rw
43 26 254:2 /only/this /data rw - ext4 /dev/vdc rw
"""


@table(
    ("place", "path"),
    [
        (("254:1", "/ada/app/.git"), "/home/ada/app/.git"),
        (("254:1", "/ada/my app/x"), "/home/ada/my app/x"),
        (("0:25", "/@root/srv/web"), "/srv/web"),
        (("254:2", "/only/this/folder"), "/data/folder"),
        (("volume", "/default/shared"), "/default/shared"),
    ],
)
def test_a_place_is_told_by_the_path_that_the_host_has_for_it(place, path):
    assert hook.host_path(place, MOUNTS) == path


@table(
    ("folders", "seals", "unsealed"),
    [
        ({"/app": True}, {"/app/.git/config"}, False),
        ({"/app": True}, set(), True),
        ({"/": False}, set(), True),
        ({"/other": True}, set(), False),
        ({"/app/.git/config": True}, set(), True),
    ],
)
def test_a_place_that_another_session_has_without_its_seal_is_found(folders, seals, unsealed):
    place = ("254:0", "/app/.git/config")
    other = shared(**folders)
    other.seals = {("254:0", path): True for path in seals}
    assert hook.unsealed_place({place: True}, [other]) == (place if unsealed else None)


LOCKED = {"session": "clincus-1", "level": "locked", "holds": True}
FENCED = {"session": "clincus-2", "level": "basic", "holds": True}
NESTED = {"session": "clincus-3", "level": "basic", "holds": False}


@table(
    ("plan", "others", "kind", "words"),
    [
        (LOCKED, [LOCKED, FENCED], "", ""),
        (LOCKED, [NESTED], "exposed", "clincus-3 has '/app' as well and is not locked"),
        (NESTED, [LOCKED], "refused", "clincus-1 is locked and has '/app' as well"),
        (NESTED, [FENCED, NESTED], "", ""),
        (FENCED, [NESTED], "", ""),
        (FENCED, [LOCKED, NESTED], "refused", "would join them"),
    ],
)
def test_who_may_run_beside_whom(plan, others, kind, words):
    neighbours = {str(number): (other, ("volume", "/app")) for number, other in enumerate(others)}
    if not kind:
        hook.check_neighbours(plan, neighbours)
        return
    with pytest.raises(hook.WallError, match=re.escape(words)) as caught:
        hook.check_neighbours(plan, neighbours)
    assert caught.value.kind == kind


# What is compiled only where it is needed


def test_the_loader_hands_the_rest_of_the_program_on_as_text():
    (line, *_) = clincus.protect.hook_lines("python3", {"stage": "cafe"})
    unpack = line.partition(" -c '")[2].partition("'")[0]
    names = {"__name__": "hook"}
    exec(unpack, names)
    assert "exchange_seals" not in names
    names["load_rest"]()
    assert names["unsealed_place"]({("254:0", "/app/.git/config"): True}, []) is None


def test_the_start_of_the_program_uses_nothing_of_the_rest_but_by_its_loader():
    first, _, rest = clincus.packaged_text("wall/hook.py").partition("-- REST")
    later = set(re.findall(r"^(?:def|class) (\w+)", rest, re.MULTILINE))
    used = {name for name in later if re.search(rf"(?<!def )\b{name}\(", first)}
    assert used == {"exchange_seals", "place_of"}


def test_a_python_that_is_too_old_is_told_as_a_host_that_cannot_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(hook, "OLDEST_PYTHON", (99, 0))
    log = tmp_path / "lxc.log"
    (tmp_path / "lxc.conf").write_text(f"lxc.log.file = {log}\n")
    environ = {"LXC_CONFIG_FILE": str(tmp_path / "lxc.conf"), "LXC_HOOK_TYPE": "pre-start"}
    assert hook.main(clincus.protect.packed("{}"), environ) == 1
    assert log.read_text().startswith("clincus unsupported: the Python of this host is 3.")


@table("is_apart", [False, True], ids=["that of process 1", "one of its own"])
def test_seals_in_a_mount_namespace_that_programs_of_the_host_do_not_share_are_refused(tmp_path, is_apart):
    """As of an Incus daemon with PrivateTmp= in its unit. The root folder stands in for the stage."""
    program = clincus.packaged_text("wall/hook.py").partition('if __name__ == "__main__"')[0]
    apart = ["unshare", "--mount" if os.geteuid() == 0 else "--map-root-user", "--mount"] if is_apart else []
    script = f"{program}\ntry:\n    check_namespace('/')\nexcept WallError as error:\n    print(error.kind, error)\n"
    done = subprocess.run(
        [*apart, sys.executable, "-I", "-S", "-c", script], capture_output=True, check=True, text=True
    )
    refused = "unsupported Incus runs in a mount namespace of its own"
    assert done.stdout.startswith(refused) if is_apart else done.stdout == ""
