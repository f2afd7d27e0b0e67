"""Under the gate: the settled heads of some artifacts, or a bounded wait.

Owns the loop around recovery. Whatever must be waited for (an editor that
holds the file open, a name that is absent for a moment) is waited for with the
gate free, because peers of other artifacts share it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence

from coherent_volume import points
from coherent_volume.files import HELD_OPEN_WAIT_S, WriterPresent, patient
from coherent_volume.locks import GATE_WAIT_S
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts
from coherent_volume.records import SeenRow, ViewRow
from coherent_volume.recovery import Head, Vanished, settle

__all__ = ["ABSENCE_S", "remember", "remember_all", "settled_heads"]

ABSENCE_S = 0.1
"""A name must be absent for this long to count as deleted: tools that save by
unlink and create (git does) leave a hole, and adopting it at once made 3 of
226 checkouts fail."""

_POLL_S = 0.005


@contextlib.contextmanager
def settled_heads(parts: VolumeParts, keys: Sequence[ArtifactKey]) -> Iterator[list[Head]]:
    """Hold the gate, with every artifact of *keys* settled, during the block.

    All keys are taken under one gate, so no order of them can deadlock.
    Raises BusyError, and whatever recovery raises.
    """
    parts.announce()  # recovery may stage: peers must see that we live
    deadline = time.monotonic() + HELD_OPEN_WAIT_S
    gone_for_sure: set[ArtifactKey] = set()
    while True:
        heads: list[Head] = []
        blocked: WriterPresent | Vanished | None = None
        with parts.gate.held(GATE_WAIT_S):
            try:
                points.reached("gate_acquired")
                parts.sidecar.database.verify()
                key = keys[0]
                try:
                    for key in keys:
                        heads.append(settle(parts, key, absent_for_sure=key in gone_for_sure))
                        if len(keys) > 1:
                            _forget_large(parts, heads[-1])
                except (WriterPresent, Vanished) as reason:
                    blocked = reason
                else:
                    points.reached("checked")
                    yield heads
                    return
            finally:
                parts.sidecar.database.leave()  # what an interrupt left would keep peers out
                for head in heads:
                    head.look.close()
        if isinstance(blocked, Vanished):
            # All that are absent are waited for at once, not one after the other.
            gone_for_sure |= _staying_absent(parts, {*keys} - gone_for_sure)
        elif blocked is not None:
            with patient(key, deadline):
                raise blocked


def _forget_large(parts: VolumeParts, head: Head) -> None:
    """Hold no content of one of many that is too large for a row anyway."""
    data = head.look.data
    if data is not None and len(data) > parts.staging.inline_max:
        head.look.data = None


def _staying_absent(parts: VolumeParts, keys: set[ArtifactKey]) -> set[ArtifactKey]:
    """Those of *keys* that stay absent for as long as a deletion takes to be believed."""
    absent = {key for key in keys if _is_absent(parts, key)}
    looked, waited = time.monotonic(), 0.0
    while absent and waited < ABSENCE_S:
        time.sleep(_POLL_S)
        absent = {key for key in absent if _is_absent(parts, key)}
        # A process that was held up between two looks has not seen what was there
        # meanwhile: no look stands for more than twice its share.
        before, looked = looked, time.monotonic()
        waited += min(looked - before, 2 * _POLL_S)
    return absent


def _is_absent(parts: VolumeParts, key: ArtifactKey) -> bool:
    try:
        os.stat(key, dir_fd=parts.root.descriptor, follow_symlinks=False)
    except OSError:
        return True
    return False


def remember(
    parts: VolumeParts, key: ArtifactKey, seen: SeenRow, data: bytes | None, size: int
) -> None:
    """Under the gate: write what a named session saw; a process session has no need.

    Generation 0 gets a row, so that it can be referred to, and its content goes
    into the history, because it must be recoverable when the session is
    refused. Content too large to be kept in a row is left out.
    """
    observer = parts.session.observer
    if observer is None:
        return
    kept = data if data is not None and len(data) <= parts.staging.inline_max else None
    row = parts.sidecar.ensure_row(key, seen.digest, kept, size, parts.boot)
    parts.sidecar.observe(observer, row.id, seen)


def remember_all(parts: VolumeParts, views: Sequence[ViewRow]) -> None:
    """As ``remember`` for each, in one transaction."""
    observer, most = parts.session.observer, parts.staging.inline_max
    if observer is not None and views:
        kept = [v if len(v.content or b"") <= most else v._replace(content=None) for v in views]
        parts.sidecar.observe_all(observer, kept, parts.boot)
