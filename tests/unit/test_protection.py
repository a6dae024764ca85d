"""The pure half of the wall: what goes into an instance description, and what the hook makes of it. No Incus here."""

import base64
import json
import marshal
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import clincus
from clincus_features import nesting
from clincus_wall.protect import HostFolder, ProtectionSupport, protect_workspace
from tests.table import table
from wall import hook, places

WORKSPACE = HostFolder("/home/ada/project", "/workspace", uid=1000, gid=1000)
LOCKABLE = ProtectionSupport(subordinate_uids=(range(1000000, 1065536),))


def settings_with(**security):
    """The default config with other settings of the section `security`."""
    return clincus.with_flags(clincus.make_config(()), {f"security.{key}": value for key, value in security.items()})


SETTINGS = settings_with()
OFF = settings_with(disable_protection=True)
NESTED = settings_with(nesting=True)
PIVOT_ROOT = "pivot_root errno 1"


def plan_of(protection):
    """The plan that the pre-start hook of a locked session gets."""
    line = next(line for line in protection.config["raw.lxc"].splitlines() if line.startswith("lxc.hook.pre-start"))
    return json.loads(zlib.decompress(base64.urlsafe_b64decode(line.rpartition(" ")[2])))


def denied(protection):
    """The rules of a protection for security.syscalls.deny."""
    return protection.config.get("security.syscalls.deny", "").splitlines()


def refusal(*arguments, **options):
    with pytest.raises(clincus.ClincusError) as caught:
        protect_workspace(*arguments, **options)
    return caught.value


# Levels


def test_a_clone_mounts_nothing_and_needs_no_hook_on_the_host():
    for support in (LOCKABLE, ProtectionSupport(reason="The kernel is too old")):
        protection = protect_workspace(WORKSPACE, settings_with(require_locked=True), support, is_clone=True)
        assert (protection.level, protection.devices, protection.reason) == ("locked", {}, "")
        assert "lxc.mount" not in protection.config.get("raw.lxc", "")
    assert protection.note == clincus.protect.NOTHING_MOUNTED


def test_an_extra_mount_of_a_clone_is_locked_as_any_other():
    above = HostFolder("/home/ada", "/home-of-ada", uid=1000, gid=1000)
    protection = protect_workspace(WORKSPACE, SETTINGS, LOCKABLE, [above], "cafe", is_clone=True)
    assert [tree["source"] for tree in plan_of(protection)["trees"]] == ["/home/ada"]
    assert "project/.git/hooks" in plan_of(protection)["trees"][0]["protect"]
    assert PIVOT_ROOT in denied(protection)
    assert protect_workspace(WORKSPACE, NESTED, LOCKABLE, [above], "cafe", is_clone=True).level == "basic"


def test_a_host_that_can_do_it_gets_a_locked_workspace_without_a_disk_device():
    protection = protect_workspace(WORKSPACE, SETTINGS, LOCKABLE, stage="cafe")
    assert (protection.level, protection.reason, protection.devices) == ("locked", "", {})
    assert "lxc.mount.entry = /run/clincus/cafe/0 workspace none rbind,create=dir 0 0" in protection.config["raw.lxc"]


def test_containers_can_run_where_nothing_is_mounted_and_where_no_call_that_they_need_is_denied():
    clone = protect_workspace(WORKSPACE, SETTINGS, LOCKABLE, is_clone=True)
    plain = protect_workspace(WORKSPACE, SETTINGS, ProtectionSupport(reason="The kernel is too old"))
    denying = {**clone.config, "security.syscalls.deny": "umount2 errno 1\npivot_root errno 1\n"}
    found = [nesting.allows_nesting(config) for config in (clone.config, plain.config, denying, {})]
    assert found == [True, False, False, False]


def test_a_host_that_cannot_do_it_gets_plain_devices_and_says_why():
    protection = protect_workspace(WORKSPACE, SETTINGS, ProtectionSupport(reason="The kernel is too old"))
    assert (protection.level, protection.reason) == ("basic", "The kernel is too old")
    assert protection.devices["workspace"]["source"] == "/home/ada/project"
    assert "raw.lxc" not in protection.config


