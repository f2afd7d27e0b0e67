"""Ageing: what is forgotten because it is old, and what time it is for that.

Owns the sweep of past generations, events, counters and refused content by age.
A clock that is wrong for the time of one command must not cost the past: the
time that counts goes on with the machine's own seconds since its start, by at most
a day over each restart, and is never later than the clock.
"""

from __future__ import annotations

import contextlib
import os
import time

from coherent_volume import events, meters
from coherent_volume.errors import BusyError
from coherent_volume.locks import GATE_WAIT_S
from coherent_volume.parts import VolumeParts, now_ns

__all__ = ["sweep"]

_DAY_NS = 86_400 * 10**9
_HOUR_NS = 3_600 * 10**9
_PRUNED_AT_ONCE = 256


def sweep(parts: VolumeParts) -> None:
    """Forget what is too old; once an hour, for it means to read all records."""
    machine = now_ns()
    last = parts.sidecar.last_sweep()
    if last is not None and last.boot == parts.boot and machine - last.machine_ns < _HOUR_NS:
        return
    clock = time.time_ns()
    if last is None:
        told = clock
    elif last.boot == parts.boot:
        told = last.told_ns + machine - last.machine_ns
    else:
        told = min(clock, last.told_ns + _DAY_NS)
    now = min(told, clock)
    _sweep_refused(parts, now - parts.config.retention.refused_days * _DAY_NS)
    _prune(parts, now - parts.config.retention.days * _DAY_NS)
    # Not waited for: a thread of this process that wants to commit would be told that
    # another one has the gate, while a peer has it. Some other sweep is noted.
    with contextlib.suppress(BusyError), parts.gate.held(0):
        parts.sidecar.note_sweep(told, parts.boot, machine)


def _prune(parts: VolumeParts, before: int) -> None:
    database = parts.sidecar.database
    if events.has_old(database, before) or meters.has_old(database, before):
        with parts.gate.held(GATE_WAIT_S):
            events.prune(database, before)
            meters.fold(database, before)
    while parts.sidecar.has_aged(before):
        # In bites, with the gate free in between: writers never wait for it all.
        with parts.gate.held(GATE_WAIT_S):
            dropped = parts.sidecar.prune_aged(before, _PRUNED_AT_ONCE)
        parts.dropped_objects.extend(name for name in dropped if name is not None)


def _sweep_refused(parts: VolumeParts, before: int) -> None:
    for name in os.listdir(parts.staging.refused):
        with contextlib.suppress(OSError):  # gone meanwhile; or no file, and not ours
            found = os.stat(name, dir_fd=parts.staging.refused, follow_symlinks=False)
            if found.st_mtime_ns < before:
                os.unlink(name, dir_fd=parts.staging.refused)
