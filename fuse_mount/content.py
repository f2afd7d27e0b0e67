"""Judgement by content: whether a save keeps what peers wrote.

A program that reads the head milliseconds before it saves has either edited the
head, or it read in passing and writes what its user thought of long before. The
text tells: an edit of the head still contains everything that peers changed.
"""

from __future__ import annotations

from merge3 import Merge3

__all__ = ["keeps_every_hunk"]

_SIZE_MAX = 4 << 20
"""Beyond this a comparison by lines would take seconds; the save is refused."""


def keeps_every_hunk(base: bytes, head: bytes, pending: bytes) -> bool:
    """Whether merging *head* into *pending* would change nothing of *pending*."""
    if max(len(base), len(head), len(pending)) > _SIZE_MAX:
        return False
    if head == pending:
        return True
    old, theirs, ours = (text.splitlines(keepends=True) for text in (base, head, pending))
    merged: list[bytes] = []
    for kind, *parts in Merge3(old, theirs, ours).merge_groups():
        if kind == "conflict":
            return False
        merged += parts[0]
    return b"".join(merged) == pending
