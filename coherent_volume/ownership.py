"""Ownership: whether a recorded lease excludes others, and the refusal that says so.

Owns the rule of liveness and the words of LeasedError. Grants and ends
nothing (leasing does). The same lease is always refused with the same words.
"""

from __future__ import annotations

import os
import shlex
import time

from coherent_volume.errors import LeasedError, UsageError, printable
from coherent_volume.locks import GATE_WAIT_S, is_present
from coherent_volume.model import (
    ArtifactKey,
    moment,
)
from coherent_volume.parts import VolumeParts, now_ns
from coherent_volume.paths import shown
from coherent_volume.records import ArtifactRow, LeaseRow

__all__ = [
    "SECONDS_MAX",
    "end_of",
    "is_leased_by",
    "is_live",
    "is_number",
    "is_same",
    "leased",
    "refuse_if_leased",
]

SECONDS_MAX = 10**9


def refuse_if_leased(parts: VolumeParts, row: ArtifactRow | None, key: ArtifactKey) -> None:
    """Under the gate: raise LeasedError when a peer holds a live lease of *key*."""
    if row is None or not row.leased:
        return
    found = parts.sidecar.lease(row.id)
    if found is not None and found.session != parts.session.name and is_live(parts, found):
        raise leased(key, found)


def is_leased_by(parts: VolumeParts, row: ArtifactRow, session: str) -> bool:
    """Whether *session* holds the live lease of an artifact."""
    with parts.gate.held(GATE_WAIT_S):
        found = parts.sidecar.lease(row.id)
    return found is not None and found.session == session and is_live(parts, found)


def is_live(parts: VolumeParts, lease: LeaseRow) -> bool:
    """Whether a lease still excludes others: in time, in this boot, holder alive."""
    if lease.boot != parts.boot or now_ns() >= lease.until_ns:
        return False
    return not lease.hold or is_present(os.path.join(parts.directory, "leases", lease.hold))


def is_same(found: LeaseRow, granted: LeaseRow) -> bool:
    """Whether what is recorded is still the lease that was granted."""
    return (found.session, found.hold, found.epoch) == (
        granted.session,
        granted.hold,
        granted.epoch,
    )


def leased(key: ArtifactKey, lease: LeaseRow) -> LeasedError:
    """The refusal: who holds it, since when, until when, how to wait or to break it."""
    since, until = moment(lease.since / 1e9), moment(lease.until / 1e9)
    holder = printable(lease.session)
    command = f"coherent lease {printable(shlex.quote(shown(key)))}"
    return LeasedError(
        f"{holder} holds a lease since {since}, until {until} at the latest",
        path=shown(key),
        advice=f"Wait for it ({command} --wait 60 -- CMD), or break it if its holder is stuck"
        f" ({command} --break).",
        holder=holder,
        since=since,
        until=until,
    )


def is_number(value: object) -> bool:
    """Whether *value* counts seconds; a bool does not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def end_of(ttl: float) -> tuple[int, int]:
    """When a lease of *ttl* seconds from now ends: by the clock that counts, and for people."""
    if not (is_number(ttl) and 0 < ttl < SECONDS_MAX):
        raise UsageError(f"a lease lasts a positive number of seconds, not {ttl}")
    nanoseconds = int(ttl * 1e9)
    return now_ns() + nanoseconds, time.time_ns() + nanoseconds
