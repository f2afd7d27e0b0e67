"""Leases: exclusive ownership of one artifact for a while, and the fence after it.

Owns the rules of grant, renewal, release and reclaiming. A lease is live until
its time is over, its holder's process is gone (a kernel lock says so, at once)
or it is broken. Whoever takes ownership away from another session makes the
ownership epoch grow, so that the former holder's late commit is fenced though
the generation stood still (I4). At most one lease is live per artifact (I3).
A lease that no process holds belongs to a named session and ends with its time.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Self

from coherent_volume import lease_records, points
from coherent_volume.errors import (
    BusyError,
    CoherenceError,
    FencedError,
    LeasedError,
    UsageError,
    from_os_error,
)
from coherent_volume.gating import remember, settled_heads
from coherent_volume.locks import GATE_WAIT_S, FairLock, LeaseHold, is_present
from coherent_volume.model import ArtifactKey
from coherent_volume.ownership import SECONDS_MAX, end_of, is_live, is_number, is_same, leased
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.records import ArtifactRow, EventRow, LeaseRow, SeenRow
from coherent_volume.recovery import Head

__all__ = [
    "Lease",
    "acquire",
    "break_lease",
    "release",
]

_POLL_S = 0.005
_TURN_S = 1.0
"""How long a waiter stands behind the one ahead before it looks for itself
whether the lease is free: the one ahead may be stopped."""
_BARGE_AFTER_S = 0.1


@dataclass(slots=True, eq=False)
class Lease:
    """A lease that was granted; release it, or use it as a context manager."""

    path: str
    session: str
    epoch: int
    _parts: VolumeParts
    _key: ArtifactKey
    _row: LeaseRow
    _hold: LeaseHold | None
    _ended: bool = False

    def renew(self, ttl: float) -> None:
        """Extend the lease to *ttl* seconds from now, or raise FencedError."""
        until_ns, until = end_of(ttl)
        parts = self._parts
        # Not through the settled head: who renews does not care who has the
        # file open, and a heartbeat must not fail for it.
        with parts.gate.held(GATE_WAIT_S):
            parts.sidecar.database.verify()
            found = None if self._ended else parts.sidecar.lease(self._row.artifact)
            # One that ran out is not renewed: a peer may have committed meanwhile,
            # and its holder would believe that it had owned the artifact throughout.
            if found is None or not is_same(found, self._row) or not is_live(parts, found):
                row, _ = parts.sidecar.current(self._key, gated=True)
                raise FencedError(
                    "the lease is over: it ran out, or was released, reclaimed or broken",
                    path=self.path,
                    held=self.epoch,
                    current=row.epoch if row else 0,
                )
            lease_records.extend(
                parts.sidecar.database,
                found._replace(until_ns=until_ns, until=until, boot=parts.boot),
            )

    def release(self) -> None:
        """End the lease; nothing happens when it was reclaimed meanwhile."""
        ended, self._ended = self._ended, True
        hold, self._hold = self._hold, None
        if ended:
            return
        self._parts.leases.discard(self)
        try:
            with self._parts.gate.held(GATE_WAIT_S):
                _release(self._parts, self._key, self._row)
        finally:
            if hold is not None:
                hold.release()

    def abandon(self) -> None:
        """In a forked child: the lease is the parent's."""
        self._ended = True
        if self._hold is not None:
            self._hold.abandon()
            self._hold = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def acquire(
    parts: VolumeParts, key: ArtifactKey, ttl: float, wait: float, *, held: bool = True
) -> Lease:
    """Own *key* exclusively for *ttl* seconds; wait up to *wait* seconds for it.

    Waiters are served first come, first served. Without *held* the lease is not
    tied to this process: it lasts until its time is over or it is released, and
    asking again extends it. Raises LeasedError; UsageError for a time that is
    not positive, a wait that is negative, or *held* False without a name.
    """
    end_of(ttl)
    if not (is_number(wait) and 0 <= wait < SECONDS_MAX):
        raise UsageError(f"a wait is a number of seconds from 0, not {wait}")
    if not held and parts.session.observer is None:
        raise UsageError(
            "only a session with a name can own what no process holds",
            advice="Name the session, or let the process hold the lease.",
        )
    try:
        return _acquire(parts, key, ttl, wait, held=held)
    except CoherenceError:
        raise
    except OSError as error:
        raise from_os_error(error, shown(key), "lease") from error


