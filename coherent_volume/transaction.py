"""Transactions: several artifacts read and written as if at one moment, or not at all.

Owns what one transaction has read and what it wants to become of it. Nothing is
locked while it runs and no peer sees anything of it. Its reads agree with one
another: each is checked against all before it, and raises as soon as they no
longer fit together. Leaving the block judges everything again, under one gate:
whatever was read (the absence of a name included) must still be as it was, so
transactions are serializable. The commit point is the COMMIT inside
``commit.commit``: one for all members. Upholds I1, I3, I4 and I6 for each.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from coherent_volume.commit import commit
from coherent_volume.drafts import discard, stage_early
from coherent_volume.errors import (
    AlreadyExistsError,
    BusyError,
    ClosedError,
    ConflictError,
    FencedError,
    NotFoundError,
    NotObservedError,
    UsageError,
)
from coherent_volume.files import CHUNK, chunks_of
from coherent_volume.judgement import Expectation, Intent
from coherent_volume.model import ABSENT_DIGEST, ArtifactKey, Commit
from coherent_volume.operations import TURN_WAIT_S, as_bytes, pause
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import PathArgument, shown
from coherent_volume.reading import record
from coherent_volume.records import SeenRow
from coherent_volume.snapshot import Member, Snapshot
from coherent_volume.views import hand_over

__all__ = ["Transaction", "transact"]

T = TypeVar("T")


class Transaction:
    """Reads and writes of several artifacts: all of it, or nothing. A context manager.

    Leaving the block commits; an exception discards. ``commits`` then holds a
    Commit for each artifact that was written. Inside, reads see what the
    transaction itself wrote. For one thread, and used once.
    """

    def __init__(
        self,
        parts: VolumeParts,
        resolve: Callable[[PathArgument], ArtifactKey],
        *,
        renew: bool = True,
        keep_refused: bool = True,
        finished: Callable[[], None] = lambda: None,
    ) -> None:
        self.commits: tuple[Commit, ...] = ()
        self._parts = parts
        self._resolve = resolve
        self._renew = renew
        self._keep_refused = keep_refused
        self._finished = finished
        self._snapshot = Snapshot(parts)
        self._process = os.getpid()
        self._open: bool | None = None  # not entered yet

    def __enter__(self) -> Self:
        if self._open is not None:
            raise UsageError("a transaction is used once; begin another one")
        self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._check_open()
        self._open = False
        try:
            if kind is None:
                self.commits = tuple(self._commit())
            else:
                discard(self._parts, self._intents())
        finally:
            self._snapshot.members.clear()
            self._finished()

    # ── reading ──────────────────────────────────────────────────────────────

    def read(self, path: PathArgument) -> bytes:
        """The content as this transaction has it; the same bytes each time.

        Raises NotFoundError (the absence counts as read), and ConflictError when
        what was read before has changed.
        """
        member = self._member(path)
        with self._content(member) as content:
            return content if isinstance(content, bytes) else b"".join(content)

    def read_text(self, path: PathArgument, encoding: str = "utf-8") -> str:
        """As ``read``, decoded."""
        return self.read(path).decode(encoding)

    def read_to(self, path: PathArgument, sink: BinaryIO) -> None:
        """As ``read``, written to *sink* in chunks."""
        member = self._member(path)
        if member.intent is not None or member.found is not None:
            with self._content(member) as content:
                sink.writelines([content] if isinstance(content, bytes) else content)
            return
        before = self._parts.sidecar.newest()
        self._snapshot.note(member, hand_over(self._parts, member.key, sink), before)
        self._deliver(member)

    def exists(self, path: PathArgument) -> bool:
        """Whether there is such an artifact; the answer counts as read."""
        return self._exists(self._member(path))

    # ── writing ──────────────────────────────────────────────────────────────

    def write(self, path: PathArgument, data: str | bytes) -> None:
        """Let *data* become the next generation of *path*; the last write counts.

        It claims what the transaction read of it; without that, what the session saw.
        """
        self._write(self._member(path), as_bytes(data))

    def write_from(self, path: PathArgument, source: BinaryIO) -> None:
        """As ``write``, with the content read from *source* in chunks, now."""
        self._write(self._member(path), iter(lambda: source.read(CHUNK), b""))

    def create(self, path: PathArgument, data: str | bytes) -> None:
        """Let *data* become a new artifact; AlreadyExistsError when the name is taken."""
        content = as_bytes(data)
        member = self._member(path)
        self._refuse_existing(member)
        self._put(member, "create", content)

    def create_from(self, path: PathArgument, source: BinaryIO) -> None:
        """As ``create``, with the content read from *source* in chunks, now."""
        member = self._member(path)
        self._refuse_existing(member)
        self._put(member, "create", iter(lambda: source.read(CHUNK), b""))

    def append(self, path: PathArgument, data: str | bytes) -> None:
        """Let *data* stand at the end of *path*; what stands before counts as read."""
        tail = as_bytes(data)
        member = self._member(path)
        if not self._exists(member):
            self._put(member, "append", tail)
            return
        with self._content(member, deliver=False) as content:
            whole: bytes | Iterable[bytes]
            whole = content + tail if isinstance(content, bytes) else _chain(content, tail)
            self._put(member, "append", whole)

    def update(self, path: PathArgument, function: Callable[[bytes], bytes | str]) -> None:
        """Write ``function(read(path))``; on a conflict the whole transaction is refused."""
        self.write(path, function(self.read(path)))

    def delete(self, path: PathArgument) -> None:
        """Let *path* be deleted; it claims the same as a write."""
        member = self._member(path)
        if (member.intent is not None or member.found is not None) and not self._exists(member):
            raise self._not_found(member)
        self._remove(member, "delete")

    def rename(self, source: PathArgument, target: PathArgument) -> None:
        """Let *source* move to the free name *target*, with its mode and owner."""
        old, new = self._member(source), self._member(target)
        if old is new:
            raise UsageError("source and target are the same", path=shown(old.key))
        if not self._exists(old):
            raise self._not_found(old)
        self._refuse_existing(new)
        with self._content(old, deliver=False) as content:
            self._put(new, "rename", content, attributes_of=old.key)
        self._remove(old, "rename")

    # ── members ──────────────────────────────────────────────────────────────

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError("the transaction is not open", advice="Use it in its with-block.")
        if os.getpid() != self._process:
            raise ClosedError("a transaction belongs to the process that began it")

    def _member(self, path: PathArgument) -> Member:
        self._check_open()
        key = self._resolve(path)
        return self._snapshot.members.setdefault(key, Member(key))

    def _intents(self) -> list[Intent]:
        return [m.intent for m in self._snapshot.members.values() if m.intent is not None]

    def _deliver(self, member: Member) -> None:
        """The program has the content, or knows that there is none."""
        member.delivered = True
        reading = self._snapshot.find(member)
        if self._renew:
            record(self._parts, member.key, reading)
        if not reading.exists:
            raise self._not_found(member)

    def _exists(self, member: Member) -> bool:
        if member.intent is not None:
            return member.intent.content is not None
        return self._snapshot.find(member).exists

    @contextlib.contextmanager
    def _content(
        self, member: Member, *, deliver: bool = True
    ) -> Iterator[bytes | Iterable[bytes]]:
        """The content as the transaction has it, during the block."""
        if member.intent is not None:
            with self._own_content(member, member.intent) as own:
                yield own
            return
        found = self._snapshot.find(member)
        if deliver:
            self._deliver(member)
        with self._snapshot.content(member, found) as content:
            yield content

    @contextlib.contextmanager
    def _own_content(self, member: Member, intent: Intent) -> Iterator[bytes | Iterable[bytes]]:
        if intent.content is None:
            raise self._not_found(member)
        if intent.staged is None:
            yield intent.content
            return
        descriptor = self._parts.staging.open_stage(intent.staged.stage)
        try:
            yield chunks_of(descriptor)
        finally:
            os.close(descriptor)

    def _base(self, member: Member, kind: str) -> SeenRow | None:
        """What a change of *member* claims to have seen."""
        if member.found is not None and (member.delivered or kind in ("append", "create")):
            return member.found.seen
        # A rename hands nobody the content: it claims the session's view.
        return self._parts.session.seen(member.key)

    def _write(self, member: Member, content: bytes | Iterable[bytes]) -> None:
        if member.intent is None and self._base(member, "write") is None:
            # Whether the name is free is read: a deletion of it later in this
            # transaction must know whether anything was there.
            self._snapshot.find(member)
        created = member.intent is not None and member.intent.expectation is Expectation.ABSENT
        self._put(member, "create" if created else "write", content)

    def _put(
        self,
        member: Member,
        kind: str,
        content: bytes | Iterable[bytes],
        attributes_of: ArtifactKey | None = None,
    ) -> None:
        old = member.intent
        new_name = old is None and kind in ("create", "rename")
        keeps = old is not None and old.expectation is Expectation.ABSENT
        intent = Intent(
            member.key,
            kind,
            content,
            Expectation.ABSENT if new_name or keeps else Expectation.SEEN,
            self._base(member, kind),
            renews_view=self._renew and kind != "append",
            keep_refused=self._keep_refused,
            attributes_of=attributes_of,
        )
        if not isinstance(content, bytes) or len(content) > self._parts.staging.inline_max:
            stage_early(self._parts, intent)
            intent.content = b""  # it is in staging: nobody needs it in memory
        member.intent = intent
        if old is not None:
            discard(self._parts, [old])

    def _remove(self, member: Member, kind: str) -> None:
        old = member.intent
        if old is not None:
            discard(self._parts, [old])
        nothing_there = member.found is not None and not member.found.exists
        if old is not None and (
            nothing_there or (old.base is not None and old.base.digest == ABSENT_DIGEST)
        ):
            member.intent = None  # made and removed again: nothing happened
            return
        member.intent = Intent(
            member.key,
            kind,
            None,
            Expectation.SEEN,
            self._base(member, kind),
            renews_view=self._renew,
        )

    def _refuse_existing(self, member: Member) -> None:
        if not self._exists(member):
            return
        at = member.found.seen.generation if member.found is not None else None
        raise AlreadyExistsError("exists already", path=shown(member.key), current=at)

    def _not_found(self, member: Member) -> NotFoundError:
        generation = member.found.seen.generation if member.found is not None else None
        return NotFoundError("no such artifact", path=shown(member.key), generation=generation)

    # ── the end ──────────────────────────────────────────────────────────────

    def _commit(self) -> list[Commit]:
        intents = self._intents()
        if intents:
            return commit(self._parts, intents, self._snapshot.unclaimed())
        self._snapshot.judge()
        return []


def _chain(content: Iterable[bytes], tail: bytes) -> Iterator[bytes]:
    yield from content
    yield tail


def transact(
    parts: VolumeParts,
    begin: Callable[[bool], Transaction],
    function: Callable[[Transaction], T],
    retries: int,
) -> T:
    """What *function* returns, its transaction committed; called again on a conflict.

    *begin* is told whether a refusal keeps the refused content: the last try.
    After a conflict it stands in the queue of those who update the artifact in
    question, one queue at a time, so that waiting cannot be circular.
    """
    if retries < 0:
        raise UsageError("retries must not be negative")
    contended: str | None = None
    for tried in range(retries + 1):
        with contextlib.ExitStack() as stack:
            if contended is not None:
                with contextlib.suppress(BusyError):
                    turn = parts.turn(os.fsencode(contended))
                    stack.enter_context(turn.held(TURN_WAIT_S))
            try:
                with begin(tried == retries) as transaction:
                    answer = function(transaction)
            except (FencedError, AlreadyExistsError, NotObservedError):
                raise  # the same call would end the same way
            except ConflictError as error:
                # A commit that an outside edit raced stands: never a second time.
                if tried == retries or error.fields.get("committed") is not None:
                    raise
                contended = error.path
            else:
                return answer
        pause(tried)
    raise AssertionError("the last try returns or raises")  # pragma: no cover
