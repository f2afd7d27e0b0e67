"""Fenced following: the open files of what is moved go on as what it became.

Owns who follows a move. Whoever has an artifact open writes on under its new name, as
on any file system: to another artifact by a ``Late``, to a plain file by a descriptor of
that file in the place of its own. Whoever has an older content, which was not moved, is
refused at the next write: what it wrote would be kept nowhere.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from coherent_volume.digest import digest_of_chunks
from coherent_volume.model import ArtifactKey, Digest
from fuse_mount.fenced_files import Late
from fuse_mount.fenced_names import FencedNames
from fuse_mount.handles import Handle
from fuse_mount.working import WorkingCopy, content_of

__all__ = ["FencedFollowing", "Followers"]


class Followers(NamedTuple):
    """Who has what is moved open, and the copies that are open and older than it."""

    moved: list[Handle]
    older: list[WorkingCopy]


class FencedFollowing(FencedNames):
    """Open files whose names are moved; the states of both names are locked."""

    def followers(self, source: int, key: ArtifactKey | None) -> Followers:
        """Who has what is open as *source* open; *key* is its name, if that is an artifact's."""
        if key is None:
            found = os.fstat(source)
            node = self.nodes.find((found.st_dev, found.st_ino))
            return Followers(self.handles_of(node) if node is not None else [], [])
        current = self.state(key).copy
        if current is not None and not current.is_shown and current.looked != self.looked(key):
            current = None
        moved, older = [], []
        digest: Digest | None = None
        for handle in list(self._open_files.values()):
            extra = handle.extra
            if isinstance(extra, Late) and extra.key == key:
                digest = digest or _digest(source)
                if extra.saved == digest:
                    moved.append(handle)
            elif not isinstance(extra, WorkingCopy) or extra.key != key or extra.discarded:
                continue
            elif extra is current:
                moved.append(handle)
            elif extra not in older:
                older.append(extra)
        return Followers(moved, older)

    def follow_artifact(self, followers: Followers, late: Late) -> None:
        """Whoever has it open for writing goes on writing an artifact."""
        for handle in followers.moved:
            if handle.writable:
                handle.extra = late

    def follow_file(self, followers: Followers, path: int) -> None:
        """Whoever has it open goes on with a plain file, of which *path* is a descriptor."""
        for handle in followers.moved:
            copy = handle.extra
            if not isinstance(copy, WorkingCopy):
                continue  # it may hold what was not saved yet, and is judged when it is
            flags = handle.flags & (os.O_ACCMODE | os.O_APPEND) | os.O_CLOEXEC
            try:
                descriptor = os.open(b"/proc/self/fd/%d" % path, flags)
            except OSError:
                copy.refused = True  # told at its next write
                continue
            # In the place of the old one: another thread may have its number.
            os.dup2(descriptor, handle.descriptor, inheritable=False)
            os.close(descriptor)
            handle.extra = None
            with contextlib.suppress(OSError):
                os.dup2(path, self.nodes.descriptor(handle.node), inheritable=False)

    def refuse_rest(self, key: ArtifactKey, followers: Followers) -> None:
        """Whoever has *key* open and did not follow hears of it at the next write."""
        state = self.state(key)
        for copy in followers.older:
            self.discard(state, copy, refused=True)
        for each in followers.moved:
            if isinstance(each.extra, WorkingCopy) and each.writable:
                each.extra.refused = True

    def leave(self, key: ArtifactKey, followers: Followers) -> None:
        """What was at *key* was moved, and something else was saved there."""
        self.refuse_rest(key, followers)
        state = self.state(key)
        if state.copy is not None:
            self.discard(state, state.copy)
        state.deleted, state.replaces = None, False


def _digest(descriptor: int) -> Digest:
    data = content_of(descriptor)
    return digest_of_chunks([data] if isinstance(data, bytes) else data)
