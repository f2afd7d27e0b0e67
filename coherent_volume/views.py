"""Views: content delivered to a session, and what the session remembers of it.

Owns the order "deliver, then remember" and the renewing of views. Finds no
generation itself (reading does) and commits nothing.
"""

from __future__ import annotations

from typing import BinaryIO

from coherent_volume.errors import NotFoundError
from coherent_volume.files import chunks_of
from coherent_volume.model import ArtifactKey, Observation
from coherent_volume.operations import Base, content_now, is_known
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.reading import Reading, read, reading_open, record

__all__ = ["deliver", "observe", "reacquire", "receive", "view_of"]


def receive(parts: VolumeParts, key: ArtifactKey) -> tuple[Reading, bytes]:
    """The current content in memory; it becomes what the session saw."""
    reading, data = content_now(parts, key)
    record(parts, key, reading)
    _refuse_absent(key, reading)
    return reading, data


def observe(parts: VolumeParts, key: ArtifactKey, known: Base | None) -> Observation:
    """As ``receive``, described; without data when it is still *known*."""
    reading, data = receive(parts, key)
    unchanged = known is not None and is_known(reading.seen, known)
    return _observation(key, reading, None if unchanged else data)


def deliver(parts: VolumeParts, key: ArtifactKey, sink: BinaryIO) -> Observation:
    """Write the content to *sink* in chunks; only then is it what the session saw.

    A session that outlives this process must not be credited with content that
    nobody received.
    """
    with reading_open(parts, key) as (reading, look):
        if look.data is not None:
            sink.write(look.data)
        elif reading.exists:
            sink.writelines(chunks_of(look.descriptor))
    if reading.exists:
        sink.flush()
    record(parts, key, reading)
    _refuse_absent(key, reading)
    return _observation(key, reading, None)


def reacquire(parts: VolumeParts, keys: list[ArtifactKey] | None) -> list[str]:
    """Read again what is stale, of *keys* or of all that was seen; their paths."""
    seen = parts.session.all_seen()
    stale = []
    for key in sorted(seen) if keys is None else keys:
        reading = read(parts, key)
        if reading.seen != seen.get(key):
            record(parts, key, reading)
            stale.append(shown(key))
    return stale


def view_of(parts: VolumeParts, key: ArtifactKey) -> Observation | None:
    """What the session last saw of *key*, without looking now; None: nothing."""
    seen = parts.session.seen(key)
    if seen is None:
        return None
    return Observation(shown(key), seen.generation, seen.digest.hex(), None, seen.epoch)


def _observation(key: ArtifactKey, reading: Reading, data: bytes | None) -> Observation:
    seen = reading.seen
    return Observation(shown(key), seen.generation, seen.digest.hex(), data, seen.epoch)


def _refuse_absent(key: ArtifactKey, reading: Reading) -> None:
    if not reading.exists:
        raise NotFoundError("no such artifact", path=shown(key), generation=reading.seen.generation)
