"""What only a terminal gets to see: the one home of rich.

rich honours NO_COLOR and TERM=dumb by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

__all__ = ["diff", "margins", "progress", "table"]


def table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """*cells* under *headings*, ruled, folded to the width of the terminal."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in cells:
        # Text, not str: a name must not be read as rich's own markup.
        made.add_row(*(Text(cell) for cell in row))
    console = Console()
    with console.capture() as capture:
        console.print(made)
    return capture.get()


_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def diff(text: str) -> str:
    """A unified diff in the usual colours; its lines are not folded."""
    drawn = Text()
    for line in text.split("\n")[:-1]:
        drawn.append(line + "\n", _DIFF_STYLES.get(line[:1], ""))
    return _drawn(drawn)


def margins(rows: Sequence[tuple[str, str]]) -> str:
    """Lines of text, each after its margin, which is set back a little."""
    drawn = Text()
    for margin, line in rows:
        drawn.append(margin, "bright_black").append(f" {line}\n")
    return _drawn(drawn)


def _drawn(text: Text) -> str:
    console = Console(highlight=False, soft_wrap=True)
    with console.capture() as capture:
        console.print(text, end="")
    return capture.get()


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, gone when the task is done."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance
