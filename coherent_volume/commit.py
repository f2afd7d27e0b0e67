"""Commit: turn staged bytes into an artifact's next generation, or refuse.

    staged ──publish──▶ published ──install──▶ settled
      │ crash: collected    │ crash: installed by the next visitor

The commit point is the COMMIT of the sidecar transaction inside publish.
Before it no peer can see the write; after it no crash can lose it, and an
error is never a failure: the commit stands with ``installed=False``. Several
artifacts commit in one transaction, all or none. Upholds I1, I3, I4 and I6.
Does not read globs, grant leases or know the command line.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence

from coherent_volume import points
from coherent_volume.drafts import bring_up_to_date, discard, stage, typed
from coherent_volume.errors import (
    CoherenceError,
    ConflictError,
    ForeignEditError,
    UnconfirmedError,
)
from coherent_volume.files import WriterPresent
from coherent_volume.gating import remember, settled_heads
from coherent_volume.ground import flush_below
from coherent_volume.install import (
    Outcome,
    install,
    install_row,
    keep_history,
    place_for,
    previous_of,
    put_back,
)
from coherent_volume.install import publish as publish_all
from coherent_volume.judgement import Intent, judge, judge_seen
from coherent_volume.model import ABSENT_DIGEST, ArtifactKey, Commit, Digest
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.records import OUTSIDE, ArtifactRow, Publication, SeenRow
from coherent_volume.recovery import Head
from coherent_volume.remake import content_of

__all__ = ["commit"]

_UNTOLD = (CoherenceError, OSError)


def commit(
    parts: VolumeParts,
    intents: Sequence[Intent],
    validates: Sequence[tuple[ArtifactKey, SeenRow]] = (),
) -> list[Commit]:
    """Make every intent its artifact's next generation, or change nothing.

    What *validates* names must still be as it was seen, and is not changed.
    Raises ConflictError (the refused content is kept and named), BusyError,
    LeasedError, StorageError, UnconfirmedError; ForeignEditError also when an
    outside edit raced the commit: then it stands in the history, and the
    outside bytes are current.
    """
    try:
        with typed(parts, intents[0].key):
            parts.announce()
            for intent in intents:
                stage(parts, intent)
            points.reached("staged")
            keys = dict.fromkeys([*(intent.key for intent in intents), *(k for k, _ in validates)])
            with settled_heads(parts, list(keys)) as settled:
                heads = settled[: len(intents)]
                try:
                    for intent, head in zip(intents, heads, strict=True):
                        judge(parts, intent, head)
                    head_of = {head.key: head for head in settled}
                    for key, seen in validates:
                        judge_seen(parts, seen, head_of[key])
                except ConflictError as conflict:
                    _keep_refused(parts, intents, conflict)
                    raise
                with contextlib.ExitStack() as stack:
                    places = [
                        stack.enter_context(
                            place_for(parts, head.key, head.look, intent.staged is not None)
                        )
                        for intent, head in zip(intents, heads, strict=True)
                    ]
                    done, raced = _publish_and_install(parts, intents, heads, places)
            if raced is not None:
                raise _raced_error(parts, *raced, done)
    except UnconfirmedError as error:
        error.path = shown(intents[0].key)
        _doubt(parts)
        # The commit may stand: what it would need stays until it is known
        # whether anybody refers to it.
        raise
    except CoherenceError as error:
        _doubt(parts)
        if _is_told(intents) or not isinstance(error, ConflictError):
            parts.meters.count("refusals", label=error.reason)
        discard(parts, intents)
        if isinstance(error, ConflictError):
            _explain(parts, intents, error)
        raise
    # Any other exception (an interrupt) may have come after the commit point:
    # nothing is discarded, the collection of orphans decides later.
    discard(parts, intents)
    points.reached("acknowledged")
    return done


def _hear(parts: VolumeParts, published: Sequence[Publication]) -> None:
    """Own writes are seen at once, also where they do not renew the view."""
    if parts.copies is not None:
        for new in published:
            parts.copies.hear(new.key, new.generation)


def _doubt(parts: VolumeParts) -> None:
    """A refusal says that something happened: who reads again must not get the old copy."""
    if parts.copies is not None:
        parts.copies.doubt()


# ── refuse ───────────────────────────────────────────────────────────────────


_NO_REPORT = (ImportError, OSError)
"""Without a free descriptor the modules of the report cannot be loaded; the refusal
comes without one then, and nothing takes its place."""


def _keep_refused(parts: VolumeParts, intents: Sequence[Intent], conflict: ConflictError) -> None:
    kept: dict[str, str] = {}
    for intent in intents:
        if intent.staged is None or not intent.keep_refused:
            continue
        base = intent.base.generation if intent.base else None
        kept[shown(intent.key)] = parts.staging.refuse(
            intent.staged.stage, intent.key, parts.session.name, base, intent.staged.digest
        )
    conflict.keep(kept.get(conflict.path or "") or next(iter(kept.values()), None))
    if len(kept) > 1:
        conflict.fields["kept_members"] = kept
    if _is_told(intents):
        with contextlib.suppress(*_NO_REPORT):
            from coherent_volume.report import note_refusal

            note_refusal(parts, conflict, intents[0].key)


def _explain(parts: VolumeParts, intents: Sequence[Intent], conflict: ConflictError) -> None:
    with contextlib.suppress(*_NO_REPORT, CoherenceError):
        from coherent_volume.report import attach

        attach(parts, intents, conflict)


def _is_told(intents: Sequence[Intent]) -> bool:
    """Whether a refusal is the caller's to hear: not of a try to be repeated or merged."""
    return intents[0].keep_refused and intents[0].explain


