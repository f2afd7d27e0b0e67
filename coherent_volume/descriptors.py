"""Descriptors that a forked child must not keep: it closes its copies at once.

Owns the list of them, of all threads of this process. A copy in a child would keep a
lock, a lease or a file's "open for writing" alive after the parent has let go, or has
died. Whoever opens such a file enters it here in the same moment, and closes it here.
"""

from __future__ import annotations

import contextlib
import os
import threading

__all__ = ["dismiss", "enter", "no_fork", "opened"]

_entered: set[int] = set()

no_fork = threading.RLock()
"""Held over "open and enter" and over "strike off and close", and over a fork.

A fork between the two would give the child a descriptor that it does not know of, or
let it close one of the application's that got the same number. Reentrant, for a signal
handler that uses the volume. Nothing else is taken or waited for under it.
"""

enter = _entered.add
"""Enter a descriptor, under ``no_fork`` together with what opened it."""


def opened(path: str | bytes, flags: int, mode: int = 0o600, directory: int | None = None) -> int:
    """Open and enter a file; ``dismiss`` closes it. Raises OSError."""
    with no_fork:
        descriptor = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=directory)
        _entered.add(descriptor)
    return descriptor


def dismiss(descriptor: int) -> None:
    """Strike off and close it; raises OSError, and then it is closed all the same."""
    with no_fork:
        if descriptor in _entered:  # else a child that goes on has closed its copy
            _entered.discard(descriptor)
            os.close(descriptor)


def _after_fork_in_child() -> None:
    for descriptor in _entered:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _entered.clear()
    no_fork.release()


os.register_at_fork(
    before=no_fork.acquire,
    after_in_parent=no_fork.release,
    after_in_child=_after_fork_in_child,
)
