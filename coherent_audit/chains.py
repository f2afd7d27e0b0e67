"""One artifact's history: that it is one chain, and that everybody saw it so.

Generations grow by one, so the order of the commits is their numbers, and what
is left to verify is that
- no number was given to two commits, and each is accounted for,
- each commit names its predecessor, and its author had the predecessor's bytes
  in hand (the same bytes in an older generation count),
- everybody who was shown a generation was shown the same bytes, which somebody
  wrote and nobody was told were refused,
- nobody was shown less than what was acknowledged, or shown to anybody, before
  they asked.
Together that is linearizability. An operation that was killed, or whose outcome
the library did not know, may have happened or not. Near-linear in the number of
operations.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from coherent_audit.recording import ABSENT, Operation, Violation

__all__ = ["judge", "numbered"]

_NEVER = 1 << 63  # later than any clock


def numbered(operations: Sequence[Operation]) -> list[Operation]:
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


def judge(path: str, operations: Sequence[Operation]) -> Iterator[Violation]:
    """Everything in the (numbered) *operations* on *path* that cannot be."""
    chain = _Chain.of(path, operations)
    for rule in (
        _generations_are_unique,
        _generations_hold_one_content,
        _generations_are_accounted_for,
        _contents_were_written,
        _commits_succeed_what_they_saw,
        _time_goes_forward,
        _foreign_edits_are_seen,
    ):
        yield from rule(chain)


@dataclass(frozen=True, slots=True)
class _Chain:
    """One artifact's operations, sorted by what they prove."""

    path: str
    operations: Sequence[Operation]
    commits: dict[int, Operation] = field(default_factory=dict)
    """Acknowledged commits by generation (the first, if there are two)."""
    contents: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    """All contents that each generation was said to have."""
    optional: list[Operation] = field(default_factory=list)
    """Operations that may have made a generation without being told its number."""

    @classmethod
    def of(cls, path: str, operations: Sequence[Operation]) -> _Chain:
        chain = cls(path, operations)
        for operation in operations:
            if operation.kind == "foreign" or not _proves_generation(operation):
                continue
            number = operation.generation or 0
            if operation.kind == "commit":
                chain.commits.setdefault(number, operation)
            if operation.content is not None:
                chain.contents[number].add(operation.content)
        chain.optional.extend(_optional(operations))
        return chain

    def violation(self, rule: str, text: str, *operations: Operation | None) -> Violation:
        return Violation(rule, self.path, text, tuple(o for o in operations if o is not None))


def _optional(operations: Sequence[Operation]) -> Iterator[Operation]:
    edits = sorted((o.started, o.ended or _NEVER) for o in operations if o.kind == "foreign")
    starts = [started for started, _ in edits]
    latest_end = list(accumulate((ended for _, ended in edits), max))
    for operation in operations:
        if operation.kind == "foreign":
            yield operation
        elif operation.kind == "commit":
            begun_before = bisect_right(starts, operation.ended or _NEVER)
            raced = begun_before and latest_end[begun_before - 1] >= operation.started
            if operation.outcome == "unknown" or (operation.repeats and raced):
                yield operation


def _proves_generation(operation: Operation) -> bool:
    return operation.outcome == "done" and operation.generation is not None


def _generations_are_unique(chain: _Chain) -> Iterator[Violation]:
    for operation in chain.operations:
        if operation.kind == "commit" and _proves_generation(operation):
            first = chain.commits[operation.generation or 0]
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
    optional = chain.optional
    if len(unclaimed) > len(optional):
        text = f"nobody made the generations {unclaimed}: {len(optional)} operations could have"
        yield chain.violation("generation gap", text)
    could = {operation.content for operation in optional}
    for number in unclaimed:
        for content in chain.contents.get(number, ()):
            if content not in could and None not in could:
                text = f"generation {number} holds {content!r}, made by no operation left over"
                shown = [o for o in chain.operations if o.generation == number]
                yield chain.violation("generation nobody made", text, *shown[:1])


def _contents_were_written(chain: _Chain) -> Iterator[Violation]:
    writes = [o for o in chain.operations if o.kind != "read"]
    could = {o.content for o in writes if o.outcome != "refused"}
    refused = {o.content: o for o in writes if o.outcome == "refused"}
    unknown_among_commits = any(o.content is None for o in chain.commits.values())
    unknown_among_optional = any(o.content is None for o in chain.optional)

    def may_hold_anything(generation: int | None) -> bool:
        """Whether it was made by an operation whose result nobody recorded."""
        if generation is not None and generation in chain.commits:
            return chain.commits[generation].content is None
        return unknown_among_optional or (generation is None and unknown_among_commits)

    for operation in chain.operations:
        content = operation.content
        if operation.kind != "read" or content is None or content in could:
            continue
        if operation.outcome == "done" and content == ABSENT and not operation.generation:
            continue  # it was never there
        if content in refused:
            text = "a write that was refused became visible"
            yield chain.violation("refused write visible", text, refused[content], operation)
        elif operation.outcome == "done" and not may_hold_anything(operation.generation):
            yield chain.violation("torn or mixed read", "nobody wrote these bytes", operation)


def _commits_succeed_what_they_saw(chain: _Chain) -> Iterator[Violation]:
    outside = {o.content for o in chain.operations if o.kind == "foreign"}
    for generation, commit in sorted(chain.commits.items()):
        if commit.base is not None and commit.base != generation - 1:
            text = f"generation {generation} claims to succeed {commit.base}"
            yield chain.violation("wrong base", text, commit)
        before: set[str | None] = {*chain.contents.get(generation - 1, ())}
        if before and generation == 1:
            # Outsiders may give generation 0 one content after the other.
            before |= outside
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
            yield from _judge_against(chain, floor, operation, removable=removable)
        if operation.generation is not None and (
            newest is None or operation.generation > (newest.generation or 0)
        ):
            newest = operation


def _judge_against(
    chain: _Chain, floor: Operation, operation: Operation, *, removable: bool
) -> Iterator[Violation]:
    known = floor.generation or 0
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
            first_shown.setdefault((operation.generation or 0, operation.content), operation)
    edits = sorted(
        (
            o
            for o in chain.operations
            if o.kind == "foreign" and o.outcome == "done" and o.content not in {ABSENT, None}
        ),
        key=lambda o: o.started,
    )
    starts = [edit.started for edit in edits]
    put_back = {edit.content for edit in edits}
    for read in chain.operations:
        if read.kind != "read" or not _proves_generation(read) or read.content is None:
            continue
        shown = first_shown[read.generation or 0, read.content]
        if shown.ended is None or (read.generation == 0 and read.content in put_back):
            continue  # put back by an outsider, and still generation 0
        for edit in edits[bisect_right(starts, shown.ended) :]:
            if edit.started >= read.started:
                break
            if (edit.ended or _NEVER) < read.started and edit.content != read.content:
                text = "shows what stood there before an outsider's edit"
                yield chain.violation("stale read", text, shown, edit, read)
                break
