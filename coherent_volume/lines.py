"""Lines: which of them two contents have in common, found in bounded time.

Pure functions over bytes. Lines are ended by LF alone, so that a CR is a part
of its line; joined they are the content again. Equal beginnings and ends are
taken off by comparing bytes; in the rest, lines that stand once in both are matched
first, and what lies between them is compared line by line up to a bound, counted
in steps: two files of repeated lines would cost minutes.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeVar

__all__ = [
    "STEPS_MAX",
    "Block",
    "Change",
    "TooAlikeError",
    "changes",
    "equal_end",
    "equal_start",
    "is_binary",
    "is_text",
    "lines_of",
    "matches",
    "matching_blocks",
]

STEPS_MAX = 1_000_000
"""Steps of ``matching_blocks``: half a second, or thousands of lines that come again."""

_STEPS_OF_MATCHES_MAX = 2_000_000
_DEPTH_MAX = 8  # how often the gaps are looked through for lines that stand once in them
_PROBE = 8192

T = TypeVar("T")
Block = tuple[int, int, int]
"""A run of equal lines: where it starts in one, in the other, and its length."""
Change = tuple[int, int, int, int]
"""Lines from, to in the old content become lines from, to in the new one."""


class TooAlikeError(Exception):
    """The same lines come again so often that comparing would take seconds."""


def is_text(data: bytes) -> bool:
    """Whether *data* can be compared by line: UTF-8 without NUL."""
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_binary(data: bytes) -> bool:
    """Whether *data* is no text: it has a NUL among its first bytes, as git judges."""
    return b"\0" in data[:_PROBE]


def lines_of(data: bytes) -> list[bytes]:
    """The lines of *data* with their ends; joined they are *data* again."""
    return io.BytesIO(data).readlines()


def matching_blocks(old: Sequence[bytes], new: Sequence[bytes]) -> list[Block]:
    """Runs of lines that are equal in both, in order; the last is empty, at the end.

    Raises TooAlikeError when it takes more than ``STEPS_MAX`` steps to compare what
    lies between the lines that stand once in both.
    """
    blocks, whole = _compared(old, new, STEPS_MAX, every_line=False)
    if not whole:
        raise TooAlikeError
    return blocks


def matches(old: Sequence[bytes], new: Sequence[bytes]) -> list[Block]:
    """As ``matching_blocks``, of every line and never raising.

    Where too much is alike the comparison ends with the lines that stand once in
    both: a right answer, only a coarser one.
    """
    return _compared(old, new, _STEPS_OF_MATCHES_MAX, every_line=True)[0]


def _compared(
    old: Sequence[bytes], new: Sequence[bytes], steps: int, *, every_line: bool
) -> tuple[list[Block], bool]:
    """The runs that both have, and whether *steps* were enough to look everywhere."""
    shorter = min(len(old), len(new))
    begin = equal_start(old, new, shorter)
    end = equal_end(old, new, shorter - begin)
    left, right = old[begin : len(old) - end], new[begin : len(new) - end]
    found, gaps = _anchored(left, right)
    whole = True
    # The small ones first, so that one that costs too much takes nothing from them.
    for a1, a2, b1, b2 in sorted(gaps, key=lambda gap: (gap[1] - gap[0] + gap[3] - gap[2], gap)):
        inner, used, done = _in_detail(left[a1:a2], right[b1:b2], steps, every_line=every_line)
        found += [(a1 + i, b1 + j, length) for i, j, length in inner]
        steps -= used
        whole = whole and done
    blocks = [(0, 0, begin)] if begin else []
    blocks += [(i + begin, j + begin, length) for i, j, length in _joined(sorted(found))]
    if end:
        blocks.append((len(old) - end, len(new) - end, end))
    return [*blocks, (len(old), len(new), 0)], whole


def _anchored(old: Sequence[bytes], new: Sequence[bytes]) -> tuple[list[Block], list[Change]]:
    """The runs around lines that stand once in both, and the gaps that this leaves.

    Also a line that stands once in both sides of a gap only. To begin with the
    longest run instead, as difflib does, costs the number of runs times that of
    lines: minutes for a file with every eighth line changed.
    """
    found: list[Block] = []
    gaps: list[Change] = []
    todo = [(0, len(old), 0, len(new), _DEPTH_MAX)]
    while todo:
        a1, a2, b1, b2, depth = todo.pop()
        left, right = old[a1:a2], new[b1:b2]
        if set(left).isdisjoint(right):
            continue
        runs = _unique(left, right) if depth else []
        if not runs:
            gaps.append((a1, a2, b1, b2))
            continue
        i, j = a1, b1
        for a, b, length in runs:
            todo.append((i, a1 + a, j, b1 + b, depth - 1))
            found.append((a1 + a, b1 + b, length))
            i, j = a1 + a + length, b1 + b + length
        todo.append((i, a2, j, b2, depth - 1))
    return found, gaps


def _in_detail(
    old: Sequence[bytes], new: Sequence[bytes], steps: int, *, every_line: bool
) -> tuple[list[Block], int, bool]:
    """The longest run first, then on its two sides; the steps used, and if all was done.

    A step is a line of *old*, or one in *new* that it is equal to: a look for the
    longest run takes at most so many. What would take too many is one change.
    """
    from difflib import SequenceMatcher  # 3 ms, needed only when a region is compared

    # Unless every line counts, one that is frequent in a long text is not looked
    # up, only extended over.
    matcher: Any = SequenceMatcher(None, old, new, autojunk=not every_line)
    there = matcher.b2j
    upto = list(accumulate((1 + len(there.get(line, ())) for line in old), initial=0))
    found: list[Block] = []
    used, whole = 0, True
    todo = [(0, len(old), 0, len(new))]
    while todo:
        a1, a2, b1, b2 = todo.pop()
        if a1 == a2 or b1 == b2:
            continue
        price = upto[a2] - upto[a1]
        if used + price > steps:
            whole = False
            continue
        used += price
        a, b, length = matcher.find_longest_match(a1, a2, b1, b2)
        if length:
            found.append((a, b, length))
            todo += [(a1, a, b1, b), (a + length, a2, b + length, b2)]
    return found, used, whole


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """*blocks* with those made one that follow each other in both."""
    found: list[Block] = []
    for a, b, length in blocks:
        if found and (found[-1][0] + found[-1][2], found[-1][1] + found[-1][2]) == (a, b):
            found[-1] = (*found[-1][:2], found[-1][2] + length)
        else:
            found.append((a, b, length))
    return found


def _unique(old: Sequence[bytes], new: Sequence[bytes]) -> list[Block]:
    """Runs around the lines that stand exactly once in either text, in order."""
    in_old, in_new = Counter(old), Counter(new)
    where = {line: number for number, line in enumerate(new) if in_new[line] == 1}
    pairs = [
        (number, where[line])
        for number, line in enumerate(old)
        if in_old[line] == 1 and line in where
    ]
    found: list[Block] = []
    for a, b in _rising(pairs):
        if found and a < sum(found[-1][::2]):
            continue  # inside the run before
        floor_a, floor_b = (
            (found[-1][0] + found[-1][2], found[-1][1] + found[-1][2]) if found else (0, 0)
        )
        if b < floor_b:
            continue
        before = 0
        while a - before > floor_a and b - before > floor_b:
            if old[a - before - 1] != new[b - before - 1]:
                break
            before += 1
        size = before
        while a - before + size < len(old) and b - before + size < len(new):
            if old[a - before + size] != new[b - before + size]:
                break
            size += 1
        found.append((a - before, b - before, size))
    return found


def _rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest part of *pairs* (rising in the first) that rises in the second too."""
    ends: list[int] = []
    at: list[int] = []
    previous: list[int] = []
    for number, (_, value) in enumerate(pairs):
        place = bisect_left(ends, value)
        previous.append(at[place - 1] if place else -1)
        ends[place : place + 1] = [value]
        at[place : place + 1] = [number]
    chain = []
    number = at[-1] if at else -1
    while number >= 0:
        chain.append(pairs[number])
        number = previous[number]
    return chain[::-1]


def equal_start(old: Sequence[T], new: Sequence[T], limit: int) -> int:
    """How much of the beginnings is equal, up to *limit*; by halves, at the speed of slices."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if old[low:middle] == new[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def equal_end(old: Sequence[T], new: Sequence[T], limit: int) -> int:
    """As ``equal_start``, of the ends."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if old[len(old) - middle : len(old) - low] == new[len(new) - middle : len(new) - low]:
            low = middle
        else:
            high = middle - 1
    return low


def changes(blocks: Sequence[Block]) -> Iterator[Change]:
    """(from, to) in the old and in the new, for each run that differs."""
    i = j = 0
    for a, b, length in blocks:
        if a > i or b > j:
            yield i, a, j, b
        i, j = a + length, b + length
