"""What a session has done to an artifact and not committed: its state, and its held deletion.

Values only; whoever changes one holds its lock.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from coherent_volume.model import ArtifactKey
from fuse_mount.claims import Claim
from fuse_mount.working import WorkingCopy

__all__ = ["Hold", "State"]

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


@dataclass(slots=True, eq=False)
class State:
    """One artifact as one session has it."""

    key: ArtifactKey
    lock: threading.RLock = field(default_factory=threading.RLock)
    copy: WorkingCopy | None = None
    deleted: Hold | None = None
    """The session has deleted it; the deletion is not committed yet."""
    replaces: bool = False
    """A new copy stands where the session deleted the old one."""
    empty_due: float = 0.0
    """When a copy that was only cut off is committed as it is; 0: not."""

    @property
    def shown_copy(self) -> WorkingCopy | None:
        """The copy that the session sees in the place of the generation."""
        copy = self.copy
        return copy if copy is not None and copy.is_shown else None
