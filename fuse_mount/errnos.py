"""Error class to errno: the one table of the mount.

A refusal must be an errno after which no tool goes round it: EPERM, EBUSY,
EXDEV and EEXIST make savers overwrite in place, and EAGAIN makes some of them
spin unless it comes from an open or a rename. Knows no message.
"""

from __future__ import annotations

import errno

from coherent_volume import errors

__all__ = ["ERRNOS", "MAY_WAIT", "errno_of"]

MAY_WAIT = frozenset({"open", "rename"})
"""The operations at which EAGAIN is understood as "wait"."""

ERRNOS: dict[type[errors.CoherenceError], int] = {
    # Refused: EACCES stands for the number that the mount was started with.
    errors.ConflictError: errno.EACCES,
    errors.StaleGenerationError: errno.EACCES,
    errors.NotObservedError: errno.EACCES,
    errors.FencedError: errno.EACCES,
    errors.ForeignEditError: errno.EACCES,
    errors.AlreadyExistsError: errno.EACCES,
    # Not attempted.
    errors.LeasedError: errno.EAGAIN,
    errors.BusyError: errno.EAGAIN,
    errors.UnavailableError: errno.EIO,
    errors.StorageError: errno.EIO,  # or the system's own number
    errors.UnsupportedFilesystemError: errno.EOPNOTSUPP,
    errors.UnconfirmedError: errno.EIO,
    errors.NotFoundError: errno.ENOENT,
    errors.GenerationNotKeptError: errno.ENOENT,
    errors.UsageError: errno.EINVAL,
    errors.NotManagedError: errno.EINVAL,
    errors.NotRegularFileError: errno.EACCES,
    errors.LinkedArtifactError: errno.EACCES,
    errors.ClosedError: errno.EIO,
    errors.OutsideRootError: errno.EACCES,
    errors.SymlinkError: errno.EACCES,
    errors.NotPermittedError: errno.EACCES,
    errors.ConfigurationError: errno.EINVAL,
    errors.DamagedError: errno.EIO,
    errors.SchemaVersionError: errno.EIO,
}


def errno_of(error: errors.CoherenceError, operation: str, refused: int) -> int:
    """The errno of *error* at *operation*; *refused* is that of a refusal."""
    if isinstance(error, errors.StorageError):
        return int(error.fields.get("errno") or errno.EIO)
    number = next((ERRNOS[kind] for kind in type(error).__mro__ if kind in ERRNOS), errno.EIO)
    if number == errno.EAGAIN and operation not in MAY_WAIT:
        return refused
    return refused if number == errno.EACCES else number
