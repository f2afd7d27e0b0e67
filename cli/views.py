"""reacquire, why, status, log, session, check: what there is to know, and who knows it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from cli import render, reports
from cli.call import Common, Reply
from cli.place import below_root, opened, session_of, volume_root
from cli.tables import progress
from coherent_volume import (
    DamagedError,
    NotFoundError,
    SchemaVersionError,
    rebuild_sidecar,
)
from coherent_volume.answers import (
    CheckFinding,
    CheckReport,
)

__all__ = ["check", "log", "reacquire", "session", "status", "why"]


def reacquire(common: Common, paths: Sequence[str]) -> Reply:
    """Read again what changed since this session saw it; say what that was."""
    where = [below_root(path) for path in paths]
    with opened(common) as place:
        if not where:
            return render.paths(place.volume.reacquire(), "reacquired")
        found = [each for path in where for each in place.volume.reacquire(path)]
        return render.paths(list(dict.fromkeys(found)), "reacquired")


def why(common: Common, path: str) -> Reply:
    """Why this session was refused last, or would be."""
    where = below_root(path)
    with opened(common) as place:
        report = place.volume.why(where)
        over = report is not None and place.volume.state(where) != "I"
        return reports.why(path, report, over=over)


def status(common: Common) -> Reply:
    """A still picture of the volume."""
    with opened(common) as place:
        # The library knows only that a name was given; the rule is the shell's.
        return reports.status(dataclasses.replace(place.volume.status(), session=place.session))


def log(common: Common, path: str | None, limit: int) -> Reply:
    """The commits, newest first."""
    where = None if path is None else below_root(path)
    with opened(common) as place:
        entries = place.volume.log(where, limit=limit)
        if where is not None and not entries and not os.path.lexists(where):
            raise NotFoundError("no such artifact, and it has no history", path=path)
        return reports.log(entries)


def session(common: Common) -> Reply:
    """Which session a command here speaks for."""
    root = volume_root(common)
    return reports.session(session_of(common, root), root)


def check(common: Common, repair: bool) -> Reply:
    """Whether the records and the files agree; a sidecar that cannot be opened is rebuilt."""
    try:
        return reports.check(_checked(common, repair=repair))
    except SchemaVersionError:
        # Not damage: an older program must not rebuild what a newer one wrote.
        raise
    except DamagedError as damage:
        if not repair:
            raise
        root = volume_root(common)
        kept = os.path.relpath(rebuild_sidecar(root), root)
        report = _checked(common, repair=True)
        what = f"{damage.message}; rebuilt, the damaged one is kept in {kept}"
        rebuilt = CheckFinding("damage", "sidecar.db", what, repaired=True)
        return reports.check(dataclasses.replace(report, findings=(rebuilt, *report.findings)))


def _checked(common: Common, *, repair: bool) -> CheckReport:
    with opened(common) as place, progress("checking") as advance:
        return place.volume.check(repair=repair, progress=advance)
