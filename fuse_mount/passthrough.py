"""Passthrough: files that the kernel reads and writes by itself once we have let it.

Owns the numbers (*backing ids*) under which the kernel knows inodes of the real
tree, and the choice of how an open file works. All open files of a node must
work alike and with one id, or the kernel answers EIO; so the choice is the
node's, and it stays while anything of the node is open.

A generation is read so without risk: a commit puts another inode in its place
and never writes into this one, which a spare inode is only used for while
nobody has it open, and here the kernel and our own descriptor both have.
Working copies never are: each write to them is ours to judge.

Needs CAP_SYS_ADMIN, Linux 6.9 and a file system that is not stacked on another;
elsewhere the kernel asks us, and caches what we answer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import threading

from fuse_mount.handles import Handle
from fuse_mount.nodes import Node

__all__ = ["DIRECT_IO", "KEEP_CACHE", "NO_FLUSH", "PASSTHROUGH", "Passthrough"]

DIRECT_IO, KEEP_CACHE, NO_FLUSH, PASSTHROUGH = 1, 2, 32, 128
"""How an open file works, as an answer to OPEN says it."""

_BACKING_OPEN, _BACKING_CLOSE = 0x4010E501, 0x4004E502
_MAP = struct.Struct("=iIQ")
_NUMBER = struct.Struct("=I")
_DROPPED = stat.S_ISUID | stat.S_ISGID
_IDS_MAX = 8192
"""Ids kept for the next open of a file that is not open. Each is an open file to the
system, whose number is limited for all users together."""


class Passthrough:
    """The backing ids of one mount."""

    def __init__(self, device: int) -> None:
        self._device = device
        # Two opens of one node must not both decide, and no id may be closed while
        # it is handed out.
        self._lock = threading.Lock()
        self._ids = 0
        self.is_agreed = False
        """Whether the kernel offered it and it has been allowed so far."""

    def way_of(self, handle: Handle) -> tuple[int, int]:
        """(flags, backing id) of the answer to an open; (0, 0): nothing special."""
        node = handle.node
        with self._lock:
            if node.backing is None:
                node.backing = self._register(node, handle.descriptor)
            if not node.backing:
                return 0, 0
            if handle.writable and os.fstat(handle.descriptor).st_mode & _DROPPED:
                # A write must take the bits away, so each has to come to us.
                return DIRECT_IO, 0
            handle.passes = True
            node.passing += 1
            return PASSTHROUGH, node.backing

    def _register(self, node: Node, descriptor: int) -> int:
        if not self.is_agreed or node.kind != stat.S_IFREG or node.extra is not None:
            return 0
        # By a descriptor that opens nothing: an id that is not in use must neither keep
        # an inode from being used again nor look as if somebody were writing.
        try:
            path = os.open(b"/proc/self/fd/%d" % descriptor, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return 0  # no free descriptor; the file is open already, and must stay so
        try:
            answer = fcntl.ioctl(self._device, _BACKING_OPEN, bytearray(_MAP.pack(path, 0, 0)))
        except OSError as error:
            # EPERM: no right to it, for no file. Otherwise this one lies on a stacked
            # file system.
            self.is_agreed = error.errno != errno.EPERM
            return 0
        finally:
            os.close(path)
        self._ids += 1
        return int(answer)

    def released(self, handle: Handle) -> None:
        """An open file is closed, and the kernel has let go of it."""
        if not handle.passes:
            return
        with self._lock:
            handle.passes = False
            handle.node.passing -= 1
            if handle.node.passing == 0 and self._ids > _IDS_MAX:
                self._close(handle.node)

    def let_go(self, node: Node) -> None:
        """The kernel has forgotten *node*: nothing of it is open."""
        if node.backing is not None:
            with self._lock:
                self._close(node)

    def _close(self, node: Node) -> None:
        backing, node.backing = node.backing, None
        if backing:
            self._ids -= 1
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._device, _BACKING_CLOSE, bytearray(_NUMBER.pack(backing)))
