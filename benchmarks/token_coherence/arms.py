"""The arms of the experiment: how agents read and write. All replay the same traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ARMS", "Arm"]


@dataclass(frozen=True)
class Arm:
    """One way of working.

    *reads*: "always" asks for the content each time; "validate" passes what is known
    and gets "unchanged" or content; "own" is served from the agent's own copy.
    *policy*: the library's read policy under which its replies are made.
    *refresh*: when every agent reads every file anew besides.
    *overwrites*: writes name no base and replace whatever is there.
    """

    name: str
    reads: Literal["always", "validate", "own"]
    policy: Literal["strict", "notified", "eager", "broadcast"] = "strict"
    refresh: Literal["never", "after each step", "before each round"] = "never"
    overwrites: bool = False
    delta: bool = False

    @property
    def listens(self) -> bool:
        """Whether the library answers from copies until the feed speaks of them."""
        return self.policy in {"notified", "eager"}

    @property
    def faults(self) -> tuple[str, ...]:
        """What must not come out of it: see ``audit`` for the words.

        Whoever names a base loses nothing, however old the copy was; only who looks
        at each read never acts on a stale one, and who listens on none that is older
        than the policy's bound; and only these caches are modelled.
        """
        found = ["torn", "failed", "gaps"]
        if not self.overwrites:
            found += ["lost", "mislabelled"]
        if self.listens:
            found += ["too_stale"]
        elif self.reads != "own":
            found += ["stale"]
        if self.reads != "own":
            found += ["beyond_bound", "unpredicted"]
        return tuple(found)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("broadcast", "own", policy="broadcast", refresh="after each step"),
        Arm("demand", "always"),
        Arm("strict", "validate"),
        Arm("delta", "validate", delta=True),
        Arm("notified", "validate", policy="notified"),
        Arm("eager", "validate", policy="eager"),
        Arm("blind", "own", overwrites=True),
        Arm("snapshot", "own", policy="broadcast", refresh="before each round", overwrites=True),
    )
}
