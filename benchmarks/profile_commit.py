"""Where the time of a call goes: ``python -m benchmarks.profile_commit``.

Times N calls without a profiler first (the median is the truth), then N more
under cProfile, and lists functions by the time spent in them and by the time
spent below them, per call. The profiler charges every Python call about a
microsecond, so compare its lines with one another, not with the median.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ours, plain
from benchmarks.measure import Arm, Plan, interleave, payloads

OPERATIONS = ("write", "update", "read", "first-read", "open")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.profile_commit", description=__doc__)
    parser.add_argument("operation", nargs="?", choices=OPERATIONS, default="write")
    parser.add_argument("--size", type=int, default=4096, help="bytes of content")
    parser.add_argument("--durability", choices=("power", "process"), default="power")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--lines", type=int, default=30, help="functions to list")
    parser.add_argument("--committed", action="store_true", help="first-read: commit files first")
    parser.add_argument("--directory", type=Path, default=Path.cwd())
    return parser.parse_args(given)


def _operation(arguments: argparse.Namespace, root: Path) -> tuple[Arm, Arm]:
    """Return our arm and the plain one for the chosen operation."""
    content = payloads(arguments.size, random.Random(1))
    twice = 2 * arguments.count + 100
    files = twice if arguments.operation == "first-read" else 1
    names = ours.lay_out(root, files, content)
    ours.make_volume(root, arguments.durability).close()
    if arguments.committed:
        ours.commit_files(root, names, lambda number: content(number + twice))
    ours.age()
    volume = ours.open_volume(root)
    beside = str(root / "plain.md")
    Path(beside).write_bytes(content(0))
    power = arguments.durability == "power"
    write = plain.write_durably if power else plain.write_replacing
    name, path = names[0], str(root / names[0])
    if arguments.operation != "first-read":
        volume.read(name)

    def update(data: bytes) -> object:
        return volume.update(name, lambda _: data)

    def change(data: bytes) -> None:
        plain.read(beside)
        write(beside, data)

    def open_and_close(_: int) -> None:
        ours.open_volume(root).close()

    def write_ours(data: bytes) -> object:
        return volume.write(name, data)

    def write_plain(data: bytes) -> None:
        write(beside, data)

    def path_of(call: int) -> str:
        return str(root / names[call])

    pairs: dict[str, tuple[Arm, Arm]] = {
        "write": (Arm("ours", write_ours, content), Arm("plain", write_plain, content)),
        "update": (Arm("ours", update, content), Arm("plain", change, content)),
        "read": (
            Arm("ours", volume.read, lambda _: name),
            Arm("plain", plain.read, lambda _: path),
        ),
        "first-read": (
            Arm("ours", volume.read, lambda call: names[call]),
            Arm("plain", plain.read, path_of),
        ),
        "open": (Arm("ours", open_and_close), Arm("plain", plain.read, lambda _: path)),
    }
    return pairs[arguments.operation]


def _timed(arms: tuple[Arm, Arm], count: int) -> None:
    blocks = 10
    samples = interleave(arms, Plan(blocks - 1, count // blocks), random.Random(2))
    own, other = samples.median("ours") * 1e6, samples.median("plain") * 1e6
    ratio = samples.ratio("ours", "plain")
    print(
        f"without profiler: ours {own:.1f} µs, plain {other:.1f} µs, ratio {ratio.median:.2f} "
        f"({ratio.low:.2f}..{ratio.high:.2f})"
    )


def _profiled(arm: Arm, count: int) -> pstats.Stats:
    profiler = cProfile.Profile()
    taken = []
    run: Callable[[Any], object] = arm.operation
    for call in range(count, 2 * count):
        argument = arm.prepare(call)
        begin = time.perf_counter()
        profiler.enable()
        run(argument)
        profiler.disable()
        taken.append(time.perf_counter() - begin)
    print(f"with profiler: ours {statistics.median(taken) * 1e6:.1f} µs\n")
    return pstats.Stats(profiler)


def _place(function: tuple[str, int, str]) -> str:
    file, line, name = function
    if file == "~":
        return name
    return f"{os.sep.join(Path(file).parts[-2:])}:{line} {name}"


def _list(stats: pstats.Stats, count: int, lines: int) -> None:
    table: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = stats.stats  # type: ignore[attr-defined]
    for title, column in (("spent in the function itself", 2), ("spent in it and below", 3)):
        print(f"µs per call, {title}:")
        print(f"{'µs':>9} {'calls':>7}  function")
        ranked = sorted(table.items(), key=lambda item: -float(item[1][column]))
        for function, figures in ranked[:lines]:
            each = figures[column] / count * 1e6
            print(f"{each:9.1f} {figures[1] / count:7.1f}  {_place(function)}")
        print()


def main(given: Sequence[str] | None = None) -> int:
    """Time and profile one operation."""
    arguments = _arguments(given)
    os.environ.pop("COHERENT_SESSION", None)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.directory) as made:
        own, other = _operation(arguments, Path(made).resolve())
        _timed((own, other), arguments.count)
        _list(_profiled(own, arguments.count), arguments.count, arguments.lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
