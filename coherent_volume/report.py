"""Reports: what a refusal tells, made in one place for every edge.

Owns the making and the keeping of ConflictReport. It describes what is fixed
(generations never change), so it needs no gate and decides nothing. Trouble in
the making never replaces the refusal: the report then says what it cannot show.

The report about a session's last refusal of an artifact lies beside the refused
content, so that another process can show the same bytes again. The feed is told
under the gate that the refusal itself holds; no failure of that takes its place.

``attach`` serves commits. Whoever refuses without one (a mount, at an open or a
rename) calls ``explain`` with a Refusal: the artifact, what the session saw, and
the pending bytes or the name under which they are kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coherent_volume import events
from coherent_volume.conflict import CommitBetween, ConflictReport, WayOut
from coherent_volume.difference import DIFF_BYTES_MAX, DIFF_LINES_MAX, excerpt
from coherent_volume.errors import CoherenceError, ConflictError, FencedError, printable
from coherent_volume.judgement import Intent
from coherent_volume.keeping import report_label
from coherent_volume.lines import is_text
from coherent_volume.merge import LINES_MAX, MERGE_BYTES_MAX, Verdict, three_way
from coherent_volume.model import ABSENT_DIGEST, ArtifactKey, Digest, moment
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.recall import (
    Content,
    Since,
    content_seen,
    current_now,
    generation_of,
    passed_since,
)
from coherent_volume.records import EventRow, SeenRow

__all__ = ["Refusal", "attach", "build", "explain", "note_refusal", "stored"]

_TRIED_MAX = 512 << 10
"""Bytes of content up to which a report tries the merge: it must be made at once."""

_WITHHELD = "Your content never came here: it was refused before it was written."

_NO_CONTENT = Content(None, lost=True)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is known about a refusal; the rest is looked up.

    ``base`` is what the author's content was derived from (None: it never read
    the artifact), ``head`` the current generation if it is known. ``pending``
    is the refused content, or None where ``kept`` names the file below the root
    that holds it; without both nothing is pending, as in a deletion.
    ``base_content`` is the content of ``base``, if the caller has it.
    ``verdict`` is what a merge found that was tried already. ``withheld``: there is
    content, but it never came here, because already the opening was refused.
    """

    key: ArtifactKey
    reason: str
    cause: str
    base: SeenRow | None
    head: int | None = None
    pending: bytes | None = None
    kept: str | None = None
    marked: str | None = None
    base_content: bytes | None = None
    verdict: Verdict | None = None
    withheld: bool = False


class _Known(NamedTuple):
    """What the records say: the base, the head, their contents, and what lies between."""

    base: SeenRow | None
    head: SeenRow
    before: Content
    after: Content
    since: Since


# ── making ───────────────────────────────────────────────────────────────────


def attach(parts: VolumeParts, intents: Sequence[Intent], error: CoherenceError) -> None:
    """Give *error* its report, if it is a refusal that the caller is told."""
    told = all(each.keep_refused and each.explain for each in intents)
    if not isinstance(error, ConflictError) or not told:
        return
    intent = next((each for each in intents if shown(each.key) == error.path), None)
    if intent is None:
        key = ArtifactKey(os.fsencode(error.path or ""))
        refusal = Refusal(key, error.reason, error.message, parts.session.seen(key))
    else:
        refusal = refusal_of(intent, error)
    error.fields["report"] = explain(parts, refusal)


def note_refusal(parts: VolumeParts, conflict: ConflictError, key: ArtifactKey) -> None:
    """Under the gate: put a refusal into the feed, if that can be done."""
    current = conflict.fields.get("current")
    event = EventRow(
        "refuse",
        parts.session.name,
        key if conflict.path is None else ArtifactKey(os.fsencode(conflict.path)),
        current if isinstance(current, int) and conflict.reason != "fenced" else 0,
        conflict.reason,
    )
    with (
        contextlib.suppress(CoherenceError),
        parts.sidecar.database.transaction(durable=False) as connection,
    ):
        events.append(connection, event)


def refusal_of(intent: Intent, error: ConflictError) -> Refusal:
    """What *error* and the refused *intent* know."""
    pending = intent.staged.data if intent.staged is not None else None
    if isinstance(intent.content, bytes):
        pending = intent.content
    base = intent.base
    if base is None and "committed" in error.fields:
        base = SeenRow(error.fields["base"], Digest(b"?"), 0)
    return Refusal(
        intent.key,
        error.reason,
        error.message,
        base,
        # Of a fenced author "current" is the epoch.
        None if isinstance(error, FencedError) else error.fields.get("current"),
        pending,
        error.fields.get("kept"),
    )


