"""File objects over artifacts: reading one generation, writing the next.

Owns what ``open`` returns. A reader sees one generation, whatever happens
meanwhile. A writer collects privately and commits once, when its with-block
ends or it is closed; when the block raises, nothing is committed.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from coherent_volume.errors import UsageError
from coherent_volume.model import Commit

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from coherent_volume.paths import PathArgument

__all__ = ["open_artifact"]

_MODES = ("r", "rb", "w", "wb", "a", "ab", "x", "xb")
_IN_MEMORY_MAX = 16 << 20  # a writer's content beyond this goes to a temporary file


def open_artifact(volume: Any, path: PathArgument, mode: str, encoding: str) -> IO[Any]:
    """A file object over *path* in *mode*; see ``CoherentVolume.open``."""
    if mode not in _MODES:
        raise UsageError(f"mode must be one of {', '.join(_MODES)}, not {mode!r}")
    binary = mode.endswith("b")
    if mode[0] == "r":
        snapshot = _spool()
        volume.read_to(path, snapshot)
        snapshot.seek(0)
        reader: Any = snapshot
        return reader if binary else io.TextIOWrapper(reader, encoding=encoding)
    writer = _Writer(_commit_of(volume, path, mode[0]), volume.writing(path))
    return writer if binary else _TextWriter(writer, encoding)  # type: ignore[return-value]


def _spool() -> Any:
    """A private place for content: memory while it is small, then a nameless file."""
    import tempfile  # 4 ms, needed only by file objects

    return tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_MAX)


def _commit_of(volume: Any, path: PathArgument, mode: str) -> Callable[[BinaryIO], Commit]:
    """What closing a writer does; a view that exists now is the base, not a later one."""
    if mode == "x":
        return lambda content: volume.create_from(path, content)
    if mode == "a":
        return lambda content: volume.append(path, content.read())
    base = volume.view_of(path)
    if base is None:
        return lambda content: volume.write_from(path, content)
    return lambda content: volume.write_from(path, content, base=base)


class _Writer(io.BufferedIOBase):
    """Collects bytes; ``close`` commits them, an exception in the block discards."""

    def __init__(
        self, commit: Callable[[BinaryIO], Commit], writing: AbstractContextManager[None]
    ) -> None:
        self._commit = commit
        self._writing = contextlib.ExitStack()
        self._writing.enter_context(writing)
        self._content = _spool()
        self.commit: Commit | None = None
        """The commit that closing made."""

    def writable(self) -> bool:
        """Always; it can do nothing else."""
        return True

    def write(self, data: Any, /) -> int:
        """Add *data*; nothing is visible to anybody yet."""
        if self.closed:
            raise ValueError("write to a closed file")
        written: int = self._content.write(data)
        return written

    def tell(self) -> int:
        """How many bytes have been written."""
        offset: int = self._content.tell()
        return offset

    def discard(self) -> None:
        """Close without a commit."""
        if not self.closed:
            self._writing.close()
            self._content.close()
            super().close()

    def close(self) -> None:
        """Commit what was written; raises what the commit raises, once."""
        if self.closed:
            return
        self._content.seek(0)
        try:
            self.commit = self._commit(self._content)
        finally:
            self.discard()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        # Never commit by garbage collection: nobody could be told of a refusal.
        if not self.closed:
            warnings.warn("a writer was dropped unclosed: discarded", ResourceWarning, stacklevel=2)
            self.discard()


class _TextWriter(io.TextIOWrapper):
    """Text over a ``_Writer``, with the same ends."""

    def __init__(self, writer: _Writer, encoding: str) -> None:
        super().__init__(writer, encoding=encoding, newline="")  # type: ignore[arg-type]
        self._writer = writer

    @property
    def commit(self) -> Commit | None:
        """The commit that closing made."""
        return self._writer.commit

    def close(self) -> None:
        """Commit all that was written, or discard and raise."""
        if not self.closed:
            # The library's own close goes on to that of the writer when this fails,
            # and so would commit what had been passed on, without its end.
            try:
                self.flush()
            except BaseException:
                self._writer.discard()
                raise
        super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._writer.discard()
            return
        self.close()

    def __del__(self) -> None:
        self._writer.__del__()
