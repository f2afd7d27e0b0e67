"""Rows, targets and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from benchmarks.measure import Ratio, Samples

__all__ = ["Row", "Target", "render", "rows_as_json", "timed"]

Unit = Literal["s", "/s", "x", ""]


@dataclass(frozen=True)
class Target:
    """An aim. It is compared with the row's ratio unless it names our own figure."""

    bound: float
    sense: Literal["<=", ">="]
    of: Literal["ratio", "ours", "difference"] = "ratio"
    unit: Unit = "x"

    def met(self, row: Row) -> bool | None:
        """Say whether *row* reaches the aim; None when it could not be measured."""
        figure: float | None = None
        if self.of == "ratio" and row.ratio is not None:
            figure = row.ratio.median
        elif self.of == "ours":
            figure = row.ours
        elif row.ours is not None and row.plain is not None:
            figure = row.ours - row.plain
        if figure is None:
            return None
        return figure <= self.bound if self.sense == "<=" else figure >= self.bound

    def text(self, row: Row) -> str:
        """Return the aim and the verdict."""
        bound = show(self.bound, self.unit)
        sign = {"<=": "≤", ">=": "≥"}[self.sense]
        verdict = {True: "met", False: "MISSED", None: "-"}[self.met(row)]
        prefix = "+" if self.of == "difference" else ""
        return f"{sign} {prefix}{bound} {verdict}"


@dataclass
class Row:
    """One line: figures of both sides and their ratio (ours to plain)."""

    key: str
    title: str
    unit: Unit
    plain: float | None
    ours: float | None
    ratio: Ratio | None = None
    bare: Ratio | None = None
    target: Target | None = None
    incumbent: str = ""
    unsteady: bool = False


def timed(
    key: str, title: str, samples: Samples, target: Target | None = None, *, bare: bool = False
) -> Row:
    """Seconds of ours beside plain; with *bare* also beside the bare system calls."""
    return Row(
        key,
        title,
        "s",
        samples.median("plain"),
        samples.median("ours"),
        samples.ratio("ours", "plain"),
        samples.ratio("ours", "bare") if bare else None,
        target,
        unsteady=samples.unsteady("plain"),
    )


def show(value: float | None, unit: Unit) -> str:
    """Return a figure with a fitting unit."""
    if value is None:
        return ""
    if unit == "s":
        if value < 1e-3:
            return f"{value * 1e6:.1f} µs"
        return f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.2f} s"
    if unit == "/s":
        return f"{value:,.0f}/s"
    if unit == "x":
        return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
    return f"{value:,.0f}"


HEADINGS = (
    "",
    "plain",
    "ours",
    "ratio",
    "spread",
    "to bare calls",
    "target",
    "incumbent ratio",
)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = row.ratio
    return (
        row.title,
        show(row.plain, row.unit),
        show(row.ours, row.unit),
        show(ratio.median, "x") + ("~" if row.unsteady else "") if ratio else "",
        f"{show(ratio.low, 'x')}..{show(ratio.high, 'x')}" if ratio else "",
        show(row.bare.median, "x") if row.bare else "",
        row.target.text(row) if row.target else "",
        row.incumbent,
    )


def render(sections: Iterable[tuple[str, Sequence[Row]]]) -> str:
    """Return the table as text; sections are set apart by their titles."""
    groups = [(title, [_cells(row) for row in rows]) for title, rows in sections if rows]
    widths = [
        max([len(HEADINGS[column])] + [len(line[column]) for _, lines in groups for line in lines])
        for column in range(len(HEADINGS))
    ]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join((first, *rest)).rstrip()

    out = [line(HEADINGS), "-" * (sum(widths) + 2 * (len(widths) - 1))]
    for title, lines in groups:
        out += [f"{title}:", *(line(cells) for cells in lines), ""]
    return "\n".join(out).rstrip() + "\n"


def rows_as_json(rows: Iterable[Row]) -> list[dict[str, object]]:
    """Return the rows as plain values, times in seconds."""
    return [
        asdict(row) | {"target_met": row.target.met(row) if row.target else None} for row in rows
    ]
