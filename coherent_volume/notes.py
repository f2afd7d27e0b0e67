"""Catch-up notes: what this session read and peers changed since, told once per head.

Owns which heads a session was told about. A note renews no view: to know of a
change is not to have read it, and a write that was derived from the older
content is refused as before. Differences are short, escaped and made from
bounded input, because they end in terminals and in the context of agents.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from coherent_volume.answers import Note
from coherent_volume.difference import excerpt
from coherent_volume.errors import CoherenceError
from coherent_volume.lines import is_text
from coherent_volume.locks import GATE_WAIT_S
from coherent_volume.model import (
    ABSENT_DIGEST,
    ArtifactKey,
    moment,
)
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.reading import Reading, read
from coherent_volume.recall import content_seen
from coherent_volume.records import SeenRow

__all__ = ["notes", "short_diff", "told"]

_BY_MAX = 8
_INPUT_MAX = 1 << 20
_LINES_MAX = 40
_BYTES_MAX = 4_000


def notes(parts: VolumeParts) -> list[Note]:
    """What changed since the session read it and it was not told yet, by path.

    Looks at every file that the session has seen, as a reader does, and so
    adopts outside edits. An artifact that cannot be read now is left for later.
    """
    known = _told_before(parts)
    found = []
    for key, seen in sorted(parts.session.all_seen().items()):
        try:
            reading = read(parts, key)
            if reading.seen.digest == seen.digest or reading.artifact is None:
                continue
            if known.get(key) != reading.seen.generation:
                found.append(_note(parts, key, seen, reading))
        except CoherenceError:
            continue
    return found


def told(parts: VolumeParts, given: Sequence[Note]) -> None:
    """Remember that the session was told *given*; until then they are told again."""
    if not given:
        return
    heads = {ArtifactKey(os.fsencode(note.path)): note.current for note in given}
    parts.session.told.update(heads)
    if parts.session.observer is not None:
        with parts.gate.held(GATE_WAIT_S):
            parts.sidecar.database.verify()
            parts.sidecar.tell(parts.session.observer, heads)


def _told_before(parts: VolumeParts) -> dict[ArtifactKey, int]:
    if parts.session.observer is None:
        return parts.session.told
    return {**parts.sidecar.told(parts.session.observer), **parts.session.told}


def _note(parts: VolumeParts, key: ArtifactKey, seen: SeenRow, reading: Reading) -> Note:
    between = parts.sidecar.makers(reading.artifact or 0, seen.generation, _BY_MAX)
    return Note(
        shown(key),
        seen.generation,
        reading.seen.generation,
        "delete" if reading.seen.digest == ABSENT_DIGEST else between[-1][1] if between else "",
        tuple(dict.fromkeys(session for session, _, _ in between)),
        moment(between[-1][2] / 1e9) if between else "",
        _diff(parts, key, seen, reading),
    )


def _diff(parts: VolumeParts, key: ArtifactKey, seen: SeenRow, reading: Reading) -> str:
    if not reading.exists:
        return "(deleted)"
    before = content_seen(parts, key, seen, _INPUT_MAX)
    if before.lost:
        return f"(generation {seen.generation} is not kept any more)"
    if before.data is None or reading.data is None or len(reading.data) > _INPUT_MAX:
        return "(too large for a short difference)"
    return short_diff(before.data, reading.data)


def short_diff(before: bytes, after: bytes) -> str:
    """The changed lines, escaped, at most 40 of them; or why they are not shown."""
    if not (is_text(before) and is_text(after)):
        return f"(not text: {len(before)} bytes before, {len(after)} now)"
    found = excerpt(before, after, "", "", _LINES_MAX + 2, _BYTES_MAX, context=0)
    lines = list(found.lines[2:])
    if found.left_out or not found.compared_whole:
        lines.append("(the rest is cut)")
    return "\n".join(lines)
