"""Recovery: what the next visitor does, under the gate, before it judges anything.

Owns the decision what the visible file *is*: the current generation, an
install that a dead process left unfinished, a foreign edit, or what a power
loss left of us. Never by digest alone: the exact bytes of an older generation
may be a person's checkout. Upholds I2, I7 and I8.

    stage still ours ──▶ install, if the visible file is exactly the recorded one
    stage is not ours ──▶ a displaced inode: known bytes are left for disposal,
                          unknown bytes become a generation
    bytes = current  ──▶ settled
    another boot     ──▶ our own inodes, old or torn: make the current one again
    absent           ──▶ a foreign deletion, after 100 ms of absence
    anything else    ──▶ a foreign edit: the next generation, by "outside"
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from dataclasses import dataclass

from coherent_volume import points
from coherent_volume.attributes import Attributes, Witness
from coherent_volume.errors import CoherenceError, DamagedError, printable
from coherent_volume.files import Look, look
from coherent_volume.install import (
    Outcome,
    install,
    keep_history,
    previous_of,
    publish,
    put_back,
)
from coherent_volume.model import ABSENT_DIGEST, ArtifactKey, Digest
from coherent_volume.parts import Displaced, VolumeParts
from coherent_volume.paths import shown
from coherent_volume.records import OUTSIDE, ArtifactRow, InstallRow, Publication
from coherent_volume.remake import after_another_boot, make_again

__all__ = ["Head", "Vanished", "recover_from_file", "settle"]

_log = logging.getLogger("coherent_volume")


class Vanished(Exception):
    """A file of ours is absent, perhaps only for a moment; the key in args."""


@dataclass(slots=True)
class Head:
    """An artifact's current generation, in the records and on disk alike.

    ``row`` is None for a file (or a name) that the sidecar does not know:
    generation 0. ``look`` holds the visible file open, under a lease.
    """

    key: ArtifactKey
    row: ArtifactRow | None
    look: Look

    @property
    def generation(self) -> int:
        """The current generation's number."""
        return self.row.generation if self.row else 0

    @property
    def digest(self) -> Digest:
        """The current generation's digest; empty when there is no file."""
        return self.row.digest if self.row else self.look.digest

    @property
    def epoch(self) -> int:
        """The artifact's ownership epoch."""
        return self.row.epoch if self.row else 0

    @property
    def exists(self) -> bool:
        """Whether there is a file."""
        return self.digest != ABSENT_DIGEST


def settle(parts: VolumeParts, key: ArtifactKey, *, absent_for_sure: bool) -> Head:
    """Repair what is unfinished, adopt what is foreign; then the head of *key*.

    Under the gate. The caller closes the head's look. *absent_for_sure* says
    that the file was seen absent for 100 ms. Raises Vanished, WriterPresent,
    SymlinkFound, DamagedError, NotRegularFileError, OSError.
    """
    row, pending = parts.sidecar.current(key, gated=True)
    if row is not None and row.boot != parts.boot:
        row = after_another_boot(parts, key, row)
    elif row is not None and pending is not None:
        row = _finish_install(parts, key, row, pending)
    seen = look(parts.root.descriptor, key)
    try:
        return Head(key, _judge(parts, key, row, seen, absent_for_sure=absent_for_sure), seen)
    except BaseException:
        seen.close()
        raise


def _judge(
    parts: VolumeParts,
    key: ArtifactKey,
    row: ArtifactRow | None,
    seen: Look,
    *,
    absent_for_sure: bool,
) -> ArtifactRow | None:
    known = row.generation if row else 0
    if seen.exists:
        witness = Witness.read(seen.descriptor, parts.incarnation, key)
        if witness > known:
            return _continue_from_witness(parts, key, row, seen, witness)
    if row is None or seen.digest == row.digest:
        return row
    if not seen.exists and not absent_for_sure:
        raise Vanished(key)
    return _adopt(parts, key, row, seen, "foreign", row.generation + 1)


def _adopt(
    parts: VolumeParts,
    key: ArtifactKey,
    row: ArtifactRow | None,
    seen: Look,
    kind: str,
    generation: int,
) -> ArtifactRow:
    """Publish what is visible as a generation of its own, by "outside"."""
    points.reached("before_adopt")
    content, stored = keep_history(parts, seen)
    size = seen.stat.st_size if seen.exists else 0
    new = Publication(key, row, generation, kind, OUTSIDE, seen.digest, size, content, stored)
    (row,) = publish(parts, [new])
    points.reached("adopted")
    return row


def _continue_from_witness(
    parts: VolumeParts, key: ArtifactKey, row: ArtifactRow | None, seen: Look, witness: int
) -> ArtifactRow:
    """The file remembers a later generation than the records do.

    After a power loss in process mode that is how acknowledged commits vanish:
    go on counting from the file. Otherwise the sidecar was rolled back.
    """
    known = row.generation if row else 0
    if parts.durable or (row is not None and row.boot == parts.boot):
        raise DamagedError(
            f"the file is generation {witness}, but the sidecar knows only {known}:"
            " it was rolled back or replaced",
            path=shown(key),
            witness=witness,
            recorded=known,
        )
    _log.warning(
        "%s: generations %d to %d were lost in a power loss; continuing from the file",
        printable(shown(key)),
        known + 1,
        witness,
    )
    return _adopt(parts, key, row, seen, "recovered", witness + 1)


