"""The command ``python -m benchmarks``: measure, print one table, clean up.

Ends with status 1 only when a counter came out wrong or a part broke off; speed
never fails a run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import (
    contention,
    feed,
    latency,
    machine,
    refusals,
    scale,
    startup,
    transactions,
)
from benchmarks.incumbent import Incumbent, find
from benchmarks.settings import Context, Settings
from benchmarks.table import Row, render, rows_as_json
from benchmarks.workers import WorkerFailedError

SECTIONS = (
    "reads",
    "writes",
    "refusals",
    "transactions",
    "counter",
    "scale",
    "startup",
    "feed",
)
LEGEND = """\
plain: open/read/close; temp + fsync + rename + fsync of the directory (durable); temp + replace
(process); flock around the same (counter). ratio: ours to plain, median over alternating blocks,
spread: quartiles. to bare calls: ours to the same by os.open/os.read/os.write. Incumbent: its own
ratio to plain in the same run; write() in the write rows, write_cas in update and counter rows.
~ the plain arm itself varied by half or more: the machine was busy, measure that row again.
"""


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results here")
    parser.add_argument(
        "--directory", type=Path, default=Path.cwd(), help="where to make the temporary directory"
    )
    parser.add_argument(
        "--incumbent",
        type=Path,
        default=Path(os.environ.get("BENCH_INCUMBENT_VENV", ".venv-incumbent")),
        metavar="VENV",
        help="the incumbent's virtual environment (or BENCH_INCUMBENT_VENV)",
    )
    parser.add_argument("--only", action="append", choices=SECTIONS, help="measure just this part")
    parser.add_argument("--seed", type=int, default=None, help="seed of contents and orders")
    return parser.parse_args(given)


def _progress() -> Callable[[str], None]:
    """Return a shower of what is being measured: on a terminal only."""
    if not sys.stderr.isatty():
        return lambda text: None

    def show(text: str) -> None:
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    return show


def _parts(
    context: Context, incumbent: Incumbent | None, wanted: Sequence[str]
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Yield the wanted parts: a title and what measures its rows."""
    if "reads" in wanted:
        yield "Reading", lambda: latency.reads(context)
    if "writes" in wanted:
        yield "Writing", lambda: latency.writes(context) + latency.sustained(context)
        yield "Updating", lambda: latency.updates(context)
    if "refusals" in wanted:
        yield "Being refused", lambda: refusals.refusals(context)
    if "transactions" in wanted:
        yield "Several files at once", lambda: transactions.transactions(context)
    if "counter" in wanted:
        yield "Contending", lambda: contention.counters(context, incumbent)
    if "scale" in wanted:
        yield "Many artifacts", lambda: scale.volumes(context, incumbent)
    if "startup" in wanted:
        yield "Starting", lambda: startup.starts(context, incumbent)
    if "feed" in wanted:
        yield "Following", lambda: feed.feeds(context)


def _measure(
    context: Context, incumbent: Incumbent | None, wanted: Sequence[str]
) -> list[tuple[str, list[Row]]]:
    """Run the wanted parts; one that breaks is told and does not take the others along."""
    found: list[tuple[str, list[Row]]] = []
    for title, measure in _parts(context, incumbent, wanted):
        begin = time.monotonic()
        try:
            found.append((title, measure()))
        except Exception as error:  # noqa: BLE001 - whatever it is, the table so far is printed
            traceback.print_exc()
            context.failures.append(f"{title} broke off: {error!r}")
        context.seconds[title] = round(time.monotonic() - begin, 1)
    if incumbent is not None and {"reads", "writes"} & set(wanted):
        begin = time.monotonic()
        _fill_in(context, incumbent, found)
        context.seconds["Incumbent, single caller"] = round(time.monotonic() - begin, 1)
    return found


def _fill_in(context: Context, incumbent: Incumbent, sections: list[tuple[str, list[Row]]]) -> None:
    """Measure the incumbent's single calls and enter them beside ours."""
    try:
        theirs = incumbent.latencies(context)
    except WorkerFailedError as error:
        context.notes.append(f"incumbent, single caller: {error}")
        return
    for _, rows in sections:
        for row in rows:
            row.incumbent = theirs.get(row.key, row.incumbent)


def main(given: Sequence[str] | None = None) -> int:
    """Run the benchmarks and return the exit status."""
    arguments = _arguments(given)
    # A session name from outside would turn every volume here into that session.
    os.environ.pop("COHERENT_SESSION", None)
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 32)
    settings = Settings.quick() if arguments.quick else Settings()
    # Not resolved: a virtual environment's interpreter is known by its own path.
    incumbent, about = find(arguments.incumbent.absolute())
    progress = _progress()
    directory = Path(tempfile.mkdtemp(prefix=".bench-", dir=arguments.directory)).resolve()
    known = machine.facts(directory)
    begin = time.monotonic()
    context = Context(settings, directory, random.Random(seed), progress)
    try:
        sections = _measure(context, incumbent, arguments.only or SECTIONS)
    finally:
        progress("")
        shutil.rmtree(directory, ignore_errors=True)
    known["load_after"] = os.getloadavg()[0]
    known |= {"seconds": round(time.monotonic() - begin, 1), "seed": seed, "incumbent": about}
    print(machine.summary(known))
    kind = "quick" if arguments.quick else "full"
    print(f"{kind} run of {known['seconds']} s, seed {seed}; {about}\n")
    print(render(sections))
    print(LEGEND, end="")
    for note in context.notes:
        print(f"note: {note}")
    for failure in context.failures:
        print(f"WRONG: {failure}")
    if arguments.json:
        rows = rows_as_json(row for _, part in sections for row in part)
        document = {"machine": known, "failures": context.failures, "rows": rows}
        document |= {"notes": context.notes, "seconds": context.seconds}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if context.failures else 0


if __name__ == "__main__":
    sys.exit(main())
