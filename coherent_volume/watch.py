"""Hints that something happened on disk: the one home of watchdog.

Owns the observer of one volume. A hint says "look here", never what to find:
everything is looked up again by whoever takes it, so lost, late and doubled
hints cost time and never correctness. Watches the sidecar's directory (each
commit writes its log there) and, apart from it, the managed directories. Opens
and reads no file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Hints", "prepare", "start"]

_log = logging.getLogger("coherent_volume")

_TREES_MAX = 16
"""Each tree that is watched apart costs a thread; beyond this the root is watched
as one, with everything in it that is not wanted."""
_POLL_S = 1.0
_JOIN_S = 2.0

# The process in which watchdog's kernel queue was made first. It lives in a
# thread that a forked child does not have, so a child falls back to polling.
_first_user: int | None = None
_told: set[str] = set()
# When an observer is stopped its threads may complain of each other; without a
# handler that would go to standard error.
logging.getLogger("watchdog").addHandler(logging.NullHandler())


class Hints:
    """A running observer. ``stop`` ends its threads; ``abandon`` forgets them in a child."""

    def __init__(self, observer: Any, *, polls: bool) -> None:
        self._observer = observer
        self.polls = polls

    def stop(self) -> None:
        """End the observation; may be called by any thread, more than once."""
        observer, self._observer = self._observer, None
        if observer is not None:
            with contextlib.suppress(Exception):
                observer.stop()
                if threading.current_thread() is not observer:
                    observer.join(_JOIN_S)

    def abandon(self) -> None:
        """In a forked child: the threads are the parent's."""
        self._observer = None


def prepare() -> None:
    """Import what ``start`` needs, so that a thread that is to start it imports nothing.

    What one thread is importing while another one forks can never be imported by the
    child: the module's lock has an owner that does not exist there.
    """
    from watchdog import events  # noqa: F401
    from watchdog.observers import inotify, polling  # noqa: F401


def start(
    root: str,
    sidecar: str,
    never: frozenset[str],
    on_commit: Callable[[], None],
    on_path: Callable[[str, bool], None],
) -> Hints | None:
    """Observe *root* without the names in *never*, and the files of *sidecar*.

    *on_commit* is called when the sidecar's log was written, *on_path* with each
    absolute path that something happened to, and whether it is a directory. Both
    are called by a thread of the observer. Where the kernel's watches are used
    up, file times are compared every second, and a warning says so once; None
    where not even that can be had.
    """
    global _first_user  # noqa: PLW0603 - a fact about the process
    # Two threads may both write it, and write the same. No lock: a fork could keep it.
    _first_user = _first_user or os.getpid()
    if _first_user == os.getpid():
        try:
            return _observe(_kernel_observer(), root, sidecar, never, on_commit, on_path)
        except OSError as error:
            _warn("watching by comparing file times: %s", error.strerror or str(error))
    try:
        return _observe(_polling_observer(), root, None, never, on_commit, on_path)
    except OSError as error:
        _warn("foreign edits are adopted by the next reader: %s", error.strerror or str(error))
        return None


def _warn(text: str, reason: str) -> None:
    if text not in _told:
        _told.add(text)
        _log.warning(text, reason)


def _kernel_observer() -> Any:
    from watchdog.observers.inotify import InotifyObserver

    return InotifyObserver()


def _polling_observer() -> Any:
    from watchdog.observers.polling import PollingObserver

    return PollingObserver(timeout=_POLL_S)


class _Commits:
    """Takes what happens to the files of the sidecar."""

    def __init__(self, on_commit: Callable[[], None]) -> None:
        self._on_commit = on_commit

    def dispatch(self, event: object) -> None:  # noqa: ARG002 - what happened is looked up
        """Called by the observer."""
        self._on_commit()


class _Paths:
    """Takes what happens below a directory."""

    def __init__(self, on_path: Callable[[str, bool], None]) -> None:
        self._on_path = on_path

    def dispatch(self, event: Any) -> None:
        """Called by the observer."""
        for path in filter(None, (event.src_path, event.dest_path)):
            self._on_path(os.fsdecode(path), event.is_directory)


class _Root:
    """The root itself: a directory that appears in it is watched from then on."""

    def __init__(
        self,
        observer: Any,
        root: str,
        never: frozenset[str],
        on_path: Callable[[str, bool], None],
        kinds: list[Any],
    ) -> None:
        self._observer = observer
        self._root = root
        self._never = never
        self._on_path = on_path
        self._kinds = kinds
        self._watches: dict[str, Any] = {}

    def schedule(self) -> None:
        """Watch the root and every directory in it; raises OSError when that fails."""
        with os.scandir(self._root) as entries:
            trees = [each.path for each in entries if self._is_tree(each.path)]
        options = {"event_filter": self._kinds}
        if len(trees) > _TREES_MAX:
            handler = _Paths(self._on_path)
            self._observer.schedule(handler, self._root, recursive=True, **options)
            return
        self._observer.schedule(self, self._root, recursive=False, **options)
        for tree in trees:
            self._watch(tree)

    def dispatch(self, event: Any) -> None:
        """Called by the observer."""
        for path in map(os.fsdecode, filter(None, (event.src_path, event.dest_path))):
            if event.is_directory and path != self._root and self._is_tree(path):
                with contextlib.suppress(OSError):
                    self._watch(path)
            self._on_path(path, event.is_directory)

    def _is_tree(self, path: str) -> bool:
        if os.path.basename(path) in self._never or os.path.islink(path):
            return False
        return os.path.isdir(path)

    def _watch(self, path: str) -> None:
        if path in self._watches:
            # Removed and made again: the watch ended with the directory before.
            with contextlib.suppress(KeyError):
                self._observer.unschedule(self._watches.pop(path))
        self._watches[path] = self._observer.schedule(
            _Paths(self._on_path), path, recursive=True, event_filter=self._kinds
        )


def _observe(
    observer: Any,
    root: str,
    sidecar: str | None,
    never: frozenset[str],
    on_commit: Callable[[], None],
    on_path: Callable[[str, bool], None],
) -> Hints:
    from watchdog import events

    kinds: list[Any] = [
        events.FileCreatedEvent,
        events.FileModifiedEvent,
        events.FileClosedEvent,
        events.FileMovedEvent,
        events.FileDeletedEvent,
        events.DirCreatedEvent,
        events.DirMovedEvent,
        events.DirDeletedEvent,
    ]
    # Started first: what is scheduled on a running observer fails here and now.
    observer.start()
    try:
        if sidecar is not None:
            written = [events.FileModifiedEvent]
            observer.schedule(_Commits(on_commit), sidecar, recursive=False, event_filter=written)
        _Root(observer, root, never, on_path, kinds).schedule()
    except BaseException:
        observer.stop()
        raise
    return Hints(observer, polls=sidecar is None)
