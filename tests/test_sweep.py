"""Hazard: an operation dies, or is refused by the system, in any one of its system calls (I7).

What runs here is a sample with a fixed seed; ``make crash`` runs them all.
"""

from __future__ import annotations

import random
from functools import cache

import pytest

from tests.harness.sweep import Call, Nursery, why_no_strace
from tests.harness.sweeping import ERRORS, SCENARIOS, Sweep

KILLS, FAILURES = 8, 3
LANES = 3

_why_no_strace = cache(why_no_strace)


@pytest.fixture(scope="module")
def nurseries():
    if why := _why_no_strace():
        pytest.skip(why)
    made = [Nursery() for _ in range(LANES)]
    yield made
    for nursery in made:
        nursery.__exit__()


def chosen(calls: list[Call], most: int, seed: str) -> list[Call]:
    """Some of *calls*, among them always the first, the last and the one after the flush."""
    flushes = [n for n, call in enumerate(calls) if call.name == "fdatasync"]
    always = {0, len(calls) - 1, *(min(n + 1, len(calls) - 1) for n in flushes[-1:])}
    rest = [n for n in range(len(calls)) if n not in always]
    sample = random.Random(seed).sample(rest, max(0, min(most - len(always), len(rest))))
    return [calls[n] for n in sorted({*always, *sample})]


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("name", SCENARIOS)
def test_operation_killed_in_a_system_call_is_old_or_new(nurseries, tmp_path, name):
    sweep = Sweep(tmp_path / "sweep", nurseries, name)
    result = sweep.each(chosen(sweep.calls, KILLS, name), "signal=KILL")
    assert not result.complaints, "\n".join(result.complaints)
    assert result.hits >= 0.8 * result.cases, result
    if SCENARIOS[name].old != SCENARIOS[name].new:
        assert result.old, "no death before the commit point"
        assert result.new, "no death after the commit point"


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("name", ["write", "large write", "transaction"])
def test_operation_that_meets_an_error_in_a_system_call_tells_the_truth(nurseries, tmp_path, name):
    sweep = Sweep(tmp_path / "sweep", nurseries, name)
    for error in ERRORS:
        result = sweep.each(chosen(sweep.calls, FAILURES, name + error), f"error={error}")
        assert not result.complaints, "\n".join(result.complaints)
        assert result.hits >= 0.6 * result.cases, result
