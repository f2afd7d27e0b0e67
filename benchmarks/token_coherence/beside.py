"""The library beside plain files and the incumbent: latency of a call, contended throughput.

Measured by the modules of ``make bench`` with smaller amounts. The incumbent lives in an
environment of its own, which ``make bench`` makes; without it its lines are left out.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import contention, latency
from benchmarks.incumbent import find
from benchmarks.settings import KIB, Context, Settings
from benchmarks.table import Row, render, rows_as_json
from benchmarks.token_coherence.measured import Claim
from benchmarks.workers import WorkerFailedError

__all__ = ["SEED", "Beside", "amounts", "measure", "steps"]

SEED = 1_000_001


@dataclass(frozen=True)
class Beside:
    """What came out: rows for single calls and for the shared counter, and what was left out."""

    calls: list[Row]
    counters: list[Row]
    claims: list[Claim]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "seed": SEED,
            "calls": rows_as_json(self.calls),
            "counters": rows_as_json(self.counters),
            "notes": self.notes,
        }

    def render(self) -> str:
        """Return it as a table, and the notes below."""
        told = render([("Single calls", self.calls), ("Shared counter", self.counters)])
        return told + "".join(f"{note}\n" for note in self.notes)


def amounts(*, quick: bool) -> Settings:
    """Return how much is measured."""
    if quick:
        return Settings(
            (KIB, 64 * KIB), 3, 3, processes=(1, 2), counter_rounds=1, counter_seconds=0.3
        )
    return Settings((KIB, 4 * KIB, 64 * KIB), 9, 9, counter_rounds=2, counter_seconds=1.0)


def steps(settings: Settings) -> int:
    """Return about how often progress is told."""
    return 6 * len(settings.sizes) + 2 * settings.counter_rounds * len(settings.processes)


def measure(
    where: Path, environment: Path, settings: Settings, progress: Callable[[str], None]
) -> Beside:
    """Measure in a temporary directory of *where*; *environment* is the incumbent's."""
    incumbent, _ = find(environment.absolute())
    directory = Path(tempfile.mkdtemp(prefix=".bench-", dir=where)).resolve()
    context = Context(settings, directory, random.Random(SEED), progress)
    try:
        calls = latency.reads(context) + latency.writes(context)
        if incumbent is not None:
            try:
                theirs = incumbent.latencies(context)
            except WorkerFailedError as error:
                context.notes.append(f"incumbent, single caller: {error}")
            else:
                for row in calls:
                    row.incumbent = theirs.get(row.key, "")
        counters = contention.counters(context, incumbent)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if incumbent is None:
        context.notes.append("The incumbent is not installed (make bench does it): left out.")
    wrong = "; ".join(context.failures)
    claim = Claim("shared counter: every acknowledged increment is there", not wrong, wrong or "so")
    return Beside(calls, counters, [claim], context.notes)
