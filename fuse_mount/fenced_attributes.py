"""Fenced attributes: what stat shows of an artifact, and changes of size, mode and times.

Owns the choice between a generation's attributes and its working copy's. A
change of size is a save like any other; mode, owner and times make no
generation and go to the copy and to the file alike.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from coherent_volume.model import ArtifactKey
from fuse_mount.fenced_files import FencedFiles
from fuse_mount.handles import Handle
from fuse_mount.managed import GENERATION_ATTR_S, State
from fuse_mount.nodes import Node, no_such
from fuse_mount.processes import process_of
from fuse_mount.protocol import Attr
from fuse_mount.tree import Caller, Change, attr_of, drop_bits
from fuse_mount.working import WorkingCopy

__all__ = ["FencedAttributes"]


class FencedAttributes(FencedFiles):
    """Attributes of artifacts."""

    # ── attributes ───────────────────────────────────────────────────────────

    def getattr(self, node: Node) -> tuple[Attr, float]:
        """The node's attributes; a generation's are its own for ever."""
        if isinstance(node.extra, WorkingCopy):
            with self.state(node.extra.key).lock:
                return self.copy_attr(node.extra), 0.0
        try:
            current = self.found_at(node, lately=True)
        except OSError:
            current = None  # an old generation, held open
        if current is None:
            return super().getattr(node)
        key, found = current
        attr = self.faces.of(key, attr_of(found))
        state = self._states.find(key)
        if state is not None and state.deleted is not None:
            return attr._replace(nlink=0), 0.0  # the session removed it, and has it open
        return attr, GENERATION_ATTR_S

    def setattr(self, caller: Caller, node: Node, change: Change) -> tuple[Attr, float]:
        """Change attributes; a change of size is a save like any other."""
        copy = node.extra
        key = self.key_of(node)
        if key is None:
            return super().setattr(caller, node, change)
        if change.resizes and change.has_handle:
            self._truncate_open(self.state(key), self.handle(change.handle), change.size)
            if change.drops_bits:
                drop_bits(self.handle(change.handle).descriptor)
        elif change.resizes:
            return self._truncate(caller, key, node, change)
        if change.other_than_size:
            self._change_real(key, node, change)
        if isinstance(copy, WorkingCopy):
            return self.copy_attr(copy), 0.0
        return self.getattr(node)

    def _truncate_open(self, state: State, handle: Handle, size: int) -> None:
        """ftruncate(2); no commit falls between it and its note."""
        with state.lock:
            self.about_to_write(handle, appends=False)
            os.ftruncate(handle.descriptor, size)
            if isinstance(handle.extra, WorkingCopy) and not handle.extra.discarded:
                handle.extra.changed(data=size > 0)
                handle.extra.grows_only = False

    def _truncate(
        self, caller: Caller, key: ArtifactKey, node: Node, change: Change
    ) -> tuple[Attr, float]:
        """truncate(2) by name: a save without an open file."""
        state = self.state(key)
        with state.lock:
            copy = self._prepare(state, caller, node.parent, os.O_WRONLY)
            copy.arrived(caller.pid)
            copy.grows_only = False
            copy.opener, _ = process_of(caller.pid)
            os.ftruncate(copy.descriptor, change.size)
            if change.drops_bits:
                drop_bits(copy.descriptor)
            copy.changed(data=change.size > 0)
            attr = self.copy_attr(copy)
            if change.size > 0 and copy.handles == 0:
                self.commit_copy(state, copy, 0, "truncate")
            elif copy.handles == 0:
                state.empty_due = time.monotonic() + self.fence.options.hold_s
        return attr, 0.0

    def _change_real(self, key: ArtifactKey, node: Node, change: Change) -> None:
        """Mode, owner and times make no generation; they go to copy and file alike."""
        plain = change._replace(valid=change.valid & ~(8 | 64))
        copy = node.extra
        if not isinstance(copy, WorkingCopy):
            before = os.fstat(self.nodes.descriptor(node))
            super().setattr(Caller(0, 0, 0), node, plain)
            after = os.fstat(self.nodes.descriptor(node))
            self.fence.claims.note_change(key, before.st_ctime_ns, after.st_ctime_ns)
            return
        # Under the lock: a commit that runs meanwhile has read the attributes already.
        with self.state(key).lock:
            if copy.discarded and copy.handles == 0:
                raise no_such(errno.ESTALE)  # committed: its name leads to the generation
            self._change_copy(key, node, copy, plain)

    def _change_copy(self, key: ArtifactKey, node: Node, copy: WorkingCopy, plain: Change) -> None:
        """Change a copy, and the file with it if they have the same content."""
        if copy.descriptor >= 0:
            self._apply(b"/proc/self/fd/%d" % copy.descriptor, plain)
        else:
            self._apply(self.nodes.path(node), plain)  # removed, and still open
        if not copy.is_new and not copy.discarded and not copy.dirty:
            try:
                descriptor = self.open_real(key)
            except OSError:
                return
            try:
                self._apply(b"/proc/self/fd/%d" % descriptor, plain)
                found = os.fstat(descriptor)
                copy.looked = (found.st_ino, found.st_mtime_ns, found.st_size)
            finally:
                os.close(descriptor)

    def _apply(self, path: bytes, change: Change) -> None:
        self.change_owner(path, change)
        if change.valid & 1:
            os.chmod(path, stat.S_IMODE(change.mode))
        self.change_times(path, change)
