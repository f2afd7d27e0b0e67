"""Where new content comes from: standard input, or the file of ``--from``."""

from __future__ import annotations

import sys
from typing import BinaryIO, Self

from cli.streams import StreamError, warn
from coherent_volume.errors import UsageError

__all__ = ["Source"]


class Source:
    """A source of bytes: the file *name*, or standard input. A context manager.

    Trouble with it is a StreamError or the caller's mistake, never an OSError,
    which the library would take for trouble with the volume.
    """

    def __init__(self, name: str | None, option: str = "--from") -> None:
        self._name = "standard input" if name is None else name
        self._owned = name is not None
        self._file = _standard_input() if name is None else _open(name, option)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._owned:
            self._file.close()

    def read(self, size: int = -1) -> bytes:
        """The next *size* bytes, fewer only at the end."""
        try:
            return self._file.read(size)
        except OSError as error:
            raise StreamError(self._name, error) from error


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise UsageError(
            "standard input is closed", advice="Pipe the content in, or name a file with --from."
        )
    if sys.stdin.isatty():
        warn("reading the content from the terminal; end it with Ctrl-D")
    return sys.stdin.buffer


def _open(name: str, option: str) -> BinaryIO:
    try:
        return open(name, "rb")
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror or error}",
            path=name,
            advice=f"{option} names the file that holds the new content.",
        ) from error
