"""The measured cells as tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarks.token_coherence.experiment import Cell
from benchmarks.token_coherence.measured import Claim, Section
from benchmarks.token_coherence.published import ROWS
from benchmarks.token_coherence.tables import markdown

__all__ = ["latencies", "savings", "section_table", "verdicts"]

PAPER = {
    (row.row, arm): float(row.cells[column].split(" ")[0])
    for row in ROWS
    if row.table == "1"
    for arm, column in (("broadcast", "broadcast"), ("notified", "cost"), ("strict", "cost"))
}


def savings(cell: Cell, baseline: Cell | None) -> float | None:
    """Return the mean saving against another arm on the same traces, per cent."""
    if baseline is None:
        return None
    pairs = zip(cell.outcomes, baseline.outcomes, strict=True)
    return 100 * fmean(1 - own.tokens / other.tokens for own, other in pairs)


def section_table(section: Section) -> str:
    """Return one line for each cell of *section*; costs in thousands of tokens."""
    headings = ("workload, arm", "cost", "model", "on the wire", "saves", "of demand")
    headings += ("hit rate", "signals", "refused", "stale", "lost", "paper", "difference")
    rows = []
    for cell in section.cells:
        name, arm, mode = cell.scenario.name, cell.arm, cell.mode
        cost = cell.mean(lambda o: o.tokens) / 1000
        paper = PAPER.get((name, arm))
        caches = arm in {"strict", "notified"}
        demand = section.find(name, "demand", mode)
        rows.append(
            (
                f"{name}, {arm}",
                f"{cost:.1f} ±{cell.spread(lambda o: o.tokens) / 1000:.1f}",
                f"{fmean(cell.modelled()) / 1000:.1f}" if caches else "",
                f"{cell.mean(lambda o: o.wire_tokens) / 1000:.1f}",
                _percent(savings(cell, section.find(name, "broadcast", mode))),
                _percent(savings(cell, demand) if demand is not cell else None),
                f"{100 * cell.mean(lambda o: o.hit_rate):.1f} %",
                f"{cell.mean(lambda o: o.signals):.1f}",
                f"{cell.mean(lambda o: o.refused):.1f}",
                f"{cell.mean(lambda o: o.stale):.1f}",
                f"{cell.mean(lambda o: o.lost):.1f}",
                "" if paper is None else f"{paper:.1f}",
                "" if paper is None else f"{cost - paper:+.1f}",
            )
        )
    told = "".join(f"{arm} was skipped: {why}.\n" for arm, why in section.skipped.items())
    return markdown(headings, rows) + told


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"


def latencies(cells: Sequence[Cell]) -> str:
    """Return the times of the library's replies, over all runs of the given cells' arms."""
    rows = []
    for kind in ("unchanged", "content", "write", "refused"):
        times = sorted(t for c in cells for o in c.outcomes for t in o.latencies.get(kind, ()))
        if times:
            middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
            rows.append((kind, f"{len(times)}", f"{middle:.0f} µs", f"{late:.0f} µs"))
    return markdown(("reply", "replies", "p50", "p99"), rows)


def verdicts(claims: Sequence[Claim]) -> str:
    """Return how many claims hold, and each that does not."""
    wrong = [claim for claim in claims if not claim.holds]
    told = f"{len(claims) - len(wrong)} of {len(claims)} claims hold.\n"
    return told + "".join(f"WRONG: {claim.text} ({claim.found})\n" for claim in wrong)
