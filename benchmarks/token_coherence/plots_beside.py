"""Plots of the library beside plain files and the incumbent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.settings import size_name
from benchmarks.table import Row
from benchmarks.token_coherence.beside import Beside
from benchmarks.token_coherence.plots import INK, OURS, THEIRS, keep, new_axes

__all__ = ["draw_all"]

PANELS = (
    ("unchanged", "read, unchanged"),
    ("first-committed", "read, first"),
    ("write-power", "write, durable"),
)


def draw_all(directory: Path, found: Beside) -> list[str]:
    """Draw both plots and return the names of the files."""
    _latencies(directory / "latency.svg", found.calls)
    _throughput(directory / "throughput.svg", found.counters)
    return ["latency.svg", "throughput.svg"]


def _of(rows: Sequence[Row], key: str) -> list[Row]:
    return [row for row in rows if row.key.rpartition("/")[0] == key]


def _ratio(row: Row) -> float | None:
    """Return the incumbent's ratio to plain, where it was measured."""
    try:
        return float(row.incumbent)
    except ValueError:
        return None


def _draw(axes: Any, x: Sequence[int], y: Sequence[float | None], color: str, label: str) -> None:
    points = [(each, value) for each, value in zip(x, y, strict=True) if value]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=label, markersize=5)


def _latencies(path: Path, rows: Sequence[Row]) -> None:
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(9, 3.6), layout="constrained", sharey=True)
    for axes, (key, title) in zip(panels, PANELS, strict=True):
        found = _of(rows, key)
        sizes = [int(row.key.rpartition("/")[2]) for row in found]
        plain = [1e6 * (row.plain or 0) for row in found]
        _draw(axes, sizes, plain, INK, "plain files")
        _draw(axes, sizes, [1e6 * (row.ours or 0) for row in found], OURS, "this library")
        ratios = [(base, _ratio(row)) for base, row in zip(plain, found, strict=True)]
        theirs = [None if ratio is None else base * ratio for base, ratio in ratios]
        _draw(axes, sizes, theirs, THEIRS, "incumbent")
        axes.set_title(title, loc="left", color=INK, fontsize=11)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [size_name(size) for size in sizes])
        axes.grid(visible=True, axis="y", color="#e4e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("microseconds a call", color=INK)
    panels[0].legend(frameon=False)
    keep(figure, path)


def _throughput(path: Path, rows: Sequence[Row]) -> None:
    figure, axes = new_axes("A counter that processes share", "processes", "increments a second")
    for key, style, kind in (
        ("counter-power", "o-", "durable"),
        ("counter-process", "o--", "process mode"),
    ):
        found = _of(rows, key)
        x = [int(row.key.rpartition("/")[2]) for row in found]
        theirs = [(row.plain, _ratio(row)) for row in found]
        lines = (
            ([row.plain for row in found], INK, "plain files and flock"),
            ([row.ours for row in found], OURS, "this library"),
            ([base * r if base and r else None for base, r in theirs], THEIRS, "incumbent"),
        )
        for y, color, label in lines:
            points = [(each, value) for each, value in zip(x, y, strict=True) if value]
            if points:
                drawn = zip(*points, strict=True)
                axes.plot(*drawn, style, color=color, label=f"{label}, {kind}", markersize=5)
        axes.set_xticks(x)
    axes.set_yscale("log")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    keep(figure, path)
