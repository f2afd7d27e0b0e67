"""The tree: plain POSIX operations on the real directory, through descriptors.

Owns names and attributes of what is not managed: every operation works on the
inode that the kernel means (``*_at`` calls below an ``O_PATH`` descriptor), never
on a path that somebody may exchange meanwhile. Knows no transport and no
artifact; ``fenced`` stands above it and takes over where a name is managed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

from coherent_volume.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from fuse_mount.nodes import Node, NodeTable, no_such
from fuse_mount.protocol import Attr, Entry

__all__ = ["Caller", "Change", "Tree", "attr_of", "drop_bits"]

_FILE_ATTR_S = 0.02
"""How long attributes of a file may be believed: from the look-up of its name
to the stat that follows, and no longer, because peers change files."""
_DIRECTORY_S = 1.0

_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME, _FH = 1, 2, 4, 8, 16, 32, 64
_ATIME_NOW, _MTIME_NOW = 128, 256
_DROPS_BITS = 1 << 11


class Caller(NamedTuple):
    """Who asks; ``pid`` is a thread's number, and 0 when the kernel itself asks."""

    uid: int
    gid: int
    pid: int


class Change(NamedTuple):
    """A request to change attributes: ``valid`` says which fields count."""

    valid: int
    handle: int
    size: int
    atime: int
    mtime: int
    mode: int
    uid: int
    gid: int

    @property
    def resizes(self) -> bool:
        """Whether the size is to change."""
        return bool(self.valid & _SIZE)

    @property
    def has_handle(self) -> bool:
        """Whether it came through an open file."""
        return bool(self.valid & _FH)

    @property
    def other_than_size(self) -> bool:
        """Whether anything but the size is to change."""
        return bool(self.valid & (_MODE | _UID | _GID | _ATIME | _MTIME))

    @property
    def drops_bits(self) -> bool:
        """Whether the file must lose set-user-id and set-group-id with its content."""
        return bool(self.valid & _DROPS_BITS)


def drop_bits(file: int | bytes) -> None:
    """Take set-user-id and set-group-id from a file (a path or an open one).

    Where that is not permitted the system does it itself: it is asked only by a
    server that is no root, whose writes take the bits away as anybody's do.
    """
    mode = os.stat(file).st_mode
    wanted = mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        wanted &= ~stat.S_ISGID
    if wanted != mode:
        with contextlib.suppress(PermissionError):
            os.chmod(file, stat.S_IMODE(wanted))


def attr_of(found: os.stat_result) -> Attr:
    """The attributes that *found* shows."""
    return Attr(
        found.st_ino,
        found.st_size,
        found.st_blocks,
        found.st_atime_ns,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        _kernel_device(found.st_rdev),
        found.st_blksize,
    )


def _kernel_device(number: int) -> int:
    major, minor = os.major(number), os.minor(number)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def _device(number: int) -> int:
    return os.makedev((number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00))


@dataclass(slots=True)
class Listing:
    """An open directory: what it held when it was opened or rewound."""

    node: Node
    entries: list[tuple[bytes, int, int]] | None = None


