"""A mount beside the real directory: what programs pay that never heard of the library."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import Arm, Plan, interleave
from benchmarks.ours import CoherentVolume
from benchmarks.settings import KIB, MIB, Context
from benchmarks.table import Row, Target, timed
from fuse_mount import mount

__all__ = ["mounts"]

FILES = 300
BIG = 64 * MIB


def mounts(context: Context) -> list[Row]:
    """Measure single operations and whole programs in a mount, against the same natively."""
    with _both(context.fresh_directory("mount")) as (native, mounted):
        return [
            _row(context, key, title, target, native, mounted, act, calls)
            for key, title, target, act, calls in (
                ("stat", "stat", None, _stat, 200),
                ("read", "open + read + close, 4 KiB", Target(21, "<="), _read, 200),
                ("overwrite", "overwrite in place, 4 KiB", None, _overwrite, 20),
                ("rename", "temp + rename, 4 KiB", None, _replace, 20),
                ("find", f"find, {FILES} files", None, partial(_program, FIND), 3),
                ("grep", f"grep, {FILES} files", Target(10, "<="), partial(_program, GREP), 3),
                ("sequential", "read 64 MiB", Target(1.3, "<="), _big, 2),
            )
        ]


FIND = ("find", "plans", "-name", "*.md", "-size", "+1k")
GREP = ("grep", "-r", "-c", "nothing at all", "plans")


@contextlib.contextmanager
def _both(directory: Path) -> Iterator[tuple[Path, Path]]:
    """A directory of files without a volume, and a mount of a volume of the same files."""
    native, root, where = directory / "native", directory / "root", directory / "mount"
    where.mkdir()
    for top in (native, root):
        (top / "plans").mkdir(parents=True)
        for number in range(FILES):
            (top / "plans" / f"{number}.md").write_bytes(b"line of the plan\n" * 241)
        (top / "big").write_bytes(os.urandom(MIB) * (BIG // MIB))
    CoherentVolume(root, managed=("plans/*.md",), durability="process").close()
    with mount(root, where, "benchmark"):
        yield native, where


def _row(
    context: Context,
    key: str,
    title: str,
    target: Target | None,
    native: Path,
    mounted: Path,
    act: Callable[[Path, int], object],
    calls: int,
) -> Row:
    context.progress(f"mount: {title}")
    arms = [Arm("plain", partial(act, native)), Arm("ours", partial(act, mounted))]
    plan = Plan(context.settings.write_blocks, calls, rest=0.05)
    return timed(f"mount.{key}", title, interleave(arms, plan, context.rng), target)


def _file(top: Path, call: int) -> str:
    return f"{top}/plans/{call % FILES}.md"


def _stat(top: Path, call: int) -> None:
    os.stat(_file(top, call))


def _read(top: Path, call: int) -> None:
    with open(_file(top, call), "rb", buffering=0) as file:
        file.read()


def _overwrite(top: Path, call: int) -> None:
    with open(_file(top, call), "wb", buffering=0) as file:
        file.write(os.urandom(4 * KIB))


def _replace(top: Path, call: int) -> None:
    temporary = f"{top}/plans/.tmp"
    with open(temporary, "wb", buffering=0) as file:
        file.write(os.urandom(4 * KIB))
    os.rename(temporary, _file(top, call))


def _program(words: tuple[str, ...], top: Path, _: int) -> None:
    subprocess.run(words, cwd=top, stdout=subprocess.DEVNULL, check=False)


def _big(top: Path, _: int) -> None:
    with open(top / "big", "rb", buffering=0) as file:
        while file.read(MIB):
            pass
