"""The opened parts of one volume, handed to the modules that act on them.

Owns no rule: it is the bundle that the façade opens once and the protocol
modules share. Everything in it belongs to one process; ``become_child`` makes
it whole again after a fork.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from coherent_volume.config import Config
from coherent_volume.files import Looks
from coherent_volume.globs import ManagedGlobs, Rules
from coherent_volume.locks import FairLock, Presence
from coherent_volume.meters import Meters
from coherent_volume.model import ArtifactKey
from coherent_volume.paths import Root
from coherent_volume.records import InstallRow
from coherent_volume.session import Session, announce
from coherent_volume.sidecar import Sidecar
from coherent_volume.staging import Staging

__all__ = ["Displaced", "VolumeParts", "now_ns"]

_TURNS = 64


def now_ns() -> int:
    """The clock that nobody sets and that counts suspended time, in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Releasable(Protocol):
    """Something held by this process that must be released when it closes."""

    def release(self) -> None:
        """Let go of it."""

    def abandon(self) -> None:
        """In a forked child: it is the parent's."""


class Copies(Protocol):
    """Content that is used without a look, and must be told what it may not miss."""

    def hear(self, key: ArtifactKey, generation: int) -> bool:
        """Use no copy of *key* below *generation* from now on."""

    def doubt(self) -> None:
        """Look at every copy once before it is used again."""


class Displaced(NamedTuple):
    """A stage to clean up: not before a moment, and as it looked when verified."""

    record: InstallRow
    not_before_ns: int = 0
    verified: Looks | None = None
    """After the exchange, under the lease; None when it was not verified."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class VolumeParts:
    """What one process needs to work on one volume."""

    root: Root
    directory: str
    config: Config
    incarnation: str
    globs: ManagedGlobs
    rules: Rules
    sidecar: Sidecar
    staging: Staging
    session: Session
    gate: FairLock
    boot: str
    """This boot and this copy of the volume: inode numbers mean something only
    within both. A volume that was copied or restored looks as after a reboot."""
    presence: Presence | None = None
    # Installs whose stage is to be cleaned up, and the time before which it stays.
    displaced: deque[Displaced] = field(default_factory=deque)
    unsynced_directories: set[bytes] = field(default_factory=set)
    flush_failed: bool = False
    # Whether files must be flushed beside their directories; see disposal.
    flushes_files: bool = False
    dropped_objects: deque[str] = field(default_factory=deque)
    # About how much this process has written to the log since its last checkpoint.
    logged_bytes: int = 0
    # Leases that this process holds; a lease must not end by being dropped.
    leases: set[Releasable] = field(default_factory=set)
    leased_keys: set[ArtifactKey] = field(default_factory=set)
    # Writers opened by this process and not closed yet, by artifact.
    writers: Counter[ArtifactKey] = field(default_factory=Counter)
    # What reads trust without a look; None where the policy is to look. See trusting.
    copies: Copies | None = None
    # Whether content is handed over also if the caller knows it.
    always_delivers: bool = False
    # What all watches of this volume object share; see watching.
    hub: object = None
    # Counters of this process; see meters.
    meters: Meters = field(default_factory=Meters)
    # What must end before the volume is closed, and be made whole in a forked child.
    on_close: list[Callable[[], None]] = field(default_factory=list)
    on_fork: list[Callable[[], None]] = field(default_factory=list)
    # Keeps two threads from cleaning up at once; see disposal.
    cleaning: threading.RLock = field(default_factory=threading.RLock)
    # Keeps two threads from announcing one process twice; reentrant for signal handlers.
    _announcing: threading.RLock = field(default_factory=threading.RLock)
    _turns: dict[str, FairLock] = field(default_factory=dict)

    @property
    def durable(self) -> bool:
        """Whether an acknowledged commit must survive a power loss."""
        return self.config.durability == "power"

    def announce(self) -> None:
        """Make this process's life visible, once; before it stages anything."""
        if self.presence is None:
            with self._announcing:
                if self.presence is None:
                    self.presence = announce(self.directory, self.staging.token, self.session.info)

    def turn_path(self, key: bytes, queue: str) -> str:
        """The file of a queue for *key* alone; the same in every process."""
        return os.path.join(self.directory, "turns", f"{queue}-{zlib.crc32(key):08x}")

    def turn(self, key: bytes) -> FairLock:
        """The queue in which updaters of *key* stand.

        It spares them from deriving a change that a peer is about to make
        stale. Safety does not rest on it: the compare-and-swap does that.
        """
        number = zlib.crc32(key) % _TURNS  # the same in every process
        name = f"update-{number:02d}"
        lock = self._turns.get(name)
        if lock is None:
            path = os.path.join(self.directory, "turns", name)
            lock = self._turns.setdefault(name, FairLock(path))
        return lock

    @contextlib.contextmanager
    def writing(self, key: ArtifactKey) -> Iterator[None]:
        """Count a writer of *key* during the block."""
        self.writers[key] += 1
        try:
            yield
        finally:
            self.writers[key] -= 1

    def close(self) -> None:
        """Let go of everything but the sidecar, which closes under the gate."""
        for lock in self._turns.values():
            lock.close()
        if self.presence is not None:
            self.presence.withdraw()
            self.presence = None
        self.staging.close()
        self.root.close()

    def become_child(self) -> None:
        """After a fork, in the child: nothing inherited may speak for the parent."""
        self.presence = None
        self._announcing = threading.RLock()
        self.cleaning = threading.RLock()
        self.staging.renew_token()
        self.session.become_child()
        self.displaced.clear()
        self.unsynced_directories.clear()
        for lease in self.leases:
            lease.abandon()
        self.leases.clear()
        self.dropped_objects.clear()
        self.meters.become_child()
        for mend in self.on_fork:
            mend()
