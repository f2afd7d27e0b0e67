"""Rebuilding a sidecar that cannot be opened: missing, garbage or damaged.

Keeps the damaged files aside as evidence, with the large contents that no sound
row names, makes a new sidecar of the same incarnation, and takes over every
salvaged row that proves sound (artifacts by checksum, contents by digest). What
the records lost, the files' own witnesses supply: the check that follows goes on
counting above them, never below (I2).
"""

from __future__ import annotations

import contextlib
import os

from coherent_volume import repairs
from coherent_volume.database import Row
from coherent_volume.digest import digest_of
from coherent_volume.layout import SIDECAR_DIRECTORY, existing_incarnation
from coherent_volume.locks import GATE_WAIT_S, FairLock, lifecycle_lock
from coherent_volume.paths import PathArgument, Root
from coherent_volume.records import artifact_checksum
from coherent_volume.sidecar import Sidecar

__all__ = ["rebuild_sidecar"]

_DIGEST, _OBJECT, _CONTENT = 6, 11, 12  # in a row of HISTORY_COLUMNS
_DATABASE_FILES = ("sidecar.db", "sidecar.db-wal", "sidecar.db-shm")


def rebuild_sidecar(root: PathArgument) -> str:
    """Make the sidecar of *root* anew from what is left of it.

    Returns where the damaged one is kept. Run a check with repair afterwards;
    other processes must open the volume again. Raises NotFoundError,
    ConfigurationError, BusyError.
    """
    opened = Root(root)
    try:
        incarnation = existing_incarnation(opened)
        directory = os.path.join(os.fsdecode(opened.path), SIDECAR_DIRECTORY)
    finally:
        opened.close()
    path = os.path.join(directory, "sidecar.db")
    gate = FairLock(os.path.join(directory, "gate"))
    with (
        lifecycle_lock(os.path.join(directory, "lifecycle.lock")),
        gate.held(GATE_WAIT_S),
    ):
        kept = _set_aside(directory)
        artifacts, history = _sound(*_salvaged(directory))
        _keep_contents(directory, kept, {row[_OBJECT] for row in history})
        Sidecar.create(path, incarnation)
        sidecar = Sidecar(path, "power")
        try:
            repairs.restore(sidecar.database, artifacts, history)
        finally:
            sidecar.database.close()
    gate.close()
    return kept


def _set_aside(directory: str) -> str:
    """Move the database files to a directory of their own; where they are now."""
    evidence = os.path.join(directory, "damaged")
    os.makedirs(evidence, mode=0o700, exist_ok=True)
    taken = _taken(evidence)
    # Also a log alone, of a database that was lost: it must be replayed neither
    # into the new one nor into one that was set aside before.
    left = [name for name in _DATABASE_FILES if os.path.exists(os.path.join(directory, name))]
    if taken and not left:
        # A rebuild that was killed had set them aside already.
        return os.path.join(evidence, str(taken[-1]))
    kept = os.path.join(evidence, str(taken[-1] + 1 if taken else 1))
    os.mkdir(kept, mode=0o700)
    for name in left[::-1]:
        with contextlib.suppress(FileNotFoundError):
            os.rename(os.path.join(directory, name), os.path.join(kept, name))
    return kept


def _taken(evidence: str) -> list[int]:
    return sorted(int(name) for name in os.listdir(evidence) if name.isdigit())


def _salvaged(directory: str) -> tuple[list[Row], list[Row]]:
    """What the database yields that was set aside last."""
    evidence = os.path.join(directory, "damaged")
    for number in reversed(_taken(evidence)):
        path = os.path.join(evidence, str(number), "sidecar.db")
        if os.path.exists(path):
            return repairs.salvage(path)
    return [], []


def _keep_contents(directory: str, kept: str, named: set[str | None]) -> None:
    """Move large contents that no restored row names to where the evidence is.

    Before there is a new sidecar: the next visitor takes them for leftovers.
    """
    objects, kept = os.path.join(directory, "objects"), os.path.join(kept, "objects")
    found = os.listdir(objects) if os.path.isdir(objects) else []
    for name in sorted(set(found) - named):
        os.makedirs(kept, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.rename(os.path.join(objects, name), os.path.join(kept, name))


def _sound(artifacts: list[Row], history: list[Row]) -> tuple[list[Row], list[Row]]:
    """The rows that can be believed, each artifact with its current generation."""
    contents: dict[int, dict[int, Row]] = {}
    for row in history:
        digest, stored, content = row[_DIGEST], row[_OBJECT], row[_CONTENT]
        if stored is None and content is not None and digest_of(content) != digest:
            continue
        contents.setdefault(row[0], {})[row[1]] = row
    kept_artifacts, kept_history = [], []
    for row in artifacts:
        number, path, generation, digest, size, epoch, boot, checksum = row
        if artifact_checksum(path, generation, digest, size, epoch, boot) != checksum:
            continue
        current = contents.get(number, {}).get(generation)
        if current is None or current[_DIGEST] != digest:
            continue
        kept_artifacts.append(row)
        kept_history += [r for g, r in sorted(contents[number].items()) if g <= generation]
    return kept_artifacts, kept_history
