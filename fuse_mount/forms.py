"""The forms of libfuse: what stat shows and what changes, as its callers say them.

Pure functions between those and the forms of the tree.
"""

from __future__ import annotations

import os

from fuse_mount.protocol import Attr
from fuse_mount.tree import Change

__all__ = ["new_mode", "new_owner", "new_size", "new_times", "stat"]

_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME, _FH = 1, 2, 4, 8, 16, 32, 64
_ATIME_NOW, _MTIME_NOW = 128, 256
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


def stat(found: Attr) -> dict[str, int]:
    """The fields of struct stat."""
    number = found.rdev
    device = os.makedev((number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00))
    fields = {f"st_{name}": value for name, value in found._asdict().items()}
    return {**fields, "st_rdev": device}


def new_mode(mode: int) -> Change:
    """A change of the mode."""
    return _change(_MODE, mode=mode)


def new_owner(uid: int, gid: int) -> Change:
    """A change of the owner; -1 leaves it."""
    return _change((_UID if uid != -1 else 0) | (_GID if gid != -1 else 0), uid=uid, gid=gid)


def new_size(length: int, handle: int | None = None) -> Change:
    """A change of the size, of a path or of an open file."""
    return _change(_SIZE | (0 if handle is None else _FH), size=length, handle=handle or 0)


def new_times(times: tuple[int, int] | None) -> Change:
    """A change of the times, in nanoseconds or as utimensat(2) says; None: both to this moment."""
    accessed, modified = times or (_UTIME_NOW, _UTIME_NOW)
    valid = _which(accessed, _ATIME, _ATIME_NOW) | _which(modified, _MTIME, _MTIME_NOW)
    return _change(valid, atime=accessed, mtime=modified)


def _change(valid: int, **values: int) -> Change:
    return Change(valid, **{name: values.get(name, 0) for name in Change._fields[1:]})


def _which(time_ns: int, given: int, at_once: int) -> int:
    if time_ns == _UTIME_OMIT:
        return 0
    return given | at_once if time_ns == _UTIME_NOW else given
