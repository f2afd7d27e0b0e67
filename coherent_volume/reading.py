"""Reading: exactly the bytes of one generation, named by its number (I5).

Owns the read path. A read that finds the file and the records in agreement
takes no lock; any disagreement goes through the gate, where recovery decides.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from coherent_volume.attributes import Witness
from coherent_volume.errors import CoherenceError, from_os_error
from coherent_volume.files import (
    HELD_OPEN_WAIT_S,
    Fingerprint,
    Look,
    WriterPresent,
    look,
    patient,
)
from coherent_volume.gating import remember, settled_heads
from coherent_volume.locks import GATE_WAIT_S
from coherent_volume.model import ABSENT_DIGEST, ArtifactKey
from coherent_volume.parts import VolumeParts, now_ns
from coherent_volume.paths import shown
from coherent_volume.records import ArtifactRow, InstallRow, SeenRow

__all__ = ["Reading", "read", "reading_open", "record"]

_INSTALL_IN_PROGRESS_NS = 2 * 10**9


@dataclass(slots=True)
class Reading:
    """What a read found: the generation, and its content if it is not too large.

    ``artifact`` is the id of the sidecar's row, None for generation 0.
    ``fingerprint`` is None when it would prove nothing later.
    """

    seen: SeenRow
    artifact: int | None
    data: bytes | None
    fingerprint: Fingerprint | None = None
    size: int = 0

    @property
    def exists(self) -> bool:
        """Whether the generation is a file."""
        return self.seen.digest != ABSENT_DIGEST


def read(parts: VolumeParts, key: ArtifactKey) -> Reading:
    """The current generation of *key*; remembers nothing for the session.

    Raises BusyError when the file stays open for writing, DamagedError,
    NotRegularFileError, StorageError, NotPermittedError.
    """
    reading, seen = _read_agreeing(parts, key) or _read_gated(parts, key)
    seen.close()
    return reading


@contextlib.contextmanager
def reading_open(parts: VolumeParts, key: ArtifactKey) -> Iterator[tuple[Reading, Look]]:
    """As ``read``, with the file held open (and leased) during the block."""
    reading, seen = _read_agreeing(parts, key) or _read_gated(parts, key)
    try:
        yield reading, seen
    finally:
        seen.close()


def _read_gated(parts: VolumeParts, key: ArtifactKey) -> tuple[Reading, Look]:
    with _typed(key), settled_heads(parts, [key]) as (head,):
        seen = head.look
        # The caller may take long with the content: it keeps the file, not the gate.
        head.look = Look(-1, seen.stat, seen.digest, None, leased=False)
        return _reading(SeenRow(head.generation, head.digest, head.epoch), head.row, seen), seen


def _read_agreeing(parts: VolumeParts, key: ArtifactKey) -> tuple[Reading, Look] | None:
    """The reading when file and records agree; None when the gate must decide.

    A file that somebody merely holds open for writing can be read as long as
    its bytes are a generation; bytes that are none may be half of an edit.
    """
    deadline = 0.0
    while True:
        try:
            seen = look(parts.root.descriptor, key, beside_writer=True)
        except OSError as error:
            raise from_os_error(error, shown(key), "read") from error
        try:
            reading = _agreed(parts, key, seen)
        except BaseException:
            seen.close()
            raise
        if reading is not None:
            return reading, seen
        seen.close()
        if not seen.writer:
            return None
        deadline = deadline or time.monotonic() + HELD_OPEN_WAIT_S
        with patient(key, deadline):
            raise WriterPresent(seen.stat.st_dev, seen.stat.st_ino)


def _agreed(parts: VolumeParts, key: ArtifactKey, seen: Look) -> Reading | None:
    row, pending = parts.sidecar.current(key, gated=False)
    if row is None:
        if seen.writer:
            return None
        if seen.exists and Witness.read(seen.descriptor, parts.incarnation, key) > 0:
            return None
        return _reading(SeenRow(0, seen.digest, 0), None, seen)
    if row.digest == seen.digest and (pending is None or _in_progress(parts, pending)):
        return _reading(SeenRow(row.generation, row.digest, row.epoch), row, seen)
    return None


def _in_progress(parts: VolumeParts, pending: InstallRow) -> bool:
    # The bytes are the current generation's already. A fresh install is being
    # cleaned up by its committer; an old one is taken to the gate, because its
    # committer may have died over a foreign edit that nobody would look for.
    return pending.boot == parts.boot and now_ns() - pending.started_ns < _INSTALL_IN_PROGRESS_NS


def _reading(seen: SeenRow, row: ArtifactRow | None, look_: Look) -> Reading:
    return Reading(
        seen,
        row.id if row else None,
        look_.data,
        look_.fingerprint if look_.exists and look_.trustworthy else None,
        look_.stat.st_size if look_.exists else 0,
    )


def record(parts: VolumeParts, key: ArtifactKey, reading: Reading) -> None:
    """Remember that the session saw *reading*, after it was delivered.

    Generation, digest and epoch together, and only when they changed.
    """
    session = parts.session
    if session.seen_here.get(key) == reading.seen:
        return
    if reading.artifact is None and not reading.exists and session.seen(key) is None:
        return  # a name that was never used needs no view to be created
    if reading.artifact is None and reading.data is not None:
        session.unrecorded.keep(reading.seen.digest, reading.data)
    if session.observer is not None and session.seen(key) != reading.seen:
        with _typed(key), parts.gate.held(GATE_WAIT_S):
            parts.sidecar.database.verify()
            remember(parts, key, reading.seen, reading.data, reading.size)
    session.seen_here[key] = reading.seen


@contextlib.contextmanager
def _typed(key: ArtifactKey) -> Iterator[None]:
    try:
        yield
    except CoherenceError:
        raise
    except OSError as error:
        raise from_os_error(error, shown(key), "read") from error
