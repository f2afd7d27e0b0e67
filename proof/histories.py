"""Long histories: many sessions at all doors, killed and edited around, judged.

    python -m proof.histories [--operations N] [--seed S] [--record DIRECTORY]

Round after round, each in a new volume and from a seed of its own, until so many
operations were recorded. Every fifth is at all doors, with a kill each moment; the
others are of the library alone, and as fast as it is, since most of a round at all
doors is the starting of programs. Prints one line for each round; of a bad one the seed,
the violations, and the shortest history of each. ``--record`` keeps the logs of
every round, for ``coherent verify`` and ``python -m proof.replay``.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.harness.rounds import Judged, Plan, run

__all__ = ["Round", "rounds"]

_SECONDS = 20.0


class Round(NamedTuple):
    """One round: its plan, what came of it, and how long it took."""

    plan: Plan
    judged: Judged
    seconds: float

    def __str__(self) -> str:
        """One line of the report."""
        kinds: Counter[str] = Counter()
        for (kind, _), count in self.judged.outcomes.items():
            kinds[kind] += count
        told = " ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        verdict = f"{len(self.judged.complaints)} WRONG" if self.judged.complaints else "can be"
        operations = len(self.judged.operations)
        return (
            f"seed {self.plan.seed:<10} {self.plan.durability:8} {operations:6} operations"
            f" ({operations / self.seconds:4.0f}/s), {self.judged.kills:3} kills: {told}: {verdict}"
        )


def rounds(operations: int, seed: int, record: Path | None, seconds: float) -> Iterator[Round]:
    """Rounds until so many *operations* were recorded."""
    done = 0
    while done < operations:
        plan = Plan(
            seed, seconds, durability="power" if seed % 2 else "process", kills=seed % 4 != 0
        )
        if seed % 5 != 1:
            plan = dataclasses.replace(
                plan,
                library=6,
                command_line=0,
                mount=0,
                calm=(1.0, 3.0),
                mortality=0.00005,
                reads=200,
            )
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            judged = run(Path(scratch), plan)
            if record is not None:
                shutil.copytree(Path(scratch) / "logs", record / f"seed-{seed}")
        yield Round(plan, judged, time.monotonic() - started)
        done += len(judged.operations)
        seed += 1


def main(words: Sequence[str]) -> int:
    """Print one line for each round; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m proof.histories")
    parser.add_argument("--operations", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of one round")
    parser.add_argument("--record", type=Path, metavar="DIRECTORY")
    given = parser.parse_args(words)
    total, bad, started = 0, 0, time.monotonic()
    for each in rounds(given.operations, given.seed, given.record, given.seconds):
        print(each, flush=True)
        for complaint in each.judged.complaints:
            print(f"    {complaint}", flush=True)
        total += len(each.judged.operations)
        bad += bool(each.judged.complaints)
    rate = total / (time.monotonic() - started)
    print(f"{total} operations, {rate:.0f} a second, {bad} bad rounds")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
