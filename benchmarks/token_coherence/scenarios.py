"""The workloads: how many agents, files and steps, and how often somebody writes."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["BYTES_PER_TOKEN", "CANONICAL", "POINTERS", "SCENARIOS", "VOLATILITIES", "Scenario"]

BYTES_PER_TOKEN = 4
"""A token of the paper stands for so many bytes in a file."""

VOLATILITIES = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 1.0)


@dataclass(frozen=True)
class Scenario:
    """One workload. ``sizes`` are tokens of each file, ``seed`` that of the first run.

    ``zipf`` is the exponent of an unequal choice among the files; 0 means that
    every file is as likely as any other, which is all that the paper has.
    """

    name: str
    volatility: float
    seed: int
    agents: int = 4
    sizes: tuple[int, ...] = (4096, 4096, 4096)
    steps: int = 40
    activity: float = 0.75
    zipf: float = 0.0

    def but(self, **changes: object) -> Scenario:
        """Return the same workload with some of its fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


SCENARIOS = {
    "A": Scenario("A", 0.05, 20260305),
    "B": Scenario("B", 0.10, 20260306),
    "C": Scenario("C", 0.25, 20260307),
    "D": Scenario("D", 0.50, 20260308),
}
CANONICAL = SCENARIOS["B"]
POINTERS = Scenario("8.8", 0.25, 2026030413, agents=6, sizes=(1200, 900), steps=120)
"""The undisclosed workload behind the pointer figures of section 8.8."""
