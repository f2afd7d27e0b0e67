"""The judgement of a recorded run: each artifact by itself, then all together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from coherent_audit.chains import judge, numbered
from coherent_audit.order import Part, judge_order, sequence
from coherent_audit.recording import Access, Operation, Violation

__all__ = ["check", "minimal", "replayable"]


def check(operations: Iterable[Operation]) -> list[Violation]:
    """Everything in *operations* that a coherent volume can never show."""
    run = list(operations)
    found: list[Violation] = []
    placed: list[Part] = []
    for path, parts in _by_path(run):
        found += judge(path, [part.operation for part in parts])
        placed += parts
    # An artifact that is wrong by itself puts everything in a circle too.
    return found or judge_order(run, placed)


def replayable(operations: Iterable[Operation]) -> list[Operation]:
    """What was done, one after the other, in an order that gives what everybody saw.

    Of a run without violations; reads carry the number that their content tells.
    """
    run = list(operations)
    placed = [part for _, parts in _by_path(run) for part in parts]
    known = {p.origin: p.operation for p in placed if run[p.origin].kind != "transaction"}
    return sequence([known.get(number, each) for number, each in enumerate(run)], placed)


def _by_path(run: Sequence[Operation]) -> list[tuple[str, list[Part]]]:
    by_path: defaultdict[str, list[Part]] = defaultdict(list)
    for number, operation in enumerate(run):
        for part in _parts(operation):
            by_path[part.path].append(Part(number, part))
    return [
        (path, [Part(p.origin, o) for p, o in zip(parts, known, strict=True)])
        for path, parts in sorted(by_path.items())
        for known in [numbered([part.operation for part in parts])]
    ]


def _parts(operation: Operation) -> Iterator[Operation]:
    """What *operation* did to each artifact, as operations on one artifact."""
    if operation.kind != "transaction":
        yield operation
        return
    for access in operation.writes:
        yield _part(operation, "commit", access)
    if operation.outcome == "done":
        for access in operation.reads:
            yield _part(operation, "read", access)


def _part(of: Operation, kind: str, access: Access) -> Operation:
    return Operation(
        kind=kind,
        path=access.path,
        started=of.started,
        ended=of.ended,
        outcome=of.outcome,
        generation=access.generation,
        base=access.base,
        derived_from=access.derived_from,
        content=access.content,
        session=of.session,
        process=of.process,
        note=of.note,
    )


def minimal(operations: Sequence[Operation], violation: Violation) -> list[Operation]:
    """As few of *operations* as show *violation* in the same words.

    Halves, quarters and so on are left out as long as it stays; what is left
    cannot lose any one operation.
    """
    wanted = (violation.rule, violation.path, violation.text)

    def shows(some: Sequence[Operation]) -> bool:
        return any((v.rule, v.path, v.text) == wanted for v in check(some))

    paths = {*violation.path.split(" "), violation.path}
    kept = [o for o in operations if paths & {o.path, *(a.path for a in (*o.reads, *o.writes))}]
    if not shows(kept):
        kept = list(operations)
    size = len(kept) // 2
    while size >= 1:
        start, smaller = 0, False
        while start < len(kept):
            rest = kept[:start] + kept[start + size :]
            if shows(rest):
                kept, smaller = rest, True
            else:
                start += size
        size = size if smaller and size == 1 else size // 2
    return kept
