"""A mount without a kernel: its tree and its transport, called as the kernel calls them."""

from __future__ import annotations

import errno
import os
import select
import struct
import time
from pathlib import Path
from typing import NoReturn

from coherent_volume import CoherentVolume
from coherent_volume.model import ArtifactKey
from fuse_mount import protocol
from fuse_mount.fence import Fence, Options
from fuse_mount.kernel import Connection
from fuse_mount.nodes import Node
from fuse_mount.protocol import Opcode
from fuse_mount.tree import Caller
from fuse_mount.view import MountedTree

CALLER = Caller(os.getuid(), os.getgid(), os.getpid())


def failing(*_: object, **__: object) -> NoReturn:
    """In the place of something that needs room on the disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Mounted:
    """One session's mount: its tree, and what a kernel would ask of it."""

    def __init__(self, volume: CoherentVolume) -> None:
        self.parts = volume._open_parts()
        self.fence = Fence(self.parts, Options(reflex_s=0.0), volume._maintenance.nudge)
        root = os.dup(self.parts.root.descriptor)
        self.tree = MountedTree(root, 100, self.fence, os.fsencode(self.parts.root.path))
        self._is_mounted = True

    def place(self, path: str) -> tuple[Node, bytes]:
        """The directory's node and the name in it."""
        *folders, name = os.fsencode(path).split(b"/")
        node = self.tree.nodes.root
        for folder in folders:
            node = self.tree.nodes.get(self.tree.lookup(node, folder).node)
        return node, name

    def node(self, path: str) -> Node:
        """The node that a look-up of *path* leads to."""
        return self.tree.nodes.get(self.tree.lookup(*self.place(path)).node)

    def unfinished(self) -> list[bytes]:
        """The artifacts that hold something which is not committed."""
        return sorted(bytes(state.key) for state in self.tree._states.holding())

    def open(self, path: str, flags: int) -> int:
        """Open as the kernel does: ESTALE lets it ask once more."""
        for turn in (1, 2):
            try:
                return self.tree.open(CALLER, self.node(path), flags)
            except OSError as error:
                if error.errno != errno.ESTALE or turn == 2:
                    raise
        raise AssertionError("unreachable")

    def read(self, path: str) -> bytes:
        """Open, read and close."""
        number = self.open(path, os.O_RDONLY)
        try:
            return self.tree.read(number, 0, 1 << 20)
        finally:
            self.tree.release(number)

    def write(self, path: str, data: bytes, flags: int = os.O_WRONLY | os.O_TRUNC) -> int:
        """Open and write; the number of the open file."""
        number = self.open(path, flags)
        self.tree.write(CALLER, number, 0, memoryview(data))
        return number

    def close(self, number: int) -> None:
        """The last descriptor is closed: the close may fail, its release may not."""
        try:
            self.tree.flush(CALLER, number)
        finally:
            self.tree.release(number)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """Move *old* to *new*, as renameat2(2) does with *flags*."""
        self.tree.rename(CALLER, self.place(old), self.place(new), flags)

    def unmount(self) -> None:
        """End the mount, once."""
        if self._is_mounted:
            self._is_mounted = False
            self.tree.close()

    def why(self, path: str) -> str:
        """The words for the last refusal of *path*."""
        return self.fence.reasons.why(ArtifactKey(os.fsencode(path))) or ""

    def in_use(self) -> tuple[int, list[str], int]:
        """The descriptors of the process, and the private files and nodes of the mount."""
        counts = []
        for _ in range(5):
            counts.append(len(os.listdir("/proc/self/fd")))
            time.sleep(0.01)
        # The least: the clean-up in the background has one or two open for a moment.
        return min(counts), os.listdir(self.tree.copies.directory), len(self.tree.nodes._nodes)


def kept_in(root: Path) -> list[bytes]:
    """The contents of everything in refused/ but the reports."""
    folder = root / ".coherence" / "refused"
    return [each.read_bytes() for each in folder.iterdir() if each.suffix != ".report"]


class Connected:
    """The kernel transport over a mount; what it answers comes out of a pipe."""

    def __init__(self, mounted: Mounted) -> None:
        self._reader, writer = os.pipe()
        self.connection = Connection(writer, mounted.tree)

    def ask(
        self,
        opcode: Opcode,
        node: int,
        fields: tuple[int, ...],
        rest: bytes = b"",
        unique: int = 7,
    ) -> None:
        """Have one request served."""
        body = protocol._LAYOUTS[opcode].pack(*fields) + rest
        size = protocol.IN_HEADER.size + len(body)
        self.connection._answer(
            memoryview(protocol.IN_HEADER.pack(size, opcode, unique, node, 0, 0, 1, 0, 0) + body)
        )

    def answer(self) -> tuple[int, int]:
        """(errno, unique) of the next answer, notifications aside."""
        while select.select([self._reader], [], [], 20)[0]:
            length, error, unique = struct.unpack("=IiQ", os.read(self._reader, 16))
            if length > 16:
                os.read(self._reader, length - 16)
            if unique:
                return -error, unique
        raise AssertionError("the request was never answered")

    def close(self) -> None:
        """Let go of the pipe; whoever waits for a lock does so no more."""
        self.connection.ended.set()
        os.close(self._reader)
        os.close(self.connection.device)
