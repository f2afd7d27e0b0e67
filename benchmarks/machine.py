"""Facts about the machine that a table of ratios should be read with."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["facts", "summary"]


def facts(directory: Path) -> dict[str, object]:
    """Return what decides about speed here, for *directory*'s file system."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "load_before": os.getloadavg()[0],
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "sqlite": sqlite3.sqlite_version,
        "filesystem": _file_system(directory),
    }


def summary(known: dict[str, object]) -> str:
    """Return the facts in one line."""
    load = f"load {known['load_before']:.1f} before, {known['load_after']:.1f} after"
    return (
        f"{known['cpus']} CPUs ({known['cpu']}), {load}, kernel {known['kernel']}, "
        f"Python {known['python']}, SQLite {known['sqlite']}, {known['filesystem']}"
    )


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # no /proc: the name is a nicety
    return platform.machine()


def _file_system(directory: Path) -> str:
    """Return the type of the mount with the longest path that *directory* is below."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return kind
    for line in mounts:
        point, found = line.split()[1:3]
        if directory.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind
