"""Fenced attributes: what stat shows of an artifact, and changes of size, mode and times.

Owns the choice between a generation's attributes and its working copy's. A
change of size is a save like any other; mode, owner and times make no
generation and go to the copy and to the file alike.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable

from coherent_volume.attributes import Attributes, give
from coherent_volume.errors import CoherenceError, printable
from coherent_volume.model import ArtifactKey
from coherent_volume.paths import shown
from fuse_mount.fenced_files import FencedFiles
from fuse_mount.handles import Handle
from fuse_mount.managed import GENERATION_ATTR_S, State
from fuse_mount.nodes import Node, no_such
from fuse_mount.processes import process_of
from fuse_mount.protocol import Attr
from fuse_mount.tree import Caller, Change, attr_of, drop_bits
from fuse_mount.working import WorkingCopy

__all__ = ["FencedAttributes"]

_log = logging.getLogger("coherent_volume")
_XATTR = "xattr "


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
        try:
            key = self.key_of(node)
        except OSError:
            if change.resizes:
                raise
            return self._change_current(node, lambda path: self._apply(path, change)), 0.0
        if key is None:
            return super().setattr(caller, node, change)
        if change.resizes and change.has_handle:
            self._truncate_open(self.state(key), self.handle(change.handle), change.size)
            if change.drops_bits:
                self.drop_bits(change.handle)
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
                copy.own.add("bits")
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
            self._change_file(key, self.nodes.path(node), lambda path: self._apply(path, plain))
            return
        own = {"mode"} if plain.valid & 1 else set()
        own |= {"owner"} if plain.valid & (2 | 4) else set()
        self._change_copy(node, copy, lambda path: self._apply(path, plain), own)

    def _change_file(self, key: ArtifactKey, path: bytes, act: Callable[[bytes], None]) -> None:
        """Change a generation's file; that is no edit of the session's."""
        before = os.stat(path)
        act(path)
        self.fence.claims.note_change(key, before.st_ctime_ns, os.stat(path).st_ctime_ns)

    def _change_current(self, node: Node, act: Callable[[bytes], None]) -> Attr:
        """Change the file that bears the node's name: peers commit faster than it is found."""
        key = self.named(node)
        if key is None:
            raise no_such(errno.ESTALE)
        with self.state(key).lock:
            state = self.state(key)
            if state.deleted is not None or state.shown_copy is not None:
                raise no_such(errno.ESTALE)
            try:
                descriptor = self.open_real(key)
            except FileNotFoundError:
                raise no_such(errno.ESTALE) from None
            try:
                self._change_file(key, b"/proc/self/fd/%d" % descriptor, act)
                return self.faces.of(key, attr_of(os.fstat(descriptor)))
            finally:
                os.close(descriptor)

    def _change_copy(
        self, node: Node, copy: WorkingCopy, act: Callable[[bytes], None], own: set[str]
    ) -> None:
        """Change a copy, and the file with it if they have the same content.

        *own*: what is the copy's alone if they have not.
        """
        # Under the lock: a commit that runs meanwhile has read the attributes already.
        with self.state(copy.key).lock:
            if copy.discarded and copy.handles == 0:
                raise no_such(errno.ESTALE)  # committed: its name leads to the generation
            # Removed, and still open: then only its node leads to it.
            act(
                b"/proc/self/fd/%d" % copy.descriptor
                if copy.descriptor >= 0
                else self.nodes.path(node)
            )
            if copy.is_new or copy.discarded or copy.dirty:
                copy.own |= own
                return
            try:
                descriptor = self.open_real(copy.key)
            except OSError:
                copy.own |= own
                return
            try:
                self._change_file(copy.key, b"/proc/self/fd/%d" % descriptor, act)
                found = os.fstat(descriptor)
                copy.looked = (found.st_ino, found.st_mtime_ns, found.st_size)
            finally:
                os.close(descriptor)

    def _apply(self, path: bytes, change: Change) -> None:
        self.change_owner(path, change)
        if change.valid & 1:
            os.chmod(path, stat.S_IMODE(change.mode))
        self.change_times(path, change)

    # ── extended attributes ──────────────────────────────────────────────────

    def setxattr(self, node: Node, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute; like the mode it goes to copy and file alike."""
        self._change_xattr(node, name, lambda path: os.setxattr(path, name, value, flags))

    def removexattr(self, node: Node, name: bytes) -> None:
        """Remove an extended attribute."""
        self._change_xattr(node, name, lambda path: os.removexattr(path, name))

    def _change_xattr(self, node: Node, name: bytes, act: Callable[[bytes], None]) -> None:
        if isinstance(node.extra, WorkingCopy):
            self._change_copy(node, node.extra, act, {_XATTR + os.fsdecode(name)})
            return
        try:
            key = self.key_of(node)
        except OSError:
            self._change_current(node, act)
            return
        if key is None:
            act(self.nodes.path(node))
        else:
            self._change_file(key, self.nodes.path(node), act)

    # ── what a commit takes along ────────────────────────────────────────────

    def drop_bits(self, number: int) -> None:
        """Take set-user-id and set-group-id from a file that was just changed."""
        super().drop_bits(number)
        copy = self.handle(number).extra
        if isinstance(copy, WorkingCopy):
            copy.own.add("bits")

    def commit_copy(self, state: State, copy: WorkingCopy, process: int, operation: str) -> None:
        """Make the copy's content the next generation, with the attributes of this moment."""
        if not copy.is_new:
            try:
                self._renew(copy)
            except (OSError, CoherenceError) as error:  # the content is worth more
                name = printable(shown(copy.key))
                _log.warning("%s is saved with its former attributes: %s", name, error)
        super().commit_copy(state, copy, process, operation)
        if not copy.discarded:
            found = self.on_disk(copy.key)
            copy.changed_ns = found.st_ctime_ns if found else 0
            copy.own.clear()

    def _renew(self, copy: WorkingCopy) -> None:
        """Let *copy* have what others changed of its file's attributes since it was made."""
        found = self.on_disk(copy.key)
        if found is None or found.st_ctime_ns == copy.changed_ns or not stat.S_ISREG(found.st_mode):
            return
        descriptor = self.open_real(copy.key)
        try:
            theirs = Attributes.of(descriptor, os.fstat(descriptor))
        finally:
            os.close(descriptor)
        mine, own = Attributes.of(copy.descriptor, os.fstat(copy.descriptor)), copy.own
        for name, _ in mine.xattrs:
            if _XATTR + name not in own and name not in dict(theirs.xattrs):
                os.removexattr(copy.descriptor, name)
        owner = mine if "owner" in own else theirs
        wanted = Attributes(
            mine.mode if "mode" in own else theirs.mode,
            owner.uid,
            owner.gid,
            tuple(each for each in theirs.xattrs if _XATTR + each[0] not in own),
        )
        give(copy.descriptor, wanted)
        if "bits" in own:
            drop_bits(copy.descriptor)
