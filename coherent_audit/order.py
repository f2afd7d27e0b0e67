"""All artifacts together: that there is one order in which everything could have happened.

A graph with a node for each operation. What must come before what: the maker of
a generation before those who saw it and before the maker of the next one; who
saw a generation before the maker of a later one; and what had ended before what
started after it. If the graph has no circle, running the operations one after
the other in its order gives what everybody saw: the transactions are strictly
serializable. With generations known the order of versions is known, so this
needs no search.

Left out, so that nothing is called wrong that may be right: a transaction that
saw a content that came more than once does not point at what came after it (a
content that is equal counts as the same), and edits from outside have no number
to be placed by.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import NamedTuple

from coherent_audit.recording import ABSENT, Operation, Violation

__all__ = ["Part", "judge_order", "sequence"]


class Part(NamedTuple):
    """What the operation number ``origin`` did to one artifact."""

    origin: int
    operation: Operation


_Edges = defaultdict[int, set[int]]


def judge_order(operations: Sequence[Operation], parts: Iterable[Part]) -> list[Violation]:
    """One violation with a shortest circle that was found, or none."""
    edges = _edges(operations, parts)
    circle = _shortest_circle(_in_circles(edges), edges)
    if not circle:
        return []
    shown = [operations[node] for node in circle if node < len(operations)]
    paths = sorted({each.path for one in shown for each in (*one.reads, *one.writes)})
    paths += sorted({one.path for one in shown if one.path} - {*paths})
    text = f"no order of these {len(shown)} operations gives what they saw"
    return [Violation("not serializable", " ".join(paths), text, tuple(shown))]


def sequence(operations: Sequence[Operation], parts: Iterable[Part]) -> list[Operation]:
    """The operations that were done, in one order that gives what everybody saw.

    Of a run without violations. Edits from outside have no place and are left out.
    """
    edges = _edges(operations, parts)
    waits_for: defaultdict[int, int] = defaultdict(int)
    for followers in edges.values():
        for node in followers:
            waits_for[node] += 1
    free = [node for node in range(2 * len(operations)) if not waits_for[node]]
    heapify(free)
    placed = []
    while free:
        node = heappop(free)
        if node < len(operations):
            placed.append(operations[node])
        for follower in edges.get(node, ()):
            waits_for[follower] -= 1
            if not waits_for[follower]:
                heappush(free, follower)
    return [each for each in placed if each.kind != "foreign" and each.outcome == "done"]


def _edges(operations: Sequence[Operation], parts: Iterable[Part]) -> _Edges:
    by_path: defaultdict[str, list[Part]] = defaultdict(list)
    for part in parts:
        by_path[part.operation.path].append(part)
    edges: _Edges = defaultdict(set)
    for of_path in by_path.values():
        _of_one_artifact(operations, of_path, edges)
    _of_time(operations, edges)
    return edges


class _Seen(NamedTuple):
    generation: int
    origin: int
    only_one: bool
    """Whether no other generation will do: a transaction may have seen a content
    that was current twice."""


def _of_one_artifact(operations: Sequence[Operation], parts: Sequence[Part], edges: _Edges) -> None:
    makers, seers = _makers_and_seers(operations, parts)
    made = sorted(makers)
    for before, after in pairwise(made):
        _add(edges, makers[before], makers[after])
    for seen in seers:
        at = bisect_right(made, seen.generation)
        if at:
            _add(edges, makers[made[at - 1]], seen.origin)
        if at < len(made) and seen.only_one:
            _add(edges, seen.origin, makers[made[at]])


def _makers_and_seers(
    operations: Sequence[Operation], parts: Sequence[Part]
) -> tuple[dict[int, int], list[_Seen]]:
    generations_of: defaultdict[str, set[int]] = defaultdict(set)
    for _, operation in parts:
        if operation.content is not None and _is_placed(operation):
            generations_of[operation.content].add(operation.generation or 0)
    wrote = Counter(o.content for _, o in parts if o.kind != "read" and o.content != ABSENT)
    makers: dict[int, int] = {}
    seers: list[_Seen] = []
    for origin, operation in parts:
        same = generations_of.get(operation.content or "", set())
        if operation.kind == "commit" and operation.outcome == "unknown":
            if len(same) == 1 and wrote[operation.content] == 1:
                # It did happen: somebody saw what only it wrote.
                makers.setdefault(min(same), origin)
        elif _is_placed(operation):
            generation = operation.generation or 0
            if operation.kind == "commit":
                makers.setdefault(generation, origin)
            elif operation.kind == "read":
                only_one = len(same) <= 1 or operations[origin].kind == "read"
                seers.append(_Seen(generation, origin, only_one))
    return makers, seers


def _is_placed(operation: Operation) -> bool:
    return operation.outcome == "done" and operation.generation is not None


def _add(edges: _Edges, before: int, after: int) -> None:
    if before != after:
        edges[before].add(after)


def _of_time(operations: Sequence[Operation], edges: _Edges) -> None:
    """What had ended comes before what starts: over one more node for each end."""
    count = len(operations)
    events = [
        (time, is_start, number)
        for number, operation in enumerate(operations)
        if operation.kind != "foreign"
        for time, is_start in ((operation.started, 1), (operation.ended, 0))
        if time is not None and (is_start or operation.outcome == "done")
    ]
    latest: int | None = None
    for _, is_start, number in sorted(events):
        if is_start:
            if latest is not None:
                edges[latest].add(number)
            continue
        ended = count + number
        edges[number].add(ended)
        if latest is not None:
            edges[latest].add(ended)
        latest = ended


def _in_circles(edges: _Edges) -> set[int]:
    """The nodes that are left when those without a predecessor are taken away, again and again."""
    waits_for: defaultdict[int, int] = defaultdict(int)
    for followers in edges.values():
        for node in followers:
            waits_for[node] += 1
    nodes = {*edges, *waits_for}
    free = deque(node for node in nodes if not waits_for[node])
    left = set(nodes)
    while free:
        node = free.popleft()
        left.discard(node)
        for follower in edges.get(node, ()):
            waits_for[follower] -= 1
            if not waits_for[follower]:
                free.append(follower)
    return left


def _shortest_circle(nodes: set[int], edges: _Edges) -> list[int]:
    """A circle among *nodes*, the shortest through any of the first few of them."""
    best: list[int] = []
    for start in sorted(nodes)[:64]:
        came_from = {start: start}
        waiting = deque([start])
        while waiting:
            node = waiting.popleft()
            if start in edges.get(node, ()):
                circle = [node]
                while circle[-1] != start:
                    circle.append(came_from[circle[-1]])
                if not best or len(circle) < len(best):
                    best = circle[::-1]
                break
            for follower in edges.get(node, ()):
                if follower in nodes and follower not in came_from:
                    came_from[follower] = node
                    waiting.append(follower)
    return best
