"""The operations on artifacts, each composed of a read and a commit.

Owns what a write, a create, an append, a deletion, a rename and an update
claim of the artifact before them, and the retries of an update. Every one of
them ends in ``commit``; nothing here decides a conflict.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable

from coherent_volume.commit import commit
from coherent_volume.config import OnConflict
from coherent_volume.digest import digest_of
from coherent_volume.errors import (
    BusyError,
    ConflictError,
    FencedError,
    NotFoundError,
    UsageError,
    printable,
)
from coherent_volume.files import proven_chunks
from coherent_volume.judgement import Expectation, Intent
from coherent_volume.keeping import refused_label
from coherent_volume.model import (
    ABSENT_DIGEST,
    ArtifactKey,
    Commit,
    Digest,
    Observation,
)
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.reading import Reading, read, reading_open
from coherent_volume.records import SeenRow

__all__ = [
    "TURN_WAIT_S",
    "Base",
    "append",
    "as_bytes",
    "content_now",
    "create",
    "delete",
    "is_known",
    "merge",
    "pause",
    "rename",
    "seen_of",
    "update",
    "write",
]

Base = Observation | Commit | int

TURN_WAIT_S = 1.0
"""How long an update stands in its queue before it tries without its turn: the
one ahead may run a slow function, and safety does not need the queue."""

_UNKNOWN = Digest(b"?")


def write(
    parts: VolumeParts,
    key: ArtifactKey,
    content: bytes | Iterable[bytes],
    base: Base | None,
    *,
    overwrite: bool,
    renew: bool = True,
    on_conflict: OnConflict | None = None,
) -> Commit:
    """Make *content* the next generation, if *base* (or the view) is current.

    If it is not, *on_conflict* (None: the configuration) says whether disjoint
    edits are merged.
    """
    if overwrite and on_conflict == "merge":
        raise UsageError("a write is merged or it overwrites, not both", path=shown(key))
    merging = _policy(parts, key, on_conflict) == "merge" and not overwrite
    seen = parts.session.seen(key) if base is None else seen_of(parts, key, base)
    expectation = Expectation.ANYTHING if overwrite else Expectation.SEEN
    intent = Intent(key, "write", content, expectation, seen, renews_view=renew)
    if not merging:
        return commit(parts, [intent])[0]
    from coherent_volume.merging import commit_or_merge, gathered

    if not isinstance(content, bytes):
        intent.content = gathered(content)
    known = base.data if isinstance(base, Observation) else None
    return commit_or_merge(parts, intent, known)


def _policy(parts: VolumeParts, key: ArtifactKey, asked: OnConflict | None) -> OnConflict:
    """What becomes of a stale write: as *asked*, else as the configuration says."""
    if asked is None:
        return parts.rules.on_conflict(key)
    if asked not in ("refuse", "merge"):
        raise UsageError(f'on_conflict is "refuse" or "merge", not {asked!r}')
    return asked


def merge(parts: VolumeParts, key: ArtifactKey, mine: bytes, base: Base | None) -> Commit:
    """As ``write``, merged where it is stale.

    Without *base*, content that was refused to this session last was derived
    from what it was derived from then: reading what is current, to see whether
    a merge makes sense, must not turn a merge into an overwrite.
    """
    from coherent_volume.merge import holds_markers
    from coherent_volume.report import stored

    if holds_markers(mine):
        raise UsageError(
            "the content still has conflict markers",
            path=shown(key),
            advice="Resolve each of them, then merge the file again.",
        )
    if base is None:
        last = stored(parts, key)
        if last is not None and last.kept is not None:
            label = refused_label(key, parts.session.name, last.base, digest_of(mine))
            if last.kept.endswith(f"/{label}"):
                base = last.base
    return write(parts, key, mine, base, overwrite=False, on_conflict="merge")


def create(parts: VolumeParts, key: ArtifactKey, content: bytes | Iterable[bytes]) -> Commit:
    """Make a new artifact; AlreadyExistsError when the name is taken."""
    return commit(parts, [Intent(key, "create", content, Expectation.ABSENT)])[0]


def delete(parts: VolumeParts, key: ArtifactKey, base: Base | None, *, overwrite: bool) -> Commit:
    """Make the next generation a deletion."""
    seen = parts.session.seen(key) if base is None else seen_of(parts, key, base)
    expectation = Expectation.ANYTHING if overwrite else Expectation.SEEN
    return commit(parts, [Intent(key, "delete", None, expectation, seen)])[0]


def rename(parts: VolumeParts, source: ArtifactKey, target: ArtifactKey) -> Commit:
    """Move *source* to the free name *target*: both artifacts, or neither."""
    if source == target:
        raise UsageError("source and target are the same", path=shown(source))
    with reading_open(parts, source) as (reading, look):
        if not reading.exists:
            raise NotFoundError(
                "no such artifact", path=shown(source), generation=reading.seen.generation
            )
        seen = parts.session.seen(source)
        # What is copied is what was read just now: the claim is that the
        # session's view is that, and that it still is when the commit is judged.
        base = seen
        if seen is not None and seen.digest == reading.seen.digest:
            base = reading.seen._replace(epoch=seen.epoch)
        content = look.data if look.data is not None else proven_chunks(source, look)
        arrival = Intent(target, "rename", content, Expectation.ABSENT, attributes_of=source)
        departure = Intent(source, "rename", None, Expectation.SEEN, base)
        return commit(parts, [departure, arrival])[1]


def append(parts: VolumeParts, key: ArtifactKey, data: bytes, retries: int = 64) -> Commit:
    """Add *data* at the end, whatever is there; nobody's work can be lost by it.

    The session's view advances only if it was current: having appended to a
    file is not having read it.
    """

    def attempt(last: bool) -> Commit:
        with reading_open(parts, key) as (reading, look):
            if look.data is not None or not reading.exists:
                content: bytes | Iterable[bytes] = (look.data or b"") + data
            else:
                content = itertools.chain(proven_chunks(key, look), [data])
            intent = Intent(
                key,
                "append",
                content,
                Expectation.SEEN,
                reading.seen,
                renews_view=False,
                keep_refused=last,
            )
            return commit(parts, [intent])[0]

    return _in_turn(parts, key, attempt, retries)


def update(
    parts: VolumeParts,
    key: ArtifactKey,
    function: Callable[[bytes], bytes | str],
    retries: int,
    *,
    renew: bool,
    on_conflict: OnConflict | None = None,
) -> Commit:
    """Commit ``function(content)``; on a conflict read again and call it again.

    A merge is tried only in the last try: a function that sees the new content
    knows better what to make of it than a merge of its lines.

    With *renew* the commit is the session's new view; without, only if its view
    was current before: a filter saw the content, the session's author did not.
    """
    if retries < 0:
        raise UsageError("retries must not be negative")
    merging = _policy(parts, key, on_conflict) == "merge"

    def attempt(last: bool) -> Commit:
        reading, data = content_now(parts, key)
        if not reading.exists:
            raise NotFoundError(
                "no such artifact", path=shown(key), generation=reading.seen.generation
            )
        content = as_bytes(function(data))
        intent = Intent(
            key,
            "update",
            content,
            Expectation.SEEN,
            reading.seen,
            renews_view=renew,
            keep_refused=last,
        )
        if last and merging:
            from coherent_volume.merging import commit_or_merge

            return commit_or_merge(parts, intent, data)
        return commit(parts, [intent])[0]

    return _in_turn(parts, key, attempt, retries)


def _in_turn(
    parts: VolumeParts, key: ArtifactKey, attempt: Callable[[bool], Commit], retries: int
) -> Commit:
    if retries == 0:
        return attempt(True)  # one try, however long it takes: not in the queue
    turn = parts.turn(key)
    try:
        turn.acquire(TURN_WAIT_S)
    except BusyError:
        return _retried(parts, attempt, retries)
    try:
        return _retried(parts, attempt, retries)
    finally:
        turn.release()


def _retried(parts: VolumeParts, attempt: Callable[[bool], Commit], retries: int) -> Commit:
    for tried in range(retries):
        try:
            return attempt(False)
        except FencedError:
            raise
        except ConflictError:
            parts.meters.count("retries")
            pause(tried)
    return attempt(True)


def pause(tried: int) -> None:
    """Wait after conflict number *tried*; jittered, so that colliders do not collide again."""
    time.sleep(os.urandom(1)[0] / 255 * min(0.1, 0.001 * 2**tried))


def content_now(parts: VolumeParts, key: ArtifactKey) -> tuple[Reading, bytes]:
    """A reading with its content in memory, however large."""
    reading = read(parts, key)
    if reading.data is not None or not reading.exists:
        return reading, reading.data or b""
    with reading_open(parts, key) as (reading, look):
        return reading, b"".join(proven_chunks(key, look))


def is_known(seen: SeenRow, known: Base) -> bool:
    """Whether *known* names exactly what was *seen*; a bare 0 never does."""
    if isinstance(known, int):
        return 0 < known == seen.generation
    return (known.generation, known.digest) == (seen.generation, seen.digest.hex())


def as_bytes(data: str | bytes | bytearray | memoryview) -> bytes:
    """*data* as bytes, text in UTF-8; UsageError for anything else."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the text cannot be written as UTF-8: {error.reason}") from None
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise UsageError(f"content must be str or bytes, not {type(data).__name__}")


