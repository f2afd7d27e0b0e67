"""The plan of the measured part: which cells are run, and what must hold of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.token_coherence.arms import ARMS
from benchmarks.token_coherence.experiment import Cell, Laboratory, broadcast_due
from benchmarks.token_coherence.model import SYNCHRONOUS
from benchmarks.token_coherence.scenarios import CANONICAL, SCENARIOS, VOLATILITIES, Scenario
from benchmarks.token_coherence.tables import population
from benchmarks.token_coherence.trace import turns

__all__ = ["Amounts", "Claim", "Section", "claims_of", "measure", "three_writers"]

ARMS_IN_LOCKSTEP = ("broadcast", "demand", "strict", "notified", "eager", "delta", "blind")
ARMS_AT_LARGE = ("strict", "notified", "blind")
SIZES = (4096, 8192, 32768, 65536)
ZIPF = 1.2
ERRORS_ALLOWED = 3
"""Within how many standard errors of the model a mean has to lie."""


@dataclass(frozen=True)
class Amounts:
    """How much is run; the defaults are those of a full run."""

    runs: int = 10
    sweep_runs: int = 10
    population: int = 1000
    length: int = 40
    """Steps of every workload, save where the steps are what is varied."""
    agents: tuple[int, ...] = (2, 4, 8, 16)
    steps: tuple[int, ...] = (5, 10, 20, 40, 50, 100)
    sizes: tuple[int, ...] = SIZES
    volatilities: tuple[float, ...] = VOLATILITIES

    @classmethod
    def quick(cls) -> Amounts:
        """Return the amounts of a run that ends within two minutes."""
        return cls(
            runs=3,
            sweep_runs=1,
            population=200,
            agents=(2, 4, 8),
            steps=(5, 20, 40),
            sizes=SIZES[:3],
            volatilities=(0.01, 0.10, 0.50, 1.0),
        )


@dataclass(frozen=True)
class Claim:
    """One thing that must come out so, and what came out."""

    text: str
    holds: bool
    found: str


@dataclass
class Section:
    """One part of the experiment: its cells and what is claimed of them."""

    name: str
    title: str
    cells: list[Cell] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def find(self, scenario: str, arm: str, mode: str = "lockstep") -> Cell | None:
        """Return a cell by name; None when it was not run."""
        for cell in self.cells:
            if (cell.scenario.name, cell.arm, cell.mode) == (scenario, arm, mode):
                return cell
        return None


Plan = list[tuple[str, str, list[tuple[Scenario, str, str]], int]]


def _plan(amounts: Amounts) -> Plan:
    """Return all sections: name, title, (scenario, arm, mode) of each cell, runs of each."""
    a, base = (each.but(steps=amounts.length) for each in (SCENARIOS["A"], CANONICAL))
    four = [each.but(steps=amounts.length) for each in SCENARIOS.values()]
    scenarios = [(s, arm, "lockstep") for s in four for arm in ARMS_IN_LOCKSTEP]
    at_large = [(s, arm, "free") for s in four for arm in ARMS_AT_LARGE]

    def sweep(
        varied: Iterable[Scenario], arms: Sequence[str] = ("broadcast", "strict")
    ) -> list[tuple[Scenario, str, str]]:
        return [(scenario, arm, "lockstep") for scenario in varied for arm in arms]

    volatility = [a.but(name=f"V={v:g}", volatility=v) for v in amounts.volatilities]
    agents = [base.but(name=f"n={n}", agents=n) for n in amounts.agents]
    steps = [a.but(name=f"S={s}", steps=s) for s in amounts.steps]
    sizes = [a.but(name=f"{size} tokens", sizes=(size,) * 3) for size in amounts.sizes]
    zipf = [s.but(name=f"{s.name}, Zipf", zipf=ZIPF) for s in four]
    few = amounts.sweep_runs
    return [
        ("scenarios", "Scenarios A to D, in lockstep", scenarios, amounts.runs),
        ("free", "Scenarios A to D, free-running", at_large, amounts.runs),
        ("volatility", "How often an action is a write", sweep(volatility), few),
        ("agents", "Number of agents (B)", sweep(agents), few),
        ("steps", "Number of steps (A)", sweep(steps), few),
        ("sizes", "Size of all files (A)", sweep(sizes), few),
        (
            "zipf",
            f"Unequal choice of files (Zipf, exponent {ZIPF})",
            sweep(zipf, ("broadcast", "demand", "strict")),
            few,
        ),
    ]


def measure(
    laboratory: Laboratory, amounts: Amounts, progress: Callable[[str, int, int], None]
) -> Iterator[Section]:
    """Run the whole plan, section by section; *progress* is told (what, done, in all)."""
    plan = _plan(amounts)
    total = sum(len(cells) * runs for _, _, cells, runs in plan)
    done = 0
    for name, title, cells, runs in plan:
        section = Section(name, title)
        for scenario, arm, mode in cells:
            progress(f"{scenario.name}, {arm}, {mode}", done, total)
            section.cells.append(laboratory.cell(scenario, arm, runs, mode))
            done += runs
        section.claims = claims_of(section.cells, amounts.population)
        yield section
    progress("done", total, total)


def claims_of(cells: Sequence[Cell], population_seeds: int) -> list[Claim]:
    """Return what must hold of *cells*, and whether it does."""
    found = []
    for cell in cells:
        where = f"{cell.scenario.name}, {cell.arm}, {cell.mode}"
        faults, promised = cell.faults(), ", ".join(ARMS[cell.arm].faults)
        found.append(Claim(f"{where}: none of {promised}", not faults, str(faults or "none")))
        if cell.arm == "broadcast" and cell.mode == "lockstep":
            pairs = zip(cell.traces, cell.outcomes, strict=True)
            off = [outcome.tokens - broadcast_due(trace, outcome) for trace, outcome in pairs]
            text = f"{where}: the cost is what it must be, to the token"
            found.append(Claim(text, not any(off), f"off by {sum(map(abs, off)):.0f}"))
        if cell.arm == "strict" and cell.mode == "lockstep":
            found.append(_near_the_model(cell, where, population_seeds))
    blind = [cell for cell in cells if cell.arm == "blind"]
    if blind:
        lost = sum(outcome.lost for cell in blind for outcome in cell.outcomes)
        found.append(Claim("blind: without coherence updates are lost", lost > 0, f"{lost} lost"))
    return found


def _near_the_model(cell: Cell, where: str, seeds: int) -> Claim:
    """Compare the mean with the synchronous model's over many other seeds."""
    model = population(cell.scenario, SYNCHRONOUS, seeds)["cost"]
    runs = len(cell.outcomes)
    error = model.sd / math.sqrt(runs)
    excused = cell.mean(lambda o: o.refused_tokens) / 1000
    mean = cell.mean(lambda o: o.tokens) / 1000
    low = model.mean - ERRORS_ALLOWED * error - excused
    high = model.mean + ERRORS_ALLOWED * error + excused
    same = cell.modelled() / 1000
    return Claim(
        f"{where}: within {ERRORS_ALLOWED} standard errors of the synchronous model",
        low <= mean <= high,
        f"{mean:.1f} K; model {model.mean:.1f} ±{model.sd:.1f} K, on the same traces "
        f"{same:.1f} K; reads after refusals {excused:.1f} K",
    )


def three_writers(laboratory: Laboratory) -> tuple[dict[str, Any], list[Claim]]:
    """Run three writers for three rounds, from snapshots and with coherence.

    Each writes one file in turn. Without coherence all three take a copy when the
    round starts, write from it, and replace whatever is there: the second and the
    third of each round start from stale content.
    """
    trace = turns(3, 3, 4096)
    found: dict[str, Any] = {"writes": trace.actions}
    for name, arm in (("without", "snapshot"), ("with", "strict")):
        outcome = laboratory.run(trace, arm, round_steps=3)
        found[name] = {
            "stale": outcome.stale,
            "lost": outcome.lost,
            "refused": outcome.refused,
            "content replies": outcome.content,
            "copies made stale": outcome.signals,
        }
    without, coherent = found["without"], found["with"]
    claims = [
        Claim(
            "three writers, without coherence: 6 of 9 reads are stale",
            without["stale"] == 6,
            f"{without['stale']} stale, {without['lost']} updates lost",
        ),
        Claim(
            "three writers, with coherence: none is stale, none lost",
            coherent["stale"] == coherent["lost"] == 0,
            f"{coherent['stale']} stale, {coherent['lost']} updates lost",
        ),
    ]
    return found, claims
