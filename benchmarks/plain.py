"""What everybody writes without the library: the other side of every ratio.

Two spellings of each: the ordinary one (``open``), which the targets speak of,
and the barest system calls that do the same, so that the choice of baseline
decides nothing unseen. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = [
    "LockedCounter",
    "read",
    "read_bare",
    "update_durably",
    "update_durably_bare",
    "write_durably",
    "write_durably_bare",
    "write_replacing",
    "write_replacing_bare",
]


def read(path: str) -> bytes:
    """Read a whole file the ordinary way."""
    with open(path, "rb") as file:
        return file.read()


def read_bare(path: str, size: int) -> bytes:
    """Read a file of known size with three system calls."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, size + 1)
    finally:
        os.close(descriptor)


def _sync_directory(path: str) -> None:
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: str, data: bytes) -> None:
    """Replace a file so that a power cut leaves the old or the new bytes."""
    temporary = path + ".tmp"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_directory(path)


def write_replacing(path: str, data: bytes) -> None:
    """Replace a file so that a killed process leaves the old or the new bytes."""
    temporary = path + ".tmp"
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def _write_all(path: str, data: bytes, sync: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably_bare(path: str, data: bytes) -> None:
    """Do as ``write_durably`` does, by system calls."""
    temporary = path + ".tmp"
    _write_all(temporary, data, sync=True)
    os.replace(temporary, path)
    _sync_directory(path)


def write_replacing_bare(path: str, data: bytes) -> None:
    """Do as ``write_replacing`` does, by system calls."""
    temporary = path + ".tmp"
    _write_all(temporary, data, sync=False)
    os.replace(temporary, path)


def update_durably(path: str, change: Callable[[bytes], bytes]) -> None:
    """Read, change and durably replace a file, with no protection at all."""
    write_durably(path, change(read(path)))


def update_durably_bare(path: str, size: int, change: Callable[[bytes], bytes]) -> None:
    """Do as ``update_durably`` does, by system calls."""
    write_durably_bare(path, change(read_bare(path, size)))


class LockedCounter:
    """A number in a plain file, changed under an advisory lock beside it."""

    def __init__(self, path: str, durable: bool) -> None:
        self._path = path
        self._write = write_durably if durable else write_replacing
        self._lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def increment(self) -> None:
        """Add one, alone."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self._write(self._path, b"%d" % (int(read(self._path)) + 1))
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._lock)
