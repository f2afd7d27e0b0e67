"""Lines: which of them two contents have in common, found in bounded time.

Pure functions over bytes. Lines are ended by LF alone, so that a CR is a part
of its line; joined they are the content again. Equal beginnings and ends are
taken off by comparing bytes, and what is left is compared line by line only up
to a bound: two files of repeated lines would cost minutes.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = [
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

PAIRS_MAX = 100_000
_PAIRS_OF_MATCHES_MAX = 200_000
_SHORT = 200  # lines; below this the library leaves no line out of its index
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


def matching_blocks(
    old: Sequence[bytes], new: Sequence[bytes], pairs_max: int = PAIRS_MAX
) -> list[Block]:
    """Runs of lines that are equal in both, in order; the last is empty, at the end.

    Raises TooAlikeError when more than *pairs_max* pairs of lines are equal.
    """
    shorter = min(len(old), len(new))
    begin = equal_start(old, new, shorter)
    end = equal_end(old, new, shorter - begin)
    blocks = [(0, 0, begin)] if begin else []
    blocks += [
        (i + begin, j + begin, length)
        for i, j, length in _middle(
            old[begin : len(old) - end], new[begin : len(new) - end], pairs_max
        )
    ]
    if end:
        blocks.append((len(old) - end, len(new) - end, end))
    return [*blocks, (len(old), len(new), 0)]


def matches(old: Sequence[bytes], new: Sequence[bytes]) -> list[Block]:
    """As ``matching_blocks``, of every line and never raising.

    What is too much alike is matched by the lines that stand once in both: a
    right answer, only a coarser one.
    """
    shorter = min(len(old), len(new))
    begin = equal_start(old, new, shorter)
    end = equal_end(old, new, shorter - begin)
    inner = _detailed(old[begin : len(old) - end], new[begin : len(new) - end])
    found = [(0, 0, begin)] if begin else []
    found += [(i + begin, j + begin, length) for i, j, length in inner]
    if end:
        found.append((len(old) - end, len(new) - end, end))
    return [*found, (len(old), len(new), 0)]


def _middle(old: Sequence[bytes], new: Sequence[bytes], pairs_max: int) -> list[Block]:
    ours, theirs = Counter(old), Counter(new)
    # A line that is frequent in a long text is not looked up, only extended over.
    frequent = len(new) // 100 + 1 if len(new) >= _SHORT else len(new)
    pairs = sum(n * theirs[line] for line, n in ours.items() if theirs[line] <= frequent)
    if pairs > pairs_max:
        raise TooAlikeError
    if pairs == 0:
        return []
    from difflib import SequenceMatcher  # 3 ms, needed only when a region is compared

    found = SequenceMatcher(None, old, new).get_matching_blocks()
    return [(block.a, block.b, block.size) for block in found if block.size]


def _detailed(old: Sequence[bytes], new: Sequence[bytes]) -> list[Block]:
    if not old or not new:
        return []
    there = Counter(new)
    if sum(there[line] for line in old) > _PAIRS_OF_MATCHES_MAX:
        return _unique(old, new)
    from difflib import SequenceMatcher  # as above

    found = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    return [(block.a, block.b, block.size) for block in found if block.size]


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
