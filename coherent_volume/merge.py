"""Three-way merge of texts: edits of two parties that do not touch each other.

Pure functions over bytes; the one home of merge3. Never guesses: where both
parties changed the same place it is an overlap, *also when they changed it
alike*. Two sessions that both turn 5 into 6, or both take the first job off a
list, must not both believe that they did it (I1).

What belongs together is found by line. A merge takes whole regions from one
side or the other, so that no line is lost that neither side deleted.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from coherent_volume.lines import TooAlikeError, is_text, lines_of, matching_blocks

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

_PAIRS_MAX = 400_000
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
    """What is current is a deletion."""
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

    @property
    def overlaps(self) -> bool:
        """Whether both sides changed it."""
        return self.head != self.base != self.mine


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

    Takes at most about a second: larger or more repetitive content is given up.
    """
    refused = _unfit(base, head, mine)
    if refused is not None:
        return Merged(refused)
    try:
        regions = tuple(_regions(lines_of(base), lines_of(head), lines_of(mine)))
    except TooAlikeError:
        return Merged(Verdict.TOO_ALIKE)
    if any(region.overlaps for region in regions):
        return Merged(Verdict.OVERLAPS, None, regions)
    content = b"".join(b"".join(_resolved(region)) for region in regions)
    verdict = Verdict.CONTAINED if content == head else Verdict.CLEAN
    return Merged(verdict, content, regions)


def keeps_every_hunk(base: bytes, head: bytes, pending: bytes) -> bool:
    """Whether *pending* contains every change that *head* made since *base*.

    That is, whether merging *head* into it would leave it as it is. False for
    whatever cannot be merged (binary, too large): it cannot be shown then.
    """
    if head in (pending, base):
        return True
    if _unfit(base, head, pending) is not None:
        return False
    try:
        regions = _regions(lines_of(base), lines_of(head), lines_of(pending))
        return all(each.head in (each.base, each.mine) for each in regions)
    except TooAlikeError:
        return False


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


def _regions(base: list[bytes], head: list[bytes], mine: list[bytes]) -> Iterator[_Region]:
    """The three contents cut at the lines that all of them share."""
    from merge3 import Merge3  # 3 ms, needed only when a merge is asked for

    # Its own merge takes a change that both made for agreed, and passes over a
    # deletion that both made in silence; its synchronised regions are what is
    # needed to tell these cases apart.
    i = j = k = 0
    merge: Any = Merge3(base, head, mine, sequence_matcher=_Matcher)
    for i1, i2, j1, j2, k1, k2 in merge.find_sync_regions():
        if i1 > i or j1 > j or k1 > k:
            yield _Region(base[i:i1], head[j:j1], mine[k:k1])
        if i2 > i1:
            same = base[i1:i2]
            yield _Region(same, same, same)
        i, j, k = i2, j2, k2


class _Matcher:
    """What merge3 asks for the lines that belong together."""

    def __init__(self, _: object, old: Sequence[bytes], new: Sequence[bytes]) -> None:
        self.get_matching_blocks = partial(matching_blocks, old, new, _PAIRS_MAX)
