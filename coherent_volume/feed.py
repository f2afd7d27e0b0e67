"""The feed: what happened in the volume, in one order, from a token on.

Owns tokens, and the judgement whether a reader missed something: numbers have
no gaps, so a missing one was pruned. The cost of asking depends on what is new,
never on the length of the history.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence

from coherent_volume import events
from coherent_volume.answers import (
    Changes,
    FeedEntry,
)
from coherent_volume.errors import UsageError
from coherent_volume.locks import GATE_WAIT_S
from coherent_volume.model import (
    ArtifactKey,
    Digest,
    moment,
)
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.records import OUTSIDE, EventRow, FeedRow, InstallRow

__all__ = [
    "GAP",
    "await_installs",
    "changes",
    "gap",
    "is_unfinished",
    "note_outside",
    "recent",
]

GAP = "gap"
_PAGE = 500
_INSTALL_WAIT_S = 0.05
_INSTALLS_MAX = 64
_TOKEN = re.compile(r"([0-9a-f]{1,32})-([0-9]{1,18})").fullmatch


def changes(parts: VolumeParts, since: str | None, limit: int | None) -> Changes:
    """What happened after *since*, oldest first; with None nothing, and a token of now.

    At most *limit* rows of the feed are looked at; the token goes on after
    them. Raises UsageError for what is no token at all.
    """
    if limit is not None and limit < 1:
        raise UsageError("a limit is a positive number")
    database = parts.sidecar.database
    feed = events.feed_id(database)
    if since is None:
        return Changes((), _token(feed, events.newest(database)))
    match = _TOKEN(str(since))
    if match is None:
        raise UsageError(
            "this is no token of a feed",
            advice="Pass a token as changes() or coherent since gave it.",
        )
    seq = int(match[2])
    if match[1] != feed or seq > events.newest(database):
        # Numbers of another sidecar: what happened in between nobody can say.
        return Changes((), _token(feed, events.newest(database)), complete=False)
    entries: list[FeedEntry] = []
    complete = True
    left = limit
    while True:
        asked = _PAGE if left is None else min(_PAGE, left)
        rows = events.feed_after(database, seq, asked)
        for row in rows:
            complete = complete and row.seq == seq + 1
            seq = row.seq
            if row.kind != "baseline":  # what stood there before: nothing happened
                entries.append(_entry(row, feed))
        left = None if left is None else left - len(rows)
        if len(rows) < asked or left == 0:
            break
    return Changes(tuple(entries), _token(feed, seq), complete)


def recent(parts: VolumeParts, count: int) -> Changes:
    """The newest *count* rows of the feed that are kept, oldest first."""
    database = parts.sidecar.database
    first = max(0, events.newest(database) - count)
    found = changes(parts, _token(events.feed_id(database), first), None)
    return Changes(found.entries, found.token)


def _token(feed: str, seq: int) -> str:
    return f"{feed}-{seq}"


def _entry(row: FeedRow, feed: str) -> FeedEntry:
    return FeedEntry(
        row.seq,
        moment(row.at / 1e9),
        row.kind,
        shown(row.key),
        row.session,
        row.generation,
        row.base,
        row.size,
        row.digest.hex(),
        row.detail,
        _token(feed, row.seq),
    )


def gap(token: str, at: float) -> FeedEntry:
    """The entry that tells a watcher that entries before *token* were pruned."""
    seq = int(token.rpartition("-")[2])
    return FeedEntry(seq, moment(at), GAP, "", "", 0, 0, 0, "", "", token)


def is_unfinished(parts: VolumeParts, key: ArtifactKey, install: InstallRow) -> bool:
    """Whether the visible file is not yet what a commit made it."""
    row = parts.sidecar.artifact(key)
    if row is None or row.generation != install.generation:
        return False
    try:
        found = os.stat(key, dir_fd=parts.root.descriptor, follow_symlinks=False)
    except OSError:
        return install.staged is not None
    return install.staged is None or found.st_ino != install.staged.inode


def await_installs(parts: VolumeParts, entries: Sequence[FeedEntry]) -> None:
    """Give commits that stand in the feed a moment to become visible.

    The records come first and the file a moment later. Who is told of a
    generation and reads at once expects that one, not the one before.
    """
    until = time.monotonic() + _INSTALL_WAIT_S
    for path in dict.fromkeys(each.path for each in entries[-_INSTALLS_MAX:]):
        key = ArtifactKey(os.fsencode(path))
        while time.monotonic() < until:
            _, pending = parts.sidecar.current(key, gated=False)
            if pending is None or not is_unfinished(parts, key, pending):
                break
            time.sleep(0.001)


def note_outside(parts: VolumeParts, key: ArtifactKey, digest: Digest) -> None:
    """Put an outside change of a file without records into the feed, once."""
    database = parts.sidecar.database
    if events.known_outside(database, key) == digest.hex():
        return
    with parts.gate.held(GATE_WAIT_S):
        if events.known_outside(database, key) == digest.hex():
            return  # a peer that watches too was faster
        with database.transaction(durable=False) as connection:
            events.append(connection, EventRow("foreign", OUTSIDE, key, 0, digest.hex()))
