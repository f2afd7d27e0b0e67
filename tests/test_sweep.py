"""Hazard: a commit dies, or is refused by the system, in any one of its system calls (I7)."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from coherent_volume import CoherenceError, CoherentVolume, UnconfirmedError
from tests.harness.processes import say, until
from tests.harness.sweep import Call, Nursery, begin, calls_between, end, inject, why_no_strace

A = "plans/a"
OLD, NEW = b"old text\n", b"new text\n"
SIZES = {"small": 1, "large": 30_000}  # the large one goes to an object
KILLS, ERRORS = 20, 10
LANES = 4

_why_no_strace = cache(why_no_strace)

_VICTIM = """
import sys
sys.path.insert(0, sys.argv[1])
import test_sweep
test_sweep.victim(sys.argv[2], int(sys.argv[3]))
"""


def victim(root: str, times: int) -> None:
    """One commit between the marks; what its caller was told."""
    volume = CoherentVolume(root, session="alice")
    volume._maintenance.nudge = lambda: None  # type: ignore[method-assign]
    volume.read(A)
    told: dict[str, Any]
    begin()
    try:
        commit = volume.write(A, NEW * times)
    except CoherenceError as error:
        unknown = isinstance(error, UnconfirmedError)
        told = {"outcome": "unknown" if unknown else "refused", "text": str(error)}
    except BaseException as error:  # noqa: BLE001 - nothing untyped may come out
        told = {"outcome": "untyped", "text": repr(error)}
    else:
        told = {"outcome": "acknowledged", "text": f"{commit}"}
    end()
    say("told", **told)
    os._exit(0)


def visit(root: str, times: int) -> dict[str, Any]:
    """What the next visitor finds: it reads, commits and checks."""
    with CoherentVolume(root, session="bob") as volume:
        seen = volume.observe(A)
        assert seen.data is not None
        done = volume.write(A, "bob's\n")
        report = volume.check()
        until(lambda: not volume._parts.displaced, "cleaned up")
        stages = os.listdir(f"{root}/.coherence/staging")
        return {
            "old": seen.data == OLD * times,
            "new": seen.data == NEW * times,
            "generation": seen.generation,
            "next": done.generation,
            "damage": [str(f) for f in report.findings if f.severity == "damage"],
            "foreign": [e.session for e in volume.log(A)].count("outside"),
            "stages": [s for s in stages if not s.startswith(volume._parts.staging.token)],
        }


class Sweep:
    """A template volume, and copies of it in each of which one call goes wrong."""

    def __init__(self, directory: Path, nurseries: list[Nursery], size: str) -> None:
        self.directory, self.nurseries, self.times = directory, nurseries, SIZES[size]
        self.template = directory / "template"
        (self.template / "plans").mkdir(parents=True)
        with CoherentVolume(self.template, managed=("plans/**",), session="alice") as volume:
            volume.create(A, OLD * self.times)
            until(lambda: not volume._parts.displaced, "cleaned up")
        # One run to leave compiled code behind, so that all later ones are alike.
        for name in ("first", "recorded"):
            self.calls, out = calls_between(directory / f"{name}.log", self._command(name))
            assert b"acknowledged" in out

    def _command(self, name: str) -> list[str]:
        root = self.directory / name
        shutil.copytree(self.template, root)
        here = str(Path(__file__).parent)
        return [sys.executable, "-c", _VICTIM, here, str(root), str(self.times)]

    def each(self, calls: list[Call], what: str, judge: Callable[..., None]) -> None:
        """Let *what* happen at each of *calls*; *judge* what was told and what is there."""

        def some(lane: int) -> tuple[int, list[str]]:
            hits, complaints = 0, []
            for number in range(lane, len(calls), LANES):
                call, name = calls[number], f"{number}"
                log = self.directory / f"{name}.log"
                out, err, hit = inject(log, self._command(name), call, what)
                hits += hit
                root = self.directory / name
                try:
                    visible = (root / A).read_bytes()
                    assert visible in (OLD * self.times, NEW * self.times), "torn"
                    visitor = self.nurseries[lane](visit, root=root, times=self.times).result
                    judge(out.decode(), visitor)
                    assert visitor["old"] or visitor["new"], "neither old nor new"
                    assert visitor["generation"] == (2 if visitor["new"] else 1)
                    assert visitor["next"] == visitor["generation"] + 1
                    assert (visitor["damage"], visitor["foreign"]) == ([], 0)
                    assert visitor["stages"] == []
                except AssertionError as error:
                    complaints.append(f"{what} at {call}: {error}\n{out!r}\n{err.decode()}")
                shutil.rmtree(root)
            return hits, complaints

        with ThreadPoolExecutor(LANES) as lanes:
            results = list(lanes.map(some, range(LANES)))
        complaints = [text for _, texts in results for text in texts]
        assert not complaints, f"{len(complaints)} of {len(calls)}:\n" + "\n".join(complaints)
        hits = sum(hits for hits, _ in results)
        assert hits >= 0.9 * len(calls), f"only {hits} of {len(calls)} injections hit"


@pytest.fixture
def sweep(tmp_path):
    if why := _why_no_strace():
        pytest.skip(why)
    nurseries = [Nursery() for _ in range(LANES)]
    yield lambda size: Sweep(tmp_path, nurseries, size)
    for nursery in nurseries:
        nursery.__exit__()


def chosen(calls: list[Call], most: int) -> list[Call]:
    """The calls around and after the commit point, and a sample of the rest; prints its seed."""
    seed = random.randrange(1 << 32)
    last_flush = max(n for n, call in enumerate(calls) if call.name == "fdatasync")
    always, rest = calls[last_flush - 1 :], calls[: last_flush - 1]
    sample = random.Random(seed).sample(rest, max(0, min(most - len(always), len(rest))))
    print(f"seed {seed}, {len(always)} late and {len(sample)} of {len(rest)} earlier calls")
    return [*always, *sample]


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("size", SIZES)
def test_commit_killed_at_any_system_call_is_old_or_new(sweep, size):
    sweeping = sweep(size)
    calls = chosen(sweeping.calls, KILLS)
    assert len(calls) >= 20
    seen = []

    def judge(out: str, visitor: dict[str, Any]) -> None:
        seen.append(visitor["new"])
        if "acknowledged" in out:
            assert visitor["new"], "an acknowledged commit was lost"

    sweeping.each(calls, "signal=KILL", judge)
    assert {True, False} == set(seen), "the sweep did not straddle the commit point"


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("number", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("size", SIZES)
def test_commit_that_meets_an_error_in_any_system_call_tells_the_truth(sweep, size, number):
    sweeping = sweep(size)
    # A close cannot fail in a way that matters here, and Python's own imports are its own.
    calls = [
        call for call in sweeping.calls if call.name != "close" and "/lib/python" not in call.shown
    ]

    def judge(out: str, visitor: dict[str, Any]) -> None:
        assert '"outcome"' in out, "no answer at all"
        assert "untyped" not in out
        if '"acknowledged"' in out:
            assert visitor["new"], "an acknowledged commit was lost"
        if '"refused"' in out:
            assert visitor["old"], "told as a failure, and yet it stands"

    sweeping.each(chosen(calls, ERRORS), f"error={number}", judge)
