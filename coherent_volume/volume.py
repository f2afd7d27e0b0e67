"""CoherentVolume: the façade. Short methods over the modules below, no rule of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeVar

from coherent_volume import artifact_io, leasing, operations, views
from coherent_volume.cache import Entry
from coherent_volume.config import OnConflict
from coherent_volume.files import CHUNK
from coherent_volume.leasing import Lease
from coherent_volume.model import ArtifactKey, Commit, Observation, State
from coherent_volume.operations import Base, as_bytes
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import PathArgument
from coherent_volume.records import SeenRow
from coherent_volume.volume_feed import FeedMethods
from coherent_volume.volume_history import HistoryMethods

if TYPE_CHECKING:
    from coherent_volume.conflict import ConflictReport
    from coherent_volume.transaction import Transaction

__all__ = ["CoherentVolume"]

T = TypeVar("T")


class CoherentVolume(HistoryMethods, FeedMethods):
    """A directory whose managed files never lose an update.

    It remembers which generation of which file this session saw and makes every
    write a compare-and-swap against that: a stale one raises ConflictError,
    changes nothing, and keeps the refused content. Threads may share it, and a
    forked child becomes a session of its own.

    *managed* are gitignore-style globs; with them the volume is made if there
    is none, without them an existing one is opened. *session* names the session
    (default: COHERENT_SESSION, else this process). *durability* is what an
    acknowledged commit survives: "power" (the default) or "process". *reads* is how
    long a read may trust its copy: "strict" (the default: never), "notified",
    "eager", "broadcast", a ReadLease or an AccessCount.
    """

    # ── reading ──────────────────────────────────────────────────────────────

    def read(self, path: PathArgument) -> bytes:
        """The artifact's current content; it becomes what this session saw.

        Raises NotFoundError, UsageError, BusyError (somebody is writing it now).
        """
        hit = self._in_memory(path)
        if hit is not None:
            return hit.data
        return self._on(path, lambda parts, key: self._receive(parts, path, key)[1])

    def _in_memory(self, path: PathArgument) -> Entry | None:
        hit = self._cache.get(path)
        if hit is None or self._seen_here.get(hit.key) is not hit.seen:
            return None
        self._meters.read_hits += 1
        return hit

    def _receive(
        self, parts: VolumeParts, path: PathArgument, key: ArtifactKey
    ) -> tuple[SeenRow, bytes]:
        if self._copies is not None:
            return self._copies.receive(path, key)
        reading, data = views.receive(parts, key)
        provable = reading.fingerprint is not None and key not in parts.leased_keys
        if reading.fingerprint is not None and provable and self._addresses.is_direct(path, key):
            self._cache.put(path, key, reading.fingerprint, data, self._seen_here[key])
        return reading.seen, data

    def read_text(self, path: PathArgument, encoding: str = "utf-8") -> str:
        """As ``read``, decoded."""
        return self.read(path).decode(encoding)

    def observe(self, path: PathArgument, known: Base | None = None) -> Observation:
        """As ``read``, with generation and digest; ``data`` is None if still *known*."""
        hit = self._in_memory(path)
        if hit is not None:
            return views.described(
                self._parts, hit.key, hit.seen, hit.data, known, from_memory=True
            )
        return self._on(
            path,
            lambda parts, key: views.described(parts, key, *self._receive(parts, path, key), known),
        )

    def read_to(self, path: PathArgument, sink: BinaryIO) -> Observation:
        """Deliver the content to *sink* in chunks; only then is it what was seen."""
        return self._on(path, lambda parts, key: views.deliver(parts, key, sink))

    # ── writing ──────────────────────────────────────────────────────────────

    def write(
        self,
        path: PathArgument,
        data: str | bytes,
        base: Base | None = None,
        overwrite: bool = False,
        *,
        renew: bool = True,
        on_conflict: OnConflict | None = None,
    ) -> Commit:
        """Make *data* the next generation of *path*, or change nothing.

        It must be derived from the current generation: *base*, or what this
        session saw last; a free name is created. *overwrite* replaces whatever is
        there. With *on_conflict* "merge" a stale write is merged where its edits
        are disjoint from the others'; None is what the configuration says.
        Raises ConflictError, UnavailableError, UnconfirmedError.
        """
        content = as_bytes(data)
        return self._commit(
            path,
            lambda parts, key: operations.write(
                parts,
                key,
                content,
                base,
                overwrite=overwrite,
                renew=renew,
                on_conflict=on_conflict,
            ),
        )

    def write_from(
        self,
        path: PathArgument,
        source: BinaryIO,
        base: Base | None = None,
        overwrite: bool = False,
        *,
        on_conflict: OnConflict | None = None,
    ) -> Commit:
        """As ``write``, with the content read from *source* in chunks."""
        chunks = iter(lambda: source.read(CHUNK), b"")
        return self._commit(
            path,
            lambda parts, key: operations.write(
                parts, key, chunks, base, overwrite=overwrite, on_conflict=on_conflict
            ),
            once=True,
        )

    def merge(self, path: PathArgument, data: str | bytes, base: Base | None = None) -> Commit:
        """As ``write``, merged where it is stale; *base* is what *data* was derived from.

        Without *base*: what it was derived from when it was last refused, if it
        was, else what this session saw last.
        """
        content = as_bytes(data)
        return self._commit(path, lambda parts, key: operations.merge(parts, key, content, base))

    def create(self, path: PathArgument, data: str | bytes) -> Commit:
        """Make a new artifact; AlreadyExistsError when the name is taken."""
        content = as_bytes(data)
        return self._commit(path, lambda parts, key: operations.create(parts, key, content))

    def create_from(self, path: PathArgument, source: BinaryIO) -> Commit:
        """As ``create``, with the content read from *source* in chunks."""
        chunks = iter(lambda: source.read(CHUNK), b"")
        return self._commit(
            path, lambda parts, key: operations.create(parts, key, chunks), once=True
        )

    def append(self, path: PathArgument, data: str | bytes) -> Commit:
        """Add *data* at the end; never conflicts, renews the view only if it was current."""
        content = as_bytes(data)
        return self._commit(path, lambda parts, key: operations.append(parts, key, content))

    def delete(
        self, path: PathArgument, base: Base | None = None, overwrite: bool = False
    ) -> Commit:
        """Make the next generation a deletion, judged like a write."""
        return self._commit(
            path, lambda parts, key: operations.delete(parts, key, base, overwrite=overwrite)
        )

    def rename(self, source: PathArgument, target: PathArgument) -> Commit:
        """Move an artifact to a free name, in one commit of both; links are refused."""
        old, new = self._addresses.direct(source), self._addresses.direct(target)
        return self._commit(old, lambda parts, key: operations.rename(parts, key, new))

    def update(
        self,
        path: PathArgument,
        function: Callable[[bytes], bytes | str],
        retries: int = 16,
        *,
        renew: bool = True,
        on_conflict: OnConflict | None = None,
    ) -> Commit:
        """Commit ``function(content)``; read and call it again on up to *retries* conflicts.

        With *on_conflict* "merge" the last try is merged where it is stale.
        """
        return self._commit(
            path,
            lambda parts, key: operations.update(
                parts, key, function, retries, renew=renew, on_conflict=on_conflict
            ),
        )

    def transaction(self, *, renew: bool = True) -> Transaction:
        """Reads and writes of several artifacts, all or nothing, in a with-block."""
        return self._transaction(renew=renew)

    def transact(self, function: Callable[[Transaction], T], retries: int = 16) -> T:
        """What *function* returns, called with a transaction, and again on conflicts."""
        from coherent_volume.transaction import transact

        return transact(
            self._open_parts(), lambda last: self._transaction(keep_refused=last), function, retries
        )

    def _transaction(self, **options: bool) -> Transaction:
        from coherent_volume.transaction import Transaction

        nudge = self._maintenance.nudge
        return Transaction(self._open_parts(), self._addresses.final, finished=nudge, **options)

    def open(self, path: PathArgument, mode: str = "r", encoding: str = "utf-8") -> IO[Any]:
        """A file object; a writer commits at the end of its with-block (r w a x, and b)."""
        return artifact_io.open_artifact(self, path, mode, encoding)

    def writing(self, path: PathArgument) -> AbstractContextManager[None]:
        """Mark *path* as being written by this process, for its state."""
        return self._on(path, lambda parts, key: parts.writing(key))

    # ── views ────────────────────────────────────────────────────────────────

    def reacquire(self, path: PathArgument | None = None) -> list[str]:
        """Read again what is stale (of *path*, or of all); the paths that were."""
        if path is None:
            return views.reacquire(self._open_parts(), None)
        return self._on(path, lambda parts, key: views.reacquire(parts, [key]))

    def view_of(self, path: PathArgument) -> Observation | None:
        """What this session last saw of *path*, without looking now; None: nothing."""
        return self._on(path, views.view_of)

    def why(self, path: PathArgument) -> ConflictReport | None:
        """The report about this session's last refusal of *path*; None: nothing was refused.

        If the session read it again since then and is stale again, or never had
        a refusal and is stale: what a refusal would say at this moment.
        """
        from coherent_volume import overview

        return self._on(path, overview.why)

    def state(self, path: PathArgument) -> State:
        """I: never read, or behind. S: current. E: leased. M: leased and staged."""
        from coherent_volume import overview

        return self._on(path, overview.state)

    def lease(
        self, path: PathArgument, ttl: float = 30.0, wait: float = 0.0, *, held: bool = True
    ) -> Lease:
        """Own *path* for *ttl* seconds or a with-block; LeasedError after *wait* seconds.

        It ends with this process. Without *held* it belongs to the named session,
        outlives its processes, and ends with its time; asking again extends it.
        """
        return self._on(path, lambda parts, key: leasing.acquire(parts, key, ttl, wait, held=held))

    def release_lease(self, path: PathArgument) -> bool:
        """End this session's lease that no process holds; False when there is none."""
        return self._on(path, leasing.release)

    def break_lease(self, path: PathArgument) -> bool:
        """Take a lease from its holder, who is fenced; False when there is none."""
        return self._on(path, leasing.break_lease)
