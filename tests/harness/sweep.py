"""Kill one operation at each of its moments: at named points, and at system calls.

A ``Nursery`` is a process that has imported everything and holds nothing. It
forks one child for each job, so that hundreds of fresh processes cost little.
``strace`` finds the system calls of a piece of work and injects a signal or an
error into one of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.harness.processes import say

__all__ = [
    "Call",
    "Ended",
    "Nursery",
    "PointHook",
    "attach",
    "begin",
    "calls_in",
    "end",
    "injected",
    "why_no_strace",
]

REPOSITORY = Path(__file__).resolve().parent.parent.parent


# ── fresh processes by the hundred ───────────────────────────────────────────


@dataclass(frozen=True)
class Ended:
    """How a job ended: ``status`` is negative when a signal ended it."""

    status: int
    events: list[dict[str, Any]]

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        return [line for line in self.events if line["event"] == event]

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -signal.SIGKILL

    @property
    def result(self) -> Any:
        """What the function returned; a job that ended otherwise fails the test."""
        assert self.status == 0, (self.status, self.events)
        return self.said("result")[0]["value"]

    @property
    def reached(self) -> list[str]:
        """The points that it came to, if it had a ``PointHook``."""
        return [line["name"] for line in self.said("reached")]


class Nursery:
    """Forks a fresh child for every job; the child has no thread and no volume."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", "from tests.harness.sweep import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def __call__(self, work: Callable[..., Any], **arguments: Any) -> Ended:
        """Run *work*, a function of a module, in a child of its own to its end."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        order = [work.__module__, work.__qualname__, arguments]
        self._popen.stdin.write(json.dumps(order, default=os.fspath).encode() + b"\n")
        self._popen.stdin.flush()
        line = self._popen.stdout.readline()
        assert line, "the nursery died"
        status, events = json.loads(line)
        return Ended(status, events)


def serve() -> None:
    """In the nursery: fork for every order, and answer how it ended."""
    become_subreaper = 36
    ctypes.CDLL(None).prctl(become_subreaper, 1, 0, 0, 0)
    while line := sys.stdin.readline():
        module, name, arguments = json.loads(line)
        work = getattr(importlib.import_module(module), name)
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(writable, 1)
            os._exit(_do(work, arguments))
        os.close(writable)
        with os.fdopen(readable, "rb") as pipe:
            # A line that the killed child did not end was never said.
            *lines, _unfinished = pipe.read().split(b"\n")
        _, status = os.waitpid(pid, 0)
        # What the child started has become ours: its tracer must have written all.
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        answer = [os.waitstatus_to_exitcode(status), [json.loads(each) for each in lines]]
        print(json.dumps(answer), flush=True)


def _do(work: Callable[..., Any], arguments: dict[str, Any]) -> int:
    try:
        say("result", value=work(**arguments))
    except BaseException:  # noqa: BLE001 - nothing may escape into the nursery
        say("failed", traceback=traceback.format_exc())
        return 1
    return 0


class PointHook:
    """Says each point that is reached; edits at one of them; dies at one of them."""

    def __init__(
        self,
        kill: tuple[str, int] | None,
        edit: tuple[str, int] | None = None,
        editor: Callable[[], None] = lambda: None,
    ) -> None:
        self._kill, self._edit, self._editor = kill, edit, editor
        self._counts: Counter[str] = Counter()

    def __call__(self, name: str) -> None:
        self._counts[name] += 1
        here = (name, self._counts[name])
        say("reached", name=name)
        if here == self._edit:
            self._editor()
            say("edited")
        if here == self._kill:
            os.kill(os.getpid(), signal.SIGKILL)


# ── system calls ─────────────────────────────────────────────────────────────

# What changes anything outside the process, or asks for it. Reads are left out:
# a process that dies in one has changed nothing since the call before.
CHANGING = (
    "openat,openat2,write,pwrite64,ftruncate,fsync,fdatasync,sync_file_range,rename,renameat,"
    "renameat2,unlink,unlinkat,mkdir,mkdirat,fchmod,fchown,fsetxattr,fremovexattr,fcntl,flock,"
    "copy_file_range,utimensat,fallocate,close"
)
_MARKS = "/marked/begin", "/marked/end"
_ATTACHED = "/marked/attached"
_LINE = re.compile(r"^(\w+)\((.*)")


@dataclass(frozen=True)
class Call:
    """The *ordinal*-th call of *name* by the traced thread; ``shown`` is for people.

    strace counts the calls of each name apart, not those of the whole set.
    """

    name: str
    ordinal: int
    shown: str


def begin() -> None:
    """In the traced process: the work to be swept starts here."""
    os.access(_MARKS[0], os.F_OK)


def end() -> None:
    """In the traced process: the work to be swept ended here."""
    os.access(_MARKS[1], os.F_OK)


def why_no_strace() -> str | None:
    """Why system calls cannot be traced here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "true"], capture_output=True, check=False)
    return None if done.returncode == 0 else "tracing is not permitted: " + done.stderr.decode()


def attach(log: str, injection: list[str]) -> None:
    """In a nursery's child: be traced from here on, into *log*.

    Attached to the running process, and not starting one, so that what is swept
    is a hundredth of what is traced otherwise, and every run is like the other.
    """
    trace = f"--trace={CHANGING},access,faccessat,faccessat2"
    with open("/proc/self/status", "rb", buffering=0) as status:
        _let_anybody_trace()
        words = ["strace", "-q", "-o", log, trace, *injection, "-p", str(os.getpid())]
        silence = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        # The nursery waits for its end, not this process, which may be killed.
        os.posix_spawnp(words[0], words, os.environ, file_actions=silence)
        # Looked at by calls that are not counted.
        while b"TracerPid:\t0\n" in os.pread(status.fileno(), 1 << 14, 0):
            time.sleep(0.001)
    # It has a tracer before it has stopped for it: what is done until then is not seen.
    while not (os.access(_ATTACHED, os.F_OK) or os.stat(log).st_size):
        time.sleep(0.001)


def _let_anybody_trace() -> None:
    """Some systems let a process be traced by its ancestors only, unless it says so."""
    set_ptracer, anybody = 0x59616D61, ctypes.c_ulong(-1)
    ctypes.CDLL(None).prctl(set_ptracer, anybody, 0, 0, 0)


def calls_in(log: Path) -> list[Call]:
    """The calls of a traced run between the marks."""
    return list(_between(log))


def _between(log: Path) -> Iterator[Call]:
    counts: Counter[str] = Counter()
    inside = False
    for line in log.read_text(errors="replace").splitlines():
        found = _LINE.match(line)
        if not found:
            continue
        name, rest = found.groups()
        counts[name] += 1
        if any(mark in rest for mark in _MARKS):
            inside = _MARKS[0] in rest
        elif inside:
            yield Call(name, counts[name], rest)


def injected(log: Path, what: str) -> bool:
    """Whether *what* (as strace says it) came between the marks, and nowhere else."""
    text = log.read_text(errors="replace")
    before, _, after = text.partition(_MARKS[0])
    if "error" in what:
        return "(INJECTED)" in after.partition(_MARKS[1])[0] and "(INJECTED)" not in before
    return "+++ killed by SIGKILL" in after and _MARKS[1] not in after
