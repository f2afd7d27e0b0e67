"""The messages of the FUSE kernel protocol: layouts, numbers, pure decoding and encoding.

Owns every struct of linux/fuse.h that is used. Touches no descriptor. A message
that is too short or malformed raises ProtocolError and nothing else, so that
whatever the device delivers can be answered with EIO instead of a crash.
"""

from __future__ import annotations

import enum
import functools
import struct
from typing import NamedTuple

__all__ = [
    "IN_HEADER",
    "Attr",
    "Entry",
    "Init",
    "Opcode",
    "ProtocolError",
    "Request",
    "attr_reply",
    "dirent",
    "direntplus",
    "entry_reply",
    "init_reply",
    "invalidate_entry",
    "invalidate_inode",
    "is_short",
    "names",
    "open_reply",
    "parse",
    "reply_header",
    "request",
    "statfs_reply",
]


class ProtocolError(Exception):
    """A message that cannot be what its header says."""


class Opcode(enum.IntEnum):
    """The requests of the kernel."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50


class Attr(NamedTuple):
    """What stat(2) shows of a file; times in nanoseconds."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int


class Entry(NamedTuple):
    """The answer to a look-up: a node, its attributes, how long either may be believed."""

    node: int
    attr: Attr
    entry_s: float
    attr_s: float


class Request(NamedTuple):
    """One request; ``body`` is valid only while it is being answered."""

    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    body: memoryview


class Init(NamedTuple):
    """What the kernel offers at the start."""

    major: int
    minor: int
    readahead: int
    flags: int


IN_HEADER = struct.Struct("=IIQQIIIHH")
_OUT_HEADER = struct.Struct("=IiQ")
_ATTR = struct.Struct("=QQQqqqIIIIIIIIII")
_ENTRY = struct.Struct("=QQQQII")
_ATTR_OUT = struct.Struct("=QII")
_OPEN_OUT = struct.Struct("=QIi")
_DIRENT = struct.Struct("=QQII")
_STATFS = struct.Struct("=QQQQQIIII24x")
_INIT_IN = struct.Struct("=IIII")
_INIT_OUT = struct.Struct("=IIIIHHIIHHII24x")
_INVAL_INODE = struct.Struct("=Qqq")
_INVAL_ENTRY = struct.Struct("=QII")
_OPEN = 14
_NOTIFY_INVAL_INODE, _NOTIFY_INVAL_ENTRY = 2, 3
_INIT_EXT = 1 << 30

# The fixed part of each request, without what follows it.
_LAYOUTS = {
    Opcode.FORGET: struct.Struct("=Q"),
    Opcode.GETATTR: struct.Struct("=IIQ"),
    Opcode.SETATTR: struct.Struct("=IIQQQQQQIIIIIIII"),
    Opcode.MKNOD: struct.Struct("=IIII"),
    Opcode.MKDIR: struct.Struct("=II"),
    Opcode.RENAME: struct.Struct("=Q"),
    Opcode.RENAME2: struct.Struct("=QII"),
    Opcode.LINK: struct.Struct("=Q"),
    Opcode.OPEN: struct.Struct("=II"),
    Opcode.OPENDIR: struct.Struct("=II"),
    Opcode.CREATE: struct.Struct("=IIII"),
    Opcode.READ: struct.Struct("=QQIIQII"),
    Opcode.READDIR: struct.Struct("=QQIIQII"),
    Opcode.READDIRPLUS: struct.Struct("=QQIIQII"),
    Opcode.WRITE: struct.Struct("=QQIIQII"),
    Opcode.FLUSH: struct.Struct("=QIIQ"),
    Opcode.RELEASE: struct.Struct("=QIIQ"),
    Opcode.RELEASEDIR: struct.Struct("=QIIQ"),
    Opcode.FSYNC: struct.Struct("=QII"),
    Opcode.FSYNCDIR: struct.Struct("=QII"),
    Opcode.SETXATTR: struct.Struct("=II"),
    Opcode.GETXATTR: struct.Struct("=II"),
    Opcode.LISTXATTR: struct.Struct("=II"),
    Opcode.GETLK: struct.Struct("=QQQQIIII"),
    Opcode.SETLK: struct.Struct("=QQQQIIII"),
    Opcode.SETLKW: struct.Struct("=QQQQIIII"),
    Opcode.ACCESS: struct.Struct("=II"),
    Opcode.INTERRUPT: struct.Struct("=Q"),
    Opcode.BATCH_FORGET: struct.Struct("=II"),
    Opcode.FALLOCATE: struct.Struct("=QQQII"),
    Opcode.LSEEK: struct.Struct("=QQII"),
    Opcode.COPY_FILE_RANGE: struct.Struct("=QQQQQQQ"),
}


def request(message: memoryview) -> Request:
    """The request that *message* is; ProtocolError when its length contradicts it."""
    if len(message) < IN_HEADER.size:
        raise ProtocolError(f"a message of {len(message)} bytes has no header")
    length, opcode, unique, node, uid, gid, pid, extra, _ = IN_HEADER.unpack_from(message)
    if length != len(message) or extra * 8 > length - IN_HEADER.size:
        raise ProtocolError(f"a message of {len(message)} bytes says that it has {length}")
    body = message[IN_HEADER.size : length - extra * 8]
    return Request(opcode, unique, node, uid, gid, pid, body)


