"""The files that the agents edit: each carries the evidence that the audit needs.

A document is text of an exact size: the generation and the writer that made it,
a ledger with one line for every write that it descends from, filling, and a
checksum over all before it. A write that is missing from the last ledger was
lost; a checksum that fails was a torn read. Uses nothing of the library.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

__all__ = ["EDITED_SHARE", "Document", "first", "parse"]

EDITED_SHARE = 0.05
"""Of the lines of filling, how many a write replaces, in one run of lines."""

LINE = 63
CHECKSUM = len("crc 00000000\n")


@dataclass(frozen=True)
class Document:
    """One generation of one file, taken apart."""

    generation: int
    writer: int
    ledger: tuple[str, ...]
    filling: tuple[str, ...]

    def next_by(self, writer: int, write: str, size: int, rng: random.Random) -> bytes:
        """Return the content, *size* bytes long, that the write named *write* makes of this."""
        count = max(1, round(len(self.filling) * EDITED_SHARE))
        start = rng.randrange(max(1, len(self.filling) - count))
        new = [_line(rng, len(old)) for old in self.filling[start : start + count]]
        filling = (*self.filling[:start], *new, *self.filling[start + count :])
        return Document(self.generation + 1, writer, (*self.ledger, write), filling).made(size)

    def made(self, size: int) -> bytes:
        """Return the content, *size* bytes long; filling that finds no room is left out."""
        head = f"generation {self.generation}\nwriter {self.writer}\n"
        head += "".join(f"write {each}\n" for each in self.ledger) + "\n"
        room = size - len(head) - CHECKSUM
        if room < 1:
            raise ValueError(f"the ledger has outgrown a file of {size} bytes")
        body = (head + "\n".join(self.filling)[: room - 1].ljust(room - 1, ".") + "\n").encode()
        return body + b"crc %08x\n" % zlib.crc32(body)


def _line(rng: random.Random, length: int = LINE) -> str:
    return rng.randbytes(length // 2 + 1).hex()[:length]


def first(size: int, rng: random.Random) -> bytes:
    """Return the content of generation 1, *size* bytes long."""
    filling = tuple(_line(rng) for _ in range(size // LINE + 1))
    return Document(1, -1, (), filling).made(size)


def parse(data: bytes) -> Document | None:
    """Take *data* apart; None when it is not one whole document."""
    body, check = data[:-CHECKSUM], data[-CHECKSUM:]
    if check != b"crc %08x\n" % zlib.crc32(body):
        return None
    head, _, filling = body.decode().partition("\n\n")
    fields = [line.split(" ", 1) for line in head.splitlines()]
    ledger = tuple(value for name, value in fields if name == "write")
    named = dict(fields)
    lines = tuple(filling.splitlines())
    return Document(int(named["generation"]), int(named["writer"]), ledger, lines)