# ── publish and install ──────────────────────────────────────────────────────


def _publish_and_install(
    parts: VolumeParts,
    intents: Sequence[Intent],
    heads: Sequence[Head],
    places: Sequence[tuple[int, bytes]],
) -> tuple[list[Commit], tuple[Intent, Commit, ArtifactRow] | None]:
    """Publish what changes anything; install it; the commits, and the first race."""
    session = parts.session
    digests = {intent.key: _digest(intent) for intent in intents}
    changing = [
        (intent, head)
        for intent, head in zip(intents, heads, strict=True)
        if digests[intent.key] != head.digest
    ]
    views = {head.key: _view_is_current(session.seen(head.key), head) for head in heads}
    place_of = {intent.key: place for intent, place in zip(intents, places, strict=True)}
    for _, head in changing:
        flush_below(parts, place_of[head.key][0], head.key, head.row, head.look)
    publications = [_publication(parts, i, h, views[i.key]) for i, h in changing]
    rows = _publish(parts, publications) if publications else []
    # Crash here: published, old bytes still in place. The next visitor installs.
    points.reached("published")
    _hear(parts, publications)
    # Before the first of several becomes visible: whoever sees that one must not
    # go on reading another from memory, whose file still is the old one.
    for _, head in changing if len(changing) > 1 else ():
        _disturb(head)
    commits: dict[ArtifactKey, Commit] = {}
    raced = None
    for (intent, head), new, row in zip(changing, publications, rows, strict=True):
        if intent.staged is not None:
            intent.staged.object = None  # the history owns it now
        installed, after = _install_one(parts, intent, head, new, row, place_of[intent.key])
        commits[intent.key] = Commit(
            shown(intent.key),
            row.generation,
            row.digest.hex(),
            session.name,
            head.generation,
            installed=installed,
            epoch=head.epoch,
        )
        if after is not None and raced is None:
            raced = (intent, commits[intent.key], after)
    done = []
    for intent, head in zip(intents, heads, strict=True):
        outcome = commits.get(intent.key) or _unchanged(parts, intent, head)
        if _renews(intent, views[intent.key]):
            seen = SeenRow(outcome.generation, digests[intent.key], head.epoch)
            if not outcome.changed:
                # The other members' commit stands: it must not be told as failed
                # because a view of this one could not be renewed as well.
                with contextlib.suppress(*(_UNTOLD if commits else ())):
                    remember(parts, head.key, seen, head.look.data, head.look.stat.st_size)
            session.seen_here[intent.key] = seen
        done.append(outcome)
    return done, raced


def _publish(parts: VolumeParts, publications: list[Publication]) -> list[ArtifactRow]:
    points.reached("before_publish")
    try:
        return publish_all(parts, publications)
    except UnconfirmedError as error:
        error.fields["generation"] = publications[0].generation
        if len(publications) > 1:
            error.fields["members"] = {shown(p.key): p.generation for p in publications}
        raise


def _digest(intent: Intent) -> Digest:
    return ABSENT_DIGEST if intent.staged is None else intent.staged.digest


def _view_is_current(seen: SeenRow | None, head: Head) -> bool:
    return seen is not None and seen.digest == head.digest and seen.epoch == head.epoch


def _renews(intent: Intent, view_is_current: bool) -> bool:
    # Whoever merged has not seen what the others wrote: its next write must not
    # pass for one that was derived from it.
    return intent.saw is None and (view_is_current or intent.renews_view)


def _unchanged(parts: VolumeParts, intent: Intent, head: Head) -> Commit:
    return Commit(
        shown(intent.key),
        head.generation,
        head.digest.hex(),
        parts.session.name,
        head.generation,
        changed=False,
        epoch=head.epoch,
    )


