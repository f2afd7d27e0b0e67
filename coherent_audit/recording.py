"""A recorded run: its operations, and the JSON lines they are kept in.

Owns the format. Each operation is two lines, one written before it starts and
one after it has ended, each in one system call; so an operation whose process
was killed has its first line only. Judges nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

__all__ = [
    "ABSENT",
    "Access",
    "Operation",
    "Recorder",
    "RecordingError",
    "Violation",
    "fingerprint",
    "load",
]

ABSENT = "absent"
"""The fingerprint of a file that is not there."""

_KINDS = ("read", "commit", "foreign", "transaction")
_OUTCOMES = ("done", "refused", "unknown")


def fingerprint(data: bytes) -> str:
    """A name for *data*: its own text when short, else a digest of it."""
    if len(data) <= 24 and data.isascii():
        return f"={data.decode()}"
    return hashlib.sha256(data).hexdigest()[:24]


class RecordingError(Exception):
    """A line of a recorded run that is none; the file and the line are in the message."""


@dataclass(frozen=True, slots=True)
class Access:
    """One artifact's part in a transaction: what was read of it, or written to it."""

    path: str
    generation: int | None = None
    base: int | None = None
    derived_from: str | None = None
    content: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that one process did or tried.

    ``kind``: read, commit, foreign (an edit that bypasses the library), or
    transaction (``reads`` and ``writes`` name its artifacts, ``path`` is empty).
    ``outcome``: done, refused (nothing changed), or unknown (killed on the way).
    ``derived_from``: the bytes its author had in hand, where the recorder knows.
    ``content``: the bytes read or written, None where nobody can know them (an
    append adds to what it never saw). ``repeats``: the library tries again by
    itself, so a try that an outsider's edit raced may stand in the history too.
    """

    kind: str
    path: str
    started: int
    ended: int | None = None
    outcome: str = "done"
    generation: int | None = None
    base: int | None = None
    derived_from: str | None = None
    content: str | None = None
    session: str = ""
    process: int = 0
    note: str = ""
    repeats: bool = False
    reads: tuple[Access, ...] = ()
    writes: tuple[Access, ...] = ()

    def __str__(self) -> str:
        """What of it is known, on one line."""
        left_out = {"kind", "started", "ended", "path"}
        known = (
            f"{each.name}={value!r}"
            for each in fields(self)
            if each.name not in left_out
            and (value := getattr(self, each.name)) not in (None, "", ())
            and value is not False
        )
        return f"{self.started}..{self.ended or ''} {self.kind} {self.path} {' '.join(known)}"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that cannot be, with the operations that show it."""

    rule: str
    path: str
    text: str
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        """The violation on its first line, one operation on each further one."""
        shown = "".join(f"\n    {operation}" for operation in self.operations)
        return f"{self.rule}: {self.path}: {self.text}{shown}"


# ── recording ────────────────────────────────────────────────────────────────


class Recorder:
    """The operations of one process, in a file that survives its kill.

    Several recorders, also of several processes, may share one file.
    """

    def __init__(self, file: str | os.PathLike[str], session: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(os.fspath(file), flags, 0o644)
        self._session = session
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def operation(self, kind: str, path: str = "", **known: Any) -> Iterator[dict[str, Any]]:
        """Record one operation; the block fills in what it learns.

        A block that is left by an exception, or never, leaves an operation of
        unknown outcome behind.
        """
        number = next(self._numbers)
        learned: dict[str, Any] = {"outcome": "done"}
        self._write(number, {"kind": kind, "path": path, "started": time.monotonic_ns(), **known})
        yield learned
        self._write(number, {"ended": time.monotonic_ns(), **learned})

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _write(self, number: int, known: dict[str, Any]) -> None:
        line = {"number": number, "process": os.getpid(), "session": self._session, **known}
        os.write(self._descriptor, (json.dumps(line) + "\n").encode())


# ── reading ──────────────────────────────────────────────────────────────────


def load(files: Iterable[str | os.PathLike[str]]) -> list[Operation]:
    """All operations in *files*, by the time they started.

    A last line without an end was never said. Raises OSError, RecordingError.
    """
    operations: list[Operation] = []
    for file in files:
        with open(file, "rb") as opened:
            *lines, _unfinished = opened.read().split(b"\n")
        operations += _operations(os.fspath(file), lines)
    return sorted(operations, key=lambda operation: operation.started)


def _operations(file: str, lines: Iterable[bytes]) -> Iterator[Operation]:
    begun: list[tuple[int, dict[str, Any]]] = []
    latest: dict[tuple[int, int], dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = json.loads(line)
            key = (int(record["process"]), int(record.pop("number")))
        except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError):
            raise RecordingError(f"{file}, line {number}: no line of a recorded run") from None
        if "kind" in record:
            # A number of a process may come again: pids are used again.
            latest[key] = record
            begun.append((number, record))
        elif key in latest:
            latest[key].update(record)
        else:
            raise RecordingError(f"{file}, line {number}: ends what never started")
    for number, record in begun:
        yield _operation(f"{file}, line {number}", record)


_NUMBERS = ("started", "ended", "generation", "base", "process")
_TEXTS = ("kind", "path", "outcome", "derived_from", "content", "session", "note")


def _operation(where: str, record: dict[str, Any]) -> Operation:
    try:
        for name in ("reads", "writes"):
            if name in record:
                record[name] = tuple(_access(each) for each in record[name])
        _check_types(record)
        found = Operation(**{"outcome": "unknown", **record})
        if not isinstance(found.started, int):
            raise TypeError("started")
    except (TypeError, ValueError, AttributeError) as error:
        raise RecordingError(f"{where}: no operation of a recorded run: {error}") from None
    if found.kind not in _KINDS or found.outcome not in _OUTCOMES:
        raise RecordingError(f"{where}: unknown kind or outcome: {found.kind!r}, {found.outcome!r}")
    return found


def _access(record: dict[str, Any]) -> Access:
    _check_types(record)
    found = Access(**record)
    if not isinstance(found.path, str):
        raise TypeError("path")
    return found


def _check_types(record: dict[str, Any]) -> None:
    for name, value in record.items():
        if value is None and name not in ("kind", "path", "started", "outcome"):
            continue
        if name in _NUMBERS and (not isinstance(value, int) or isinstance(value, bool)):
            raise TypeError(f"{name} is no number")
        if name in _TEXTS and not isinstance(value, str):
            raise TypeError(f"{name} is no text")
