"""What several processes did to some artifacts, and whether that can be.

``Recorder`` writes down each operation of one process as it starts and as it
ends; ``load`` reads the records of all; ``check`` judges them. Nothing here
knows the library: contents are fingerprints, generations are what the callers
were told.

The judgement rests on one chain per artifact. Generations grow by one, so the
order of the commits is their numbers, and what is left to verify is that
- no number was given to two commits, and each is accounted for,
- each commit names its predecessor, and its author had the predecessor's bytes
  in hand (the same bytes in an older generation count),
- everybody who was shown a generation was shown the same bytes, which somebody
  wrote and nobody was told were refused,
- nobody was shown less than what was acknowledged, or shown to anybody, before
  they asked.
An operation that was killed, or whose outcome the library did not know, may
have happened or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

__all__ = ["ABSENT", "Operation", "Recorder", "Violation", "check", "fingerprint", "load"]

ABSENT = "absent"
"""The fingerprint of a file that is not there."""


def fingerprint(data: bytes) -> str:
    """A name for *data*: its own text when short, else a digest of it."""
    if len(data) <= 24 and data.isascii():
        return f"={data.decode()}"
    return hashlib.sha256(data).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that one process did or tried.

    ``kind``: read, commit, or foreign (an edit that bypasses the library).
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


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that cannot be, with the operations that show it."""

    rule: str
    path: str
    text: str
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        shown = "".join(f"\n    {operation}" for operation in self.operations)
        return f"{self.rule}: {self.path}: {self.text}{shown}"


# ── recording ────────────────────────────────────────────────────────────────


