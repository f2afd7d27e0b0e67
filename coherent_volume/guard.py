"""Locks on the files of an open database that no other code of this process can drop.

SQLite's own locks belong to the process: the kernel drops all of them on a file as soon
as the process closes *any* descriptor of it. One search, backup or checksum over the
tree does that, and a peer that closes its connection then takes itself for the last
one and deletes the log under ours. A lock of an open file description ends with that
description only. So beside each open database stand two shared ones, on the bytes by
which SQLite tells whether anybody uses the file. Safety of the log rests on them.

Owns those bytes and these descriptors, and decides nothing. Knows no SQL.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time

from coherent_volume.descriptors import dismiss, opened
from coherent_volume.errors import BusyError, from_os_error

__all__ = ["Guard"]

# Of the format of SQLite's files: the bytes that each user of a database has locked
# shared, and the byte of the shared index that says that its content is in use.
_USERS = (0x40000002, 510)
_INDEX_IN_USE = (128, 1)
_WAIT_S = 5.0  # as long as SQLite waits for the same reason
_POLL_S = 0.001

Identity = tuple[int, int] | None


class Guard:
    """Keeps peers from taking away the log of one database that this process has open."""

    def __init__(self, path: str) -> None:
        """Lock the database file at *path*; before SQLite opens it.

        From here on no peer deletes the log. A peer that is just doing so is waited
        for. Raises BusyError, or what the system says.
        """
        self._path = path
        self._descriptors: list[int] = []
        self._spent: list[int] = []
        self._log: tuple[Identity, Identity] = (None, None)
        try:
            self._lock(path, _USERS)
        except FileNotFoundError as error:
            self.close()
            raise from_os_error(error, None, "open the sidecar") from error
        except BaseException:
            self.close()
            raise

    def complete(self) -> None:
        """Lock the index too, and remember which log it is; after SQLite opened it.

        Not before: the lock would tell SQLite that an index left by a crash is in use.
        """
        # None with a database that was never one of ours; the opener says so.
        with contextlib.suppress(FileNotFoundError):
            self._lock(f"{self._path}-shm", _INDEX_IN_USE)
        self._log = self._look()

    def is_intact(self) -> bool:
        """Whether the log and its index still have their names."""
        return self._look() == self._log

    def unlock(self) -> None:
        """Let the close that follows find out whether it is the last one."""
        for descriptor in self._descriptors:
            with contextlib.suppress(OSError):
                _set(descriptor, fcntl.F_UNLCK, (0, 0))

    def close(self) -> None:
        """Close the descriptors; without ``unlock`` a copy of them keeps the locks."""
        left = self._descriptors + self._spent
        self._descriptors, self._spent = [], []
        for descriptor in left:
            with contextlib.suppress(OSError):
                dismiss(descriptor)

    def keep_open(self, other: Guard) -> None:
        """Close the descriptors of *other* only with our own.

        To close them while this process has the database open would drop the locks of
        a statement that is just running.
        """
        other.unlock()
        self._spent += other._descriptors + other._spent
        other._descriptors, other._spent = [], []

    def __del__(self) -> None:
        if getattr(self, "_spent", None) is not None:
            self.close()

    def _lock(self, path: str, where: tuple[int, int]) -> None:
        until = time.monotonic() + _WAIT_S
        try:
            self._descriptors.append(opened(path, os.O_RDONLY))
            while not _set(self._descriptors[-1], fcntl.F_RDLCK, where):
                if time.monotonic() > until:
                    raise BusyError(
                        "could not open the sidecar: another process is closing it",
                        holder="another process",
                    )
                time.sleep(_POLL_S)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise from_os_error(error, None, "open the sidecar") from error

    def _look(self) -> tuple[Identity, Identity]:
        return _identity(f"{self._path}-wal"), _identity(f"{self._path}-shm")


def _set(descriptor: int, kind: int, where: tuple[int, int]) -> bool:
    """Set or release a lock of the open file; whether no one else's was in the way."""
    start, length = where
    # struct flock; a length of 0 reaches to the end.
    wish = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wish)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _identity(path: str) -> Identity:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
