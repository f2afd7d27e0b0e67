"""The arms of the experiment: how agents read and write. All replay the same traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.ours import CoherentVolume

__all__ = ["ARMS", "Arm", "unavailable"]


@dataclass(frozen=True)
class Arm:
    """One way of working.

    *reads*: "always" hands over the content each time; "validate" passes what is
    known and gets "unchanged" or content; "own" is served from the agent's own
    copy; "notices" from the copy until the feed speaks of the file.
    *refresh*: when every agent reads every file anew besides.
    *eager*: what the feed speaks of is read at once, before it is asked for.
    *overwrites*: writes name no base and replace whatever is there.
    """

    name: str
    reads: Literal["always", "validate", "own", "notices"]
    refresh: Literal["never", "after each step", "before each round"] = "never"
    overwrites: bool = False
    delta: bool = False
    eager: bool = False

    @property
    def faults(self) -> tuple[str, ...]:
        """What must not come out of it: see ``audit`` for the words.

        Whoever names a base loses nothing, however old the copy was; only who asks
        at each read never acts on a stale one; and only these caches are modelled.
        """
        found = ["torn", "failed", "gaps"]
        if not self.overwrites:
            found += ["lost", "mislabelled"]
        if self.reads in {"always", "validate"}:
            found += ["stale"]
        if self.reads != "own":
            found += ["beyond_bound", "unpredicted"]
        return tuple(found)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("broadcast", "own", refresh="after each step"),
        Arm("demand", "always"),
        Arm("strict", "validate"),
        Arm("delta", "validate", delta=True),
        Arm("notified", "notices"),
        Arm("eager", "notices", eager=True),
        Arm("blind", "own", overwrites=True),
        Arm("snapshot", "own", refresh="before each round", overwrites=True),
    )
}


def unavailable(arm: Arm) -> str | None:
    """Say why *arm* cannot run with the library that is installed; None: it can."""
    if arm.reads == "notices" and not hasattr(CoherentVolume, "changes"):
        return "this library has no feed of changes (CoherentVolume.changes)"
    return None
