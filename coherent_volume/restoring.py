"""Restoring: past content as a new generation; never a rewind.

Owns what a restore, an undo and the undoing of a session's spree bring back,
and what they leave alone. Everything ends in ``commit``: each is a commit like
any other, judged and kept, and can be undone itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime

from coherent_volume.answers import (
    LeftAlone,
    Restoration,
    RestoreStep,
)
from coherent_volume.commit import commit
from coherent_volume.drafts import discard, stage_early
from coherent_volume.errors import (
    CoherenceError,
    ConflictError,
    ForeignEditError,
    GenerationNotKeptError,
    LeasedError,
    NotFoundError,
    StaleGenerationError,
    UsageError,
    printable,
)
from coherent_volume.files import look
from coherent_volume.gating import settled_heads
from coherent_volume.judgement import Expectation, Intent
from coherent_volume.model import (
    ABSENT_DIGEST,
    ArtifactKey,
    Commit,
)
from coherent_volume.overview import live_leases
from coherent_volume.parts import VolumeParts
from coherent_volume.past import before, generation_at, lazily
from coherent_volume.paths import shown
from coherent_volume.reading import read
from coherent_volume.records import OUTSIDE, ArtifactRow, HistoryRow, SeenRow

__all__ = ["Progress", "moment_of", "restore", "restore_since", "undo"]

Progress = Callable[[int, int], None]

_CLOCK_TICK_NS = 10**9
"""Times of files lag behind the clock by a tick of the kernel's; generous."""
_TRIES = 8
_BATCH = 64  # heads that are settled under one gate


# ── one artifact ─────────────────────────────────────────────────────────────


def restore(parts: VolumeParts, key: ArtifactKey, generation: int) -> Commit:
    """Make the content of a kept generation the next one; mode and owner stay.

    It replaces the head as it is recorded when the call begins. An outside edit
    that nobody has adopted yet is adopted, and the restore refused: whoever
    asked for it has not seen that edit.
    """
    known = parts.sidecar.artifact(key)
    current = read(parts, key).seen
    if known is not None and current.generation != known.generation:
        raise _newer(parts, key, known, current)
    row, wanted = generation_at(parts, key, generation)
    if wanted.digest == current.digest:
        digest = current.digest.hex()
        who, at = parts.session.name, current.generation
        return Commit(shown(key), at, digest, who, at, changed=False, epoch=current.epoch)
    content = None
    if wanted.digest != ABSENT_DIGEST:
        content = lazily(parts, key, row.id, generation)
    intent = Intent(key, "restore", content, Expectation.SEEN, current, renews_view=False)
    return commit(parts, [intent])[0]


def _newer(
    parts: VolumeParts, key: ArtifactKey, known: ArtifactRow, current: SeenRow
) -> ConflictError:
    entry = parts.sidecar.generation(known.id, current.generation)
    by = printable(entry.session) if entry else OUTSIDE
    kind: type[ConflictError] = ForeignEditError if by == OUTSIDE else StaleGenerationError
    what = "an outside edit was found and is" if by == OUTSIDE else f"{by} has just committed"
    return kind(
        f"{what} generation {current.generation}; nothing was restored",
        path=shown(key),
        base=known.generation,
        current=current.generation,
        by=by,
        advice="Look at it; restore again to put it behind, nothing of it is lost.",
    )


# ── a session's last commit ──────────────────────────────────────────────────


def undo(parts: VolumeParts) -> list[Commit]:
    """Take back this session's last commit, all members of it; undone twice, it is redone.

    Raises ConflictError when somebody has built on one of them, NotFoundError
    when the session has committed nothing that is kept.
    """
    made = parts.sidecar.last_commit(parts.session.name)
    if not made:
        raise NotFoundError(
            "this session has committed nothing that is kept",
            advice="coherent log lists the commits; coherent restore PATH GENERATION brings back.",
        )
    if any(entry.members != len(made) for entry in made):
        raise GenerationNotKeptError(
            "not all of this session's last commit is kept any longer",
            path=shown(made[0].key),
            generation=made[0].generation,
            oldest=None,
            newest=None,
        )
    return commit(parts, [_undoing(parts, entry) for entry in made])


def _undoing(parts: VolumeParts, entry: HistoryRow) -> Intent:
    row, _ = generation_at(parts, entry.key, entry.generation)
    number, digest = before(parts, entry, row.id)
    seen = parts.session.seen(entry.key)
    # Ownership that was taken away since the session looked fences it (I4).
    epoch = row.epoch if seen is None else seen.epoch
    base = SeenRow(entry.generation, entry.digest, epoch)
    content = None if digest == ABSENT_DIGEST else lazily(parts, entry.key, row.id, number)
    return Intent(entry.key, "undo", content, Expectation.UNTOUCHED, base, renews_view=False)


# ── a session's spree ────────────────────────────────────────────────────────


def moment_of(when: datetime | float) -> int:
    """*when* in UTC nanoseconds: an aware datetime, or seconds since 1970."""
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise UsageError("the time has no time zone", advice="Pass an aware datetime.")
        when = when.timestamp()
    try:
        seconds = float(when)
    except (TypeError, ValueError):
        seconds = float("nan")
    if not abs(seconds) < 1 << 33:
        raise UsageError(f"a time is an aware datetime or seconds since 1970, not {when!r}")
    return int(seconds * 1e9)