class Recorder:
    """The operations of one process, in a file that survives its kill."""

    def __init__(self, file: str | os.PathLike[str], session: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._descriptor = os.open(os.fspath(file), flags, 0o644)
        self._session = session
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def operation(self, kind: str, path: str, **known: Any) -> Iterator[dict[str, Any]]:
        """Record one operation; the block fills in what it learns.

        A block that is left by an exception, or never, leaves an operation of
        unknown outcome behind.
        """
        number = next(self._numbers)
        learned: dict[str, Any] = {"outcome": "done"}
        self._write(number, {"kind": kind, "path": path, "started": time.monotonic_ns(), **known})
        yield learned
        self._write(number, {"ended": time.monotonic_ns(), **learned})

    def _write(self, number: int, fields: dict[str, Any]) -> None:
        line = {"number": number, "process": os.getpid(), "session": self._session, **fields}
        os.write(self._descriptor, (json.dumps(line) + "\n").encode())


def load(files: Iterable[str | os.PathLike[str]]) -> list[Operation]:
    """All operations in *files*, by the time they started."""
    operations = []
    for file in files:
        started: dict[tuple[int, int], dict[str, Any]] = {}
        for line in Path(file).read_bytes().splitlines():
            record = json.loads(line)
            fields = started.setdefault((record["process"], record.pop("number")), {})
            fields.update(record)
        for fields in started.values():
            operations.append(Operation(**{"outcome": "unknown", **fields}))
    return sorted(operations, key=lambda operation: operation.started)


# ── judging ──────────────────────────────────────────────────────────────────


def check(operations: Iterable[Operation]) -> list[Violation]:
    """Everything in *operations* that a coherent volume can never show."""
    by_path: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_path[operation.path].append(operation)
    return [
        violation
        for path, of_path in sorted(by_path.items())
        for chain in [_Chain.of(path, _numbered(of_path))]
        for rule in (
            _generations_are_unique,
            _generations_hold_one_content,
            _generations_are_accounted_for,
            _contents_were_written,
            _commits_succeed_what_they_saw,
            _time_goes_forward,
            _foreign_edits_are_seen,
        )
        for violation in rule(chain)
    ]


def _numbered(operations: Sequence[Operation]) -> list[Operation]:
    """Give each read without a number the number of the one generation with its content."""
    numbers: defaultdict[str | None, set[int]] = defaultdict(set)
    for operation in operations:
        if operation.outcome == "done" and operation.generation is not None:
            numbers[operation.content].add(operation.generation)
    # These may be generations that nobody was told of.
    untold = {o.content for o in operations if o.kind == "foreign" or o.repeats}
    return [
        replace(operation, generation=min(numbers[operation.content]))
        if operation.kind == "read"
        and operation.generation is None
        and operation.content not in {None, ABSENT, *untold}
        and len(numbers[operation.content]) == 1
        else operation
        for operation in operations
    ]


@dataclass(frozen=True, slots=True)
class _Chain:
    """One artifact's operations, sorted by what they prove."""

    path: str
    operations: Sequence[Operation]
    commits: dict[int, Operation] = field(default_factory=dict)
    """Acknowledged commits by generation (the first, if there are two)."""
    contents: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    """All contents that each generation was said to have."""

    @classmethod
    def of(cls, path: str, operations: Sequence[Operation]) -> _Chain:
        chain = cls(path, operations)
        for operation in operations:
            if operation.kind == "foreign" or not _proves_generation(operation):
                continue
            number = operation.generation
            assert number is not None
            if operation.kind == "commit":
                chain.commits.setdefault(number, operation)
            if operation.content is not None:
                chain.contents[number].add(operation.content)
        return chain

    def violation(self, rule: str, text: str, *operations: Operation | None) -> Violation:
        return Violation(rule, self.path, text, tuple(o for o in operations if o is not None))

    def optional(self) -> list[Operation]:
        """Operations that may have made a generation without being told its number."""
        return [o for o in self.operations if self._may_have_made_one_more(o)]

    def _may_have_made_one_more(self, operation: Operation) -> bool:
        if operation.kind == "foreign":
            return True
        if operation.kind != "commit":
            return False
        if operation.outcome == "unknown":
            return True
        return operation.repeats and any(
            edit.kind == "foreign" and _overlap(edit, operation) for edit in self.operations
        )


def _overlap(one: Operation, other: Operation) -> bool:
    return (other.ended is None or one.started <= other.ended) and (
        one.ended is None or other.started <= one.ended
    )


def _proves_generation(operation: Operation) -> bool:
    return operation.outcome == "done" and operation.generation is not None


def _generations_are_unique(chain: _Chain) -> Iterator[Violation]:
    for operation in chain.operations:
        if operation.kind == "commit" and _proves_generation(operation):
            assert operation.generation is not None
            first = chain.commits[operation.generation]
            if first is not operation:
                text = f"generation {operation.generation} was given out twice"
                yield chain.violation("duplicate generation", text, first, operation)


def _generations_hold_one_content(chain: _Chain) -> Iterator[Violation]:
    for generation, contents in sorted(chain.contents.items()):
        # Generation 0 was never committed; outsiders may edit it and it stays 0.
        if generation == 0 or len(contents) == 1:
            continue
        witnesses = {
            operation.content: operation
            for operation in chain.operations
            if operation.generation == generation and operation.content in contents
        }
        text = f"generation {generation} was shown with {len(contents)} different contents"
        yield chain.violation("torn or mixed read", text, *witnesses.values())


def _generations_are_accounted_for(chain: _Chain) -> Iterator[Violation]:
    last = max([*chain.commits, *chain.contents], default=0)
    unclaimed = [number for number in range(1, last + 1) if number not in chain.commits]
    optional = chain.optional()
    if len(unclaimed) > len(optional):
        text = f"nobody made the generations {unclaimed}: {len(optional)} operations could have"
        yield chain.violation("generation gap", text)
    for number in unclaimed:
        for content in chain.contents.get(number, ()):
            if not any(o.content in {content, None} for o in optional):
                text = f"generation {number} holds {content!r}, made by no operation left over"
                shown = [o for o in chain.operations if o.generation == number]
                yield chain.violation("generation nobody made", text, *shown[:1])


def _contents_were_written(chain: _Chain) -> Iterator[Violation]:
    writes = [o for o in chain.operations if o.kind != "read"]
    could = {o.content for o in writes if o.outcome != "refused"}
    refused = {o.content: o for o in writes if o.outcome == "refused"}
    for operation in chain.operations:
        content = operation.content
        if operation.kind != "read" or content is None or content in could:
            continue
        if operation.outcome == "done" and content == ABSENT and not operation.generation:
            continue  # it was never there
        if content in refused:
            text = "a write that was refused became visible"
            yield chain.violation("refused write visible", text, refused[content], operation)
        elif operation.outcome == "done" and not _may_hold_anything(chain, operation.generation):
            yield chain.violation("torn or mixed read", "nobody wrote these bytes", operation)


def _may_hold_anything(chain: _Chain, generation: int | None) -> bool:
    """Whether the generation was made by an operation whose result nobody recorded."""
    if generation is not None and generation in chain.commits:
        return chain.commits[generation].content is None
    if generation is None and any(o.content is None for o in chain.commits.values()):
        return True
    return any(o.content is None for o in chain.optional())


def _commits_succeed_what_they_saw(chain: _Chain) -> Iterator[Violation]:
    for generation, commit in sorted(chain.commits.items()):
        if commit.base is not None and commit.base != generation - 1:
            text = f"generation {generation} claims to succeed {commit.base}"
            yield chain.violation("wrong base", text, commit)
        before = set(chain.contents.get(generation - 1, ()))
        if before and generation == 1:
            # Outsiders may give generation 0 one content after the other.
            before |= {o.content for o in chain.operations if o.kind == "foreign"}
        if not before or commit.derived_from is None or commit.derived_from in before:
            continue
        text = (
            f"generation {generation} was derived from {commit.derived_from!r},"
            f" but generation {generation - 1} holds {sorted(map(str, before))}"
        )
        yield chain.violation("lost update", text, chain.commits.get(generation - 1), commit)


def _time_goes_forward(chain: _Chain) -> Iterator[Violation]:
    """Whatever starts after generation n was shown to anybody sees n or more."""
    events: list[tuple[int, int, Operation]] = []
    for operation in chain.operations:
        events.append((operation.started, 1, operation))
        if operation.ended is not None and operation.kind != "foreign":
            events.append((operation.ended, 0, operation))
    removable = any(o.kind != "read" and o.content in {ABSENT, None} for o in chain.operations)
    newest: Operation | None = None
    newest_at_start: dict[int, Operation | None] = {}
    for _, is_start, operation in sorted(events, key=lambda event: event[:2]):
        if is_start:
            newest_at_start[id(operation)] = newest
            continue
        if operation.outcome != "done":
            continue
        floor = newest_at_start.get(id(operation))
        if floor is not None:
            yield from _judge_against(chain, floor, operation, removable)
        if operation.generation is not None and (
            newest is None or operation.generation > (newest.generation or 0)
        ):
            newest = operation


def _judge_against(
    chain: _Chain, floor: Operation, operation: Operation, removable: bool
) -> Iterator[Violation]:
    known = floor.generation
    assert known is not None
    if operation.generation is None:
        if operation.kind == "read" and operation.content == ABSENT and known and not removable:
            text = f"generation {known} is gone and nobody removed it"
            yield chain.violation("acknowledged commit missing", text, floor, operation)
    elif operation.kind == "read" and operation.generation < known:
        text = f"generation {known} was known before this read started, which saw less"
        rule = "acknowledged commit missing" if floor.kind == "commit" else "stale read"
        yield chain.violation(rule, text, floor, operation)
    elif operation.kind == "commit" and operation.generation <= known:
        text = f"generation {known} was known before this commit started"
        yield chain.violation("generation went back", text, floor, operation)


def _foreign_edits_are_seen(chain: _Chain) -> Iterator[Violation]:
    """No read after a foreign edit shows what was shown before that edit."""
    first_shown: dict[tuple[int, str], Operation] = {}
    for operation in sorted(chain.operations, key=lambda o: o.ended or 0):
        if operation.kind != "foreign" and _proves_generation(operation) and operation.content:
            assert operation.generation is not None
            first_shown.setdefault((operation.generation, operation.content), operation)
    edits = [
        o
        for o in chain.operations
        if o.kind == "foreign" and o.outcome == "done" and o.content not in {ABSENT, None}
    ]
    for read in chain.operations:
        if read.kind != "read" or not _proves_generation(read) or read.content is None:
            continue
        assert read.generation is not None
        shown = first_shown[read.generation, read.content]
        if read.generation == 0 and any(edit.content == read.content for edit in edits):
            continue  # put back by an outsider, and still generation 0
        for edit in edits:
            assert edit.ended is not None
            if edit.ended >= read.started or edit.content == read.content:
                continue
            if shown.ended is not None and shown.ended < edit.started:
                text = "shows what stood there before an outsider's edit"
                yield chain.violation("stale read", text, shown, edit, read)
                break