# ── waiting ──────────────────────────────────────────────────────────────────


def _acquire(parts: VolumeParts, key: ArtifactKey, ttl: float, wait: float, *, held: bool) -> Lease:
    start = time.monotonic()
    deadline = start + wait
    try:
        if wait == 0:
            _let_others_pass(parts, key)
            return _grant(parts, key, ttl, held=held)
        # A queue of this artifact alone: who waits for another must not be
        # ahead of us. Its file is opened for this wait only, so that the
        # number of leases is not bounded by that of descriptors.
        turn = FairLock(parts.turn_path(key, "lease"))
        try:
            has_turn = _stand_in_line(parts, key, turn, deadline)
            try:
                return _granted_in_time(parts, key, ttl, deadline, held=held)
            finally:
                if has_turn:
                    turn.release()
        finally:
            turn.close()
    finally:
        waited = time.monotonic() - start
        if wait > 0 and waited > _POLL_S:
            parts.meters.count("lease_waits")
            parts.meters.count("lease_wait_seconds", waited)


def _stand_in_line(parts: VolumeParts, key: ArtifactKey, turn: FairLock, deadline: float) -> bool:
    """Wait for the turn; False when the line does not move though the lease is free."""
    was_free = False
    while True:
        left = deadline - time.monotonic()
        try:
            turn.acquire(max(0.0, min(_TURN_S, left)))
        except BusyError:
            is_free = _live(parts, key) is None
            if left <= _TURN_S or (is_free and was_free):
                return False
            was_free = is_free
        else:
            return True


def _granted_in_time(
    parts: VolumeParts, key: ArtifactKey, ttl: float, deadline: float, *, held: bool
) -> Lease:
    """The first in line waits for the end of the lease that is live."""
    while True:
        try:
            return _grant(parts, key, ttl, held=held)
        except LeasedError:
            if time.monotonic() >= deadline:
                raise
        # One row and one kernel lock are looked at, without the gate and the
        # file. The lock is free the moment its holder dies.
        while _live(parts, key) is not None and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _let_others_pass(parts: VolumeParts, key: ArtifactKey) -> None:
    """Who does not wait must not overtake those who do, if they are awake."""
    until = time.monotonic() + _BARGE_AFTER_S
    path = parts.turn_path(key, "lease")
    while is_present(path) and _live(parts, key) is None and time.monotonic() < until:
        time.sleep(_POLL_S)


def _live(parts: VolumeParts, key: ArtifactKey) -> LeaseRow | None:
    """The live lease of *key* as recorded now; looked up without the gate."""
    found = lease_records.lease_of(parts.sidecar.database, key)
    return found if found is not None and is_live(parts, found) else None


# ── granting ─────────────────────────────────────────────────────────────────


