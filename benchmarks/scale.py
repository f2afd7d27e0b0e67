"""Many artifacts: what opening a volume and reading all of it cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks import ours, plain
from benchmarks.incumbent import Incumbent
from benchmarks.measure import Arm, Plan, Samples, interleave, payloads
from benchmarks.settings import KIB, Context
from benchmarks.table import Row, Target
from benchmarks.workers import WorkerFailedError

__all__ = ["volumes"]

OPEN = Target(0.050, "<=", of="ours", unit="s")
READ_ALL = Target(3.0, "<=")


def volumes(context: Context, incumbent: Incumbent | None) -> list[Row]:
    """Measure every number of artifacts."""
    rows = []
    for count in context.settings.artifact_counts:
        rows += _volume_of(context, count, incumbent)
    return rows


def _volume_of(context: Context, count: int, incumbent: Incumbent | None) -> list[Row]:
    root = context.fresh_directory("scale")
    content = payloads(KIB, context.rng)
    context.progress(f"{count:,} artifacts: laying out")
    names = ours.lay_out(root, count, content)
    ours.make_volume(root, "process").close()
    ours.age()
    rows = [_read_all(context, root, names, f"never committed, {count:,}")]
    if incumbent is not None:
        context.progress(f"{count:,} artifacts: incumbent")
        beside = context.fresh_directory("incumbent")
        try:
            ours.lay_out(beside, count, content)
            opening, ratio = incumbent.read_all(beside)
        except WorkerFailedError as error:
            context.notes.append(f"incumbent, {count:,} artifacts: {error}")
            incumbent = None
        else:
            rows[0].incumbent = f"{ratio:.1f}"
    context.progress(f"{count:,} artifacts: committing all")
    ours.commit_files(root, names, lambda number: content(number + count))
    ours.age()
    rows.insert(0, _opening(context, root, count))
    if incumbent is not None:
        rows[0].incumbent = f"{opening * 1e3:.1f} ms"
    rows.append(_read_all(context, root, names, f"committed, {count:,}"))
    rows.append(_read_again(context, root, names, count))
    rows.append(_read_one(context, root, names, count))
    return rows


def _opening(context: Context, root: Path, count: int) -> Row:
    context.progress(f"{count:,} artifacts: opening")
    opened: list[Callable[[], None]] = []

    def open_one(_: int) -> None:
        opened.append(ours.open_volume(root).close)

    def close_one() -> None:
        opened.pop()()

    arms = [Arm("ours", open_one, after_block=close_one)]
    samples = interleave(arms, Plan(9, 1), context.rng)
    target = OPEN if count >= 10_000 else None
    title = f"open a volume of {count:,}"
    return Row(f"open/{count}", title, "s", None, samples.median("ours"), target=target)


def _read_all(context: Context, root: Path, names: list[str], kind: str) -> Row:
    context.progress(f"read all, {kind}")
    paths = [str(root / name) for name in names]

    def through_a_fresh_volume(_: int) -> None:
        with ours.open_volume(root) as volume:
            for name in names:
                volume.read(name)

    return _row(f"open, read all, close: {kind}", context, paths, through_a_fresh_volume, READ_ALL)


def _read_again(context: Context, root: Path, names: list[str], count: int) -> Row:
    context.progress(f"read all again, {count:,}")
    paths = [str(root / name) for name in names]
    with ours.open_volume(root) as volume:
        for name in names:
            volume.read(name)

        def again(_: int) -> None:
            for name in names:
                volume.read(name)

        return _row(f"read all again, unchanged, {count:,}", context, paths, again, None)


def _read_one(context: Context, root: Path, names: list[str], count: int) -> Row:
    name = names[len(names) // 2]

    def through_a_fresh_volume(_: int) -> None:
        with ours.open_volume(root) as volume:
            volume.read(name)

    title = f"open, read one of {count:,}, close"
    plan = Plan(max(5, context.settings.scale_blocks), 5)
    return _row(title, context, [str(root / name)], through_a_fresh_volume, None, plan)


def _row(
    title: str,
    context: Context,
    paths: list[str],
    operation: Callable[[int], None],
    target: Target | None,
    plan: Plan | None = None,
) -> Row:
    def plainly(_: int) -> None:
        for path in paths:
            plain.read(path)

    def barely(_: int) -> None:
        for path in paths:
            plain.read_bare(path, KIB)

    arms = [Arm("plain", plainly), Arm("bare", barely), Arm("ours", operation)]
    plan = plan or Plan(context.settings.scale_blocks, 1)
    samples: Samples = interleave(arms, plan, context.rng)
    return Row(
        title.replace(" ", "-"),
        title,
        "s",
        samples.median("plain"),
        samples.median("ours"),
        samples.ratio("ours", "plain"),
        samples.ratio("ours", "bare"),
        target,
        unsteady=samples.unsteady("plain"),
    )
