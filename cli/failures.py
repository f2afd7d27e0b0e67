"""Every way in which a command can fail: what it says, and its exit code.

Imported only when something failed. A traceback is shown to nobody who did not
ask for it with COHERENT_DEBUG=1.
"""

from __future__ import annotations

import os
import signal
import traceback
from typing import Any

from cli.call import CommandLineError
from cli.derive import CommandError
from cli.exit_codes import INPUT_OUTPUT, INTERNAL, USAGE, exit_code
from cli.render import plain, to_json
from cli.streams import StreamError, abandon_output, die_by, emit, warn
from cli.termination import Terminated
from coherent_volume.errors import CoherenceError, printable

__all__ = ["report"]


def report(error: BaseException, *, as_json: bool) -> int:
    """Say what *error* means; the exit code. May end the process by a signal."""
    if os.environ.get("COHERENT_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        return die_by(signal.SIGINT)
    if isinstance(error, Terminated):
        return die_by(error.number)
    if isinstance(error, StreamError) and error.broken_pipe:
        abandon_output()
        return die_by(signal.SIGPIPE)
    fields, text, status = _told(error)
    if not as_json or isinstance(error, StreamError):
        warn(text)
        abandon_output()
        return status
    try:
        emit(to_json({**fields, "exit_code": status}, ok=False))
    except StreamError as broken:
        warn(text)
        return report(broken, as_json=False)
    return status


def _told(error: BaseException) -> tuple[dict[str, Any], str, int]:
    """The fields, the text and the exit code of *error*."""
    if isinstance(error, CoherenceError):
        return error.as_dict(), plain(str(error)), exit_code(error)
    if isinstance(error, CommandError):
        return error.as_dict(), str(error), error.status
    if isinstance(error, CommandLineError):
        fields = _fields("CommandLineError", "usage", error.message, error.advice)
        return fields, plain(f"{error.message}\n{error.advice}"), USAGE
    if isinstance(error, StreamError):
        return _fields("StreamError", "input_output", str(error)), plain(str(error)), INPUT_OUTPUT
    if isinstance(error, OSError):
        what = error.strerror or str(error) or type(error).__name__
        if error.filename is not None:
            what = f"{error.filename}: {what}"
        return _fields("OSError", "input_output", what), plain(what), INPUT_OUTPUT
    what = f"internal error: {type(error).__name__}: {error} (COHERENT_DEBUG=1 shows where)"
    return _fields("InternalError", "internal", what), printable(what), INTERNAL


def _fields(error: str, reason: str, message: str, advice: str = "") -> dict[str, Any]:
    """The form of ``CoherenceError.as_dict`` for what is none."""
    return {
        "error": error,
        "reason": reason,
        "path": None,
        "message": message,
        "advice": advice,
    }