_SHORT = frozenset(
    {
        *(Opcode.LOOKUP, Opcode.GETATTR, Opcode.READLINK),
        *(Opcode.OPEN, Opcode.RELEASE, Opcode.STATFS, Opcode.GETXATTR, Opcode.LISTXATTR),
        *(Opcode.OPENDIR, Opcode.READDIR, Opcode.RELEASEDIR, Opcode.INTERRUPT, Opcode.WRITE),
    }
)
_SHORT_BYTES = 64 << 10


def is_short(message: memoryview) -> bool:
    """Whether a request is most likely answered at once: no commit, no wait for a disk.

    To forget a node is none: it may be the end of a removed file.
    """
    if len(message) > _SHORT_BYTES or len(message) < IN_HEADER.size + 4:
        return False
    opcode = message[4]
    return opcode in _SHORT and not (opcode == _OPEN and message[IN_HEADER.size] & 3)


def parse(opcode: int, body: memoryview) -> tuple[tuple[int, ...], memoryview]:
    """The fixed fields of a request, and what follows them."""
    if opcode == Opcode.INIT:
        if len(body) < _INIT_IN.size:
            raise ProtocolError("a truncated INIT")
        flags2 = struct.unpack_from("=I", body, 16)[0] if len(body) >= 20 else 0
        major, minor, readahead, flags = _INIT_IN.unpack_from(body)
        if flags & _INIT_EXT:
            flags |= flags2 << 32
        return (major, minor, readahead, flags), body[len(body) :]
    layout = _LAYOUTS.get(opcode)  # type: ignore[call-overload]
    if layout is None:
        return (), body
    if len(body) < layout.size:
        raise ProtocolError(f"request {opcode} has {len(body)} bytes of {layout.size}")
    return layout.unpack_from(body), body[layout.size :]


def names(rest: memoryview, count: int) -> list[bytes]:
    """The *count* zero-terminated names in *rest*; none may be empty or a path."""
    found = bytes(rest).split(b"\0")
    if len(found) <= count:
        raise ProtocolError("a name is not terminated")
    return found[:count]


def reply_header(unique: int, error: int, size: int) -> bytes:
    """The header of an answer of *size* bytes; *error* is an errno, 0 for success."""
    return _OUT_HEADER.pack(_OUT_HEADER.size + size, -error, unique)


def _attr(found: Attr) -> bytes:
    accessed, accessed_ns = divmod(found.atime, 10**9)
    modified, modified_ns = divmod(found.mtime, 10**9)
    changed, changed_ns = divmod(found.ctime, 10**9)
    return _ATTR.pack(
        found.ino,
        found.size,
        found.blocks,
        accessed,
        modified,
        changed,
        accessed_ns,
        modified_ns,
        changed_ns,
        found.mode,
        found.nlink,
        found.uid,
        found.gid,
        found.rdev,
        found.blksize,
        0,
    )


@functools.cache
def _nanoseconds(seconds: float) -> tuple[int, int]:
    whole = int(seconds)
    return whole, int((seconds - whole) * 1e9)


def entry_reply(found: Entry) -> bytes:
    """An Entry on the wire; the node's generation is always 0: numbers are never reused."""
    entry_s, entry_ns = _nanoseconds(found.entry_s)
    attr_s, attr_ns = _nanoseconds(found.attr_s)
    return _ENTRY.pack(found.node, 0, entry_s, attr_s, entry_ns, attr_ns) + _attr(found.attr)


def attr_reply(found: Attr, valid_s: float) -> bytes:
    """Attributes on the wire."""
    seconds, nanoseconds = _nanoseconds(valid_s)
    return _ATTR_OUT.pack(seconds, nanoseconds, 0) + _attr(found)


def open_reply(handle: int, flags: int = 0, backing: int = 0) -> bytes:
    """A handle on the wire, and the inode behind it if the kernel is to use it itself."""
    return _OPEN_OUT.pack(handle, flags, backing)


def dirent(ino: int, offset: int, kind: int, name: bytes) -> bytes:
    """One entry of a directory; *offset* is where the next one starts."""
    return _DIRENT.pack(ino, offset, len(name), kind) + name + bytes(-len(name) % 8)


def direntplus(found: Entry | None, ino: int, offset: int, kind: int, name: bytes) -> bytes:
    """As ``dirent``, with the answer to a look-up before it; None: look it up later."""
    before = bytes(_ENTRY.size + _ATTR.size) if found is None else entry_reply(found)
    return before + dirent(ino, offset, kind, name)


def statfs_reply(values: tuple[int, ...]) -> bytes:
    """(blocks, free, available, files, free files, block size, name length, fragment)."""
    return _STATFS.pack(*values, 0)


def init_reply(offer: Init, flags: int, max_write: int) -> bytes:
    """What is agreed: the flags, and the size of the largest write."""
    minor = min(offer.minor, 45)
    return _INIT_OUT.pack(
        7,
        minor,
        offer.readahead,
        (flags | _INIT_EXT) & 0xFFFFFFFF if offer.flags & _INIT_EXT else flags & 0xFFFFFFFF,
        64,
        48,
        max_write,
        1,
        max_write // 4096,
        0,
        flags >> 32,
        # For passthrough: this file system stands on one that stands on no other.
        1,
    )


def invalidate_inode(node: int) -> bytes:
    """Tell the kernel to forget attributes and content of *node*."""
    body = _INVAL_INODE.pack(node, 0, 0)
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), _NOTIFY_INVAL_INODE, 0) + body


def invalidate_entry(parent: int, name: bytes) -> bytes:
    """Tell the kernel to forget what *name* in *parent* leads to."""
    body = _INVAL_ENTRY.pack(parent, len(name), 0) + name + b"\0"
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), _NOTIFY_INVAL_ENTRY, 0) + body
