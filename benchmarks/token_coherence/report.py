"""The measured cells as tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarks.token_coherence.experiment import Cell
from benchmarks.token_coherence.measured import Claim, Section
from benchmarks.token_coherence.published import ROWS
from benchmarks.token_coherence.tables import broadcast_cost, markdown

__all__ = ["latencies", "savings", "section_table", "verdicts"]

# Table 4 is left out: it scales one file of three, and here all of them are.
PAPER = {
    (row.row, column): float(printed.split(" ")[0])
    for row in ROWS
    if row.table in {"1", "3", "5", "8.3"}
    for column, printed in row.cells.items()
}
COLUMNS = {"broadcast": "broadcast", "strict": "cost", "notified": "cost"}


def savings(cell: Cell, baseline: Cell | None) -> float:
    """Return the mean saving against another arm on the same traces, per cent.

    Without one: against what broadcast comes to there, which needs no measuring.
    """
    if baseline is None:
        others = [float(broadcast_cost(trace)) for trace in cell.traces]
    else:
        others = [outcome.tokens for outcome in baseline.outcomes]
    pairs = zip(cell.outcomes, others, strict=True)
    return 100 * fmean(1 - own.tokens / other for own, other in pairs)


def section_table(section: Section) -> str:
    """Return one line for each cell of *section*; costs in thousands of tokens."""
    rows = [_row(section, cell) for cell in section.cells]
    # A column that says nothing here (the paper has no such sweep) is left out.
    kept = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    return markdown(kept, [[row[name] for name in kept] for row in rows])


def _row(section: Section, cell: Cell) -> dict[str, str]:
    name, arm, mode = cell.scenario.name, cell.arm, cell.mode
    caches = arm in {"strict", "notified", "eager"}
    cost = cell.mean(lambda o: o.tokens) / 1000
    paper = PAPER.get((name, COLUMNS.get(arm, "")))
    paper_saves = PAPER.get((name, "savings")) if COLUMNS.get(arm) == "cost" else None
    demand = section.find(name, "demand", mode) if arm not in {"broadcast", "demand"} else None
    saves = savings(cell, section.find(name, "broadcast", mode))
    return {
        "workload, arm": f"{name}, {arm}",
        "cost": f"{cost:.1f} ±{cell.spread(lambda o: o.tokens) / 1000:.1f}",
        "model": f"{cell.modelled() / 1000:.1f}" if caches else "",
        "on the wire": f"{cell.mean(lambda o: o.wire_tokens) / 1000:.1f}",
        "saves": "" if arm == "broadcast" else f"{saves:.1f} %",
        "of demand": "" if demand is None else f"{savings(cell, demand):.1f} %",
        "hit rate": f"{100 * cell.mean(lambda o: o.hit_rate):.1f} %",
        "signals": f"{cell.mean(lambda o: o.signals):.1f}",
        "refused": f"{cell.mean(lambda o: o.refused):.1f}",
        "stale": f"{cell.mean(lambda o: o.stale):.1f}",
        "stale by": f"{most:.0f} ms" if (most := _most_stale(cell)) else "",
        "lost": f"{cell.mean(lambda o: o.lost):.1f}",
        "paper": "" if paper is None else f"{paper:.1f}",
        "difference": "" if paper is None else f"{cost - paper:+.1f}",
        "paper saves": "" if paper_saves is None else f"{paper_saves:.1f} %",
    }


def _most_stale(cell: Cell) -> float:
    """Return how far behind a stale read was at most, in milliseconds."""
    return max(outcome.most_stale for outcome in cell.outcomes)


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