def recover_from_file(parts: VolumeParts, key: ArtifactKey, at_least: int) -> None:
    """Go on counting above everything that is known, with what is visible now.

    Under the gate, for repairs only: the records have lost generations, and a
    number that was handed out once must not be handed out again (I2).
    """
    row, _ = parts.sidecar.current(key, gated=True)
    seen = look(parts.root.descriptor, key)
    try:
        witness = Witness.read(seen.descriptor, parts.incarnation, key) if seen.exists else 0
        newest = max(row.generation if row else 0, witness, at_least)
        _adopt(parts, key, row, seen, "recovered", newest + 1)
    finally:
        seen.close()


# ── unfinished installs ──────────────────────────────────────────────────────


def _finish_install(
    parts: VolumeParts, key: ArtifactKey, row: ArtifactRow, pending: InstallRow
) -> ArtifactRow:
    staged = parts.staging.look(pending.stage)
    if _is_installed(parts, key, pending, staged):
        if staged is not None and pending.previous is not None:
            return _judge_displaced(parts, key, row, pending, staged)
        return row
    return _install_again(parts, key, row, pending, staged)


def _is_installed(
    parts: VolumeParts, key: ArtifactKey, pending: InstallRow, staged: os.stat_result | None
) -> bool:
    if pending.staged is not None and staged is not None:
        return staged.st_ino != pending.staged.inode
    if pending.staged is None and staged is not None:
        return True
    if pending.staged is not None and pending.previous is None:
        # A create moves its stage away. Absent now means that somebody
        # deleted the new file since; it must not come back.
        return True
    # Nothing in staging: exchanged and cleaned up, or never there (a deletion
    # that was not carried out), or removed by somebody.
    return not _untouched(parts, key, pending)


def _untouched(parts: VolumeParts, key: ArtifactKey, pending: InstallRow) -> bool:
    """Whether the visible name still is exactly what the install must displace."""
    try:
        found = os.stat(key, dir_fd=parts.root.descriptor, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return pending.previous is None and pending.staged is not None
    previous = pending.previous
    if previous is None or (found.st_ino, found.st_mtime_ns, found.st_size) != (
        previous.inode,
        previous.mtime_ns,
        previous.size,
    ):
        return False
    if found.st_ctime_ns == previous.ctime_ns:
        return True
    # Its mode, owner or links changed since: that alone is no edit.
    with contextlib.closing(look(parts.root.descriptor, key, keep=False)) as seen:
        return seen.digest == pending.previous_digest


def _judge_displaced(
    parts: VolumeParts,
    key: ArtifactKey,
    row: ArtifactRow,
    pending: InstallRow,
    staged: os.stat_result,
) -> ArtifactRow:
    """Installed, with the displaced inode still in staging: judge whose bytes it has."""
    previous = pending.previous
    if previous is not None and (staged.st_ino, staged.st_mtime_ns, staged.st_size) == (
        previous.inode,
        previous.mtime_ns,
        previous.size,
    ):
        return row
    if not stat.S_ISREG(staged.st_mode):
        return put_back(parts, key, row, pending)
    displaced = parts.staging.look_at_stage(pending.stage, key, keep=False)
    displaced.close()
    # The recorded inode with the recorded bytes, and nothing less: the bytes of
    # an older generation may be a person's checkout that raced the commit.
    same_inode = previous is not None and staged.st_ino == previous.inode
    if same_inode and displaced.digest == pending.previous_digest:
        return row
    # The committer died between exchange and put-back. "Digest = current:
    # settled" would let the foreign bytes be unlinked unseen.
    return put_back(parts, key, row, pending)


def _disturb_companions(parts: VolumeParts, pending: InstallRow) -> None:
    """Let nobody read another member of the same commit from memory any longer.

    Its committer died before it did so itself. Whoever sees this member new
    must find the others new too, and a changed ctime leads it to the records.
    """
    for key in parts.sidecar.unfinished_companions(pending.artifact, pending.generation):
        with (
            contextlib.suppress(OSError, CoherenceError),
            contextlib.closing(
                look(parts.root.descriptor, key, keep=False, beside_writer=True)
            ) as seen,
        ):
            if seen.exists:
                os.fchmod(seen.descriptor, stat.S_IMODE(seen.stat.st_mode))


def _install_again(
    parts: VolumeParts,
    key: ArtifactKey,
    row: ArtifactRow,
    pending: InstallRow,
    staged: os.stat_result | None,
) -> ArtifactRow:
    """Published but not installed: finish it, unless somebody was faster."""
    _disturb_companions(parts, pending)
    if not _untouched(parts, key, pending):
        # A foreign edit between COMMIT and exchange. Our generation stays in
        # the history; what is visible is judged, and adopted, by the caller.
        parts.displaced.append(Displaced(pending))
        parts.sidecar.forget_installs([pending])
        return row
    if staged is None and pending.staged is not None:
        return make_again(parts, key, row, [pending])
    leased = None
    if pending.previous is not None:
        leased = look(parts.root.descriptor, key, keep=False)
    try:
        if leased is not None:
            if not leased.exists or leased.digest != pending.previous_digest:
                return row
            pending = pending._replace(previous=previous_of(leased))
            if pending.staged is not None:
                now = Attributes.of(leased.descriptor, leased.stat)
                parts.staging.give_attributes(pending.stage, now)
        outcome = install(parts, key, pending, leased)
    finally:
        if leased is not None:
            leased.close()
    points.reached("healed")
    if outcome is Outcome.RACED:
        return put_back(parts, key, row, pending)
    return row