def _publication(
    parts: VolumeParts, intent: Intent, head: Head, view_is_current: bool
) -> Publication:
    generation = head.generation + 1
    staged = intent.staged
    baseline = None
    if head.look.exists and _baseline_is_due(parts, head):
        baseline = (head.digest, head.look.stat.st_size, *keep_history(parts, head.look))
    if staged is not None:
        bring_up_to_date(parts, intent, head, generation)
    previous = previous_of(head.look)
    stage = staged.stage if staged else parts.staging.next_name()
    return Publication(
        key=head.key,
        row=head.row,
        generation=generation,
        kind=_kind(intent, head),
        session=parts.session.name,
        digest=staged.digest if staged else ABSENT_DIGEST,
        size=staged.size if staged else 0,
        content=staged.data if staged else None,
        object=staged.object if staged else None,
        baseline=baseline,
        install=install_row(
            parts,
            stage,
            staged.inode if staged else None,
            previous,
            head.row,
            head.digest,
            generation,
        ),
        observer=parts.session.observer if _renews(intent, view_is_current) else None,
        saw=intent.saw,
    )


def _baseline_is_due(parts: VolumeParts, head: Head) -> bool:
    """Whether what stands there is generation 0 and the history lacks its content.

    A named session's reading gives a large file a row without its content; now
    that it is about to be displaced is the last moment to keep it.
    """
    if head.row is None:
        return True
    large = head.generation == 0 and head.look.stat.st_size > parts.staging.inline_max
    return large and parts.sidecar.content(head.row.id, 0) is None


def _kind(intent: Intent, head: Head) -> str:
    # What made a name exist is called so: generation 0 of a creation was no file,
    # and a generation 0 that is not kept any more must not be taken for that.
    return intent.kind if head.exists or intent.kind not in ("write", "append") else "create"


def _install_one(
    parts: VolumeParts,
    intent: Intent,
    head: Head,
    new: Publication,
    row: ArtifactRow,
    place: tuple[int, bytes],
) -> tuple[bool, ArtifactRow | None]:
    """(installed, the artifact's row after a race or None). Never raises OSError."""
    record = new.install
    assert record is not None  # noqa: S101 - every publication of a commit has one
    try:
        outcome = install(parts, head.key, record, head.look, place)
        if outcome is Outcome.DONE:
            intent.staged = None
            return True, None
        if outcome is Outcome.GONE:
            intent.staged = None  # the next visitor judges it
            return False, row
        after = put_back(parts, head.key, row, record)
        intent.staged = None
        return True, after
    except (OSError, WriterPresent, CoherenceError):
        # The commit stands; an error here must not be told as a failure. The
        # stage is still recorded, and the next visitor finishes the install.
        intent.staged = None
        _disturb(head)
        return False, None


def _disturb(head: Head) -> None:
    """Change the old file's ctime, so that nobody goes on reading it from memory."""
    if head.look.exists:
        with contextlib.suppress(OSError):
            os.fchmod(head.look.descriptor, stat.S_IMODE(head.look.stat.st_mode))


def _raced_error(
    parts: VolumeParts, intent: Intent, stands: Commit, row: ArtifactRow, done: list[Commit]
) -> ForeignEditError:
    """Told to a writer whose commit an outside edit raced; both sides are kept."""
    current = row.generation
    if current == stands.generation:
        # The name vanished or was taken, or its editor is still writing: settle
        # it now, with patience, so that the answer can say what is current.
        with contextlib.suppress(*_UNTOLD), settled_heads(parts, [intent.key]) as (head,):
            current = head.generation
    outside = (
        f"the outside bytes are generation {current}"
        if current != stands.generation
        else "what is outside is being written, or is no regular file"
    )
    kept = None
    # A copy that cannot be kept is no reason to call a commit refused that stands
    # in the history with the same content.
    with contextlib.suppress(*_UNTOLD):
        content = content_of(parts, intent.key, row.id, stands.generation)
        if intent.content is not None:
            digest = Digest(bytes.fromhex(stands.digest))
            kept = parts.staging.keep(intent.key, content, parts.session.name, stands.base, digest)
    members = {commit.path: commit.generation for commit in done if commit.changed}
    told = ForeignEditError(
        f"an outside edit raced your commit: yours is generation {stands.generation} in the"
        f" history, {outside}",
        path=shown(intent.key),
        base=stands.base,
        current=current,
        committed=stands.generation,
        by=OUTSIDE,
        kept=kept,
    )
    if len(members) > 1:
        told.fields["members"] = members  # all of them stand
    return told
