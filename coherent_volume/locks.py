"""Locks of the operating system, each with its reason.

``FairLock`` is the gate and the turns: raw flock, because it is on the path of
every commit (1.4 µs a pair; portalocker 65, filelock 168) and because the
kernel queues its waiters first come, first served. ``Presence`` proves that a
session's process lives: the kernel drops it with the process, at once, whatever
killed it. ``lifecycle_lock`` keeps two processes from creating or repairing
one volume together.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from coherent_volume.descriptors import dismiss, no_fork, opened
from coherent_volume.errors import BusyError, StorageError
from coherent_volume.identity import describe_holder_of_lock
from coherent_volume.lock_waiter import Waiter as _Waiter
from coherent_volume.weak import members

__all__ = ["GATE_WAIT_S", "FairLock", "LeaseHold", "Presence", "is_present", "lifecycle_lock"]

_CLOSE_WAIT_S = 1.0
_CONTENT = b"A lock of the volume: while anybody uses it, deleting it makes two of it.\n"
_blocks = itertools.count(1)
GATE_WAIT_S = 10.0
"""How long a writer waits for the gate before it is told who holds it."""


class FairLock:
    """An exclusive lock between processes, and between this process's threads.

    Waiting is first come, first served in the kernel, and bounded. The lock is
    free at once when its holder dies.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # Threads pass a shared descriptor's flock, so they queue here first.
        self._mutex = _mutex()
        # Which with-block holds it; see _Held.
        self._block = 0
        self._descriptor = -1
        # Which file that is: one that was deleted is a lock that no peer can see.
        self._identity = (0, 0)
        self._waiter: _Waiter | None = None
        _all_locks.add(self)

    def acquire(self, timeout_s: float, block: int = 0) -> None:
        """Take the lock, or raise BusyError that names the holder."""
        # Asked of the mutex itself: a signal handler may come right after it was taken
        # and right before it is given back, and would let go of what is not its own.
        if self.is_mine:
            raise BusyError(
                "this thread holds the lock of this volume already",
                advice="Do not use the volume from a signal handler that interrupts it.",
                holder=f"pid {os.getpid()}",
            )
        try:
            if not self._mutex.acquire(timeout=timeout_s):
                raise BusyError(
                    "another thread of this process holds the lock of this volume",
                    holder=f"pid {os.getpid()}",
                )
            self._block = block
            self._obtain(timeout_s)
            while self._is_lost():
                # Deleted by somebody who tidied up; whoever came since locks a new one.
                self._drop()
                self._obtain(timeout_s)
        except BaseException:
            self._let_go()
            raise

    def _obtain(self, timeout_s: float) -> None:
        """Lock the file that has the name at the moment of opening it."""
        if self._descriptor < 0:
            self._descriptor = _open(self._path)
            found = os.fstat(self._descriptor)
            self._identity = (found.st_dev, found.st_ino)
        if self._waiter is None or self._waiter.is_idle():
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return
        self._wait(timeout_s)

    def _is_lost(self) -> bool:
        """Whether the file that we have locked is not the one that peers lock."""
        try:
            found = os.stat(self._path)
        except OSError:
            # Without its directory there is nothing to be protected any more.
            return os.path.isdir(os.path.dirname(self._path))
        return (found.st_dev, found.st_ino) != self._identity

    def _let_go(self) -> None:
        """Release whatever this thread holds: an interrupt may come at any line."""
        if not self._mutex._is_owned():
            return
        if self._waiter is not None and not self._waiter.is_idle():
            self._waiter.withdraw()
        elif self._descriptor >= 0:
            self._unlock()
        self._mutex.release()

    def _unlock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        except OSError:
            # Never told to the caller, whose work is done. Closing the file
            # frees the lock as surely; the next use opens it again.
            self._drop()

    def _drop(self) -> None:
        """Close the file, and free it by that."""
        if self._waiter is not None:
            self._waiter.stop()
            self._waiter = None
        elif self._descriptor >= 0:
            dismiss(self._descriptor)
        self._descriptor = -1

    def _wait(self, timeout_s: float) -> None:
        # flock cannot wait for a bounded time, and polling would lose the
        # place in the kernel's queue; so a thread of its own does the waiting.
        if self._waiter is None:
            self._waiter = _Waiter(self._descriptor)
        if not self._waiter.obtain(timeout_s):
            holder = describe_holder_of_lock(self._descriptor)
            raise BusyError(
                f"the volume is held by {holder} for longer than {timeout_s:g} s",
                advice="Nothing was changed. If that process is stopped, continue or end it.",
                holder=holder,
            )

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds it."""
        return bool(self._mutex._is_owned())

    def release_block(self, block: int) -> None:
        """Let go of what a with-block held that was left by an interrupt."""
        if self.is_mine and self._block == block:
            self._let_go()

    def release(self) -> None:
        """Give the lock to the next in line; nothing in a child forked meanwhile."""
        self._let_go()

    def held(self, timeout_s: float) -> _Held:
        """Hold the lock during a with-block."""
        return _Held(self, timeout_s)

    def close(self) -> None:
        """Let go of the descriptor; the lock can be used again afterwards.

        A lock that another thread (or the very code that closes) still holds is
        left open: waiting for it here could wait for ourselves.
        """
        if not self._mutex.acquire(timeout=_CLOSE_WAIT_S):
            return
        try:
            self._drop()
        finally:
            self._mutex.release()

    def forget_after_fork(self) -> None:
        """Start anew in a forked child."""
        # The child's descriptor is the parent's open file: keeping it would
        # keep a dead parent's lock, so it is closed already (see descriptors).
        # The mutex may be held by a thread that does not exist here, and the
        # waiting thread does not exist either.
        self._descriptor = -1
        self._mutex = _mutex()
        self._waiter = None


def _mutex() -> Any:
    # Reentrant only because such a lock knows its owner, which is what makes
    # it possible to clean up after an interrupt between two lines.
    return threading.RLock()


class _Held:
    """The with-block of a FairLock."""

    # A class and not a generator: an interrupt between the frames of a
    # generator-based manager would leave the lock held for ever. It may come
    # before the first line of __exit__ as well; then the block's end is that of
    # this object, when nobody refers to it any longer.
    __slots__ = ("_block", "_lock", "_timeout_s")

    def __init__(self, lock: FairLock, timeout_s: float) -> None:
        self._lock = lock
        self._timeout_s = timeout_s
        self._block = next(_blocks)

    def __enter__(self) -> None:
        self._lock.acquire(self._timeout_s, self._block)

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __del__(self) -> None:
        block = getattr(self, "_block", 0)  # an interrupt may come before it is made
        if block:
            self._lock.release_block(block)


_all_locks: weakref.WeakSet[FairLock] = weakref.WeakSet()
_all_holds: weakref.WeakSet[LeaseHold] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for lock in members(_all_locks):
        lock.forget_after_fork()
    for hold in members(_all_holds):
        hold.abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _open(path: str) -> int:
    try:
        descriptor = opened(path, os.O_RDWR | os.O_CREAT)
        # Not empty: who tidies up deletes empty files.
        with contextlib.suppress(OSError):
            if not os.fstat(descriptor).st_size:
                os.pwrite(descriptor, _CONTENT, 0)
        return descriptor
    except OSError as error:
        raise StorageError(
            f"could not open the lock file: {error.strerror}", step="lock", errno=error.errno
        ) from error


class Presence:
    """A lock file that says: this process lives. Free when it dies."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        draft = f"{path}.new"
        self._descriptor = opened(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            # Locked before it bears its name: a peer that found it unlocked
            # would take us for dead and clean up what we have staged.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._descriptor, text.encode())
            os.rename(draft, path)
        except BaseException:
            dismiss(self._descriptor)
            raise

    def withdraw(self) -> None:
        """End the presence and remove its file."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        dismiss(self._descriptor)


def is_present(path: str) -> bool:
    """Whether the process behind a presence file lives; in doubt it does.

    Whoever is taken for dead has its stages collected, so only a lock that we
    could take ourselves (or a file that is gone) proves it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class LeaseHold:
    """A locked file that says: the holder of this lease lives."""

    def __init__(self, path: str) -> None:
        # Imported here: 40 ms, and only those who lease need it.
        import portalocker

        self.name = os.path.basename(path)
        self._path = path
        self._lock = portalocker.Lock(
            path, mode="a", flags=portalocker.LOCK_EX | portalocker.LOCK_NB, timeout=0
        )
        # Entered as itself: its file object would close the number once more.
        with no_fork:
            self._lock.acquire()
            _all_holds.add(self)

    def abandon(self) -> None:
        """Close the inherited lock in a forked child; the parent keeps it."""
        if self._lock.fh is not None:
            self._lock.fh.close()

    def release(self) -> None:
        """End the hold and remove its file."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        with no_fork:
            self._lock.release()
            _all_holds.discard(self)


@contextlib.contextmanager
def lifecycle_lock(path: str, timeout_s: float = GATE_WAIT_S) -> Iterator[None]:
    """Be the only one who creates, migrates or repairs the volume."""
    import filelock

    try:
        with filelock.FileLock(path, timeout=timeout_s):
            yield
    except filelock.Timeout:
        raise BusyError(
            "another process is creating or repairing this volume", holder="another process"
        ) from None
