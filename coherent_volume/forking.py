"""Forks: no database connection survives one, and no child speaks for its parent.

Owns the fork hooks. Before a fork every open volume closes its connections
under its gate (SQLite's table of locks would lie in the child); afterwards
parent and child open their own at the next use, and the child takes a new
identity. ``subprocess`` does not come here: it executes at once.
"""

from __future__ import annotations

import contextlib
import os
import weakref

from coherent_volume.database import Database
from coherent_volume.errors import CoherenceError
from coherent_volume.locks import FairLock
from coherent_volume.parts import VolumeParts

__all__ = ["watch_forks"]

_WAIT_S = 2.0

_open_volumes: weakref.WeakSet[VolumeParts] = weakref.WeakSet()
_held: list[FairLock] = []
_closed: list[Database] = []


def watch_forks(parts: VolumeParts) -> None:
    """Keep *parts* sound over forks for as long as it lives."""
    _open_volumes.add(parts)


def _before() -> None:
    # Two volumes of one process on one root have two gate descriptors: taking
    # both would wait for ourselves.
    directories: set[str] = set()
    for parts in list(_open_volumes):
        if parts.directory not in directories:
            directories.add(parts.directory)
            # Without the gate in time: its holder has the database open, so
            # this close is not the last one and touches no log.
            with contextlib.suppress(CoherenceError):
                parts.gate.acquire(_WAIT_S)
                _held.append(parts.gate)
        parts.sidecar.database.close_for_fork()
        _closed.append(parts.sidecar.database)


def _in_parent() -> None:
    while _closed:
        _closed.pop().forked()
    while _held:
        _held.pop().release()


def _in_child() -> None:
    # The gate's own hook has let go of the inherited descriptor already;
    # releasing it here would unlock it for the parent as well.
    _held.clear()
    _closed.clear()
    for parts in list(_open_volumes):
        parts.become_child()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
