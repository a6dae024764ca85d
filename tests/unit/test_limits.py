"""Limits and mounts: what the configuration means to Incus."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import pytest

import clincus
from clincus_cli.commands import UsageError
from clincus_cli.shell import mount_argument
from clincus_features.limits import add_limits, limit_options
from tests.table import table


def limits(**changed):
    """The default limits with some changed, written as cpu_count="2"."""
    document = clincus.nest(clincus.fold_layers([])[0])["limits"]
    for key, value in changed.items():
        section, _, name = key.partition("_")
        assert name in document[section]
        document[section][name] = value
    return document


def instance_keys(**changed):
    config, disk, warnings = limit_options(limits(**changed))
    assert (disk, warnings) == ({}, [])
    return {key: value for key, value in config.items() if UNLIMITED.get(key) != value}


UNLIMITED = {"limits.memory.enforce": "soft"}


@table(
    ("changed", "keys"),
    [
        ({}, {}),
        ({"cpu_count": "0-1,3"}, {"limits.cpu": "0-1,3"}),
        (
            {"memory_limit": "512MiB", "memory_enforce": "hard"},
            {"limits.memory": "512MiB", "limits.memory.enforce": "hard"},
        ),
        ({"memory_limit": "512KB"}, {"limits.memory": "512kB"}),
        ({"memory_swap": "10KB"}, {"limits.memory.swap": "10kB"}),
        ({"runtime_max_processes": 60}, {"limits.processes": "60"}),
        ({"runtime_max_duration": "1h", "disk_tmpfs_size": "64MiB"}, {}),
    ],
)
def test_instance_keys(changed, keys):
    assert instance_keys(**changed) == keys


def test_a_run_has_a_deadline_if_it_may_take_only_so_long():
    def deadline(**settings):
        flags = {f"limits.runtime.{name}": value for name, value in settings.items()}
        return clincus.run_deadline(clincus.load_config({}, flags=flags))

    assert deadline(max_duration="1h") > clincus.utc_now()
    assert deadline(max_duration="") == ""
    assert deadline(max_duration="1h", auto_stop=False) == ""


@table(
    ("changed", "options"),
    [
        ({"disk_read": "1000iops", "disk_write": "5MB/s"}, {"limits.read": "1000iops", "limits.write": "5MB"}),
        ({"disk_max": "1GB/s"}, {"limits.max": "1GB"}),
        ({"disk_max": "5MB/s", "disk_read": "10MB/s"}, {"limits.read": "5MB", "limits.write": "5MB"}),
    ],
)
def test_rates_are_options_of_the_root_disk(changed, options):
    config, disk, warnings = limit_options(limits(**changed))
    assert (config, disk, warnings) == (UNLIMITED, options, [])


def test_what_cannot_be_is_left_out_with_a_warning():
    _, disk, warnings = limit_options(limits(disk_max="5MB/s", disk_read="10iops"))
    assert disk == {"limits.read": "5MB", "limits.write": "5MB"}
    assert "limits.disk.read (10iops)" in warnings[0], "rates of two kinds do not add up"
    config, _, warnings = limit_options(limits(disk_priority=5), block_weights=False)
    assert config == UNLIMITED
    assert "no block weights" in warnings[0], "the kernel cannot hold it"


class Profile:
    """A door to an Incus whose default profile has this root disk."""

    engine = "far"  # whose machine nobody looks at
    ROOT: ClassVar = {"type": "disk", "path": "/", "pool": "default"}

    def query(self, path: str) -> dict[str, object]:
        assert path == "/1.0/profiles/default"
        return {"devices": {"root": self.ROOT, "eth0": {"type": "nic"}}}


def described(settings, config=()):
    launch = SimpleNamespace(config=clincus.with_flags(clincus.load_config({}), settings))
    description = {"config": {"user.clincus.warnings": "a word", **dict(config)}, "devices": {}}
    add_limits(Profile(), None, launch, description)
    return description


def test_limits_go_into_the_description_of_a_start():
    found = described({"limits.memory.limit": "1GiB"})
    assert found["config"] == {
        "user.clincus.warnings": "a word",
        "limits.memory": "1GiB",
        "limits.memory.enforce": "hard",
    }
    assert found["devices"] == {}, "the root disk is that of the profile"
    found = described({"limits.disk.read": "10MB/s"})
    assert found["devices"] == {"root": {**Profile.ROOT, "limits.read": "10MB"}}


def test_a_tmpfs_needs_a_locked_workspace():
    settings = {"limits.disk.tmpfs_size": "64MiB"}
    entry = "lxc.mount.entry = tmpfs tmp tmpfs rw,nosuid,nodev,mode=1777,size=67108864,create=dir 0 0\n"
    assert described(settings, {"raw.lxc": "a = b\n"})["config"]["raw.lxc"] == f"a = b\n{entry}"
    assert clincus.size_bytes("3MB") == 3_000_000
    assert described(settings)["config"]["user.clincus.warnings"].startswith("a word\nlimits.disk.tmpfs_size is left")


CHECKS = {
    "limits.cpu.count": (["", "0-3,5"], ["0", "3-1", "1,", "1.5", "9" * 9]),
    "limits.cpu.allowance": (["", "50%", "25ms/100ms"], ["0%", "50", "10ms/0ms"]),
    "limits.memory.limit": (["", "512MB", "1%"], ["0MB", "512", "1.5GiB", "512mib", "101%"]),
    "limits.memory.swap": ([True, "false", "1GiB"], ["", "50%", "yes"]),
    "limits.disk.read": (["", "10MiB/s", "1000iops"], ["10MB", "0iops", "10/s"]),
    "limits.disk.tmpfs_size": (["", "64MiB"], ["50%", "64"]),
    "limits.disk.priority": ([0, 10], [-1, 11, "5", True]),
    "limits.runtime.max_duration": (["", "0", "1h30m"], ["-1h", "1d", "90"]),
}


@table("key", CHECKS)
def test_check(key):
    good, bad = CHECKS[key]
    check = clincus.SETTING[key].fit
    taken = []
    for value in bad:
        try:
            check(value)
        except clincus.Unfit:
            continue
        taken.append(value)
    assert taken == []
    assert [check(value) for value in good] == [
        str(value).lower() if value in (True, False) and key.endswith("swap") else value for value in good
    ]


# Mounts


def entries(*mounts, workspace="/workspace"):
    return clincus.mount_entries(list(mounts), {"HOME": "/home/ann"}, workspace)


@table(
    ("paths", "message"),
    [
        (["/data", "/data/in"], "'/data/in' lies in '/data'"),
        (["/workspace"], "would hide the workspace"),
        (["/home/ann"], "would hide the workspace"),
        (["/dev/shm"], "the container needs that path"),
    ],
)
def test_mounts_that_are_refused(paths, message):
    workspace = "/home/ann/app" if "/home/ann" in paths else "/workspace"
    with pytest.raises(clincus.ClincusError, match=message) as caught:
        entries(*[{"host": f"/h{path}", "container": path} for path in paths], workspace=workspace)
    assert caught.value.status == 400


@table(
    ("text", "mount"),
    [
        ("~/a:/b:rw", {"host": "~/a", "container": "/b", "readonly": False}),
        ("data/x:/b", {"host": "/cwd/data/x", "container": "/b", "readonly": False}),
    ],
)
def test_mount_argument(text, mount):
    assert mount_argument(text, "/cwd") == mount


@table("text", ["/a", ":/b", "/a:b", "/a:/b:x", "/a:/../b"])
def test_no_mount_argument(text):
    with pytest.raises(UsageError, match="invalid mount"):
        mount_argument(text, "/cwd")
