"""Judgement: may this intent follow this head? The compare of compare-and-swap.

Owns what a commit claims of an artifact, and every refusal's wording. Pure but
for the look-up of who made the head. Called under the gate with a head that
was settled there, so nothing read earlier decides. Upholds I1 and I4. The same
situation always yields the same words.
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field

from coherent_volume.attributes import Attributes
from coherent_volume.errors import (
    AlreadyExistsError,
    ConflictError,
    FencedError,
    ForeignEditError,
    LinkedArtifactError,
    NotFoundError,
    NotObservedError,
    StaleGenerationError,
    printable,
)
from coherent_volume.model import ArtifactKey
from coherent_volume.ownership import refuse_if_leased
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.records import OUTSIDE, SeenRow
from coherent_volume.recovery import Head
from coherent_volume.staging import StagedContent

__all__ = ["Expectation", "Intent", "judge", "judge_seen"]


class Expectation(enum.Enum):
    """What a commit claims of the artifact before it."""

    SEEN = "seen"
    """The head is what the author saw (``Intent.base``); absent if it saw nothing."""
    UNTOUCHED = "untouched"
    """The head is the very generation of ``Intent.base``: equal bytes that somebody
    committed since are not enough, because they are that commit, not this one."""
    ABSENT = "absent"
    """The name is free: a create."""
    ANYTHING = "anything"
    """Replace whatever is there: the caller said overwrite."""


@dataclass(slots=True)
class Intent:
    """One artifact's part in a commit.

    ``content`` is None for a deletion. ``renews_view`` says whether the new
    generation becomes what the session saw even if its view was stale.
    ``keep_refused`` is False for a try that will be repeated, ``explain`` for one
    whose refusal the caller explains itself. ``saw`` is the generation that the
    author saw, where *content* was merged with the head and *base* is that head.
    """

    key: ArtifactKey
    kind: str
    content: bytes | Iterable[bytes] | None
    expectation: Expectation
    base: SeenRow | None = None
    renews_view: bool = True
    keep_refused: bool = True
    explain: bool = True
    saw: int | None = None
    attributes_of: ArtifactKey | None = None
    staged: StagedContent | None = field(default=None)
    attributes: Attributes | None = field(default=None)
    marked: int = 0
    """The generation that the staged file's witness names."""


def judge(parts: VolumeParts, intent: Intent, head: Head) -> None:
    """Raise the reason why *intent* must not follow *head*, if there is one."""
    _judge_view(parts, intent, head)
    refuse_if_leased(parts, head.row, head.key)
    if intent.content is None and not head.exists:
        raise NotFoundError("no such artifact", path=shown(head.key), generation=head.generation)
    if head.look.exists and head.look.stat.st_nlink > 1:
        raise LinkedArtifactError(
            f"the file has {head.look.stat.st_nlink} names (hard links); a commit would split them",
            path=shown(head.key),
            links=head.look.stat.st_nlink,
        )


def _judge_view(parts: VolumeParts, intent: Intent, head: Head) -> None:
    path = shown(head.key)
    if intent.expectation is Expectation.ANYTHING:
        return
    if intent.expectation is Expectation.ABSENT:
        if head.exists:
            raise AlreadyExistsError(
                f"exists already, at generation {head.generation}{_by(parts, head)}",
                path=path,
                current=head.generation,
            )
        return
    base = intent.base
    if base is None:
        if head.exists:
            raise NotObservedError(
                f"exists at generation {head.generation}{_by(parts, head)},"
                f" and {printable(parts.session.name)} has never read it",
                path=path,
                current=head.generation,
                advice=f"Read it first (coherent read {printable(shlex.quote(path))}); or say"
                " overwrite if you mean to replace content unseen.",
            )
        return
    judge_seen(parts, base, head)
    if intent.expectation is Expectation.UNTOUCHED and base.generation != head.generation:
        raise _stale(parts, base, head)


def judge_seen(parts: VolumeParts, base: SeenRow, head: Head) -> None:
    """Raise the reason why what was seen is not the head any more, if there is one."""
    path = shown(head.key)
    if base.epoch < head.epoch:
        # The bytes may be the same, so that a read from memory would not notice
        # the new epoch. An equal view that is another object makes the next read
        # go to the records; the view itself stays, and so does the refusal.
        parts.session.seen_here[head.key] = base._replace()
        raise FencedError(
            f"ownership was taken away since you looked (your epoch {base.epoch},"
            f" now {head.epoch})",
            path=path,
            held=base.epoch,
            current=head.epoch,
            advice=_next_step(head),
        )
    # Equal content is enough: a peer who rewrote the very bytes that the author
    # saw made no difference. Generation 0 is told apart by its digest alone.
    if base.digest == head.digest:
        return
    raise _stale(parts, base, head)


def _stale(parts: VolumeParts, base: SeenRow, head: Head) -> ConflictError:
    author = _author(parts, head)
    if base.generation > head.generation:
        return StaleGenerationError(
            f"generation {base.generation}, named as the base, was never made:"
            f" current is {head.generation}",
            path=shown(head.key),
            base=base.generation,
            current=head.generation,
            advice=_next_step(head) if head.exists else "Nothing is there: write without a base.",
            by=author,
        )
    if head.row is None or author == OUTSIDE:
        kind: type[ConflictError] = ForeignEditError
        what = "edited" if head.exists else "deleted"
        cause = f"{what} from outside since you read it"
    else:
        kind = StaleGenerationError
        cause = f"{author} {'committed' if head.exists else 'deleted it'} since you read it"
    return kind(
        f"{cause}: you saw generation {base.generation}, current is {head.generation}",
        path=shown(head.key),
        base=base.generation,
        current=head.generation,
        advice=_next_step(head),
        by=author,
    )


def _next_step(head: Head) -> str:
    command = f"coherent reacquire {shlex.quote(shown(head.key))}"
    return f"Read it again ({printable(command)}), derive your change anew, and write."


def _author(parts: VolumeParts, head: Head) -> str:
    if head.row is None:
        return OUTSIDE
    record = parts.sidecar.generation(head.row.id, head.row.generation)
    return printable(record.session) if record else OUTSIDE


def _by(parts: VolumeParts, head: Head) -> str:
    author = _author(parts, head)
    return "" if head.row is None or author == OUTSIDE else f" (by {author})"
