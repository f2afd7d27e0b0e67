"""The command ``python -m benchmarks.mounting``: what programs pay in a mount.

Each operation is done natively, in a mount of ours (on artifacts and on files
that are none), and in whatever other mounts can be had here, in alternation.
Needs root and /dev/fuse.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import machine
from benchmarks.measure import Arm, Plan, Ratio, Samples, interleave
from benchmarks.mount_arms import ARTIFACTS, DURABLE, FUSEPY, NATIVE, OTHERS, Side, sides
from benchmarks.settings import KIB, MIB, Context, Settings
from benchmarks.table import show

FILES = 300
TEXT = b"line of the plan\n" * 241
LEGEND = """\
Each figure is a ratio to the same natively: the median over alternating blocks, and the quartiles.
artifacts: managed files, every save a commit in process mode; durable: in power mode, as fsync is.
others: files that are not managed.
bare fusepy and libfuse's examples answer from memory for a second or longer; ours asks each time.
~ the native side itself varied by half or more: the machine was busy, measure again.
"""


@dataclass(frozen=True)
class Operation:
    """Something to be measured. ``prepare`` is outside the clock."""

    title: str
    act: Callable[[Path, int], object]
    calls: int
    prepare: Callable[[Path, int], object] | None = None
    fenced: bool = True
    """Also done on artifacts."""
    aim: float | None = None
    durable: bool = False
    """It flushes natively, so that the artifacts of a durable volume are the match."""


# ── single operations ────────────────────────────────────────────────────────


def _file(top: Path, call: int) -> str:
    return f"{top}/files/{call % FILES}.md"


def _write(path: str, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o644)
    os.write(descriptor, os.urandom(4 * KIB))
    os.close(descriptor)


def stat(top: Path, call: int) -> None:
    """Look at one file."""
    os.stat(_file(top, call))


def read(top: Path, call: int) -> None:
    """Open, read and close one file."""
    descriptor = os.open(_file(top, call), os.O_RDONLY)
    os.read(descriptor, 8 * KIB)
    os.close(descriptor)


def create(top: Path, call: int) -> None:
    """Make one file."""
    _write(f"{top}/files/new-{call}.md", os.O_CREAT | os.O_EXCL)


def overwrite(top: Path, call: int) -> None:
    """Save one file in place."""
    _write(_file(top, call), os.O_TRUNC)


def replace(top: Path, call: int) -> None:
    """Save one file by a temporary one and a rename."""
    _write(f"{top}/files/.tmp", os.O_CREAT | os.O_TRUNC)
    os.rename(f"{top}/files/.tmp", _file(top, call))


def replace_durably(top: Path, call: int) -> None:
    """Save one file by a temporary one and a rename, and flush both."""
    temporary, target = f"{top}/files/.tmp", _file(top, call)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(descriptor, os.urandom(4 * KIB))
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(temporary, target)
    directory = os.open(f"{top}/files", os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def write_large(size: int, top: Path, call: int) -> None:
    """Write a large file from its start."""
    with open(top / "written", "wb", buffering=0) as file:
        file.writelines(bytes(MIB) for _ in range(size // MIB))


def read_large(top: Path, call: int) -> None:
    """Read a large file."""
    with open(top / "large", "rb", buffering=0) as file:
        while file.read(MIB):
            pass


# ── programs ─────────────────────────────────────────────────────────────────


def program(words: Sequence[str], top: Path, call: int) -> None:
    """Run a program in the directory; {} in its words is the number of the call."""
    subprocess.run(
        [word.replace("{}", str(call)) for word in words],
        cwd=top,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def untarred(archive: Path, top: Path, call: int) -> None:
    """Unpack the archive into a directory of its own."""
    target = top / f"tree-{call}"
    target.mkdir()
    program(["tar", "-xf", str(archive)], target, call)
    if sum(1 for _ in target.rglob("*.txt")) != FILES:
        raise RuntimeError(f"tar did not unpack everything in {top}")


def operations(archive: Path, large: int) -> list[Operation]:
    """Everything that is measured, in the order of the table."""
    search = ["rg" if shutil.which("rg") else "grep", "nothing at all", "files"]
    if search[0] == "grep":
        search.insert(1, "-r")
    unpack = partial(untarred, archive)
    return [
        Operation("stat", stat, 200),
        Operation("open + read + close, 4 KiB", read, 200),
        Operation("create, 4 KiB", create, 20),
        Operation("overwrite in place, 4 KiB", overwrite, 20),
        Operation("temp + rename, 4 KiB", replace, 20),
        Operation("temp + fsync + rename, 4 KiB", replace_durably, 20, aim=2.5, durable=True),
        Operation(f"read {large // MIB} MiB", read_large, 1, fenced=False, aim=1.3),
        Operation(f"write {large // MIB} MiB", partial(write_large, large), 1, fenced=False),
        Operation("git status", partial(program, ["git", "status"]), 2),
        Operation(f"{search[0]}, {FILES} files", partial(program, search), 3),
        Operation(f"untar, {FILES} files", unpack, 1),
        Operation(
            f"rm -rf, {FILES} files",
            lambda top, call: program(["rm", "-rf", f"tree-{call + 1000}"], top, call),
            1,
            prepare=lambda top, call: unpack(top, call + 1000),
        ),
    ]


def _fill(large: int, top: Path) -> None:
    """The files of one side, and a repository that knows them."""
    (top / "files").mkdir(parents=True)
    for number in range(FILES):
        (top / "files" / f"{number}.md").write_bytes(TEXT)
    with open(top / "large", "wb") as file:
        file.writelines(os.urandom(KIB) * KIB for _ in range(large // MIB))
    (top / ".gitignore").write_text("large\nwritten\ntree-*\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "files"]):
        name = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
        subprocess.run(["git", *name, *words], cwd=top, check=True)


def _pack(archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        for number in range(FILES):
            folder = Path(scratch, str(number % 10))
            folder.mkdir(exist_ok=True)
            (folder / f"{number}.txt").write_bytes(TEXT[: 500 + 11 * number])
        with tarfile.open(archive, "w") as file:
            file.add(scratch, arcname=".")


# ── measuring and telling ────────────────────────────────────────────────────


def measure(context: Context, operation: Operation, there: Sequence[Side], blocks: int) -> Samples:
    """Do *operation* on every side in alternation."""
    arms = [
        Arm(side.name, partial(operation.act, side.top), partial(_ready, operation, side.top))
        for side in there
        if (operation.fenced or not side.fenced)
        and (not side.fenced or side.durable == operation.durable)
    ]
    return interleave(arms, Plan(blocks, operation.calls, rest=0.05), context.rng)


def _ready(operation: Operation, top: Path, call: int) -> int:
    if operation.prepare is not None:
        operation.prepare(top, call)
    return call


def _cell(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    return f"{show(ratio.median, 'x')} ({show(ratio.low, 'x')}..{show(ratio.high, 'x')})"


def _render(names: Sequence[str], rows: Sequence[tuple[Operation, Samples]]) -> str:
    lines = [("", *names)]
    for operation, samples in rows:
        native = show(samples.median(NATIVE), "s") + ("~" if samples.unsteady(NATIVE) else "")
        ratios = [
            _cell(samples.ratio(name, NATIVE) if name in samples.medians else None)
            for name in names[1:]
        ]
        lines.append((operation.title, native, *ratios))
    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )


def _verdicts(rows: Sequence[tuple[Operation, Samples]]) -> list[str]:
    """What was aimed at, and whether it was reached in this run."""
    found = []
    for operation, samples in rows:
        for name in (ARTIFACTS, DURABLE, OTHERS):
            if name not in samples.medians:
                continue
            ours = samples.ratio(name, NATIVE).median
            if operation.aim is not None:
                met = "met" if ours <= operation.aim else "MISSED"
                found.append(f"{operation.title}, {name}: ≤ {operation.aim} {met} ({ours:.2f})")
            for other in samples.medians:
                if other == FUSEPY or (other.startswith("passthrough") and operation.act is read):
                    ratio = samples.ratio(name, other).median
                    if ratio > 1:
                        found.append(
                            f"{operation.title}, {name}: no slower than {other} MISSED"
                            f" ({ratio:.2f} times its time)"
                        )
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print the table, clean up; 0 unless something broke off."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mounting", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument(
        "--directory", type=Path, default=Path.cwd(), help="where to make the temporary directory"
    )
    parser.add_argument(
        "--c", action="append", type=Path, default=[], metavar="PROGRAM",
        help="a built passthrough_ll or passthrough_hp of libfuse; may be given twice",
    )  # fmt: skip
    parser.add_argument("--only", action="append", metavar="WORD", help="rows that begin so")
    parser.add_argument("--seed", type=int, default=None, help="seed of contents and orders")
    arguments = parser.parse_args(given)
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        print("The mount is measured as root, with /dev/fuse.", file=sys.stderr)
        return 1
    os.environ.pop("COHERENT_SESSION", None)
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 32)
    blocks, large = (3, 64 * MIB) if arguments.quick else (6, 256 * MIB)
    directory = Path(tempfile.mkdtemp(prefix=".bench-", dir=arguments.directory)).resolve()
    known, begin = machine.facts(directory), time.monotonic()
    context = Context(Settings(), directory, random.Random(seed), lambda text: None)
    rows: list[tuple[Operation, Samples]] = []
    try:
        archive = directory / "files.tar"
        _pack(archive)
        with sides(context, partial(_fill, large), arguments.c) as there:
            names = [side.name for side in there]
            for operation in operations(archive, large):
                if not arguments.only or operation.title.startswith(tuple(arguments.only)):
                    rows.append((operation, measure(context, operation, there, blocks)))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    known["load_after"] = os.getloadavg()[0]
    print(machine.summary(known))
    kind = "quick" if arguments.quick else "full"
    print(f"{kind} run of {time.monotonic() - begin:.0f} s, seed {seed}\n")
    print(_render(names, rows))
    print("\n" + LEGEND, end="")
    for line in [*_verdicts(rows), *(f"note: {note}" for note in context.notes)]:
        print(line)
    if arguments.json:
        found = {operation.title: samples.medians for operation, samples in rows}
        document = {"machine": known, "seed": seed, "notes": context.notes, "seconds": found}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
