"""top: the volume as it lives, drawn anew every moment; ``status`` is its still picture.

Reads what ``status`` reads and the newest rows of the feed; changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.call import Common, Reply
from cli.place import opened
from coherent_volume import CoherentVolume
from coherent_volume.answers import (
    FeedEntry,
    Metric,
    VolumeStatus,
)
from coherent_volume.errors import UsageError, printable

__all__ = ["top"]

_FEED_ROWS = 2_000
_SHOWN = 10
_MINUTE_S = 60.0
_EVENTS = frozenset({"lease", "release", "break", "reclaim", "refuse"})


def top(common: Common, *, interval: float, once: bool) -> Reply | None:
    """Draw until q or Ctrl-C; one picture with *once* or ``--json``."""
    with opened(common) as place:
        if common.json:
            return Reply(asdict(place.volume.status()), str)
        if once:
            Console().print(_frame(place.volume))
            return None
        if not (sys.stdout.isatty() and sys.stdin.isatty()):
            raise UsageError(
                "top draws on a terminal, and there is none",
                advice="Use: coherent status; or: coherent top --once",
            )
        with _keys() as asked_to_end, Live(_frame(place.volume), screen=True) as live:
            while not asked_to_end(interval):
                live.update(_frame(place.volume), refresh=True)
    return None


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Read single keys during the block; yields what waits for one that ends it."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def asked_to_end(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([descriptor], [], [], left)[0]:
                key = os.read(descriptor, 1)
                if key in (b"q", b"Q", b""):
                    return True
        return False

    try:
        yield asked_to_end
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _frame(volume: CoherentVolume) -> RenderableType:
    status = volume.status()
    recent = [each for each in volume.recent(_FEED_ROWS).entries if _age(each.at) < _MINUTE_S]
    parts: list[RenderableType] = [
        _headline(status, recent, volume.metrics()),
        _sessions(status),
        _hot(recent),
    ]
    if status.leases:
        rows = [
            (each.path, each.session, _clock(each.since), _clock(each.until))
            for each in status.leases
        ]
        parts.append(_table(("LEASE", "SESSION", "SINCE (UTC)", "UNTIL (UTC)"), rows))
    if status.unsettled:
        parts.append(_table(("UNSETTLED",), [(path,) for path in status.unsettled]))
    return Group(*parts)


def _headline(
    status: VolumeStatus, recent: Sequence[FeedEntry], counters: Sequence[Metric]
) -> Text:
    refusals = sum(each.kind == "refuse" for each in recent)
    commits = sum(each.kind not in _EVENTS for each in recent)
    merges = sum(m.value for m in counters if m.name == "coherent_merges_total")
    return Text(
        f"{printable(status.root)}  artifacts {status.artifacts}, commits {status.commits},"
        f" refusals {status.refusals}, merges {merges:.0f}\n"
        f"in the last minute: generations {commits}, refusals {refusals}\n"
    )


def _sessions(status: VolumeStatus) -> Table:
    leased = Counter(each.session for each in status.leases)
    order = sorted(status.sessions, key=lambda s: (not s.alive, s.last_seen, s.name))
    return _table(
        ("SESSION", "ALIVE", "LAST COMMIT (UTC)", "COMMITS", "S", "I", "E/M"),
        [
            (
                each.name,
                "yes" if each.alive else "no",
                _clock(each.last_seen),
                str(each.commits),
                str(each.observed - each.behind),
                str(each.behind),
                str(leased[each.name]),
            )
            for each in order[: 2 * _SHOWN]
        ],
    )


def _hot(recent: Sequence[FeedEntry]) -> Table:
    made = Counter(each.path for each in recent if each.kind not in _EVENTS)
    refused = Counter(each.path for each in recent if each.kind == "refuse")
    who: dict[str, dict[str, None]] = {}
    for each in recent:
        who.setdefault(each.path, {})[each.session] = None
    hottest = (made + refused).most_common(_SHOWN)
    return _table(
        ("HOT IN THE LAST MINUTE", "GENERATIONS", "REFUSALS", "SESSIONS"),
        [(path, str(made[path]), str(refused[path]), ", ".join(who[path])) for path, _ in hottest],
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in rows:
        # Text, not str: a name must not be read as rich's own markup.
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def _clock(at: str) -> str:
    """The time of a moment of today, the date of any other: short, for a narrow screen."""
    today = datetime.now(UTC).date().isoformat()
    return at[11:19] if at.startswith(today) else at[:10]


def _age(at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
