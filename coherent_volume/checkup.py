"""Checking a volume: records against history, history against files.

Owns the audit and the repairs that lose nothing. Without repair it changes
nothing at all: a foreign edit that nobody has adopted yet is only noted.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable

from coherent_volume.digest import digest_of, digest_of_chunks
from coherent_volume.errors import CoherenceError, DamagedError
from coherent_volume.files import SymlinkFound, WriterPresent, look
from coherent_volume.gating import settled_heads
from coherent_volume.maintenance import collect_orphans, finish
from coherent_volume.model import ArtifactKey, CheckFinding, CheckReport
from coherent_volume.parts import VolumeParts, now_ns
from coherent_volume.paths import shown
from coherent_volume.records import ArtifactRow
from coherent_volume.recovery import content_of
from coherent_volume.session import presences
from coherent_volume.staging import Witness

__all__ = ["check"]

Progress = Callable[[int, int], None]


def check(parts: VolumeParts, *, repair: bool, progress: Progress | None) -> CheckReport:
    """Audit everything; with *repair* mend what can be mended without loss."""
    findings = [
        CheckFinding("damage", "sidecar.db", problem)
        for problem in parts.sidecar.database.integrity()
    ]
    keys = parts.sidecar.keys()
    generations = 0
    for number, key in enumerate(keys):
        if progress is not None:
            progress(number, len(keys))
        found, count = _check_artifact(parts, key)
        generations += count
        if repair:
            found = [_repair(parts, key, finding) for finding in found]
        findings += found
    findings += _check_leftovers(parts, repair=repair)
    if progress is not None:
        progress(len(keys), len(keys))
    return CheckReport(os.fsdecode(parts.root.path), len(keys), generations, tuple(findings))


def _check_artifact(parts: VolumeParts, key: ArtifactKey) -> tuple[list[CheckFinding], int]:
    name = shown(key)
    try:
        row = parts.sidecar.artifact(key)
    except DamagedError as error:
        return [CheckFinding("damage", name, error.message)], 0
    if row is None:
        return [], 0
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
        if not entry.digest:
            continue
        try:
            content = content_of(parts, key, row.id, entry.generation)
        except CoherenceError as error:
            yield error.message
            continue
        if isinstance(content, bytes) and not content and entry.size:
            continue  # a baseline too large to be kept
        digest = digest_of(content) if isinstance(content, bytes) else digest_of_chunks(content)
        if digest != entry.digest:
            yield f"the kept content of generation {entry.generation} is damaged"


def _check_file(parts: VolumeParts, key: ArtifactKey, row: ArtifactRow) -> Iterable[CheckFinding]:
    name = shown(key)
    try:
        seen = look(parts.root.descriptor, key, keep=False)
    except WriterPresent:
        yield CheckFinding("note", name, "is being written from outside right now")
        return
    except (CoherenceError, OSError, SymlinkFound) as error:
        yield CheckFinding("note", name, f"cannot be read as a file: {error}")
        return
    try:
        witness = Witness.read(seen.descriptor, parts.incarnation, key) if seen.exists else -1
    finally:
        seen.close()
    if witness > row.generation:
        yield CheckFinding(
            "damage",
            name,
            f"the file is generation {witness}, the sidecar knows only {row.generation}",
        )
    elif seen.digest != row.digest:
        yield CheckFinding("note", name, "differs from the records: not yet adopted or installed")


def _repair(parts: VolumeParts, key: ArtifactKey, finding: CheckFinding) -> CheckFinding:
    try:
        with settled_heads(parts, [key]):
            pass
    except (CoherenceError, OSError):
        return finding
    again, _ = _check_artifact(parts, key)
    still = any(other.message == finding.message for other in again)
    return CheckFinding(finding.severity, finding.subject, finding.message, repaired=not still)


def _check_leftovers(parts: VolumeParts, *, repair: bool) -> list[CheckFinding]:
    before = set(os.listdir(parts.staging.staging)) | set(os.listdir(parts.staging.objects))
    if repair:
        collect_orphans(parts)
        finish(parts, now_ns())
    after = set(os.listdir(parts.staging.staging)) | set(os.listdir(parts.staging.objects))
    in_use = parts.sidecar.objects()
    alive = {str(entry["token"]) for entry in presences(parts.directory) if entry["alive"]}
    alive.add(parts.staging.token)
    return [
        CheckFinding("note", name, "left over by an earlier process", repaired=name not in after)
        for name in sorted(before - in_use)
        if alive.isdisjoint(name.split("."))
    ]
