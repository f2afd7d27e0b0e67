"""Checking a volume: records against history, history against files.

Owns the audit and the repairs that lose nothing. Without repair it changes
nothing at all: a foreign edit that nobody has adopted yet is only noted.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable

from coherent_volume import repairs
from coherent_volume.answers import (
    CheckFinding,
    CheckReport,
)
from coherent_volume.attributes import Witness
from coherent_volume.digest import digest_of, digest_of_chunks
from coherent_volume.disposal import clean_up
from coherent_volume.errors import CoherenceError, DamagedError, NotFoundError
from coherent_volume.files import WriterPresent, look
from coherent_volume.gating import settled_heads
from coherent_volume.inventory import managed_files
from coherent_volume.locks import GATE_WAIT_S
from coherent_volume.maintenance import collect_orphans
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.records import ArtifactRow, HistoryRow
from coherent_volume.recovery import recover_from_file
from coherent_volume.remake import content_of
from coherent_volume.session import presences

__all__ = ["check"]

Progress = Callable[[int, int], None]


def check(parts: VolumeParts, *, repair: bool, progress: Progress | None) -> CheckReport:
    """Audit everything; with *repair* mend what can be mended without loss.

    Raises DamagedError where only a rebuild of the records can mend them: with
    *repair*, pages that contradict each other.
    """
    problems = parts.sidecar.database.integrity()
    if problems and repair:
        # Any statement of a repair could take a wrong page for a right one.
        raise DamagedError(f"the sidecar is damaged: {' '.join(problems[0].split())}")
    findings = [CheckFinding("damage", "sidecar.db", problem) for problem in problems]
    findings += _check_installs(parts, repair=repair)
    keys = sorted({*parts.sidecar.keys(), *managed_files(parts)})
    generations = artifacts = 0
    for number, key in enumerate(keys):
        if progress is not None:
            progress(number, len(keys))
        found, count = _check_artifact(parts, key)
        if found:
            # Row, history and file were looked at one after the other: only what
            # is still so with all writers kept out is a finding.
            with parts.gate.held(GATE_WAIT_S):
                found, count = _check_artifact(parts, key)
        generations += count
        artifacts += bool(count)
        findings += _repaired(parts, key, found) if repair else found
    findings += _check_leftovers(parts, repair=repair)
    if progress is not None:
        progress(len(keys), len(keys))
    return CheckReport(os.fsdecode(parts.root.path), artifacts, generations, tuple(findings))


def _check_installs(parts: VolumeParts, *, repair: bool) -> list[CheckFinding]:
    database = parts.sidecar.database
    damaged = repairs.damaged_installs(database)
    if damaged and repair:
        with parts.gate.held(GATE_WAIT_S):
            repairs.drop_installs(database, damaged)
    return [
        CheckFinding("damage", "sidecar.db", "a record of an install is damaged", repaired=repair)
        for _ in damaged
    ]


def _check_artifact(parts: VolumeParts, key: ArtifactKey) -> tuple[list[CheckFinding], int]:
    name = shown(key)
    try:
        row = parts.sidecar.artifact(key)
    except DamagedError as error:
        return [CheckFinding("damage", name, error.message)], 0
    if row is None:
        return list(_check_file(parts, key, None)), 0
    findings = [CheckFinding("damage", name, text) for text in _check_history(parts, key, row)]
    findings += _check_file(parts, key, row)
    return findings, len(parts.sidecar.history(key, None))


def _check_history(parts: VolumeParts, key: ArtifactKey, row: ArtifactRow) -> Iterable[str]:
    rows = parts.sidecar.history(key, None)
    if not rows or rows[0].generation != row.generation or rows[0].digest != row.digest:
        yield f"the history does not end in the current generation {row.generation}"
    for newer, older in itertools.pairwise(rows):
        if newer.generation != older.generation + 1 and newer.kind != "recovered":
            yield f"generation {newer.generation} follows {older.generation}"
    for entry in rows:
        if not _is_sound(parts, key, row.id, entry):
            yield f"the kept content of generation {entry.generation} is damaged"


def _is_sound(parts: VolumeParts, key: ArtifactKey, artifact: int, entry: HistoryRow) -> bool:
    if not entry.digest:
        return True
    try:
        content = content_of(parts, key, artifact, entry.generation)
    except NotFoundError:
        return True  # a baseline too large to be kept, or given up by a repair
    except DamagedError:
        return False
    found = digest_of(content) if isinstance(content, bytes) else digest_of_chunks(content)
    return found == entry.digest


def _check_file(
    parts: VolumeParts, key: ArtifactKey, row: ArtifactRow | None
) -> Iterable[CheckFinding]:
    name = shown(key)
    try:
        seen = look(parts.root.descriptor, key, keep=False)
    except WriterPresent:
        yield CheckFinding("note", name, "is being written from outside right now")
        return
    except (CoherenceError, OSError) as error:
        yield CheckFinding("note", name, f"cannot be read as a file: {error}")
        return
    try:
        witness = Witness.read(seen.descriptor, parts.incarnation, key) if seen.exists else -1
    finally:
        seen.close()
    known = row.generation if row else 0
    if witness > known:
        yield CheckFinding(
            "damage",
            name,
            f"the file is generation {witness}, the sidecar knows only {known}",
        )
    elif row is not None and seen.digest != row.digest:
        yield CheckFinding("note", name, "differs from the records: not yet adopted or installed")


def _repaired(
    parts: VolumeParts, key: ArtifactKey, found: list[CheckFinding]
) -> list[CheckFinding]:
    if not found:
        return found
    with contextlib.suppress(CoherenceError, OSError):
        if any(finding.severity == "damage" for finding in found):
            _recover(parts, key)
        with settled_heads(parts, [key]):
            pass
    still = {finding.message for finding in _check_artifact(parts, key)[0]}
    return [
        CheckFinding(f.severity, f.subject, f.message, repaired=f.message not in still)
        for f in found
    ]


def _recover(parts: VolumeParts, key: ArtifactKey) -> None:
    """Go on counting above all that is known, and give up contents that are damaged."""
    with parts.gate.held(GATE_WAIT_S):
        if not any(f.severity == "damage" for f in _check_artifact(parts, key)[0]):
            return
        at_least = 0
        try:
            row = parts.sidecar.artifact(key)
        except DamagedError:
            at_least = repairs.reset_artifact(parts.sidecar.database, key, parts.boot)
            row = parts.sidecar.artifact(key)
        recover_from_file(parts, key, at_least)
        if row is None:
            return
        for entry in parts.sidecar.history(key, None):
            if not _is_sound(parts, key, row.id, entry):
                repairs.drop_content(parts.sidecar.database, key, entry.generation)


def _check_leftovers(parts: VolumeParts, *, repair: bool) -> list[CheckFinding]:
    before = set(os.listdir(parts.staging.staging)) | set(os.listdir(parts.staging.objects))
    if repair:
        collect_orphans(parts)
        # No free descriptor: what was not flushed is not forgotten, and waits.
        with contextlib.suppress(OSError):
            clean_up(parts)
    after = set(os.listdir(parts.staging.staging)) | set(os.listdir(parts.staging.objects))
    # What an install record names waits for its turn, as after every commit.
    waiting = {record.stage for _, record in parts.sidecar.all_installs()}
    in_use = parts.sidecar.objects() | waiting
    alive = {str(entry["token"]) for entry in presences(parts.directory) if entry["alive"]}
    alive.add(parts.staging.token)
    return [
        CheckFinding("note", name, "left over by an earlier process", repaired=name not in after)
        for name in sorted(before - in_use)
        if alive.isdisjoint(name.split("."))
    ]