def seen_of(parts: VolumeParts, key: ArtifactKey, base: Base) -> SeenRow:
    """What an explicit *base* claims to have seen.

    Raises UsageError for a bare 0: generation 0 is told apart by its digest.
    """
    if isinstance(base, Observation | Commit):
        if base.path != shown(key):
            raise UsageError(f"the base is one of {printable(base.path)}", path=shown(key))
        try:
            digest = Digest(bytes.fromhex(base.digest))
        except ValueError:
            raise UsageError("the base has no valid digest", path=shown(key)) from None
        return SeenRow(base.generation, digest, base.epoch)
    if type(base) is not int or not 0 <= base < 1 << 63:
        raise UsageError(f"a base is an Observation, a Commit or a generation, not {base!r}")
    seen = parts.session.seen(key)
    if seen is not None and seen.generation == base:
        return seen
    row = parts.sidecar.artifact(key)
    # A bare number says nothing of ownership: what the session knows counts.
    epoch = seen.epoch if seen else row.epoch if row else 0
    kept = parts.sidecar.generation(row.id, base) if row else None
    if kept is not None:
        return SeenRow(base, kept.digest, epoch)
    if base == 0:
        reading = read(parts, key)
        if reading.exists and reading.seen.generation == 0:
            raise UsageError(
                "generation 0 is told apart by its digest, not by its number",
                path=shown(key),
                advice="Pass the Observation that observe() returned, or read it first.",
            )
        if not reading.exists and reading.seen.generation == 0:
            return SeenRow(0, ABSENT_DIGEST, 0)
    return SeenRow(base, _UNKNOWN, epoch)
