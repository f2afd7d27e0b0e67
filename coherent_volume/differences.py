"""Differences of texts: matching lines, unified diffs whole or bounded.

Pure functions over bytes. Lines end at a newline and nowhere else. Time is
bounded: what differs too much to be compared in detail counts as replaced as
a whole, which is still a right answer, only a coarser one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from coherent_volume.errors import printable

__all__ = ["Block", "bounded", "escaped", "is_binary", "lines_of", "matches", "unified"]

Block = tuple[int, int, int]
"""Where equal lines start in the old and in the new text, and how many they are."""

_PAIRS_MAX = 200_000
"""Pairs of equal lines that a detailed comparison may consider. Without a bound
two files of repeated lines cost minutes."""
_PROBE = 8192
_CONTEXT = 3


def is_binary(data: bytes) -> bool:
    """Whether *data* is no text: it has a NUL among its first bytes, as git judges."""
    return b"\0" in data[:_PROBE]


def lines_of(data: bytes) -> list[bytes]:
    """*data* in lines, each with its newline; the last may have none."""
    lines = data.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def matches(old: Sequence[bytes], new: Sequence[bytes]) -> list[Block]:
    """The runs of lines that both texts have, in order, in bounded time."""
    start = 0
    least = min(len(old), len(new))
    while start < least and old[start] == new[start]:
        start += 1
    tail = 0
    while tail < least - start and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    found = [(0, 0, start)] if start else []
    middle_old, middle_new = old[start : len(old) - tail], new[start : len(new) - tail]
    found += [(a + start, b + start, n) for a, b, n in _detailed(middle_old, middle_new)]
    if tail:
        found.append((len(old) - tail, len(new) - tail, tail))
    return found


def _detailed(old: Sequence[bytes], new: Sequence[bytes]) -> list[Block]:
    if not old or not new:
        return []
    there = Counter(new)
    if sum(there[line] for line in old) > _PAIRS_MAX:
        return _unique(old, new)
    from difflib import SequenceMatcher  # 5 ms, needed only to compare

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


def unified(
    old: bytes | None, new: bytes | None, old_name: str, new_name: str, context: int = _CONTEXT
) -> str:
    """A unified diff; "" for equal texts. None is an absent file.

    Bytes that are not UTF-8 come out as lone surrogates. Binary content is
    only said to differ.
    """
    if old == new:
        return ""
    left, right = old or b"", new or b""
    names = (
        "/dev/null" if old is None else old_name,
        "/dev/null" if new is None else new_name,
    )
    if is_binary(left) or is_binary(right):
        sizes = f"{len(left)} bytes, {len(right)} bytes"
        return f"Binary files {names[0]} and {names[1]} differ ({sizes})\n"
    lines = [f"--- {names[0]}", f"+++ {names[1]}"]
    a, b = lines_of(left), lines_of(right)
    for hunk in _hunks(_changes(matches(a, b), len(a), len(b)), context):
        lines += _hunk(hunk, a, b, context)
    return "".join(f"{line}\n" for line in lines)


Change = tuple[int, int, int, int]
"""Lines from, to in the old text become lines from, to in the new one."""


def _changes(blocks: Sequence[Block], old: int, new: int) -> Iterator[Change]:
    a = b = 0
    for start_a, start_b, size in [*blocks, (old, new, 0)]:
        if (start_a, start_b) != (a, b):
            yield a, start_a, b, start_b
        a, b = start_a + size, start_b + size


def _hunks(changes: Iterator[Change], context: int) -> list[list[Change]]:
    found: list[list[Change]] = []
    for change in changes:
        if found and change[0] - found[-1][-1][1] <= 2 * context:
            found[-1].append(change)
        else:
            found.append([change])
    return found


def _hunk(changes: list[Change], old: list[bytes], new: list[bytes], context: int) -> list[str]:
    first, last = changes[0], changes[-1]
    lead = min(context, first[0])
    trail = min(context, len(old) - last[1])
    start, end = first[0] - lead, last[1] + trail
    head = f"@@ -{_range(start, end)} +{_range(first[2] - lead, last[3] + trail)} @@"
    lines = [head]
    at = start
    for a, a_end, b, b_end in changes:
        lines += _marked(" ", old[at:a]) + _marked("-", old[a:a_end]) + _marked("+", new[b:b_end])
        at = a_end
    return lines + _marked(" ", old[at:end])


def _range(start: int, end: int) -> str:
    if end - start == 1:
        return str(start + 1)
    # An empty range names the line before it.
    return f"{start + (end > start)},{end - start}"


def _marked(mark: str, lines: Sequence[bytes]) -> list[str]:
    found = []
    for line in lines:
        found.append(mark + line.removesuffix(b"\n").decode("utf-8", "surrogateescape"))
        if not line.endswith(b"\n"):
            found.append("\\ No newline at end of file")
    return found


def escaped(text: str) -> str:
    """*text* with every control character but newline and tab made visible."""
    return "\n".join(
        "\t".join(printable(piece) for piece in line.split("\t")) for line in text.split("\n")
    )


def bounded(text: str, lines_max: int, bytes_max: int) -> str:
    """The first lines of *text* within both bounds, and a note of what was cut."""
    kept: list[str] = []
    size = 0
    lines = _by_newline(text)
    for line in lines:
        size += len(line.encode("utf-8", "surrogatepass"))
        if len(kept) == lines_max or size > bytes_max:
            cut = len(lines) - len(kept)
            return "".join(kept) + f"[{cut} of {len(lines)} lines left out]\n"
        kept.append(line)
    return text


def _by_newline(text: str) -> list[str]:
    pieces = text.split("\n")
    last = pieces.pop()
    return [f"{piece}\n" for piece in pieces] + ([last] if last else [])
