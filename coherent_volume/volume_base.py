"""The base of the façade: one opened volume, its life and its paths.

Owns opening, closing, what must be made whole after a fork, and the way from a
path to an artifact's key. The groups of methods (history, feed) and the façade
itself stand on it. Knows no operation.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from coherent_volume.addresses import Addresses
from coherent_volume.cache import ContentCache
from coherent_volume.errors import ClosedError, CoherenceError
from coherent_volume.forking import watch_forks
from coherent_volume.layout import open_parts
from coherent_volume.maintenance import Maintenance
from coherent_volume.model import ArtifactKey, Commit, Durability, SessionInfo
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import PathArgument

if TYPE_CHECKING:
    from coherent_volume.read_policy import ReadPolicy
    from coherent_volume.trusting import TrustedCopies

__all__ = ["OpenVolume"]

T = TypeVar("T")


class OpenVolume:
    """One volume, open in one session."""

    def __init__(
        self,
        root: PathArgument,
        managed: Sequence[str] | None = None,
        session: str | None = None,
        durability: Durability | None = None,
        reads: ReadPolicy = "strict",
    ) -> None:
        trust = None
        if reads != "strict":
            from coherent_volume.read_policy import trust_of

            trust = trust_of(reads)  # before anything is opened: it may be no policy
        globs = managed if managed is None or isinstance(managed, str) else tuple(managed)
        self._parts = open_parts(root, globs, session, durability)  # type: ignore[arg-type]
        self._reads = reads
        self._addresses = Addresses(self._parts)
        self._copies: TrustedCopies | None = None
        self._cache = ContentCache(self._parts.root.descriptor)
        self._parts.always_delivers = reads == "broadcast"
        if trust is not None:
            from coherent_volume.trusting import TrustedCopies

            self._cache = self._copies = TrustedCopies(self._parts, self._addresses, trust)
        self._maintenance = Maintenance(self._parts)
        self._seen_here = self._parts.session.seen_here
        self._meters = self._parts.meters
        self._parts.on_fork += [self._cache.clear, self._maintenance.become_child]
        watch_forks(self._parts)
        with contextlib.suppress(CoherenceError, OSError):
            self._parts.announce()  # for status; whoever must be seen alive asks again
        # At interpreter exit too: a connection is closed under the gate.
        self._finalizer = weakref.finalize(self, self._maintenance.shut, self._cache.clear)

    @property
    def root(self) -> str:
        """The root directory's real path."""
        return os.fsdecode(self._parts.root.path)

    @property
    def session(self) -> SessionInfo:
        """Who this volume object reads and writes as."""
        return self._parts.session.info

    @property
    def managed(self) -> tuple[str, ...]:
        """The managed globs."""
        return self._parts.config.managed

    @property
    def durability(self) -> Durability:
        """What an acknowledged commit survives."""
        return self._parts.config.durability

    @property
    def reads(self) -> ReadPolicy:
        """How long a read may trust its copy."""
        return self._reads

    def close(self) -> None:
        """Finish the clean-up and let go of everything; may be called again."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open_parts(self) -> VolumeParts:
        if not self._finalizer.alive:
            raise ClosedError("this volume is closed", path=self.root)
        return self._parts

    def _on(self, path: PathArgument, act: Callable[[VolumeParts, ArtifactKey], T]) -> T:
        outer = self._open_parts().gate.is_mine
        try:
            return self._addresses.on(path, act)
        except BaseException:
            self._let_go(outer)
            raise

    def _commit(
        self,
        path: PathArgument,
        act: Callable[[VolumeParts, ArtifactKey], Commit],
        *,
        once: bool = False,
    ) -> Commit:
        outer = self._open_parts().gate.is_mine
        try:
            return (self._addresses.once if once else self._addresses.on)(path, act)
        except BaseException:
            self._let_go(outer)
            raise
        finally:
            self._maintenance.nudge()

    def _let_go(self, outer: bool) -> None:
        """An interrupt may come at any line, also before the gate is released.

        Whatever this call took it lets go; an *outer* call's gate stays.
        """
        if not outer and self._parts.gate.is_mine:
            self._parts.gate.release()
