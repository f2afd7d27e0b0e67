"""Forks: no database connection survives one, and no child speaks for its parent.

Owns the fork hooks. Before a fork every open volume closes its connections
under its gate (SQLite's table of locks would lie in the child); afterwards
parent and child open their own at the next use, and the child takes a new
identity. A connection that another thread goes on using stays open, and the child
is refused that database. ``subprocess`` does not come here: it executes at once.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import pkgutil
import signal
import threading
import weakref
from collections.abc import Iterator
from importlib import import_module

from coherent_volume.database import Database
from coherent_volume.errors import CoherenceError
from coherent_volume.locks import FairLock
from coherent_volume.parts import VolumeParts
from coherent_volume.weak import members

__all__ = ["watch_forks"]

_WAIT_S = 2.0
_ELSEWHERE = ("tempfile", "portalocker", "filelock")
"""What modules of the library import when it is needed, beside each other."""

_open_volumes: weakref.WeakSet[VolumeParts] = weakref.WeakSet()
_held: list[FairLock] = []
_closed: list[Database] = []
"""Each is entered before it is taken; what was not taken is let go in vain."""
_interrupts: list[int] = []
_swallowed: list[BaseException] = []


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
    _swallowed.clear()
    _interrupts.clear()
    with _going_on():
        if _open_volumes and threading.active_count() > 1:
            _import_all()
    # Two volumes of one process on one root have two gate descriptors: taking
    # both would wait for ourselves.
    directories: set[str] = set()
    for parts in members(_open_volumes):
        with _going_on():
            if parts.directory not in directories and not parts.gate.is_mine:
                directories.add(parts.directory)
                _held.append(parts.gate)
                parts.gate.acquire(_WAIT_S)
        # Without the gate in time: its holder has the database open, so this close
        # is not the last one and touches no log. What another thread of this
        # process is using stays open, and is of no use to the child.
        with _going_on():
            _closed.append(parts.sidecar.database)
            parts.sidecar.database.close_for_fork(alone=parts.gate.is_mine)


@contextlib.contextmanager
def _going_on() -> Iterator[None]:
    """An interrupt ends one step of the hook and no more: nobody hears of it here."""
    try:
        yield
    except CoherenceError:
        pass
    except BaseException as error:  # noqa: BLE001 - told when the fork is over
        if not (isinstance(error, KeyboardInterrupt) and callable(signal.getsignal(signal.SIGINT))):
            _swallowed.append(error)
            return
        _interrupts.append(signal.SIGINT)
        # Whatever a hook raises is printed and lost. Without a frame of Python, and
        # after all other hooks, this raises it anew where the fork returns.
        again = functools.partial(sorted, _interrupts, key=_thread.interrupt_main)
        os.register_at_fork(after_in_parent=again)


def _in_parent() -> None:
    while _closed or _held:
        with _going_on():
            while _closed:
                _closed[-1].forked()
                _closed.pop()
            while _held:
                _held[-1].release()
                _held.pop()
    if _swallowed:
        raise _swallowed.pop()


def _in_child() -> None:
    # The gate's own hook has let go of the inherited descriptor already;
    # releasing it here would unlock it for the parent as well.
    _held.clear()
    _closed.clear()
    for parts in members(_open_volumes):
        parts.become_child()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
