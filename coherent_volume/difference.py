"""Differences: unified diffs, whole for programs or bounded and safe for reports.

Pure functions over bytes. Nothing here takes longer on a large file than
comparing its bytes, but for ``unified``, which promises the whole diff.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from coherent_volume.errors import printable
from coherent_volume.lines import (
    Block,
    TooAlikeError,
    changes,
    equal_end,
    equal_start,
    is_binary,
    lines_of,
    matches,
    matching_blocks,
)

__all__ = ["DIFF_BYTES_MAX", "DIFF_LINES_MAX", "Diff", "escaped", "excerpt", "unified"]

DIFF_LINES_MAX = 120
"""Lines of a diff that a refusal shows at most."""

DIFF_BYTES_MAX = 8000
"""Bytes of a diff that a refusal shows at most."""

_CONTEXT = 3
_COMPARED_MAX = 64 << 10  # bytes of each changed region that are looked at
_LINE_MAX = 500


class Diff(NamedTuple):
    """A diff as lines that are safe to print, and how many more there are."""

    lines: tuple[str, ...]
    left_out: int
    compared_whole: bool


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
    for line in _hunks(a, b, matches(a, b), 0, context):
        lines += [line] if isinstance(line, str) else _marked(*line)
    return "".join(f"{line}\n" for line in lines)


def _marked(sign: str, line: bytes) -> list[str]:
    text = sign + line.removesuffix(b"\n").decode("utf-8", "surrogateescape")
    return [text] if line.endswith(b"\n") else [text, "\\ No newline at end of file"]


def excerpt(
    old: bytes,
    new: bytes,
    old_name: str,
    new_name: str,
    lines_max: int = DIFF_LINES_MAX,
    bytes_max: int = DIFF_BYTES_MAX,
    context: int = _CONTEXT,
) -> Diff:
    """The beginning of the unified diff of two texts; every line is safe to print."""
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
    room = bytes_max
    left_out = 0
    head = (f"--- {printable(old_name)}", f"+++ {printable(new_name)}")
    for line in (*head, *_hunks(a, b, blocks, first, context)) if a or b else ():
        text = line if isinstance(line, str) else _shown(*line)
        room -= len(text.encode()) + 1
        if left_out or room < 0 or len(shown) >= lines_max:
            left_out += 1
        else:
            shown.append(text)
    return Diff(tuple(shown), left_out, whole)


def _equal_ends(old: bytes, new: bytes) -> tuple[int, int]:
    """How many bytes can be left out at the beginning and the end: whole lines only.

    A few lines of context stay, and what is left out stays equal in both.
    """
    shorter = min(len(old), len(new))
    begin = equal_start(old, new, shorter)
    if begin == len(old) == len(new):
        return begin, 0
    for _ in range(_CONTEXT + 1):
        begin = max(old.rfind(b"\n", 0, max(begin - 1, 0)) + 1, 0) if begin else 0
    end = equal_end(old, new, shorter - begin)
    for _ in range(_CONTEXT + 1):
        after = old.find(b"\n", len(old) - end) if end else -1
        end = len(old) - after - 1 if after >= 0 else 0
    return begin, end


def _hunks(
    old: list[bytes], new: list[bytes], blocks: Sequence[Block], first: int, context: int
) -> Iterator[str | tuple[str, bytes]]:
    """Headings as text, and lines as (sign, content)."""
    pending = deque(changes(blocks))
    while pending:
        hunk = [pending.popleft()]
        while pending and pending[0][0] - hunk[-1][1] <= 2 * context:
            hunk.append(pending.popleft())
        begin = min(context, hunk[0][0], hunk[0][2])
        end = min(context, len(old) - hunk[-1][1], len(new) - hunk[-1][3])
        i, j = hunk[0][0] - begin, hunk[0][2] - begin
        until = hunk[-1][1] + end
        yield (f"@@ -{_range(first + i, until - i)} +{_range(first + j, hunk[-1][3] + end - j)} @@")
        for i1, i2, j1, j2 in hunk:
            yield from ((" ", line) for line in old[i:i1])
            yield from (("-", line) for line in old[i1:i2])
            yield from (("+", line) for line in new[j1:j2])
            i = i2
        yield from ((" ", line) for line in old[i:until])


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


def escaped(text: str) -> str:
    """*text* with every control character but newline and tab made visible."""
    return "\n".join(
        "\t".join(printable(piece) for piece in line.split("\t")) for line in text.split("\n")
    )