def test_protection_that_is_switched_off_still_maps_ids_and_forbids_setuid_files():
    protection = protect_workspace(WORKSPACE, OFF, LOCKABLE, stage="cafe")
    assert protection.level == "off"
    assert "disable_protection" in protection.reason
    assert plan_of(protection)["trees"][0]["protect"] == {}


@table(
    ("settings", "support", "exposed"),
    [
        ({}, ProtectionSupport(reason="The kernel is too old"), ""),
        ({"disable_protection": True}, LOCKABLE, ""),
        ({"nesting": True}, LOCKABLE, ""),
        ({}, LOCKABLE, "another has it"),
    ],
)
def test_require_locked_refuses_anything_less(settings, support, exposed):
    error = refusal(WORKSPACE, settings_with(require_locked=True, **settings), support, exposed=exposed)
    assert error.status == 409


def test_the_default_profiles_own_raw_lxc_is_kept():
    support = ProtectionSupport(profile_config={"raw.lxc": "lxc.apparmor.profile = mine"})
    lines = protect_workspace(WORKSPACE, SETTINGS, support, stage="cafe").config["raw.lxc"].splitlines()
    assert lines[0] == "lxc.apparmor.profile = mine"


def test_a_workspace_that_belongs_to_root_is_locked_without_the_setuid_bit():
    folder = HostFolder("/srv/site", "/workspace", uid=0, gid=0)
    protection = protect_workspace(folder, SETTINGS, LOCKABLE, stage="cafe")
    assert "chmod errno 1 [1,2048,SCMP_CMP_MASKED_EQ,2048]" in protection.config["security.syscalls.deny"]
    assert "setuid" in protection.note
    assert plan_of(protection)["setuid"] == "denied"


# Mounts stay where they are


def test_a_locked_container_can_neither_let_go_of_mounts_nor_leave_them():
    protection = protect_workspace(WORKSPACE, SETTINGS, LOCKABLE, stage="cafe", session="clincus-c0ffee-1")
    for name in ("unmount", "lease", "fault"):
        assert set(clincus.protect.denying_rules(name)) <= set(denied(protection))
    assert "/dev/null dev/fuse" in protection.config["raw.lxc"]
    assert "/run/clincus/cafe/others dev/.clincus none rbind,create=dir" in protection.config["raw.lxc"]
    assert plan_of(protection)["level"] == "locked"
    assert plan_of(protection)["session"] == "clincus-c0ffee-1"


def test_nested_containers_cost_a_mounted_folder_its_lock():
    protection = protect_workspace(WORKSPACE, NESTED, LOCKABLE, stage="cafe")
    assert (protection.level, protection.reason) == ("basic", clincus.protect.NESTING)
    assert denied(protection) == []
    assert "dev/.clincus" not in protection.config["raw.lxc"]
    assert "dev/fuse" not in protection.config["raw.lxc"], "fuse-overlayfs needs it"
    assert plan_of(protection)["level"] == "basic"
    assert ".git/config" in plan_of(protection)["trees"][0]["protect"]


def test_a_folder_that_an_unlocked_session_has_is_basic_and_keeps_the_fence():
    protection = protect_workspace(WORKSPACE, SETTINGS, LOCKABLE, stage="cafe", exposed="clincus-c0ffee-2 has it")
    assert (protection.level, protection.reason) == ("basic", "clincus-c0ffee-2 has it")
    assert PIVOT_ROOT in denied(protection)


# A bare repository of the agent's making


def test_the_workspace_itself_can_be_made_no_repository_unless_it_is_one():
    assert clincus.protect.protected_paths(SETTINGS, WORKSPACE)["/home/ada/project/commondir"] is None
    bare = WORKSPACE._replace(git_folders=("/home/ada/project",))
    assert clincus.protect.protected_paths(SETTINGS, bare)["/home/ada/project/commondir"] == ".\n"


def test_a_file_of_that_name_makes_the_workspace_a_repository_to_be_sealed(tmp_path):
    (tmp_path / "commondir").write_text(".git\n")
    workspace = clincus.protect.workspace_folder(str(tmp_path), "/workspace", SETTINGS)
    assert {f"{tmp_path}/config", f"{tmp_path}/hooks", f"{tmp_path}/commondir"} <= set(
        clincus.protect.protected_paths(SETTINGS, workspace)
    )


# Protected paths


