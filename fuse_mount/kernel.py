"""The kernel transport: requests of /dev/fuse to calls of the tree, and back.

Owns the device: the handshake, the worker threads, the answers, and the
notifications to the kernel. Decides nothing: what an operation means is the
tree's. Every request is answered exactly once, whatever happens while it is
served; a message that cannot be decoded is answered with EIO.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import threading
from collections.abc import Callable

from fuse_mount import protocol
from fuse_mount.handles import Handle, OpenFiles
from fuse_mount.kernel_locks import LATER, Answer, Fields, LockRequests
from fuse_mount.nodes import no_such
from fuse_mount.passthrough import DIRECT_IO, KEEP_CACHE, NO_FLUSH, Passthrough
from fuse_mount.protocol import Init, Opcode, ProtocolError, Request
from fuse_mount.tree import Caller, Change
from fuse_mount.workers import Workers

__all__ = ["Connection"]

_log = logging.getLogger("coherent_volume")

_MAX_WRITE = 1 << 20
_FLOCK_UNLOCK = 2
_MAPS_DIRECT, _PASSTHROUGH = 1 << 36, 1 << 37
_OPEN_DROPS_BITS, _WRITE_DROPS_BITS = 1, 4
_WRITES_PAGE = 1

# Asynchronous reads, locks of both kinds, O_TRUNC within open, large writes, content dropped when a
# file's time or size changed, parallel operations in one directory, an error of
# its own for an aborted connection, many pages a request, cached link targets,
# set-user-id bits dropped by us (a write would cost one more request otherwise),
# mappings of files whose writes all come to us, passthrough.
_WANTED = sum(1 << bit for bit in (0, 1, 3, 5, 10, 12, 15, 18, 21, 22, 23, 28))
_WANTED |= _MAPS_DIRECT | _PASSTHROUGH

_NOBODY_WAITS = contextlib.suppress(OSError)  # ENOENT: the asker is gone
_NO_ANSWER = (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT)


class Connection(LockRequests):
    """One mount's device, served until it is unmounted."""

    def __init__(self, device: int, tree: OpenFiles) -> None:
        super().__init__(tree)
        self.device = device
        self.passthrough = Passthrough(device)
        self._maps_direct = False
        if tree is not None:
            tree.nodes.gone = self.passthrough.let_go
        self.started = threading.Event()
        self._serve: dict[int, Callable[[Request, Fields, memoryview], Answer]] = {
            Opcode[name.upper()]: getattr(self, f"_{name}")
            for name in (
                *("lookup", "getattr", "setattr", "readlink", "symlink", "mknod", "mkdir"),
                *("unlink", "rmdir", "rename", "rename2", "link", "open", "read", "write"),
                *("statfs", "release", "fsync", "setxattr", "getxattr", "listxattr"),
                *("removexattr", "flush", "init", "opendir", "readdir", "releasedir"),
                *("fsyncdir", "create", "fallocate", "lseek", "copy_file_range"),
                *("getlk", "setlk", "setlkw"),
                *("forget", "batch_forget", "interrupt", "destroy", "syncfs"),
            )
        }

    # ── the loop ─────────────────────────────────────────────────────────────

    def serve(self) -> None:
        """Answer requests until the file system is unmounted or aborted."""
        Workers(self._take, self._answer, protocol.is_short, _MAX_WRITE + 4096, self.ended).run()

    def _take(self, buffer: bytearray) -> int:
        """The next request; 0 when there will be none."""
        while not self.ended.is_set():
            try:
                return os.readv(self.device, [buffer])
            except OSError as error:
                if error.errno not in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    break  # ENODEV: unmounted. ENOENT: the request was taken back
        return 0

    def _answer(self, message: memoryview) -> None:
        try:
            request = protocol.request(message)
        except ProtocolError as error:
            _log.warning("the kernel sent what cannot be read: %s", error)
            return
        error_number, answer = self._served(request)
        if request.opcode not in _NO_ANSWER and answer is not LATER:
            self.reply(request.unique, error_number, answer)

    def reply(self, unique: int, error_number: int, answer: Answer) -> None:
        """Answer one request."""
        parts = () if answer is None else (answer,) if isinstance(answer, bytes) else answer
        header = protocol.reply_header(unique, error_number, sum(map(len, parts)))
        with _NOBODY_WAITS:
            os.writev(self.device, (header, *parts))

    def _served(self, request: Request) -> tuple[int, Answer]:
        act = self._serve.get(request.opcode)
        if act is None:
            return errno.ENOSYS, None
        try:
            fields, rest = protocol.parse(request.opcode, request.body)
            return 0, act(request, fields, rest)
        except OSError as error:
            return error.errno or errno.EIO, None
        except ProtocolError as error:
            _log.warning("request %d: %s", request.opcode, error)
            return errno.EIO, None
        except (OverflowError, ValueError, struct.error) as error:
            # A number or a name that the system calls do not take.
            _log.warning("request %d: %s", request.opcode, error)
            return errno.EINVAL, None
        except Exception:  # noqa: BLE001 - whoever asked must be answered
            _log.exception("request %d failed", request.opcode)
            return errno.EIO, None

    def notify(self, message: bytes) -> None:
        """Send a notification; that the kernel knows nothing of its subject is no error."""
        with contextlib.suppress(OSError):
            os.write(self.device, message)

    # ── life ─────────────────────────────────────────────────────────────────

    def _init(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        offer = Init(*fields)
        if offer.major != 7 or offer.minor < 23:
            raise no_such(errno.EPROTO)
        agreed = offer.flags & _WANTED
        self.passthrough.is_agreed = bool(agreed & _PASSTHROUGH)
        self._maps_direct = bool(agreed & _MAPS_DIRECT)
        self.started.set()
        return protocol.init_reply(offer, agreed, _MAX_WRITE)

    def _destroy(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        return None

    def _interrupt(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        self.give_up(fields[0])
        return None

    def _syncfs(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        return None

    def _forget(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        self.tree.forget(request.node, fields[0])
        return None

    def _batch_forget(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        size = fields[0] * 16
        if len(rest) < size:
            raise ProtocolError(f"{fields[0]} nodes in {len(rest)} bytes")
        for node, count in struct.iter_unpack("=QQ", rest[:size]):
            self.tree.forget(node, count)
        return None

    # ── names ────────────────────────────────────────────────────────────────

    def _lookup(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        (name,) = protocol.names(rest, 1)
        return protocol.entry_reply(self.tree.lookup(self.tree.nodes.get(request.node), name))

    def _getattr(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        return protocol.attr_reply(*self.tree.getattr(self.tree.nodes.get(request.node)))

    def _setattr(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _ = fields[:11]
        change = Change(
            valid,
            handle,
            size,
            _signed(atime) * 10**9 + atime_ns,
            _signed(mtime) * 10**9 + mtime_ns,
            fields[11],
            fields[13],
            fields[14],
        )
        node = self.tree.nodes.get(request.node)
        return protocol.attr_reply(*self.tree.setattr(_caller(request), node, change))

    def _readlink(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        return self.tree.readlink(self.tree.nodes.get(request.node))

    def _symlink(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        name, target = protocol.names(rest, 2)
        parent = self.tree.nodes.get(request.node)
        return protocol.entry_reply(self.tree.symlink(_caller(request), parent, name, target))

    def _mknod(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        (name,) = protocol.names(rest, 1)
        parent = self.tree.nodes.get(request.node)
        entry = self.tree.mknod(_caller(request), parent, name, fields[0], fields[1])
        return protocol.entry_reply(entry)

    def _mkdir(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        (name,) = protocol.names(rest, 1)
        parent = self.tree.nodes.get(request.node)
        return protocol.entry_reply(self.tree.mkdir(_caller(request), parent, name, fields[0]))

    def _unlink(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        (name,) = protocol.names(rest, 1)
        self.tree.unlink(_caller(request), self.tree.nodes.get(request.node), name)
        return None

    def _rmdir(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        (name,) = protocol.names(rest, 1)
        self.tree.rmdir(_caller(request), self.tree.nodes.get(request.node), name)
        return None

    def _rename(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        return self._rename2(request, (fields[0], 0, 0), rest)

    def _rename2(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        old, new = protocol.names(rest, 2)
        source, target = self.tree.nodes.get(request.node), self.tree.nodes.get(fields[0])
        self.tree.rename(_caller(request), (source, old), (target, new), fields[1])
        return None

    def _link(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        (name,) = protocol.names(rest, 1)
        node, parent = self.tree.nodes.get(fields[0]), self.tree.nodes.get(request.node)
        return protocol.entry_reply(self.tree.link(_caller(request), node, parent, name))

    def _statfs(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        return protocol.statfs_reply(self.tree.statfs())

    # ── open files ───────────────────────────────────────────────────────────

    def _open(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        node = self.tree.nodes.get(request.node)
        return self._opened(self.tree.open(_caller(request), node, fields[0]), fields[1])

    def _opened(self, number: int, drops: int) -> bytes:
        """The answer to an open, or nothing is open: the kernel would not close it."""
        handle = self.tree.handle(number)
        try:
            if drops & _OPEN_DROPS_BITS:
                self.tree.drop_bits(number)
            return self._way_of(number, handle)
        except BaseException:
            self.passthrough.released(handle)
            self.tree.release(number)
            raise

    def _way_of(self, number: int, handle: Handle) -> bytes:
        flags, backing = self.passthrough.way_of(handle)
        if handle.writable:
            if self._maps_direct and not flags and handle.extra is not None:
                # Each write comes to us at once anyway; so it does without a copy in
                # the page cache and without a question about capabilities before it.
                flags = DIRECT_IO
            return protocol.open_reply(number, flags, backing)
        if not flags and self.tree.keeps_cache(number):
            flags = KEEP_CACHE
        if not self.tree.locks.any():
            # Nothing can happen at the close of a reader but the end of its locks.
            handle.lockers = set()
            flags |= NO_FLUSH
        return protocol.open_reply(number, flags, backing)

    def _create(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        (name,) = protocol.names(rest, 1)
        parent = self.tree.nodes.get(request.node)
        entry, number = self.tree.create(_caller(request), parent, name, fields[0], fields[1])
        try:
            return protocol.entry_reply(entry), self._opened(number, fields[3])
        except BaseException:
            self.tree.forget(entry.node, 1)  # the kernel never hears of it
            raise

    def _read(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        return self.tree.read(fields[0], fields[1], fields[2])

    def _write(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        handle, offset, size = fields[:3]
        if len(rest) < size:
            raise ProtocolError("a write brings less than it says")
        is_page = bool(fields[3] & _WRITES_PAGE)
        written = self.tree.write(_caller(request), handle, offset, rest[:size], is_page=is_page)
        if fields[3] & _WRITE_DROPS_BITS:
            self.tree.drop_bits(handle)
        return struct.pack("=II", written, 0)

    def _flush(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        self.tree.unlock_all(self.tree.nodes.get(request.node), fields[3], is_flock=False)
        self.tree.flush(_caller(request), fields[0])
        return None

    def _release(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        if fields[2] & _FLOCK_UNLOCK:
            self.tree.unlock_all(self.tree.nodes.get(request.node), fields[3], is_flock=True)
        self.passthrough.released(self.tree.handle(fields[0]))
        self.tree.release(fields[0])
        return None

    def _fsync(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        self.tree.fsync(fields[0], bool(fields[1] & 1))
        return None

    def _fallocate(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        handle, offset, length, mode, _ = fields
        self.tree.fallocate(_caller(request), handle, mode, offset, length)
        if request.uid != 0:
            self.tree.drop_bits(handle)
        return None

    def _lseek(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        return struct.pack("=Q", self.tree.lseek(fields[0], fields[1], fields[2]))

    def _copy_file_range(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        source, source_at, _, target, target_at, size, _ = fields
        done = self.tree.copy_range(
            _caller(request), (source, source_at), (target, target_at), size
        )
        if request.uid != 0:
            self.tree.drop_bits(target)
        return struct.pack("=II", done, 0)

    # ── directories ──────────────────────────────────────────────────────────

    def _opendir(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        return protocol.open_reply(self.tree.opendir(self.tree.nodes.get(request.node)))

    def _readdir(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        handle, offset, room = fields[:3]
        packed: list[bytes] = []
        for name, inode, kind in self.tree.readdir(handle, offset):
            offset += 1
            entry = protocol.dirent(inode, offset, kind, name)
            room -= len(entry)
            if room < 0:
                break
            packed.append(entry)
        return b"".join(packed)

    def _releasedir(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        self.tree.releasedir(fields[0])
        return None

    def _fsyncdir(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        self.tree.fsyncdir(self.tree.nodes.get(request.node))
        return None

    # ── extended attributes ──────────────────────────────────────────────────

    def _setxattr(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        size, flags = fields
        (name,) = protocol.names(rest, 1)
        value = bytes(rest[len(name) + 1 :])
        if len(value) < size:
            raise ProtocolError("an attribute brings less than it says")
        self.tree.setxattr(self.tree.nodes.get(request.node), name, value[:size], flags)
        return None

    def _getxattr(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        (name,) = protocol.names(rest, 1)
        return _sized(self.tree.getxattr(self.tree.nodes.get(request.node), name), fields[0])

    def _listxattr(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        found = self.tree.listxattr(self.tree.nodes.get(request.node))
        return _sized(b"".join(name + b"\0" for name in found), fields[0])

    def _removexattr(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        (name,) = protocol.names(rest, 1)
        self.tree.removexattr(self.tree.nodes.get(request.node), name)
        return None


def _caller(request: Request) -> Caller:
    return Caller(request.uid, request.gid, request.pid)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _sized(value: bytes, room: int) -> bytes:
    """*value*, or only its size when no room was given for it."""
    if room == 0:
        return struct.pack("=II", len(value), 0)
    if len(value) > room:
        raise no_such(errno.ERANGE)
    return value