def _grant(parts: VolumeParts, key: ArtifactKey, ttl: float, *, held: bool) -> Lease:
    with settled_heads(parts, [key]) as (head,):
        seen = parts.session.seen(key)
        row = _row_of(parts, head)
        found = parts.sidecar.lease(row.id)
        kind, epoch, former = "lease", row.epoch, ""
        if found is not None:
            if is_live(parts, found):
                if held or found.hold or found.session != parts.session.name:
                    # Also from this very session: the end of an inner lease
                    # would end the outer one with nobody told.
                    raise leased(key, found)
            elif found.session != parts.session.name:
                # Ownership is taken away: its holder may still wake up.
                kind, epoch, former = "reclaim", epoch + 1, found.session
        hold = _hold(parts, row) if held else None
        try:
            until_ns, until = end_of(ttl)
            lease = LeaseRow(
                row.id,
                parts.session.name,
                hold.name if hold else "",
                epoch,
                time.time_ns(),
                until_ns,
                parts.boot,
                until,
            )
            if found is not None and kind == "lease" and not found.hold and not held:
                lease = lease._replace(since=found.since)
                lease_records.extend(parts.sidecar.database, lease)
            else:
                event = EventRow(kind, parts.session.name, key, row.generation, former)
                observer = parts.session.observer
                lease_records.grant(parts.sidecar.database, lease, row, observer, event)
        except BaseException:
            if hold is not None:
                hold.release()
            raise
        # Under the gate still, which a fork waits for.
        granted = Lease(shown(key), parts.session.name, epoch, parts, key, lease, hold)
        if held:
            parts.leases.add(granted)
        _forget_hold(parts, found)
        # Content of an artifact that is leased is never served from memory: a
        # lease can be taken away without the file changing.
        parts.leased_keys.add(key)
        _renew_view(parts, key, row, seen, epoch)
    points.reached("leased")
    return granted


def _row_of(parts: VolumeParts, head: Head) -> ArtifactRow:
    if head.row is not None:
        return head.row
    data, size = head.look.data, head.look.stat.st_size
    return parts.sidecar.ensure_row(head.key, head.digest, data, size, parts.boot)


def _hold(parts: VolumeParts, row: ArtifactRow) -> LeaseHold:
    name = f"{row.id}.{parts.staging.next_name()}"
    return LeaseHold(os.path.join(parts.directory, "leases", name))


def _forget_hold(parts: VolumeParts, former: LeaseRow | None) -> None:
    """Remove the file of a lease that is over; its name is never used again."""
    if former is not None and former.hold:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(parts.directory, "leases", former.hold))


def _renew_view(
    parts: VolumeParts, key: ArtifactKey, row: ArtifactRow, seen: SeenRow | None, epoch: int
) -> None:
    if seen is not None and seen.epoch == row.epoch and seen.digest == row.digest:
        # The view was current under the old epoch, so it is under the new.
        renewed = SeenRow(row.generation, row.digest, epoch)
        remember(parts, key, renewed, None, row.size)
        parts.session.seen_here[key] = renewed
    elif seen is not None:
        # Equal and not identical: what is in memory belongs to the view before.
        parts.session.seen_here[key] = seen._replace()


# ── ending ───────────────────────────────────────────────────────────────────


def release(parts: VolumeParts, key: ArtifactKey) -> bool:
    """End the session's lease that no process holds; False when there is none.

    Raises LeasedError for one of another session or one that a process holds.
    """
    with parts.gate.held(GATE_WAIT_S):
        parts.sidecar.database.verify()
        found = lease_records.lease_of(parts.sidecar.database, key)
        if found is None or not is_live(parts, found):
            return False
        if found.hold or found.session != parts.session.name:
            raise leased(key, found)
        _release(parts, key, found)
    return True


def _release(parts: VolumeParts, key: ArtifactKey, lease: LeaseRow) -> None:
    row, _ = parts.sidecar.current(key, gated=True)
    event = EventRow("release", parts.session.name, key, row.generation if row else 0)
    lease_records.release(parts.sidecar.database, lease, event)


def break_lease(parts: VolumeParts, key: ArtifactKey) -> bool:
    """Take ownership from whoever holds *key*, in time or not; False when nobody does."""
    with parts.gate.held(GATE_WAIT_S):
        parts.sidecar.database.verify()
        row, _ = parts.sidecar.current(key, gated=True)
        found = parts.sidecar.lease(row.id) if row is not None else None
        if row is None or found is None:
            return False
        event = EventRow("break", parts.session.name, key, row.generation, found.session)
        lease_records.take_away(parts.sidecar.database, row, event)
        return True
