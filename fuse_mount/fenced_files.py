"""Fenced files: opening artifacts.

Owns the beginning of a save in place. An open for writing is judged at once and
gets a working copy; what is written goes there; the flush of a dirty handle
commits it. A reader gets the generation that is current, keeps it, and is
credited with it.

    open for writing ──▶ prepared ──ESTALE, the kernel asks again──▶ open copy
    open copy ──write──▶ dirty ──flush──▶ committed (one generation)
    truncated only ──last close──▶ held ──200 ms──▶ committed as it is
"""

from __future__ import annotations

import errno
import os
import stat

from coherent_volume.errors import (
    CoherenceError,
)
from fuse_mount.claims import OVERWRITE, Claim
from fuse_mount.fenced_writing import FencedWriting, Late
from fuse_mount.handles import Handle
from fuse_mount.managed import State
from fuse_mount.nodes import Node, no_such
from fuse_mount.outcomes import half_of
from fuse_mount.processes import process_of
from fuse_mount.protocol import Entry
from fuse_mount.tree import Caller
from fuse_mount.working import WorkingCopy

__all__ = ["FencedFiles", "Late"]


class FencedFiles(FencedWriting):
    """Open files of artifacts."""

    # ── opening ──────────────────────────────────────────────────────────────

    def open(self, caller: Caller, node: Node, flags: int) -> int:
        """Open a file; an artifact for writing by way of its working copy."""
        writes = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if isinstance(node.extra, WorkingCopy):
            return self._open_copy(caller, node, node.extra, flags)
        number = 0 if writes else self.open_known(caller, node, flags)
        if number:
            return number
        # For writing the name counts: a peer's commit must not use the second turn up.
        key = self.named(node) if writes else self.key_of(node)
        if key is None:
            return super().open(caller, node, flags)
        if not writes:
            return self.open_reading(caller, node, key, flags)
        state = self.state(key)
        with state.lock:
            # The copy has a node of its own, or readers would see its size change.
            raise self._asked(state, caller, node.parent, flags)

    def _prepare(
        self, state: State, caller: Caller, parent: Node | None, flags: int
    ) -> WorkingCopy:
        """The copy that an open for writing is to get; refuses the stale. State locked."""
        copy = state.copy
        if copy is not None and not copy.discarded:
            if copy.is_shown or (copy.handles and copy.looked == self.looked(state.key)):
                copy.prepare(caller.pid)
                return copy
            if copy.handles == 0:
                self.discard(state, copy)  # prepared, and then not opened
            state.copy = None  # a peer committed; its open files are judged when they write
        process, _ = process_of(caller.pid)
        appends = bool(flags & os.O_APPEND) and not flags & os.O_TRUNC
        try:
            claim = self.fence.claims.claim(state.key, process)
        except CoherenceError as error:
            raise self.fence.refusal(state.key, "open", error) from error
        if appends and flags & os.O_ACCMODE == os.O_WRONLY:
            # Whoever only adds at the end overwrites nobody.
            with self.fence.admitted(state.key, OVERWRITE, "open") as head:
                copy = self._filled(state, claim, parent, head.look.descriptor)
                copy.grows_only = True
        else:
            with self.fence.admitted(state.key, claim, "open") as head:
                if not head.look.exists:
                    raise no_such(errno.ESTALE)
                copy = self._filled(state, claim, parent, head.look.descriptor)
        if copy.looked is not None:
            copy.shown_inode = self.faces.number(copy.looked[0])
        state.copy = copy
        copy.prepare(caller.pid)
        return copy

    def _filled(self, state: State, claim: Claim, parent: Node | None, source: int) -> WorkingCopy:
        copy = self.new_copy(state.key, claim, parent)
        with self.discarded_if_failing(state, copy):
            self.copies.fill(copy, source)
        return copy

    def _open_copy(self, caller: Caller, node: Node, copy: WorkingCopy, flags: int) -> int:
        state = self.state(copy.key)
        with state.lock:
            if copy.discarded or copy.descriptor < 0:
                raise self._asked(state, caller, node.parent, flags)
            # Never for appending: the pages of a mapping are written where they belong.
            mode = flags & os.O_ACCMODE
            descriptor = os.open(b"/proc/self/fd/%d" % copy.descriptor, mode | os.O_CLOEXEC)
            self.spare(descriptor)
            process, _ = process_of(caller.pid)
            try:
                self._begin(copy, descriptor, flags, process)
            except BaseException:
                os.close(descriptor)
                raise
            copy.handles += 1
            copy.arrived(caller.pid)
            state.empty_due = 0.0
            handle = Handle(node, descriptor, flags, process, copy, copy.version)
            return self.keep_handle(handle)

    def _begin(self, copy: WorkingCopy, descriptor: int, flags: int, process: int) -> None:
        """Judge an open of *copy* by *process*, and do what it does by itself."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        credit, base = self.fence.credit, copy.claim.base
        if not writable:
            seen = base
            if base is not None and copy.dirty and not copy.is_new and self.others(copy, process):
                # Half of another program's save is no generation: whatever is derived from
                # it must not replace the one that the copy was made from.
                seen = half_of(base)
            credit.note_opened(copy.key, process, seen)
        # Of a new file: whatever was there before is gone, and was judged then.
        elif not (flags & os.O_APPEND or copy.is_new) and credit.is_behind(copy.key, process, base):
            raise self._two_programs(copy, "open", "saved")
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
            copy.dirty, copy.has_data, copy.writer = True, False, 0
        if writable and not flags & os.O_APPEND:
            copy.grows_only = False
        if writable:
            copy.opener = process

    def _asked(self, state: State, caller: Caller, parent: Node | None, flags: int) -> OSError:
        """Have the kernel look the name up again, which it does once: it must find a copy."""
        found = None if state.deleted is not None else self.on_disk(state.key)
        is_there = state.shown_copy is not None or (found and stat.S_ISREG(found.st_mode))
        if is_there and flags & (os.O_ACCMODE | os.O_TRUNC):
            self._prepare(state, caller, parent, flags)
        return no_such(errno.ESTALE)

    def create(
        self, caller: Caller, parent: Node, name: bytes, flags: int, mode: int
    ) -> tuple[Entry, int]:
        """Make and open a file; an artifact as a copy that nobody else sees yet."""
        key = self.key_at(parent, name)
        if key is None:
            return super().create(caller, parent, name, flags, mode)
        state = self.state(key)
        with state.lock:
            if self.exists(key):
                if flags & os.O_EXCL:
                    raise no_such(errno.EEXIST)
                raise self._asked(state, caller, parent, flags)
            copy = self._new_file(state, caller, parent, mode)
            copy.grows_only = bool(flags & os.O_APPEND)
            state.replaces = state.deleted is not None
            with self.discarded_if_failing(state, copy):
                entry = self.copy_entry(copy)
                try:
                    return entry, self._open_copy(caller, self.nodes.get(entry.node), copy, flags)
                except BaseException:
                    self.nodes.forget(entry.node, 1)  # the kernel never hears of it
                    raise

    def _new_file(self, state: State, caller: Caller, parent: Node, mode: int) -> WorkingCopy:
        if state.deleted is not None:
            claim = state.deleted.claim
        else:
            try:
                claim = self.fence.claims.absence(state.key)
            except CoherenceError as error:
                raise self.fence.refusal(state.key, "create", error) from error
        copy = self.new_copy(state.key, claim, parent)
        with self.discarded_if_failing(state, copy):
            above = os.fstat(self.nodes.descriptor(parent))
            group = above.st_gid if above.st_mode & stat.S_ISGID else caller.gid
            path = b"/proc/self/fd/%d" % copy.descriptor
            self.give(path, os.fstat(copy.descriptor), caller._replace(gid=group), mode)
        copy.is_new = True
        copy.changed(data=False)
        state.copy = copy
        return copy
