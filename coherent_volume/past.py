"""The past: kept generations by their number, their content, and what they differ in.

Owns the ways of asking for one generation and the refusal of one that is not
kept. Reads only; commits nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from coherent_volume.difference import unified
from coherent_volume.errors import (
    GenerationNotKeptError,
    NotFoundError,
    UsageError,
)
from coherent_volume.files import IN_MEMORY_MAX
from coherent_volume.model import ABSENT_DIGEST, ArtifactKey, Digest
from coherent_volume.operations import content_now
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.reading import read
from coherent_volume.records import ArtifactRow, HistoryRow
from coherent_volume.remake import content_of

__all__ = [
    "before",
    "content_at",
    "diff",
    "generation_at",
    "lazily",
    "read_at",
    "read_at_to",
    "whole",
]

_MADE_FROM_NOTHING = ("create", "rename")
"""Kinds whose generation 0, if it is not recorded, was no file."""


def generation_at(
    parts: VolumeParts, key: ArtifactKey, generation: int
) -> tuple[ArtifactRow, HistoryRow]:
    """The artifact's row and the record of one kept generation.

    Raises GenerationNotKeptError, which says what remains; NotFoundError.
    """
    if type(generation) is not int or not 0 <= generation < 1 << 63:
        raise UsageError(f"a generation is a number from 0, not {generation!r}", path=shown(key))
    row = parts.sidecar.artifact(key)
    kept = parts.sidecar.generation(row.id, generation) if row else None
    if row is None or kept is None:
        raise _not_kept(parts, key, row, generation)
    return row, kept


def _not_kept(
    parts: VolumeParts, key: ArtifactKey, row: ArtifactRow | None, generation: int
) -> NotFoundError:
    remain = parts.sidecar.kept_range(row.id) if row else None
    if remain is None:
        if not read(parts, key).exists:
            return NotFoundError("no such artifact", path=shown(key), generation=0)
        what = f"there is no generation {generation}: nothing was committed here yet"
        oldest = newest = None
    else:
        oldest, newest = remain
        kept = f"generations {oldest} to {newest} are kept"
        if oldest == newest:
            kept = f"only generation {oldest} is kept"
        missing = "is not kept any longer" if generation < newest else "does not exist"
        what = f"generation {generation} {missing}; {kept}"
    return GenerationNotKeptError(
        what, path=shown(key), generation=generation, oldest=oldest, newest=newest
    )


def content_at(
    parts: VolumeParts, key: ArtifactKey, artifact: int, generation: int
) -> bytes | Iterable[bytes]:
    """The content of a recorded generation; large content as chunks."""
    try:
        return content_of(parts, key, artifact, generation)
    except GenerationNotKeptError:
        raise
    except NotFoundError:
        if parts.sidecar.generation(artifact, generation) is None:  # pruned meanwhile
            raise _not_kept(parts, key, parts.sidecar.artifact(key), generation) from None
        raise GenerationNotKeptError(
            f"the content of generation {generation} was too large to be kept, or was lost",
            path=shown(key),
            generation=generation,
            oldest=None,
            newest=None,
        ) from None


def lazily(parts: VolumeParts, key: ArtifactKey, artifact: int, generation: int) -> Iterator[bytes]:
    """As ``content_at``, fetched only when it is consumed."""
    content = content_at(parts, key, artifact, generation)
    yield from [content] if isinstance(content, bytes) else content


def before(parts: VolumeParts, made: HistoryRow, artifact: int) -> tuple[int, Digest]:
    """Number and digest of the generation that *made* succeeded; its content is kept.

    Raises GenerationNotKeptError.
    """
    kept = parts.sidecar.generation(artifact, made.base)
    if kept is None:
        # Generation 0 is recorded only where there was a file.
        was_made = made.kind in _MADE_FROM_NOTHING and made.digest != ABSENT_DIGEST
        if made.base == 0 and was_made:
            return 0, ABSENT_DIGEST
        raise _not_kept(parts, made.key, parts.sidecar.artifact(made.key), made.base)
    if kept.digest != ABSENT_DIGEST and parts.sidecar.content(artifact, made.base) is None:
        content_at(parts, made.key, artifact, made.base)  # says why
    return kept.generation, kept.digest


def read_at(parts: VolumeParts, key: ArtifactKey, generation: int) -> bytes:
    """The content of a kept generation, in memory; no view is renewed by it."""
    return b"".join(_chunks_at(parts, key, generation))


def read_at_to(parts: VolumeParts, key: ArtifactKey, generation: int, sink: BinaryIO) -> None:
    """As ``read_at``, written to *sink* in chunks."""
    sink.writelines(_chunks_at(parts, key, generation))
    sink.flush()


def _chunks_at(parts: VolumeParts, key: ArtifactKey, generation: int) -> Iterable[bytes]:
    row = parts.sidecar.artifact(key)
    if row is None and generation == 0:
        reading, data = content_now(parts, key)
        if reading.exists:
            return [data]
    row, kept = generation_at(parts, key, generation)
    if kept.digest == ABSENT_DIGEST:
        raise NotFoundError(
            f"generation {generation} is a deletion", path=shown(key), generation=generation
        )
    content = content_at(parts, key, row.id, generation)
    return [content] if isinstance(content, bytes) else content


def diff(parts: VolumeParts, key: ArtifactKey, old: int | None, new: int | None) -> str:
    """A unified diff of two generations, whole; "" when they are equal.

    Without *new* the current one, without *old* the one before *new*.
    """
    read(parts, key)  # what an editor left is a generation first
    row = parts.sidecar.artifact(key)
    if new is None:
        new = row.generation if row else 0
    if row is None and new == 0 and old in (None, 0):
        read_at(parts, key, 0)  # raises when there is nothing
        return ""
    _, right = generation_at(parts, key, new)
    if old is None:
        old = right.base
        if old == new:
            return ""
        row_, left = generation_at(parts, key, new)
        number, digest = before(parts, left, row_.id)
        if digest == ABSENT_DIGEST:
            return unified(None, whole(parts, key, right), "", f"{shown(key)}@{new}")
        old = number
    _, left = generation_at(parts, key, old)
    return unified(
        whole(parts, key, left),
        whole(parts, key, right),
        f"{shown(key)}@{old}",
        f"{shown(key)}@{new}",
    )


def whole(parts: VolumeParts, key: ArtifactKey, entry: HistoryRow) -> bytes | None:
    """The content of *entry* for a comparison by lines; None for a deletion.

    Raises UsageError for content too large to be compared.
    """
    if entry.digest == ABSENT_DIGEST:
        return None
    if entry.size > IN_MEMORY_MAX:
        raise UsageError(
            f"generation {entry.generation} is too large to be compared by lines"
            f" ({entry.size} bytes, at most {IN_MEMORY_MAX})",
            path=shown(key),
            advice=f"coherent show PATH {entry.generation} prints it.",
        )
    row, _ = generation_at(parts, key, entry.generation)
    content = content_at(parts, key, row.id, entry.generation)
    return content if isinstance(content, bytes) else b"".join(content)
