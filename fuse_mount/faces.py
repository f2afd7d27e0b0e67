"""Faces: inode numbers and times of artifacts as programs see them.

A commit installs a new inode, but an editor that writes in place looks whether
the inode it opened is still there, and others compare times to see a change. So
a save in place keeps its inode number, and the time of an artifact always grows
by at least a millisecond from one generation to the next and never goes back.
Only what is shown differs; nothing on disk is changed.
"""

from __future__ import annotations

import os
import threading

from coherent_volume.model import ArtifactKey
from fuse_mount.protocol import Attr

__all__ = ["Faces"]

_STEP_NS = 1_000_000
_SYNTHETIC = 1 << 62


class Faces:
    """What is shown of the artifacts of one mount."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[int, int] = {}
        self._bearer: dict[int, int] = {}
        self._times: dict[ArtifactKey, tuple[int, int, int]] = {}
        self._changes: dict[ArtifactKey, tuple[int, int, int]] = {}
        self._next = _SYNTHETIC

    def number(self, inode: int) -> int:
        """The number under which *inode* is shown; no two inodes share one."""
        if not self._shown and not self._bearer:
            return inode
        with self._lock:
            shown = self._shown.get(inode)
            if shown is not None:
                return shown
            if self._bearer.get(inode, inode) == inode:
                return inode
            # Its own number is in use for the inode that took its place.
            self._next += 1
            self._shown[inode], self._bearer[self._next] = self._next, inode
            return self._next

    def fresh(self) -> int:
        """A number that no inode has, for a file that has none yet."""
        with self._lock:
            self._next += 1
            return self._next

    def succeed(self, shown: int, inode: int) -> None:
        """Show *inode* from now on as *shown*, in the place of whatever bore it."""
        with self._lock:
            given_up = self._shown.pop(inode, inode)
            if self._bearer.get(given_up) == inode:
                del self._bearer[given_up]
            self._shown.pop(self._bearer.get(shown, shown), None)
            self._bearer[shown], self._shown[inode] = inode, shown

    def time(self, key: ArtifactKey, inode: int, mtime: int) -> int:
        """The time to show for *key*, whose file is *inode* with *mtime*."""
        before = self._times.get(key)
        if before is not None and before[:2] == (inode, mtime):
            return before[2]
        shown = mtime if before is None else max(mtime, before[2] + _STEP_NS)
        self._times[key] = (inode, mtime, shown)
        return shown

    def settle(self, key: ArtifactKey, real: os.stat_result, copy: os.stat_result) -> None:
        """After a save in place: show its file with the times that the saver was shown.

        Savers that look at their open file and later at the name (git does)
        would otherwise believe that somebody changed it in between.
        """
        before = self._times.get(key)
        if before is None or copy.st_mtime_ns >= before[2] + _STEP_NS:
            self._times[key] = (real.st_ino, real.st_mtime_ns, copy.st_mtime_ns)
            self._changes[key] = (real.st_ino, real.st_ctime_ns, copy.st_ctime_ns)

    def of(self, key: ArtifactKey, attr: Attr) -> Attr:
        """*attr* of the artifact *key*, as programs see it."""
        shown = self.time(key, attr.ino, attr.mtime)
        changed = self._changes.get(key)
        ctime = attr.ctime
        if changed is not None and changed[:2] == (attr.ino, ctime):
            ctime = changed[2]
        if not self._shown and not self._bearer and (shown, ctime) == (attr.mtime, attr.ctime):
            return attr
        return attr._replace(ino=self.number(attr.ino), mtime=shown, ctime=ctime)
