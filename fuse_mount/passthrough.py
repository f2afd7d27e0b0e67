"""Passthrough: files that the kernel reads and writes by itself once we have let it.

Owns the numbers (*backing ids*) under which the kernel knows inodes of the real
tree, and the choice of how an open file works. All open files of a node must
work alike, or the kernel answers EIO; so the choice is the node's, made at its
first open and kept for its life.

A generation is read so without risk: a commit puts another inode in its place
and never writes into this one, which a spare inode is only used for while
nobody has it open, and here the kernel and our own descriptor both have.
Working copies never are: each write to them is ours to judge.

Needs CAP_SYS_ADMIN, Linux 6.9 and a file system that is not stacked on another;
elsewhere the kernel asks us, and caches what we answer.
"""

from __future__ import annotations

import contextlib
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


class Passthrough:
    """The backing ids of one mount."""

    def __init__(self, device: int) -> None:
        self._device = device
        # Two opens of one node must not both decide. Also: no id is closed
        # while it is being handed out.
        self._lock = threading.Lock()
        self.is_agreed = False
        """Whether the kernel offered it and it has worked so far."""

    def backing_of(self, node: Node, descriptor: int) -> int:
        """The number of *node*'s inode, which *descriptor* has open; 0: the kernel asks us."""
        found = node.backing
        if found is not None:
            return found
        with self._lock:
            if node.backing is None:
                node.backing = self._register(node, descriptor)
            return node.backing

    def _register(self, node: Node, descriptor: int) -> int:
        if not self.is_agreed or node.kind != stat.S_IFREG or node.extra is not None:
            return 0
        try:
            # By the node's own descriptor, which opens nothing: an id that is not
            # in use must not keep an inode from being used again.
            reached = node.descriptor if node.descriptor >= 0 else descriptor
            answer = fcntl.ioctl(self._device, _BACKING_OPEN, bytearray(_MAP.pack(reached, 0, 0)))
            return int(answer)
        except OSError:
            # No right to it, or a stacked file system: so it will be for all files.
            self.is_agreed = False
            return 0

    def way_of(self, handle: Handle) -> tuple[int, int]:
        """(flags, backing id) of the answer to an open; (0, 0): nothing special."""
        backing = self.backing_of(handle.node, handle.descriptor)
        if not backing:
            return 0, 0
        if handle.writable and os.fstat(handle.descriptor).st_mode & (stat.S_ISUID | stat.S_ISGID):
            # A write must take the bits away, so each has to come to us.
            return DIRECT_IO, 0
        return PASSTHROUGH, backing

    def let_go(self, node: Node) -> None:
        """The kernel has forgotten *node*: nothing of it is open."""
        backing, node.backing = node.backing, None
        if backing:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._device, _BACKING_CLOSE, bytearray(_NUMBER.pack(backing)))