def explain(parts: VolumeParts, refusal: Refusal) -> ConflictReport:
    """The report about *refusal*, kept as the last one of this session; never fails."""
    try:
        report = build(parts, refusal)
    except Exception as trouble:  # noqa: BLE001 - nothing may take the refusal's place
        report = _bare(parts, refusal, trouble)
    try:
        text = json.dumps(report.as_dict(), separators=(",", ":"))
        parts.staging.note(report_label(refusal.key, parts.session.name), text.encode())
    except (CoherenceError, OSError):
        pass  # a full disk: it is in the error all the same
    return report


def stored(parts: VolumeParts, key: ArtifactKey) -> ConflictReport | None:
    """The report about this session's last refusal of *key*, while it is kept."""
    try:
        label = report_label(key, parts.session.name)
        return ConflictReport.from_dict(json.loads(parts.staging.noted(label)))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none, or somebody meddled with it


def build(parts: VolumeParts, refusal: Refusal) -> ConflictReport:
    """The report about *refusal*. Raises CoherenceError and OSError; keeps nothing."""
    key = refusal.key
    with parts.sidecar.database.snapshot():  # what it tells was true at one moment
        known = _look_up(parts, refusal)
    base, head, since = known.base, known.head, known.since
    diff, note = _difference(known)
    verdict = refusal.verdict or _verdict(parts, refusal, known)
    return ConflictReport(
        path=shown(key),
        root=os.fsdecode(parts.root.path),
        session=parts.session.name,
        reason=refusal.reason,
        cause=refusal.cause,
        base=base.generation if base else None,
        head=head.generation,
        between=tuple(
            CommitBetween(each.generation, each.session, moment(each.at / 1e9), each.kind)
            for each in since.passed
        ),
        omitted=since.omitted,
        diff=diff,
        diff_note=note,
        merge=verdict.value,
        merge_note=_WITHHELD if refusal.withheld else _merge_note(verdict, base, head),
        kept=refusal.kept,
        marked=refusal.marked,
        ways_out=_ways_out(refusal, verdict, head),
    )


def _look_up(parts: VolumeParts, refusal: Refusal) -> _Known:
    key, base = refusal.key, refusal.base
    head, data = current_now(parts, key)
    if refusal.head not in (None, head.generation):
        head, data = generation_of(parts, key, refusal.head or 0) or head, None
    if base is not None and base.digest == b"?":
        base = generation_of(parts, key, base.generation) or base
    before = after = _NO_CONTENT
    if base is not None and base.digest != head.digest:
        before = content_seen(parts, key, base, MERGE_BYTES_MAX, refusal.base_content)
    if base is not None and head.digest != ABSENT_DIGEST:
        after = content_seen(parts, key, head, MERGE_BYTES_MAX, data)
    since = passed_since(parts, key, base.generation if base else None, head.generation)
    return _Known(base, head, before, after, since)


def _bare(parts: VolumeParts, refusal: Refusal, trouble: Exception) -> ConflictReport:
    """What can be said without the records."""
    what = trouble.message if isinstance(trouble, CoherenceError) else type(trouble).__name__
    return ConflictReport(
        path=shown(refusal.key),
        root=os.fsdecode(parts.root.path),
        session=parts.session.name,
        reason=refusal.reason,
        cause=refusal.cause,
        base=refusal.base.generation if refusal.base else None,
        head=refusal.head or 0,
        between=(),
        omitted=0,
        diff=(),
        diff_note=f"What happened meanwhile cannot be shown: {printable(what)}",
        merge=Verdict.UNKNOWN.value,
        merge_note="",
        kept=refusal.kept,
        marked=refusal.marked,
        ways_out=(),
    )


# ── what changed ─────────────────────────────────────────────────────────────


def _difference(known: _Known) -> tuple[tuple[str, ...], str]:
    """The lines of the diff, and what it leaves out or why there is none."""
    base, head, before, after, _ = known
    if base is None or base.digest == head.digest:
        return (), ""
    names = (f"generation {base.generation}", f"generation {head.generation}")
    if head.digest == ABSENT_DIGEST:
        return (), f"{names[1].capitalize()} is a deletion."
    for content, name, seen in ((before, names[0], base), (after, names[1], head)):
        if content.data is None:
            why = (
                "is not kept any longer"
                if content.lost
                else f"is too large to be compared: {content.size} bytes"
            )
            digest = f" (digest {seen.digest.hex()})" if len(seen.digest) == 16 else ""
            return (), f"No diff can be shown: {name}{digest} {why}."
    old, new = before.data or b"", after.data or b""
    if not (is_text(old) and is_text(new)):
        return (), (
            f"Not text: {names[0]} has {len(old)} bytes (digest {base.digest.hex()}),"
            f" {names[1]} has {len(new)} bytes (digest {head.digest.hex()})."
        )
    diff = excerpt(old, new, *names)
    notes = []
    if diff.left_out:
        notes.append(
            f"{diff.left_out} more lines of the diff are left out (it is cut at"
            f" {DIFF_LINES_MAX} lines and {DIFF_BYTES_MAX} bytes)."
        )
    if not diff.compared_whole:
        notes.append("The changed region is large: it was not compared as a whole.")
    return diff.lines, " ".join(notes)


