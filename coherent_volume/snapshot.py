"""Snapshots: what one transaction has read, and the proof that it fits together.

Owns the members of a transaction and their first readings. Each new one is
proved against all before it: they were all current at one moment, as far as is
recorded. An outside edit that nobody has adopted yet is found at the end.
Changes nothing and locks nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from coherent_volume.drafts import typed
from coherent_volume.files import CHUNK, proven_chunks
from coherent_volume.gating import settled_heads
from coherent_volume.judgement import Intent, judge_seen
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts
from coherent_volume.reading import Reading, read, reading_open
from coherent_volume.records import SeenRow

__all__ = ["Member", "Snapshot"]

_REMEMBERED_MAX = CHUNK
"""Bytes of one artifact that are remembered for a second read of it."""


@dataclass(slots=True, eq=False)
class Member:
    """One artifact's part: what was found of it, and what is to become of it.

    ``delivered`` says that the program was handed the content, and not only
    the transaction itself for an append or a rename.
    """

    key: ArtifactKey
    found: Reading | None = None
    delivered: bool = False
    intent: Intent | None = None


class Snapshot:
    """The artifacts that one transaction has to do with, by key."""

    def __init__(self, parts: VolumeParts) -> None:
        self._parts = parts
        self.members: dict[ArtifactKey, Member] = {}
        # The newest commit of the volume when everything read was last proved.
        self._newest = -1

    def find(self, member: Member) -> Reading:
        """What is there apart from the transaction's own writes; looked up once."""
        if member.found is None:
            before = self._parts.sidecar.newest()
            self.note(member, read(self._parts, member.key), before)
        assert member.found is not None  # noqa: S101 - noted just now
        return member.found

    def note(self, member: Member, reading: Reading, before: int) -> None:
        """Remember a first reading; raise ConflictError unless it fits those before it.

        *before* is the number of the newest commit before the reading.
        """
        if reading.data is not None and len(reading.data) > _REMEMBERED_MAX:
            reading.data = None
        member.found = reading
        if self._newest < 0:
            self._newest = before
        self._prove()

    def _prove(self) -> None:
        sidecar = self._parts.sidecar
        newest = sidecar.newest()
        if newest == self._newest:
            return  # nobody committed anything since the last proof
        found = {m.key: m.found.seen for m in self.members.values() if m.found is not None}
        heads = sidecar.heads(list(found))
        for key, seen in found.items():
            head = heads.get(key)
            if head is not None and (head.digest, head.epoch) != (seen.digest, seen.epoch):
                self._judge([(key, seen)])
        self._newest = newest

    @contextlib.contextmanager
    def content(self, member: Member, found: Reading) -> Iterator[bytes | Iterable[bytes]]:
        """The content that was *found*, during the block; large content as chunks."""
        if found.data is not None:
            yield found.data
            return
        while True:
            with reading_open(self._parts, member.key) as (reading, look):
                if reading.seen.digest == found.seen.digest:
                    yield look.data if look.data is not None else proven_chunks(member.key, look)
                    return
            self._judge([(member.key, found.seen)])

    def unclaimed(self) -> list[tuple[ArtifactKey, SeenRow]]:
        """What was read and is not the base of a write."""
        return [
            (m.key, m.found.seen)
            for m in self.members.values()
            if m.found is not None and (m.intent is None or m.intent.base != m.found.seen)
        ]

    def judge(self) -> None:
        """Raise ConflictError unless everything read is current now, under one gate."""
        claims = self.unclaimed()
        if claims:
            self._judge(claims)

    def _judge(self, claims: list[tuple[ArtifactKey, SeenRow]]) -> None:
        keys = [key for key, _ in claims]
        with typed(self._parts, keys[0]), settled_heads(self._parts, keys) as heads:
            for (_, seen), head in zip(claims, heads, strict=True):
                judge_seen(self._parts, seen, head)
