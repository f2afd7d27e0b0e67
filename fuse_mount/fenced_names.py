"""Fenced names: removing, renaming and linking artifacts.

Owns what becomes of the savers that do not write in place: a temporary file
renamed onto an artifact is its next generation; an artifact that is removed or
renamed away is a held deletion, and its other name a copy. So a saver of two
steps makes one generation, and no peer ever sees a hole.
"""

from __future__ import annotations

import errno
import os
import stat

from coherent_volume.errors import CoherenceError
from coherent_volume.model import ArtifactKey
from fuse_mount.claims import Claim
from fuse_mount.fenced_attributes import FencedAttributes
from fuse_mount.managed import State
from fuse_mount.nodes import Node, no_such
from fuse_mount.processes import process_of
from fuse_mount.protocol import Entry
from fuse_mount.tree import Caller

__all__ = ["FencedNames", "Place"]

Place = tuple[Node, bytes]


class FencedNames(FencedAttributes):
    """Names of artifacts."""

    # ── look-ups ─────────────────────────────────────────────────────────────

    def lookup(self, parent: Node, name: bytes) -> Entry:
        """Find a name as the session sees it."""
        key = self.key_at(parent, name, lately=True)
        if key is None:
            return super().lookup(parent, name)
        state = self._states.find(key)
        if state is not None:
            with state.lock:  # not in the middle of a commit, which may close the copy
                copy = state.shown_copy
                if copy is not None:
                    return self.copy_entry(copy)
                if state.deleted is not None:
                    raise no_such()
        node, found = self.nodes.enter(parent, name)
        if not stat.S_ISREG(found.st_mode):
            return self.entry(node, found)
        return self.generation_entry(key, node, found)

    def entries(self, node: Node) -> list[tuple[bytes, int, int]]:
        """What a directory holds as the session sees it."""
        found = super().entries(node)
        where = self.nodes.where(node)
        holding = self._states.holding()
        if where is None or not holding:
            return found
        prefix = where + b"/" if where else b""
        hidden, added = set(), {}
        for state in holding:
            folder, _, name = state.key.rpartition(b"/")
            if folder + b"/" != prefix and folder != where:
                continue
            copy = state.shown_copy
            if copy is not None:
                added[name] = (name, copy.shown_inode, stat.S_IFREG >> 12)
            elif state.deleted is not None:
                hidden.add(name)
        present = {each[0] for each in found}
        found = [each for each in found if each[0] not in hidden]
        return found + [each for name, each in added.items() if name not in present]

    # ── names that are not files ─────────────────────────────────────────────

    def _make_room(self, parent: Node, name: bytes) -> None:
        """Something else than a file is to stand where an artifact was deleted."""
        key = self.key_at(parent, name)
        if key is not None and self._states.find(key) is not None:
            with self.locked(key):
                if self.state(key).shown_copy is not None:
                    raise no_such(errno.EEXIST)
            self.settle(float("inf"), key)

    def mkdir(self, caller: Caller, parent: Node, name: bytes, mode: int) -> Entry:
        """Make a directory."""
        self._make_room(parent, name)
        return super().mkdir(caller, parent, name, mode)

    def symlink(self, caller: Caller, parent: Node, name: bytes, target: bytes) -> Entry:
        """Make a symbolic link."""
        self._make_room(parent, name)
        return super().symlink(caller, parent, name, target)

    def mknod(self, caller: Caller, parent: Node, name: bytes, mode: int, device: int) -> Entry:
        """Make a file, FIFO, socket or device."""
        key = self.key_at(parent, name)
        if key is None or stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            self._make_room(parent, name)
            return super().mknod(caller, parent, name, mode, device)
        entry, handle = self.create(caller, parent, name, os.O_WRONLY | os.O_EXCL, mode)
        self.release(handle)
        return entry

    def rmdir(self, caller: Caller, parent: Node, name: bytes) -> None:
        """Remove an empty directory; deletions that it waits for are committed first."""
        above = self.nodes.where(parent)
        if above is not None:
            path = (above + b"/" if above else b"") + name
            self.settle(float("inf"), path)
            if self.holds_copies(path):
                raise no_such(errno.ENOTEMPTY)
        super().rmdir(caller, parent, name)

    def holds_copies(self, folder: bytes) -> bool:
        """Whether something is to be in *folder* that is not committed yet."""
        return any(
            state.shown_copy and state.key.startswith(folder + b"/")
            for state in self._states.holding()
        )

    # ── removing ─────────────────────────────────────────────────────────────

    def unlink(self, caller: Caller, parent: Node, name: bytes) -> None:
        """Remove a name; an artifact's deletion is judged now and committed a little later."""
        self._remove(caller, parent, name, "unlink")

    def hide(self, caller: Caller, parent: Node, name: bytes) -> None:
        """Remove a name of an open file, which may be the first half of replacing it.

        Only a transport that is not told which it is asks for this.
        """
        self._remove(caller, parent, name, "rename")

    def _remove(self, caller: Caller, parent: Node, name: bytes, operation: str) -> None:
        key = self.key_at(parent, name)
        if key is None:
            super().unlink(caller, parent, name)
            return
        state = self.state(key)
        with state.lock:
            if not self._is_file(state):
                super().unlink(caller, parent, name)
                return
            claim = self._departure(state, caller, operation)
            self._depart(state, claim, caller.pid)

    def _is_file(self, state: State) -> bool:
        """Whether the session sees a regular file there; ENOENT when it sees nothing."""
        if state.shown_copy is not None:
            return True
        found = None if state.deleted is not None else self.on_disk(state.key)
        if found is None:
            raise no_such()
        return stat.S_ISREG(found.st_mode)

    def _departure(self, state: State, caller: Caller, operation: str) -> Claim:
        """What the deletion of an artifact rests on; refused here if it is stale."""
        copy = state.shown_copy
        if copy is not None:
            return copy.claim
        process, _ = process_of(caller.pid)
        claim = self._claim(state.key, process, operation)
        if operation != "rename":
            # A backup rename is the first half of a save, and its content will
            # tell. Whoever unlinks may want nothing else, and must hear now.
            claim = claim._replace(by_content=None)
        with self.fence.admitted(state.key, claim, operation, deletes=claim.by_content is None):
            pass
        return claim

    def _claim(self, key: ArtifactKey, process: int, operation: str) -> Claim:
        try:
            return self.fence.claims.claim(key, process)
        except CoherenceError as error:
            raise self.fence.refusal(key, operation, error) from error

    def _depart(self, state: State, claim: Claim, remover: int) -> None:
        """The session no longer sees the artifact."""
        copy = state.copy
        was_new = copy is not None and copy.is_new and not copy.discarded
        if copy is not None:
            self.discard(state, copy)
        if was_new and state.deleted is None:
            return  # nobody else ever saw it
        self.hold_deletion(state, state.deleted.claim if state.deleted else claim, remover)
