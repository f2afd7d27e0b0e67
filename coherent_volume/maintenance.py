"""Maintenance: what a commit leaves for after its acknowledgement.

Owns the background thread of one volume object: the clean-up after installs (which
``disposal`` does), checkpoints, collecting what dead processes left, sweeping what
is too old. Nothing here is needed for the
safety of a commit; everything is done again by the next visitor if it is
missed. The thread starts with the first commit and is never joined under a lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable

from coherent_volume.ageing import sweep
from coherent_volume.disposal import clean_up
from coherent_volume.errors import CoherenceError
from coherent_volume.gating import settled_heads
from coherent_volume.locks import GATE_WAIT_S
from coherent_volume.parts import Displaced, VolumeParts
from coherent_volume.session import presences

__all__ = ["Maintenance", "collect_orphans"]

_log = logging.getLogger("coherent_volume")

_INTERVAL_S = 0.02
_CHECKPOINT_BYTES = 4 << 20
_LOG_BYTES_MAX = 16 << 20  # reached only by many short processes beside an idle one
_CLOSE_WAIT_S = 2.0


class Maintenance:
    """The background work of one volume object in one process."""

    def __init__(self, parts: VolumeParts) -> None:
        self._parts = parts
        # Protects the starting of the thread only; reentrant for signal handlers.
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._collected = False

    def nudge(self) -> None:
        """Work is there; it will be looked at in a moment."""
        if self._thread is None:
            with self._starting:
                self._start()
        if not self._wanted.is_set():
            self._wanted.set()

    def _start(self) -> None:
        if self._thread is None and not self._stopped.is_set():
            self._thread = threading.Thread(
                target=self._run, name="coherent-maintenance", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            # One pass for many commits: a flush and a transaction each would
            # cost more than the commits themselves.
            if self._stopped.wait(_INTERVAL_S):
                return
            self._wanted.clear()
            # Looked at after the clear: a stop that came in between has set
            # both, and its wake-up has just been wiped out.
            if self._stopped.is_set():
                return
            try:
                self._pass()
            except (CoherenceError, OSError) as error:
                # Out of space, busy, damaged: the next commit says it to its
                # caller; here it only delays clean-up.
                _log.debug("maintenance was put off: %s", error)
            except Exception:  # noqa: BLE001 - without this thread nothing is ever cleaned up
                _log.exception("maintenance failed, and will be tried again")
            if self._parts.displaced:
                self._wanted.set()

    def _pass(self) -> None:
        parts = self._parts
        if not self._collected:
            self._collected = True
            collect_orphans(parts)
        clean_up(parts)
        if parts.meters.is_due:
            with parts.gate.held(GATE_WAIT_S):
                parts.meters.flush(parts.sidecar.database, parts.session.name)
        overgrown = parts.sidecar.database.log_bytes() > _LOG_BYTES_MAX
        if overgrown or parts.logged_bytes > _CHECKPOINT_BYTES:
            parts.logged_bytes = 0
            with parts.gate.held(GATE_WAIT_S):
                parts.sidecar.database.checkpoint(truncate=overgrown)

    def stop(self) -> None:
        """End the thread and do, now, what must not be left undone."""
        with self._starting:
            thread, self._thread = self._thread, None
            self._stopped.set()
        if thread is None:
            return
        self._wanted.set()
        # The garbage collector may close a forgotten volume in this very thread.
        if thread is not threading.current_thread():
            thread.join()
        with contextlib.suppress(CoherenceError, OSError):
            self._pass()

    def shut(self, forget: Callable[[], None]) -> None:
        """Close the volume: finish the clean-up, *forget* what is in memory, let go."""
        parts = self._parts
        for end in parts.on_close:
            end()
        for lease in list(parts.leases):
            with contextlib.suppress(CoherenceError, OSError):
                lease.release()
        self.stop()
        forget()
        with contextlib.ExitStack() as stack:
            # Without the gate in time its holder has the database open: then
            # this close is not the last one, and touches no log. What another
            # thread of this process is using stays open.
            with contextlib.suppress(CoherenceError):
                stack.enter_context(parts.gate.held(_CLOSE_WAIT_S))
                database, name = parts.sidecar.database, parts.session.name
                parts.meters.flush(database, name, closing=True)
            parts.sidecar.database.close(alone=parts.gate.is_mine)
        parts.gate.close()
        parts.close()

    def become_child(self) -> None:
        """After a fork, in the child: the thread is not there."""
        self._starting = threading.RLock()
        self._thread = None
        self._wanted = threading.Event()
        self._stopped = threading.Event()


def collect_orphans(parts: VolumeParts) -> None:
    """Clean up after dead processes, and sweep refusals that are too old."""
    # In this order: whatever is found in the first look belongs to a process
    # that was announced before it; one that is dead in the second look can
    # publish nothing more, so its records in the third are final.
    stages = os.listdir(parts.staging.staging)
    objects = os.listdir(parts.staging.objects)
    alive = {str(entry["token"]) for entry in presences(parts.directory) if entry["alive"]}
    alive.add(parts.staging.token)
    recorded = parts.sidecar.all_installs()
    for key, record in recorded:
        if record.stage.partition(".")[0] not in alive:
            # Judge it first: it may be unfinished, or hold foreign bytes.
            with contextlib.suppress(CoherenceError, OSError), settled_heads(parts, [key]):
                parts.displaced.append(Displaced(record))
                if parts.durable:
                    parts.unsynced_directories.add(key.rpartition(b"/")[0])
    names = {record.stage for _, record in recorded}
    for stage in stages:
        if stage.partition(".")[0] not in alive and stage not in names:
            parts.staging.discard(stage)
    needed = parts.sidecar.objects() if objects else set()
    for name in objects:
        owner = name.split(".")[1] if name.count(".") > 1 else ""
        if owner not in alive and name not in needed:
            parts.staging.drop_object(name)
    sweep(parts)
