"""CoherentVolume: the façade. Short methods over the modules below, no rule of its own."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO, Any, BinaryIO, Self, TypeVar

from coherent_volume import artifact_io, checkup, operations, overview
from coherent_volume.cache import ContentCache
from coherent_volume.errors import (
    ClosedError,
    CoherenceError,
    NotFoundError,
    NotManagedError,
    OutsideRootError,
)
from coherent_volume.files import CHUNK, SymlinkFound
from coherent_volume.forking import watch_forks
from coherent_volume.layout import open_parts
from coherent_volume.maintenance import Maintenance
from coherent_volume.model import (
    ArtifactKey,
    CheckReport,
    Commit,
    Durability,
    LogEntry,
    Observation,
    SessionInfo,
    State,
    VolumeStatus,
)
from coherent_volume.operations import Base, as_bytes
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import PathArgument, shown
from coherent_volume.reading import Reading, read, reading_open, record

__all__ = ["CoherentVolume"]

T = TypeVar("T")
_CLOSE_WAIT_S = 2.0
_KEYS_MAX = 100_000


class CoherentVolume:
    """A directory whose managed files never lose an update.

    It remembers which generation of which file this session saw, and makes
    every write a compare-and-swap against that. A stale write raises
    ConflictError, changes nothing, and keeps the refused content. Use it as a
    context manager; threads may share it, a forked child becomes a session of
    its own.

    *managed* are gitignore-style globs; with them the volume is made if there
    is none, without them an existing one is opened. *session* names the session
    (default: COHERENT_SESSION, else this process). *durability* is what an
    acknowledged commit survives: "power" (the default) or "process".
    """

    def __init__(
        self,
        root: PathArgument,
        managed: Sequence[str] | None = None,
        session: str | None = None,
        durability: Durability | None = None,
    ) -> None:
        globs = managed if managed is None or isinstance(managed, str) else tuple(managed)
        self._parts = open_parts(root, globs, session, durability)  # type: ignore[arg-type]
        self._cache = ContentCache(self._parts.root.descriptor)
        self._maintenance = Maintenance(self._parts)
        self._keys: dict[PathArgument, ArtifactKey] = {}
        self._seen_here = self._parts.session.seen_here
        self._parts.on_fork += [self._cache.clear, self._maintenance.become_child]
        watch_forks(self._parts)
        # Also at interpreter exit: a connection must be closed under the gate.
        self._finalizer = weakref.finalize(self, _shut, self._parts, self._maintenance, self._cache)

    # ── reading ──────────────────────────────────────────────────────────────

    def read(self, path: PathArgument) -> bytes:
        """The artifact's current content; it becomes what this session saw.

        Raises NotFoundError, NotManagedError, OutsideRootError,
        NotRegularFileError, BusyError (somebody is writing the file now).
        """
        hit = self._cache.get(path)
        if hit is not None and self._seen_here.get(hit.key) is hit.seen:
            return hit.data
        return self._on(path, lambda key: self._read(path, key)[1])

    def _read(self, path: PathArgument, key: ArtifactKey) -> tuple[Reading, bytes]:
        parts = self._open_parts()
        reading, data = operations.content_now(parts, key)
        record(parts, key, reading)
        if not reading.exists:
            raise NotFoundError(
                "no such artifact", path=shown(key), generation=reading.seen.generation
            )
        if reading.fingerprint is not None and self._keys.get(path) == key:
            seen = self._seen_here.get(key, reading.seen)
            self._cache.put(path, key, reading.fingerprint, data, seen)
        return reading, data

    def read_text(self, path: PathArgument, encoding: str = "utf-8") -> str:
        """As ``read``, decoded."""
        return self.read(path).decode(encoding)

    def observe(self, path: PathArgument, known: Base | None = None) -> Observation:
        """As ``read``, with generation and digest; ``data`` is None if still *known*."""

        def act(key: ArtifactKey) -> Observation:
            reading, data = self._read(path, key)
            seen = reading.seen
            unchanged = known is not None and operations.is_known(seen, known)
            return Observation(
                shown(key),
                seen.generation,
                seen.digest.hex(),
                None if unchanged else data,
                seen.epoch,
            )

        return self._on(path, act)

    def read_to(self, path: PathArgument, sink: BinaryIO) -> Observation:
        """Deliver the content to *sink* in chunks; only then is it what was seen."""

        def act(key: ArtifactKey) -> Observation:
            parts = self._open_parts()
            with reading_open(parts, key) as (reading, look):
                if reading.exists:
                    artifact_io.deliver(look, sink)
            record(parts, key, reading)
            seen = reading.seen
            if not reading.exists:
                raise NotFoundError("no such artifact", path=shown(key), generation=seen.generation)
            return Observation(shown(key), seen.generation, seen.digest.hex(), None, seen.epoch)

        return self._on(path, act)

    # ── writing ──────────────────────────────────────────────────────────────

    def write(
        self,
        path: PathArgument,
        data: str | bytes,
        base: Base | None = None,
        overwrite: bool = False,
        *,
        renew: bool = True,
    ) -> Commit:
        """Make *data* the next generation of *path*, or change nothing.

        It must be derived from the current generation: what this session saw
        last, or *base* if given. A name that this session believes free is
        created. *overwrite* replaces whatever is there, unseen. Raises
        ConflictError (reacquire, derive again), UnavailableError (try again),
        UnconfirmedError (ask for the state first).
        """
        content = as_bytes(data)
        return self._commit(
            path,
            lambda parts, key: operations.write(
                parts, key, content, base, overwrite=overwrite, renew=renew
            ),
        )

    def write_from(
        self,
        path: PathArgument,
        source: BinaryIO,
        base: Base | None = None,
        overwrite: bool = False,
    ) -> Commit:
        """As ``write``, with the content read from *source* in chunks."""
        return self._commit(
            path,
            lambda parts, key: operations.write(
                parts, key, iter(lambda: source.read(CHUNK), b""), base, overwrite=overwrite
            ),
        )

    def create(self, path: PathArgument, data: str | bytes) -> Commit:
        """Make a new artifact; AlreadyExistsError when the name is taken."""
        content = as_bytes(data)
        return self._commit(path, lambda parts, key: operations.create(parts, key, content))

    def create_from(self, path: PathArgument, source: BinaryIO) -> Commit:
        """As ``create``, with the content read from *source* in chunks."""
        return self._commit(
            path,
            lambda parts, key: operations.create(parts, key, iter(lambda: source.read(CHUNK), b"")),
        )

    def append(self, path: PathArgument, data: str | bytes) -> Commit:
        """Add *data* at the end of whatever is there; made if it is not there.

        Never conflicts. The session's view advances only if it was current.
        """
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
        """Move an artifact to a free name, in one commit of both names."""
        new = self._managed_key(target)
        return self._commit(source, lambda parts, key: operations.rename(parts, key, new))

    def update(
        self,
        path: PathArgument,
        function: Callable[[bytes], bytes | str],
        retries: int = 16,
        *,
        renew: bool = True,
    ) -> Commit:
        """Commit ``function(content)``; on a conflict read again and call it again.

        *function* may be called several times. Raises the last ConflictError
        after *retries* further tries.
        """
        return self._commit(
            path,
            lambda parts, key: operations.update(parts, key, function, retries, renew=renew),
        )

    def open(self, path: PathArgument, mode: str = "r", encoding: str = "utf-8") -> IO[Any]:
        """A file object in mode r, rb, w, wb, a, ab, x or xb.

        A writer commits when its with-block ends (or on ``close``) against what
        this session saw when it was opened, and discards when the block raises.
        """
        return artifact_io.open_artifact(self, path, mode, encoding)

    # ── views ────────────────────────────────────────────────────────────────

    def reacquire(self, path: PathArgument | None = None) -> list[str]:
        """Read again what is stale (of *path*, or of all); the paths that were."""
        parts = self._open_parts()
        seen = parts.session.all_seen()
        keys = list(seen) if path is None else [self._managed_key(path)]
        stale = []
        for key in keys:
            reading = read(parts, key)
            if reading.seen != seen.get(key):
                record(parts, key, reading)
                stale.append(shown(key))
        return stale

    def view_of(self, path: PathArgument) -> Observation | None:
        """What this session last saw of *path*, without looking now; None: nothing."""

        def act(key: ArtifactKey) -> Observation | None:
            seen = self._open_parts().session.seen(key)
            if seen is None:
                return None
            return Observation(shown(key), seen.generation, seen.digest.hex(), None, seen.epoch)

        return self._on(path, act)

    def state(self, path: PathArgument) -> State:
        """I: never read, or behind. S: current. E: leased. M: leased and staged."""
        return self._on(path, lambda key: overview.state(self._open_parts(), key))

    def log(self, path: PathArgument | None = None, limit: int | None = None) -> list[LogEntry]:
        """The commits of *path*, or of all artifacts, newest first."""
        key = None if path is None else self._managed_key(path)
        return overview.log(self._open_parts(), key, limit)

    def status(self) -> VolumeStatus:
        """A still picture: artifacts, sessions, what is unsettled or refused."""
        return overview.status(self._open_parts())

    def check(
        self, repair: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> CheckReport:
        """Compare records, history and files; with *repair* mend what can be.

        *progress* is called with (artifacts done, artifacts in all).
        """
        return checkup.check(self._open_parts(), repair=repair, progress=progress)

    # ── the volume itself ────────────────────────────────────────────────────

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

    # ── paths ────────────────────────────────────────────────────────────────

    def _open_parts(self) -> VolumeParts:
        if not self._finalizer.alive:
            raise ClosedError("this volume is closed", path=self.root)
        return self._parts

    def _managed_key(self, path: PathArgument) -> ArtifactKey:
        key = self._keys.get(path)
        if key is None:
            key = self._admit(self._open_parts().root.key(path))
            if len(self._keys) >= _KEYS_MAX:
                self._keys.clear()
            self._keys[path] = key
        return key

    def _admit(self, key: ArtifactKey) -> ArtifactKey:
        parts = self._parts
        if not parts.globs.matches(key):
            raise NotManagedError(
                "not managed by this volume",
                path=shown(key),
                managed=list(parts.config.managed),
            )
        parts.root.refuse_volumes_inside(key)
        return key

    def _on(self, path: PathArgument, act: Callable[[ArtifactKey], T]) -> T:
        """Do *act* on the artifact that *path* names, through links inside the root."""
        try:
            key = self._managed_key(path)
            return act(key)
        except SymlinkFound:
            pass
        except NotManagedError:
            followed = self._followed(path)
            if followed is None:
                raise
            return act(self._admit(followed))
        followed = self._followed(path)
        if followed is None:
            raise OutsideRootError("a symbolic link on the way is not followed", path=shown(key))
        return act(self._admit(followed))

    def _followed(self, path: PathArgument) -> ArtifactKey | None:
        root = self._open_parts().root
        key = root.key(path)
        followed = root.follow(key)
        return None if followed == key else followed

    def _commit(
        self, path: PathArgument, act: Callable[[VolumeParts, ArtifactKey], Commit]
    ) -> Commit:
        parts = self._open_parts()
        try:
            return self._on(path, lambda key: act(parts, key))
        finally:
            self._maintenance.nudge()


def _shut(parts: VolumeParts, maintenance: Maintenance, cache: ContentCache) -> None:
    maintenance.stop()
    cache.clear()
    with contextlib.ExitStack() as stack:
        # Without the gate in time its holder has the database open: then this
        # close is not the last one, and touches no log.
        with contextlib.suppress(CoherenceError):
            stack.enter_context(parts.gate.held(_CLOSE_WAIT_S))
        parts.sidecar.database.close()
    parts.gate.close()
    parts.close()
