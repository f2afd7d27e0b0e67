"""Fenced moves: renaming, exchanging and linking artifacts.

Owns what becomes of savers that move files: a temporary file renamed onto an
artifact is its next generation, an artifact that is renamed away is a held
deletion, and its other name a copy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from coherent_volume.attributes import Attributes, give
from coherent_volume.digest import digest_of
from coherent_volume.errors import CoherenceError
from coherent_volume.model import ArtifactKey, Digest
from coherent_volume.staging import copy_content
from coherent_volume.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from fuse_mount.claims import Claim
from fuse_mount.fence import PATH_MAX, seen_of
from fuse_mount.fenced_files import Late
from fuse_mount.fenced_following import FencedFollowing, Followers
from fuse_mount.fenced_names import Place
from fuse_mount.keeping import DRAFT, Content
from fuse_mount.managed import State
from fuse_mount.nodes import Node, no_such
from fuse_mount.outcomes import after_commit
from fuse_mount.processes import process_of
from fuse_mount.protocol import Entry
from fuse_mount.tree import Caller
from fuse_mount.working import content_of

__all__ = ["FencedMoves"]


class FencedMoves(FencedFollowing):
    """Moves of artifacts."""

    # ── renaming ─────────────────────────────────────────────────────────────

    def rename(self, caller: Caller, old: Place, new: Place, flags: int) -> None:
        """Rename; onto an artifact it is a save, away from one a held deletion."""
        source, target = self.key_at(*old), self.key_at(*new)
        if source == target and source is not None:
            return
        self._settle_below(old, new, source)
        with self.locked(source, target):
            if self._is_directory(old, source):
                self._rename_directory(caller, old, new, flags)
            elif source is None and target is None:
                super().rename(caller, old, new, flags)
            elif flags & RENAME_EXCHANGE:
                self._exchange(caller, (old, source), (new, target))
            elif not self._is_regular(old, source):
                self._replace_by_other(caller, old, new, flags)
            else:
                self._rename_file(caller, (old, source), (new, target), flags)

    def _is_directory(self, place: Place, key: ArtifactKey | None) -> bool:
        if key is not None and (self.state(key).shown_copy or self.state(key).deleted):
            return False
        above = self.nodes.descriptor(place[0])
        return stat.S_ISDIR(os.stat(place[1], dir_fd=above, follow_symlinks=False).st_mode)

    def _is_regular(self, place: Place, key: ArtifactKey | None) -> bool:
        if key is not None:
            return self._is_file(self.state(key))
        above = self.nodes.descriptor(place[0])
        return stat.S_ISREG(os.stat(place[1], dir_fd=above, follow_symlinks=False).st_mode)

    def _settle_below(self, old: Place, new: Place, source: ArtifactKey | None) -> None:
        """End the holds that a move of a directory would meet.

        Before any name is locked: the clock locks whatever is due, in order, and would
        wait for a name that this thread has while it has one that this thread wants.
        """
        if self._is_directory(old, source):
            for place in (old, new):
                path = self._path_at(place)
                if path is not None:
                    self.settle(float("inf"), path)

    def _path_at(self, place: Place) -> bytes | None:
        """The path below the root; None: it is outside by now."""
        above = self.nodes.where(place[0])
        return None if above is None else (above + b"/" if above else b"") + place[1]

    def _rename_directory(self, caller: Caller, old: Place, new: Place, flags: int) -> None:
        """Move a directory; one with artifacts in it is moved file by file, by the caller."""
        for place in (old, new) if flags & RENAME_EXCHANGE else (old,):
            path = self._path_at(place)
            # Each file is then fenced as a deletion and a save of its own. Tools
            # know this answer from overlay file systems, and copy.
            if path is not None and self._holds_artifacts(path):
                raise no_such(errno.EXDEV)
        path = self._path_at(new)
        if not flags & RENAME_EXCHANGE and path is not None and self.holds_copies(path):
            # It is empty on the disk.
            raise no_such(errno.ENOTEMPTY)
        super().rename(caller, old, new, flags)

    def _holds_artifacts(self, path: bytes) -> bool:
        found = self.on_disk(ArtifactKey(path)) if self.fence.manages(path) else None
        if self.holds_copies(path) or (found is not None and stat.S_ISREG(found.st_mode)):
            return True
        root = b"/proc/self/fd/%d/" % self.nodes.root.descriptor
        for folder, _, files in os.walk(root + path):
            below = folder[len(root) :]
            if any(self.fence.manages(below + b"/" + name) for name in files):
                return True
        return False

    def _rename_file(
        self,
        caller: Caller,
        old: tuple[Place, ArtifactKey | None],
        new: tuple[Place, ArtifactKey | None],
        flags: int,
    ) -> None:
        (place, source), (goal, target) = old, new
        leaving = None
        if source is not None:
            leaving = self._departure(self.state(source), caller, "rename")
        descriptor = self._open_source(place, source)
        try:
            followers = self.followers(descriptor, source)
            if target is not None:
                number = self._shown_number(descriptor, source)
                with self._aside(target, flags):
                    late = self._save_onto(caller, target, descriptor, self._path_of(*old), flags)
                with after_commit(target):
                    self.follow_artifact(followers, late)
                    self._keep_number(target, number)
                    if source is None:
                        self._remove_saved(place, descriptor)
            else:
                self._copy_to(descriptor, goal, flags, followers)
        finally:
            os.close(descriptor)
        if source is not None and leaving is not None:
            self.refuse_rest(source, followers)
            self._depart(self.state(source), leaving, caller.pid)

    def _remove_saved(self, place: Place, saved: int) -> None:
        """Remove a temporary file, unless its name leads to another one than was saved."""
        above = self.nodes.descriptor(place[0])
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(place[1], dir_fd=above, follow_symlinks=False)
            if os.path.samestat(found, os.fstat(saved)):
                os.unlink(place[1], dir_fd=above)

    def _shown_number(self, descriptor: int, key: ArtifactKey | None) -> int:
        """The inode number under which the source of a move is shown."""
        copy = self.state(key).shown_copy if key is not None else None
        if copy is not None:
            return copy.shown_inode
        inode = os.fstat(descriptor).st_ino
        return inode if key is None else self.faces.number(inode)

    def _keep_number(self, target: ArtifactKey, number: int) -> None:
        """A file keeps its inode number when it is moved, though a commit installs another."""
        found = self.on_disk(target)
        if found is not None:
            self.faces.succeed(number, found.st_ino)

    @contextlib.contextmanager
    def _aside(self, target: ArtifactKey, flags: int) -> Iterator[None]:
        """A link or special file that bears an artifact's name makes room for a file."""
        found = None if self.state(target).shown_copy else self.on_disk(target)
        if found is None or stat.S_ISREG(found.st_mode) or flags & RENAME_NOREPLACE:
            yield
            return
        root, folder = self.nodes.root.descriptor, self.copies.directory
        name = b"aside-%d" % self.new_handle()
        renameat2(root, target, folder, name, RENAME_NOREPLACE)
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # a peer made another: that one stays
                renameat2(folder, name, root, target, RENAME_NOREPLACE)
            raise
        with after_commit(target):
            os.unlink(name, dir_fd=folder)

    def _path_of(self, place: Place, key: ArtifactKey | None) -> ArtifactKey | None:
        """Where the attributes of a source are found, below the root; None: too far down."""
        if key is not None:
            copy = self.state(key).shown_copy
            return copy.path if copy is not None else key
        above = self.nodes.where(place[0])
        if above is None:
            return None
        path = above + b"/" + place[1] if above else place[1]
        return ArtifactKey(path) if len(path) < PATH_MAX else None

    def _open_source(self, place: Place, key: ArtifactKey | None) -> int:
        if key is not None:
            copy = self.state(key).shown_copy
            if copy is not None:
                return os.open(b"/proc/self/fd/%d" % copy.descriptor, os.O_RDONLY | os.O_CLOEXEC)
            return self.open_real(key)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(place[1], flags, dir_fd=self.nodes.descriptor(place[0]))

    def _save_onto(
        self,
        caller: Caller,
        target: ArtifactKey,
        source: int,
        attributes_of: ArtifactKey | None,
        flags: int,
        operation: str = "rename",
    ) -> Late:
        """Make an open file's content the next generation of *target*.

        The answer is for those who still have the file open for writing.
        """
        state = self.state(target)
        if flags & RENAME_NOREPLACE and self.exists(target):
            raise no_such(errno.EEXIST)
        process, _ = process_of(caller.pid)
        copy = state.shown_copy
        if copy is not None and copy.is_new:
            claim = copy.claim
        elif state.deleted is not None:
            claim = state.deleted.claim
        elif self.on_disk(target) is None:
            try:
                claim = self.fence.claims.absence(target)
            except CoherenceError as error:
                raise self.fence.refusal(target, operation, error) from error
        else:
            claim = self._claim(target, process, operation)

        digest: Digest | None = None

        def content() -> Content:
            nonlocal digest
            data = content_of(source)
            digest = digest_of(data) if isinstance(data, bytes) else None
            return data

        done = self.fence.save(
            target, claim, content, operation, process=process, attributes_of=attributes_of
        )
        if not done.changed or attributes_of is None:
            self.wear(target, source)
        with after_commit(target):
            if state.copy is not None:
                self.replaced(state, state.copy, process)
        state.deleted, state.replaces = None, False
        # What is too large for one piece is too large for a merge: it was saved as it is.
        kept = claim if done.merged else Claim(seen_of(done))
        return Late(target, kept, digest or seen_of(done).digest)

    def _copy_to(
        self, source: int, goal: Place, flags: int, followers: Followers | None = None
    ) -> None:
        """A plain file at *goal* with an artifact's content: its backup."""
        name = self._draft(source)
        try:
            self._install(name, goal, flags & RENAME_NOREPLACE, followers)
        except BaseException:
            self._drop_draft(name)
            raise

    def _draft(self, source: int) -> bytes:
        """The name of a new private file with the content and attributes of an open one."""
        found = os.fstat(source)
        name = DRAFT + b"%d" % self.new_handle()
        wanted = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(name, wanted, 0o600, dir_fd=self.copies.directory)
        try:
            copy_content(source, descriptor)
            give(descriptor, Attributes.of(source, found))
            os.utime(descriptor, ns=(found.st_atime_ns, found.st_mtime_ns))
        except BaseException:
            os.unlink(name, dir_fd=self.copies.directory)
            raise
        finally:
            os.close(descriptor)
        return name

    def _install(
        self, draft: bytes, goal: Place, flags: int, followers: Followers | None = None
    ) -> None:
        above, folder = self.nodes.descriptor(goal[0]), self.copies.directory
        path = os.open(draft, os.O_PATH | os.O_CLOEXEC, dir_fd=folder)
        try:
            renameat2(folder, draft, above, goal[1], flags)
            if followers is not None:
                self.follow_file(followers, path)
        finally:
            os.close(path)

    def _replace_by_other(self, caller: Caller, old: Place, new: Place, flags: int) -> None:
        """A link or a special file takes an artifact's name: the artifact is deleted."""
        target = self.key_at(*new)
        if target is not None and self.exists(target):
            if flags & RENAME_NOREPLACE:
                raise no_such(errno.EEXIST)
            state = self.state(target)
            if self._is_file(state):
                self._depart(state, self._departure(state, caller, "rename"), caller.pid)
        if target is not None:
            self.end_holds([self.state(target)], float("inf"))
            if self.state(target).deleted is None and self.on_disk(target) is not None:
                found = self.on_disk(target)
                if found is not None and stat.S_ISREG(found.st_mode):
                    raise no_such(self.fence.options.refused_errno)
        super().rename(caller, old, new, flags)

    def _exchange(
        self,
        caller: Caller,
        old: tuple[Place, ArtifactKey | None],
        new: tuple[Place, ArtifactKey | None],
    ) -> None:
        """Two names swap their content; each artifact among them is saved."""
        process, _ = process_of(caller.pid)
        sides = (old, new)
        with contextlib.ExitStack() as stack:
            sources = []
            for place, key in sides:
                if not self._is_regular(place, key):
                    raise no_such(errno.EINVAL)
                sources.append(self._open_source(place, key))
                stack.callback(os.close, sources[-1])
            # Each content goes to the other name, and whoever has it open goes with it.
            moves = list(zip(sides, sides[::-1], sources[::-1], strict=True))
            coming = [self.followers(source, other[1]) for _, other, source in moves]
            intents, drafts = [], []
            for ((goal, key), other, source), followers in zip(moves, coming, strict=True):
                if key is not None:
                    claim = self._claim_of_all(self.state(key), process)
                    intents.append((key, claim, content_of(source), self._path_of(*other)))
                    continue
                # Whatever can fail comes before the commit; only the last step after it.
                drafts.append((self._draft(source), goal, followers))
                stack.callback(self._drop_draft, drafts[-1][0])
            saved = self.fence.swap(intents, process)
            with after_commit(intents[0][0]):
                for (_, key), followers in zip(sides, coming, strict=True):
                    if key is not None:
                        seen = saved[key]
                        self.follow_artifact(followers, Late(key, Claim(seen), seen.digest))
                for draft, goal, followers in drafts:
                    self._install(draft, goal, 0, followers)
            for (_, key), followers in zip(sides[::-1], coming, strict=True):
                if key is not None:
                    self.leave(key, followers)

    def _claim_of_all(self, state: State, process: int) -> Claim:
        """What a save rests on that keeps nothing of what the session has there."""
        copy = state.shown_copy
        if copy is not None:
            return copy.claim._replace(by_content=None)
        return self._claim(state.key, process, "rename")._replace(by_content=None)

    def _drop_draft(self, name: bytes) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self.copies.directory)

    def _found_at(self, node: Node) -> ArtifactKey | None:
        """As ``_path_of``, for a node."""
        try:
            where = self.nodes.where(node)
        except OSError:
            return None  # ENAMETOOLONG
        return ArtifactKey(where) if where is not None and len(where) < PATH_MAX else None

    # ── linking ──────────────────────────────────────────────────────────────

    def link(self, caller: Caller, node: Node, parent: Node, name: bytes) -> Entry:
        """One more name; to or from an artifact it is a copy, because a commit would split it."""
        source, target = self.named(node), self.key_at(parent, name)
        if (source is None and target is None) or node.kind != stat.S_IFREG:
            if target is not None:
                self._make_room(parent, name)
            return super().link(caller, node, parent, name)
        with self.locked(source, target):
            descriptor = os.open(self.nodes.path(node), os.O_RDONLY | os.O_CLOEXEC)
            try:
                if target is None:
                    self._copy_to(descriptor, (parent, name), RENAME_NOREPLACE)
                else:
                    self._save_onto(
                        caller, target, descriptor, self._found_at(node), RENAME_NOREPLACE, "link"
                    )
            finally:
                os.close(descriptor)
        return self.lookup(parent, name)
