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
import errno
import os
import stat
from collections.abc import Iterator, Sequence

from coherent_volume import feed, points
from coherent_volume.attributes import Attributes
from coherent_volume.errors import (
    CoherenceError,
    ConflictError,
    ForeignEditError,
    SymlinkError,
    UnconfirmedError,
    from_os_error,
)
from coherent_volume.files import WriterPresent
from coherent_volume.gating import remember, settled_heads
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
from coherent_volume.judgement import Intent, judge
from coherent_volume.model import ABSENT_DIGEST, ArtifactKey, Commit, Digest
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.records import OUTSIDE, ArtifactRow, Publication, SeenRow
from coherent_volume.recovery import Head
from coherent_volume.remake import content_of
from coherent_volume.syscalls import openat2

__all__ = ["commit"]


def commit(parts: VolumeParts, intents: Sequence[Intent]) -> list[Commit]:
    """Make every intent its artifact's next generation, or change nothing.

    Raises ConflictError (the refused content is kept and named), BusyError,
    LeasedError, StorageError, UnconfirmedError; ForeignEditError also when an
    outside edit raced the commit: then it stands in the history, and the
    outside bytes are current.
    """
    try:
        with _typed(parts, intents[0].key):
            parts.announce()
            for intent in intents:
                _stage(parts, intent)
            points.reached("staged")
            with settled_heads(parts, [intent.key for intent in intents]) as heads:
                try:
                    for intent, head in zip(intents, heads, strict=True):
                        judge(parts, intent, head)
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
                raise _raced_error(parts, *raced)
    except UnconfirmedError as error:
        error.path = shown(intents[0].key)
        # The commit may stand: what it would need stays until it is known
        # whether anybody refers to it.
        raise
    except CoherenceError as error:
        if intents[0].keep_refused:
            parts.meters.count("refusals", label=error.reason)
        _discard(parts, intents)
        raise
    # Any other exception (an interrupt) may have come after the commit point:
    # nothing is discarded, the collection of orphans decides later.
    _discard(parts, intents)
    points.reached("acknowledged")
    return done


# ── stage ────────────────────────────────────────────────────────────────────


def _stage(parts: VolumeParts, intent: Intent) -> None:
    if intent.content is None:
        return
    intent.attributes = _attributes(parts, intent.attributes_of or intent.key)
    guess = parts.session.seen_here.get(intent.key)
    intent.staged = parts.staging.stage(
        intent.key, guess.generation + 1 if guess else 1, intent.content, intent.attributes
    )


def _attributes(parts: VolumeParts, key: ArtifactKey) -> Attributes | None:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = openat2(parts.root.descriptor, key, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SymlinkError("a symbolic link stands on the way", path=shown(key)) from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO):
            return None
        raise
    try:
        return Attributes.of(descriptor, os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _discard(parts: VolumeParts, intents: Sequence[Intent]) -> None:
    for staged in (intent.staged for intent in intents):
        # What cannot be removed now is collected when this process is gone.
        with contextlib.suppress(OSError):
            if staged is not None:
                parts.staging.discard(staged.stage)
                if staged.object is not None:
                    parts.staging.drop_object(staged.object)


# ── refuse ───────────────────────────────────────────────────────────────────


def _keep_refused(parts: VolumeParts, intents: Sequence[Intent], conflict: ConflictError) -> None:
    kept = None
    for intent in intents:
        if intent.staged is None or not intent.keep_refused:
            continue
        base = intent.base.generation if intent.base else 0
        name = parts.staging.refuse(
            intent.staged.stage, intent.key, parts.session.name, base, intent.staged.digest
        )
        if kept is None or shown(intent.key) == conflict.path:
            kept = name
    conflict.keep(kept)
    if intents[0].keep_refused:
        feed.note_refusal(parts, conflict, intents[0].key)


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
    publications = [_publication(parts, i, h, views[i.key]) for i, h in changing]
    points.reached("before_publish")
    try:
        rows = publish_all(parts, publications) if publications else []
    except UnconfirmedError as error:
        error.fields["generation"] = publications[0].generation
        raise
    # Crash here: published, old bytes still in place. The next visitor installs.
    points.reached("published")
    commits: dict[ArtifactKey, Commit] = {}
    raced = None
    place_of = {intent.key: place for intent, place in zip(intents, places, strict=True)}
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
        if views[intent.key] or intent.renews_view:
            seen = SeenRow(outcome.generation, digests[intent.key], head.epoch)
            if not outcome.changed:
                remember(parts, head.key, seen, head.look.data, head.look.stat.st_size)
            session.seen_here[intent.key] = seen
        done.append(outcome)
    return done, raced


def _digest(intent: Intent) -> Digest:
    return ABSENT_DIGEST if intent.staged is None else intent.staged.digest


def _view_is_current(seen: SeenRow | None, head: Head) -> bool:
    return seen is not None and seen.digest == head.digest and seen.epoch == head.epoch


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
    if head.row is None and head.look.exists:
        baseline = (head.digest, head.look.stat.st_size, *keep_history(parts, head.look))
    if staged is not None:
        _bring_up_to_date(parts, intent, head, generation)
    previous = previous_of(head.look)
    stage = staged.stage if staged else parts.staging.next_name()
    return Publication(
        key=head.key,
        row=head.row,
        generation=generation,
        kind=intent.kind,
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
        observer=parts.session.observer if view_is_current or intent.renews_view else None,
    )


def _bring_up_to_date(parts: VolumeParts, intent: Intent, head: Head, generation: int) -> None:
    """What was guessed while staging, corrected under the gate."""
    staged = intent.staged
    assert staged is not None  # noqa: S101 - the caller asks only then
    guess = parts.session.seen_here.get(intent.key)
    if generation != (guess.generation + 1 if guess else 1):
        parts.staging.remark(staged, intent.key, generation)
    if head.look.exists and intent.attributes_of is None:
        now = head.look.stat
        had = intent.attributes
        if had is None or (had.mode, had.uid, had.gid) != (
            now.st_mode & 0o7777,
            now.st_uid,
            now.st_gid,
        ):
            parts.staging.give_attributes(staged.stage, Attributes.of(head.look.descriptor, now))


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
    parts: VolumeParts, intent: Intent, stands: Commit, row: ArtifactRow
) -> ForeignEditError:
    """Told to a writer whose commit an outside edit raced; both sides are kept."""
    current = row.generation
    if current == stands.generation:
        # The name vanished or was taken, or its editor is still writing: settle
        # it now, with patience, so that the answer can say what is current.
        with contextlib.suppress(CoherenceError), settled_heads(parts, [intent.key]) as (head,):
            current = head.generation
    outside = (
        f"the outside bytes are generation {current}"
        if current != stands.generation
        else "what is outside is being written, or is no regular file"
    )
    content = content_of(parts, intent.key, row.id, stands.generation)
    kept = None
    if intent.content is not None:
        digest = Digest(bytes.fromhex(stands.digest))
        kept = parts.staging.keep(intent.key, content, parts.session.name, stands.base, digest)
    return ForeignEditError(
        f"an outside edit raced your commit: yours is generation {stands.generation} in the"
        f" history, {outside}",
        path=shown(intent.key),
        base=stands.base,
        current=current,
        committed=stands.generation,
        by=OUTSIDE,
        kept=kept,
    )


@contextlib.contextmanager
def _typed(parts: VolumeParts, key: ArtifactKey) -> Iterator[None]:
    try:
        yield
    except CoherenceError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            # A directory of the sidecar is gone: is the sidecar itself?
            parts.sidecar.database.verify()
        raise from_os_error(error, shown(key), "write") from error
