"""Locks of programs on files of a mount, taken on the real files.

Owns one open file description per file and lock owner, so that locks exclude
the programs of all mounts and those outside alike: two agents may well share a
database that is no artifact. An artifact's file is replaced by every commit, so
its locks are taken on a file of their own, beside the mounts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
from typing import NamedTuple

from coherent_volume.digest import short_name

__all__ = ["FileLocks", "Wanted", "stand_in"]

_FLOCK = struct.Struct("hhqqi4x")
_WHOLE = (1 << 63) - 1


class Wanted(NamedTuple):
    """A lock as the kernel describes it: bytes *start* to *end*, both included."""

    start: int
    end: int
    kind: int
    is_flock: bool

    def packed(self) -> bytes:
        """As fcntl takes it."""
        length = 0 if self.end >= _WHOLE else self.end - self.start + 1
        return _FLOCK.pack(self.kind, os.SEEK_SET, self.start, length, 0)


def stand_in(directory: str, key: bytes) -> tuple[bytes, bytes]:
    """The path and the name of the file that is locked in the place of the artifact *key*."""
    # Two artifacts of one name would exclude each other: 32 bits are not enough for that.
    name = b"lock-" + short_name(key).encode()
    path = os.path.join(os.fsencode(directory), b"mounts", name)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return path, name


class FileLocks:
    """The locks that programs hold through one mount."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[bytes, int, bool], int] = {}

    def _descriptor(self, path: bytes, name: bytes, owner: int, *, is_flock: bool) -> int:
        with self._lock:
            found = self._held.get((name, owner, is_flock))
            if found is None:
                try:
                    found = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
                except PermissionError:
                    found = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                self._held[name, owner, is_flock] = found
            return found

    def take(self, path: bytes, name: bytes, owner: int, wanted: Wanted) -> None:
        """Take, change or release a lock now; EAGAIN when another holds it."""
        descriptor = self._descriptor(path, name, owner, is_flock=wanted.is_flock)
        if not wanted.is_flock:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted.packed())
            return
        how = {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX}
        fcntl.flock(descriptor, how.get(wanted.kind, fcntl.LOCK_UN) | fcntl.LOCK_NB)

    def test(self, path: bytes, name: bytes, owner: int, wanted: Wanted) -> Wanted:
        """The lock that stands in the way of *wanted*; an unlocked one when none does."""
        descriptor = self._descriptor(path, name, owner, is_flock=False)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted.packed())
        kind, _, start, length, _ = _FLOCK.unpack(answer)
        return Wanted(start, _WHOLE if length == 0 else start + length - 1, kind, is_flock=False)

    def drop(self, name: bytes, owner: int, *, is_flock: bool) -> None:
        """The owner closed the file: whatever it held there is free."""
        with self._lock:
            descriptor = self._held.pop((name, owner, is_flock), None)
        if descriptor is not None:
            os.close(descriptor)

    def any(self) -> bool:
        """Whether any lock was ever taken and not dropped."""
        return bool(self._held)

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            held, self._held = self._held, {}
        for descriptor in held.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)

    @staticmethod
    def is_taken(error: OSError) -> bool:
        """Whether *error* says that another holds the lock."""
        return error.errno in (errno.EAGAIN, errno.EACCES)
