"""System calls of mounting and of file systems that Python does not offer.

Owns ctypes for the mount, and every constant of these calls. Each function does
what its first line says or raises OSError; none knows anything of artifacts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

__all__ = [
    "MNT_DETACH",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOSUID",
    "MS_REC",
    "MS_SLAVE",
    "NEW_MOUNTS",
    "NEW_USERS",
    "allocate",
    "become_subreaper",
    "die_with_parent",
    "mount",
    "raise_file_limit",
    "unmount",
    "unshare",
]

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 4096, 16384, 1 << 19
MNT_DETACH = 2
NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_FILES = 1 << 16
"""Enough for programs with 10,000 open files, each of which needs up to three descriptors."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _checked(result: int, what: bytes = b"") -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(what))


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes = b"") -> None:
    """Mount *source* at *target*; raises OSError."""
    _checked(_libc.mount(source, target, kind, flags, data), target)


def unmount(target: bytes, flags: int = 0) -> None:
    """Unmount *target*; raises OSError."""
    _checked(_libc.umount2(target, flags), target)


def unshare(flags: int) -> None:
    """Leave the namespaces named by *flags* for new ones; raises OSError."""
    _checked(_libc.unshare(flags))


def allocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), with its modes; raises OSError."""
    _checked(_libc.fallocate(descriptor, mode, offset, length))


def become_subreaper() -> None:
    """Adopt the orphans among this process's descendants."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def die_with_parent(signal_number: int) -> None:
    """Ask for a signal when the parent ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0))


def raise_file_limit() -> int:
    """Allow as many open files as may be, beyond the hard limit where that is permitted."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError):  # only a privileged process may
            more = max(hard, _FILES)
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, more))
            return more
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
