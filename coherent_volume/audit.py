"""Auditing a volume: its own log against the invariants.

Owns the judgement of what the records say about the past: that each artifact's
generations are one chain, that nobody remembers more than the chain holds, that
commits of several artifacts are whole. Repairs nothing, and adopts nothing: a
foreign edit that no visitor has met yet is no finding.

What sessions and events remember is read first, then artifact after artifact,
each at one moment, then contents and files. Numbers and epochs only grow, so what
was remembered earlier must still be there. Whatever then seems wrong is looked at
again under the gate, so that a commit in between is none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from coherent_volume import facts
from coherent_volume.answers import AuditFinding, AuditReport
from coherent_volume.attributes import Witness
from coherent_volume.database import Reader
from coherent_volume.digest import digest_of, digest_of_chunks, row_checksum
from coherent_volume.errors import CoherenceError
from coherent_volume.facts import Facts, Generation, Remembered
from coherent_volume.files import WriterPresent, chunks_of, look
from coherent_volume.inventory import managed_files
from coherent_volume.locks import GATE_WAIT_S
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.records import artifact_checksum

__all__ = ["audit"]

Progress = Callable[[int, int], None]
Broken = tuple[str, str]
"""The invariant, and how it is broken."""


def audit(parts: VolumeParts, progress: Progress | None = None) -> AuditReport:
    """Everything in the volume that breaks an invariant; nothing is changed."""
    parts.sidecar.database.verify()
    with facts.moment(parts.sidecar.database) as read:
        recorded = facts.artifacts(read)
        memory = facts.remembered(read)
    known = sorted({*recorded, *managed_files(parts)})
    findings: list[AuditFinding] = []
    generations = 0
    for number, key in enumerate(known):
        if progress is not None:
            progress(number, len(known))
        found, count = _artifact(parts, key, memory)
        if found:
            with parts.gate.held(GATE_WAIT_S):
                found, count = _artifact(parts, key, memory)
        generations += count
        findings += [AuditFinding(broken[0], shown(key), broken[1]) for broken in found]
    with facts.moment(parts.sidecar.database) as read:
        findings += [AuditFinding(broken[0], "", broken[1]) for broken in _whole_volume(read)]
    if progress is not None:
        progress(len(known), len(known))
    root = os.fsdecode(parts.root.path)
    return AuditReport(root, len(recorded), generations, tuple(findings))


def _artifact(parts: VolumeParts, key: ArtifactKey, memory: Remembered) -> tuple[list[Broken], int]:
    with facts.moment(parts.sidecar.database) as read:
        of = facts.facts_of(read, key)
    found: list[Broken] = []
    if of is not None:
        for rule in (_row, _chain, _bases, _order):
            found += rule(of)
        found += _remembered(of, memory)
        found += _epochs(of, memory)
        # Not in the same moment: a checkpoint, and who holds the gate for it,
        # would wait for all this hashing. What is pruned meanwhile is looked at again.
        found += _contents(parts, parts.sidecar.database.read, of)
    found += _file(parts, key, of)
    return found, len(of.generations) if of else 0


# ── one artifact: pure ───────────────────────────────────────────────────────


def _row(of: Facts) -> Iterator[Broken]:
    sealed = artifact_checksum(of.key, of.generation, of.digest, of.size, of.epoch, of.boot)
    if sealed != of.checksum:
        yield "I7", "the record of the current generation is damaged"
    for install in of.installs:
        if row_checksum(repr(install[:12]).encode()) != install[12]:
            yield "I7", f"the record of the install of generation {install[1]} is damaged"
    head = of.generations[-1] if of.generations else None
    if head is None:
        yield "I7", f"current is generation {of.generation}, and the log has none"
    elif (head.generation, head.digest, head.size) != (of.generation, of.digest, of.size):
        yield "I7", f"current is generation {of.generation}, the log ends in {head.generation}"


def _chain(of: Facts) -> Iterator[Broken]:
    for older, newer in pairwise(of.generations):
        if newer.generation != older.generation + 1 and newer.kind != "recovered":
            yield "I2", f"generation {newer.generation} follows {older.generation}"
    for each in of.generations:
        if (not each.digest) != (not each.size and not each.has_content and not each.object):
            if each.digest and not each.size:
                continue  # an empty file, or one whose content was given up
            yield "I2", f"generation {each.generation} is a deletion with content"


def _bases(of: Facts) -> Iterator[Broken]:
    for each in of.generations:
        expected = max(each.generation - 1, 0)
        if each.base == expected or (each.kind == "recovered" and each.base < expected):
            continue
        yield "I1", f"generation {each.generation} was committed on {each.base}"


def _order(of: Facts) -> Iterator[Broken]:
    for older, newer in pairwise(of.generations):
        if newer.seq <= older.seq and older.generation:
            yield "I2", f"generation {newer.generation} was recorded before {older.generation}"


def _remembered(of: Facts, memory: Remembered) -> Iterator[Broken]:
    """Nobody was ever told of more than there is: that would be a commit that is gone."""
    head = of.generation
    digests = {each.generation: each.digest for each in of.generations}
    for session, generation, digest, _ in memory.observations.get(of.id, ()):
        if generation > head:
            yield "I7", f"{session} saw generation {generation}, current is {head}"
        elif generation and digests.get(generation, digest) != digest:
            yield "I5", f"{session} saw other bytes as generation {generation}"
    for session, generation in memory.told.get(of.id, ()):
        if generation > head:
            yield "I7", f"{session} was told of generation {generation}, current is {head}"
    for kind, generation in memory.events.get(of.key, ()):
        if generation > head:
            yield "I7", f"an event ({kind}) is of generation {generation}, current is {head}"
    for install in of.installs:
        if install[1] > head:
            yield "I7", f"generation {install[1]} was installed, current is {head}"


def _epochs(of: Facts, memory: Remembered) -> Iterator[Broken]:
    """Ownership that was taken away stays away: the epoch never goes back."""
    for session, _, _, epoch in memory.observations.get(of.id, ()):
        if epoch > of.epoch:
            yield "I4", f"{session} has epoch {epoch}, the artifact {of.epoch}"
    for session, epoch in of.leases:
        if epoch != of.epoch:
            yield "I3", f"the lease of {session} is of epoch {epoch}, the artifact of {of.epoch}"
    taken = sum(kind in ("break", "reclaim") for kind, _ in memory.events.get(of.key, ()))
    if taken > of.epoch:
        yield "I4", f"ownership was taken away {taken} times, and the epoch is {of.epoch}"


# ── one artifact: with its bytes ─────────────────────────────────────────────


def _contents(parts: VolumeParts, read: Reader, of: Facts) -> Iterator[Broken]:
    for each in of.generations:
        if not each.digest:
            continue
        if not (each.has_content or each.object):
            # A repair may give content up, and what stood there before the first
            # commit may be too large to be kept.
            if each.size and each.kind not in ("lost", "baseline"):
                yield "I5", f"the content of generation {each.generation} is missing"
            continue
        size, digest = _content(parts, read, each)
        if digest is None:
            yield "I5", f"the content of generation {each.generation} is missing"
        elif (size, digest) != (each.size, each.digest):
            yield "I5", f"the content of generation {each.generation} is not what was committed"


def _content(parts: VolumeParts, read: Reader, each: Generation) -> tuple[int, bytes | None]:
    if each.object is None:
        data = facts.content(read, each.seq)
        return (0, None) if data is None else (len(data), digest_of(data))
    try:
        descriptor = parts.staging.open_object(each.object)
    except OSError:
        return 0, None
    try:
        return os.fstat(descriptor).st_size, digest_of_chunks(chunks_of(descriptor))
    finally:
        os.close(descriptor)


def _file(parts: VolumeParts, key: ArtifactKey, of: Facts | None) -> Iterator[Broken]:
    """The visible file remembers its generation too."""
    with contextlib.suppress(WriterPresent, CoherenceError, OSError):
        seen = look(parts.root.descriptor, key, keep=False, beside_writer=True)
        try:
            witness = Witness.read(seen.descriptor, parts.incarnation, key) if seen.exists else -1
        finally:
            seen.close()
        known = of.generation if of else 0
        if witness > known:
            yield "I7", f"the file is generation {witness}, current is {known}"


# ── all artifacts together ───────────────────────────────────────────────────


def _whole_volume(read: Reader) -> Iterator[Broken]:
    for table, rows in facts.strays(read):
        yield "I7", f"{rows} rows of {table} belong to no artifact"
    feed = facts.numbers(read)
    for older, newer in pairwise(feed):
        if older[0] == newer[0]:
            yield "I2", f"number {newer[0]} of the feed was given out twice"
    yield from _commits(feed)


def _commits(feed: Sequence[tuple[int, int, int, str]]) -> Iterator[Broken]:
    """A commit of several artifacts is there with all members that were not pruned."""
    kept: dict[int, list[int]] = {}
    size: dict[int, int] = {}
    for place, (_, commit, members, _) in enumerate(feed):
        if members > 1:
            kept.setdefault(commit, []).append(place)
            size[commit] = max(size.get(commit, 0), members)
    for commit, places in kept.items():
        # What stood there before a first commit is recorded in the midst of it.
        between = [
            feed[place]
            for place in range(places[0], places[-1])
            if feed[place][1] != commit and feed[place][3] != "baseline"
        ]
        if between:
            yield "I1", f"commit {commit} has number {between[0][0]} of another in its midst"
        after = places[-1] + 1
        while after < len(feed) and feed[after][3] == "baseline":
            after += 1
        end = feed[after][0] if after < len(feed) else feed[-1][0] + 1
        here = sum(1 for place in range(places[0], after) if feed[place][0] >= commit)
        pruned = end - commit - here
        missing = size[commit] - len(places)
        if missing < 0 or missing > pruned:
            yield "I1", f"commit {commit} has {len(places)} of its {size[commit]} members"