def test_paths_of_ones_own_are_protected_besides():
    paths = clincus.protect.protected_paths(settings_with(additional_protected_paths=["ci/", ".husky"]), WORKSPACE)
    assert {"/home/ada/project/ci", "/home/ada/project/.husky", "/home/ada/project/.vscode"} <= set(paths)


def test_writable_hooks_lifts_the_hooks_of_the_repository_and_nothing_else():
    paths = clincus.protect.protected_paths(clincus.with_flags(SETTINGS, {"git.writable_hooks": True}), WORKSPACE)
    assert "/home/ada/project/.git/hooks" not in paths
    expected = {".git/config", ".git/modules/**/hooks", ".git/commondir"}
    assert {f"/home/ada/project/{path}" for path in expected} <= set(paths)


@table("path", ["../other", "/etc", ".", "a\nb"])
def test_a_protected_path_that_leaves_the_workspace_is_refused(path):
    with pytest.raises(clincus.ConfigError) as caught:
        settings_with(protected_paths=[path])
    assert caught.value.status == 400


@table(
    ("path", "text"),
    [
        (".husky", None),
        (".git/hooks", None),
        (".git/config.worktree", ""),
        (".git/commondir", ".\n"),
        (".git/modules/**/commondir", ".\n"),
        ("team.config", ""),
    ],
)
def test_a_placeholder_is_what_git_does_not_mind(path, text):
    places = {"/home/ada/project/team.config": "", "/home/ada/project/.githooks": None}
    paths = clincus.protect.protected_paths(SETTINGS, WORKSPACE._replace(git_places=places))
    assert paths[f"/home/ada/project/{path}"] == text


def test_a_git_folder_of_another_name_is_protected_as_one():
    workspace = WORKSPACE._replace(git_folders=("/home/ada/project/.bare",))
    paths = set(clincus.protect.protected_paths(settings_with(protected_paths=[".git/hooks"]), workspace))
    expected = {"hooks", "commondir", "modules/**/config", "worktrees/*/config.worktree"}
    assert {f"/home/ada/project/.bare/{path}" for path in expected} <= paths
    assert "/home/ada/project/.bare/config" not in paths


@table("path", ["/home/ada/project", "/home/ada"])
def test_a_workspace_that_is_itself_the_folder_of_hooks_is_refused(path):
    workspace = WORKSPACE._replace(git_places={path: None})
    assert refusal(workspace, SETTINGS, LOCKABLE).status == 409
    assert protect_workspace(workspace, OFF, LOCKABLE).level == "off"


def test_what_git_runs_in_an_extra_mount_is_protected_there():
    workspace = WORKSPACE._replace(git_places={"/home/ada/shared/hooks": None})
    shared = HostFolder("/home/ada/shared", "/shared", uid=1000, gid=1000)
    plan = plan_of(protect_workspace(workspace, SETTINGS, LOCKABLE, [shared], "cafe"))
    assert plan["trees"][1]["protect"] == {"hooks": None}


# Extra mounts


@table(
    ("source", "within"),
    [
        ("/srv/data", []),
        ("/", ["home/ada/project/.git/hooks", "home/ada/project/.git/modules/**/hooks", "home/ada/project/.husky"]),
        ("/home/ada", ["project/.git/hooks", "project/.git/modules/**/hooks", "project/.husky"]),
        ("/home/ada/project/.git", ["hooks", "modules/**/hooks"]),
        ("/home/ada/project/.git/hooks", None),
        ("/home/ada/project/.git/modules/lib/sub", None),
        ("/home/ada/project/.husky", None),
    ],
)
def test_another_mount_of_the_workspace_is_no_way_around_its_protection(source, within):
    paths = dict.fromkeys(f"/home/ada/project/{path}" for path in (".git/hooks", ".git/modules/**/hooks", ".husky"))
    found = clincus.protect.paths_within(source, paths)
    assert (None if found is None else list(found)) == within


def test_a_mount_of_a_protected_path_is_readonly():
    hooks = HostFolder("/home/ada/project/.git/hooks", "/hooks", uid=1000, gid=1000)
    assert plan_of(protect_workspace(WORKSPACE, SETTINGS, LOCKABLE, [hooks], "cafe"))["trees"][1]["readonly"]
    devices = protect_workspace(WORKSPACE, SETTINGS, ProtectionSupport(reason="old"), [hooks]).devices
    assert devices["mount-0"]["readonly"] == "true"


