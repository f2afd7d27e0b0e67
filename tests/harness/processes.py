"""Many real processes at once, to be killed at any moment.

A worker is a Python process that runs one function of a module and speaks JSON
lines. They go to a file and not through a pipe: what a worker said stays said
when it is killed, and it never waits for a reader. For a dialogue between a
test and one child, the fixture ``process`` is the simpler tool.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

__all__ = ["Worker", "Workers", "say", "until"]

_Answer = TypeVar("_Answer")
_DEADLINE_S = 60.0

_CALL = """\
import importlib, json, sys
work = importlib.import_module(sys.argv[1])
for name in sys.argv[2].split("."):
    work = getattr(work, name)
work(**json.loads(sys.argv[3]))
"""


def say(event: str, **fields: Any) -> None:
    """In a worker: one line to the test, in one system call, so that no kill splits it."""
    os.write(1, (json.dumps({"event": event, **fields}) + "\n").encode())


def until(condition: Callable[[], _Answer], what: str, deadline_s: float = _DEADLINE_S) -> _Answer:
    """The first true answer of *condition*; AssertionError after the deadline."""
    end = time.monotonic() + deadline_s
    while not (answer := condition()):
        assert time.monotonic() < end, f"waited {deadline_s:g} s in vain: {what}"
        time.sleep(0.002)
    return answer


class Worker:
    """One process. Everything it said so far is in ``said()``."""

    def __init__(self, work: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.name = f"{work.__module__}.{work.__qualname__}"
        self.popen = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _CALL,
                work.__module__,
                work.__qualname__,
                json.dumps(arguments, default=os.fspath),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.pid = self.popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def said(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines so far, or those of one event."""
        size = os.fstat(self._output.fileno()).st_size
        *lines, _unfinished = os.pread(self._output.fileno(), size, 0).split(b"\n")
        records = [json.loads(line) for line in lines]
        return [r for r in records if event is None or r["event"] == event]

    def wait_for(self, event: str, deadline_s: float = _DEADLINE_S) -> dict[str, Any]:
        """Wait until it said *event*; the first such line."""

        def look() -> list[dict[str, Any]]:
            found = self.said(event)
            assert found or self.running, f"{self.name} ended early:\n{self.complaint()}"
            return found

        return until(look, f"{self.name} says {event}", deadline_s)[0]

    def finish(self, deadline_s: float = _DEADLINE_S) -> list[dict[str, Any]]:
        """Wait for its end, which must be a good one; all lines."""
        status = self.popen.wait(deadline_s)
        assert status == 0, f"{self.name} ended with {status}:\n{self.complaint()}"
        return self.said()

    def kill(self) -> None:
        """End it as ``kill -9`` does, and wait until it is gone."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()

    def complaint(self) -> str:
        """What it wrote to its standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), size, 0).decode(errors="replace")

    def dispose(self) -> None:
        """Leave nothing behind."""
        if self.running:
            self.kill()
        self._output.close()
        self._errors.close()


class Workers:
    """Workers of one test; none outlives the with-block."""

    def __init__(self) -> None:
        self.all: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.all:
            worker.dispose()

    def start(self, work: Callable[..., Any], **arguments: Any) -> Worker:
        """Start *work*, a function of a module, with *arguments*, which travel as JSON."""
        self.all.append(Worker(work, arguments))
        return self.all[-1]

    def finish(self, deadline_s: float = _DEADLINE_S) -> list[dict[str, Any]]:
        """Wait for the good end of all that were not killed; the lines of all."""
        for worker in self.all:
            if worker.popen.poll() != -signal.SIGKILL:
                worker.finish(deadline_s)
        return [record for worker in self.all for record in worker.said()]
