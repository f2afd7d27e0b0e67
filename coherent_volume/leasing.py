"""Leases: exclusive ownership of one artifact for a while, and the fence after it.

Owns the rules of grant, renewal, release and reclaiming. A lease is live until
its time is over, its holder's process is gone (a kernel lock says so, at once)
or it is broken. Whoever takes ownership away from another session makes the
ownership epoch grow, so that the former holder's late commit is fenced though
the generation stood still (I4). At most one lease is live per artifact (I3).
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Self

from coherent_volume import points
from coherent_volume.errors import (
    BusyError,
    CoherenceError,
    FencedError,
    LeasedError,
    UsageError,
    from_os_error,
    printable,
)
from coherent_volume.gating import remember, settled_heads
from coherent_volume.locks import GATE_WAIT_S, LeaseHold, is_present
from coherent_volume.model import ArtifactKey, moment
from coherent_volume.parts import VolumeParts, now_ns
from coherent_volume.paths import shown
from coherent_volume.records import ArtifactRow, LeaseRow, SeenRow

__all__ = ["Lease", "acquire", "break_lease", "is_leased_by", "refuse_if_leased"]

_POLL_S = 0.01


@dataclass(slots=True, eq=False)
class Lease:
    """A lease that this process holds; release it, or use it as a context manager."""

    path: str
    session: str
    epoch: int
    _parts: VolumeParts
    _key: ArtifactKey
    _artifact: int
    _hold: LeaseHold | None

    def renew(self, ttl: float) -> None:
        """Extend the lease to *ttl* seconds from now, or raise FencedError."""
        with settled_heads(self._parts, [self._key]) as (head,):
            found = self._parts.sidecar.lease(self._artifact)
            if found is None or found.epoch != self.epoch or head.row is None:
                raise FencedError(
                    "the lease was reclaimed or broken",
                    path=self.path,
                    held=self.epoch,
                    current=head.epoch,
                )
            self._parts.sidecar.grant(
                found._replace(until_ns=now_ns() + _nanoseconds(ttl)), head.row, None
            )

    def release(self) -> None:
        """End the lease; nothing happens when it was reclaimed meanwhile."""
        hold, self._hold = self._hold, None
        if hold is None:
            return
        self._parts.leases.discard(self)
        try:
            with self._parts.gate.held(GATE_WAIT_S):
                self._parts.sidecar.release(self._artifact, hold.name)
        finally:
            hold.release()

    def abandon(self) -> None:
        """In a forked child: the lease is the parent's."""
        if self._hold is not None:
            self._hold.abandon()
            self._hold = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def acquire(parts: VolumeParts, key: ArtifactKey, ttl: float, wait: float) -> Lease:
    """Own *key* exclusively for *ttl* seconds; wait up to *wait* seconds for it.

    Waiters are served first come, first served. Raises LeasedError,
    UsageError for a time that is not positive.
    """
    _nanoseconds(ttl)
    try:
        return _acquire(parts, key, ttl, wait)
    except CoherenceError:
        raise
    except OSError as error:
        raise from_os_error(error, shown(key), "lease") from error


def _acquire(parts: VolumeParts, key: ArtifactKey, ttl: float, wait: float) -> Lease:
    deadline = time.monotonic() + wait
    try:
        return _grant(parts, key, ttl)
    except LeasedError:
        if wait <= 0:
            raise
    # Waiters stand in a kernel queue and the first of them polls: fair, and
    # free at once when a waiter dies.
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(BusyError):
            stack.enter_context(parts.turn(key, "lease").held(wait))
        while True:
            try:
                return _grant(parts, key, ttl)
            except LeasedError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_POLL_S)


def _grant(parts: VolumeParts, key: ArtifactKey, ttl: float) -> Lease:
    with settled_heads(parts, [key]) as (head,):
        row = head.row
        seen = parts.session.seen(key)
        if row is None:
            data, size = head.look.data, head.look.stat.st_size
            row = parts.sidecar.ensure_row(key, head.digest, data, size, parts.boot)
        found = parts.sidecar.lease(row.id)
        epoch = row.epoch
        if found is not None:
            # Also from this very session: the end of an inner lease would end
            # the outer one with nobody told.
            if is_live(parts, found):
                raise _leased(key, found)
            if found.session != parts.session.name:
                epoch += 1  # ownership is taken away: its holder may still wake up
        name = f"{row.id}.{parts.staging.next_name()}"
        hold = LeaseHold(os.path.join(parts.directory, "leases", name))
        try:
            lease = LeaseRow(
                row.id,
                parts.session.name,
                name,
                epoch,
                time.time_ns(),
                now_ns() + _nanoseconds(ttl),
                parts.boot,
            )
            parts.sidecar.grant(lease, row, parts.session.observer)
        except BaseException:
            hold.release()
            raise
        # Content of an artifact that is leased is never served from memory: a
        # lease can be taken away without the file changing.
        parts.leased_keys.add(key)
        if seen is not None and seen.epoch == row.epoch and seen.digest == row.digest:
            # The view was current under the old epoch, so it is under the new.
            renewed = SeenRow(row.generation, row.digest, epoch)
            remember(parts, key, renewed, None, row.size)
            parts.session.seen_here[key] = renewed
        elif seen is not None:
            parts.session.seen_here[key] = seen._replace()
    points.reached("leased")
    granted = Lease(shown(key), parts.session.name, epoch, parts, key, row.id, hold)
    parts.leases.add(granted)
    return granted


def break_lease(parts: VolumeParts, key: ArtifactKey) -> bool:
    """Take ownership from whoever holds *key*; False when nobody does."""
    with settled_heads(parts, [key]) as (head,):
        if head.row is None:
            return False
        found = parts.sidecar.lease(head.row.id)
        if found is None:
            return False
        parts.sidecar.break_lease(head.row)
        return True


def refuse_if_leased(parts: VolumeParts, row: ArtifactRow | None, key: ArtifactKey) -> None:
    """Under the gate: raise LeasedError when a peer holds a live lease of *key*."""
    if row is None or not row.leased:
        return
    found = parts.sidecar.lease(row.id)
    if found is not None and found.session != parts.session.name and is_live(parts, found):
        raise _leased(key, found)


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


def _leased(key: ArtifactKey, lease: LeaseRow) -> LeasedError:
    since = moment(lease.since / 1e9)
    left = lease.until_ns - now_ns()
    until = moment((time.time_ns() + left) / 1e9)[:19] + "+00:00"
    holder = printable(lease.session)
    return LeasedError(
        f"{holder} holds a lease since {since}",
        path=shown(key),
        advice="Wait until it is released, or break it if its holder is stuck.",
        holder=holder,
        since=since,
        until=until,
    )


def _nanoseconds(ttl: float) -> int:
    if not 0 < ttl < 10**9:
        raise UsageError(f"a lease lasts a positive number of seconds, not {ttl}")
    return int(ttl * 1e9)
