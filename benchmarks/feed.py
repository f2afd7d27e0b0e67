"""The feed: how soon a watcher wakes, and what a long history costs those who ask.

The history is laid out by writing the sidecar's rows directly: a hundred
thousand commits would take minutes, and their rows are the same.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import ours
from benchmarks.measure import Arm, Plan, interleave, payloads
from benchmarks.settings import KIB, Context
from benchmarks.table import Row, Target
from benchmarks.workers import environment, start

__all__ = ["feeds"]

WAKE = Target(0.100, "<=", of="ours", unit="s")
LENGTH = Target(1.5, "<=")
CROWD = Target(1.5, "<=")
_TARGET = "files/watched"


def feeds(context: Context) -> list[Row]:
    """Measure the wake-up, asking, and a crowded volume beside an empty one."""
    return [*_waking(context), *_asking(context), *_crowded(context)]


# ── waking ───────────────────────────────────────────────────────────────────


def _waking(context: Context) -> list[Row]:
    context.progress("waking a watcher")
    rows = []
    for durability in ("power", "process"):
        root = context.fresh_directory("watch")
        (root / "files").mkdir()
        late = []
        with ours.make_volume(root, durability) as volume:  # type: ignore[arg-type]
            volume.create(_TARGET, "0")
            command = [sys.executable, "-m", "benchmarks.feed", str(root)]
            worker = start([*command, str(context.settings.wake_ups)], environment())
            assert worker.stdin is not None
            with volume.watch(_TARGET, timeout=120.0) as entries:
                for _ in range(context.settings.wake_ups):
                    worker.stdin.write("go\n")
                    worker.stdin.flush()
                    next(entries)
                    woken = time.monotonic()
                    assert worker.stdout is not None
                    late.append(max(0.0, woken - float(worker.stdout.readline())))
            worker.communicate()
        title = f"wake-up by another process's commit, {durability}"
        key = f"feed/wake/{durability}"
        half, most = statistics.median(late), statistics.quantiles(late, n=100)[98]
        rows.append(Row(f"{key}/p50", f"{title}, median", "s", None, half, target=WAKE))
        rows.append(Row(f"{key}/p99", f"{title}, 99 %", "s", None, most, target=WAKE))
    return rows


def _commit_when_told(root: str, count: int) -> None:
    """In the worker: commit at each word, and say when the commit was acknowledged."""
    with ours.open_volume(Path(root)) as volume:
        volume.read(_TARGET)
        print("ready", flush=True)
        for number in range(count):
            sys.stdin.readline()
            volume.write(_TARGET, f"text {number}")
            print(time.monotonic(), flush=True)


# ── asking ───────────────────────────────────────────────────────────────────


def _asking(context: Context) -> list[Row]:
    arms = []
    opened = []
    for count in context.settings.history_lengths:
        context.progress(f"a history of {count:,}")
        root = context.fresh_directory("history")
        (root / "files").mkdir()
        volume = ours.make_volume(root, "process")
        opened.append(volume)
        ours.lay_out_history(volume, count, sessions=0)
        token = volume.changes().token
        for number in range(10):
            volume.create(f"files/new{number}", "")

        def ask(_: int, volume: ours.CoherentVolume = volume, token: str = token) -> None:
            assert len(volume.changes(token).entries) == 10

        arms.append(Arm(f"{count}", ask))
    samples = interleave(arms, Plan(context.settings.read_blocks, 50), context.rng)
    for volume in opened:
        volume.close()
    first = arms[0].name
    return [
        Row(
            f"feed/changes/{arm.name}",
            f"10 changes after {int(arm.name):,} generations",
            "s",
            samples.median(first),
            samples.median(arm.name),
            samples.ratio(arm.name, first),
            target=LENGTH if arm is not arms[0] else None,
        )
        for arm in arms
    ]


# ── a crowd ──────────────────────────────────────────────────────────────────


def _crowded(context: Context) -> list[Row]:
    """Reading and writing where 1,000 sessions and 100,000 generations are on record."""
    volumes = {}
    contents = {}
    for kind, generations, sessions in (("empty", 0, 0), ("crowded", 100_000, 1_000)):
        context.progress(f"a volume that is {kind}")
        root = context.fresh_directory(kind)
        names = ours.lay_out(root, 100, payloads(KIB, context.rng))
        volumes[kind] = ours.make_volume(root)
        ours.lay_out_history(volumes[kind], generations, sessions=sessions)
        contents[kind] = (names, payloads(KIB, context.rng))
    ours.age()
    rows = []
    for deed in ("first read", "read again", "write"):
        arms = [Arm(kind, _deed(deed, volumes[kind], *contents[kind])) for kind in volumes]
        samples = interleave(arms, Plan(context.settings.read_blocks, 6, rest=0.06), context.rng)
        rows.append(
            Row(
                f"feed/crowd/{deed.replace(' ', '-')}",
                f"{deed}, 1,000 sessions and 100,000 generations (plain: empty volume)",
                "s",
                samples.median("empty"),
                samples.median("crowded"),
                samples.ratio("crowded", "empty"),
                target=CROWD,
                unsteady=samples.unsteady("empty"),
            )
        )
    for volume in volumes.values():
        volume.close()
    return rows


def _deed(
    deed: str, volume: ours.CoherentVolume, names: list[str], content: Callable[[int], bytes]
) -> Callable[[int], None]:
    def first(call: int) -> None:
        volume.read(names[call % len(names)])

    def again(_: int) -> None:
        volume.read(names[0])

    def write(call: int) -> None:
        volume.write(names[1], content(call), overwrite=True)

    return {"first read": first, "read again": again, "write": write}[deed]


if __name__ == "__main__":
    _commit_when_told(sys.argv[1], int(sys.argv[2]))
