"""The visible files: opening, leasing, reading, hashing. Never writing them.

Owns every look at managed bytes. A look happens under a kernel read lease
where one can be had: nobody has the file open for writing when the lease is
granted, and whoever opens it later waits until we let go, so the bytes are
never half-written (I5, I8). Where no lease can be had (the file belongs to
another user, the file system has none) two identical looks take its place.

Known limit: a lease is refused to those who own neither the file nor
CAP_LEASE; then a writer that keeps the file open and writes more slowly than
the two looks are apart can still be seen half-way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from coherent_volume.descriptors import dismiss, enter, no_fork
from coherent_volume.digest import Hasher, digest_of, digest_of_chunks
from coherent_volume.errors import BusyError, NotRegularFileError, SymlinkError
from coherent_volume.identity import describe_holder_of_file
from coherent_volume.model import ABSENT_DIGEST, ArtifactKey, Digest
from coherent_volume.paths import kind_of, shown
from coherent_volume.syscalls import openat2

__all__ = [
    "CHUNK",
    "HELD_OPEN_WAIT_S",
    "IN_MEMORY_MAX",
    "RACY_NS",
    "Fingerprint",
    "Look",
    "Looks",
    "WriterPresent",
    "chunks_of",
    "drop_lease",
    "is_immutable",
    "lease_unbroken",
    "look",
    "looks",
    "patient",
    "proven_chunks",
    "read_exactly",
    "sole_opener",
    "take_lease",
]

CHUNK = 1 << 20
IN_MEMORY_MAX = 16 << 20
"""Content above this many bytes is streamed and never kept in memory."""

RACY_NS = 20_000_000
"""A fingerprint taken this soon after a change proves nothing: a second change
within one tick of the clock would leave it the same."""

HELD_OPEN_WAIT_S = 0.5
_PAUSE_S = 0.002
_LOOKS_MAX = 10

_FS_IOC_GETFLAGS = 0x80086601
_IMMUTABLE_OR_APPEND_ONLY = 0x30
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_F_SETLEASE = fcntl.F_SETLEASE
_F_SETSIG = fcntl.F_SETSIG
# The default signal of a lease, SIGIO, kills a process that has no handler.
# SIGURG is ignored by default.
_SIGNAL = int(signal.SIGURG)


class WriterPresent(Exception):
    """Somebody has the file open for writing; (device, inode) in args."""


class Fingerprint(NamedTuple):
    """What must be equal for a file to be unchanged since a look."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Fingerprint:
        """The fingerprint of a file that stat *found*."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(slots=True)
class Look:
    """One look at a visible file; ``descriptor`` is open until ``close``.

    ``data`` is None when the content is too large to keep. ``leased`` says
    that the look happened under a kernel lease, which ``descriptor`` holds.
    """

    descriptor: int
    stat: os.stat_result
    digest: Digest
    data: bytes | None
    leased: bool
    writer: bool = False
    """Somebody has the file open for writing: the bytes may be half of an edit."""

    @property
    def exists(self) -> bool:
        """Whether there is a file."""
        return self.descriptor >= 0

    @property
    def fingerprint(self) -> Fingerprint:
        """What must be equal later for the file to be unchanged."""
        return Fingerprint.of(self.stat)

    @property
    def trustworthy(self) -> bool:
        """Whether an equal fingerprint will prove equal bytes from now on."""
        newest = max(self.stat.st_mtime_ns, self.stat.st_ctime_ns)
        return self.leased and time.time_ns() - newest > RACY_NS

    def close(self) -> None:
        """Let go of the file, and with it of the lease."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            try:  # noqa: SIM105 - on the path of every read
                dismiss(descriptor)
            except OSError:
                pass  # it was read only; a commit that stands must not be told as failed


_NOTHING = os.stat_result((0,) * 10)


def absent() -> Look:
    """The look at a name that does not exist."""
    return Look(-1, _NOTHING, ABSENT_DIGEST, None, leased=False)


def look(root: int, key: ArtifactKey, *, keep: bool = True, beside_writer: bool = False) -> Look:
    """Open *key* below *root*, and read and hash it as one consistent whole.

    With *keep* the content is kept when it is not too large. With
    *beside_writer* a file that is open for writing is looked at all the same,
    and marked. Raises WriterPresent, SymlinkError, NotRegularFileError, OSError.
    """
    try:
        with no_fork:
            descriptor = openat2(root, key, _OPEN)
            enter(descriptor)
    except FileNotFoundError:
        return absent()
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            return absent()
        if error.errno == errno.ELOOP:
            raise SymlinkError("a symbolic link stands on the way", path=shown(key)) from None
        if error.errno == errno.ENXIO:
            raise NotRegularFileError(
                "a socket stands where the artifact should be", path=shown(key), found="a socket"
            ) from None
        raise
    return look_at(descriptor, key, keep=keep, beside_writer=beside_writer)


def look_at(descriptor: int, key: bytes, *, keep: bool = True, beside_writer: bool = False) -> Look:
    """As ``look``, at a file that was opened and entered; it is closed if this raises."""
    # Entered with all the others: in a child the copy would keep the lease alive
    # when the parent lets go, and an editor would wait for it.
    try:
        return _look_at(descriptor, key, keep, beside_writer)
    except BaseException:
        dismiss(descriptor)
        raise


