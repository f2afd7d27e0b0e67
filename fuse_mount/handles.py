"""Open files: reading and writing through the descriptor that an open pinned.

Owns the table of handles. A handle keeps the inode that it was opened on,
whatever happens to the name. Knows no artifact; ``fenced`` gives a handle a
working copy where it needs one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass

from coherent_volume.files import RACY_NS
from fuse_mount.locking import FileLocks, Wanted
from fuse_mount.nodes import Node, no_such
from fuse_mount.protocol import Attr, Entry
from fuse_mount.system import allocate
from fuse_mount.tree import Caller, Change, Tree, drop_bits

__all__ = ["Handle", "OpenFiles"]

_NOT_FOR_US = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_NOFOLLOW | os.O_DIRECT
_COPY_MAX = 64 << 20


@dataclass(slots=True, eq=False)
class Handle:
    """One open file. ``opener`` is the process (not the thread) that opened it."""

    node: Node
    descriptor: int
    flags: int
    opener: int = 0
    extra: object = None
    version: int = 0
    """Which content of a working copy it was opened on, or has written itself."""
    passes: bool = False
    """The kernel reads and writes it without us."""
    lockers: set[int] | None = None
    """Whose locks end with it, where closing is not told; None: each close is told."""

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class OpenFiles(Tree):
    """The tree, with its open files."""

    def __init__(self, root: int, descriptors_max: int) -> None:
        super().__init__(root, descriptors_max)
        self._open_files: dict[int, Handle] = {}
        self.locks = FileLocks()

    def handle(self, number: int) -> Handle:
        """The open file *number*; EBADF when there is none."""
        try:
            return self._open_files[number]
        except KeyError:
            raise no_such(errno.EBADF) from None

    def handles_of(self, node: Node) -> list[Handle]:
        """Every open file of *node*."""
        return [each for each in list(self._open_files.values()) if each.node is node]

    def keep_handle(self, handle: Handle) -> int:
        """Enter *handle* into the table; its number."""
        number = self.new_handle()
        self._open_files[number] = handle
        return number

    def keeps_cache(self, number: int) -> bool:
        """Whether what the kernel has cached of a file is still its content.

        It is, if the file is as it was when the kernel began to cache it. A file
        that changed within the last tick of the clock may change again unseen.
        """
        handle = self.handle(number)
        if handle.writable:
            return False
        found = os.fstat(handle.descriptor)
        now = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        node = handle.node
        if node.cached == now:
            return True
        is_racy = time.time_ns() - max(now[1:]) < RACY_NS
        node.cached = None if is_racy else now
        return False

    def open(self, caller: Caller, node: Node, flags: int) -> int:
        """Open a file; the handle's number."""
        del caller
        descriptor = os.open(self.nodes.path(node), (flags & ~_NOT_FOR_US) | os.O_CLOEXEC)
        return self.keep_handle(Handle(node, descriptor, flags))

    def create(
        self, caller: Caller, parent: Node, name: bytes, flags: int, mode: int
    ) -> tuple[Entry, int]:
        """Make (unless somebody was faster) and open a file."""
        above = self.nodes.descriptor(parent)
        wanted = (flags & ~os.O_NOCTTY & ~os.O_DIRECT) | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        made = True
        try:
            descriptor = os.open(name, wanted | os.O_EXCL, mode, dir_fd=above)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            made = False
            descriptor = os.open(name, wanted, mode, dir_fd=above)
        try:
            found = os.fstat(descriptor)
            if made and self.give(b"/proc/self/fd/%d" % descriptor, found, caller, mode):
                found = os.fstat(descriptor)
            node, seen = self.nodes.enter(parent, name)
            if (seen.st_dev, seen.st_ino) != (found.st_dev, found.st_ino):
                self.nodes.forget(node.id, 1)
                raise no_such(errno.ESTALE)
        except BaseException:
            os.close(descriptor)
            raise
        return self.entry(node, found), self.keep_handle(Handle(node, descriptor, flags))

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of an open file."""
        return os.pread(self.handle(number).descriptor, size, offset)

    def write(
        self, caller: Caller, number: int, offset: int, data: memoryview, *, is_page: bool = False
    ) -> int:
        """Write to an open file; how many bytes.

        *is_page*: a page of a mapping is written back, at *offset* also where the
        file was opened for appending. Nobody hears of an error.
        """
        del caller
        handle = self.handle(number)
        if not (is_page and handle.flags & os.O_APPEND):
            return os.pwrite(handle.descriptor, data, offset)
        # Through an appending descriptor pwrite appends, whatever offset it is told.
        path = b"/proc/self/fd/%d" % handle.descriptor
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)

    def flush(self, caller: Caller, number: int) -> None:
        """A descriptor of the open file was closed."""

    def release(self, number: int) -> None:
        """The last descriptor of the open file is closed."""
        handle = self._open_files.pop(number, None)
        if handle is not None and handle.lockers:
            for owner in handle.lockers:
                self.unlock_all(handle.node, owner, is_flock=False)
        if handle is not None and handle.descriptor >= 0:
            descriptor, handle.descriptor = handle.descriptor, -1
            os.close(descriptor)

    def drop_bits(self, number: int) -> None:
        """Take set-user-id and set-group-id from a file that was just changed."""
        drop_bits(self.handle(number).descriptor)

    # ── locks ────────────────────────────────────────────────────────────────

    def lockable(self, node: Node) -> tuple[bytes, bytes]:
        """The path of the file that stands for *node*, and its name among the locks."""
        return self.nodes.path(node), b"%d:%d" % node.identity

    def lock(self, node: Node, owner: int, wanted: Wanted) -> None:
        """Take or release a lock; EAGAIN when another program holds it."""
        self.locks.take(*self.lockable(node), owner, wanted)

    def note_locker(self, number: int, owner: int) -> None:
        """*owner* asks for a lock through an open file."""
        handle = self._open_files.get(number)
        if handle is not None and handle.lockers is not None:
            handle.lockers.add(owner)

    def test_lock(self, node: Node, owner: int, wanted: Wanted) -> Wanted:
        """The lock that stands in the way."""
        return self.locks.test(*self.lockable(node), owner, wanted)

    def unlock_all(self, node: Node, owner: int, *, is_flock: bool) -> None:
        """The owner closed the file."""
        if self.locks.any():
            with contextlib.suppress(OSError):
                self.locks.drop(self.lockable(node)[1], owner, is_flock=is_flock)

    # ── contents ─────────────────────────────────────────────────────────────

    def fsync(self, number: int, data_only: bool) -> None:
        """Flush an open file to the disk."""
        descriptor = self.handle(number).descriptor
        os.fdatasync(descriptor) if data_only else os.fsync(descriptor)

    def fallocate(self, caller: Caller, number: int, mode: int, offset: int, length: int) -> None:
        """Allocate, punch or zero a range."""
        del caller
        allocate(self.handle(number).descriptor, mode, offset, length)

    def lseek(self, number: int, offset: int, whence: int) -> int:
        """Find data or a hole."""
        return os.lseek(self.handle(number).descriptor, offset, whence)

    def copy_range(
        self, caller: Caller, source: tuple[int, int], target: tuple[int, int], size: int
    ) -> int:
        """Copy from (handle, offset) to (handle, offset) in the kernel; how many bytes."""
        del caller
        return os.copy_file_range(
            self.handle(source[0]).descriptor,
            self.handle(target[0]).descriptor,
            min(size, _COPY_MAX),
            source[1],
            target[1],
        )

    def setattr(self, caller: Caller, node: Node, change: Change) -> tuple[Attr, float]:
        """As the tree's; a size that came through an open file changes that file."""
        if change.resizes and change.has_handle:
            os.ftruncate(self.handle(change.handle).descriptor, change.size)
            change = change._replace(valid=change.valid & ~8)
        return super().setattr(caller, node, change)

    def close(self) -> None:
        """Let go of every open file and node."""
        for number in list(self._open_files):
            with contextlib.suppress(OSError):
                self.release(number)
        self.locks.close()
        self.nodes.close()