def restore_since(
    parts: VolumeParts,
    since: int,
    by: str,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Restoration:
    """Take back all that session *by* made since a moment, in one transaction.

    Each artifact goes back to the generation before the first of these commits.
    Where another session has built on them or holds a lease, or the content is
    not kept, the artifact is left alone and reported. What editors left is adopted first.
    """
    troubles = _adopt_pending(parts, since if by == OUTSIDE else 0, progress)
    for tried in range(_TRIES):
        plan, left = _plan(parts, since, by, troubles)
        steps = tuple(step for step, _ in plan)
        if dry_run or not plan:
            return Restoration(steps, left, ())
        intents = [intent for _, intent in plan]
        try:
            _stage_all(parts, intents, progress)
            return Restoration(steps, left, tuple(commit(parts, intents)))
        except (ConflictError, LeasedError) as error:
            # Somebody has just built on it, or leased it: that one is left alone
            # the next time.
            if tried == _TRIES - 1 or error.fields.get("committed") is not None:
                raise
    raise AssertionError("the last try returns or raises")  # pragma: no cover


def _adopt_pending(
    parts: VolumeParts, since: int, progress: Progress | None
) -> dict[ArtifactKey, str]:
    """Let what editors left become generations; which are to be left alone, and why.

    An edit that nobody has looked at until this moment is as old as its file, and
    not as its generation.
    """
    known = parts.sidecar.keys()
    keys = [key for key in known if parts.globs.matches(key)]
    pending = []
    troubles: dict[ArtifactKey, str] = {}
    for number, key in enumerate(keys):
        if progress is not None:
            progress(number, len(keys))
        edited = _edited(parts, key)
        if edited is not None:
            pending.append(key)
            if 0 < edited < since - _CLOCK_TICK_NS:
                troubles[key] = "the outside edit of it is older; it is a generation from here on"
    for start in range(0, len(pending), _BATCH):
        batch = pending[start : start + _BATCH]
        try:
            _settle(parts, batch)
        except (CoherenceError, OSError):
            for key in batch:
                try:
                    _settle(parts, [key])
                except (CoherenceError, OSError) as error:
                    troubles[key] = getattr(error, "message", None) or str(error)
    return troubles


def _settle(parts: VolumeParts, keys: Sequence[ArtifactKey]) -> None:
    with settled_heads(parts, keys):
        pass


def _edited(parts: VolumeParts, key: ArtifactKey) -> int | None:
    """When the visible file came to be what the records do not have; 0: not known.

    None when it is what they say.
    """
    try:
        found = look(parts.root.descriptor, key, keep=False, beside_writer=True)
    except (CoherenceError, OSError):
        return 0
    with closing(found):
        row = parts.sidecar.artifact(key)
        if row is not None and row.digest == found.digest:
            return None
        return max(found.stat.st_mtime_ns, found.stat.st_ctime_ns) if found.exists else 0


def _plan(
    parts: VolumeParts, since: int, by: str, troubles: dict[ArtifactKey, str]
) -> tuple[list[tuple[RestoreStep, Intent]], tuple[LeftAlone, ...]]:
    first_of: dict[ArtifactKey, HistoryRow] = {}
    for entry in parts.sidecar.made_since(since, by):
        first_of.setdefault(entry.key, entry)
    held = {each.path: each for each in live_leases(parts)}
    plan = []
    left = [LeftAlone(shown(key), reason) for key, reason in troubles.items()]
    for key, first in sorted(first_of.items()):
        if key in troubles:
            continue
        try:
            planned = _planned(parts, key, first, by)
        except GenerationNotKeptError as error:
            planned = LeftAlone(shown(key), error.message)
        lease = held.get(shown(key))
        if isinstance(planned, tuple) and lease and lease.session != parts.session.name:
            who = printable(lease.session)
            reason = f"{who} holds a lease of it, until {lease.until} at the latest"
            planned = LeftAlone(shown(key), reason)
        if isinstance(planned, LeftAlone):
            left.append(planned)
        elif planned is not None:
            plan.append(planned)
    return plan, tuple(left)


def _planned(
    parts: VolumeParts, key: ArtifactKey, first: HistoryRow, by: str
) -> tuple[RestoreStep, Intent] | LeftAlone | None:
    """How *key* goes back to before *first*; None when it is there already."""
    row = parts.sidecar.artifact(key)
    if row is None:
        return None
    later = parts.sidecar.history(key, row.generation - first.generation + 1)
    others = [e for e in later if e.generation > first.generation and e.session != by]
    if others:
        who, at = printable(others[0].session), others[0].generation
        return LeftAlone(shown(key), f"{who} has built on it since: generation {at}")
    if any(e.kind == "recovered" for e in later if e.generation >= first.generation):
        return LeftAlone(shown(key), "its records were lost and recovered since")
    number, digest = before(parts, first, row.id)
    if digest == row.digest:
        return None
    step = RestoreStep(shown(key), row.generation, number, deletes=digest == ABSENT_DIGEST)
    content = None if digest == ABSENT_DIGEST else lazily(parts, key, row.id, number)
    base = SeenRow(row.generation, row.digest, row.epoch)
    return step, Intent(key, "restore", content, Expectation.UNTOUCHED, base, renews_view=False)


def _stage_all(parts: VolumeParts, intents: list[Intent], progress: Progress | None) -> None:
    try:
        for number, intent in enumerate(intents):
            if progress is not None:
                progress(number, len(intents))
            stage_early(parts, intent)
    except BaseException:
        discard(parts, intents)
        raise
