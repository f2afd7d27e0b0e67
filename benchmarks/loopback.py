"""The plainest file system that fusepy can make: a directory shown at a second path.

What a mount through fusepy costs before it does anything of its own. Run as
``python -m benchmarks.loopback SOURCE MOUNTPOINT``; serves until it is unmounted.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import fuse

_ATTRIBUTES = (
    *("st_atime", "st_ctime", "st_gid", "st_ino", "st_mode", "st_mtime", "st_nlink", "st_size"),
    *("st_uid", "st_blocks", "st_blksize", "st_rdev"),
)
_NUMBERS = (
    *("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files"),
    *("f_flag", "f_frsize", "f_namemax"),
)


class Loopback(fuse.Operations):  # type: ignore[misc]
    """Every call is the system's, on the same path below the source."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __call__(self, name: str, path: str, *values: Any) -> Any:
        """Call one operation; *path* becomes that of the real file."""
        if not hasattr(self, name):
            raise fuse.FuseOSError(errno.EFAULT)
        return getattr(self, name)(self._source + path, *values)

    # What needs no more than the system's own function of the same arguments.
    chmod = staticmethod(os.chmod)
    chown = staticmethod(os.lchown)
    mkdir = staticmethod(os.mkdir)
    mknod = staticmethod(os.mknod)
    open = staticmethod(os.open)
    readlink = staticmethod(os.readlink)
    rmdir = staticmethod(os.rmdir)
    unlink = staticmethod(os.unlink)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Return what stat shows."""
        found = os.lstat(path)
        return {name: getattr(found, name) for name in _ATTRIBUTES}

    def statfs(self, path: str) -> dict[str, Any]:
        """Return the numbers of the file system below."""
        found = os.statvfs(path)
        return {name: getattr(found, name) for name in _NUMBERS}

    def readdir(self, path: str, fh: int) -> list[str]:
        """Return all names of a directory."""
        return [".", "..", *os.listdir(path)]

    def create(self, path: str, mode: int, fi: object = None) -> int:
        """Make a file and open it."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Return a part of an open file."""
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Write a part of an open file."""
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        """Cut a file off."""
        os.truncate(path if fh is None else fh, length)

    def release(self, path: str, fh: int) -> None:
        """Close a file."""
        os.close(fh)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        """Flush a file."""
        os.fsync(fh)

    def rename(self, old: str, new: str) -> None:
        """Rename; the second path does not pass through ``__call__``."""
        os.rename(old, self._source + new)

    def link(self, target: str, source: str) -> None:
        """Make a second name."""
        os.link(self._source + source, target)

    def symlink(self, target: str, source: str) -> None:
        """Make a symbolic link."""
        os.symlink(source, target)

    def utimens(self, path: str, times: tuple[float, float] | None = None) -> None:
        """Set the times of a file."""
        os.utime(path, times)


if __name__ == "__main__":
    fuse.FUSE(Loopback(sys.argv[1]), sys.argv[2], foreground=True)
