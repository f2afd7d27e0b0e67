"""The whole sweeps: every system call of every operation, killed and failing; power cuts.

    python -m proof.sweeps [--every N] [OPERATION ...]

``--every N`` takes every N-th call only (the power is cut in every 4N-th). Prints
one line for each operation and injection, and every complaint; exits with 1 if
there is one. Power cuts need root and a loop device with ext4, and are left out,
with a word, where that is impossible.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.harness.power import power_fail
from tests.harness.sweep import Nursery, why_no_strace
from tests.harness.sweeping import ERRORS, SCENARIOS, PowerSweep, Result, Sweep

__all__ = ["Row", "everything", "power_cuts", "sweeps"]

_LANES = 4  # most of a case is waiting for flushes
# Elsewhere an error is that of the caller's own step; these are whole commits.
_DISKS = {"": "ordered", "data=writeback,noauto_da_alloc": "writeback"}
_FAILING = ("write", "large write", "create", "delete", "rename", "transaction")


class Row(NamedTuple):
    """One operation under one kind of injection."""

    operation: str
    what: str
    calls: int
    result: Result

    @property
    def fine(self) -> bool:
        """Whether nothing was wrong, and the injections came where they were meant to."""
        return not self.result.complaints and self.result.hits >= 0.8 * self.result.cases

    def __str__(self) -> str:
        """One line of the report."""
        result = self.result
        verdict = "" if self.fine else f"  {len(result.complaints)} WRONG"
        outcomes = " ".join(f"{name} {count}" for name, count in sorted(result.outcomes.items()))
        return (
            f"{self.operation:16} {self.what:15} {result.cases:4} of {self.calls:3} calls,"
            f" {result.hits:4} hit: old {result.old}, new {result.new}; {outcomes}{verdict}"
        )


def sweeps(names: Sequence[str], every: int) -> Iterator[Row]:
    """Each operation, killed at and then failing in each *every*-th system call."""
    nurseries = [Nursery() for _ in range(_LANES)]
    try:
        for name in names:
            with tempfile.TemporaryDirectory() as scratch:
                sweep = Sweep(Path(scratch) / "sweep", nurseries, name)
                calls = sweep.calls[::every]
                yield Row(name, "KILL", len(sweep.calls), sweep.each(calls, "signal=KILL"))
                if name in _FAILING:
                    for error in ERRORS:
                        found = sweep.each(calls, f"error={error}")
                        yield Row(name, error, len(sweep.calls), found)
    finally:
        for nursery in nurseries:
            nursery.__exit__()


def power_cuts(names: Sequence[str], every: int) -> Iterator[Row]:
    """The power goes in every *every*-th system call; nothing where it cannot be cut."""
    for options, disk_name in _DISKS.items():
        with tempfile.TemporaryDirectory() as scratch, power_fail(Path(scratch), options) as disk:
            if disk is None:
                return
            with Nursery() as nursery:
                for name in names:
                    if name not in _FAILING:
                        continue
                    sweep = PowerSweep(Path(scratch) / name, nursery, name, disk)
                    found = sweep.cuts(sweep.calls[::every])
                    yield Row(name, f"POWER {disk_name}", len(sweep.calls), found)


def everything(names: Sequence[str], every: int) -> Iterator[Row]:
    """All rows there are."""
    yield from sweeps(names, every)
    yield from power_cuts(names, 4 * every)


def main(words: Sequence[str]) -> int:
    """Print one line for each row; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m proof.sweeps")
    parser.add_argument("--every", type=int, default=1, metavar="N")
    parser.add_argument("operations", nargs="*", metavar="OPERATION")
    given = parser.parse_args(words)
    if why := why_no_strace():
        print(f"system calls cannot be swept here: {why}")
        return 2
    bad = 0
    for row in everything(given.operations or list(SCENARIOS), given.every):
        print(row, flush=True)
        bad += not row.fine
        for complaint in row.result.complaints[:5]:
            print(f"    {complaint}", flush=True)
    if not _can_cut_power():
        print("POWER: no loop device with ext4 can be mounted here; nothing was cut")
    return 1 if bad else 0


def _can_cut_power() -> bool:
    with tempfile.TemporaryDirectory() as scratch, power_fail(Path(scratch)) as disk:
        return disk is not None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
