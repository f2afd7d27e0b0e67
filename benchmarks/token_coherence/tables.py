"""The published tables beside the model: with the paper's seeds, and over many seeds.

Ten runs of one set of seeds are one draw; the population says what the workload
costs, and how far the published ten are from it, in standard errors of ten runs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, pstdev
from typing import Any

from benchmarks.token_coherence.model import EAGER, PAPER, SYNCHRONOUS, Rules, run
from benchmarks.token_coherence.published import ROWS, Published
from benchmarks.token_coherence.scenarios import SCENARIOS, Scenario
from benchmarks.token_coherence.trace import Trace, draw

__all__ = [
    "RUNS",
    "Figure",
    "Line",
    "as_dicts",
    "broadcast_cost",
    "closed_form",
    "extras",
    "figures",
    "lines",
    "markdown",
    "population",
    "render",
]

RUNS = 10
POPULATION_SEED = 1_000_000


@dataclass(frozen=True)
class Figure:
    """A mean over runs and its standard deviation."""

    mean: float
    sd: float

    def printed_as(self, model: str) -> str:
        """Return the figure with the digits, and the deviation, that *model* is printed with."""
        digits = len(model.split(" ", maxsplit=1)[0].partition(".")[2])
        text = f"{self.mean:.{digits}f}"
        return f"{text} ±{self.sd:.{digits}f}" if "±" in model else text


def broadcast_cost(trace: Trace) -> int:
    """Return what broadcast costs on *trace*, in tokens.

    Every file to every agent after each step, and the actions of the first
    step, for which nobody has a copy yet.
    """
    pushed = trace.agents * len(trace.steps) * sum(trace.sizes)
    return pushed + sum(trace.sizes[action.file] for action in trace.steps[0])


def figures(scenario: Scenario, rules: Rules, seeds: Sequence[int]) -> dict[str, Figure]:
    """Return what *rules* come to over *seeds*: broadcast, cost, savings, hit rate, stale."""
    found = []
    for seed in seeds:
        trace = draw(scenario, seed)
        tally, broadcast = run(trace, rules), broadcast_cost(trace)
        savings = 100 * (1 - tally.tokens / broadcast)
        found.append(
            (broadcast / 1000, tally.tokens / 1000, savings, 100 * tally.hit_rate, tally.stale)
        )
    columns = zip(*found, strict=True)
    names = ("broadcast", "cost", "savings", "hit rate", "stale reads")
    return {n: Figure(fmean(c), pstdev(c)) for n, c in zip(names, columns, strict=True)}


def population(scenario: Scenario, rules: Rules, seeds: int) -> dict[str, Figure]:
    """Return the same over *seeds* seeds that the paper did not use."""
    return _population(scenario.but(name="", seed=POPULATION_SEED), rules, seeds)


@functools.cache
def _population(scenario: Scenario, rules: Rules, seeds: int) -> dict[str, Figure]:
    return figures(scenario, rules, range(scenario.seed, scenario.seed + seeds))


def closed_form(scenario: Scenario) -> float:
    """Return the expected cost of lazy in thousands of tokens, in closed form.

    Each agent meets each file with q in a step; a copy that it has is spoilt with
    the probability that one of the others wrote since it last looked.
    """
    agents, files, steps = scenario.agents, len(scenario.sizes), scenario.steps
    q = scenario.activity / files
    others = (agents - 1) * scenario.volatility
    spoilt = others / (1 + others)
    ever = 1 - (1 - q) ** steps
    return agents * sum(scenario.sizes) * (ever + (q * steps - ever) * spoilt) / 1000


@dataclass(frozen=True)
class Line:
    """One published cell and what the model makes of it."""

    table: str
    row: str
    column: str
    paper: str
    model: str
    difference: float
    population: float
    population_sd: float
    remark: str

    @property
    def equal(self) -> bool:
        """Whether the model prints what the paper prints."""
        return self.paper == self.model

    @property
    def distance(self) -> float | None:
        """How far the paper is from the population, in standard errors of ten runs."""
        if not self.population_sd:
            return None
        error = self.population_sd / math.sqrt(RUNS)
        return (float(self.paper.split(" ")[0]) - self.population) / error


def lines(
    seeds: int, progress: Callable[[], None] = lambda: None, rows: Sequence[Published] = ROWS
) -> list[Line]:
    """Return every published cell beside the model and a population of *seeds* seeds."""
    found = []
    for row in rows:
        first = row.scenario.seed
        ours = figures(row.scenario, row.rules, range(first, first + RUNS))
        everybody = population(row.scenario, row.rules, seeds)
        for column, paper in row.cells.items():
            model = ours[column].printed_as(paper)
            difference = float(model.split(" ")[0]) - float(paper.split(" ")[0])
            whole = everybody[column]
            remark = row.remark
            found.append(
                Line(
                    row.table,
                    row.row,
                    column,
                    paper,
                    model,
                    round(difference, 3),
                    whole.mean,
                    whole.sd,
                    remark,
                )
            )
        progress()
    return found


def extras(seeds: int) -> list[dict[str, Any]]:
    """Return what the paper does not print, for A to D, in thousands of tokens."""
    found = []
    for name, scenario in SCENARIOS.items():
        lazy = population(scenario, PAPER, seeds)
        strict = population(scenario, SYNCHRONOUS, seeds)
        eager = population(scenario, EAGER, seeds)["cost"].mean
        demand = population(scenario, Rules("always_read"), seeds)["cost"].mean
        found.append(
            {
                "scenario": name,
                "lazy": lazy["cost"].mean,
                "closed form": closed_form(scenario),
                "strict": strict["cost"].mean,
                "strict sd": strict["cost"].sd,
                "strict hit rate": strict["hit rate"].mean,
                "eager, mended": eager,
                "demand": demand,
                "broadcast": lazy["broadcast"].mean,
                "demand saves": 100 * (1 - demand / lazy["broadcast"].mean),
                "coherence's own share": 100 * (1 - lazy["cost"].mean / demand),
                "lazy's stale reads": lazy["stale reads"].mean,
            }
        )
    return found


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table that reads well as it is; first column to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(headings), line(rule), *map(line, rows)]) + "\n"


def render(found: Sequence[Line]) -> str:
    """Return all cells as one table, and below it what is wrong with which."""
    headings = ("cell", "paper", "model, its seeds", "difference", "population", "paper off by")
    rows = []
    for each in found:
        far = each.distance
        rows.append(
            (
                f"{each.table}: {each.row}, {each.column}",
                each.paper,
                each.model,
                "=" if each.equal else f"{each.difference:+.1f}",
                f"{each.population:.1f} ±{each.population_sd:.1f}",
                "" if far is None else f"{far:+.1f} s.e.",
            )
        )
    remarks = {f"{each.table}, {each.row}": each.remark for each in found if each.remark}
    told = "".join(f"- {where}: {remark}.\n" for where, remark in remarks.items())
    equal = sum(each.equal for each in found)
    count = f"{equal} of {len(found)} cells as printed.\n"
    return f"{markdown(headings, rows)}\n{count}{told}"


def as_dicts(found: Sequence[Line]) -> list[dict[str, Any]]:
    """Return the cells as plain values."""
    return [asdict(each) | {"equal": each.equal, "distance_se": each.distance} for each in found]
