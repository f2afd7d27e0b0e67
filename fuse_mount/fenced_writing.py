"""Fenced writing: what becomes of what is written to an open artifact, up to its close.

Owns the judgement of a write through an older handle, and the commit at the
close. A working copy takes what is written as long as it may still be committed;
what was refused is kept, and whoever can still be told is told.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from coherent_volume.digest import digest_of_chunks
from coherent_volume.errors import StaleGenerationError
from coherent_volume.model import ArtifactKey, Digest
from coherent_volume.paths import shown
from fuse_mount.claims import Claim
from fuse_mount.fence import seen_of
from fuse_mount.fenced_reading import FencedReading
from fuse_mount.handles import Handle
from fuse_mount.keeping import copy_to_refused
from fuse_mount.managed import State
from fuse_mount.nodes import no_such
from fuse_mount.processes import keeps_writable, process_of
from fuse_mount.tree import Caller
from fuse_mount.working import WorkingCopy, content_of

__all__ = ["FencedWriting", "Late"]

_KEEP_SIZE = 1


@dataclass(slots=True)
class Late:
    """A file that was renamed onto an artifact while it was open for writing.

    ``saved`` is the digest of what was saved of it last; all its open files share one.
    ``claim`` is what its content rests on: not what a merge of it with others' made.
    """

    key: ArtifactKey
    claim: Claim
    saved: Digest


class FencedWriting(FencedReading):
    """Open files of artifacts, while they are written and when they are closed."""

    # ── writing ──────────────────────────────────────────────────────────────

    def write(
        self, caller: Caller, number: int, offset: int, data: memoryview, *, is_page: bool = False
    ) -> int:
        """Write to an open file; to a working copy only while it may still be committed."""
        handle = self.handle(number)
        if is_page and isinstance(handle.extra, WorkingCopy):
            return self._write_page(handle, handle.extra, offset, data)
        appends = bool(handle.flags & os.O_APPEND) and not is_page
        with self.writing(handle, appends=appends):
            if appends and isinstance(handle.extra, WorkingCopy | Late):
                offset = os.fstat(handle.descriptor).st_size  # nobody else writes meanwhile
            return super().write(caller, number, offset, data, is_page=is_page)

    def _write_page(self, handle: Handle, copy: WorkingCopy, offset: int, data: memoryview) -> int:
        """Take a page of a mapping, whatever happened; it is judged, or kept, at the close.

        Its program wrote it into memory a while ago. An error would be told to
        nobody, and the kernel would throw the page away.
        """
        state = self.state(copy.key)
        with state.lock:
            written = os.pwrite(handle.descriptor, data, offset)
            if copy.discarded:
                copy.has_late_page = copy.refused  # else it is as any unlinked file
                return written
            copy.grows_only = False
            copy.changed(data=True)
            copy.writer = copy.writer or handle.opener
            if state.copy is None:
                state.copy = copy
            return written

    @contextlib.contextmanager
    def writing(self, handle: Handle, *, appends: bool) -> Iterator[None]:
        """Write to *handle* in the block: no commit falls between the write and its note.

        *appends*: what was there before stays as it is.
        """
        copy = handle.extra
        lock = self.state(copy.key).lock if isinstance(copy, WorkingCopy | Late) else None
        with lock or contextlib.nullcontext():
            self.about_to_write(handle, appends=appends)
            if isinstance(copy, WorkingCopy) and not appends:
                copy.grows_only = False
            yield
            self.has_written(handle)

    def about_to_write(self, handle: Handle, *, appends: bool) -> None:
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
            if not appends:
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
        """Another file took the copy's place: other programs that write it must hear of it.

        What reached the mount of an unfinished save is kept.
        """
        others = self.others(copy, process)
        if copy.dirty and others:
            error = StaleGenerationError(
                "another program of this session replaced it during the save",
                path=shown(copy.key),
                by=self.fence.parts.session.name,
            )
            if copy.has_data:
                self.fence.keep_aside(copy.key, copy.claim, lambda: self.copies.keep(copy), error)
                copy.kept = bool(error.fields.get("kept"))
            else:
                self.fence.refusal(copy.key, "write", error, copy.claim)
                copy.kept = True  # there is nothing to keep
        self.discard(state, copy, refused=others)

    def others(self, copy: WorkingCopy, process: int) -> bool:
        """Whether another process than *process* has *copy* open for writing."""
        if copy.node is None or copy.handles == 0:
            return False
        handles = self.handles_of(copy.node)
        return any(each.writable and each.opener != process for each in handles)

    def has_written(self, handle: Handle) -> None:
        """Note that there is something to commit."""
        extra = handle.extra
        if isinstance(extra, WorkingCopy) and not extra.discarded:
            extra.changed(data=True)

    def fallocate(self, caller: Caller, number: int, mode: int, offset: int, length: int) -> None:
        """Allocate, punch or zero a range."""
        appends = not mode & ~_KEEP_SIZE  # else it clears, moves or removes what is there
        with self.writing(self.handle(number), appends=appends):
            super().fallocate(caller, number, mode, offset, length)

    def copy_range(
        self, caller: Caller, source: tuple[int, int], target: tuple[int, int], size: int
    ) -> int:
        """Copy from (handle, offset) to (handle, offset); how many bytes."""
        with self.writing(self.handle(target[0]), appends=False):
            return super().copy_range(caller, source, target, size)

    # ── closing ──────────────────────────────────────────────────────────────

    def flush(self, caller: Caller, number: int) -> None:
        """A descriptor was closed: a complete save is committed, and told if refused."""
        handle = self.handle(number)
        copy = handle.extra
        if isinstance(copy, Late):
            if not handle.opener:
                # It was opened as a plain file, of which nobody notes who opens it.
                handle.opener, _ = process_of(caller.pid)
            self._flush_late(handle, copy)
        if not isinstance(copy, WorkingCopy) or not handle.writable:
            return
        state = self.state(copy.key)
        with state.lock:
            if copy.refused and copy.dirty and copy.writer in (0, handle.opener):
                copy.dirty = False
                raise no_such(self.fence.options.refused_errno)
            if not copy.dirty or not copy.has_data or copy.discarded:
                return  # shells flush before they write
            if keeps_writable(handle.opener, copy.key, copy.shown_inode):
                return
            self.commit_copy(state, copy, handle.opener, "write")
            for each in self.handles_of(handle.node) if copy.handles > 1 else (handle,):
                if each.opener == handle.opener:
                    each.version = copy.version  # what it saved itself is not another's

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
            late.claim = late.claim if done.merged else Claim(seen)
            if not is_small:
                late.saved = seen.digest  # somebody may have written meanwhile

    def release(self, number: int) -> None:
        """The last descriptor is closed; nobody hears of a refusal any more."""
        handle = self._open_files.get(number)
        copy = handle.extra if handle is not None else None
        if handle is not None and isinstance(copy, Late):
            with contextlib.suppress(OSError):  # the reason is noted, the content kept
                self._flush_late(handle, copy)
        if handle is not None and isinstance(copy, WorkingCopy):
            self._keep_late_pages(handle, copy)
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

    def _keep_late_pages(self, handle: Handle, copy: WorkingCopy) -> None:
        """Keep what was written into a mapping of *copy* after it had been refused."""
        with self.state(copy.key).lock:
            if not copy.has_late_page or copy.handles > 1:
                return
            copy.has_late_page = False
            error = StaleGenerationError(
                "it was refused before this page of a mapping was written",
                path=shown(copy.key),
                by=self.fence.parts.session.name,
            )
            parts, base = self.fence.parts, copy.claim.base
            self.fence.keep_aside(
                copy.key,
                copy.claim,
                lambda: copy_to_refused(
                    parts, copy.key, base, lambda: content_of(handle.descriptor)
                ),
                error,
            )
