"""Facts about processes: who they are, who their parents are, what they hold.

Reads /proc and nothing else, and keeps no state. A pid alone is never an
identity (it is recycled); a pid with its start time within one boot is.
Nothing here decides whether a session lives: that is a kernel lock's business.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

from coherent_volume.errors import printable

__all__ = [
    "ProcessIdentity",
    "ancestors",
    "boot_id",
    "command_of",
    "describe_holder_of_file",
    "describe_holder_of_lock",
    "process_identity",
]


class ProcessIdentity(NamedTuple):
    """One process of this boot: pid, and start time in clock ticks since boot."""

    pid: int
    started: int


@functools.cache
def boot_id() -> str:
    """The kernel's random name of this boot; "" where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def process_identity(pid: int) -> ProcessIdentity | None:
    """Who *pid* is now, or None when there is no such process."""
    fields = _stat_fields(pid)
    return ProcessIdentity(pid, int(fields[19])) if fields else None


def ancestors(pid: int) -> list[int]:
    """The pids of *pid*'s parent, its parent and so on, without pid 1."""
    line: list[int] = []
    while (fields := _stat_fields(pid)) and (pid := int(fields[1])) > 1 and pid not in line:
        line.append(pid)
    return line


def _stat_fields(pid: int) -> list[bytes]:
    # The command stands in parentheses and may itself hold spaces and
    # parentheses: everything after the last ')' is safe to split.
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return []


def command_of(pid: int) -> str:
    """The command line of *pid*, shortened to 80 characters; "" when unknown."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(400).rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    return os.fsdecode(b" ".join(words))[:80]


def describe_holder_of_lock(descriptor: int) -> str:
    """Who holds the flock on the file behind *descriptor*: "pid 12 (python x)"."""
    try:
        inode = os.fstat(descriptor).st_ino
        with open("/proc/locks", encoding="utf-8") as file:
            for line in file:
                words = line.split()
                # "1: FLOCK ADVISORY WRITE 4711 fe:01:1234 0 EOF"; waiters have "->".
                if len(words) > 5 and words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                    return _describe(int(words[4]))
    except (OSError, ValueError):
        pass
    return "an unknown process"


def describe_holder_of_file(device: int, inode: int) -> str:
    """Who has the file open for writing, as far as /proc lets us see."""
    for name in _entries("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        for number in _entries(f"/proc/{name}/fd"):
            try:
                found = os.stat(f"/proc/{name}/fd/{number}")
                if (found.st_dev, found.st_ino) != (device, inode):
                    continue
                with open(f"/proc/{name}/fdinfo/{number}", encoding="utf-8") as file:
                    flags = next(line for line in file if line.startswith("flags:"))
            except (OSError, StopIteration):
                continue
            if int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                return _describe(int(name))
    return "another process"


def _describe(pid: int) -> str:
    command = command_of(pid)
    return f"pid {pid} ({printable(command)})" if command else f"pid {pid}"


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