@table("target", ["/", "/workspace", "/workspace/.git", "/workspace/.husky"])
def test_a_mount_that_hides_the_workspace_or_a_protected_path_is_refused(target):
    folder = HostFolder("/srv/data", target, uid=1000, gid=1000)
    assert refusal(WORKSPACE, SETTINGS, LOCKABLE, [folder]).status == 400


# Plain devices


@pytest.fixture
def repository(tmp_path):
    for folder in (".git/hooks", ".git/info", ".git/modules/lib/sub/hooks", "src"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (".git/config", ".git/modules/lib/sub/HEAD", ".git/modules/lib/sub/config"):
        (tmp_path / file).touch()
    return HostFolder(str(tmp_path), "/workspace", uid=1000, gid=1000)


def test_plain_devices_pin_every_parent_and_seal_what_is_there(repository):
    paths = clincus.protect.paths_within(repository.source, clincus.protect.protected_paths(SETTINGS, repository))
    covers = places.device_paths(repository.source, list(paths))
    assert dict(covers) == {
        ".git": False,
        ".git/config": True,
        ".git/hooks": True,
        ".git/info": False,
        ".git/modules": False,
        ".git/modules/lib": False,
        ".git/modules/lib/sub": False,
        ".git/modules/lib/sub/config": True,
        ".git/modules/lib/sub/hooks": True,
    }


@table("link", [".git", ".husky"])
def test_a_symlink_at_or_above_a_protected_path_is_refused(tmp_path, link):
    (tmp_path / link).symlink_to(tmp_path)
    folder = HostFolder(str(tmp_path), "/workspace", uid=1000, gid=1000)
    assert "symlink" in refusal(folder, SETTINGS, ProtectionSupport(reason="old")).message


@table(
    ("support", "settings", "expected"),
    [
        (
            {"subordinate_uids": (range(1000, 1001),), "subordinate_gids": (range(1000, 1001),)},
            {},
            ("uid 1000 1000\ngid 1000 1000", None),
        ),
        ({"subordinate_uids": (range(1000, 1001),)}, {"incus.code_uid": 1001}, ("uid 1000 1001", None)),
        ({}, {}, (None, "true")),
        ({"shift": False}, {}, (None, None)),
        ({}, {"incus.disable_shift": True}, (None, None)),
    ],
)
def test_plain_devices_take_the_safest_id_map_that_the_host_has(tmp_path, support, settings, expected):
    folder = HostFolder(str(tmp_path), "/workspace", uid=1000, gid=1000)
    support = ProtectionSupport(reason="old", **support)
    protection = protect_workspace(folder, clincus.with_flags(SETTINGS, settings), support)
    assert (protection.config.get("raw.idmap"), protection.devices["workspace"].get("shift")) == expected


# The program that LXC runs


def test_the_hook_is_one_line_of_plain_characters():
    places = dict.fromkeys(f"/home/ada/project/submodules/number-{number}/.githooks" for number in range(2000))
    workspace = WORKSPACE._replace(git_places=places)
    for line in protect_workspace(workspace, SETTINGS, LOCKABLE, stage="cafe").config["raw.lxc"].splitlines():
        assert re.fullmatch(r"[\x20-\x7e]+", line)
        assert len(line) < 100_000  # MAX_ARG_STRLEN of Linux is 131072


def test_the_command_of_the_page_prints_the_hook_that_runs_as_root(tmp_path):
    """The page has a person read it with `incus config get`, for which `cat` stands in here."""
    page = (Path(clincus.__file__).parent / "docs/protection.md").read_text()
    command = re.search(r"^ *(incus config get NAME raw\.lxc .*?)^ *```", page, re.MULTILINE | re.DOTALL).group(1)
    raw = tmp_path / "raw.lxc"
    raw.write_text(protect_workspace(WORKSPACE, SETTINGS, LOCKABLE, stage="cafe").config["raw.lxc"])
    command = command.replace("incus config get NAME raw.lxc", f"cat '{raw}'")
    shown = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, check=True).stdout
    assert shown == Path(hook.__file__).read_text()


