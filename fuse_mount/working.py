"""Working copies: what a session has written of an artifact and not committed yet.

Owns the private files below ``.coherence/mounts/TOKEN`` and their index, by
which a later mount finds what a killed one left behind. A copy belongs to one
session and one artifact, rests on one claim, and is a node of its own: readers
of the generation never see it. Decides nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Iterator

from coherent_volume.attributes import Attributes, give
from coherent_volume.files import chunks_of, read_exactly
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts
from coherent_volume.staging import copy_content
from fuse_mount.claims import Claim
from fuse_mount.keeping import FOLDER, kept_of_a_mount, move_to_refused
from fuse_mount.nodes import Node, no_such

__all__ = ["Copies", "WorkingCopy", "content_of"]

_PREPARED_S = 1.0
_FORSAKEN_S = 10.0
_IN_MEMORY = 16 << 20


class WorkingCopy:
    """One artifact's uncommitted content; guarded by the lock of its artifact's state."""

    __slots__ = (
        "base_size", "changed_ns", "claim", "descriptor", "dirty", "discarded", "grows_only",
        "handles", "has_data", "has_late_page", "is_new", "kept", "key", "looked", "name", "node",
        "opener", "own", "pending",
        "prepared_until",
        "refused",
        "shown_inode",
        "version",
        "writer",
    )  # fmt: skip

    def __init__(self, key: ArtifactKey, claim: Claim, name: bytes, descriptor: int) -> None:
        self.key = key
        self.claim = claim
        self.name = name
        self.descriptor = descriptor
        self.node: Node | None = None
        self.is_new = False
        """The name is not on disk: nobody else sees it until it is committed."""
        self.dirty = False
        self.has_data = False
        """Something was written, not only cut off: a complete save."""
        self.discarded = False
        """It is no longer its artifact's: refused, removed or replaced."""
        self.refused = False
        """It was refused: whoever still writes to it must hear of it."""
        self.has_late_page = False
        """A page of a mapping was written into it after it was refused."""
        self.kept = False
        """What was refused of it lies elsewhere as well."""
        self.grows_only = False
        """Everything written so far was appended."""
        self.base_size = 0
        self.handles = 0
        self.version = 0
        """Grows with each commit of it."""
        self.opener = 0
        """The process that last opened it for writing."""
        self.writer = 0
        """The process whose uncommitted content it holds; 0: nobody's."""
        self.prepared_until = 0.0
        self.pending: set[int] = set()
        """The threads that were asked to look the name up again, and have not opened it yet."""
        self.looked: tuple[int, int, int] | None = None
        """Inode, time and size of the file that it was made from; None: there was none."""
        self.changed_ns = 0
        """When the attributes of that file were changed last."""
        self.own: set[str] = set()
        """Which attributes were changed of the copy alone."""
        self.shown_inode = 0

    @property
    def is_shown(self) -> bool:
        """Whether the session sees it in the place of the generation."""
        return not self.discarded and (
            self.dirty or self.is_new or time.monotonic() < self.prepared_until
        )

    @property
    def is_forsaken(self) -> bool:
        """Whether nobody came to open it for so long that nobody will."""
        until = self.prepared_until + _FORSAKEN_S
        return not (self.handles or self.dirty or self.is_new) and time.monotonic() > until

    def prepare(self, thread: int) -> None:
        """Let the next look-up lead to it: the kernel is asked to open once more."""
        now = time.monotonic()
        if now >= self.prepared_until:
            self.pending.clear()
        self.pending.add(thread)
        self.prepared_until = now + _PREPARED_S

    def arrived(self, thread: int) -> None:
        """*thread* is there, whether it was asked to look again or not."""
        self.pending.discard(thread)
        self.seen_enough()

    def seen_enough(self) -> None:
        """Show it no longer than its content demands, unless somebody is about to open it."""
        if not self.pending:
            self.prepared_until = 0.0

    def changed(self, *, data: bool) -> None:
        """It holds something to commit; *data*: more than a truncation."""
        self.dirty = True
        self.has_data = self.has_data or data

    def content(self) -> bytes | Iterator[bytes]:
        """All of it."""
        return content_of(self.descriptor)

    def added(self) -> bytes:
        """What stands behind the content that it was made with."""
        size = os.fstat(self.descriptor).st_size
        return os.pread(self.descriptor, size - self.base_size, self.base_size)

    @property
    def path(self) -> ArtifactKey:
        """Where its file lies, below the root."""
        return ArtifactKey(self.name)


