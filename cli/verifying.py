"""verify: a volume's own log and recorded runs against the invariants.

The volume is audited by the library, a recorded run by ``coherent_audit``, which
knows nothing of the library. Given both, what the run was told is looked up in
the volume. Changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import coherent_audit
from cli.call import Common, Reply
from cli.exit_codes import DAMAGED
from cli.place import current_directory, opened
from cli.tables import progress
from coherent_audit import ABSENT, Access, Operation, Violation
from coherent_volume import CoherentVolume
from coherent_volume.answers import AuditReport
from coherent_volume.errors import (
    GenerationNotKeptError,
    NotFoundError,
    UsageError,
    printable,
)

__all__ = ["verify"]

_SHOWN_MAX = 40  # operations of a shortened history


def verify(common: Common, targets: Sequence[str], explain: bool) -> Reply:
    """Judge a volume, recorded runs, or both; whatever breaks an invariant fails."""
    directories = [each for each in targets if os.path.isdir(each)]
    logs = [each for each in targets if each not in directories]
    if len(directories) > 1:
        raise UsageError("verify takes one volume", path=directories[1])
    run = _loaded(logs)
    told: list[dict[str, Any]] = []
    lines: list[str] = []
    fields: dict[str, Any] = {"root": None, "artifacts": None, "generations": None}
    if directories or not logs:
        if directories:
            common = common._replace(root=os.path.join(current_directory(), directories[0]))
        report, lost = _audited(common, run)
        fields.update(root=report.root, artifacts=report.artifacts, generations=report.generations)
        told += [{"rule": f.invariant, "path": f.path, "text": f.message} for f in report.findings]
        told += lost
        lines.append(f"artifacts {report.artifacts}, generations {report.generations}")
    if logs:
        violations = coherent_audit.check(run)
        told += [_told(run, violation, explain=explain) for violation in violations]
        lines.append(f"operations {len(run)} in {len(logs)} logs")
    fields |= {"operations": len(run) if logs else None, "violations": told}

    def text() -> str:
        verdict = "an invariant is broken" if told else "every invariant holds"
        return "".join([*(_line(each) for each in told), f"{'; '.join(lines)}: {verdict}\n"])

    code = DAMAGED if told else 0
    return Reply({**fields, **({"exit_code": code} if told else {})}, text, code)


def _loaded(logs: Sequence[str]) -> list[Operation]:
    try:
        return coherent_audit.load(logs)
    except FileNotFoundError as error:
        raise UsageError("no such volume or log", path=os.fsdecode(error.filename)) from error
    except coherent_audit.RecordingError as error:
        raise UsageError(
            f"not a recorded run: {printable(str(error))}",
            advice="Name a directory that is a volume, or files that a recorder wrote.",
        ) from error


def _audited(common: Common, run: Sequence[Operation]) -> tuple[AuditReport, list[dict[str, Any]]]:
    with opened(common) as place, progress("auditing") as advance:
        report = place.volume.audit(advance)
        lost = [] if report.findings else list(_lost(place.volume, run))
    return report, lost


def _lost(volume: CoherentVolume, run: Sequence[Operation]) -> Iterator[dict[str, Any]]:
    """What the run was told is committed, and the volume does not know."""
    for path, generations in sorted(_acknowledged(run).items()):
        kept = {entry.generation: entry.session for entry in volume.log(path)}
        head = max(kept, default=0)
        for generation, (session, content) in sorted(generations.items()):
            if generation > head:
                text = f"generation {generation} was acknowledged, current is {head}"
            elif session and kept.get(generation, session) != session:
                text = f"generation {generation} was acknowledged to another session"
            elif not content or content == _content(volume, path, generation, content):
                continue
            else:
                text = f"generation {generation} holds other bytes than were acknowledged"
            yield {"rule": "acknowledged commit missing", "path": path, "text": text}


def _acknowledged(run: Sequence[Operation]) -> dict[str, dict[int, tuple[str, str | None]]]:
    """By path and generation: who was told of the commit, and its content."""
    told: dict[str, dict[int, tuple[str, str | None]]] = {}
    for operation in run:
        if operation.kind not in ("commit", "transaction") or operation.outcome != "done":
            continue
        for each in operation.writes or (operation,):
            if each.generation is not None:
                of_path = told.setdefault(each.path, {})
                of_path[each.generation] = operation.session, each.content
    return told


def _content(volume: CoherentVolume, path: str, generation: int, expected: str) -> str:
    """The fingerprint of what is kept; what is not kept any more is taken for *expected*."""
    try:
        return coherent_audit.fingerprint(volume.read_at(path, generation))
    except GenerationNotKeptError:
        return expected
    except NotFoundError:
        return ABSENT  # it is a deletion


def _told(run: Sequence[Operation], violation: Violation, *, explain: bool) -> dict[str, Any]:
    shown = list(violation.operations)
    if explain:
        shown = coherent_audit.minimal(run, violation)[:_SHOWN_MAX]
    return {
        "rule": violation.rule,
        "path": violation.path,
        "text": violation.text,
        **({"operations": [asdict(each) for each in shown]} if explain else {}),
    }


def _line(told: dict[str, Any]) -> str:
    parts = (told["rule"], told["path"], told["text"])
    lines = [": ".join(printable(part) for part in parts if part)]
    for each in told.get("operations", ()):
        accesses = {name: tuple(Access(**a) for a in each[name]) for name in ("reads", "writes")}
        lines.append(f"    {printable(str(Operation(**{**each, **accesses})))}")
    return "\n".join(lines) + "\n"
