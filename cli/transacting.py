"""transaction: a command edits private copies of several files, and all is committed at once.

The command works in a directory of its own, laid out as the volume's root is,
so that the paths it was told still mean the same. Nothing there is shared with
anybody: what it finds is one consistent moment, or the commit is refused. What
it leaves is committed, kept by the library, or moved aside and named.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from cli import reports_history
from cli.call import Common, Reply
from cli.derive import CommandError, run_command
from cli.exit_codes import SIGNAL_BASE
from cli.limits import many_open_files
from cli.place import below_root, current_directory, opened
from cli.streams import warn
from cli.termination import told_to_end
from coherent_volume import CoherentVolume, NotFoundError, NotManagedError, Transaction
from coherent_volume.digest import digest_of_chunks
from coherent_volume.errors import (
    CoherenceError,
    ConflictError,
    NotPermittedError,
    UsageError,
    printable,
)
from coherent_volume.files import CHUNK

__all__ = ["transaction"]

_NAMED = 10
"""Names of files left out that one warning lists; the directory holds them all."""


class _Given(NamedTuple):
    """A PATH as the command finds it: the artifact it means, and its digest; None: absent."""

    artifact: str
    digest: bytes | None


@dataclass(slots=True)
class _Private:
    """The directory of one try: what was put there, and whether the command ran."""

    folder: str
    given: dict[str, _Given] = field(default_factory=dict)
    ran: bool = False


def transaction(common: Common, paths: list[str], retries: int, command: list[str]) -> Reply:
    """Run *command* over private copies of *paths*, and commit what it made of them."""
    with told_to_end(), opened(common) as place:
        asked = _asked(place.volume, paths)
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


def _asked(volume: CoherentVolume, paths: list[str]) -> dict[str, str]:
    """The name below the root of each path, and that of the artifact it means.

    Two copies of one artifact could be edited apart, and only one could be
    committed: they are refused.
    """
    asked: dict[str, str] = {}
    name_of: dict[str, str] = {}
    for path in paths:
        name = _relative(volume, path, below_root(path))
        artifact = _relative(volume, path, os.path.realpath(below_root(path)))
        other = name_of.setdefault(artifact, name)
        if other != name:
            raise UsageError(
                f"the same file as {printable(other)}",
                path=path,
                advice="Give each file of a transaction under one name.",
            )
        asked[name] = artifact
    return asked


def _relative(volume: CoherentVolume, path: str, place: str) -> str:
    where = os.path.relpath(place, volume.root)
    if where.split(os.sep)[0] == os.pardir:
        # The library says what is wrong with it.
        volume.view_of(below_root(path))
        raise UsageError("a path of a transaction lies below the root", path=path)
    return where


def _once(
    volume: CoherentVolume, asked: dict[str, str], here: str, command: list[str], *, streams: Any
) -> Reply:
    with _private_directory(volume) as private, ExitStack() as stack:
        folder = private.folder
        working = folder if here.startswith("..") else os.path.join(folder, here)
        with volume.transaction(renew=False) as tx:
            for name, artifact in asked.items():
                private.given[name] = _copied(tx, artifact, os.path.join(folder, name))
            os.makedirs(working, exist_ok=True)
            private.ran = True
            run_command(next(iter(asked), here), command, cwd=working, **streams)
            stack.enter_context(many_open_files())
            left = _gathered(volume, tx, private)
        where = _set_aside(folder, left) if left else ""
        return reports_history.commits(tx.commits, left=left, where=where)


def _copied(tx: Transaction, artifact: str, copy: str) -> _Given:
    """Put a copy of *artifact* at *copy*; what the command finds there."""
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    try:
        with open(copy, "xb") as file:
            tx.read_to(artifact, file)
    except NotFoundError:
        os.unlink(copy)  # its absence was read, and is part of the bargain
        return _Given(artifact, None)
    with open(copy, "rb") as file:
        return _Given(artifact, _digest(file))


def _gathered(volume: CoherentVolume, tx: Transaction, private: _Private) -> list[str]:
    """Hand what the command left to *tx*; the names of what is not managed."""
    folder, given = private.folder, private.given
    try:
        found = sorted(_files_below(folder))
        left = _not_managed(volume, folder, found)
        for name in sorted(set(found) - set(left)):
            with open(os.path.join(folder, name), "rb") as file:
                _hand_over(tx, name, given.get(name), file)
    except PermissionError as error:
        # What cannot be looked at must not pass for deleted.
        name = os.path.relpath(os.fsdecode(error.filename or folder), folder)
        raise NotPermittedError(
            "the command left what cannot be read; nothing was committed", path=name
        ) from error
    for name in set(given) - set(found):
        if given[name].digest is not None:
            tx.delete(given[name].artifact)
    return left


def _hand_over(tx: Transaction, name: str, given: _Given | None, file: BinaryIO) -> None:
    if given is None or given.digest is None:
        tx.create_from(given.artifact if given else name, file)
        return
    # Compared with what the command was given, never with what the transaction
    # has: that may be its own write by now.
    if _digest(file) != given.digest:
        file.seek(0)
        tx.write_from(given.artifact, file)


def _digest(file: BinaryIO) -> bytes:
    return digest_of_chunks(iter(lambda: file.read(CHUNK), b""))


def _not_managed(volume: CoherentVolume, folder: str, found: Sequence[str]) -> list[str]:
    """Those of *found* that no transaction can take: links, and what the globs do not name."""
    left = []
    for name in found:
        if not stat.S_ISREG(os.lstat(os.path.join(folder, name)).st_mode):
            left.append(name)
            continue
        try:
            volume.view_of(name)
        except NotManagedError:
            left.append(name)
    return left


def _set_aside(folder: str, left: Sequence[str]) -> str:
    """Move files out of *folder* into a directory of their own; its name."""
    where = tempfile.mkdtemp(prefix="coherent-left-")
    for name in left:
        os.makedirs(os.path.dirname(os.path.join(where, name)), exist_ok=True)
        shutil.move(os.path.join(folder, name), os.path.join(where, name))
    return where


def _files_below(folder: str) -> Iterator[str]:
    for directory, folders, files in os.walk(folder, onerror=_raise):
        links = [name for name in folders if os.path.islink(os.path.join(directory, name))]
        for name in [*files, *links]:
            yield os.path.relpath(os.path.join(directory, name), folder)


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _private_directory(volume: CoherentVolume) -> Iterator[_Private]:
    """A directory that nobody else can enter, removed unless it may be needed.

    A refusal keeps every member in the volume; when the command was killed, or
    something unforeseen ended the transaction, the directory may be the only
    place that holds the work. What is not managed nobody else keeps: however a
    try ends, it is moved aside.
    """
    private = _Private(tempfile.mkdtemp(prefix="coherent-transaction-"))
    needed = True
    try:
        yield private
        needed = False
    except CommandError as error:
        needed = error.status > SIGNAL_BASE
        raise
    except ConflictError as error:
        needed = not error.fields.get("kept")
        raise
    finally:
        if not private.ran or not _is_kept(volume, private.folder, needed=needed):
            shutil.rmtree(private.folder, ignore_errors=True)


def _is_kept(volume: CoherentVolume, folder: str, *, needed: bool) -> bool:
    """Save what only *folder* holds, and name where; whether that is *folder* itself."""
    try:
        found = sorted(_files_below(folder))
        if not found:
            return False
        if not needed:
            left = _not_managed(volume, folder, found)
            if left:
                where = _set_aside(folder, left)
                names = ", ".join(printable(name) for name in left[:_NAMED])
                more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
                warn(f"not managed, left out: {names}{more}; kept in {printable(where)}")
            return False
    except (OSError, CoherenceError):
        pass  # in doubt all of it is needed
    warn(f"what the command left is kept in {printable(folder)}")
    return True
