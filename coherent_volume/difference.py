"""Differences between two contents, by line; bounded in time and in length.

Pure functions over bytes. Owns which lines of two contents belong together
(also for merges) and the unified diff that refusals show. Nothing here takes
longer on a large file than comparing its bytes: the equal beginning and end go
first, and what is left is compared line by line only up to a bound. Lines are
ended by LF alone, so that a CR shows as a part of its line.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from coherent_volume.errors import printable

__all__ = [
    "DIFF_BYTES_MAX",
    "DIFF_LINES_MAX",
    "Diff",
    "TooAlikeError",
    "is_text",
    "lines_of",
    "matching_blocks",
    "unified",
]

DIFF_LINES_MAX = 120
"""Lines of a diff that a refusal shows at most."""

DIFF_BYTES_MAX = 8000
"""Bytes of a diff that a refusal shows at most."""

_CONTEXT = 3
_COMPARED_MAX = 64 << 10  # bytes of each changed region that are looked at
_PAIRS_MAX = 100_000
_LINE_MAX = 500
_SHORT = 200  # lines; below this the library leaves no line out of its index

T = TypeVar("T")
Block = tuple[int, int, int]
"""A run of equal lines: where it starts in one, in the other, and its length."""


class TooAlikeError(Exception):
    """The same lines come again so often that comparing would take seconds."""


class Diff(NamedTuple):
    """A diff as lines that are safe to print, and how many more there are."""

    lines: tuple[str, ...]
    left_out: int
    compared_whole: bool


def is_text(data: bytes) -> bool:
    """Whether *data* can be compared by line: UTF-8 without NUL."""
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def lines_of(data: bytes) -> list[bytes]:
    """The lines of *data* with their ends; joined they are *data* again."""
    return io.BytesIO(data).readlines()


# ── which lines belong together ──────────────────────────────────────────────


def matching_blocks(
    old: Sequence[bytes], new: Sequence[bytes], pairs_max: int = _PAIRS_MAX
) -> list[Block]:
    """Runs of lines that are equal in both, in order; the last is empty, at the end.

    Raises TooAlikeError when more than *pairs_max* pairs of lines are equal.
    """
    shorter = min(len(old), len(new))
    begin = _equal_start(old, new, shorter)
    end = _equal_end(old, new, shorter - begin)
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


# ── the unified diff ─────────────────────────────────────────────────────────


def unified(old: bytes, new: bytes, old_name: str, new_name: str) -> Diff:
    """The unified diff of two texts, bounded; every line is safe to print."""
    begin, end = _equal_ends(old, new)
    first = old.count(b"\n", 0, begin)
    gone, come = old[begin : len(old) - end], new[begin : len(new) - end]
    whole = max(len(gone), len(come)) <= _COMPARED_MAX
    a, b = (lines_of(each[:_COMPARED_MAX]) for each in (gone, come))
    try:
        blocks = matching_blocks(a, b)
    except TooAlikeError:
        blocks = [(len(a), len(b), 0)]
        whole = False
    shown: list[str] = []
    room = DIFF_BYTES_MAX
    left_out = 0
    head = (f"--- {printable(old_name)}", f"+++ {printable(new_name)}")
    for line in (*head, *_hunks(a, b, blocks, first)) if a or b else ():
        text = line if isinstance(line, str) else _shown(*line)
        room -= len(text.encode()) + 1
        if left_out or room < 0 or len(shown) >= DIFF_LINES_MAX:
            left_out += 1
        else:
            shown.append(text)
    return Diff(tuple(shown), left_out, whole)


def _equal_ends(old: bytes, new: bytes) -> tuple[int, int]:
    """How many bytes can be left out at the beginning and the end: whole lines only.

    A few lines of context stay, and what is left out stays equal in both.
    """
    shorter = min(len(old), len(new))
    begin = _equal_start(old, new, shorter)
    if begin == len(old) == len(new):
        return begin, 0
    for _ in range(_CONTEXT + 1):
        begin = max(old.rfind(b"\n", 0, max(begin - 1, 0)) + 1, 0) if begin else 0
    end = _equal_end(old, new, shorter - begin)
    for _ in range(_CONTEXT + 1):
        after = old.find(b"\n", len(old) - end) if end else -1
        end = len(old) - after - 1 if after >= 0 else 0
    return begin, end


def _equal_start(old: Sequence[T], new: Sequence[T], limit: int) -> int:
    """How much of the beginnings is equal, up to *limit*; by halves, at the speed of slices."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if old[low:middle] == new[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _equal_end(old: Sequence[T], new: Sequence[T], limit: int) -> int:
    """As ``_equal_start``, of the ends."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if old[len(old) - middle : len(old) - low] == new[len(new) - middle : len(new) - low]:
            low = middle
        else:
            high = middle - 1
    return low


def _hunks(
    old: list[bytes], new: list[bytes], blocks: list[Block], first: int
) -> Iterator[str | tuple[str, bytes]]:
    """Headings as text, and lines as (sign, content)."""
    changes = list(_changes(blocks))
    while changes:
        hunk = [changes.pop(0)]
        while changes and changes[0][0] - hunk[-1][1] <= 2 * _CONTEXT:
            hunk.append(changes.pop(0))
        begin = min(_CONTEXT, hunk[0][0], hunk[0][2])
        end = min(_CONTEXT, len(old) - hunk[-1][1], len(new) - hunk[-1][3])
        i, j = hunk[0][0] - begin, hunk[0][2] - begin
        until = hunk[-1][1] + end
        yield (f"@@ -{_range(first + i, until - i)} +{_range(first + j, hunk[-1][3] + end - j)} @@")
        for i1, i2, j1, j2 in hunk:
            yield from ((" ", line) for line in old[i:i1])
            yield from (("-", line) for line in old[i1:i2])
            yield from (("+", line) for line in new[j1:j2])
            i = i2
        yield from ((" ", line) for line in old[i:until])


def _changes(blocks: list[Block]) -> Iterator[tuple[int, int, int, int]]:
    """(from, to) in the old and in the new, for each run that differs."""
    i = j = 0
    for a, b, length in blocks:
        if a > i or b > j:
            yield i, a, j, b
        i, j = a + length, b + length


def _range(start: int, length: int) -> str:
    if length == 1:
        return str(start + 1)
    return f"{start + 1 if length else start},{length}"


def _shown(sign: str, line: bytes) -> str:
    """One line of a diff, with nothing in it that a terminal would obey."""
    ended = line.endswith(b"\n")
    body = line[:-1] if ended else line
    text = body[:_LINE_MAX].decode("utf-8", "backslashreplace")
    # A tab moves the cursor and does nothing else; diffs of code are full of them.
    text = "\t".join(printable(part) for part in text.split("\t"))
    if len(body) > _LINE_MAX:
        text += f" [{len(body) - _LINE_MAX} more bytes]"
    return f"{sign}{text}" if ended else f"{sign}{text} [no newline at the end]"
