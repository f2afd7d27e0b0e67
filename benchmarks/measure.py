"""Pairing and statistics: how two ways of doing one thing are compared.

The arms of a comparison alternate in small blocks, in an order drawn anew for
every block, so that a noisy neighbour, a slow disk minute or a warm cache hits
all of them. What is reported is the median over blocks of *ratios* of block
medians, never a quotient of two separate runs. Standard library only: the
incumbent's interpreter imports this module too.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Arm",
    "Plan",
    "Ratio",
    "Samples",
    "interleave",
    "is_unsteady",
    "payloads",
    "spread_of",
]

UNSTEADY = 1.5


def _nothing() -> None:
    """Do nothing around a block."""


def _no_argument(call: int) -> Any:
    return call


@dataclass(frozen=True)
class Arm:
    """One way of doing it. ``prepare`` makes a call's argument, outside the clock."""

    name: str
    operation: Callable[[Any], object]
    prepare: Callable[[int], Any] = _no_argument
    before_block: Callable[[], None] = _nothing
    after_block: Callable[[], None] = _nothing


@dataclass(frozen=True)
class Plan:
    """How much to measure: blocks per arm, calls per block, rest before a block.

    The rest lets what an earlier block left running (write-back, a library's
    background work) end before the next arm's clock starts.
    """

    blocks: int
    calls: int
    rest: float = 0.0


@dataclass(frozen=True)
class Ratio:
    """Median over blocks, with the quartiles as its spread."""

    median: float
    low: float
    high: float
    blocks: tuple[float, ...] = field(repr=False, default=())


@dataclass
class Samples:
    """Block medians in seconds, by arm; blocks of one index ran side by side."""

    medians: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median over blocks of one arm, in seconds."""
        return statistics.median(self.medians[name])

    def ratio(self, above: str, below: str) -> Ratio:
        """Return *above* divided by *below*, block by block."""
        pairs = zip(self.medians[above], self.medians[below], strict=True)
        return spread_of([a / b for a, b in pairs])

    def unsteady(self, name: str) -> bool:
        """Say whether one arm's own blocks differ so much that the machine was busy."""
        return is_unsteady(self.medians[name])


def is_unsteady(values: Sequence[float]) -> bool:
    """Say whether the upper quartile of *values* is above 1.5 times the lower."""
    spread = spread_of(values)
    return spread.high > UNSTEADY * spread.low


def spread_of(values: Sequence[float]) -> Ratio:
    """Return the median and the quartiles of *values* (the extremes below four)."""
    if len(values) < 4:
        return Ratio(statistics.median(values), min(values), max(values), tuple(values))
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(statistics.median(values), low, high, tuple(values))


def _time_calls(arm: Arm, first: int, calls: int) -> list[float]:
    clock = time.perf_counter_ns
    operation, prepare = arm.operation, arm.prepare
    taken = []
    for call in range(first, first + calls):
        argument = prepare(call)
        start = clock()
        operation(argument)
        taken.append((clock() - start) / 1e9)
    return taken


def _clock_cost() -> float:
    """Return what timing an empty call costs; it is taken off every arm."""
    return statistics.median(_time_calls(Arm("empty", id), 0, 2000))


def interleave(arms: Sequence[Arm], plan: Plan, rng: random.Random) -> Samples:
    """Run every arm ``plan.blocks`` times in alternation and return block medians.

    One block of each arm runs first and is thrown away.
    """
    cost = _clock_cost()
    samples = Samples({arm.name: [] for arm in arms})
    order = list(arms)
    collecting = gc.isenabled()
    try:
        for block in range(-1, plan.blocks):
            rng.shuffle(order)
            for arm in order:
                arm.before_block()
                time.sleep(plan.rest)
                gc.collect()
                gc.disable()
                taken = _time_calls(arm, (block + 1) * plan.calls, plan.calls)
                arm.after_block()
                if block >= 0:
                    samples.medians[arm.name].append(max(statistics.median(taken) - cost, 1e-9))
    finally:
        (gc.enable if collecting else gc.disable)()
    return samples


def payloads(size: int, rng: random.Random) -> Callable[[int], bytes]:
    """Return a maker of contents of *size* bytes, each different from the last."""
    body = rng.randbytes(size)
    width = min(size, 8)
    salt = rng.randrange(1 << 32)

    def make(call: int) -> bytes:
        return (salt + call).to_bytes(8, "little")[:width] + body[width:]

    return make
