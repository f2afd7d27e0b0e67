"""The mounted tree, whole: the fenced tree, and the sidecar as a mount shows it.

Owns what stands at ``.coherence`` inside a mount: a read-only directory with the
configuration, the refused content and ``why/PATH``, the reason of the last
refusal; and the attributes ``user.coherence.*``. The records themselves are not
shown: the library finds the real volume by ``user.coherence.real``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import zlib
from dataclasses import dataclass

from coherent_volume.errors import CoherenceError
from coherent_volume.model import ArtifactKey
from fuse_mount.fence import Fence
from fuse_mount.fenced_moves import FencedMoves
from fuse_mount.fenced_names import Place
from fuse_mount.handles import Handle
from fuse_mount.nodes import ROOT_NODE, Node, no_such
from fuse_mount.protocol import Attr, Entry
from fuse_mount.tree import Caller, Change, attr_of

__all__ = ["MountedTree"]

_SIDECAR = b".coherence"
_PREFIX = b"user.coherence."
_WITNESS = b"user.coherence.gen"
_REAL = (b"config.toml", b".gitignore", b"refused")


@dataclass(frozen=True, slots=True)
class View:
    """A node of the sidecar as it is shown: its path below ``.coherence``."""

    path: bytes


class MountedTree(FencedMoves):
    """Everything that one mount shows."""

    def __init__(self, root: int, descriptors_max: int, fence: Fence, real: bytes) -> None:
        super().__init__(root, descriptors_max, fence)
        self._real = real
        self._views: dict[bytes, Node] = {}

    # ── the sidecar as it is shown ───────────────────────────────────────────

    def _real_of(self, path: bytes) -> bytes | None:
        if path.partition(b"/")[0] in _REAL and path.count(b"/") < 2:
            return os.path.join(os.fsencode(self.fence.parts.directory), path)
        return None

    def _view_attr(self, path: bytes) -> Attr:
        """The attributes of what is shown at *path*; ENOENT when nothing is."""
        owner = os.stat(self.fence.parts.directory)
        number = (3 << 61) | zlib.crc32(path)
        real = self._real_of(path)
        if real is not None:
            attr = attr_of(os.stat(real, follow_symlinks=False))
            bits = 0o500 if stat.S_ISDIR(attr.mode) else 0o400
            attr = attr._replace(ino=number, mode=stat.S_IFMT(attr.mode) | bits)
        elif path in (b"", b"why") or self._reasons_below(path):
            attr = attr_of(owner)._replace(ino=number, mode=stat.S_IFDIR | 0o500, nlink=2, size=0)
        else:
            size = len(self._reason(path))
            attr = attr_of(owner)._replace(
                ino=number, mode=stat.S_IFREG | 0o400, nlink=1, size=size, blocks=1
            )
        return attr._replace(uid=owner.st_uid, gid=owner.st_gid)

    def _reason(self, path: bytes) -> bytes:
        folder, _, key = path.partition(b"/")
        text = self.fence.reasons.why(ArtifactKey(key)) if folder == b"why" else None
        if text is None:
            raise no_such()
        return text.encode(errors="surrogateescape")

    def _reasons_below(self, path: bytes) -> list[bytes]:
        if path.partition(b"/")[0] != b"why":
            return []
        prefix = path[4:] + b"/" if len(path) > 3 else b""
        found = {
            key[len(prefix) :].partition(b"/")[0]
            for key in self.fence.reasons.keys()  # noqa: SIM118 - no dictionary
            if key.startswith(prefix)
        }
        return sorted(found)

    def _view(self, path: bytes, parent: Node) -> Entry:
        attr = self._view_attr(path)
        node = self._views.get(path)
        if node is None:
            name = path.rpartition(b"/")[2]
            node = self.nodes.add_virtual(View(path), parent, name, stat.S_IFMT(attr.mode))
            self._views[path] = node
        self.nodes.again(node)
        return Entry(node.id, attr, 0.0, 0.0)

    def lookup(self, parent: Node, name: bytes) -> Entry:
        """Find a name, in the sidecar or in the tree."""
        if isinstance(parent.extra, View):
            path = parent.extra.path
            return self._view(path + b"/" + name if path else name, parent)
        if parent.id == ROOT_NODE and name == _SIDECAR:
            return self._view(b"", parent)
        return super().lookup(parent, name)

    def forget(self, number: int, count: int) -> None:
        """The kernel takes back look-ups."""
        gone = self.nodes.forget(number, count)
        if gone is not None and isinstance(gone.extra, View):
            self._views.pop(gone.extra.path, None)

    def getattr(self, node: Node) -> tuple[Attr, float]:
        """The node's attributes."""
        if isinstance(node.extra, View):
            return self._view_attr(node.extra.path), 0.0
        return super().getattr(node)

    def setattr(self, caller: Caller, node: Node, change: Change) -> tuple[Attr, float]:
        """Change attributes; not of the sidecar."""
        if isinstance(node.extra, View):
            raise no_such(errno.EACCES)
        return super().setattr(caller, node, change)

    def open(self, caller: Caller, node: Node, flags: int) -> int:
        """Open a file; the sidecar's for reading only."""
        if not isinstance(node.extra, View):
            return super().open(caller, node, flags)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise no_such(errno.EACCES)
        real = self._real_of(node.extra.path)
        if real is not None:
            descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        else:
            descriptor = os.memfd_create("why", os.MFD_CLOEXEC)
            os.write(descriptor, self._reason(node.extra.path))
        return self.keep_handle(Handle(node, descriptor, flags))

    def entries(self, node: Node) -> list[tuple[bytes, int, int]]:
        """What a directory holds."""
        if not isinstance(node.extra, View):
            return super().entries(node)
        path = node.extra.path
        kind = stat.S_IFDIR >> 12
        found = [(b".", 1, kind), (b"..", 1, kind)]
        if path == b"refused":
            with contextlib.suppress(OSError):
                names = os.listdir(self._real_of(path) or b"")
                found += [(name, 1, stat.S_IFREG >> 12) for name in sorted(names)]
        elif path:
            found += [(name, 1, 0) for name in self._reasons_below(path)]
        else:
            found += [(name, 1, 0) for name in (*_REAL, b"why")]
        return found

    # ── attributes ───────────────────────────────────────────────────────────

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """An extended attribute; those of the volume are worked out."""
        if not name.startswith(_PREFIX):
            if isinstance(node.extra, View):
                raise no_such(errno.ENODATA)
            return super().getxattr(node, name)
        value = self._fact(node, name[len(_PREFIX) :])
        if value is None:
            raise no_such(errno.ENODATA)
        return value

    def _fact(self, node: Node, name: bytes) -> bytes | None:
        if node.id == ROOT_NODE:
            session = self.fence.parts.session.name.encode(errors="surrogateescape")
            return {b"real": self._real, b"session": session}.get(name)
        # By its name: an old generation, held open, tells what became of its artifact.
        key = None if isinstance(node.extra, View) else self.named(node)
        if key is None or name not in (b"generation", b"head", b"base", b"state", b"why"):
            return None
        if name == b"why":
            text = self.fence.reasons.why(key)
            return None if text is None else text.encode(errors="surrogateescape")
        try:
            head, base, state = self.fence.state_of(key)
        except CoherenceError:
            return None
        if name == b"state":
            return state.encode()
        if name == b"base":
            return None if base is None else b"%d" % base
        return b"%d" % head

    def listxattr(self, node: Node) -> list[bytes]:
        """The extended attributes; what the library keeps there is not shown."""
        if isinstance(node.extra, View):
            return []
        return [name for name in super().listxattr(node) if name != _WITNESS]

    def setxattr(self, node: Node, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute."""
        if name.startswith(_PREFIX):
            raise no_such(errno.EACCES)
        super().setxattr(node, name, value, flags)

    def removexattr(self, node: Node, name: bytes) -> None:
        """Remove an extended attribute."""
        if name.startswith(_PREFIX):
            raise no_such(errno.EACCES)
        super().removexattr(node, name)

    # ── the sidecar cannot be changed ────────────────────────────────────────

    def _guard(self, *places: Place) -> None:
        for parent, name in places:
            if isinstance(parent.extra, View) or (parent.id == ROOT_NODE and name == _SIDECAR):
                raise no_such(errno.EACCES)

    def create(
        self, caller: Caller, parent: Node, name: bytes, flags: int, mode: int
    ) -> tuple[Entry, int]:
        """Make and open a file."""
        self._guard((parent, name))
        return super().create(caller, parent, name, flags, mode)

    def mkdir(self, caller: Caller, parent: Node, name: bytes, mode: int) -> Entry:
        """Make a directory."""
        self._guard((parent, name))
        return super().mkdir(caller, parent, name, mode)

    def mknod(self, caller: Caller, parent: Node, name: bytes, mode: int, device: int) -> Entry:
        """Make a file, FIFO, socket or device."""
        self._guard((parent, name))
        return super().mknod(caller, parent, name, mode, device)

    def symlink(self, caller: Caller, parent: Node, name: bytes, target: bytes) -> Entry:
        """Make a symbolic link."""
        self._guard((parent, name))
        return super().symlink(caller, parent, name, target)

    def unlink(self, caller: Caller, parent: Node, name: bytes) -> None:
        """Remove a name."""
        self._guard((parent, name))
        super().unlink(caller, parent, name)

    def hide(self, caller: Caller, parent: Node, name: bytes) -> None:
        """Remove a name of an open file."""
        self._guard((parent, name))
        super().hide(caller, parent, name)

    def rmdir(self, caller: Caller, parent: Node, name: bytes) -> None:
        """Remove an empty directory."""
        self._guard((parent, name))
        super().rmdir(caller, parent, name)

    def rename(self, caller: Caller, old: Place, new: Place, flags: int) -> None:
        """Rename."""
        self._guard(old, new)
        super().rename(caller, old, new, flags)

    def link(self, caller: Caller, node: Node, parent: Node, name: bytes) -> Entry:
        """One more name."""
        self._guard((parent, name))
        if isinstance(node.extra, View):
            raise no_such(errno.EACCES)
        return super().link(caller, node, parent, name)
