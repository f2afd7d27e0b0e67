"""A changed text as edits of a known one: what the ``delta`` arm hands over."""

from __future__ import annotations

import json
from difflib import SequenceMatcher

__all__ = ["apply", "edits"]


def edits(known: bytes, new: bytes) -> bytes:
    """Return what turns *known* into *new*: first line, lines that go, lines that come."""
    old_lines, new_lines = known.decode().splitlines(True), new.decode().splitlines(True)
    matcher = SequenceMatcher(None, old_lines, new_lines, autojunk=False)
    changes = [
        [start, end - start, "".join(new_lines[first:last])]
        for kind, start, end, first, last in matcher.get_opcodes()
        if kind != "equal"
    ]
    return json.dumps(changes, separators=(",", ":"), ensure_ascii=False).encode()


def apply(known: bytes, delta: bytes) -> bytes:
    """Return the new content that ``edits`` described."""
    lines = known.decode().splitlines(True)
    for start, removed, text in reversed(json.loads(delta)):
        lines[start : start + removed] = [text]
    return "".join(lines).encode()
