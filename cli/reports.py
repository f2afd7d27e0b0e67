"""Whole pictures for people: status, why, log, session and check as a Reply each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from cli.call import Reply
from cli.exit_codes import DAMAGED
from cli.render import amount, pairs, plain
from cli.tables import table
from coherent_volume.answers import (
    CheckReport,
    LogEntry,
    VolumeStatus,
)
from coherent_volume.conflict import ConflictReport
from coherent_volume.errors import printable
from coherent_volume.model import SessionInfo

__all__ = ["check", "log", "session", "status", "why"]


def status(value: VolumeStatus) -> Reply:
    """Root, counts, sessions, refused content."""

    def text() -> str:
        return "\n".join(
            part
            for part in (_facts(value), _sessions(value), _leases(value), _refused(value))
            if part
        )

    return Reply(asdict(value), text)


def _facts(value: VolumeStatus) -> str:
    return pairs(
        [
            ("root", value.root),
            ("managed", " ".join(value.managed)),
            ("durability", value.durability),
            ("session", f"{value.session.name} ({value.session.rule})"),
            ("artifacts", str(value.artifacts)),
            ("commits", f"{value.commits}, of them foreign edits: {value.foreign_edits}"),
            ("refusals", str(value.refusals)),
            ("unsettled", " ".join(value.unsettled) or "none"),
            ("storage", f"{amount(value.sidecar_bytes)}, objects {amount(value.object_bytes)}"),
        ]
    )


def _sessions(value: VolumeStatus) -> str:
    return table(
        ("SESSION", "KIND", "ALIVE", "SAW", "BEHIND", "COMMITS", "LAST SEEN", "COMMAND"),
        [
            (
                each.name,
                each.kind,
                f"pid {each.pid}" if each.alive and each.pid else ("yes" if each.alive else "no"),
                str(each.observed),
                str(each.behind),
                str(each.commits),
                each.last_seen,
                each.command,
            )
            for each in value.sessions
        ],
    )


def _leases(value: VolumeStatus) -> str:
    return table(
        ("LEASE", "SESSION", "SINCE", "UNTIL", "HELD BY"),
        [
            (each.path, each.session, each.since, each.until, "process" if each.held else "time")
            for each in value.leases
        ],
    )


def _refused(value: VolumeStatus) -> str:
    return table(
        ("REFUSED CONTENT", "SIZE", "REFUSED AT"),
        [(each.file, amount(each.bytes), each.refused_at) for each in value.refused],
    )


def why(path: str, value: ConflictReport | None, *, over: bool) -> Reply:
    """The report about a refusal; plain words when there was none.

    It is *over* when the session has seen what is current since.
    """

    def text() -> str:
        if value is None:
            said = "nothing of yours was refused, and nothing that you read is stale"
            return f"{printable(path)}: {said}\n"
        past = "You have seen what is current since: a write now is not refused for this.\n"
        return f"{plain(value.text())}\n{past if over else ''}"

    return Reply({"report": None if value is None else value.as_dict(), "over": over}, text)


def log(entries: Sequence[LogEntry]) -> Reply:
    """One line per generation, as given: newest first."""

    def text() -> str:
        return table(
            ("AT", "PATH", "GENERATION", "BASE", "KIND", "SESSION", "SIZE", "DIGEST"),
            [
                (
                    str(each.at),
                    each.path,
                    str(each.generation),
                    str(each.base),
                    each.kind,
                    each.session,
                    amount(each.size),
                    each.digest[:12],
                )
                for each in entries
            ],
        )

    return Reply({"entries": [asdict(each) for each in entries]}, text)


def session(value: SessionInfo, root: str) -> Reply:
    """Who speaks here, and why."""

    def text() -> str:
        return pairs([("session", value.name), ("kind", value.kind), ("rule", value.rule)])

    return Reply(
        {"session": value.name, "kind": value.kind, "rule": value.rule, "root": root}, text
    )


def check(value: CheckReport) -> Reply:
    """What was looked at and what was found; damage that is left fails."""

    def text() -> str:
        lines = [
            f"{each.severity}{' (repaired)' if each.repaired else ''}:"
            f" {printable(each.subject)}: {printable(each.message)}\n"
            for each in value.findings
        ]
        verdict = "sound" if value.ok else "damaged; run: coherent check --repair"
        looked = f"artifacts {value.artifacts}, generations {value.generations}"
        lines.append(f"{looked}: {verdict}\n")
        return "".join(lines)

    code = 0 if value.ok else DAMAGED
    return Reply({**asdict(value), **({} if value.ok else {"exit_code": code})}, text, code)
