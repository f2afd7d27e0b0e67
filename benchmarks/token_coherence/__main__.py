"""The command ``python -m benchmarks.token_coherence``: model, measure, audit, write results.

Ends with status 1 when a claim does not hold; how long anything took never
fails a run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.token_coherence import beside, plots, plots_beside, results, tables
from benchmarks.token_coherence.experiment import Laboratory, workplace
from benchmarks.token_coherence.measured import Amounts, Claim, Section, measure, three_writers
from benchmarks.token_coherence.published import ROWS
from benchmarks.token_coherence.report import latencies, section_table, verdicts

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "results"
Show = Callable[[str, int, int], None]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token_coherence")
    parser.add_argument("--quick", action="store_true", help="less of everything, under 2 minutes")
    parser.add_argument(
        "--incumbent",
        type=Path,
        default=Path(os.environ.get("BENCH_INCUMBENT_VENV", ".venv-incumbent")),
        metavar="VENV",
        help="the incumbent's virtual environment (or BENCH_INCUMBENT_VENV)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the results")
    return parser.parse_args(given)


@contextmanager
def _progress() -> Iterator[Show]:
    """Yield a shower of what is being done: a bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description:<32}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # Else a bar on the terminal would draw the tables there, past a pipe or a file.
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )


def _model(amounts: Amounts, show: Show, out: Path, known: dict[str, Any]) -> list[tables.Line]:
    """Compute and write everything that needs no process."""
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        show("the published tables", done, len(ROWS))

    cells = tables.lines(amounts.population, one_more)
    more = tables.extras(amounts.population)
    results.write(
        out,
        "model",
        known,
        {"population": amounts.population, "cells": tables.as_dicts(cells), "beyond": more},
    )
    print("## Published tables\n")
    print(tables.render(cells))
    print("## What the paper does not print (thousands of tokens, per cent)\n")
    rows = [[str(each.pop("scenario")), *(f"{v:.1f}" for v in each.values())] for each in more]
    print(tables.markdown(["", *more[0]], rows))
    return cells


def _beside(
    amounts: Amounts, environment: Path, out: Path, show: Show, known: dict[str, Any]
) -> beside.Beside:
    """Measure the library beside plain files and the incumbent; print it and write it."""
    settings = beside.amounts(quick=amounts.runs < Amounts().runs)
    done = 0

    def one_more(what: str) -> None:
        nonlocal done
        done += 1
        show(what, done, beside.steps(settings))

    here = Path.cwd()
    found = beside.measure(here, environment, settings, one_more)
    claimed = [asdict(claim) for claim in found.claims]
    facts = known | {"filesystem": results.about(here)["filesystem"]}
    results.write(out, "beside", facts, found.as_dict() | {"claims": claimed})
    print("## Beside plain files and the incumbent\n")
    print(found.render())
    return found


def _run(amounts: Amounts, environment: Path, out: Path, show: Show) -> list[Claim]:
    """Do everything, print it, write it; return what was claimed."""
    claims: list[Claim] = []
    sections: dict[str, Section] = {}
    with workplace() as directory:
        known = results.about(directory) | {"amounts": asdict(amounts)}
        cells = _model(amounts, show, out, known)
        laboratory = Laboratory(directory)
        try:
            for section in measure(laboratory, amounts, show):
                sections[section.name] = section
                claims += section.claims
                results.write(out, section.name, known, results.as_document(section))
                print(f"## {section.title}\n\n{section_table(section)}")
            writers, found = three_writers(laboratory)
        finally:
            laboratory.close()
    claims += found
    claimed = [asdict(claim) for claim in found]
    results.write(out, "three_writers", known, writers | {"claims": claimed})
    print("## Three writers, three rounds\n")
    print(tables.markdown(("", "found"), [(claim.text, claim.found) for claim in found]))
    print("## Replies of the library, strict arm\n")
    strict = [cell for cell in sections["scenarios"].cells if cell.arm == "strict"]
    print(latencies(strict))
    compared = _beside(amounts, environment, out, show, known)
    claims += compared.claims
    why = plots.missing()
    drawn = []
    if why is None:
        drawn = plots.draw_all(out, cells, sections, amounts.population)
        drawn += plots_beside.draw_all(out, compared)
    print(why or f"Plots: {', '.join(drawn)}")
    return claims


def main(given: Sequence[str] | None = None) -> int:
    """Run the experiment and return the exit status."""
    arguments = _arguments(given)
    # A session name from outside would turn all agents into one session.
    os.environ.pop("COHERENT_SESSION", None)
    amounts = Amounts.quick() if arguments.quick else Amounts()
    # A quick run must not take the place of the results that the page shows.
    out = arguments.out or (DEFAULT_OUT / "quick" if arguments.quick else DEFAULT_OUT)
    begin = time.monotonic()
    try:
        with _progress() as show:
            claims = _run(amounts, arguments.incumbent, out, show)
    except KeyboardInterrupt:
        print("interrupted; what was finished is in the results", file=sys.stderr)
        return 130
    kind = "quick" if arguments.quick else "full"
    print(f"\n{kind} run of {time.monotonic() - begin:.0f} s; {verdicts(claims)}", end="")
    return 0 if all(claim.holds for claim in claims) else 1


if __name__ == "__main__":
    # A closed terminal or a polite kill ends it as Ctrl-C does: nothing stays behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
