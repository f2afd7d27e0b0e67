"""One reader or writer alone: what a call costs beside the plain call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import ours, plain
from benchmarks.measure import Arm, Plan, interleave, payloads
from benchmarks.ours import CoherentVolume, Durability
from benchmarks.settings import KIB, MIB, Context, size_name
from benchmarks.table import Row, Target, timed

__all__ = ["reads", "sustained", "updates", "writes"]

UNCHANGED = Target(0.5, "<=")
FIRST = Target(2.5, "<=")


class FreshReader:
    """Reads files through a volume object that is new in every block."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._volume: CoherentVolume | None = None

    def open(self) -> None:
        """Start a block without any memory of the one before."""
        self._volume = ours.open_volume(self._root)

    def read(self, name: str) -> bytes:
        """Read through the block's volume."""
        assert self._volume is not None
        return self._volume.read(name)

    def close(self) -> None:
        """End the block."""
        assert self._volume is not None
        self._volume.close()


def reads(context: Context) -> list[Row]:
    """Measure unchanged and first reads at every size."""
    rows = []
    for size in context.settings.sizes:
        rows.append(_unchanged_read(context, size))
    for committed in (False, True):
        for size in context.settings.sizes:
            rows.append(_first_read(context, size, committed))
    return rows


def _unchanged_read(context: Context, size: int) -> Row:
    title = f"unchanged read {size_name(size)}"
    context.progress(title)
    root = context.fresh_directory("unchanged")
    (name,) = ours.lay_out(root, 1, payloads(size, context.rng))
    path = str(root / name)
    with ours.make_volume(root) as volume:
        volume.read(name)
        ours.age()
        volume.read(name)
        arms = [
            Arm("plain", plain.read, lambda _: path),
            Arm("bare", lambda _: plain.read_bare(path, size)),
            Arm("ours", volume.read, lambda _: name),
        ]
        samples = interleave(arms, context.settings.read_plan(size), context.rng)
    return timed(f"unchanged/{size}", title, samples, UNCHANGED, bare=True)


def _first_read(context: Context, size: int, committed: bool) -> Row:
    kind = "committed" if committed else "never committed"
    title = f"first read, {kind} {size_name(size)}"
    context.progress(title)
    plan = context.settings.first_read_plan(size)
    root = context.fresh_directory("first")
    content = payloads(size, context.rng)
    names = ours.lay_out(root, plan.calls, content)
    ours.make_volume(root, "process").close()
    if committed:
        ours.commit_files(root, names, lambda number: content(number + plan.calls))
    ours.age()
    reader = FreshReader(root)

    def path(call: int) -> str:
        return str(root / names[call % plan.calls])

    arms = [
        Arm("plain", plain.read, path),
        Arm("bare", lambda p: plain.read_bare(p, size), path),
        Arm("ours", reader.read, lambda c: names[c % plan.calls], reader.open, reader.close),
    ]
    samples = interleave(arms, plan, context.rng)
    return timed(
        f"first-{'committed' if committed else 'new'}/{size}", title, samples, FIRST, bare=True
    )


def _write_target(durability: str, size: int) -> Target | None:
    if durability == "power":
        if size <= 64 * KIB:
            return Target(1.2, "<=")
        return Target(1.5, "<=") if size <= MIB else None
    return Target(1.5, "<=") if size <= 8 * KIB else None


def writes(context: Context) -> list[Row]:
    """Measure commits from a current view, at both durabilities and every size."""
    rows = []
    durabilities: tuple[Durability, ...] = ("power", "process")
    for durability in durabilities:
        for size in context.settings.sizes:
            rows.append(_write(context, size, durability))
    return rows


def _write(context: Context, size: int, durability: Durability) -> Row:
    title = f"{'durable' if durability == 'power' else 'process'} write {size_name(size)}"
    context.progress(title)
    durable = durability == "power"
    write = plain.write_durably if durable else plain.write_replacing
    bare = plain.write_durably_bare if durable else plain.write_replacing_bare
    root = context.fresh_directory("write")
    content = payloads(size, context.rng)
    (name,) = ours.lay_out(root, 1, content)
    beside = _plain_files(context, content)
    with ours.make_volume(root, durability) as volume:
        volume.read(name)
        arms = [
            Arm("plain", partial(write, beside[0]), content),
            Arm("bare", partial(bare, beside[1]), content),
            Arm("ours", partial(volume.write, name), content),
        ]
        samples = interleave(arms, context.settings.write_plan(size), context.rng)
    return timed(
        f"write-{durability}/{size}", title, samples, _write_target(durability, size), bare=True
    )


def _plain_files(context: Context, content: Callable[[int], bytes]) -> list[str]:
    """Make two plain files of their own in two directories; return their paths."""
    paths = []
    for purpose in ("plain", "bare"):
        directory = context.fresh_directory(purpose)
        target = directory / "file.md"
        target.write_bytes(content(0))
        paths.append(str(target))
    return paths


def updates(context: Context) -> list[Row]:
    """Measure read-change-commit in one call, durably, at every size."""
    return [_update(context, size) for size in context.settings.sizes]


def _update(context: Context, size: int) -> Row:
    title = f"durable update {size_name(size)}"
    context.progress(title)
    root = context.fresh_directory("update")
    content = payloads(size, context.rng)
    (name,) = ours.lay_out(root, 1, content)
    beside = _plain_files(context, content)

    def change(call: int) -> Callable[[bytes], bytes]:
        data = content(call)
        return lambda _: data

    with ours.make_volume(root) as volume:
        volume.read(name)
        arms = [
            Arm("plain", partial(plain.update_durably, beside[0]), change),
            Arm("bare", partial(plain.update_durably_bare, beside[1], size), change),
            Arm("ours", partial(volume.update, name), change),
        ]
        samples = interleave(arms, context.settings.write_plan(size), context.rng)
    return timed(f"update/{size}", title, samples, bare=True)


def sustained(context: Context) -> list[Row]:
    """Measure many commits and the close after them: nothing is left for later."""
    return [_sustained(context, "power"), _sustained(context, "process")]


def _sustained(context: Context, durability: Durability) -> Row:
    count, size = context.settings.sustained_writes, 4 * KIB
    kind = "durable" if durability == "power" else "process"
    title = f"{count} {kind} writes of 4 KiB and close"
    context.progress(title)
    durable = durability == "power"
    root = context.fresh_directory("sustained")
    content = payloads(size, context.rng)
    (name,) = ours.lay_out(root, 1, content)
    beside = _plain_files(context, content)
    ours.make_volume(root, durability).close()

    def through(write: Callable[[str, bytes], None], path: str) -> Callable[[int], None]:
        def run(call: int) -> None:
            for number in range(count):
                write(path, content(call * count + number))

        return run

    def open_and_read(call: int) -> tuple[int, CoherentVolume]:
        volume = ours.open_volume(root)
        volume.read(name)
        return call, volume

    def write_and_close(argument: tuple[int, CoherentVolume]) -> None:
        call, volume = argument
        for number in range(count):
            volume.write(name, content(call * count + number))
        volume.close()

    write = plain.write_durably if durable else plain.write_replacing
    bare = plain.write_durably_bare if durable else plain.write_replacing_bare
    arms = [
        Arm("plain", through(write, beside[0])),
        Arm("bare", through(bare, beside[1])),
        Arm("ours", write_and_close, open_and_read),
    ]
    whole = context.settings.write_plan(size)
    plan = Plan(max(3, whole.blocks // 3), 1, whole.rest)
    samples = interleave(arms, plan, context.rng)
    return timed(f"sustained-{durability}", title, samples, bare=True)
