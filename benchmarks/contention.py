"""Many real processes on one counter: throughput, fairness, and the final sum."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import ours
from benchmarks.counter_worker import COUNTER
from benchmarks.incumbent import Incumbent
from benchmarks.measure import is_unsteady, spread_of
from benchmarks.ours import Durability
from benchmarks.settings import Context
from benchmarks.table import Row, Target
from benchmarks.workers import WorkerFailedError, environment, run_together

__all__ = ["counters"]

THROUGHPUT = Target(0.7, ">=")
FAIRNESS = Target(0.5, ">=", of="ours")
NONE_LOST = Target(0, "<=", of="ours", unit="")


@dataclass
class Tally:
    """What the rounds of one arm came to."""

    rates: list[float] = field(default_factory=list)
    fairness: list[float] = field(default_factory=list)
    given_up: int = 0
    wrong: int = 0
    slowest: float = 0.0

    def add(self, reports: Sequence[dict[str, Any]], final: int) -> None:
        """Add one round; *final* is the number that the file held at its end."""
        counts = [report["acknowledged"] for report in reports]
        self.rates.append(sum(counts) / max(report["elapsed"] for report in reports))
        self.fairness.append(min(counts) / max(*counts, 1))
        self.given_up += sum(report["given_up"] for report in reports)
        self.wrong += abs(final - sum(counts))
        self.slowest = max(self.slowest, *(report["slowest"] for report in reports))


Commands = Callable[[Path], list[str]]


def _command(arm: str, durability: Durability, seconds: float) -> Commands:
    def build(root: Path) -> list[str]:
        module = "benchmarks.counter_worker"
        return [sys.executable, "-m", module, arm, str(root), durability, str(seconds)]

    return build


def _round(
    context: Context, commands: Commands, processes: int, durability: Durability | None
) -> tuple[Any, int]:
    """Run one round in a directory of its own, a volume if *durability* is given."""
    root = context.fresh_directory("counter")
    counter = root / COUNTER
    counter.parent.mkdir()
    counter.write_bytes(b"0")
    if durability is not None:
        ours.make_volume(root, durability).close()
        ours.age()
    patience = 60 + 10 * context.settings.counter_seconds
    reports = run_together([commands(root)] * processes, environment(), patience)
    return reports, int(counter.read_bytes())


def counters(context: Context, incumbent: Incumbent | None) -> list[Row]:
    """Measure every number of processes at both durabilities, arms alternating."""
    rows = []
    durabilities: tuple[Durability, ...] = ("power", "process")
    for durability in durabilities:
        lost = {"plain": 0, "ours": 0, "incumbent": 0}
        given_up = {"plain": 0, "ours": 0, "incumbent": 0}
        for processes in context.settings.processes:
            tallies = _compare(context, durability, processes, incumbent)
            rows += _rows_of(durability, processes, tallies)
            for arm, tally in tallies.items():
                lost[arm] += tally.wrong
                given_up[arm] += tally.given_up
                if tally.wrong and arm != "incumbent":
                    context.failures.append(
                        f"counter, {durability}, {processes} processes, {arm}: "
                        f"off by {tally.wrong} from the acknowledged increments"
                    )
        rows += _sums(durability, lost, given_up, incumbent is not None)
    return rows


def _compare(
    context: Context, durability: Durability, processes: int, incumbent: Incumbent | None
) -> dict[str, Tally]:
    seconds = context.settings.counter_seconds
    tallies = {"plain": Tally(), "ours": Tally()}
    if incumbent is not None and durability == "power":
        tallies["incumbent"] = Tally()
    for turn in range(context.settings.counter_rounds):
        context.progress(f"counter, {durability}, {processes} processes, round {turn + 1}")
        order = list(tallies)
        context.rng.shuffle(order)
        for arm in order:
            if arm == "incumbent":
                assert incumbent is not None
                root = context.fresh_directory("counter")
                try:
                    tallies[arm].add(*incumbent.count(root, processes, seconds))
                except WorkerFailedError as error:
                    context.notes.append(f"incumbent, counter, {processes} processes: {error}")
            else:
                made = durability if arm == "ours" else None
                command = _command(arm, durability, seconds)
                tallies[arm].add(*_round(context, command, processes, made))
    return {arm: tally for arm, tally in tallies.items() if tally.rates}


def _rows_of(durability: Durability, processes: int, tallies: dict[str, Tally]) -> list[Row]:
    kind = "durable" if durability == "power" else "process"
    noun = "process" if processes == 1 else "processes"
    title = f"counter, {kind}, {processes} {noun}"
    flock, own = tallies["plain"], tallies["ours"]
    theirs = tallies.get("incumbent")
    rate = Row(
        f"counter-{durability}/{processes}",
        title,
        "/s",
        spread_of(flock.rates).median,
        spread_of(own.rates).median,
        spread_of([a / b for a, b in zip(own.rates, flock.rates, strict=True)]),
        target=THROUGHPUT if durability == "power" else None,
        unsteady=is_unsteady(flock.rates),
    )
    if theirs is not None:
        # Its rounds may be fewer: one that broke off has no rate.
        rate.incumbent = f"{spread_of(theirs.rates).median / spread_of(flock.rates).median:.3f}"
    if processes == 1:
        return [rate]
    fair = Row(
        f"counter-fairness-{durability}/{processes}",
        f"  least / most of a process, {processes}",
        "x",
        spread_of(flock.fairness).median,
        spread_of(own.fairness).median,
        target=FAIRNESS,
        incumbent=f"{spread_of(theirs.fairness).median:.2f} least/most" if theirs else "",
    )
    slow = Row(
        f"counter-slowest-{durability}/{processes}",
        f"  longest wait, {processes}",
        "s",
        flock.slowest,
        own.slowest,
        incumbent=f"{theirs.slowest * 1e3:.0f} ms" if theirs else "",
    )
    return [rate, fair, slow]


def _sums(
    durability: Durability, lost: dict[str, int], given_up: dict[str, int], compared: bool
) -> list[Row]:
    compared = compared and durability == "power"
    return [
        Row(
            f"counter-given-up-{durability}",
            "  increments given up, all runs",
            "",
            given_up["plain"],
            given_up["ours"],
            target=NONE_LOST,
            incumbent=f"{given_up['incumbent']} given up" if compared else "",
        ),
        Row(
            f"counter-wrong-{durability}",
            "  final sum off by, all runs",
            "",
            lost["plain"],
            lost["ours"],
            target=NONE_LOST,
            incumbent=f"{lost['incumbent']} off" if compared else "",
        ),
    ]
