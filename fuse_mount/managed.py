"""Managed names: what a session holds of each artifact beside its generation.

Owns the state of each artifact in one mount (its working copy, its held
deletion), the lock around it, and the clock that ends a hold. The session sees
its own unfinished steps at once, peers see none of them until they are one
commit. A lock here is taken before the gate, never under it; two of them in the
order of their keys.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import stat
import threading
import time
from collections.abc import Iterator

from coherent_volume.attributes import Attributes, give
from coherent_volume.model import ArtifactKey, Commit
from coherent_volume.syscalls import openat2
from fuse_mount.claims import Claim
from fuse_mount.faces import Faces
from fuse_mount.fence import Fence, seen_of
from fuse_mount.handles import Handle, OpenFiles
from fuse_mount.keeping import is_kept
from fuse_mount.locking import stand_in
from fuse_mount.nodes import Node, no_such
from fuse_mount.outcomes import after_commit
from fuse_mount.protocol import Attr, Entry
from fuse_mount.states import Hold, State, States
from fuse_mount.tree import attr_of
from fuse_mount.working import Copies, WorkingCopy

__all__ = ["GENERATION_ATTR_S", "Hold", "Managed", "State"]

_log = logging.getLogger("coherent_volume")
_TICK_S = 0.05
_RESERVE = 200
GENERATION_ATTR_S = 1.0
"""A node belongs to one generation, and each look-up brings its attributes anew."""


class Managed(OpenFiles):
    """Open files, and the state of every artifact that this session is changing."""

    def __init__(self, root: int, descriptors_max: int, fence: Fence) -> None:
        super().__init__(root, descriptors_max)
        self.fence = fence
        self.copies = Copies(fence.parts)
        self.faces = Faces()
        self._states = States()
        # Set aside for commits, and for the library's own files.
        self._descriptors_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVE
        self._stopped = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="fuse-clock", daemon=True)

    def keep_handle(self, handle: Handle) -> int:
        """Enter *handle* into the table; EMFILE when there are too many."""
        self.spare(handle.descriptor)
        return super().keep_handle(handle)

    def spare(self, descriptor: int) -> None:
        """Close *descriptor* and raise EMFILE while a commit could still be made.

        A close that finds no descriptor left could neither commit nor keep what
        was written. The system gives the lowest free number, so a high one tells.
        """
        if descriptor >= self._descriptors_max:
            os.close(descriptor)
            raise no_such(errno.EMFILE)

    def start(self) -> None:
        """Start the clock."""
        self._clock.start()

    # ── names ────────────────────────────────────────────────────────────────

    def key_at(self, parent: Node, name: bytes, *, lately: bool = False) -> ArtifactKey | None:
        """The artifact that *name* in *parent* may be; None when it is not managed.

        *lately*: the directory's path may be that of a moment ago.
        """
        if parent.extra is not None:
            return None
        above = self.nodes.where_lately(parent) if lately else self.nodes.where(parent)
        if above is None:
            return None
        path = above + b"/" + name if above else name
        return ArtifactKey(path) if self.fence.manages(path) else None

    def key_of(self, node: Node) -> ArtifactKey | None:
        """The artifact whose current generation *node* is; ESTALE for an old one."""
        if isinstance(node.extra, WorkingCopy):
            return node.extra.key
        found = self.found_at(node)
        return None if found is None else found[0]

    def named(self, node: Node, *, lately: bool = False) -> ArtifactKey | None:
        """The artifact whose name *node* was last found by, be it current or not."""
        if node.kind != stat.S_IFREG:
            return None
        if isinstance(node.extra, WorkingCopy):
            return node.extra.key
        # By its last name, and not by the path of its descriptor: a file with two
        # names may have lost the one that the descriptor was opened by.
        if node.extra is not None or node.parent is None:
            return None
        return self.key_at(node.parent, node.name, lately=lately)

    def found_at(
        self, node: Node, *, lately: bool = False
    ) -> tuple[ArtifactKey, os.stat_result] | None:
        """The artifact whose current generation *node* is, and its file; as ``key_of``."""
        key = self.named(node, lately=lately)
        if key is None or node.extra is not None:
            return None
        found = self.on_disk(key)
        if found is not None and (found.st_dev, found.st_ino) == node.identity:
            return key, found
        if lately:
            # Not the file, or not the path any more; with the file there, the path is proved.
            return self.found_at(node)
        # Displaced by a later generation: whoever came by its name asks again.
        raise no_such(errno.ESTALE)

    def state(self, key: ArtifactKey) -> State:
        """The state of *key*."""
        return self._states.of(key)

    @contextlib.contextmanager
    def locked(self, *keys: ArtifactKey | None) -> Iterator[None]:
        """Hold the states of *keys* during the block."""
        with contextlib.ExitStack() as stack:
            for key in sorted({key for key in keys if key is not None}):
                stack.enter_context(self.state(key).lock)
            yield

    def on_disk(self, key: ArtifactKey) -> os.stat_result | None:
        """What bears the name in the real tree."""
        try:
            return os.stat(key, dir_fd=self.nodes.root.descriptor, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def looked(self, key: ArtifactKey) -> tuple[int, int, int] | None:
        """What tells one content of the real file from another."""
        found = self.on_disk(key)
        return None if found is None else (found.st_ino, found.st_mtime_ns, found.st_size)

    def exists(self, key: ArtifactKey) -> bool:
        """Whether the session sees a file (or anything else) of this name."""
        state = self.state(key)
        if state.shown_copy is not None:
            return True
        return state.deleted is None and self.on_disk(key) is not None

    def open_real(self, key: ArtifactKey, flags: int = os.O_RDONLY) -> int:
        """Open the real file of *key*, through no link."""
        return openat2(self.nodes.root.descriptor, key, flags | os.O_NONBLOCK)

    def lockable(self, node: Node) -> tuple[bytes, bytes]:
        """As for any file; an artifact's locks outlive its generations.

        Chosen once per node, or what a commit displaced would be unlocked by another name.
        """
        if node.locked_as is None:
            key = None
            with contextlib.suppress(OSError):  # the directory is gone
                key = self.named(node)
            node.locked_as = key or b""
        if not node.locked_as:
            return super().lockable(node)
        return stand_in(self.fence.parts.directory, node.locked_as)

    # ── faces ────────────────────────────────────────────────────────────────

    def generation_entry(self, key: ArtifactKey, node: Node, found: os.stat_result) -> Entry:
        """The answer to a look-up that found an artifact's generation."""
        return Entry(node.id, self.faces.of(key, attr_of(found)), 0.0, GENERATION_ATTR_S)

    def copy_attr(self, copy: WorkingCopy) -> Attr:
        """The attributes of a working copy: its own, under its generation's number."""
        attr = attr_of(os.fstat(copy.descriptor if copy.descriptor >= 0 else self._kept(copy)))
        gone = copy.discarded and not copy.refused and not self.exists(copy.key)
        return attr._replace(
            ino=copy.shown_inode or self.faces.number(attr.ino), nlink=int(not gone)
        )

    def _kept(self, copy: WorkingCopy) -> int:
        if copy.node is None:
            raise no_such(errno.ESTALE)
        return self.nodes.descriptor(copy.node)

    def copy_entry(self, copy: WorkingCopy) -> Entry:
        """The answer to a look-up that leads to a working copy."""
        node = copy.node
        if node is None:
            raise no_such(errno.ESTALE)
        self.nodes.again(node)
        if node.descriptor < 0 <= copy.descriptor:
            # The kernel forgot it between two look-ups, and with that it was closed.
            path = b"/proc/self/fd/%d" % copy.descriptor
            node.descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        return Entry(node.id, self.copy_attr(copy), 0.0, 0.0)

    # ── copies ───────────────────────────────────────────────────────────────

    def new_copy(self, key: ArtifactKey, claim: Claim, parent: Node | None) -> WorkingCopy:
        """An empty copy of *key* with a node of its own."""
        copy = self.copies.new(key, claim)
        try:
            copy.node = self.nodes.add_private(copy, parent, copy.descriptor)
        except BaseException:
            self.copies.drop(copy)
            raise
        copy.shown_inode = self.faces.fresh()
        return copy

    @contextlib.contextmanager
    def discarded_if_failing(self, state: State, copy: WorkingCopy) -> Iterator[None]:
        """*copy* is nobody's, should the block fail: nothing of it stays. State locked."""
        try:
            yield
        except BaseException:
            self.discard(state, copy)
            raise

    def commit_copy(self, state: State, copy: WorkingCopy, process: int, operation: str) -> None:
        """Make the copy's content the next generation; its state is locked."""
        state.empty_due = 0.0
        try:
            done = self._committed(copy, process or copy.opener, operation)
        except OSError as error:
            copy.kept = is_kept(error)
            self.discard(state, copy, refused=True)
            state.deleted, state.replaces = None, False  # what stands there is seen again
            raise
        if not done.changed:
            self.wear(copy.key, copy.descriptor)
        found = None
        with after_commit(copy.key):
            found = self.on_disk(copy.key)
        # What was appended may stand behind lines of a peer's that the copy has not:
        # whatever is written to it later can only be appended as well.
        # So may a merge have brought in what the copy has not: it rests on what it did.
        base = copy.claim.base
        copy.grows_only = copy.grows_only and not (copy.is_new and state.replaces)
        on_base = base is not None and base.generation == done.base
        is_head = not done.merged and (on_base or not copy.grows_only)
        copy.dirty = copy.has_data = copy.is_new = False
        copy.seen_enough()
        copy.version, copy.writer = copy.version + 1, 0
        copy.base_size = os.fstat(copy.descriptor).st_size
        state.deleted, state.replaces = None, False
        if not is_head:
            copy.looked = None
        elif found is not None:
            copy.claim = Claim(seen_of(done))
            copy.looked = (found.st_ino, found.st_mtime_ns, found.st_size)
            self.faces.succeed(copy.shown_inode, found.st_ino)
            self.faces.settle(copy.key, found, os.fstat(copy.descriptor))
        if copy.handles == 0 and not copy.is_shown:
            self.discard(state, copy)

    def _committed(self, copy: WorkingCopy, process: int, operation: str) -> Commit:
        if copy.grows_only and not (copy.is_new and self.state(copy.key).replaces):
            return self._appended(copy, process)
        return self.fence.save(
            copy.key,
            copy.claim,
            copy.content,
            operation,
            process=process,
            attributes_of=copy.path,
            keep=lambda: self.copies.keep(copy),
        )

    def _appended(self, copy: WorkingCopy, process: int) -> Commit:
        """Add what was appended to whatever is there; a peer may even have made the file."""
        base = copy.claim.base
        if copy.is_new and base is not None:
            # It was found absent: if it still is, the session knows what it makes.
            self.fence.parts.session.seen_here.setdefault(copy.key, base)
        made = copy.is_new and self.on_disk(copy.key) is None
        done = self.fence.append(
            copy.key, copy.claim, copy.added, lambda: self.copies.keep(copy), process
        )
        if made and base is not None and done.base == base.generation:
            self.wear(copy.key, copy.descriptor)
        return done

    def wear(self, key: ArtifactKey, source: int) -> None:
        """Let the file of *key* have the mode and owner of an open file.

        Content that was there already makes no generation, and a saver that
        only changed the mode (git does it by a new file) would change nothing.
        """
        with after_commit(key):
            wanted = Attributes.of(source, os.fstat(source))
            try:
                descriptor = self.open_real(key)
            except OSError:
                return  # somebody took it away: that is judged by the next look
            try:
                before = os.fstat(descriptor)
                if (stat.S_IMODE(before.st_mode), before.st_uid, before.st_gid) != (
                    wanted.mode,
                    wanted.uid,
                    wanted.gid,
                ):
                    give(descriptor, wanted)
                    after = os.fstat(descriptor)
                    self.fence.claims.note_change(key, before.st_ctime_ns, after.st_ctime_ns)
            finally:
                os.close(descriptor)

    def discard(self, state: State, copy: WorkingCopy, *, refused: bool = False) -> None:
        """The copy is no longer its artifact's; its open files keep what they have."""
        copy.refused = copy.refused or refused
        if state.copy is copy:
            state.copy, state.empty_due, state.replaces = None, 0.0, False
        self.copies.drop(copy)
        if copy.node is not None and copy.node.lookups <= 0:
            self.nodes.forget(copy.node.id, 0)  # the kernel never heard of it

    # ── the clock ────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        while not self._stopped.wait(_TICK_S):
            try:
                self.settle(time.monotonic())
                self.tidy()
                self.fence.claims.watch_clock()
                self.fence.credit.ripen()
                self.fence.credit.write_down()
            except Exception:  # noqa: BLE001 - it must go on ticking
                _log.exception("the clock of a mount failed")

    def settle(self, until: float, below: bytes = b"") -> None:
        """End the holds that are due by *until*, of the name *below* and in that directory.

        Never by one that has a state locked: others have theirs, and wait for that one.
        """
        due = [
            state for state in self._states.holding()
            if (not below or (state.key + b"/").startswith(below + b"/")) and state.is_due(until)
        ]  # fmt: skip
        with self.locked(*(each.key for each in due)):
            self.end_holds(due, until)

    def end_holds(self, due: list[State], until: float) -> None:
        """Commit what *due* hold; they are locked."""
        deletions: dict[ArtifactKey, Claim] = {}
        for state in filter(lambda state: state.is_due(until), due):
            if state.copy is not None and 0 < state.empty_due <= until:
                with contextlib.suppress(OSError):  # nobody waits for it; the reason is noted
                    self.commit_copy(state, state.copy, 0, "write")
            elif state.deleted is not None and not state.replaces:
                deletions[state.key] = state.deleted.claim
        if deletions:
            self.fence.delete(deletions)
        for key in deletions:
            self.state(key).deleted = None

    def tidy(self) -> None:
        """Forget the states that hold nothing, or each tick would walk over all there ever were."""
        for state in self._states.holding():
            if state.is_idle and state.lock.acquire(blocking=False):
                try:
                    if state.is_idle:  # still, under the lock
                        if state.copy is not None:
                            self.discard(state, state.copy)
                        self._states.let_go(state)
                finally:
                    state.lock.release()

    def hold_deletion(self, state: State, claim: Claim, remover: int) -> None:
        """The session has deleted the artifact; peers learn of it a little later."""
        state.deleted = Hold(claim, time.monotonic() + self.fence.options.hold_s, remover)
        state.replaces = False

    def close(self) -> None:
        """End every hold, commit what is complete, keep what is not; let go of everything."""
        self._stopped.set()
        if self._clock.is_alive():
            self._clock.join(5.0)
        for state in self._states.holding():
            with state.lock, contextlib.suppress(OSError):
                copy = state.copy
                if copy is not None and copy.dirty:
                    self.commit_copy(state, copy, 0, "write")
        self.settle(float("inf"))
        self.fence.credit.ripen()
        self.fence.credit.write_down()
        super().close()
        self.copies.close()
