"""Being told to end: a signal that is an exception first, so that nothing is lost unnamed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["Terminated", "told_to_end", "unbroken"]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class _Waiting:
    """A signal that came in a block that must not be broken off."""

    blocks = 0
    came: signal.Signals | None = None


_waiting = _Waiting()


class Terminated(BaseException):
    """A signal asked this process to end; it ends by that signal after it cleaned up."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def told_to_end() -> Iterator[None]:
    """During the block SIGTERM and SIGHUP raise Terminated, once; ignored ones stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    ours = [each for each in _SIGNALS if signal.getsignal(each) is signal.SIG_DFL]
    for each in ours:
        signal.signal(each, _terminate)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Let a signal wait for the end of the block: what is begun in it gets its name.

    A process that is being started would be left running by an exception that comes
    between its start and the line that could end it.
    """
    _waiting.blocks += 1
    try:
        yield
    finally:
        _waiting.blocks -= 1
        came, _waiting.came = _waiting.came, None
    if came is not None:
        raise Terminated(came)


def _terminate(number: int, _frame: FrameType | None) -> None:
    # A second one must not end the clean-up that the first one began.
    for each in _SIGNALS:
        if signal.getsignal(each) is _terminate:
            signal.signal(each, signal.SIG_IGN)
    if _waiting.blocks:
        _waiting.came = signal.Signals(number)
        return
    raise Terminated(signal.Signals(number))
