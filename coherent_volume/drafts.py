"""Drafts: the content of a commit in staging, from the first byte to the publishing.

Owns what is staged for an intent: its making, which may come long before the
commit, its correction under the gate, and its removal. Publishes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

from coherent_volume.attributes import Attributes
from coherent_volume.errors import CoherenceError, SymlinkError, from_os_error
from coherent_volume.judgement import Intent
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.recovery import Head
from coherent_volume.syscalls import openat2

__all__ = ["bring_up_to_date", "discard", "stage", "stage_early", "typed"]


def stage_early(parts: VolumeParts, intent: Intent) -> None:
    """Stage *intent* long before its commit; the caller discards what it never commits."""
    with typed(parts, intent.key):
        parts.announce()
        stage(parts, intent)


def stage(parts: VolumeParts, intent: Intent) -> None:
    """Write the content of *intent* to staging, if there is any; raises OSError."""
    if intent.content is None or intent.staged is not None:
        return
    intent.attributes = _attributes(parts, intent.attributes_of or intent.key)
    guess = parts.session.seen_here.get(intent.key)
    intent.marked = guess.generation + 1 if guess else 1
    intent.staged = parts.staging.stage(
        intent.key, intent.marked, intent.content, intent.attributes
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


def discard(parts: VolumeParts, intents: Sequence[Intent]) -> None:
    """Remove what *intents* have staged and no generation refers to."""
    for staged in (intent.staged for intent in intents):
        # What cannot be removed now is collected when this process is gone.
        with contextlib.suppress(OSError):
            if staged is not None:
                parts.staging.discard(staged.stage)
                if staged.object is not None:
                    parts.staging.drop_object(staged.object)


def bring_up_to_date(parts: VolumeParts, intent: Intent, head: Head, generation: int) -> None:
    """What was guessed while staging, corrected under the gate."""
    staged = intent.staged
    assert staged is not None  # noqa: S101 - the caller asks only then
    if generation != intent.marked:
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


@contextlib.contextmanager
def typed(parts: VolumeParts, key: ArtifactKey) -> Iterator[None]:
    """Turn an OSError of the block, which comes before any commit, into a typed error."""
    try:
        yield
    except CoherenceError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            # A directory of the sidecar is gone: is the sidecar itself?
            parts.sidecar.database.verify()
        raise from_os_error(error, shown(key), "write") from error