class Copies:
    """The private files of one mount."""

    def __init__(self, parts: VolumeParts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._number = 0
        self._unkept = False
        """Something was refused and could not be kept: its file is the only one."""
        self._folder = os.path.join(os.fsencode(FOLDER), os.fsencode(parts.staging.token))
        self._path = os.path.join(parts.root.path, self._folder)
        os.makedirs(self._path, mode=0o700, exist_ok=True)
        self.directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._index = os.open(
            b"index", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600,
            dir_fd=self.directory,
        )  # fmt: skip

    def new(self, key: ArtifactKey, claim: Claim) -> WorkingCopy:
        """An empty copy."""
        with self._lock:
            self._number += 1
            name = b"%d" % self._number
        line = {
            "copy": name.decode(),
            "path": os.fsdecode(key),
            "base": claim.base.generation if claim.base else 0,
            "session": self._parts.session.name,
        }
        self._enter(line)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self.directory)
        return WorkingCopy(key, claim, os.path.join(self._folder, name), descriptor)

    def _enter(self, line: dict[str, object]) -> None:
        """Write a line of the index, before there is a file that only it explains."""
        # A line that the disk had room for half of must not spoil the next one.
        text = b"\n" + json.dumps(line).encode() + b"\n"
        if os.write(self._index, text) < len(text):
            raise no_such(errno.ENOSPC)

    def fill(self, copy: WorkingCopy, source: int) -> None:
        """Give *copy* the bytes and the attributes of an open file.

        The bytes also when it is about to be cut off: another program of the
        session may open the copy before that.
        """
        found = os.fstat(source)
        copy_content(source, copy.descriptor)
        copy.base_size = found.st_size
        give(copy.descriptor, Attributes.of(source, found))
        os.utime(copy.descriptor, ns=(found.st_atime_ns, found.st_mtime_ns))
        copy.looked = (found.st_ino, found.st_mtime_ns, found.st_size)
        copy.changed_ns = found.st_ctime_ns

    def drop(self, copy: WorkingCopy) -> None:
        """Remove *copy*; whoever has it open keeps what is left of it.

        The file of one that was refused and could not be kept stays: it is the only one.
        """
        copy.discarded = True
        descriptor, copy.descriptor = copy.descriptor, -1
        if descriptor < 0:
            return
        os.close(descriptor)
        if copy.refused and copy.dirty and not copy.kept:
            self._unkept = True
            return
        with contextlib.suppress(OSError):
            os.unlink(os.path.basename(copy.name), dir_fd=self.directory)

    def keep(self, copy: WorkingCopy) -> str:
        """Move what *copy* holds to ``refused/``; its path there. Raises OSError."""
        base = copy.claim.base.generation if copy.claim.base else None
        place = self.directory, os.path.basename(copy.name)
        return move_to_refused(self._parts, place, copy.key, self._parts.session.name, base)

    def close(self) -> None:
        """Remove the private directory; what is in it was committed or kept, or stays."""
        os.close(self._index)
        if self._unkept:
            kept_of_a_mount(self._parts, os.fsdecode(self._path))
        else:
            for name in os.listdir(self.directory):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self.directory)
        os.close(self.directory)
        with contextlib.suppress(OSError):
            os.rmdir(self._path)


def content_of(descriptor: int) -> bytes | Iterator[bytes]:
    """All of an open file; in one piece if it is small."""
    size = os.fstat(descriptor).st_size
    return read_exactly(descriptor, size) if size <= _IN_MEMORY else chunks_of(descriptor)
