"""Overviews: the state of a view, the log, and the status of a volume.

Reads records and directory listings; changes nothing and takes no gate, except
what a plain read would do to find out whether a view is current.
"""

from __future__ import annotations

import contextlib
import os

from coherent_volume import lease_records
from coherent_volume.answers import (
    LeaseStatus,
    LogEntry,
    RefusedContent,
    SessionStatus,
    VolumeStatus,
)
from coherent_volume.conflict import ConflictReport
from coherent_volume.feed import is_unfinished
from coherent_volume.keeping import REPORT_SUFFIX
from coherent_volume.metrics import REFUSALS, metrics
from coherent_volume.model import (
    ArtifactKey,
    State,
    moment,
)
from coherent_volume.ownership import is_leased_by, is_live
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.reading import read
from coherent_volume.records import OUTSIDE
from coherent_volume.report import Refusal, build, stored
from coherent_volume.session import presences

__all__ = ["live_leases", "log", "state", "status", "why"]


def state(parts: VolumeParts, key: ArtifactKey) -> State:
    """What this session's view of *key* is worth; derived, never stored."""
    seen = parts.session.seen(key)
    if seen is None:
        return "I"
    current = read(parts, key).seen
    if (seen.digest, seen.epoch) != (current.digest, current.epoch):
        return "I"
    row = parts.sidecar.artifact(key)
    if row is None or not is_leased_by(parts, row, parts.session.name):
        return "S"
    return "M" if parts.writers[key] else "E"


def why(parts: VolumeParts, key: ArtifactKey) -> ConflictReport | None:
    """Why this session was refused *key* last, or would be at this moment."""
    last = stored(parts, key)
    seen = parts.session.seen(key)
    if seen is None or (last is not None and seen.generation < last.head):
        return last
    current = read(parts, key).seen  # adopts what was edited from outside
    if current.digest == seen.digest:
        return last
    cause = f"generation {current.generation} is current since you read it"
    return build(parts, Refusal(key, "stale_view", cause, seen, current.generation))


def log(parts: VolumeParts, key: ArtifactKey | None, limit: int | None) -> list[LogEntry]:
    """Kept generations, newest first."""
    return [
        LogEntry(
            row.seq,
            shown(row.key),
            row.generation,
            row.base,
            row.kind,
            row.session,
            moment(row.at / 1e9),
            row.size,
            row.digest.hex(),
            row.saw,
        )
        for row in parts.sidecar.history(key, limit)
    ]


def status(parts: VolumeParts) -> VolumeStatus:
    """A still picture of the volume."""
    artifacts, commits, foreign = parts.sidecar.counts()
    unsettled = {
        shown(key)
        for key, install in parts.sidecar.all_installs()
        if is_unfinished(parts, key, install)
    }
    return VolumeStatus(
        root=os.fsdecode(parts.root.path),
        managed=parts.config.managed,
        durability=parts.config.durability,
        incarnation=parts.incarnation,
        session=parts.session.info,
        artifacts=artifacts,
        commits=commits,
        foreign_edits=foreign,
        unsettled=tuple(sorted(unsettled)),
        sessions=_sessions(parts),
        refused=_refused(parts),
        sidecar_bytes=_size(os.path.join(parts.directory, "sidecar.db"))
        + parts.sidecar.database.log_bytes(),
        object_bytes=_bytes_in(parts.staging.objects),
        leases=live_leases(parts),
        refusals=int(sum(m.value for m in metrics(parts) if m.name == REFUSALS)),
    )


def _sessions(parts: VolumeParts) -> tuple[SessionStatus, ...]:
    living = {str(e["session"]): e for e in presences(parts.directory) if e["alive"]}
    views = {name: (seen, behind) for name, seen, behind in parts.sidecar.session_summaries()}
    work = {name: (count, last) for name, count, last in parts.sidecar.commit_summaries()}
    work.pop(OUTSIDE, None)
    found = []
    for name in sorted(living.keys() | views.keys() | work.keys()):
        entry = living.get(name, {})
        seen, behind = views.get(name, (0, 0))
        count, last = work.get(name, (0, 0))
        found.append(
            SessionStatus(
                name=name,
                kind=str(entry.get("kind", "process" if name.startswith("process-") else "named")),
                alive=bool(entry),
                pid=int(str(entry["pid"])) if entry else None,
                command=str(entry.get("command", "")),
                observed=seen,
                behind=behind,
                commits=count,
                last_seen=moment(last / 1e9) if last else "",
            )
        )
    return tuple(found)


def _refused(parts: VolumeParts) -> tuple[RefusedContent, ...]:
    kept = []
    for name in sorted(os.listdir(parts.staging.refused)):
        if name.endswith(REPORT_SUFFIX):
            continue  # about a refusal, and no content of anybody's
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=parts.staging.refused, follow_symlinks=False)
            kept.append(
                RefusedContent(f".coherence/refused/{name}", found.st_size, moment(found.st_mtime))
            )
    return tuple(kept)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _bytes_in(directory: int) -> int:
    total = 0
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            total += os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
    return total


def live_leases(parts: VolumeParts) -> tuple[LeaseStatus, ...]:
    """Every lease that still excludes others, in the order of the paths."""
    return tuple(
        LeaseStatus(
            shown(key),
            lease.session,
            moment(lease.since / 1e9),
            moment(lease.until / 1e9),
            lease.epoch,
            bool(lease.hold),
        )
        for key, lease in lease_records.all_leases(parts.sidecar.database)
        if is_live(parts, lease)
    )
