"""The limits of a session: `limits` of the configuration, in the form of Incus's instance description.

The server itself applies `limits.runtime.max_duration`: see upkeep.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import clincus

WARNINGS = f"{clincus.LABEL}warnings"


def install(extensions: clincus.Extensions) -> None:
    """Add the limits to the description of each start."""
    extensions.instance_parts.append(add_limits)


def add_limits(
    incus: clincus.Incus, _session: clincus.Session, launch: clincus.Launch, description: dict[str, Any]
) -> None:
    """Write the limits into the description of a start. A limit that this machine cannot hold becomes a warning."""
    config = description["config"]
    devices = description["devices"]
    machine = (None, True) if incus.engine else (os.cpu_count(), has_block_weights())
    keys, root_options, warnings = limit_options(launch.config.get("limits"), *machine)
    config.update(keys)
    if root_options:  # a device of the instance replaces the profile's, so it is spelled out
        disks = incus.query("/1.0/profiles/default")["devices"].values()
        devices["root"] = {**next((disk for disk in disks if disk.get("path") == "/"), {}), **root_options}
    tmpfs_size = launch.config.get("limits.disk.tmpfs_size")
    if tmpfs_size and "raw.lxc" in config:  # no device of Incus 6.0 can do it: lxc.container.conf(5), "Mount points"
        options = f"rw,nosuid,nodev,mode=1777,size={clincus.size_bytes(tmpfs_size)},create=dir"
        config["raw.lxc"] += f"lxc.mount.entry = tmpfs tmp tmpfs {options} 0 0\n"
    elif tmpfs_size:
        warnings.append("limits.disk.tmpfs_size is left out: it needs a locked workspace")
    if warnings:
        config[WARNINGS] = "\n".join([*config.get(WARNINGS, "").splitlines(), *warnings])


# Setting and the instance key that Incus has for it.
LIMIT_KEYS = {
    "cpu.count": "limits.cpu",
    "cpu.allowance": "limits.cpu.allowance",
    "cpu.priority": "limits.cpu.priority",
    "memory.limit": "limits.memory",
    "memory.enforce": "limits.memory.enforce",
    "memory.swap": "limits.memory.swap",
    "disk.priority": "limits.disk.priority",
    "runtime.max_processes": "limits.processes",
}


def limit_options(
    limits: Mapping[str, Mapping[str, Any]], cpus: int | None = None, block_weights: bool = True
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Translate `limits` of a checked configuration for Incus: instance keys, options of the root disk, warnings.

    `cpus` is the host's number of CPUs, if known; without `block_weights` it cannot weigh disk use. Rates are options
    of the root disk DEVICE; Incus does not know them as instance keys (its manual: "Type: disk", "Resource limits").
    `disk.tmpfs_size` and `runtime.max_duration` are not limits of Incus, and not in the result.
    """
    config: dict[str, str] = {}
    for key, incus_key in LIMIT_KEYS.items():
        section, name = key.split(".")
        value = limits[section][name]
        if value not in ("", 0, "true"):  # that is Incus's own default, and a restricted project forbids to name swap
            config[incus_key] = incus_unit(str(value))
    disk, warnings = disk_options(limits["disk"])
    if LIMIT_KEYS["disk.priority"] in config and not block_weights:
        del config[LIMIT_KEYS["disk.priority"]]  # Incus would refuse to start the container
        warnings.append("limits.disk.priority is left out: this machine's kernel has no block weights (blkio.weight)")
    count = str(limits["cpu"]["count"])
    highest = max(map(int, re.findall(r"\d+", count)), default=0)
    needed = highest if count.isdigit() else highest + 1  # a number of CPUs, or the CPUs to pin to, from 0
    if cpus is not None and needed > cpus:
        warnings.append(f"limits.cpu.count is {count!r}, but this machine has {cpus} CPUs")
    return config, disk, warnings


def disk_options(disk: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The rate options of the root disk. Incus lets limits.max override both others, so it is spelled out here."""
    top = disk["max"]
    options: dict[str, str] = {}
    warnings: list[str] = []
    if top and not disk["read"] and not disk["write"]:
        return {"limits.max": incus_unit(top)}, []

    def amount(rate: str) -> float:
        return float(rate[:-4]) if rate.endswith("iops") else float(clincus.size_bytes(rate[:-2]))

    for name in ("read", "write"):
        rates = [rate for rate in (disk[name], top) if rate]
        if len({rate.endswith("iops") for rate in rates}) > 1:
            kinds = f"limits.disk.{name} ({rates[0]}) is of another kind than limits.disk.max ({top})"
            warnings.append(f"{kinds}: max holds")
            rates = [top]
        if rates:
            options[f"limits.{name}"] = incus_unit(min(rates, key=amount))
    return options, warnings


def has_block_weights(cgroups: str = "/sys/fs/cgroup") -> bool:
    """True if this machine can weigh disk use between containers; limits.disk.priority needs that."""
    if os.path.exists(f"{cgroups}/blkio/blkio.weight"):
        return True
    try:
        with open(f"{cgroups}/cgroup.controllers", encoding="ascii") as file:
            return "io" in file.read(4096).split()
    except OSError:
        return False


def incus_unit(text: str) -> str:
    """A value in Incus's spelling: kB for KB, and a rate without `/s`."""
    return re.sub(r"(?<=\d)KB\b", "kB", text[:-2] if text.endswith("B/s") else text)