# ── whether it would merge ───────────────────────────────────────────────────


def _verdict(parts: VolumeParts, refusal: Refusal, known: _Known) -> Verdict:
    base, head, before, after, since = known
    if refusal.pending is None and refusal.kept is None:
        return Verdict.NOTHING_PENDING
    if base is None or refusal.reason == FencedError.reason:
        return Verdict.NOT_DERIVED
    if head.digest == ABSENT_DIGEST or since.deleted:
        return Verdict.DELETED
    mine = refusal.pending if refusal.pending is not None else _kept(parts, refusal.kept or "")
    if before.lost:
        return Verdict.BASE_LOST
    if since.deleted is None:
        return Verdict.HISTORY_LOST
    if mine is not None and mine == after.data:
        return Verdict.CONTAINED
    contents = (before.data, after.data, mine)
    if any(each is None or len(each) > MERGE_BYTES_MAX for each in contents):
        return Verdict.TOO_LARGE
    if any(len(each or b"") > _TRIED_MAX for each in contents):
        return Verdict.UNKNOWN
    return three_way(before.data or b"", after.data or b"", mine or b"").verdict


def _kept(parts: VolumeParts, kept: str) -> bytes | None:
    """Refused content that was streamed; None when it is too large for a merge."""
    with open(os.path.join(os.fsdecode(parts.root.path), kept), "rb") as file:
        data = file.read(MERGE_BYTES_MAX + 1)
    return data if len(data) <= MERGE_BYTES_MAX else None


_MERGE_NOTES = {
    Verdict.CLEAN: "Your content would merge cleanly with generation {head}.",
    Verdict.CONTAINED: "Your content adds nothing to generation {head}.",
    Verdict.OVERLAPS: "Your edits overlap with generation {head}: both changed the same place.",
    Verdict.NOT_TEXT: "It cannot be merged: not all of it is text (UTF-8 without NUL).",
    Verdict.TOO_LARGE: f"It cannot be merged: more than {MERGE_BYTES_MAX >> 20} MiB or"
    f" {LINES_MAX} lines.",
    Verdict.TOO_ALIKE: "It cannot be merged: too many of its lines are the same.",
    Verdict.DELETED: "It cannot be merged: generation {head} is a deletion, or follows one.",
    Verdict.HISTORY_LOST: "It cannot be merged: not all generations from {saw} to {head} are kept,"
    " and one may be a deletion.",
    Verdict.BASE_LOST: "It cannot be merged: the content of generation {saw}, which yours was"
    " derived from, is not kept any longer.",
    Verdict.NOTHING_PENDING: "No content of yours is pending.",
    Verdict.NOT_DERIVED: "It cannot be merged: it was not derived from a generation that you saw"
    " and still own.",
    Verdict.UNKNOWN: f"Whether it would merge was not tried: more than {_TRIED_MAX >> 10} KiB.",
}


def _merge_note(verdict: Verdict, base: SeenRow | None, head: SeenRow) -> str:
    saw = base.generation if base else 0
    return _MERGE_NOTES[verdict].format(saw=saw, head=head.generation)


# ── the ways out ─────────────────────────────────────────────────────────────


def _ways_out(refusal: Refusal, verdict: Verdict, head: SeenRow) -> tuple[WayOut, ...]:
    path = shlex.quote(shown(refusal.key))
    if path.startswith("-"):
        path = f"./{path}"
    kept = None if refusal.kept is None else shlex.quote(refusal.kept)
    ways = []
    if head.digest == ABSENT_DIGEST:
        if kept:
            command = f"coherent create {path} --from {kept}"
            ways.append(WayOut("make the file anew with your content", command))
        return tuple(ways)
    ways.append(
        WayOut("read what is current, derive your change anew, and write", f"coherent read {path}")
    )
    if refusal.marked is not None:
        marked = shlex.quote(refusal.marked)
        command = f"coherent merge {path} --mine {marked} --base {head.generation}"
        ways.append(WayOut("resolve the conflict markers in the marked copy, then", command))
    elif kept and refusal.base and verdict in (Verdict.CLEAN, Verdict.OVERLAPS, Verdict.UNKNOWN):
        command = f"coherent merge {path} --mine {kept} --base {refusal.base.generation}"
        purpose = {
            Verdict.CLEAN: "merge your content with it",
            Verdict.OVERLAPS: "get a copy of both with conflict markers",
        }.get(verdict, "try to merge your content with it")
        ways.append(WayOut(purpose, command))
    if kept:
        command = f"coherent write {path} --overwrite --from {kept}"
        ways.append(WayOut("as a last resort replace it, others' edits included", command))
    elif (
        refusal.pending is None
        and not refusal.withheld
        and refusal.reason not in ("stale_view", "already_exists")
    ):
        command = f"coherent rm {path} --overwrite"
        ways.append(WayOut("as a last resort delete it, others' edits included", command))
    return tuple(ways)
