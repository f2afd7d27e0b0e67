"""What a file carries beside its bytes: mode, owner, extended attributes, witness.

Owns what a commit keeps of the file it replaces, and the one attribute that is
ours. Works on open descriptors only.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from coherent_volume.digest import short_name
from coherent_volume.errors import NotPermittedError, StorageError
from coherent_volume.model import ArtifactKey

__all__ = ["WITNESS", "Attributes", "Witness", "give"]

WITNESS = "user.coherence.gen"
_NO_XATTRS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES)


class Attributes(NamedTuple):
    """What a commit keeps of the file that it replaces."""

    mode: int
    uid: int
    gid: int
    xattrs: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, descriptor: int, found: os.stat_result) -> Attributes:
        """The attributes of an open file."""
        try:
            names = os.listxattr(descriptor)
            pairs = tuple(
                (name, os.getxattr(descriptor, name))
                for name in names
                if name != WITNESS and name.startswith(("user.", "system.posix_acl_"))
            )
        except OSError:
            pairs = ()
        return cls(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, pairs)


class Witness(NamedTuple):
    """What a file itself remembers: whose generation it was made as.

    It tells a sidecar that was rolled back (the file knows a later generation)
    from a foreign edit (the file knows none, or an earlier one).
    """

    incarnation: str
    name: str
    generation: int

    def text(self) -> bytes:
        """The value of the extended attribute."""
        return f"{self.incarnation[:16]}:{self.name}:{self.generation}".encode()

    @classmethod
    def read(cls, descriptor: int, incarnation: str, key: ArtifactKey) -> int:
        """The generation that the file remembers of *this* artifact, or -1."""
        try:
            life, name, generation = os.getxattr(descriptor, WITNESS).split(b":")
        except (OSError, ValueError):
            return -1
        if life != incarnation[:16].encode() or name != short_name(key).encode():
            return -1  # copied from elsewhere, or of a volume made anew
        return int(generation) if generation.isdigit() else -1


def give(descriptor: int, wanted: Attributes) -> None:
    """Let an open file have *wanted*; NotPermittedError if the owner cannot be kept."""
    found = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) != (wanted.uid, wanted.gid):
        try:
            os.fchown(descriptor, wanted.uid, wanted.gid)
        except PermissionError as error:
            raise NotPermittedError(
                f"a commit keeps the owner, and this user may not give files to {wanted.uid}:"
                f"{wanted.gid}",
                advice="Nothing was changed. Write as the owner, or change the owner first.",
            ) from error
    for name, value in wanted.xattrs:
        try:
            os.setxattr(descriptor, name, value)
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise StorageError(
                    f"could not keep the extended attribute {name}: {error.strerror}",
                    step="stage",
                    errno=error.errno,
                ) from error
    # After the owner: chown clears the set-id bits. After the access list,
    # which has the mode's bits in it.
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != wanted.mode:
        os.fchmod(descriptor, wanted.mode)
