"""Standard output and standard error, and what happens when they break.

A failure of our own streams is raised as StreamError and never as OSError,
because the library rightly takes an OSError that passes through it for trouble
with the volume.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterable

from cli.call import PROGRAM

__all__ = ["Output", "StreamError", "abandon_output", "die_by", "emit", "warn"]


class StreamError(Exception):
    """A stream of this process failed: ``stream`` and the system's ``error``."""

    def __init__(self, stream: str, error: OSError) -> None:
        super().__init__(f"{stream}: {error.strerror or error}")
        self.stream = stream
        self.error = error

    @property
    def broken_pipe(self) -> bool:
        """Whether the reader of our output went away, which is its good right."""
        return self.error.errno == errno.EPIPE


class Output:
    """Standard output as a sink of bytes: it takes everything or raises StreamError."""

    _NAME = "standard output"

    def __init__(self) -> None:
        if sys.stdout is None:
            raise StreamError(self._NAME, OSError(errno.EBADF, "it is closed"))
        self._file = sys.stdout.buffer

    def write(self, data: bytes | memoryview) -> int:
        """Hand on all of *data*."""
        # An unbuffered stream (PYTHONUNBUFFERED) takes what fits the pipe and
        # says how much; a single call would cut large content short.
        rest = memoryview(data)
        while rest:
            try:
                taken = self._file.write(rest)
            except OSError as error:
                raise StreamError(self._NAME, error) from error
            if taken is None:
                raise StreamError(self._NAME, OSError(errno.EAGAIN, "it is full and not blocking"))
            rest = rest[taken:]
        return len(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Hand on all *pieces*."""
        for piece in pieces:
            self.write(piece)

    def flush(self) -> None:
        """Return when the system has taken everything written so far."""
        try:
            self._file.flush()
        except OSError as error:
            raise StreamError(self._NAME, error) from error


def emit(text: str) -> None:
    """Print *text*, or raise StreamError; what the encoding lacks is escaped."""
    if not text:
        return
    output = Output()
    output.write(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
    output.flush()


def warn(text: str) -> None:
    """Say *text* on standard error in the program's name; never fails."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"{PROGRAM}: {text}\n")
        sys.stderr.flush()
    except OSError:
        # Whoever closed standard error still has the exit code.
        pass


def abandon_output() -> None:
    """Let the interpreter end without a second complaint about a broken output."""
    if sys.stdout is None:
        return
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
    except OSError:
        # No null device or no descriptor left: one more line on stderr, no harm.
        pass


def die_by(number: signal.Signals) -> int:
    """End this process by signal *number*; returns 128 + number where that cannot be.

    A shell stops its loop on Ctrl-C only when the command really died by the
    signal; a command that merely exits with 130 lets the loop go on.
    """
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number
