"""Fenced files: opening, writing and closing artifacts.

Owns what becomes of a save in place. An open for writing is judged at once and
gets a working copy; what is written goes there; the flush of a dirty handle
commits it. A reader gets the generation that is current, keeps it, and is
credited with it.

    open for writing ──▶ prepared ──ESTALE, the kernel asks again──▶ open copy
    open copy ──write──▶ dirty ──flush──▶ committed (one generation)
    truncated only ──last close──▶ held ──200 ms──▶ committed as it is
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from coherent_volume.digest import digest_of_chunks
from coherent_volume.errors import (
    CoherenceError,
    StaleGenerationError,
)
from coherent_volume.model import ArtifactKey, Digest
from coherent_volume.paths import shown
from fuse_mount.claims import OVERWRITE, Claim
from fuse_mount.fence import seen_of
from fuse_mount.fenced_reading import FencedReading
from fuse_mount.handles import Handle
from fuse_mount.managed import State
from fuse_mount.nodes import Node, no_such
from fuse_mount.processes import keeps_writable, process_of
from fuse_mount.protocol import Entry
from fuse_mount.tree import Caller
from fuse_mount.working import WorkingCopy, content_of

__all__ = ["FencedFiles", "Late"]


@dataclass(slots=True)
class Late:
    """A file that was renamed onto an artifact while it was open for writing.

    ``saved`` is the digest of what was saved of it last; all its open files share one.
    """

    key: ArtifactKey
    claim: Claim
    saved: Digest


class FencedFiles(FencedReading):
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
            mode = flags & (os.O_ACCMODE | os.O_APPEND)
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
            credit.note_opened(copy.key, process, base)
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

    # ── writing ──────────────────────────────────────────────────────────────

    def write(self, caller: Caller, number: int, offset: int, data: memoryview) -> int:
        """Write to an open file; to a working copy only while it may still be committed."""
        del caller
        handle = self.handle(number)
        with self.writing(handle):
            return os.pwrite(handle.descriptor, data, offset)

    @contextlib.contextmanager
    def writing(self, handle: Handle) -> Iterator[None]:
        """Write to *handle* in the block: no commit falls between the write and its note."""
        copy = handle.extra
        lock = self.state(copy.key).lock if isinstance(copy, WorkingCopy) else None
        with lock or contextlib.nullcontext():
            self.about_to_write(handle)
            yield
            self.has_written(handle)

    def about_to_write(self, handle: Handle) -> None:
        """Refuse a write through an older handle, before it does anything."""
        copy = handle.extra
        if not isinstance(copy, WorkingCopy):
            return
        if copy.dirty and copy.writer == handle.opener and not copy.discarded:
            return
        state = self.state(copy.key)
        with state.lock:
            if copy.refused:
                raise no_such(self.fence.options.refused_errno)
            if copy.discarded:
                return  # removed or replaced by the session itself: as any unlinked file
            if not handle.flags & os.O_APPEND:
                self._refuse_two_writers(copy, handle)
            copy.writer = handle.opener
            if copy.dirty:
                return
            if copy.looked != self.looked(copy.key) and not copy.grows_only:
                try:
                    with self.fence.admitted(copy.key, copy.claim, "write"):
                        pass
                except OSError:
                    self.discard(state, copy, refused=True)
                    raise
            if state.copy is None:
                state.copy = copy

    def _refuse_two_writers(self, copy: WorkingCopy, handle: Handle) -> None:
        """Two programs of one session must not lose each other's work either."""
        if handle.version == copy.version and copy.writer in (0, handle.opener):
            return
        what = "saved" if handle.version != copy.version else "is writing"
        raise self._two_programs(copy, "write", what)

    def _two_programs(self, copy: WorkingCopy, operation: str, what: str) -> OSError:
        base = copy.claim.base.generation if copy.claim.base else 0
        error = StaleGenerationError(
            f"another program of this session {what} it since this one opened it",
            path=shown(copy.key),
            base=base,
            current=base,
            by=self.fence.parts.session.name,
        )
        return self.fence.refusal(copy.key, operation, error, copy.claim)

    def replaced(self, state: State, copy: WorkingCopy, process: int) -> None:
        """Another file took the copy's place; an unfinished save of another program is kept."""
        if copy.dirty and copy.has_data and copy.writer not in (0, process):
            error = StaleGenerationError(
                "another program of this session replaced it during the save",
                path=shown(copy.key),
                by=self.fence.parts.session.name,
            )
            self.fence.keep_aside(copy.key, copy.claim, lambda: self.copies.keep(copy), error)
            copy.kept = bool(error.fields.get("kept"))
            self.discard(state, copy, refused=True)
        else:
            self.discard(state, copy)

    def has_written(self, handle: Handle) -> None:
        """Note that there is something to commit."""
        extra = handle.extra
        if isinstance(extra, WorkingCopy) and not extra.discarded:
            extra.changed(data=True)

    def fallocate(self, caller: Caller, number: int, mode: int, offset: int, length: int) -> None:
        """Allocate, punch or zero a range."""
        with self.writing(self.handle(number)):
            super().fallocate(caller, number, mode, offset, length)

    def copy_range(
        self, caller: Caller, source: tuple[int, int], target: tuple[int, int], size: int
    ) -> int:
        """Copy from (handle, offset) to (handle, offset); how many bytes."""
        with self.writing(self.handle(target[0])):
            return super().copy_range(caller, source, target, size)

    # ── closing ──────────────────────────────────────────────────────────────

    def flush(self, caller: Caller, number: int) -> None:  # noqa: ARG002
        """A descriptor was closed: a complete save is committed, and told if refused."""
        handle = self.handle(number)
        copy = handle.extra
        if isinstance(copy, Late):
            self._flush_late(handle, copy)
        if not isinstance(copy, WorkingCopy) or not handle.writable:
            return
        state = self.state(copy.key)
        with state.lock:
            if copy.refused and copy.dirty and copy.writer == handle.opener:
                copy.dirty = False
                raise no_such(self.fence.options.refused_errno)
            if not copy.dirty or not copy.has_data or copy.discarded:
                return  # shells flush before they write
            if keeps_writable(handle.opener, copy.key):
                return
            self.commit_copy(state, copy, handle.opener, "write")
            handle.version = copy.version

    def _flush_late(self, handle: Handle, late: Late) -> None:
        with self.locked(late.key), contextlib.ExitStack() as stack:
            descriptor = os.open(b"/proc/self/fd/%d" % handle.descriptor, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            # By its content: the kernel may write by itself, and tells nobody.
            data = content_of(descriptor)
            is_small = isinstance(data, bytes)
            digest = digest_of_chunks([data] if isinstance(data, bytes) else data)
            if digest == late.saved:
                return
            late.saved = digest
            done = self.fence.save(
                late.key,
                late.claim,
                lambda: data if is_small else content_of(descriptor),
                "write",
                process=handle.opener,
            )
            seen = seen_of(done)
            late.claim = Claim(seen)
            if not is_small:
                late.saved = seen.digest  # somebody may have written meanwhile

    def release(self, number: int) -> None:
        """The last descriptor is closed; nobody hears of a refusal any more."""
        handle = self._open_files.get(number)
        copy = handle.extra if handle is not None else None
        if handle is not None and isinstance(copy, Late):
            with contextlib.suppress(OSError):  # the reason is noted, the content kept
                self._flush_late(handle, copy)
        super().release(number)
        if not isinstance(copy, WorkingCopy):
            return
        state = self.state(copy.key)
        with state.lock:
            copy.handles -= 1
            if copy.handles > 0 or copy.discarded:
                return
            if not copy.dirty:
                if not copy.is_shown:  # else somebody is about to open it
                    self.discard(state, copy)
            elif copy.has_data:
                with contextlib.suppress(OSError):  # the reason is noted, the content kept
                    self.commit_copy(state, copy, 0, "write")
            else:
                state.empty_due = time.monotonic() + self.fence.options.hold_s
