"""Installing: the visible file becomes the published generation, or the race is told.

Owns the exchange of a staged inode with a visible one, its verification, and
the way back when a foreign edit raced it. Runs under the gate, after the
commit point; whatever happens here the commit stands. Upholds I6 and I8: a
displaced inode is either exactly the one that was judged under the gate, or
its bytes become a generation before anything else happens to them.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import stat
from collections.abc import Iterator

from coherent_volume import points
from coherent_volume.errors import UnsupportedFilesystemError
from coherent_volume.files import (
    Look,
    WriterPresent,
    is_immutable,
    lease_unbroken,
    looks,
)
from coherent_volume.model import ArtifactKey, Digest
from coherent_volume.parts import Displaced, VolumeParts, now_ns
from coherent_volume.paths import shown
from coherent_volume.records import (
    OUTSIDE,
    ArtifactRow,
    InstallRow,
    Previous,
    Publication,
    Staged,
)
from coherent_volume.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, crosses_mount, renameat2

__all__ = [
    "DISPLACED_STAY_NS",
    "Outcome",
    "install",
    "install_row",
    "keep_history",
    "place_for",
    "previous_of",
    "publish",
    "put_back",
]

DISPLACED_STAY_NS = 50_000_000
"""How long a displaced inode is left alone: an editor that resolved the name
just before the exchange may open it for writing a moment later."""


_LOG_BYTES_PER_ROW = 32 << 10  # the pages of tables and indexes that a commit touches


class Outcome(enum.Enum):
    """How an install ended."""

    DONE = "done"
    RACED = "raced"
    """A foreign inode was displaced; it is in staging now."""
    GONE = "gone"
    """The name vanished, or was taken, before the exchange; nothing was moved."""


def previous_of(look: Look) -> Previous | None:
    """What an install must find at the visible name: what *look* saw there."""
    if not look.exists:
        return None
    found = look.stat
    return Previous(found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def install_row(
    parts: VolumeParts,
    stage: str,
    staged: Staged | None,
    previous: Previous | None,
    row: ArtifactRow | None,
    displaces: Digest,
    generation: int,
) -> InstallRow:
    """The record of an install of *generation* over the content *displaces*."""
    return InstallRow(
        stage=stage,
        artifact=row.id if row else 0,
        generation=generation,
        staged=staged,
        previous=previous,
        previous_digest=displaces,
        boot=parts.boot,
        started_ns=now_ns(),
    )


def publish(parts: VolumeParts, publications: list[Publication]) -> list[ArtifactRow]:
    """Publish all or none; the rows as they are now. The commit point."""
    numbers, dropped = parts.sidecar.publish(publications, parts.boot, parts.config.retention)
    # Nothing below may fail: the commit stands, and must not be told otherwise.
    parts.dropped_objects.extend(dropped)
    rows = []
    for number, new in zip(numbers, publications, strict=True):
        parts.meters.count("foreign_edits" if new.session == OUTSIDE else "commits")
        parts.logged_bytes += _LOG_BYTES_PER_ROW + len(new.content or b"")
        if new.install is not None:
            new.install = new.install._replace(artifact=number)
        epoch = new.row.epoch if new.row else 0
        row = ArtifactRow(number, new.key, new.generation, new.digest, new.size, epoch, parts.boot)
        rows.append(row._replace(leased=True) if new.row and new.row.leased else row)
    return rows


def keep_history(parts: VolumeParts, look: Look) -> tuple[bytes | None, str | None]:
    """How the history keeps what *look* saw: in the row, or as an object."""
    if not look.exists:
        return None, None
    if look.data is not None and len(look.data) <= parts.staging.inline_max:
        return look.data, None
    return None, parts.staging.keep_object(look.descriptor, look.digest)


def install(
    parts: VolumeParts,
    key: ArtifactKey,
    record: InstallRow,
    leased: Look | None,
    place: tuple[int, bytes] | None = None,
) -> Outcome:
    """Make the published generation visible and verify what was displaced.

    *leased* is the look under which the displaced file was judged; its lease
    proves that nobody opened the file for writing meanwhile. *place* is the
    directory and name, if they are open already. May raise OSError: then
    nothing was moved, and the next visitor installs.
    """
    points.reached("before_install")
    try:
        if place is not None:
            _move(parts, *place, record)
        else:
            with parts.root.parent_of(key, make=record.staged is not None) as found:
                _move(parts, *found, record)
    except (FileNotFoundError, FileExistsError):
        return Outcome.GONE
    # Crash here: installed but not verified. A displaced inode that is not
    # the recorded one is found in staging by recovery and published.
    points.reached("installed")
    if parts.durable:
        parts.unsynced_directories.add(key.rpartition(b"/")[0])
    displaced = parts.staging.look(record.stage)
    if record.previous is None or _as_judged(displaced, record.previous, leased):
        points.reached("verified")
        parts.displaced.append(
            Displaced(record, now_ns() + DISPLACED_STAY_NS, displaced and looks(displaced))
        )
        return Outcome.DONE
    points.reached("race_found")
    return Outcome.RACED


@contextlib.contextmanager
def place_for(
    parts: VolumeParts, key: ArtifactKey, judged: Look, make: bool
) -> Iterator[tuple[int, bytes]]:
    """The open directory and name for an install, known to admit the exchange.

    Asked before the commit point: a commit that can never be made visible must
    be refused, not acknowledged. Raises PermissionError, NotRegularFileError,
    UnsupportedFilesystemError.
    """
    with parts.root.parent_of(key, make=make) as (folder, name):
        found = os.fstat(folder)
        if found.st_dev != parts.staging.device or crosses_mount(parts.root.descriptor, key):
            raise UnsupportedFilesystemError(
                "the file, or its directory, lies in another mount than the volume's root",
                path=shown(key),
                advice="Make that file system a volume of its own, or exclude it from managed.",
                filesystem="another mount",
            )
        if not os.access(b".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True):
            read_only = os.fstatvfs(folder).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise PermissionError(number, os.strerror(number))
        if _is_protected(folder, found, judged):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        yield folder, name


def _is_protected(folder: int, found: os.stat_result, judged: Look) -> bool:
    """Whether the file cannot be moved though its directory is writable."""
    if not judged.exists:
        return False
    me = os.geteuid()
    owners = (0, found.st_uid, judged.stat.st_uid)
    if found.st_mode & stat.S_ISVTX and me not in owners:
        return True
    return is_immutable(judged.descriptor) or is_immutable(folder)


def _move(parts: VolumeParts, folder: int, name: bytes, record: InstallRow) -> None:
    stage = record.stage.encode()
    staging = parts.staging.staging
    if record.staged is None:
        renameat2(folder, name, staging, stage, RENAME_NOREPLACE)
    elif record.previous is None:
        renameat2(staging, stage, folder, name, RENAME_NOREPLACE)
    else:
        renameat2(staging, stage, folder, name, RENAME_EXCHANGE)


def _as_judged(displaced: os.stat_result | None, previous: Previous, leased: Look | None) -> bool:
    if displaced is None or displaced.st_ino != previous.inode:
        return False
    if (displaced.st_mtime_ns, displaced.st_size) != (previous.mtime_ns, previous.size):
        return False
    # An opener that waits for our lease has not written yet, but will, into the
    # inode it has resolved: that one must become visible again.
    return leased is None or not leased.leased or lease_unbroken(leased.descriptor)


def put_back(
    parts: VolumeParts, key: ArtifactKey, row: ArtifactRow, record: InstallRow
) -> ArtifactRow:
    """A foreign edit raced the install: publish it and make it visible again.

    The displaced inode, now in staging, becomes the next generation before it
    is moved, so that a crash in between loses nothing; the same inode returns
    to its name, because its editor may hold it open. Whatever that displaces in
    turn is verified like any install, and published too if it is foreign.
    Returns the artifact's row afterwards.
    """
    while True:
        foreign = _look_at_displaced(parts, key, record)
        if foreign is None:
            _swap_back(parts, key, record)
            return row
        try:
            row, back = _publish_foreign(parts, key, row, record, foreign)
            # Crash here: the foreign bytes are a generation; recovery puts
            # their inode back.
            points.reached("put_back")
            outcome = install(parts, key, back, None)
        finally:
            foreign.close()
        if outcome is not Outcome.RACED:
            return row
        record = back


def _look_at_displaced(parts: VolumeParts, key: ArtifactKey, record: InstallRow) -> Look | None:
    """The displaced file as a whole; None when it cannot be a generation (yet).

    Being written at this moment, its bytes are no whole; and a directory or a
    link that took the name has no bytes. Either goes back where it was.
    """
    found = parts.staging.look(record.stage)
    if found is None or not stat.S_ISREG(found.st_mode):
        return None
    try:
        return parts.staging.look_at_stage(record.stage, key)
    except WriterPresent:
        return None


def _publish_foreign(
    parts: VolumeParts, key: ArtifactKey, row: ArtifactRow, record: InstallRow, foreign: Look
) -> tuple[ArtifactRow, InstallRow]:
    """Publish a displaced foreign inode, with the record of its way back."""
    content, stored = keep_history(parts, foreign)
    found = foreign.stat
    back = record._replace(
        generation=row.generation + 1,
        artifact=row.id,
        staged=Staged(found.st_ino, found.st_mtime_ns),
        previous=_expected(parts, key, record),
        previous_digest=row.digest,
    )
    new = Publication(
        key=key,
        row=row,
        generation=row.generation + 1,
        kind="foreign",
        session=OUTSIDE,
        digest=foreign.digest,
        size=found.st_size,
        content=content,
        object=stored,
        install=back,
        settles=record._replace(artifact=row.id),
    )
    (row,) = publish(parts, [new])
    return row, back


def _expected(parts: VolumeParts, key: ArtifactKey, record: InstallRow) -> Previous | None:
    """What putting back must displace: the inode that this install made visible.

    Never "whatever is visible now": a second outside edit would be displaced as
    if it had been judged, and the older edit would stand on top of it.
    """
    if record.staged is None:
        return None
    try:
        found = os.stat(key, dir_fd=parts.root.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        pass  # removed once more: the exchange says so
    else:
        if (found.st_ino, found.st_mtime_ns) == record.staged:
            return Previous(found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
    return Previous(record.staged.inode, record.staged.mtime_ns, 0, 0)


def _swap_back(parts: VolumeParts, key: ArtifactKey, record: InstallRow) -> None:
    with parts.root.parent_of(key) as (folder, name):
        stage = record.stage.encode()
        staging = parts.staging.staging
        try:
            flags = RENAME_NOREPLACE if record.staged is None else RENAME_EXCHANGE
            renameat2(staging, stage, folder, name, flags)
        except (FileNotFoundError, FileExistsError):
            # The name was removed or taken once more. The inode stays in
            # staging under its record, and the next visitor judges it there.
            return
