"""Rebuilding a sidecar that cannot be opened: missing, garbage or damaged.

Keeps the damaged files aside as evidence, makes a new sidecar of the same
incarnation, and takes over every salvaged row that proves sound (artifacts by
checksum, contents by digest). What the records lost, the files' own witnesses
supply: the check that follows goes on counting above them, never below (I2).
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
        artifacts, history = _sound(*repairs.salvage(os.path.join(kept, "sidecar.db")))
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
    taken = sorted(int(name) for name in os.listdir(evidence) if name.isdigit())
    if taken and not os.path.exists(os.path.join(directory, "sidecar.db")):
        # A rebuild that was killed had set them aside already.
        return os.path.join(evidence, str(taken[-1]))
    kept = os.path.join(evidence, str(taken[-1] + 1 if taken else 1))
    os.mkdir(kept, mode=0o700)
    for name in _DATABASE_FILES[::-1]:
        with contextlib.suppress(FileNotFoundError):
            os.rename(os.path.join(directory, name), os.path.join(kept, name))
    return kept


def _sound(artifacts: list[Row], history: list[Row]) -> tuple[list[Row], list[Row]]:
    """The rows that can be believed, each artifact with its current generation."""
    contents: dict[int, dict[int, Row]] = {}
    for row in history:
        digest, stored, content = row[6], row[11], row[12]
        if stored is None and content is not None and digest_of(content) != digest:
            continue
        contents.setdefault(row[0], {})[row[1]] = row
    kept_artifacts, kept_history = [], []
    for row in artifacts:
        number, path, generation, digest, size, epoch, boot, checksum = row
        if artifact_checksum(path, generation, digest, size, epoch, boot) != checksum:
            continue
        current = contents.get(number, {}).get(generation)
        if current is None or current[6] != digest:
            continue
        kept_artifacts.append(row)
        kept_history += [r for g, r in sorted(contents[number].items()) if g <= generation]
    return kept_artifacts, kept_history
