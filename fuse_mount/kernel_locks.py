"""Requests for locks over the kernel transport, and the waits for them.

Owns the threads that wait: a request that must wait does not keep a worker,
because the holder of the lock may need that worker to let go of it.
"""

from __future__ import annotations

import abc
import errno
import struct
import threading
from collections.abc import Sequence
from typing import TypeAlias

from fuse_mount.handles import OpenFiles
from fuse_mount.locking import Wanted
from fuse_mount.nodes import Node
from fuse_mount.protocol import Request, invalidate_inode

__all__ = ["LATER", "Answer", "Fields", "LockRequests"]

Answer: TypeAlias = bytes | Sequence[bytes] | None
Fields: TypeAlias = tuple[int, ...]

LATER: tuple[bytes, ...] = (b"later",)
"""In the place of an answer: another thread will give it."""

_GIVEN_UP_MAX = 1024
_LOCK_PAUSES_S = (0.001, 0.05)


class LockRequests(abc.ABC):
    """The part of a connection that deals with locks."""

    def __init__(self, tree: OpenFiles) -> None:
        self.tree = tree
        self.ended = threading.Event()
        # Both under the lock: whoever gives up between two looks must be seen by one.
        self._giving_up = threading.Lock()
        self._waiting: set[int] = set()
        self._given_up: dict[int, None] = {}

    @abc.abstractmethod
    def reply(self, unique: int, error_number: int, answer: Answer) -> None:
        """Answer one request."""

    @abc.abstractmethod
    def notify(self, message: bytes) -> None:
        """Send a notification to the kernel."""

    def _look_anew(self, node: Node) -> None:
        """Let the kernel forget what it remembers of a file that was just locked.

        The lock was waited for while another mount changed the file, perhaps
        without any change of its size and within one tick of its time.
        """
        self.notify(invalidate_inode(node.id))

    def give_up(self, unique: int) -> None:
        """Whoever made this request no longer waits.

        Only a wait for a lock can be long; everything else ends by itself.
        """
        with self._giving_up:
            # Its request may still be on its way, in the hands of another worker.
            self._given_up[unique] = None
            if len(self._given_up) > _GIVEN_UP_MAX:
                oldest = next(
                    (each for each in self._given_up if each not in self._waiting), unique
                )
                del self._given_up[oldest]

    def _waits(self, unique: int) -> None:
        with self._giving_up:
            self._waiting.add(unique)

    def _waits_no_more(self, unique: int) -> None:
        with self._giving_up:
            self._waiting.discard(unique)
            self._given_up.pop(unique, None)

    def _getlk(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        node = self.tree.nodes.get(request.node)
        found = self.tree.test_lock(node, fields[1], _wanted(fields))
        return struct.pack("=QQII", found.start, found.end, found.kind, 0)

    def _setlk(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        node, wanted = self._asked(request, fields)
        self.tree.lock(node, fields[1], wanted)
        self._look_anew(node)
        return None

    def _asked(self, request: Request, fields: Fields) -> tuple[Node, Wanted]:
        wanted = _wanted(fields)
        if not wanted.is_flock:
            self.tree.note_locker(fields[0], fields[1])
        return self.tree.nodes.get(request.node), wanted

    def _setlkw(self, request: Request, fields: Fields, rest: memoryview) -> Answer:
        node, wanted = self._asked(request, fields)
        # Before the first try: an interrupt may come while it is made.
        self._waits(request.unique)
        try:
            if self._taken(node, fields[1], wanted):
                self._waits_no_more(request.unique)
                return None
            # Whoever waits must not keep a worker: the holder may need it to unlock.
            waiter = threading.Thread(
                target=self._wait_for_lock,
                args=(request.unique, node, fields[1], wanted),
                daemon=True,
            )
            waiter.start()
        except BaseException:
            self._waits_no_more(request.unique)
            raise
        return LATER

    def _taken(self, node: Node, owner: int, wanted: Wanted) -> bool:
        """Take a lock; False when somebody else has it."""
        try:
            self.tree.lock(node, owner, wanted)
        except OSError as error:
            if self.tree.locks.is_taken(error):
                return False
            raise
        self._look_anew(node)
        return True

    def _wait_for_lock(self, unique: int, node: Node, owner: int, wanted: Wanted) -> None:
        pause, longest = _LOCK_PAUSES_S
        number = errno.EINTR
        while unique not in self._given_up and not self.ended.wait(pause):
            pause = min(pause * 2, longest)
            try:
                if self._taken(node, owner, wanted):
                    number = 0
                    break
            except OSError as error:
                number = error.errno or errno.EIO
                break
        self._waits_no_more(unique)
        self.reply(unique, number, None)


def _wanted(fields: Fields) -> Wanted:
    _, _, start, end, kind, _, flags, _ = fields
    return Wanted(start, end, kind, bool(flags & 1))