def test_a_look_at_a_workspace_that_takes_too_long_ends_and_says_so(monkeypatch):
    sleeping = marshal.dumps(compile("import time; time.sleep(600)", "sleeping", "exec"))
    monkeypatch.setattr("clincus_wall.protect.program", lambda *_: sleeping)
    monkeypatch.setattr("clincus_wall.protect.PLACES_TIMEOUT", 0.1)
    with pytest.raises(clincus.ClincusError, match=r"cannot check the workspace.* did not finish within") as caught:
        clincus.protect.ask_places(source="/", patterns=[])
    assert caught.value.status == 409


# The host


@table(
    ("folder", "bits"),
    [
        ({"uid": 1000, "gid": 1000}, []),
        ({"uid": 1000, "gid": 2077, "is_own_group": False}, [0o2000]),
        ({"uid": 0, "gid": 2077}, [0o4000, 0o2000]),
        ({"uid": 0, "gid": 0, "readonly": True}, []),
    ],
)
def test_a_file_gets_no_right_that_its_owner_does_not_have(folder, bits):
    assert clincus.protect.denied_mode_bits([WORKSPACE, HostFolder("/srv/x", "/x", **folder)]) == bits


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that makes a program in the place of a Python that only root can change, and gives its path."""
    monkeypatch.setattr("clincus_wall.protect.only_root_changes", lambda path: "others" not in path)

    def make(name: str, script: str) -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 3 8", "is Python 3.8, and protecting a folder takes 3.9 or newer"),
        ("exit 1", "There is no Python"),  # it has no ctypes
        ("echo hello", "There is no Python"),
    ],
)
def test_a_python_that_cannot_run_the_hook_is_not_taken_and_the_reason_is_told(stand_in, script, words):
    path, reason = clincus.protect.trusted_python([stand_in("python3", script)])
    assert path == ""
    assert words in reason


def test_the_first_python_that_can_run_the_hook_is_taken(stand_in):
    names = (("old", "echo 3 8"), ("others", "echo 3 13"), ("fit", f'exec {sys.executable} "$@"'))
    old, others, fit = (stand_in(*one) for one in names)
    assert clincus.protect.trusted_python([old, others, fit]) == (fit, "")


class FakeIncus:
    """Answers queries from a table."""

    project, engine = "default", ""

    def __init__(self, environment=None, project=None, profile=None):
        kernel = {"kernel_version": "6.12.0", "kernel_features": {"idmapped_mounts": "true"}}
        self._answers = {
            "/1.0": {"environment": {**kernel, **(environment or {})}},
            "/1.0/projects/default": {"config": project or {}},
            "/1.0/profiles/default": {"config": profile or {}},
        }

    def query(self, path):
        return self._answers[path]


@table(
    ("incus", "words"),
    [
        (FakeIncus(project={"restricted": "true"}), "is restricted"),
        (FakeIncus(environment={"kernel_version": "5.10.0-30-amd64", "kernel_features": {}}), "5.10.0-30-amd64"),
    ],
)
def test_a_host_that_cannot_lock_says_why(incus, words):
    assert words in clincus.protect.protection_support(incus).reason


@table(
    ("project", "expected"),
    [
        (None, (range(1000, 1001), range(100000, 101000))),
        ("", ()),
        ("0-999,100500-200000", (range(100500, 101000),)),
    ],
)
def test_a_restricted_project_may_map_only_what_it_and_subuid_allow(tmp_path, project, expected):
    (tmp_path / "subuid").write_text("root:1000:1\nroot:100000:1000\n")
    assert clincus.protect.mappable_ids(str(tmp_path / "subuid"), project) == expected


@table(
    ("config", "key"),
    [
        ({}, ""),
        ({"raw.lxc": "a = b\n lxc.seccomp.profile = /etc/mine"}, "lxc.seccomp.profile"),
        ({"raw.seccomp": "2"}, "raw.seccomp"),
        ({"security.syscalls.allow": "read"}, "security.syscalls.allow"),
    ],
)
def test_a_profile_with_a_filter_of_its_own_denies_nothing_of_ours(config, key):
    assert key in clincus.protect.why_calls_stay(config)
    assert bool(clincus.protect.why_calls_stay(config)) == bool(key)
