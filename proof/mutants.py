"""Deliberate one-line breaks of the code; each must be caught by a named check.

    python -m proof.mutants [--workers N] [NAME ...]

Each break is made in a copy of the project, and the check is run there. A break
that its check does not notice lives, and so does one whose check fails for
another reason than an assertion of its own: pytest must report failed tests,
not errors of collection. Exits with 1 when one lives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from proof.breaks import MUTANTS, Mutant

__all__ = ["MUTANTS", "Mutant", "Outcome", "applied", "run", "run_all"]

ROOT = Path(__file__).resolve().parent.parent
_COPIED = (
    "coherent_audit",
    "coherent_volume",
    "cli",
    "fuse_mount",
    "tests",
    "formal",
    "proof",
    "pyproject.toml",
)
_TESTS_FAILED = 1  # pytest's own code; 2 and above are other ends
_LIMIT_S = 240


class Outcome(NamedTuple):
    """Whether the check noticed, and how long it took to."""

    dead: bool
    seconds: float
    told: str


def applied(mutant: Mutant, root: Path) -> Path:
    """The module in *root*, broken; AssertionError when the line to break is not there once."""
    package, _, name = mutant.module.rpartition("/")
    module = root / (package or "coherent_volume") / f"{name}.py"
    text = module.read_text(encoding="utf-8")
    found = text.count(mutant.was)
    assert found == 1, f"{mutant.name}: {mutant.module}.py has its line {found} times"
    module.write_text(text.replace(mutant.was, mutant.broken), encoding="utf-8")
    return module


def run(mutant: Mutant) -> Outcome:
    """Break a copy, run the check in it."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, copy / name, ignore=ignored)
            else:
                shutil.copy(source, copy)
        applied(mutant, copy)
        checks = [f"tests/{check}" for check in mutant.check.split()]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        try:
            ended = subprocess.run(
                [*command, "-p", "no:randomly", *checks],
                cwd=copy,
                env={**os.environ, "PYTHONPATH": str(copy)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            # A break that makes everybody wait for ever is noticed by that.
            return Outcome(dead=True, seconds=time.perf_counter() - started, told="never ended")
    last = (ended.stdout.strip().splitlines() or [""])[-1]
    return Outcome(ended.returncode == _TESTS_FAILED, time.perf_counter() - started, last)


def run_all(names: Sequence[str], workers: int) -> Iterator[tuple[Mutant, Outcome]]:
    """Each mutant that *names* mean (all without any), several at a time, in their order."""
    chosen = [m for m in MUTANTS if not names or any(name in m.name for name in names)]
    with ThreadPoolExecutor(workers) as pool:
        yield from zip(chosen, pool.map(run, chosen), strict=True)


def main(words: Sequence[str]) -> int:
    """Print one line for each mutant; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m proof.mutants")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args(words)
    alive = 0
    for mutant, outcome in run_all(given.names, given.workers):
        alive += not outcome.dead
        fate = "dead " if outcome.dead else "LIVES"
        check = mutant.check.partition("::")[0] or mutant.check
        seconds = f"{outcome.seconds:4.0f} s"
        print(f"{mutant.promise:4} {fate} {mutant.name:56} {seconds}  {check}", flush=True)
        if not outcome.dead:
            print(f"     {outcome.told}", flush=True)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
