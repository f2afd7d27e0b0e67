"""The fusepy transport: calls by path, from libfuse 2, to calls of the tree by node.

Owns everything that libfuse has otherwise than the kernel: paths in the place of
nodes, file infos in the place of handles, open files that libfuse hides when
they are removed. The only module that imports ``fuse``; decides nothing.

The kernel's cache is left out (direct_io): libfuse has one node for each path,
so that a reader of an old generation would share its cache with the new one.
What this transport cannot do is listed in docs/MOUNT.md.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from coherent_volume.errors import UnavailableError
from fuse_mount import forms
from fuse_mount.nodes import ROOT_NODE, Node, no_such
from fuse_mount.tree import Caller, Change
from fuse_mount.view import MountedTree

try:
    import fuse
except ModuleNotFoundError:
    raise UnavailableError(
        "the transport fusepy needs the Python package fusepy",
        advice="Install it: pip install 'coherent-volume[fuse]'",
    ) from None
except OSError:
    raise UnavailableError(
        "the transport fusepy needs the library libfuse 2",
        advice="Install it (Debian: apt install libfuse2), or use: --transport kernel",
    ) from None

__all__ = ["serve_paths"]

_log = logging.getLogger("coherent_volume")
_T = TypeVar("_T")
_ENCODING = "latin-1"  # every byte is a letter: names come through whatever they are
_HIDDEN = re.compile(r"\.fuse_hidden[0-9a-f]{16}")
_TURNS = 3
_DIRECTORIES_MAX = 2_000
_LEAVING_S = 0.02
_PAUSE_S = 0.001


def serve_paths(tree: MountedTree, mountpoint: str, started: Callable[[], None]) -> None:
    """Mount *tree* at *mountpoint* and serve it until it is unmounted.

    Calls *started* once it can be used. Raises UnavailableError when libfuse
    cannot mount there.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # libfuse unmounts upon it
    yes = ("foreground", "default_permissions", "atomic_o_trunc", "big_writes", "use_ino")
    options: dict[str, Any] = {
        "fsname": "coherent",
        "subtype": "coherent",
        "allow_other": os.geteuid() == 0,
        "direct_io": True,
        **dict.fromkeys(yes, True),
        **dict.fromkeys(("attr_timeout", "entry_timeout", "negative_timeout"), 0),
    }
    where = os.fsencode(mountpoint).decode(_ENCODING)
    try:
        fuse.FUSE(PathCalls(tree, started), where, raw_fi=True, encoding=_ENCODING, **options)
    except RuntimeError:
        raise UnavailableError(
            "libfuse could not mount", path=mountpoint, advice="See .coherence/mounts/log."
        ) from None


