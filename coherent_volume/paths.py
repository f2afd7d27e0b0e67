"""From what a caller names to an artifact's key, never leaving the root.

Owns the root's descriptor and every rule about names: separators, ``..``,
absolute paths, symbolic links, volumes inside volumes. A link that stays
inside the root stands for its target; one that leads out is refused. All
opening is relative to the root's descriptor and beneath it, so a link swapped
in behind our back is refused by the kernel and not followed (a check with
realpath and a later open let 1 in 10 such races through).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator

from coherent_volume.errors import (
    NotFoundError,
    NotRegularFileError,
    OutsideRootError,
    UsageError,
)
from coherent_volume.model import ArtifactKey
from coherent_volume.syscalls import openat2

__all__ = ["PathArgument", "Root", "shown"]

PathArgument = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_LINKS_MAX = 40  # as the kernel's own limit
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
# Relative, in normal form already: no empty part and none that begins with a dot.
_PLAIN = re.compile(rb"[^/.\0][^/\0]*(?:/[^/.\0][^/\0]*)*").fullmatch


def shown(key: bytes) -> str:
    """*key* as users see it."""
    return os.fsdecode(key)


class Root:
    """One root directory, held open."""

    def __init__(self, directory: PathArgument, also: bytes | None = None) -> None:
        """*also* is another path to the same tree, by which callers may name files."""
        given = os.path.abspath(os.fsencode(directory))
        self.path = os.path.realpath(given)
        self._prefixes = tuple({given + b"/", self.path + b"/", (also or given) + b"/"})
        try:
            self.descriptor = os.open(self.path, _DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(
                "the root directory does not exist",
                path=shown(given),
                advice="Create it, or name another root.",
            ) from None
        except NotADirectoryError:
            raise UsageError("the root is not a directory", path=shown(given)) from None
        self._without_volume: set[bytes] = set()

    def close(self) -> None:
        """Let go of the descriptor; late use by another thread finds none."""
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)

    # ── names ────────────────────────────────────────────────────────────────

    def key(self, path: PathArgument) -> ArtifactKey:
        """The key that *path* spells; looks at no file unless it contains "..".

        Relative paths are relative to the root, absolute ones must lie in it.
        Raises OutsideRootError, or UsageError for a name that cannot exist.
        """
        try:
            raw = os.fsencode(path)
        except UnicodeEncodeError:
            raise UsageError("the path cannot be encoded as a file name") from None
        except TypeError:
            kind = type(path).__name__
            raise UsageError(f"a path is a str, bytes or PathLike, not {kind}") from None
        if _PLAIN(raw):
            return ArtifactKey(raw)
        if b"\0" in raw:
            raise UsageError("a path cannot contain a NUL byte", path=shown(raw))
        if raw.startswith(b"/"):
            raw = self._relative(raw)
        parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            # As the kernel walks: after a link, ".." is the target's parent.
            return self.follow(ArtifactKey(b"/".join(parts)))
        if not parts:
            raise UsageError("the path names the root itself, not a file", path=shown(raw))
        return ArtifactKey(b"/".join(parts))

    def _relative(self, path: bytes) -> bytes:
        for prefix in self._prefixes:
            if path.startswith(prefix):
                return path[len(prefix) :]
        folder, name = os.path.split(path)
        resolved = os.path.join(os.path.realpath(folder), name)
        if resolved.startswith(self.path + b"/"):
            return resolved[len(self.path) + 1 :]
        raise OutsideRootError("the path leads out of the volume's root", path=shown(path))

    def follow(self, key: ArtifactKey) -> ArtifactKey:
        """*key* with every symbolic link on the way replaced by its target.

        Raises OutsideRootError when a link leads out of the root.
        """
        done: list[bytes] = []
        todo = key.split(b"/")[::-1]
        links = 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if not done:
                    raise OutsideRootError(
                        "the path leads out of the volume's root", path=shown(key)
                    )
                done.pop()
                continue
            here = b"/".join([*done, part])
            target = self._link_target(here)
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > _LINKS_MAX:
                raise UsageError("too many levels of symbolic links", path=shown(key))
            if target.startswith(b"/"):
                target = self._relative(target)
                done = []
            todo += target.split(b"/")[::-1]
        if not done:
            raise UsageError("the path names the root itself, not a file", path=shown(key))
        return ArtifactKey(b"/".join(done))

    def _link_target(self, key: bytes) -> bytes | None:
        # A name that another process is changing right now may be reported
        # as no link; the open that follows refuses links once more.
        try:
            return os.readlink(key, dir_fd=self.descriptor)
        except OSError:
            return None

    def refuse_volumes_inside(self, key: ArtifactKey) -> None:
        """Raise UsageError when a directory on the way is a volume of its own.

        Two volumes over one file would each believe to be its only keeper.
        """
        folder = key.rpartition(b"/")[0]
        while folder and folder not in self._without_volume:
            with contextlib.suppress(OSError):
                os.stat(folder + b"/.coherence", dir_fd=self.descriptor)
                raise UsageError(
                    f"{shown(folder)} is a coherent volume of its own",
                    path=shown(key),
                    advice="Open that volume instead, or exclude it from managed.",
                )
            self._without_volume.add(folder)
            folder = folder.rpartition(b"/")[0]

    # ── directories ──────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def parent_of(self, key: ArtifactKey, *, make: bool = False) -> Iterator[tuple[int, bytes]]:
        """The directory of *key*, opened beneath the root, and the last name.

        With *make* missing directories are created. Raises NotFoundError.
        """
        folder, _, name = key.rpartition(b"/")
        if not folder:
            yield self.descriptor, name
            return
        try:
            descriptor = openat2(self.descriptor, folder, _DIRECTORY)
        except FileNotFoundError:
            if not make:
                raise NotFoundError("no such directory", path=shown(folder)) from None
            descriptor = self._make(folder)
        except NotADirectoryError:
            raise NotRegularFileError(
                "a file stands where a directory is needed", path=shown(key), found="file"
            ) from None
        except OSError as error:
            raise refused_walk(error, key) from None
        try:
            yield descriptor, name
        finally:
            # A commit may stand by now: nothing is lost by a directory that was
            # not closed well, and an error would pass for a failure.
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _make(self, folder: bytes) -> int:
        here = os.dup(self.descriptor)
        try:
            for part in folder.split(b"/"):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=here)
                below = openat2(here, part, _DIRECTORY)
                os.close(here)
                here = below
        except OSError as error:
            os.close(here)
            raise refused_walk(error, folder) from error
        return here


def refused_walk(error: OSError, key: bytes) -> Exception:
    """What to raise for an *error* of a walk below the root."""
    if error.errno in (errno.EXDEV, errno.ELOOP):
        return OutsideRootError("a symbolic link on the way is not followed", path=shown(key))
    if error.errno == errno.ENOTDIR:
        return NotRegularFileError(
            "a file stands where a directory is needed", path=shown(key), found="file"
        )
    return error


def kind_of(mode: int) -> str:
    """What a file of this mode is called, for messages."""
    names = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
    }
    return names.get(stat.S_IFMT(mode), "a regular file")
