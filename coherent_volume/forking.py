"""Forks: no database connection survives one, and no child speaks for its parent.

Owns the fork hooks. Before a fork every open volume closes its connections
under its gate (SQLite's table of locks would lie in the child); afterwards
parent and child open their own at the next use, and the child takes a new
identity. ``subprocess`` does not come here: it executes at once.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import threading
import weakref
from importlib import import_module

from coherent_volume.database import Database
from coherent_volume.errors import CoherenceError
from coherent_volume.locks import FairLock
from coherent_volume.parts import VolumeParts

__all__ = ["watch_forks"]

_WAIT_S = 2.0
_ELSEWHERE = ("tempfile", "portalocker", "filelock")
"""What modules of the library import when it is needed, beside each other."""

_open_volumes: weakref.WeakSet[VolumeParts] = weakref.WeakSet()
_held: list[FairLock] = []
_closed: list[Database] = []


def watch_forks(parts: VolumeParts) -> None:
    """Keep *parts* sound over forks for as long as it lives."""
    _open_volumes.add(parts)


def _import_all() -> None:
    """What another thread is importing during the fork, a child could never import.

    Its lock would be held there by a thread that is gone. So nothing is left to import.
    """
    package = __package__ or ""
    here = [
        f"{package}.{each.name}" for each in pkgutil.iter_modules(import_module(package).__path__)
    ]
    for name in (*here, *_ELSEWHERE):
        with contextlib.suppress(ImportError, OSError):  # no free descriptor
            import_module(name)


def _before() -> None:
    if _open_volumes and threading.active_count() > 1:
        _import_all()
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
