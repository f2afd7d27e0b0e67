"""Views: content delivered to a session, and what the session remembers of it.

Owns the order "deliver, then remember" and the renewing of views. Finds no
generation itself (reading does) and commits nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from coherent_volume.digest import digest_of_chunks
from coherent_volume.errors import BusyError, CoherenceError, NotFoundError
from coherent_volume.files import Look, chunks_of, drop_lease
from coherent_volume.model import ArtifactKey, Observation
from coherent_volume.operations import Base, content_now, is_known
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.reading import Reading, read, reading_open, record
from coherent_volume.records import SeenRow

__all__ = ["deliver", "described", "hand_over", "reacquire", "receive", "view_of"]


def receive(parts: VolumeParts, key: ArtifactKey) -> tuple[Reading, bytes]:
    """The current content in memory; it becomes what the session saw."""
    reading, data = content_now(parts, key)
    record(parts, key, reading)
    _refuse_absent(key, reading)
    parts.meters.count_read(key, len(data))
    return reading, data


def described(
    parts: VolumeParts,
    key: ArtifactKey,
    seen: SeenRow,
    data: bytes,
    known: Base | None,
    *,
    from_memory: bool = False,
) -> Observation:
    """What was received, as an observation; without data when it is still *known*."""
    unchanged = known is not None and not parts.always_delivers and is_known(seen, known)
    if unchanged:
        parts.meters.count_unchanged(len(data), from_memory=from_memory)
    return _observation(key, seen, None if unchanged else data)


def deliver(parts: VolumeParts, key: ArtifactKey, sink: BinaryIO) -> Observation:
    """Write the content to *sink* in chunks; only then is it what the session saw.

    A session that outlives this process must not be credited with content that
    nobody received.
    """
    reading = hand_over(parts, key, sink)
    record(parts, key, reading)
    _refuse_absent(key, reading)
    parts.meters.count_read(key, reading.size)
    return _observation(key, reading.seen, None)


def hand_over(parts: VolumeParts, key: ArtifactKey, sink: BinaryIO) -> Reading:
    """Write the content to *sink*, if there is any, and remember nothing."""
    with reading_open(parts, key) as (reading, look):
        if look.data is None and reading.exists:
            _stream(key, reading, look, sink)
    # Small content is delivered with the file closed: a reader that is slow to
    # take it (a pager) must not keep an editor waiting for our lease.
    if look.data is not None:
        sink.write(look.data)
    if reading.exists:
        sink.flush()
    return reading


def _stream(key: ArtifactKey, reading: Reading, look: Look, sink: BinaryIO) -> None:
    """Deliver large content from the open file, and prove that it was one generation."""
    drop_lease(look.descriptor)

    def delivered() -> Iterator[bytes]:
        for chunk in chunks_of(look.descriptor):
            sink.write(chunk)
            yield chunk

    if digest_of_chunks(delivered()) != reading.seen.digest:
        raise BusyError(
            "the file was changed from outside while it was being delivered",
            path=shown(key),
            advice="What was delivered is no generation: discard it and read again.",
            holder="another process",
        )


def reacquire(parts: VolumeParts, keys: list[ArtifactKey] | None) -> list[str]:
    """Read again what is stale, of *keys* or of all that was seen; their paths."""
    seen = parts.session.all_seen()
    stale = []
    refusal: CoherenceError | None = None
    for key in sorted(seen) if keys is None else keys:
        try:
            reading = read(parts, key)
            if key not in seen:
                _refuse_absent(key, reading)
            if reading.seen != seen.get(key):
                record(parts, key, reading)
                stale.append(shown(key))
        except CoherenceError as error:
            refusal = refusal or error  # one bad artifact must not hide the others
    if refusal is not None:
        raise refusal
    return stale


def view_of(parts: VolumeParts, key: ArtifactKey) -> Observation | None:
    """What the session last saw of *key*, without looking now; None: nothing."""
    seen = parts.session.seen(key)
    if seen is None:
        return None
    return _observation(key, seen, None)


def _observation(key: ArtifactKey, seen: SeenRow, data: bytes | None) -> Observation:
    return Observation(shown(key), seen.generation, seen.digest.hex(), data, seen.epoch)


def _refuse_absent(key: ArtifactKey, reading: Reading) -> None:
    if not reading.exists:
        raise NotFoundError("no such artifact", path=shown(key), generation=reading.seen.generation)
