"""Merging: a stale commit whose edits are disjoint from the head's is made to fit.

Owns the way from a refusal to a merged commit. Merged content is a commit like
any other: its base is the head that it was merged with, so the same
compare-and-swap judges it, and if the head has moved again everything is done
anew. The epoch stays that of what the author saw: a fenced author is refused as
ever (I4). Overlapping edits are always refused (I1); conflict markers stand in a
kept copy only, never in the artifact.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from dataclasses import replace

from coherent_volume.commit import commit
from coherent_volume.digest import digest_of
from coherent_volume.errors import (
    CoherenceError,
    ConflictError,
    ForeignEditError,
    StaleGenerationError,
)
from coherent_volume.judgement import Expectation, Intent
from coherent_volume.locks import GATE_WAIT_S
from coherent_volume.merge import LINES_MAX, MERGE_BYTES_MAX, Merged, Verdict, three_way
from coherent_volume.model import ArtifactKey, Commit, MergedWith
from coherent_volume.parts import VolumeParts
from coherent_volume.reading import Reading, read
from coherent_volume.recall import content_seen, passed_since
from coherent_volume.records import OUTSIDE, SeenRow
from coherent_volume.report import attach, explain, note_refusal, refusal_of

__all__ = ["commit_or_merge", "gathered"]

_TRIES = 8
"""How often a head that moves is run after; each try is a whole merge."""

_Stale = (StaleGenerationError, ForeignEditError)

_WHY_NOT = {
    Verdict.OVERLAPS: "both changed the same place",
    Verdict.NOT_TEXT: "not all of it is text (UTF-8 without NUL)",
    Verdict.TOO_LARGE: f"more than {MERGE_BYTES_MAX >> 20} MiB or {LINES_MAX} lines",
    Verdict.TOO_ALIKE: "too many of its lines are the same",
    Verdict.DELETED: "what is current is a deletion, or follows one",
    Verdict.HISTORY_LOST: "what happened since is not all kept; it may have been deleted meanwhile",
    Verdict.BASE_LOST: "the content that yours was derived from is not kept any longer",
}


def gathered(chunks: Iterable[bytes]) -> bytes | Iterable[bytes]:
    """The content of *chunks* in memory, or still as chunks if it is too large to merge."""
    iterator = iter(chunks)
    pieces: list[bytes] = []
    size = 0
    for chunk in iterator:
        pieces.append(chunk)
        size += len(chunk)
        if size > MERGE_BYTES_MAX:
            return itertools.chain(pieces, iterator)
    return b"".join(pieces)


def commit_or_merge(
    parts: VolumeParts, intent: Intent, known: bytes | None = None, tries: int = _TRIES
) -> Commit:
    """Commit *intent*; if it is stale, what it and the head become when merged.

    *known* is the content of its base, if the caller has it. Raises what
    ``commit`` raises; the refusal then says why it was not merged.
    """
    try:
        return _committed(parts, intent, known, tries)
    except ConflictError as refusal:
        # Only now: what was merged in the end was not refused, and a commit that
        # an outside edit raced stands.
        if intent.keep_refused and "committed" not in refusal.fields:
            parts.meters.count("refusals", label=refusal.reason)
            with contextlib.suppress(CoherenceError), parts.gate.held(GATE_WAIT_S):
                note_refusal(parts, refusal, intent.key)
        raise


def _committed(parts: VolumeParts, intent: Intent, known: bytes | None, tries: int) -> Commit:
    for remaining in reversed(range(tries)):
        attempt = replace(intent, explain=False)
        try:
            return commit(parts, [attempt])[0]
        except _Stale as conflict:
            if "committed" in conflict.fields:
                attach(parts, [intent], conflict)
                raise
            done = _merged(parts, intent, conflict, known)
            if done is not None:
                return done
            if not remaining or not isinstance(intent.content, bytes):
                attach(parts, [intent], conflict)
                raise
        except ConflictError as conflict:
            attach(parts, [intent], conflict)
            raise
    raise AssertionError("unreachable")


def _merged(
    parts: VolumeParts, intent: Intent, conflict: ConflictError, known: bytes | None
) -> Commit | None:
    """The merged commit; None when the head moved meanwhile. Raises *conflict*."""
    base = intent.base
    if base is None:
        raise conflict
    reading = read(parts, intent.key)
    if reading.seen.generation != conflict.fields["current"]:
        return None
    outcome = _outcome(parts, intent, base, reading, known)
    if outcome.content is None:
        raise _refused(parts, intent, conflict, outcome)
    merged = Intent(
        intent.key,
        "merge",
        outcome.content,
        Expectation.SEEN,
        # Of the head, but owned by whom the author knew as owner.
        reading.seen._replace(epoch=base.epoch),
        renews_view=False,
        keep_refused=False,
        saw=base.generation,
    )
    try:
        done = commit(parts, [merged])[0]
    except _Stale as again:
        if "committed" not in again.fields:
            return None
        again.fields["report"] = explain(parts, refusal_of(merged, again))
        raise
    except ConflictError as again:
        again.keep(conflict.fields.get("kept"))
        attach(parts, [intent], again)
        raise
    kept = conflict.fields.get("kept")
    if kept is not None:
        # It has landed. A crash before this line leaves a copy too many.
        with contextlib.suppress(OSError):
            parts.staging.drop_refused(kept)
    parts.meters.count("merges")
    return replace(done, merged=_with_whom(parts, intent.key, base, reading))


def _outcome(
    parts: VolumeParts, intent: Intent, base: SeenRow, reading: Reading, known: bytes | None
) -> Merged:
    if not reading.exists:
        return Merged(Verdict.DELETED)
    # What was made anew under the name is not what the author changed.
    deleted = passed_since(parts, intent.key, base.generation, reading.seen.generation).deleted
    if deleted:
        return Merged(Verdict.DELETED)
    mine, head = intent.content, reading.data
    if not isinstance(mine, bytes) or head is None:
        return Merged(Verdict.TOO_LARGE)
    before = content_seen(parts, intent.key, base, MERGE_BYTES_MAX, known)
    if before.data is None:
        return Merged(Verdict.BASE_LOST if before.lost else Verdict.TOO_LARGE)
    if deleted is None:
        return Merged(Verdict.HISTORY_LOST)
    return three_way(before.data, head, mine)


def _refused(
    parts: VolumeParts, intent: Intent, conflict: ConflictError, outcome: Merged
) -> ConflictError:
    """*conflict*, saying why there was no merge, with a marked copy of an overlap."""
    conflict.message = f"{conflict.message}; not merged: {_WHY_NOT[outcome.verdict]}"
    conflict.args = (conflict.message,)
    conflict.fields["merge"] = outcome.verdict.value
    if not (intent.keep_refused and intent.explain):
        return conflict
    base, current = intent.base, conflict.fields["current"]
    marked = None
    if outcome.verdict is Verdict.OVERLAPS and base is not None:
        content = outcome.marked(
            f"generation {current} ({conflict.fields['by']})",
            f"generation {base.generation}, which you saw",
            f"yours ({parts.session.name})",
        )
        with contextlib.suppress(OSError):
            digest = digest_of(content)
            marked = parts.staging.keep(intent.key, content, parts.session.name, current, digest)
        conflict.fields["marked"] = marked
    refusal = refusal_of(intent, conflict)
    conflict.fields["report"] = explain(
        parts, replace(refusal, marked=marked, verdict=outcome.verdict)
    )
    return conflict


def _with_whom(
    parts: VolumeParts, key: ArtifactKey, base: SeenRow, reading: Reading
) -> tuple[MergedWith, ...]:
    head = reading.seen.generation
    passed = passed_since(parts, key, base.generation, head).passed
    # A file that was never committed, edited from outside, has no commit.
    found = tuple(MergedWith(each.generation, each.session) for each in passed)
    return found or (MergedWith(head, OUTSIDE),)
