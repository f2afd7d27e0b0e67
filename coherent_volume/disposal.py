"""Disposal: what becomes of an install once it is visible.

Owns the flush of what was installed, and the end of what it displaced: the inode
in staging goes, or is used again, when nobody writes to it any more and its bytes
are known; then its record is forgotten. Nothing here is needed for the safety of a
commit; what is missed the next visitor does.

A stage is judged and removed under the gate. Whoever puts an outside edit back
publishes what lies there, and moves it away by the same name: a clean-up in between
would find its bytes known, and remove the newest edit before it is visible.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os

from coherent_volume import points
from coherent_volume.digest import digest_of_chunks
from coherent_volume.errors import CoherenceError, printable
from coherent_volume.files import WriterPresent, chunks_of, looks, take_lease
from coherent_volume.locks import GATE_WAIT_S
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import Displaced, VolumeParts, now_ns
from coherent_volume.paths import shown
from coherent_volume.records import InstallRow
from coherent_volume.syscalls import openat2

__all__ = ["clean_up"]

_log = logging.getLogger("coherent_volume")

_AT_ONCE = 16
"""How many stages are dealt with under one hold of the gate: half a millisecond."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
_REPLACED = (*_GONE, errno.EACCES, errno.ENXIO)


def clean_up(parts: VolumeParts) -> None:
    """Flush recent installs, then end what they displaced and forget them.

    Raises CoherenceError or OSError when it must be tried again; nothing is
    forgotten that was not flushed.
    """
    # One at a time: two would offer one spare inode twice, and flush what the
    # other has taken off the list as if it were flushed already.
    with parts.cleaning:
        # Taken before the flush: what was installed later is not flushed by it.
        now = now_ns()
        _sync_directories(parts)
        _sync_files(parts, now)
        _drop_objects(parts)
        due = [each for each in list(parts.displaced) if each.not_before_ns <= now]
        for start in range(0, len(due), _AT_ONCE):
            _finish(parts, due[start : start + _AT_ONCE])


# ── flushing ─────────────────────────────────────────────────────────────────


def _sync_directories(parts: VolumeParts) -> None:
    """Flush the directories of recent installs, so that names survive a power loss.

    Once one could not be flushed, this process forgets no install record any more.
    """
    while parts.unsynced_directories:
        folder = parts.unsynced_directories.pop()
        try:
            descriptor = openat2(
                parts.root.descriptor, folder or b".", os.O_RDONLY | os.O_DIRECTORY
            )
        except OSError as error:
            if error.errno in _GONE:
                continue  # gone or moved: its installs are judged by their records
            parts.unsynced_directories.add(folder)  # no free descriptor: another time
            raise
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Never retried: after a failed flush the kernel forgets what was
            # dirty. The next boot looks at the files themselves.
            where = printable(os.fsdecode(folder)) or "."
            _log.warning("could not flush %s: %s", where, error.strerror)
            parts.flush_failed = True
        finally:
            os.close(descriptor)


