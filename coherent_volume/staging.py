"""The sidecar's own files: staged content and large objects.

Owns ``staging/`` and ``objects/`` below ``.coherence``. Writes no
visible file: the commit and recovery modules exchange what is staged here into
place. A staged file already has the mode, owner and extended attributes of the
file that it will replace, and the witness ``user.coherence.gen``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from coherent_volume.attributes import WITNESS, Attributes, Witness, give
from coherent_volume.descriptors import dismiss, opened
from coherent_volume.digest import digest_of, digest_of_chunks, short_name
from coherent_volume.files import CHUNK, Look, Looks, look_at, looks, sole_opener
from coherent_volume.keeping import Keeping, write_all
from coherent_volume.model import ArtifactKey, Digest
from coherent_volume.records import Staged
from coherent_volume.syscalls import start_writeback

__all__ = ["StagedContent", "Staging", "copy_content"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_COPY = 64 << 20  # bytes a copy_file_range call moves at most
_SPARES_MAX = 256


@dataclass(slots=True)
class StagedContent:
    """Content in staging: the file's name, digest and size, and how it is kept.

    ``data`` is the content when it is small, ``object`` the name of its copy
    below ``objects/`` when it is large.
    """

    stage: str
    digest: Digest
    size: int
    inode: Staged
    data: bytes | None
    object: str | None = None


class Staging(Keeping):
    """One process's way to the sidecar's files."""

    def __init__(self, directory: str, incarnation: str, *, durable: bool) -> None:
        super().__init__(directory)
        self._incarnation = incarnation
        self._durable = durable
        self.inline_max = (128 if durable else 64) << 10
        self._spares: deque[tuple[str, Looks]] = deque()
        self.device = os.fstat(self.staging).st_dev
        self.objects = os.open(os.path.join(directory, "objects"), _DIRECTORY)

    def close(self) -> None:
        """Let go of the three directories; late use by another thread finds none."""
        with self.renewing:
            descriptors = (self.staging, self.objects, self.refused)
            self.staging = self.objects = self.refused = -1
            for descriptor in descriptors:
                with contextlib.suppress(OSError):  # the others are closed all the same
                    os.close(descriptor)

    def renew_token(self) -> None:
        """Take a new token, in a forked child; the spares are the parent's."""
        self._spares.clear()
        self.renewing = threading.RLock()
        self.token = os.urandom(8).hex()

    # ── staging ──────────────────────────────────────────────────────────────

    def stage(
        self,
        key: ArtifactKey,
        generation: int,
        content: bytes | Iterable[bytes],
        attributes: Attributes | None,
        *,
        history: bool = True,
    ) -> StagedContent:
        """Write *content* to a new staged file, ready to be exchanged into place.

        With *history* large content is copied to ``objects/`` as well, flushed
        if the volume is durable. Raises OSError; nothing is left behind then.
        """
        name, descriptor = self._new_stage(attributes)
        try:
            self._mark(descriptor, key, generation)
            if isinstance(content, bytes):
                data: bytes | None = content
                write_all(descriptor, content)
                digest = digest_of(content)
            else:
                data = None
                digest = _write_chunks(descriptor, content)
            if attributes is not None:
                give(descriptor, attributes)
            found = os.fstat(descriptor)
            written = os.lseek(descriptor, 0, os.SEEK_CUR)
            if found.st_size != written:
                os.ftruncate(descriptor, written)  # a spare one was longer
                found = os.fstat(descriptor)
            staged = StagedContent(
                name, digest, found.st_size, Staged(found.st_ino, found.st_mtime_ns), data
            )
            if found.st_size > self.inline_max:
                staged.data = None
                if history:
                    staged.object = self.keep_object(descriptor, staged.digest)
            elif data is None:
                staged.data = os.pread(descriptor, found.st_size, 0)
            if self._durable:
                start_writeback(descriptor)
            return staged
        except BaseException:
            self.discard(name)
            raise
        finally:
            dismiss(descriptor)

    def _new_stage(self, attributes: Attributes | None) -> tuple[str, int]:
        """An empty staged file of ours: a spare one, or a new one."""
        while attributes is not None:
            try:
                name, expected = self._spares.popleft()
            except IndexError:
                break  # none; or another thread took the last one
            descriptor = self._reuse(name, expected)
            if descriptor >= 0:
                return name, descriptor
        name = self.next_name()
        mode = 0o666 if attributes is None else attributes.mode
        return name, opened(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode, self.staging)

    def _reuse(self, name: str, expected: Looks) -> int:
        """Open a spare inode that nobody else has open; -1 if it is of no use.

        A write lease is granted only to the one opener of a file, so no reader
        of an old generation can see it change.
        """
        descriptor = -1
        try:
            # Somebody who reads it may have a lease: an open that waits for its end
            # could wait most of a minute, and every fork of this process with it.
            descriptor = opened(name, os.O_RDWR | os.O_NONBLOCK, 0, self.staging)
            if sole_opener(descriptor) and looks(os.fstat(descriptor)) == expected:
                for attribute in os.listxattr(descriptor):
                    os.removexattr(descriptor, attribute)
                if self._durable:
                    # Overwritten blocks could be half old and half new after a
                    # power loss; new blocks are there whole or not at all.
                    os.ftruncate(descriptor, 0)
                return descriptor
        except OSError:
            pass  # it is only a spare
        if descriptor >= 0:
            dismiss(descriptor)
        self.discard(name)
        return -1

    def offer_spare(self, stage: str, expected: Looks) -> None:
        """Keep a displaced inode for a later stage: making one costs more than a commit.

        It is used only if it still *looks* as it did when it was judged.
        """
        if len(self._spares) < _SPARES_MAX:
            self._spares.append((stage, expected))
        else:
            self.discard(stage)

    def _mark(self, descriptor: int, key: ArtifactKey, generation: int) -> None:
        # Where the file system has no extended attributes a rolled back
        # sidecar cannot be told from a foreign edit; nothing else changes.
        with contextlib.suppress(OSError):
            witness = Witness(self._incarnation, short_name(key), generation)
            os.setxattr(descriptor, WITNESS, witness.text())

    def remark(self, staged: StagedContent, key: ArtifactKey, generation: int) -> None:
        """Correct the witness of a staged file: it will be another generation."""
        descriptor = os.open(staged.stage, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.staging)
        try:
            self._mark(descriptor, key, generation)
        finally:
            os.close(descriptor)

    def give_attributes(self, stage: str, attributes: Attributes) -> None:
        """Let a staged file have *attributes*: the target's changed meanwhile."""
        descriptor = os.open(stage, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.staging)
        try:
            give(descriptor, attributes)
        finally:
            os.close(descriptor)

    # ── objects ──────────────────────────────────────────────────────────────

    def keep_object(self, source: int, digest: Digest) -> str:
        """Copy the open file *source* to ``objects/``, flushed if durable.

        Written once at its final name: renaming it there would cost a second
        flush, of the directory, before the commit.
        """
        name = f"{digest.hex()}.{self.next_name()}"
        target = os.open(
            name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.objects
        )
        try:
            copy_content(source, target)
            if self._durable:
                os.fsync(target)
        except BaseException:
            self.drop_object(name)
            raise
        finally:
            os.close(target)
        return name

    def open_object(self, name: str) -> int:
        """A descriptor of an object; raises FileNotFoundError."""
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.objects)

    def drop_object(self, name: str) -> None:
        """Remove an object that no generation needs."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.objects)

    # ── ends of a stage ──────────────────────────────────────────────────────

    def look(self, stage: str) -> os.stat_result | None:
        """What stands at *stage*, or None."""
        try:
            return os.stat(stage, dir_fd=self.staging, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open_stage(self, stage: str) -> int:
        """A descriptor for reading what stands at *stage*."""
        return os.open(stage, _READ, dir_fd=self.staging)

    def look_at_stage(self, stage: str, key: ArtifactKey, *, keep: bool = True) -> Look:
        """A look at what stands at *stage*; raises as ``files.look`` does."""
        return look_at(opened(stage, _READ, directory=self.staging), key, keep=keep)


def copy_content(source: int, target: int) -> None:
    """Copy all bytes of one open file to another; in the kernel where it can."""
    offset = 0
    while True:
        try:
            done = os.copy_file_range(source, target, _COPY, offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            break
        if done == 0:
            return
        offset += done
    while chunk := os.pread(source, CHUNK, offset):
        write_all(target, chunk)
        offset += len(chunk)


def _write_chunks(descriptor: int, chunks: Iterable[bytes]) -> Digest:
    def written() -> Iterator[bytes]:
        for chunk in chunks:
            write_all(descriptor, chunk)
            yield chunk

    return digest_of_chunks(written())
