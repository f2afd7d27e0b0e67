"""Three-way merge of texts: edits of two parties that do not touch each other.

Pure functions over bytes; the one home of merge3. Never guesses: where both
parties changed the same place it is an overlap, *also when they changed it
alike*. Two sessions that both turn 5 into 6, or both take the first job off a
list, must not both believe that they did it (I1).

What belongs together is found by line. A merge takes whole regions from one
side or the other, so that no line is lost that neither side deleted. Lines that
come again leave a choice of what belongs to what, and it may fall differently
for each side; so a change stands for every place where it could have been made,
and what may be one change, found at two places, is never applied twice.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from coherent_volume.lines import (
    Block,
    Change,
    TooAlikeError,
    changes,
    is_text,
    lines_of,
    matching_blocks,
)

__all__ = [
    "LINES_MAX",
    "MERGE_BYTES_MAX",
    "Merged",
    "Verdict",
    "holds_markers",
    "keeps_every_hunk",
    "three_way",
]

MERGE_BYTES_MAX = 8 << 20
"""Bytes that each of the three contents may have."""

LINES_MAX = 100_000
"""Lines that each of the three contents may have."""

_BEGIN, _BASE, _MIDDLE, _END = b"<<<<<<< ", b"||||||| ", b"======= ", b">>>>>>> "


class Verdict(enum.Enum):
    """What a merge found, or would find."""

    CLEAN = "clean"
    CONTAINED = "already contained"
    """It would add nothing to what is current."""
    OVERLAPS = "overlaps"
    NOT_TEXT = "not text"
    TOO_LARGE = "too large"
    TOO_ALIKE = "too alike"
    """The same lines come again too often to tell in time which belong together."""
    DELETED = "deleted"
    """What is current is a deletion, or follows one that the author did not see."""
    HISTORY_LOST = "history lost"
    """Not every generation since then is on record: one may be a deletion."""
    BASE_LOST = "base lost"
    """The content that the edit was derived from is not kept any longer."""
    NOTHING_PENDING = "nothing pending"
    NOT_DERIVED = "not derived"
    """The author never saw the artifact, or has lost its ownership."""
    UNKNOWN = "unknown"


class _Region(NamedTuple):
    """The same place in the three contents, as lines."""

    base: Sequence[bytes]
    head: Sequence[bytes]
    mine: Sequence[bytes]
    contested: bool = False
    """Both sides may have changed it, by what was found about its neighbourhood."""

    @property
    def overlaps(self) -> bool:
        """Whether both sides changed it."""
        return self.contested or self.head != self.base != self.mine


class _Span(NamedTuple):
    """Where the three contents differ, between lines that all of them share."""

    base: slice
    head: slice
    mine: slice


@dataclass(frozen=True, slots=True)
class Merged:
    """The outcome of a merge: ``content`` if it is clean, and what it is made of."""

    verdict: Verdict
    content: bytes | None = None
    regions: tuple[_Region, ...] = ()

    def marked(self, head: str, base: str, mine: str) -> bytes:
        """The content with conflict markers around each overlap, named by these labels."""
        pieces: list[bytes] = []
        for region in self.regions:
            if not region.overlaps:
                pieces += _resolved(region)
                continue
            for marker, label, lines in (
                (_BEGIN, head, region.head),
                (_BASE, base, region.base),
                (_MIDDLE.rstrip(), "", ()),
                (b"", "", region.mine),
                (_END, mine, ()),
            ):
                if marker:
                    _end_line(pieces)
                    pieces.append(marker + label.encode("utf-8", "backslashreplace") + b"\n")
                pieces += lines
        return b"".join(pieces)


def _end_line(pieces: list[bytes]) -> None:
    if pieces and not pieces[-1].endswith(b"\n"):
        pieces.append(b"\n")


def _resolved(region: _Region) -> Sequence[bytes]:
    return region.head if region.mine == region.base else region.mine


def three_way(base: bytes, head: bytes, mine: bytes) -> Merged:
    """What *base* becomes when the edits that made *head* and *mine* are both applied.

    Clean only if it would be seen a second time: merging *head* or *mine* into
    the outcome is not clean, or changes nothing. A second or two for ten
    thousand changes in a hundred thousand lines; what is too repetitive is given up.
    """
    refused = _unfit(base, head, mine)
    if refused is not None:
        return Merged(refused)
    texts = lines_of(base), lines_of(head), lines_of(mine)
    try:
        aligned = _Aligned()
        merged = _applied(*texts, aligned)
        if merged.content in (None, head, mine):
            return merged
        outcome = lines_of(merged.content or b"")
        for sent in texts[1:]:
            again = _applied(texts[0], outcome, sent, aligned)
            if again.content not in (None, merged.content):
                return Merged(Verdict.OVERLAPS, None, (_Region(*texts, contested=True),))
    except TooAlikeError:
        return Merged(Verdict.TOO_ALIKE)
    return merged


def keeps_every_hunk(base: bytes, head: bytes, pending: bytes) -> bool:
    """Whether *pending* contains every change that *head* made since *base*.

    That is, whether it is *head* with edits of other places. False where that
    cannot be shown: for whatever cannot be merged (binary, too large), where fewer
    are left of a line than *head* had after it added some, and where a line is
    back of which *head* left none.
    """
    if head in (pending, base):
        return True
    if _unfit(base, head, pending) is not None:
        return False
    old, new, ours = lines_of(base), lines_of(head), lines_of(pending)
    has, left = Counter(new), Counter(ours)
    had = Counter(old)
    if any(left[line] < has[line] for line in has - had):
        return False
    if any(left[line] and not has[line] for line in had):
        return False
    try:
        made = [(j1, j2, i1, i2) for i1, i2, j1, j2 in _changes(old, new)]
        later = _changes(new, ours)
    except TooAlikeError:
        return False
    return not any(_touching(_reaches(new, old, made), _reaches(new, ours, later)))


def holds_markers(content: bytes) -> bool:
    """Whether *content* still has the conflict markers that a marked copy had."""
    lines = (b"\n" + content).find
    at = lines(b"\n" + _BEGIN)
    return at >= 0 and lines(b"\n" + _BASE, at) >= 0 and lines(b"\n" + _END, at) >= 0


def _unfit(*contents: bytes) -> Verdict | None:
    if any(len(each) > MERGE_BYTES_MAX for each in contents):
        return Verdict.TOO_LARGE
    if not all(is_text(each) for each in contents):
        return Verdict.NOT_TEXT
    if any(len(each) > LINES_MAX and each.count(b"\n") > LINES_MAX for each in contents):
        return Verdict.TOO_LARGE
    return None


def _applied(base: list[bytes], head: list[bytes], mine: list[bytes], aligned: _Aligned) -> Merged:
    """Both edits applied, unless they are of one place, or may be one change."""
    regions = tuple(_regions(base, head, mine, aligned))
    if any(region.overlaps for region in regions):
        return Merged(Verdict.OVERLAPS, None, regions)
    content = b"".join(b"".join(_resolved(region)) for region in regions)
    verdict = Verdict.CONTAINED if content == b"".join(head) else Verdict.CLEAN
    return Merged(verdict, content, regions)


def _regions(
    base: list[bytes], head: list[bytes], mine: list[bytes], aligned: _Aligned
) -> Iterator[_Region]:
    """The three contents cut at lines that all of them share, away from any doubt."""
    spans = list(_spans(base, head, mine, aligned))
    theirs = [n for n, (i, j, _) in enumerate(spans) if base[i] != head[j]]
    ours = [n for n, (i, _, k) in enumerate(spans) if base[i] != mine[k]]
    head_made = [_change(spans[n].base, spans[n].head) for n in theirs]
    mine_made = [_change(spans[n].base, spans[n].mine) for n in ours]
    contested = [False] * len(spans)
    joined = [False] * len(spans)  # with the one after it
    if _alike(base, head, head_made, mine, mine_made):
        contested = [True] * len(spans)
        joined = [True] * len(spans)
    for a, b in _touching(_reaches(base, head, head_made), _reaches(base, mine, mine_made)):
        first, last = sorted((theirs[a], ours[b]))
        contested[last] = True
        joined[first:last] = [True] * (last - first)
    i = 0
    start: _Span | None = None
    for number, span in enumerate(spans):
        if start is None:
            same = base[i : span.base.start]
            if same:
                yield _Region(same, same, same)
            start = span
        i = span.base.stop
        if not joined[number] or number == len(spans) - 1:
            yield _Region(
                base[start.base.start : span.base.stop],
                head[start.head.start : span.head.stop],
                mine[start.mine.start : span.mine.stop],
                contested[number],
            )
            start = None
    if base[i:]:
        yield _Region(base[i:], base[i:], base[i:])


def _spans(
    base: list[bytes], head: list[bytes], mine: list[bytes], aligned: _Aligned
) -> Iterator[_Span]:
    """What lies between the lines that all three share."""
    from merge3 import Merge3  # 3 ms, needed only when a merge is asked for

    # Its own merge takes a change that both made for agreed, and passes over a
    # deletion that both made in silence; its synchronised regions are what is
    # needed to tell these cases apart.
    i = j = k = 0
    matcher: Any = aligned.matcher
    merge: Any = Merge3(base, head, mine, sequence_matcher=matcher)
    for i1, i2, j1, j2, k1, k2 in merge.find_sync_regions():
        if i1 > i or j1 > j or k1 > k:
            yield _Span(slice(i, i1), slice(j, j1), slice(k, k1))
        i, j, k = i2, j2, k2


def _changes(old: list[bytes], new: list[bytes]) -> list[Change]:
    return list(changes(matching_blocks(old, new)))


def _change(old: slice, new: slice) -> Change:
    return old.start, old.stop, new.start, new.stop


def _reaches(old: list[bytes], new: list[bytes], made: Sequence[Change]) -> list[tuple[int, int]]:
    """The lines of *old*, from and to, at any of which each change may have been made.

    A line put into a run of lines like it can have been put anywhere in the run;
    the comparison that found the change has chosen one place, and may choose
    another for a text that has the same change.
    """
    found = []
    for number, (i1, i2, j1, j2) in enumerate(made):
        floor = made[number - 1][1] if number else 0
        ceiling = made[number + 1][0] if number + 1 < len(made) else len(old)
        surplus = (j2 - j1) - (i2 - i1)
        text, start, end = (new, j1, j2) if surplus > 0 else (old, i1, i2)
        low, high = i1, i2
        for lines, first, last, size in (
            (old, i1, i2, i2 - i1),
            (new, j1, j2, j2 - j1),
            (text, start, end, abs(surplus)),
        ):
            if not size:
                continue
            up = down = 0
            while i1 - up > floor and lines[first - up - 1] == lines[first - up - 1 + size]:
                up += 1
            while i2 + down < ceiling and lines[last + down] == lines[last + down - size]:
                down += 1
            low, high = min(low, i1 - up), max(high, i2 + down)
        found.append((low, high))
    return found


def _touching(
    one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Which of *one* and which of *other* have no line between them; both are in order."""
    a = b = 0
    while a < len(one) and b < len(other):
        if one[a][0] <= other[b][1] and other[b][0] <= one[a][1]:
            yield a, b
        if one[a][1] < other[b][1]:
            a += 1
        else:
            b += 1


