"""The four system calls that Python does not offer, and nothing else.

Owns ctypes and every kernel constant. Each function either does what its first
line says or raises OSError; none knows anything of artifacts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

__all__ = [
    "BENEATH",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "crosses_mount",
    "filesystem_magic",
    "openat2",
    "renameat2",
    "start_writeback",
]

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_SYS_OPENAT2 = 437  # the same number on every architecture that Python runs on
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
BENEATH = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
_SYNC_FILE_RANGE_WRITE = 2

if sys.platform != "linux":  # pragma: no cover - said once, clearly, at import
    raise ImportError("coherent-volume needs Linux: openat2, renameat2 and file leases")

_libc = ctypes.CDLL(None, use_errno=True)

_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
]
_renameat2 = _libc.renameat2
_renameat2.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
]
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_fstatfs = _libc.fstatfs
_fstatfs.argtypes = [ctypes.c_int, ctypes.c_char_p]


def _fail(path: bytes) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), os.fsdecode(path))


_hows: dict[int, bytes] = {}


def openat2(directory: int, path: bytes, flags: int) -> int:
    """Open *path* below *directory*, never leaving it and following no link.

    Raises OSError: EXDEV for a path that leaves, ELOOP for a link on the way.
    On kernels without the call the path is walked one component at a time.
    """
    how = _hows.get(flags)
    if how is None:
        how = _hows[flags] = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, BENEATH)
    while True:
        descriptor: int = _syscall(_SYS_OPENAT2, directory, path, how, len(how))
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        # EAGAIN: a rename raced the walk and the kernel cannot tell whether
        # the path stayed beneath. EINTR: a signal handler ran.
        if number in (errno.EAGAIN, errno.EINTR):
            continue
        if number in (errno.ENOSYS, errno.EPERM):
            # Old kernels lack it, and some sandboxes answer EPERM for it.
            return walk_beneath(directory, path, flags)
        raise OSError(number, os.strerror(number), os.fsdecode(path))


def crosses_mount(directory: int, path: bytes) -> bool:
    """Whether *path* below *directory*, or its directory, lies in another mount.

    Also a bind mount of the same file system: nothing can be renamed across it,
    and nothing over a file that is one. False where the kernel cannot tell.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    how = struct.pack("=QQQ", flags, 0, BENEATH | _RESOLVE_NO_XDEV)
    descriptor: int = _syscall(_SYS_OPENAT2, directory, path, how, len(how))
    if descriptor >= 0:
        os.close(descriptor)
        return False
    if ctypes.get_errno() == errno.ENOENT and b"/" in path:
        return crosses_mount(directory, path.rpartition(b"/")[0])
    return ctypes.get_errno() == errno.EXDEV


def walk_beneath(directory: int, path: bytes, flags: int) -> int:
    """As ``openat2``, by opening one component after the other without links."""
    *parents, name = path.split(b"/")
    here = os.dup(directory)
    try:
        for parent in parents:
            if parent in (b"", b".."):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), os.fsdecode(path))
            below = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        if name == b"..":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), os.fsdecode(path))
        return os.open(name or b".", flags | os.O_NOFOLLOW, dir_fd=here)
    except NotADirectoryError:
        # O_DIRECTORY on a symbolic link says ENOTDIR; the caller needs ELOOP.
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path)) from None
    finally:
        os.close(here)


def renameat2(source_dir: int, source: bytes, target_dir: int, target: bytes, flags: int) -> None:
    """Rename with RENAME_NOREPLACE or RENAME_EXCHANGE; raises OSError."""
    if _renameat2(source_dir, source, target_dir, target, flags) != 0:
        raise _fail(target)


def start_writeback(descriptor: int) -> None:
    """Ask the kernel to start writing the file out; waits for nothing.

    It makes the file system allocate the blocks now, so that a later journal
    commit cannot make an empty file visible. Purely advisory: where the file
    system cannot do it the visible file may be empty after a power loss until
    the next visitor re-makes it, so errors are of no interest.
    """
    _sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


def filesystem_magic(descriptor: int) -> int:
    """The ``f_type`` of the file system that *descriptor* lies on."""
    buffer = ctypes.create_string_buffer(256)
    if _fstatfs(descriptor, buffer) != 0:
        raise _fail(b"")
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF
