"""Fenced reading: a reader gets the generation that is current, and is credited with it.

A file that has not changed since it was found to be a generation (``Fence.known``)
is opened without the gate and without a look at the records. The
descriptor that a reader's handle keeps pins the inode: a commit displaces it and
never writes into it, and it is used again only when nobody has it open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from coherent_volume.errors import BusyError, CoherenceError, DamagedError
from coherent_volume.files import Fingerprint
from coherent_volume.model import ArtifactKey
from coherent_volume.syscalls import RENAME_EXCHANGE
from fuse_mount.handles import Handle
from fuse_mount.managed import Managed
from fuse_mount.nodes import Node, no_such
from fuse_mount.processes import group_of, process_of
from fuse_mount.tree import Caller

__all__ = ["FencedReading"]

_KNOWN_MAX = 50_000
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class FencedReading(Managed):
    """Open files of artifacts, for reading."""

    def open_known(self, caller: Caller, node: Node, flags: int) -> int:
        """Open for reading a generation that was read before: no gate, no records.

        Its file is as it was when it was found to be that generation, so it still
        is; 0 when that cannot be said. A path that is a moment old does no harm:
        a file that was moved meanwhile has another time of change.
        """
        above = node.parent
        if above is None or node.kind != stat.S_IFREG or node.extra is not None:
            return 0
        key = self.key_at(above, node.name, lately=True)
        known = None if key is None else self.fence.known.get(key)
        if key is None or known is None or key in self.fence.parts.leased_keys:
            return 0
        looks, seen = known
        try:
            descriptor = os.open(node.name, _OPEN, dir_fd=self.nodes.descriptor(above))
        except OSError:
            return 0
        if node.identity != looks[:2] or Fingerprint.of(os.fstat(descriptor)) != looks:
            os.close(descriptor)
            return 0
        number = self.keep_handle(Handle(node, descriptor, flags))
        if self.fence.credit.has(key, seen):
            # Whatever program reads it, the session has seen it already.
            process = group_of(caller.pid)
            self.fence.credit.note_opened(key, process, seen)
        else:
            process, program = process_of(caller.pid)
            if not self.fence.uncredited(program):
                self.fence.credit.note_read(key, seen, process, None)
        self.handle(number).opener = process
        return number

    def open_reading(self, caller: Caller, node: Node, key: ArtifactKey, flags: int) -> int:
        """Open for reading by way of the records, which say which generation it is."""
        process, program = process_of(caller.pid)
        reading = None
        try:
            if self.fence.uncredited(program):
                descriptor = self.open_real(key)
            else:
                descriptor, reading = self.fence.open_generation(key)
        except BusyError:
            # Somebody outside is writing it: there is no generation to be
            # credited with, and a reader is never refused.
            descriptor = self.open_real(key)
        except DamagedError as error:
            raise self.fence.refusal(key, "open", error) from error
        except CoherenceError:
            descriptor = self.open_real(key)
        if reading is not None and reading.fingerprint is not None:
            if len(self.fence.known) >= _KNOWN_MAX:
                self.fence.known.clear()
            self.fence.known[key] = (reading.fingerprint, reading.seen)
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != node.identity:
            os.close(descriptor)
            raise no_such(errno.ESTALE)
        # Credited only once nothing can fail any more: who got an error has read nothing.
        number = self.keep_handle(Handle(node, descriptor, flags, process))
        if reading is not None:
            self.fence.credit.note_read(key, reading.seen, process, reading)
        return number

    # ── what arrives with its directory ──────────────────────────────────────

    def rename(
        self, caller: Caller, old: tuple[Node, bytes], new: tuple[Node, bytes], flags: int
    ) -> None:
        """Rename; the files below a directory that become artifacts by it are the session's own."""
        super().rename(caller, old, new, flags)
        for parent, name in (old, new) if flags & RENAME_EXCHANGE else (new,):
            # What was renamed is renamed, whatever this ends in.
            with contextlib.suppress(OSError, CoherenceError):
                above = self.nodes.descriptor(parent)
                found = os.stat(name, dir_fd=above, follow_symlinks=False)
                where = self.nodes.where(parent) if stat.S_ISDIR(found.st_mode) else None
                if where is not None:
                    self._arrived(caller, where + b"/" + name if where else name)

    def _arrived(self, caller: Caller, prefix: bytes) -> None:
        """Nobody saved the artifacts below *prefix*, and yet they are no strangers'."""
        root = b"/proc/self/fd/%d/" % self.nodes.root.descriptor
        for folder, _, files in os.walk(root + prefix):
            for name in files:
                path = folder[len(root) :] + b"/" + name
                if self.fence.manages(path):
                    self._credit_arrived(caller, ArtifactKey(path))

    def _credit_arrived(self, caller: Caller, key: ArtifactKey) -> None:
        found = self.on_disk(key)
        if found is None or not stat.S_ISREG(found.st_mode):
            return
        if self.fence.credit.standing(key, 0).base is None:
            self.fence.claims.note_change(key, 0, found.st_ctime_ns)
            return
        # There was one of this name before, which the session has seen.
        descriptor, reading = self.fence.open_generation(key)
        os.close(descriptor)
        process, _ = process_of(caller.pid)
        self.fence.credit.note_read(key, reading.seen, process, reading)
