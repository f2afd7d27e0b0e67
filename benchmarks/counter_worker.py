"""One process that increments a shared counter for a while and tells how often.

``python -m benchmarks.counter_worker ARM ROOT DURABILITY SECONDS`` with ARM one
of ``plain`` and ``ours``. Speaks the protocol of ``benchmarks.workers``. The
loop is shared with the incumbent's worker, so all arms are counted alike.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

__all__ = ["COUNTER", "count_for"]

COUNTER = "files/counter.txt"


def count_for(
    seconds: float, increment: Callable[[], object], given_up: tuple[type[Exception], ...]
) -> None:
    """Announce, wait for the start, increment until the time is over, report.

    An exception of *given_up* counts as an increment that was not made; any
    other ends the worker.
    """
    print("ready", flush=True)
    sys.stdin.readline()
    acknowledged = 0
    refusals: Counter[str] = Counter()
    slowest = 0.0
    begin = now = time.monotonic()
    while now - begin < seconds:
        before = now
        try:
            increment()
            acknowledged += 1
        except given_up as error:
            refusals[type(error).__name__] += 1
        now = time.monotonic()
        slowest = max(slowest, now - before)
    report = {
        "acknowledged": acknowledged,
        "given_up": sum(refusals.values()),
        "refusals": dict(refusals),
        "elapsed": now - begin,
        "slowest": slowest,
    }
    print(json.dumps(report), flush=True)


def next_number(content: bytes) -> bytes:
    """Return the counter's content after one more increment."""
    return b"%d" % (int(content) + 1)


def _plain(root: str, durable: bool, seconds: float) -> None:
    from benchmarks.plain import LockedCounter

    with LockedCounter(os.path.join(root, COUNTER), durable) as counter:
        count_for(seconds, counter.increment, ())


def _ours(root: str, durable: bool, seconds: float) -> None:
    from benchmarks import ours

    with ours.open_volume(Path(root)) as volume:
        count_for(
            seconds,
            lambda: volume.update(COUNTER, next_number),
            (ours.ConflictError, ours.UnavailableError),
        )


def main(arguments: list[str]) -> None:
    """Run one worker."""
    arm, root, durability, seconds = arguments
    run = {"plain": _plain, "ours": _ours}[arm]
    run(root, durability == "power", float(seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
