"""How much of everything a run measures: the full amounts and the quick ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Plan

__all__ = ["FRESH_S", "KIB", "MIB", "Context", "Settings", "size_name"]

FRESH_S = 2.0
"""How long a copy may be trusted where the feed is listened to; the library's own bound
is compared with it by a test, because the audit uses nothing of the library."""

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Settings:
    """Amounts; the defaults are those of a full run."""

    sizes: tuple[int, ...] = (KIB, 4 * KIB, 64 * KIB, MIB, 10 * MIB)
    read_blocks: int = 15
    write_blocks: int = 15
    processes: tuple[int, ...] = (1, 2, 4, 8)
    counter_rounds: int = 5
    counter_seconds: float = 1.5
    artifact_counts: tuple[int, ...] = (1_000, 10_000)
    scale_blocks: int = 3
    startup_runs: int = 15
    sustained_writes: int = 200
    wake_ups: int = 200
    history_lengths: tuple[int, ...] = (100, 10_000, 100_000)

    @classmethod
    def quick(cls) -> Settings:
        """Return the amounts of a run that ends within a minute."""
        return cls(
            read_blocks=5,
            write_blocks=4,
            counter_rounds=1,
            counter_seconds=0.5,
            artifact_counts=(1_000,),
            scale_blocks=1,
            startup_runs=4,
            sustained_writes=50,
            wake_ups=40,
        )

    def read_plan(self, size: int) -> Plan:
        """Return how often a file of *size* is read."""
        calls = 100 if size <= 64 * KIB else 20 if size <= MIB else 4
        return Plan(self.read_blocks, calls)

    def first_read_plan(self, size: int) -> Plan:
        """Return how many files of *size* are read once each, per block."""
        calls = 40 if size <= 64 * KIB else 10 if size <= MIB else 3
        return Plan(self.read_blocks, calls)

    def write_plan(self, size: int) -> Plan:
        """Return how often a file of *size* is written."""
        calls = 12 if size <= 64 * KIB else 5 if size <= MIB else 2
        return Plan(self.write_blocks, calls, rest=0.06)


@dataclass
class Context:
    """What every part of a run shares."""

    settings: Settings
    directory: Path
    rng: random.Random
    progress: Callable[[str], None]
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    _made: int = 0

    def fresh_directory(self, purpose: str) -> Path:
        """Make and return an empty directory of its own for one measurement."""
        self._made += 1
        path = self.directory / f"{self._made:03d}-{purpose}"
        path.mkdir()
        return path


def size_name(size: int) -> str:
    """Return a size as people write it."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"
