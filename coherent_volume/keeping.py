"""Keeping: what was refused, or displaced by mistake, is kept in a file with a name.

Owns ``refused/`` below ``.coherence``, the names in it, and the drafts on their
way there. Upholds I6: refused content is never thrown away here. Sweeping by
age is maintenance's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterable

from coherent_volume.attributes import WITNESS
from coherent_volume.digest import digest_of_chunks, short_name
from coherent_volume.files import chunks_of
from coherent_volume.model import ArtifactKey, Digest
from coherent_volume.syscalls import RENAME_NOREPLACE, renameat2

__all__ = ["REPORT_SUFFIX", "Keeping", "refused_label", "report_label", "write_all"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NOTE_MAX = 1 << 20  # bytes; a report has bounds that are far below

REPORT_SUFFIX = ".report"
"""How the name of a report in ``refused/`` ends; that of refused content never does."""


class Keeping:
    """One process's way to ``refused/``, and the names that it drafts under."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        # The token tells whose stages these are; see session.Presence.
        self.token = os.urandom(8).hex()
        self._counter = itertools.count()
        self.staging = os.open(os.path.join(directory, "staging"), _DIRECTORY)
        self.refused = os.open(os.path.join(directory, "refused"), _DIRECTORY)
        # Held while ``refused`` is made to mean another directory, and over the
        # close: a number that was let go of must not be filled again. Reentrant,
        # for a signal handler that is refused.
        self.renewing = threading.RLock()

    def next_name(self) -> str:
        """A stage name that was never used."""
        return f"{self.token}.{next(self._counter)}"

    def discard(self, stage: str) -> None:
        """Remove a staged file, if it is still there."""
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(stage, dir_fd=self.staging)

    def refuse(
        self, stage: str, key: ArtifactKey, who: str, base: int | None, digest: Digest
    ) -> str:
        """Move a staged file to ``refused/``; returns its path below the root.

        *base* is the generation that it was derived from. The name is the same
        for the same content refused in the same situation, so repeated refusals
        keep one copy and say the same words.
        """
        label = refused_label(key, who, base, digest)
        if self._is_kept(label, digest):
            self.discard(stage)
        else:
            self._set_aside(label)
            self._move_to_refused(stage, label)
        os.utime(label, dir_fd=self.refused)
        # Without its witness: a person may move it back into place by hand, and
        # then it must not claim to be a generation that was refused.
        with contextlib.suppress(OSError):
            os.removexattr(os.path.join(self._directory, "refused", label), WITNESS)
        return f".coherence/refused/{label}"

    def _set_aside(self, label: str) -> None:
        """Let go of the name *label*: what stands there has been edited by hand since."""
        for number in itertools.count(1):
            try:
                renameat2(
                    self.refused,
                    label.encode(),
                    self.refused,
                    f"{label}.edited{number}".encode(),
                    RENAME_NOREPLACE,
                )
            except FileExistsError:
                continue
            except FileNotFoundError:
                pass
            return

    def _is_kept(self, label: str, digest: Digest) -> bool:
        """Whether *label* holds this content already.

        Moving a second copy over it would make ext4 write the blocks out at once,
        which costs more than all the rest of a refusal. Somebody may have edited
        the kept file: what it holds is looked at, and not what it is called.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(label, flags, dir_fd=self.refused)
        except OSError:
            return False
        try:
            return digest_of_chunks(chunks_of(descriptor)) == digest
        finally:
            os.close(descriptor)

    def keep(
        self,
        key: ArtifactKey,
        content: bytes | Iterable[bytes],
        who: str,
        base: int | None,
        digest: Digest,
    ) -> str:
        """Write *content* to ``refused/``; returns its path below the root."""
        return self.refuse(self._draft(content), key, who, base, digest)

    def drop_refused(self, kept: str) -> None:
        """Remove refused content, named by its path below the root: it has landed."""
        os.unlink(kept.rpartition("/")[2], dir_fd=self.refused)

    def note(self, label: str, data: bytes) -> None:
        """Put a small file into ``refused/``, whole or not at all, over an older one."""
        with contextlib.suppress(OSError):
            # Whoever retries a stale write is refused in the same words. Replacing
            # a file makes ext4 write its blocks out: ten times as dear as a look.
            if self.noted(label) == data:
                os.utime(label, dir_fd=self.refused)
                return
        self._move_to_refused(self._draft(data), label)

    def noted(self, label: str) -> bytes:
        """The content of a small file in ``refused/``; raises OSError."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(label, flags, dir_fd=self.refused)
        try:
            return os.read(descriptor, _NOTE_MAX)
        finally:
            os.close(descriptor)

    def _draft(self, content: bytes | Iterable[bytes]) -> str:
        name = self.next_name()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        target = os.open(name, flags, 0o600, dir_fd=self.staging)
        try:
            for chunk in [content] if isinstance(content, bytes) else content:
                write_all(target, chunk)
        except BaseException:
            self.discard(name)
            raise
        finally:
            os.close(target)
        return name

    def _move_to_refused(self, stage: str, label: str) -> None:
        try:
            os.rename(stage, label, src_dir_fd=self.staging, dst_dir_fd=self.refused)
        except FileNotFoundError:
            self._find_refused_again()
            os.rename(stage, label, src_dir_fd=self.staging, dst_dir_fd=self.refused)

    def _find_refused_again(self) -> None:
        """Make ``refused/`` anew if somebody tidied it away; else do nothing."""
        path = os.path.join(self._directory, "refused")
        with self.renewing:
            if self.refused < 0:
                return  # closed meanwhile
            os.makedirs(path, mode=0o700, exist_ok=True)
            made = os.open(path, _DIRECTORY)
            try:
                if not os.path.sameopenfile(made, self.refused):
                    # In the place of the old one. With a close first the number would
                    # be free: other threads use it, and whatever got it would be closed.
                    os.dup2(made, self.refused, inheritable=False)
            finally:
                os.close(made)


def refused_label(key: ArtifactKey, session: str, base: int | None, digest: Digest) -> str:
    """A file name for refused content: artifact, session, base and digest."""
    who = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in session)
    seen = "unseen" if base is None else f"g{base}"
    return f"{_plain_name(key)}.{who[:40]}.{seen}.{short_name(key)[:4]}{digest.hex()[:12]}"


def report_label(key: ArtifactKey, session: str) -> str:
    """The file name of the report about a session's last refusal of an artifact."""
    who = short_name(os.fsencode(session))[:12]
    return f"{_plain_name(key)}.{short_name(key)[:12]}{who}{REPORT_SUFFIX}"


def _plain_name(key: ArtifactKey) -> str:
    name = os.fsdecode(key.rpartition(b"/")[2])
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)[:80]


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of *data* to an open file."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
