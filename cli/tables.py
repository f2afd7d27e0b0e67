"""Tables and progress: plain in a pipe, drawn on a terminal.

``cli.terminal`` draws, with rich; it is imported only when there is a terminal
to draw on, because rich costs more than a whole ``coherent read``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import TextIO

from coherent_volume.errors import printable

__all__ = ["is_terminal", "margins", "progress", "table"]

Advance = Callable[[int, int], None]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """*rows* under *headings*, every cell escaped; "" when there are none."""
    if not rows:
        return ""
    cells = [[printable(cell) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        drawn: str = import_module("cli.terminal").table(headings, cells)
        return drawn
    lines = [list(headings), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def progress(title: str) -> AbstractContextManager[Advance | None]:
    """What a long task calls with (done, total); None where nobody watches."""
    if not is_terminal(sys.stderr):
        return nullcontext()
    drawn: AbstractContextManager[Advance | None] = import_module("cli.terminal").progress(title)
    return drawn


def margins(rows: Sequence[tuple[str, str]]) -> str:
    """Lines of escaped text, each after its margin."""
    if is_terminal(sys.stdout):
        drawn: str = import_module("cli.terminal").margins(rows)
        return drawn
    return "".join(f"{margin} {line}\n" for margin, line in rows)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody watches *stream*."""
    return stream is not None and stream.isatty()