class PathCalls:
    """The operations of fusepy; each raises OSError."""

    use_ns = True
    flag_nullpath_ok = 1  # a removed file has no path, but its handle is enough
    flag_utime_omit_ok = 1

    def __init__(self, tree: MountedTree, started: Callable[[], None]) -> None:
        self._tree = tree
        self._started = started
        self._lock = threading.Lock()
        self._directories: OrderedDict[int, Node] = OrderedDict()
        self._ways: dict[int, list[Node]] = {}
        self._hidden: dict[str, Node] = {}
        self._leaving: dict[str, float] = {}
        self._moving: set[str] = set()

    def __call__(self, operation: str, *words: Any) -> Any:
        """Do *operation*; whatever goes wrong becomes an errno."""
        try:
            return getattr(self, operation)(*words)
        except OSError as error:
            # fusepy compares the number, and would die of None.
            raise no_such(error.errno or errno.EIO) from error
        except Exception:  # noqa: BLE001 - whoever asked must be answered
            _log.exception("%s failed", operation)
            raise no_such(errno.EIO) from None

    def _walk(self, path: str) -> list[Node]:
        """The nodes from below the root to *path*, each with a look-up to its count."""
        if path in self._leaving:
            self._wait_for_move(path)
        way: list[Node] = []
        node = self._tree.nodes.get(ROOT_NODE)
        try:
            for name in filter(None, path.encode(_ENCODING).split(b"/")):
                entry = self._tree.lookup(node, name)
                node = self._tree.nodes.get(entry.node)
                way.append(node)
        except BaseException:
            self._leave(way)
            raise
        return way

    def _leave(self, way: list[Node]) -> None:
        """Take the look-ups back; those of directories a little later, for the next walk."""
        for node in reversed(way):
            gone: Node | None = node
            if node.is_directory and node.extra is None:
                with self._lock:
                    if node.id in self._directories:
                        self._directories.move_to_end(node.id)
                    else:
                        self._directories[node.id], gone = node, None
                        if len(self._directories) > _DIRECTORIES_MAX:
                            _, gone = self._directories.popitem(last=False)
            if gone is not None:
                self._tree.forget(gone.id, 1)

    @contextlib.contextmanager
    def _at(self, path: str) -> Iterator[Node]:
        hidden = self._hidden.get(path)
        if hidden is not None:
            yield hidden
            return
        way = self._walk(path)
        try:
            yield way[-1] if way else self._tree.nodes.get(ROOT_NODE)
        finally:
            self._leave(way)

    def _on(self, path: str, act: Callable[[Node], _T]) -> _T:
        """*act* on the node at *path*; once more when the node is of an older generation."""

        def once() -> _T:
            with self._at(path) as node:
                return act(node)

        return self._again(once)

    def _in(self, path: str, act: Callable[[Node, bytes], _T]) -> _T:
        """*act* on the directory and the name that *path* consists of."""
        above, _, name = path.rpartition("/")
        return self._on(above, lambda parent: act(parent, name.encode(_ENCODING)))

    @staticmethod
    def _again(act: Callable[[], _T]) -> _T:
        # The kernel walks again upon ESTALE, but libfuse would take the same node.
        for _ in range(_TURNS - 1):
            try:
                return act()
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        return act()

    @staticmethod
    def _caller() -> Caller:
        return Caller(*fuse.fuse_get_context())

    def init(self, path: str) -> None:  # noqa: ARG002
        """The kernel has shaken hands."""
        self._started()

    def getattr(self, path: str | None, info: Any = None) -> dict[str, int]:
        """What stat shows."""
        if info is not None:
            return forms.stat(self._tree.getattr(self._tree.handle(info.fh).node)[0])
        return self._on(path or "", lambda node: forms.stat(self._tree.getattr(node)[0]))

    def _set(self, path: str, change: Change) -> None:
        self._on(path, lambda node: self._tree.setattr(self._caller(), node, change))

    def chmod(self, path: str, mode: int) -> None:
        """Change the mode."""
        self._set(path, forms.new_mode(mode))

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Change the owner; -1 leaves it."""
        self._set(path, forms.new_owner(uid, gid))

    def truncate(self, path: str | None, length: int, info: Any = None) -> None:
        """Change the size, of a path or of an open file."""
        if info is None:
            self._set(path or "", forms.new_size(length))
            return
        node = self._tree.handle(info.fh).node
        self._tree.setattr(self._caller(), node, forms.new_size(length, info.fh))

    def utimens(self, path: str, times: tuple[int, int] | None) -> None:
        """Change the times."""
        self._set(path, forms.new_times(times))

    def readlink(self, path: str) -> str:
        """The target of a symbolic link."""
        return self._on(path, self._tree.readlink).decode(_ENCODING)

    def statfs(self, path: str) -> dict[str, int]:  # noqa: ARG002
        """The file system's numbers."""
        names = ("blocks", "bfree", "bavail", "files", "ffree", "bsize", "namemax", "frsize")
        numbers = zip(names, self._tree.statfs(), strict=True)
        return {f"f_{name}": number for name, number in numbers}

    def mkdir(self, path: str, mode: int) -> None:
        """Make a directory."""
        self._make(path, lambda above, name: self._tree.mkdir(self._caller(), above, name, mode))

    def mknod(self, path: str, mode: int, device: int) -> None:
        """Make a file, FIFO, socket or device."""
        self._make(
            path, lambda above, name: self._tree.mknod(self._caller(), above, name, mode, device)
        )

    def symlink(self, path: str, target: str) -> None:
        """Make a symbolic link."""
        text = target.encode(_ENCODING)
        self._make(path, lambda above, name: self._tree.symlink(self._caller(), above, name, text))

    def link(self, path: str, source: str) -> None:
        """Give the file *source* one more name."""
        self._on(
            source,
            lambda node: self._make(
                path, lambda above, name: self._tree.link(self._caller(), node, above, name)
            ),
        )

    def _make(self, path: str, act: Callable[[Node, bytes], Any]) -> None:
        entry = self._in(path, act)
        self._tree.forget(entry.node, 1)  # libfuse looks it up by its path

    def unlink(self, path: str) -> None:
        """Remove a name."""
        if self._hidden.pop(path, None) is None:
            self._in(path, lambda above, name: self._tree.unlink(self._caller(), above, name))

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        self._in(path, lambda above, name: self._tree.rmdir(self._caller(), above, name))

    def rename(self, old: str, new: str) -> None:
        """Rename; onto a name that libfuse hides open files by, it is a removal."""
        if _HIDDEN.fullmatch(new.rpartition("/")[2]):
            self._hide(old, new)
            return

        def move(source: Node, name: bytes) -> None:
            self._in(
                new,
                lambda target, goal: self._tree.rename(
                    self._caller(), (source, name), (target, goal), 0
                ),
            )

        self._moving.add(new)
        try:
            self._in(old, move)
        finally:
            self._moving.discard(new)
            self._leaving.pop(new, None)

    def _hide(self, old: str, new: str) -> None:
        """Remove a name whose file is open; its handles, and stat, go on with the file.

        libfuse asks for it before a removal and before a replacement alike.
        """
        with self._at(old) as node:
            self._leaving[old] = time.monotonic() + _LEAVING_S
            try:
                self._in(old, lambda above, name: self._tree.hide(self._caller(), above, name))
            except BaseException:
                self._leaving.pop(old, None)
                raise
            self._hidden[new] = node

    def _wait_for_move(self, path: str) -> None:
        """Let nobody see the hole between the two steps of a replacement.

        The second follows at once, from the same thread; if none does, it was a removal.
        """
        while (end := self._leaving.get(path)) is not None:
            if path not in self._moving and time.monotonic() >= end:
                self._leaving.pop(path, None)
            time.sleep(_PAUSE_S)

    # ── open files ───────────────────────────────────────────────────────────

    def open(self, path: str, info: Any) -> int:
        """Open a file; an artifact for writing is looked up again, to find its copy."""
        info.fh = self._again(lambda: self._opened(path, info.flags))
        return 0

    def _opened(self, path: str, flags: int) -> int:
        if path in self._hidden:
            raise no_such(errno.ESTALE)  # replaced since the look-up: the kernel asks by name again
        way = self._walk(path)
        try:
            number = self._tree.open(self._caller(), way[-1], flags)
        except BaseException:
            self._leave(way)
            raise
        self._ways[number] = way
        return number

    def create(self, path: str, mode: int, info: Any) -> int:
        """Make and open a file, or open the one that somebody else has made."""

        def make(above: Node, name: bytes) -> int:
            entry, number = self._tree.create(self._caller(), above, name, info.flags, mode)
            self._ways[number] = [self._tree.nodes.get(entry.node)]
            return number

        try:
            info.fh = self._in(path, make)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            info.fh = self._again(lambda: self._opened(path, info.flags & ~os.O_CREAT))
        return 0

    def read(self, path: str | None, size: int, offset: int, info: Any) -> bytes:  # noqa: ARG002
        """Bytes of an open file."""
        return self._tree.read(info.fh, offset, size)

    def write(self, path: str | None, data: bytes, offset: int, info: Any) -> int:  # noqa: ARG002
        """Write to an open file; how many bytes."""
        return self._tree.write(self._caller(), info.fh, offset, memoryview(data))

    def flush(self, path: str | None, info: Any) -> None:  # noqa: ARG002
        """A descriptor of the open file was closed."""
        self._tree.flush(self._caller(), info.fh)

    def release(self, path: str | None, info: Any) -> None:  # noqa: ARG002
        """The last descriptor of the open file is closed."""
        self._tree.release(info.fh)
        self._leave(self._ways.pop(info.fh, []))

    def fsync(self, path: str | None, data_only: int, info: Any) -> None:  # noqa: ARG002
        """Flush an open file to the disk."""
        self._tree.fsync(info.fh, bool(data_only))

    def opendir(self, path: str) -> int:
        """Open a directory for listing."""
        return self._on(path, self._tree.opendir)

    def readdir(
        self, path: str | None, handle: int  # noqa: ARG002
    ) -> list[tuple[str, dict[str, int], int]]:  # fmt: skip
        """What the directory holds."""
        return [
            (name.decode(_ENCODING), {"st_ino": inode, "st_mode": kind << 12}, 0)
            for name, inode, kind in self._tree.readdir(handle, 0)
        ]

    def releasedir(self, path: str | None, handle: int) -> None:  # noqa: ARG002
        """Close a directory."""
        self._tree.releasedir(handle)

    def fsyncdir(self, path: str | None, data_only: int, handle: int) -> None:  # noqa: ARG002
        """Flush a directory."""
        if path is not None:
            self._on(path, self._tree.fsyncdir)

    def getxattr(self, path: str, name: str) -> bytes:
        """The value of an extended attribute."""
        return self._on(path, lambda node: self._tree.getxattr(node, name.encode(_ENCODING)))

    def listxattr(self, path: str) -> list[str]:
        """The names of the extended attributes."""
        return [name.decode(_ENCODING) for name in self._on(path, self._tree.listxattr)]

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """Set an extended attribute."""
        key = name.encode(_ENCODING)
        self._on(path, lambda node: self._tree.setxattr(node, key, value, flags))

    def removexattr(self, path: str, name: str) -> None:
        """Remove an extended attribute."""
        self._on(path, lambda node: self._tree.removexattr(node, name.encode(_ENCODING)))
