"""Blame: for each line of an artifact the generation that brought it in.

Walks from the head to older generations, and stops when every line has its
answer or no older generation is kept. Reads only. Time is bounded by
``lines.matches`` for each step and by the retention for their number.
"""

from __future__ import annotations

from coherent_volume.answers import BlamedLine
from coherent_volume.errors import GenerationNotKeptError, NotFoundError, UsageError
from coherent_volume.files import IN_MEMORY_MAX
from coherent_volume.lines import is_binary, lines_of, matches
from coherent_volume.model import (
    ArtifactKey,
    moment,
)
from coherent_volume.operations import content_now
from coherent_volume.parts import VolumeParts
from coherent_volume.past import whole
from coherent_volume.paths import shown
from coherent_volume.reading import read
from coherent_volume.records import OUTSIDE, HistoryRow

__all__ = ["blame"]


def blame(parts: VolumeParts, key: ArtifactKey) -> list[BlamedLine]:
    """Every line of the head with the generation, session and time it came from.

    Raises NotFoundError, UsageError for binary or very large content.
    """
    reading = read(parts, key)  # what an editor left is a generation first
    if not reading.exists:
        raise NotFoundError("no such artifact", path=shown(key), generation=reading.seen.generation)
    if reading.size > IN_MEMORY_MAX:
        raise UsageError(
            f"too large to be blamed by lines ({reading.size} bytes, at most {IN_MEMORY_MAX})",
            path=shown(key),
        )
    entries = parts.sidecar.history(key, None)
    if not entries:
        _, data = content_now(parts, key)
        lines = _text_lines(key, data)
        return [_blamed(n, line, None, or_before=True) for n, line in enumerate(lines, 1)]
    return _walk(parts, key, entries)


def _walk(parts: VolumeParts, key: ArtifactKey, entries: list[HistoryRow]) -> list[BlamedLine]:
    head = entries[0]
    lines = _text_lines(key, whole(parts, key, head) or b"")
    blamed: list[BlamedLine | None] = [None] * len(lines)
    # Where each line without an answer stands in the generation that is looked at.
    open_lines = {number: number for number in range(len(lines))}
    current, newer = lines, head
    for older in entries[1:]:
        if not open_lines or not _follows(older, newer):
            break
        if older.digest == newer.digest:
            newer = older
            continue
        earlier = _lines_before(parts, key, older)
        if earlier is None:
            break
        came_from: dict[int, int] = {}
        for a, b, size in matches(earlier, current):
            came_from.update(zip(range(b, b + size), range(a, a + size), strict=True))
        for number, at in list(open_lines.items()):
            if at in came_from:
                open_lines[number] = came_from[at]
            else:
                del open_lines[number]
                blamed[number] = _blamed(number + 1, lines[number], newer, or_before=False)
        current, newer = earlier, older
    exact = newer.generation == 1 and newer.kind in ("create", "rename")
    for number in open_lines:
        blamed[number] = _blamed(number + 1, lines[number], newer, or_before=not exact)
    return [each for each in blamed if each is not None]


def _follows(older: HistoryRow, newer: HistoryRow) -> bool:
    return older.generation == newer.base or newer.kind == "recovered"


def _lines_before(parts: VolumeParts, key: ArtifactKey, entry: HistoryRow) -> list[bytes] | None:
    """The lines of an older generation; None where the walk must end."""
    try:
        content = whole(parts, key, entry)
    except (GenerationNotKeptError, UsageError):
        return None
    # Text that replaced binary content came in with the text, every line of it.
    return [] if content is None or is_binary(content) else lines_of(content)


def _text_lines(key: ArtifactKey, data: bytes) -> list[bytes]:
    if is_binary(data):
        raise UsageError("binary content has no lines to blame", path=shown(key))
    return lines_of(data)


def _blamed(number: int, line: bytes, entry: HistoryRow | None, *, or_before: bool) -> BlamedLine:
    return BlamedLine(
        number,
        entry.generation if entry else 0,
        entry.session if entry else OUTSIDE,
        moment(entry.at / 1e9) if entry else "",
        or_before,
        line.removesuffix(b"\n").decode("utf-8", "surrogateescape"),
    )