def _sync_files(parts: VolumeParts, now: int) -> None:
    """Flush what recent installs made visible, where directories do not imply it.

    On ext4 the flush of a directory waits for the data of the inodes that its
    journal names; other file systems promise nothing of the kind.
    """
    if not parts.flushes_files:
        return
    for displaced in list(parts.displaced):
        record = displaced.record
        key = parts.sidecar.key_of(record.artifact)
        if displaced.not_before_ns > now or record.staged is None or key is None:
            continue
        try:
            descriptor = openat2(parts.root.descriptor, key, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _REPLACED:
                continue  # replaced or closed to us: no longer what was installed
            raise
        try:
            if os.fstat(descriptor).st_ino == record.staged.inode:
                os.fdatasync(descriptor)
        except OSError as error:
            _log.warning("could not flush %s: %s", printable(shown(key)), error.strerror)
            parts.flush_failed = True
        finally:
            os.close(descriptor)


# ── what was displaced ───────────────────────────────────────────────────────


def _drop_objects(parts: VolumeParts) -> None:
    with contextlib.suppress(IndexError):
        while True:
            parts.staging.drop_object(parts.dropped_objects.popleft())


def _finish(parts: VolumeParts, due: list[Displaced]) -> None:
    """End those of *due* that nobody writes to any more, and forget their installs."""
    done: list[Displaced] = []
    # Most are as they were verified, and nobody has them open: that is found out
    # without the gate, and under it a look is enough.
    quiet = [each for each in due if _is_quiet(parts, each)]
    with parts.gate.held(GATE_WAIT_S):
        newest = parts.sidecar.installs_at([each.record.stage for each in due])
        for displaced in due:
            record = displaced.record
            if newest.get(record.stage, record.generation) != record.generation:
                _leave_queue(parts, displaced)  # it is another install's by now
            elif (displaced in quiet and _is_unchanged(parts, displaced)) or _disposed(
                parts, displaced
            ):
                done.append(displaced)
                if parts.flush_failed or not _is_spare(parts, displaced):
                    parts.staging.discard(record.stage)
        if done and not parts.flush_failed:
            parts.sidecar.forget_installs([each.record for each in done])
    for displaced in done:
        # It leaves the queue when it is done, so that an empty queue means rest. As a
        # spare only after that: a stage used again must not be forgotten by its name.
        _leave_queue(parts, displaced)
        if displaced.verified and _is_spare(parts, displaced) and not parts.flush_failed:
            parts.staging.offer_spare(displaced.record.stage, displaced.verified)


def _leave_queue(parts: VolumeParts, displaced: Displaced) -> None:
    with contextlib.suppress(ValueError):
        parts.displaced.remove(displaced)


def _is_spare(parts: VolumeParts, displaced: Displaced) -> bool:
    return displaced.verified is not None and displaced.record.stage.startswith(parts.staging.token)


def _is_quiet(parts: VolumeParts, displaced: Displaced) -> bool:
    """Whether the inode is as it was verified, has one name, and nobody writes to it."""
    if displaced.verified is None:
        return False
    points.reached("before_dispose")
    try:
        descriptor = parts.staging.open_stage(displaced.record.stage)
        try:
            take_lease(descriptor)
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, WriterPresent):
        return False
    points.reached("disposed")
    return found.st_nlink == 1 and looks(found) == displaced.verified


def _is_unchanged(parts: VolumeParts, displaced: Displaced) -> bool:
    found = parts.staging.look(displaced.record.stage)
    return found is not None and looks(found) == displaced.verified


def _disposed(parts: VolumeParts, displaced: Displaced) -> bool:
    try:
        return _dispose(parts, displaced)
    except (CoherenceError, OSError):
        return False  # no descriptors, no space: it can wait


def _dispose(parts: VolumeParts, displaced: Displaced) -> bool:
    """Say whether what an install displaced can go: nobody still writes to it.

    Bytes that no generation has are kept in ``refused/`` and reported: an
    editor that had the file open before the exchange wrote them afterwards.
    """
    record = displaced.record
    points.reached("before_dispose")
    try:
        descriptor = parts.staging.open_stage(record.stage)
    except FileNotFoundError:
        return True
    try:
        # The lease says that no writer is left; an unchanged inode is the one
        # that was verified, and need not be read again.
        take_lease(descriptor)
        found = os.fstat(descriptor)
        if found.st_nlink > 1:
            # Somebody gave it a second name meanwhile, and may yet write through it.
            return False
        if displaced.verified != looks(found) and not _is_known(parts, record, descriptor):
            _keep(parts, record, descriptor)
    except WriterPresent:
        return False
    finally:
        os.close(descriptor)
    points.reached("disposed")
    return True


def _is_known(parts: VolumeParts, record: InstallRow, descriptor: int) -> bool:
    digest = digest_of_chunks(chunks_of(descriptor))
    return digest == record.previous_digest or parts.sidecar.knows_digest(record.artifact, digest)


def _keep(parts: VolumeParts, record: InstallRow, descriptor: int) -> None:
    key = parts.sidecar.key_of(record.artifact) or ArtifactKey(b"unknown")
    digest = digest_of_chunks(chunks_of(descriptor))
    kept = parts.staging.refuse(record.stage, key, "outside", record.generation, digest)
    _log.warning(
        "%s: an outside editor wrote to a replaced file; its bytes are kept in %s",
        printable(shown(key)),
        printable(kept),
    )
