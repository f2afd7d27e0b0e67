"""What a session has done to an artifact and not committed: its state, and its held deletion.

Owns which of them are remembered: those that hold something. Whoever changes one
holds its lock.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from weakref import WeakValueDictionary

from coherent_volume.model import ArtifactKey
from fuse_mount.claims import Claim
from fuse_mount.working import WorkingCopy

__all__ = ["Hold", "State", "States"]

_REMOVER_S = 0.8
"""How much longer a deletion is held while whoever made it still runs."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A deletion that waits for the content that may follow it."""

    claim: Claim
    due: float
    remover: int
    """The thread that removed it; 0: nobody knows."""

    def is_due(self, until: float) -> bool:
        """Whether it is to be committed: a remover that lives may be about to write.

        On a busy machine git takes longer between its two steps than the hold.
        """
        if until < self.due:
            return False
        waits = self.remover and until < self.due + _REMOVER_S
        return not (waits and os.path.exists(f"/proc/{self.remover}"))


class State:
    """One artifact as one session has it."""

    __slots__ = ("__weakref__", "_copy", "_deleted", "_holding", "empty_due", "key", "lock",
                 "replaces")  # fmt: skip

    def __init__(self, key: ArtifactKey, holding: dict[ArtifactKey, State]) -> None:
        self.key = key
        self.lock = threading.RLock()
        self._holding = holding
        self._copy: WorkingCopy | None = None
        self._deleted: Hold | None = None
        self.replaces = False
        """A new copy stands where the session deleted the old one."""
        self.empty_due = 0.0
        """When a copy that was only cut off is committed as it is; 0: not."""

    @property
    def copy(self) -> WorkingCopy | None:
        """What the session has made of it and not committed."""
        return self._copy

    @copy.setter
    def copy(self, copy: WorkingCopy | None) -> None:
        self._copy = copy
        if copy is not None:
            self._holding[self.key] = self

    @property
    def deleted(self) -> Hold | None:
        """The session has deleted it; the deletion is not committed yet."""
        return self._deleted

    @deleted.setter
    def deleted(self, hold: Hold | None) -> None:
        self._deleted = hold
        if hold is not None:
            self._holding[self.key] = self

    @property
    def shown_copy(self) -> WorkingCopy | None:
        """The copy that the session sees in the place of the generation."""
        copy = self._copy
        return copy if copy is not None and copy.is_shown else None

    def is_due(self, until: float) -> bool:
        """Whether it holds something that is to be committed by *until*."""
        if 0 < self.empty_due <= until:
            return True
        return self._deleted is not None and not self.replaces and self._deleted.is_due(until)

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost without it."""
        return self._deleted is None and (self._copy is None or self._copy.is_forsaken)


class States:
    """The states that hold something, and those that some thread is at.

    A thread that has a state keeps it the one of its artifact by that alone, or
    two would do their work under two locks: so nothing is taken away from it.
    """

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._all: WeakValueDictionary[ArtifactKey, State] = WeakValueDictionary()
        self._holding: dict[ArtifactKey, State] = {}

    def of(self, key: ArtifactKey) -> State:
        """The state of *key*, a new one if nobody has it."""
        found = self._all.get(key)
        if found is None:
            with self._making:
                found = self._all.get(key)
                if found is None:
                    found = self._all[key] = State(key, self._holding)
        return found

    def find(self, key: ArtifactKey) -> State | None:
        """The state of *key*, if it holds something or somebody is at it."""
        return self._all.get(key)

    def holding(self) -> list[State]:
        """Every state that holds something."""
        return list(self._holding.values())

    def let_go(self, state: State) -> None:
        """*state* holds nothing any more; it is locked."""
        self._holding.pop(state.key, None)
