"""transaction: a command edits private copies of several files, and all is committed at once.

The command works in a directory of its own, laid out as the volume's root is,
so that the paths it was told still mean the same. Nothing there is shared with
anybody: what it finds is one consistent moment, or the commit is refused.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any, BinaryIO, cast

from cli import reports_history
from cli.call import Common, Reply
from cli.derive import CommandError, run_command
from cli.exit_codes import SIGNAL_BASE
from cli.limits import many_open_files
from cli.place import below_root, current_directory, opened
from cli.streams import warn
from coherent_volume import CoherentVolume, NotFoundError, NotManagedError, Transaction
from coherent_volume.errors import ConflictError, UsageError, printable

__all__ = ["transaction"]


def transaction(common: Common, paths: list[str], retries: int, command: list[str]) -> Reply:
    """Run *command* over private copies of *paths*, and commit what it made of them."""
    with opened(common) as place:
        asked = [_relative(place.volume, path) for path in paths]
        here = os.path.relpath(os.path.realpath(current_directory()), place.volume.root)
        for tried in range(retries + 1):
            try:
                return _once(place.volume, asked, here, command, streams=_streams(common))
            except ConflictError as error:
                # One that an outside edit raced stands: never a second time.
                if tried == retries or error.fields.get("committed") is not None:
                    raise
        raise AssertionError("the last try returns or raises")


def _streams(common: Common) -> dict[str, Any]:
    # Standard output belongs to the one JSON object.
    return {"stdout": sys.stderr.fileno()} if common.json and sys.stderr is not None else {}


def _relative(volume: CoherentVolume, path: str) -> str:
    where = os.path.relpath(below_root(path), volume.root)
    if where.startswith(".."):
        # The library says what is wrong with it.
        volume.view_of(below_root(path))
        raise UsageError("a path of a transaction lies below the root", path=path)
    return where


def _once(
    volume: CoherentVolume, asked: list[str], here: str, command: list[str], *, streams: Any
) -> Reply:
    with _private_directory() as folder, ExitStack() as stack:
        working = folder if here.startswith("..") else os.path.join(folder, here)
        with volume.transaction(renew=False) as tx:
            given = dict(_copied(tx, asked, folder))
            os.makedirs(working, exist_ok=True)
            run_command(asked[0] if asked else here, command, cwd=working, **streams)
            stack.enter_context(many_open_files())
            left = _gathered(tx, given, folder)
        where = ""
        if left:
            where = tempfile.mkdtemp(prefix="coherent-left-")
            for name in left:
                os.makedirs(os.path.dirname(os.path.join(where, name)), exist_ok=True)
                shutil.move(os.path.join(folder, name), os.path.join(where, name))
        return reports_history.commits(tx.commits, left=left, where=where)


def _copied(tx: Transaction, asked: list[str], folder: str) -> Iterator[tuple[str, str | None]]:
    """Put a copy of each path below *folder*; its name and what it looked like."""
    for name in dict.fromkeys(asked):
        copy = os.path.join(folder, name)
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        try:
            with open(copy, "xb") as file:
                tx.read_to(name, file)
        except NotFoundError:
            os.unlink(copy)  # its absence was read, and is part of the bargain
            yield name, None
        else:
            yield name, copy


def _gathered(tx: Transaction, given: dict[str, str | None], folder: str) -> list[str]:
    """Hand what the command left to *tx*; the names of what is not managed."""
    left = []
    found = sorted(_files_below(folder))
    for name in found:
        copy = os.path.join(folder, name)
        if not stat.S_ISREG(os.lstat(copy).st_mode):
            left.append(name)
            continue
        with open(copy, "rb") as file:
            try:
                if given.get(name) is None:
                    tx.create_from(name, file)
                elif not _is_same(tx, name, file):
                    file.seek(0)
                    tx.write_from(name, file)
            except NotManagedError:
                left.append(name)
    for name in set(given) - set(found):
        if given[name] is not None:
            tx.delete(name)
    return left


def _is_same(tx: Transaction, name: str, file: IO[bytes]) -> bool:
    """Whether *file* still is what was read; compared in pieces."""
    sink = _Comparison(file)
    tx.read_to(name, cast("BinaryIO", sink))  # it needs no more of a stream
    return sink.equal and not file.read(1)


class _Comparison:
    """A sink that compares what it is given with a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.equal = True

    def write(self, data: bytes) -> int:
        self.equal = self.equal and self._file.read(len(data)) == data
        return len(data)

    def writelines(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            self.write(piece)


def _files_below(folder: str) -> Iterator[str]:
    for directory, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(directory, name))]
        for name in [*files, *links]:
            yield os.path.relpath(os.path.join(directory, name), folder)


@contextmanager
def _private_directory() -> Iterator[str]:
    """A directory that nobody else can enter, removed unless it may be needed.

    A refusal keeps every member in the volume; when the command was killed, or
    something unforeseen ended the transaction, the directory may be the only
    place that holds the work.
    """
    folder = tempfile.mkdtemp(prefix="coherent-transaction-")
    needed = False
    try:
        yield folder
    except CommandError as error:
        needed = error.status > SIGNAL_BASE
        raise
    except ConflictError as error:
        needed = not error.fields.get("kept")
        raise
    except BaseException:
        needed = True
        raise
    finally:
        if needed and any(_files_below(folder)):
            warn(f"what the command left is kept in {printable(folder)}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