def _look_at(descriptor: int, key: bytes, keep: bool, beside_writer: bool) -> Look:
    writer = leased = False
    try:
        leased = take_lease(descriptor)
    except WriterPresent:
        if not beside_writer:
            raise
        writer = True
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        what = kind_of(found.st_mode)
        raise NotRegularFileError(
            f"{what} stands where the artifact should be", path=shown(key), found=what
        )
    for _ in range(_LOOKS_MAX):
        if keep and found.st_size <= IN_MEMORY_MAX:
            data: bytes | None = read_exactly(descriptor, found.st_size)
            digest = digest_of(data)  # type: ignore[arg-type]
        else:
            data = None
            digest = digest_of_chunks(chunks_of(descriptor))
        if leased:
            return Look(descriptor, found, digest, data, leased=True)
        if writer:
            return Look(descriptor, found, digest, data, leased=False, writer=True)
        # No lease: look once more, apart in time if the file is fresh.
        if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < RACY_NS:
            time.sleep(RACY_NS / 1e9)
        again = os.fstat(descriptor)
        if _same(found, again):
            return Look(descriptor, found, digest, data, leased=False)
        found = again
    # It changes faster than it can be looked at: somebody is writing it.
    raise WriterPresent(found.st_dev, found.st_ino)


def _same(one: os.stat_result, two: os.stat_result) -> bool:
    return (one.st_size, one.st_mtime_ns, one.st_ctime_ns) == (
        two.st_size,
        two.st_mtime_ns,
        two.st_ctime_ns,
    )


def take_lease(descriptor: int) -> bool:
    """Take a read lease; False where leases cannot be had.

    Raises WriterPresent when somebody has the file open for writing, through a
    descriptor or a shared mapping. The lease ends with *descriptor*.
    """
    try:
        fcntl.fcntl(descriptor, _F_SETSIG, _SIGNAL)
        fcntl.fcntl(descriptor, _F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            found = os.fstat(descriptor)
            raise WriterPresent(found.st_dev, found.st_ino) from None
        # EACCES: not the owner. EINVAL: not a regular file, or the file
        # system has no leases. ENOLCK: the table is full.
        return False
    return True


Looks = tuple[int, int, int, int, int]


def looks(found: os.stat_result) -> Looks:
    """What stays equal in a file that nobody has touched or given a second name."""
    return (
        found.st_ino,
        found.st_nlink,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def is_immutable(descriptor: int) -> bool:
    """Whether the inode may not be moved or removed (chattr +i, +a)."""
    try:
        flags = fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, bytes(8))
    except OSError:
        return False  # the file system has no such flags
    return bool(int.from_bytes(flags[:4], sys.byteorder) & _IMMUTABLE_OR_APPEND_ONLY)


def drop_lease(descriptor: int) -> None:
    """End the lease, so that nobody waits for us; the file stays open."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, _F_SETLEASE, fcntl.F_UNLCK)


def sole_opener(descriptor: int) -> bool:
    """Whether nobody else has the file open, for reading or writing or mapped."""
    try:
        fcntl.fcntl(descriptor, _F_SETSIG, _SIGNAL)
        fcntl.fcntl(descriptor, _F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, _F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def lease_unbroken(descriptor: int) -> bool:
    """Whether nobody has asked to write since the lease was taken."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def read_exactly(descriptor: int, size: int) -> bytes:
    """The first *size* bytes of the file, fewer if it ends before."""
    data = os.pread(descriptor, size, 0)
    if len(data) == size:
        return data
    parts = [data]
    while data and (done := sum(map(len, parts))) < size:
        data = os.pread(descriptor, min(size - done, 1 << 30), done)
        parts.append(data)
    return b"".join(parts)


def chunks_of(descriptor: int) -> Iterator[bytes]:
    """The whole file in chunks, without moving its offset."""
    offset = 0
    while chunk := os.pread(descriptor, CHUNK, offset):
        yield chunk
        offset += len(chunk)


def proven_chunks(key: ArtifactKey, look: Look) -> Iterator[bytes]:
    """What *look* saw, read once more in chunks; BusyError at their end if it is not.

    A lease keeps writers away in between. Without one, beside somebody who has the
    file open for writing, what was hashed first need not be what is read now.
    """
    hasher = Hasher()
    for chunk in chunks_of(look.descriptor):
        if not look.leased:
            hasher.update(chunk)
        yield chunk
    if not look.leased and hasher.digest() != look.digest:
        raise BusyError(
            "the file was changed from outside while it was being read",
            path=shown(key),
            advice="Nothing was changed. Wait until it is whole, then try again.",
            holder="another process",
        )


@contextlib.contextmanager
def patient(key: ArtifactKey, deadline: float) -> Iterator[None]:
    """Turn WriterPresent into a short pause, and past *deadline* into BusyError.

    The caller runs the block again after each pause; it holds no lock while
    it waits. *deadline* is on the monotonic clock.
    """
    try:
        yield
    except WriterPresent as found:
        if time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
            return
        holder = describe_holder_of_file(*found.args)
        raise BusyError(
            f"the file is held open for writing by {holder}",
            path=shown(key),
            advice="Wait until it is closed, then try again. Nothing was changed.",
            holder=holder,
        ) from None
