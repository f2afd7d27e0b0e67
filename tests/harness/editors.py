"""Programs that edit an artifact and never heard of the library.

Each editor changes one file in one of the ways in which real tools do it. The
text it leaves behind is ``signed``: a head line, filling, and an end line, all
with one token, so that a test can tell a whole edit from half of one, and find
the token again wherever the volume kept it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import re
import time
from collections.abc import Callable

from tests.harness.processes import say

__all__ = ["EDITORS", "IN_PLACE", "PATCHERS", "edit_often", "is_whole", "signed", "tokens_in"]

_LINES = 400
_WIDTH = 40
_TOKEN = re.compile(rb"<(\w+)>")


def signed(token: str) -> bytes:
    """A text of several pages that begins and ends with *token*."""
    mark = f"<{token}>".ljust(_WIDTH).encode() + b"\n"
    return mark + f"filling of {token}\n".encode() * _LINES + mark


def is_whole(data: bytes) -> bool:
    """Whether *data* is one signed text from its first line to its last.

    Editors that patch a text in place put their token into the first line or
    behind the last one, so those may differ from the filling.
    """
    lines = data.splitlines()
    filling = [line for line in lines if line.startswith(b"filling of ")]
    marks = [line for line in lines if _TOKEN.fullmatch(line.rstrip())]
    return (
        data.endswith(b"\n")
        and len(filling) == _LINES
        and len(set(filling)) == 1
        and len(marks) >= 2
        and len(marks) + len(filling) == len(lines)
    )


def tokens_in(data: bytes) -> set[str]:
    """The tokens that *data* is signed with."""
    return {match.decode() for match in _TOKEN.findall(data)}


def _pause(rng: random.Random, most_s: float = 0.004) -> None:
    # Not a synchronisation: it spreads the edit over the others' commits.
    time.sleep(rng.random() * most_s)


# ── editors that replace the whole text ──────────────────────────────────────


def replace(path: str, token: str, rng: random.Random) -> None:
    """Save as vim, most IDEs and ``sed -i`` do: a temporary file, renamed over the name."""
    temporary = f"{path}.{token}.tmp"
    with open(temporary, "wb") as file:
        file.write(signed(token))
        file.flush()
        _pause(rng)
    os.replace(temporary, path)


def truncate(path: str, token: str, rng: random.Random) -> None:
    """Save as a shell's ``>`` does: empty the file, then write it in pieces."""
    text = signed(token)
    step = len(text) // 7 + 1
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for start in range(0, len(text), step):
            _pause(rng)
            os.write(descriptor, text[start : start + step])
    finally:
        os.close(descriptor)


def hard_link(path: str, token: str, rng: random.Random) -> None:
    """Write through a second name of the same inode."""
    other = f"{path}.{token}.link"
    os.link(path, other)
    try:
        _pause(rng)
        truncate(other, token, rng)
    finally:
        os.unlink(other)


def unlink_and_create(path: str, token: str, rng: random.Random) -> None:
    """Save as git checkout does: remove the name, then insist on creating it."""
    text = signed(token)
    os.unlink(path)
    _pause(rng, 0.03)
    # Fails when somebody put the file back meanwhile, as git's checkout does.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)


# ── editors that change a part of what stands there ──────────────────────────


def _first_line(token: str) -> bytes:
    return f"<{token}>".ljust(_WIDTH).encode()


def overwrite(path: str, token: str, rng: random.Random) -> None:
    """Change some bytes in place, size unchanged, the descriptor open for a moment."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.pwrite(descriptor, _first_line(token), 0)
    finally:
        os.close(descriptor)


def overwrite_late(path: str, token: str, rng: random.Random) -> None:
    """The same through a descriptor that was opened 20 ms earlier."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        time.sleep(0.02)
        os.pwrite(descriptor, _first_line(token), 0)
    finally:
        os.close(descriptor)


def store(path: str, token: str, rng: random.Random) -> None:
    """Change some bytes through a shared mapping; the descriptor is closed before."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        mapping = mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)
    with mapping:
        _pause(rng)
        mapping[:_WIDTH] = _first_line(token)


def append(path: str, token: str, rng: random.Random) -> None:
    """Add a line at the end, as a shell's ``>>`` does."""
    with open(path, "ab", buffering=0) as file:
        file.write(f"<{token}>\n".encode())


# ── those that change no content, or take it away ────────────────────────────


def remove(path: str, token: str, rng: random.Random) -> None:
    """``rm``."""
    os.unlink(path)


def move_away(path: str, token: str, rng: random.Random) -> None:
    """``mv PATH ELSEWHERE``."""
    os.rename(path, f"{path}.{token}.away")


def change_mode(path: str, token: str, rng: random.Random) -> None:
    """``chmod``: no edit at all."""
    os.chmod(path, rng.choice([0o600, 0o640, 0o644]))


EDITORS: dict[str, Callable[[str, str, random.Random], None]] = {
    editor.__name__: editor
    for editor in (
        replace,
        truncate,
        hard_link,
        unlink_and_create,
        overwrite,
        overwrite_late,
        store,
        append,
        remove,
        move_away,
        change_mode,
    )
}
IN_PLACE = ("truncate", "hard_link", "overwrite", "overwrite_late", "store", "append")
PATCHERS = ("overwrite", "overwrite_late", "store", "append")


def edit_often(path: str, editor: str, seed: int, seconds: float) -> None:
    """In a worker: edit at random moments; say each token before and after its edit.

    Two edits of its own with nobody's visit in between would hide the first
    one, and that would be its own doing. So it waits for its token to leave
    the visible file before it goes on.
    """
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    say("ready")
    for number in range(10_000):
        if time.monotonic() > end:
            break
        token = f"{editor}{number:05d}"
        with contextlib.suppress(FileNotFoundError):
            say("starts", token=token)
            EDITORS[editor](path, token, rng)
            say("edited", token=token)
            while time.monotonic() < end and f"<{token}>".encode() in _visible(path):
                time.sleep(0.001)
        _pause(rng, 0.02)


def _visible(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
