"""Nodes: what the kernel holds on to, each one inode of the real tree.

Owns the table of node numbers, which are never used twice, and the descriptors
(``O_PATH``) that keep the inodes alive and lead to them whatever their names
become. Names are bytes. Knows nothing of artifacts: a working copy is a node
whose inode lies elsewhere.

A descriptor that was idle for a while may be closed when there are many; it is
opened anew by its last name, and only if the same inode still bears it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["ROOT_NODE", "Node", "NodeTable", "no_such"]

ROOT_NODE = 1
_IDLE_S = 2.0
_PLACE_S = 0.05
_REMOVED = b" (deleted)"
"""What the kernel adds to the path of what has no name any more."""
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def _nothing(node: Node) -> None:
    """Told of a node that is gone, does nothing."""


def no_such(number: int = errno.ENOENT) -> OSError:
    """The error of the system with *number*."""
    return OSError(number, os.strerror(number))


class Node:
    """One inode that the kernel knows, or something virtual (``extra``)."""

    __slots__ = (
        "backing",
        "cached",
        "descriptor",
        "extra",
        "id",
        "identity",
        "kind",
        "locked_as",
        "lookups",
        "name",
        "parent",
        "passing",
        "place",
        "used",
    )

    def __init__(self, number: int, descriptor: int, found: os.stat_result | None) -> None:
        self.id = number
        self.descriptor = descriptor
        self.identity = (found.st_dev, found.st_ino) if found else (0, 0)
        self.kind = stat.S_IFMT(found.st_mode) if found else 0
        self.locked_as: bytes | None = None
        """The artifact as which it is locked; b"": as any file; None: nobody locked it yet."""
        self.parent: Node | None = None
        self.name = b""
        self.lookups = 0
        self.used = 0.0
        self.cached: tuple[int, int, int] | None = None
        """Size, mtime and ctime of the file when the kernel last began to cache it."""
        self.extra: object = None
        self.backing: int | None = None
        """The number by which the kernel reaches the file without us; 0: it asks us,
        None: not decided. All open files of a node must agree."""
        self.passing = 0
        """How many open files the kernel reads and writes without us."""
        self.place: tuple[float, int, bytes | None] = (0.0, 0, None)
        """Until when, and for which count of moves, the path that follows was looked up."""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.kind == stat.S_IFDIR


class NodeTable:
    """All nodes by number, and the real ones by inode."""

    def __init__(self, root: int, descriptors_max: int) -> None:
        self._lock = threading.RLock()
        self._max = descriptors_max
        found = os.fstat(root)
        self.device = found.st_dev
        self.root = Node(ROOT_NODE, root, found)
        self.root.lookups = 1
        self._nodes: dict[int, Node] = {ROOT_NODE: self.root}
        self._by_inode: dict[tuple[int, int], Node] = {self.root.identity: self.root}
        self._open: OrderedDict[int, Node] = OrderedDict()
        self._next = ROOT_NODE + 1
        self._base = b"\0"
        self._moves = 0
        self.gone: Callable[[Node], None] = _nothing
        """Told of every node that the kernel has forgotten."""

    def get(self, number: int) -> Node:
        """The node *number*; ESTALE when it was forgotten."""
        try:
            return self._nodes[number]
        except KeyError:
            raise no_such(errno.ESTALE) from None

    def find(self, identity: tuple[int, int]) -> Node | None:
        """The node of an inode, if the kernel knows it."""
        return self._by_inode.get(identity)

    def enter(self, parent: Node, name: bytes) -> tuple[Node, os.stat_result]:
        """The node that *name* in *parent* leads to, with one more look-up to its count."""
        above = self.descriptor(parent)
        found = os.stat(name, dir_fd=above, follow_symlinks=False)
        with self._lock:
            node = self._by_inode.get((found.st_dev, found.st_ino))
            if node is not None and node.descriptor >= 0:
                node.parent, node.name = parent, name
                node.lookups += 1
                return node, found
        descriptor = os.open(name, _PATH, dir_fd=above)
        found = os.fstat(descriptor)
        with self._lock:
            node = self._by_inode.get((found.st_dev, found.st_ino))
            if node is not None and node.descriptor >= 0:
                os.close(descriptor)
            elif node is not None:
                node.descriptor = descriptor
                self._note_open(node)
            else:
                node = self._new(descriptor, found)
                self._by_inode[node.identity] = node
                self._note_open(node)
            node.parent, node.name = parent, name
            node.lookups += 1
        return node, found

    def add_virtual(self, extra: object, parent: Node, name: bytes, kind: int) -> Node:
        """A new node of no inode of the tree."""
        with self._lock:
            node = self._new(-1, None)
            node.extra, node.parent, node.name, node.kind = extra, parent, name, kind
        return node

    def add_private(self, extra: object, parent: Node | None, descriptor: int) -> Node:
        """A new node of an open file outside the tree, found by no name."""
        path = os.open(b"/proc/self/fd/%d" % descriptor, os.O_PATH | os.O_CLOEXEC)
        with self._lock:
            node = self._new(path, os.fstat(path))
            node.extra, node.parent = extra, parent
        return node

    def again(self, node: Node) -> None:
        """Count one more look-up of *node*."""
        with self._lock:
            node.lookups += 1
            self._nodes[node.id] = node

    def _new(self, descriptor: int, found: os.stat_result | None) -> Node:
        node = Node(self._next, descriptor, found)
        self._next += 1
        self._nodes[node.id] = node
        return node

    def forget(self, number: int, count: int) -> Node | None:
        """Take *count* look-ups back; the node if it is gone with that."""
        with self._lock:
            node = self._nodes.get(number)
            if node is None or node is self.root:
                return None
            node.lookups -= count
            if node.lookups > 0:
                return None
            del self._nodes[number]
            self._open.pop(number, None)
            if self._by_inode.get(node.identity) is node:
                del self._by_inode[node.identity]
            if node.descriptor >= 0:
                os.close(node.descriptor)
                node.descriptor = -1
        self.gone(node)
        return node

    # ── descriptors ──────────────────────────────────────────────────────────

    def descriptor(self, node: Node) -> int:
        """An ``O_PATH`` descriptor of the node's inode; ESTALE when it cannot be found."""
        node.used = time.monotonic()
        if node.descriptor >= 0:
            return node.descriptor
        if node.extra is not None:
            # Virtual: nothing can be done there. A working copy: it is gone.
            raise no_such(errno.EACCES if node.identity == (0, 0) else errno.ESTALE)
        if node.parent is None:
            raise no_such(errno.ESTALE)
        above = self.descriptor(node.parent)
        try:
            descriptor = os.open(node.name, _PATH, dir_fd=above)
        except OSError:
            raise no_such(errno.ESTALE) from None
        found = os.fstat(descriptor)
        with self._lock:
            if node.descriptor >= 0 or (found.st_dev, found.st_ino) != node.identity:
                os.close(descriptor)
                if node.descriptor < 0:
                    raise no_such(errno.ESTALE)
                return node.descriptor
            node.descriptor = descriptor
            self._by_inode.setdefault(node.identity, node)
            self._note_open(node)
        return node.descriptor

    def path(self, node: Node) -> bytes:
        """A path that leads to the node's inode and to nothing else."""
        return b"/proc/self/fd/%d" % self.descriptor(node)

    def where(self, node: Node) -> bytes | None:
        """The node's path below the root as it is at this moment; b"" the root, None outside.

        Asked of the kernel and not put together from look-ups: a directory may
        have been renamed from outside while a process has it as its own.
        """
        if node is self.root:
            return b""
        link = os.readlink(self.path(node))
        if not link.startswith(self._base):
            # At the first time, or the root itself was moved.
            base = os.readlink(b"/proc/self/fd/%d" % self.root.descriptor)
            self._base = base if base == b"/" else base + b"/"
        base = self._base
        if not link.startswith(base):
            return None
        path = link[len(base) :]
        return path if not link.endswith(_REMOVED) or self._is_at(node, path) else None

    def _is_at(self, node: Node, path: bytes) -> bool:
        """Whether *path* leads to the node: a name may end like the mark of a removed one."""
        try:
            found = os.stat(path, dir_fd=self.root.descriptor, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == node.identity

    def where_lately(self, node: Node) -> bytes | None:
        """As ``where``, but what others moved in the last moment may not be known yet.

        For those who prove it afterwards, or to whom it makes no difference.
        """
        now = time.monotonic()
        until, moves, path = node.place
        if until > now and moves == self._moves:
            return path
        moves = self._moves
        path = self.where(node)
        node.place = (now + _PLACE_S, moves, path)
        return path

    def moved(self) -> None:
        """Something was renamed here: what ``where_lately`` knew counts no more."""
        self._moves += 1

    def _note_open(self, node: Node) -> None:
        node.used = time.monotonic()
        self._open[node.id] = node
        self._open.move_to_end(node.id)
        if len(self._open) > self._max:
            self._close_idle()

    def _close_idle(self) -> None:
        # Only what nobody used for a while: another thread may be between
        # taking a descriptor and using it.
        latest = time.monotonic() - _IDLE_S
        for number, node in list(self._open.items())[: self._max // 8]:
            if node.used > latest or node is self.root or node.extra is not None:
                self._open.move_to_end(number)
                continue
            del self._open[number]
            if self._by_inode.get(node.identity) is node:
                # Its number may be given to another file once nobody holds it.
                del self._by_inode[node.identity]
            with contextlib.suppress(OSError):
                os.close(node.descriptor)
            node.descriptor = -1

    def close(self) -> None:
        """Let go of everything but the root."""
        with self._lock:
            for node in self._nodes.values():
                if node is not self.root and node.descriptor >= 0:
                    os.close(node.descriptor)
                    node.descriptor = -1
            self._nodes = {ROOT_NODE: self.root}