def _alike(
    base: list[bytes],
    head: list[bytes],
    head_made: Sequence[Change],
    mine: list[bytes],
    mine_made: Sequence[Change],
) -> bool:
    """Whether a change of one side may be among those of the other, at another place."""
    theirs, ours = _lines_changed(base, head, head_made), _lines_changed(base, mine, mine_made)
    if _all_lines(theirs).isdisjoint(_all_lines(ours)):
        return False  # the common case, told without counting
    for some, all_of_other in ((theirs, ours), (ours, theirs)):
        gone, come = Counter[bytes](), Counter[bytes]()
        for old, new in all_of_other:
            gone.update(old)
            come.update(new)
        if any(_within(old, gone) and _within(new, come) for old, new in some):
            return True
    return False


def _within(lines: list[bytes], all_of_other: Counter[bytes]) -> bool:
    """Whether all of *lines* are there. To compare two counters goes through the large one too."""
    return all(all_of_other[line] >= count for line, count in Counter(lines).items())


def _lines_changed(
    old: list[bytes], new: list[bytes], made: Sequence[Change]
) -> list[tuple[list[bytes], list[bytes]]]:
    """Of each change the lines that it took away, and those that it brought."""
    return [(old[i1:i2], new[j1:j2]) for i1, i2, j1, j2 in made]


def _all_lines(changed: Sequence[tuple[list[bytes], list[bytes]]]) -> set[bytes]:
    return {line for lines in chain.from_iterable(changed) for line in lines}


class _Aligned:
    """The lines that belong together, found once for each pair of texts.

    By identity of the lists: they must live, unchanged, as long as this does.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], list[Block]] = {}

    def matcher(self, _: object, old: list[bytes], new: list[bytes]) -> _Matcher:
        """What merge3 asks for a matcher."""
        return _Matcher(partial(self._blocks, old, new))

    def _blocks(self, old: list[bytes], new: list[bytes]) -> list[Block]:
        pair = id(old), id(new)
        if pair not in self._found:
            self._found[pair] = matching_blocks(old, new)
        return self._found[pair]


class _Matcher(NamedTuple):
    """What merge3 asks for the lines that belong together."""

    get_matching_blocks: Callable[[], list[Block]]