class Tree:
    """Plain operations by node; each raises OSError."""

    def __init__(self, root: int, descriptors_max: int) -> None:
        self.nodes = NodeTable(root, descriptors_max)
        self._is_root = os.geteuid() == 0
        self._handles_lock = threading.Lock()
        self._listings: dict[int, Listing] = {}
        self._next_handle = 1

    # ── look-ups and attributes ──────────────────────────────────────────────

    def entry(self, node: Node, found: os.stat_result) -> Entry:
        """The answer to a look-up that found *node*."""
        if node.is_directory:
            return Entry(node.id, attr_of(found), _DIRECTORY_S, _DIRECTORY_S)
        # 0 for every file: a rename moves the kernel's entry with its expiry, so
        # that the time of a temporary name would become that of an artifact.
        return Entry(node.id, attr_of(found), 0.0, _FILE_ATTR_S)

    def lookup(self, parent: Node, name: bytes) -> Entry:
        """Find *name* in *parent*."""
        return self.entry(*self.nodes.enter(parent, name))

    def forget(self, number: int, count: int) -> None:
        """The kernel takes back *count* look-ups of a node."""
        self.nodes.forget(number, count)

    def getattr(self, node: Node) -> tuple[Attr, float]:
        """The node's attributes, and how long they may be believed."""
        found = os.fstat(self.nodes.descriptor(node))
        return attr_of(found), _DIRECTORY_S if node.is_directory else _FILE_ATTR_S

    def setattr(self, caller: Caller, node: Node, change: Change) -> tuple[Attr, float]:
        """Change mode, owner, size and times; the new attributes."""
        del caller
        path = self.nodes.path(node)
        if change.valid & _MODE:
            os.chmod(path, stat.S_IMODE(change.mode))
        self.change_owner(path, change)
        if change.resizes:
            os.truncate(path, change.size)
        if change.valid & (_ATIME | _MTIME):
            if stat.S_ISLNK(node.kind) and node.parent is not None:
                above = self.nodes.descriptor(node.parent)
                times = _times(change, os.stat(node.name, dir_fd=above, follow_symlinks=False))
                os.utime(node.name, ns=times, dir_fd=above, follow_symlinks=False)
            else:
                self.change_times(path, change)
        if change.drops_bits:
            drop_bits(path)
        return self.getattr(node)

    def change_owner(self, path: bytes, change: Change) -> None:
        """Carry out the owner's part of *change*."""
        if change.valid & (_UID | _GID):
            uid = change.uid if change.valid & _UID else -1
            gid = change.gid if change.valid & _GID else -1
            os.chown(path, uid, gid)

    def change_times(self, path: bytes, change: Change) -> None:
        """Carry out the times' part of *change*."""
        if change.valid & _ATIME_NOW and change.valid & _MTIME_NOW:
            os.utime(path)
        elif change.valid & (_ATIME | _MTIME):
            os.utime(path, ns=_times(change, os.stat(path)))

    def readlink(self, node: Node) -> bytes:
        """The target of a symbolic link."""
        return os.readlink(b"", dir_fd=self.nodes.descriptor(node))

    def statfs(self) -> tuple[int, ...]:
        """The file system's numbers, in the order of the protocol."""
        found = os.fstatvfs(self.nodes.root.descriptor)
        return (
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
            found.f_bsize,
            found.f_namemax,
            found.f_frsize,
        )

    # ── making and removing names ────────────────────────────────────────────

    def mkdir(self, caller: Caller, parent: Node, name: bytes, mode: int) -> Entry:
        """Make a directory."""
        above = self.nodes.descriptor(parent)
        os.mkdir(name, mode, dir_fd=above)
        return self.made(caller, parent, name, mode)

    def mknod(self, caller: Caller, parent: Node, name: bytes, mode: int, device: int) -> Entry:
        """Make a file, FIFO, socket or device."""
        os.mknod(name, mode, _device(device), dir_fd=self.nodes.descriptor(parent))
        return self.made(caller, parent, name, mode)

    def symlink(self, caller: Caller, parent: Node, name: bytes, target: bytes) -> Entry:
        """Make a symbolic link."""
        os.symlink(target, name, dir_fd=self.nodes.descriptor(parent))
        return self.made(caller, parent, name, None)

    def made(self, caller: Caller, parent: Node, name: bytes, mode: int | None) -> Entry:
        """Give what was just made to its maker, whatever this process's umask; its entry."""
        node, found = self.nodes.enter(parent, name)
        path = self.nodes.path(node)
        again = self.give(path, found, caller, mode)
        return self.entry(node, os.fstat(node.descriptor) if again else found)

    def give(self, path: bytes, found: os.stat_result, caller: Caller, mode: int | None) -> bool:
        """Owner and mode of a new file; whether anything was changed."""
        changed = False
        group = found.st_gid if self._inherits_group(found, caller) else caller.gid
        if self._is_root and (found.st_uid, found.st_gid) != (caller.uid, group):
            os.chown(path, caller.uid, group)
            changed = True
        if mode is not None:
            wanted = stat.S_IMODE(mode) | (
                found.st_mode & stat.S_ISGID if stat.S_ISDIR(found.st_mode) else 0
            )
            if stat.S_IMODE(found.st_mode) != wanted or changed:
                os.chmod(path, wanted)
                changed = True
        return changed

    def _inherits_group(self, found: os.stat_result, caller: Caller) -> bool:
        # In a directory with the set-group-id bit the kernel gave the new file
        # the directory's group and not this process's.
        return found.st_gid not in (os.getegid(), caller.gid)

    def unlink(self, caller: Caller, parent: Node, name: bytes) -> None:  # noqa: ARG002
        """Remove a name that is no directory."""
        os.unlink(name, dir_fd=self.nodes.descriptor(parent))

    def rmdir(self, caller: Caller, parent: Node, name: bytes) -> None:  # noqa: ARG002
        """Remove an empty directory."""
        os.rmdir(name, dir_fd=self.nodes.descriptor(parent))

    def rename(
        self, caller: Caller, old: tuple[Node, bytes], new: tuple[Node, bytes], flags: int
    ) -> None:
        """Rename, with NOREPLACE or EXCHANGE in *flags*."""
        del caller
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise no_such(errno.EINVAL)
        source, target = self.nodes.descriptor(old[0]), self.nodes.descriptor(new[0])
        renameat2(source, old[1], target, new[1], flags)
        self.nodes.moved()
        with contextlib.suppress(OSError):
            self._renamed(new)
            if flags & RENAME_EXCHANGE:
                self._renamed(old)

    def _renamed(self, place: tuple[Node, bytes]) -> None:
        parent, name = place
        above = self.nodes.descriptor(parent)
        found = os.stat(name, dir_fd=above, follow_symlinks=False)
        node = self.nodes.find((found.st_dev, found.st_ino))
        if node is not None:
            node.parent, node.name = parent, name

    def link(self, caller: Caller, node: Node, parent: Node, name: bytes) -> Entry:
        """Give *node* one more name."""
        del caller
        if stat.S_ISLNK(node.kind) and node.parent is not None:
            source, above = self.nodes.descriptor(node.parent), self.nodes.descriptor(parent)
            os.link(node.name, name, src_dir_fd=source, dst_dir_fd=above, follow_symlinks=False)
        else:
            os.link(
                self.nodes.path(node),
                name,
                dst_dir_fd=self.nodes.descriptor(parent),
                follow_symlinks=True,
            )
        return self.lookup(parent, name)

    # ── extended attributes ──────────────────────────────────────────────────

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """The value of an extended attribute."""
        return os.getxattr(self.nodes.path(node), name)

    def listxattr(self, node: Node) -> list[bytes]:
        """The names of the extended attributes."""
        return [os.fsencode(name) for name in os.listxattr(self.nodes.path(node))]

    def setxattr(self, node: Node, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute."""
        os.setxattr(self.nodes.path(node), name, value, flags)

    def removexattr(self, node: Node, name: bytes) -> None:
        """Remove an extended attribute."""
        os.removexattr(self.nodes.path(node), name)

    # ── directories ──────────────────────────────────────────────────────────

    def new_handle(self) -> int:
        """A handle's number, never used before."""
        with self._handles_lock:
            number = self._next_handle
            self._next_handle += 1
        return number

    def opendir(self, node: Node) -> int:
        """Open a directory for listing."""
        if not node.is_directory:
            raise no_such(errno.ENOTDIR)
        number = self.new_handle()
        self._listings[number] = Listing(node)
        return number

    def readdir(self, handle: int, offset: int) -> list[tuple[bytes, int, int]]:
        """(name, inode, type) of the entries from *offset* on; 0 looks anew."""
        listing = self._listings.get(handle)
        if listing is None:
            raise no_such(errno.EBADF)
        if listing.entries is None or offset == 0:
            listing.entries = self.entries(listing.node)
        return listing.entries[offset:]

    def entries(self, node: Node) -> list[tuple[bytes, int, int]]:
        """What the directory holds at this moment."""
        here = node.identity[1]
        found = [(b".", here, stat.S_IFDIR >> 12), (b"..", here, stat.S_IFDIR >> 12)]
        descriptor = os.open(
            b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.nodes.descriptor(node)
        )
        try:
            with os.scandir(descriptor) as entries:
                found += [(os.fsencode(e.name), e.inode(), _kind_of(e)) for e in entries]
        finally:
            os.close(descriptor)
        return found

    def releasedir(self, handle: int) -> None:
        """Close a directory."""
        self._listings.pop(handle, None)

    def fsyncdir(self, node: Node) -> None:
        """Flush a directory."""
        descriptor = os.open(
            b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.nodes.descriptor(node)
        )
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _kind_of(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK >> 12
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR >> 12
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG >> 12
    return 0


def _times(change: Change, found: os.stat_result) -> tuple[int, int]:
    now = time.time_ns()
    accessed, modified = found.st_atime_ns, found.st_mtime_ns
    if change.valid & _ATIME:
        accessed = now if change.valid & _ATIME_NOW else change.atime
    if change.valid & _MTIME:
        modified = now if change.valid & _MTIME_NOW else change.mtime
    return accessed, modified
