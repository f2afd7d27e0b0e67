"""Walk every state of the model, breadth first, and check the invariants in each.

    python -m formal.explore               the whole model, then every mutant
    python -m formal.explore --quick       smaller bounds

Exits with 1 when an invariant falls, or when a mutant lives.
"""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

from formal.invariants import INVARIANTS, MUTANTS, broken
from formal.protocol import successors
from formal.state import Bounds, State, initial

__all__ = ["RUNS", "Outcome", "bounds_for", "explore"]

RUNS = {
    "commits and outside writes": Bounds(commits=2, foreign=1, crashes=1),
    "two outside writes": Bounds(sessions=1, commits=1, foreign=3, crashes=1),
    "leases": Bounds(values=1, commits=2, foreign=0, crashes=1, leases=3),
    "power loss": Bounds(commits=2, foreign=1, crashes=0, power_losses=1),
    "two power losses": Bounds(commits=1, foreign=1, crashes=0, power_losses=2),
}
QUICK = {
    "commits and outside writes": Bounds(values=1, commits=2, foreign=1, crashes=0),
    "crashes": Bounds(sessions=2, commits=1, foreign=1, crashes=1),
    "leases": Bounds(values=1, commits=1, foreign=0, crashes=1, leases=2),
    "power loss": Bounds(values=2, commits=2, foreign=0, crashes=0, power_losses=1),
}
_COMMITS = Bounds(commits=2, foreign=1, crashes=1)
_RUN_OF = {
    "TwoLeases": "leases",
    "IgnoreLease": "leases",
    "NoBump": "leases",
    "NoFence": "leases",
    "NormalSync": "power loss",
    "NoBoot": "power loss",
    "NoFlush": "power loss",
}


class Outcome(NamedTuple):
    """How many distinct states there are; what fell, and the shortest way there."""

    states: int
    fallen: str | None
    trace: tuple[str, ...]


def explore(bounds: Bounds, mutant: str = "", names: tuple[str, ...] = ()) -> Outcome:
    """Every reachable state within *bounds*, or those up to the first that is wrong."""
    names = names or tuple(INVARIANTS)
    start = initial(bounds)
    origin: dict[State, tuple[State, str] | None] = {start: None}
    frontier = [start]
    while frontier:
        following = []
        for state in frontier:
            if (fallen := broken(state, names, mutant)) is not None:
                return Outcome(len(origin), fallen, _trace(origin, state))
            for name, after in successors(state, bounds, mutant):
                if after not in origin:
                    origin[after] = (state, name)
                    following.append(after)
        frontier = following
    return Outcome(len(origin), None, ())


def _trace(origin: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    names = []
    while (step := origin[state]) is not None:
        state, name = step
        names.append(name)
    return tuple(reversed(names))


def bounds_for(mutant: str) -> Bounds:
    """Bounds in which *mutant* must be found out."""
    if mutant == "NoReadLease":
        return Bounds(sessions=1, commits=0, foreign=2, crashes=0)
    if mutant == "NoSoleOpener":
        return Bounds(sessions=1, commits=1, foreign=2, crashes=0)
    if mutant == "NoFlush":
        return Bounds(sessions=1, commits=1, foreign=1, crashes=0, power_losses=1)
    return QUICK[_RUN_OF[mutant]] if mutant in _RUN_OF else _COMMITS


def main(arguments: list[str]) -> int:
    """Print one line for each run; the exit status."""
    bad = 0
    for name, bounds in (QUICK if "--quick" in arguments else RUNS).items():
        started = time.perf_counter()
        found = explore(bounds)
        seconds = time.perf_counter() - started
        verdict = "holds" if found.fallen is None else f"{found.fallen} falls: {found.trace}"
        print(f"{name:28} {found.states:>9,} states  {seconds:6.1f} s  {verdict}", flush=True)
        bad += found.fallen is not None
    for mutant, invariant in MUTANTS.items():
        found = explore(bounds_for(mutant), mutant, (invariant,))
        dead = found.fallen == invariant
        verdict = f"{invariant} falls after {len(found.trace)} steps" if dead else "LIVES"
        print(f"mutant {mutant:21} {found.states:>9,} states  {verdict}", flush=True)
        bad += not dead
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
