"""One command, from its words to its exit code: the entry point.

The only place that catches errors. It imports almost nothing: the parser, the
verb and the failure report are each imported when this command needs them.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from cli import fast, verbs
from cli.call import Call

__all__ = ["main"]


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; never raises."""
    given = list(sys.argv[1:] if words is None else words)
    call: Call | None = None
    try:
        call = fast.parse(given)
        if call is None:
            call = import_module("cli.app").parse(given)
        return _run(call) if call is not None else 0
    except SystemExit:
        # The completion protocol of the parser ends this way.
        raise
    except BaseException as error:  # noqa: BLE001 - the one place where all errors end
        # From here on a second Ctrl-C ends the process at once and in silence.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        as_json = call.common.json if call is not None else "--json" in given
        status: int = import_module("cli.failures").report(error, as_json=as_json)
        return status


def _run(call: Call) -> int:
    reply = verbs.run(call)
    if reply is None:
        return 0
    streams = import_module("cli.streams")
    if call.common.json:
        streams.emit(import_module("cli.render").to_json(reply.fields, ok=reply.status == 0))
    else:
        streams.emit(reply.text())
    return reply.status
