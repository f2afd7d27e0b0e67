"""Several files at once: one transaction beside as many plain replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks import ours, plain
from benchmarks.measure import Arm, interleave, payloads
from benchmarks.ours import CoherentVolume, Durability
from benchmarks.settings import KIB, Context, size_name
from benchmarks.table import Row, timed

__all__ = ["transactions"]

_MEMBERS = 3


def transactions(context: Context) -> list[Row]:
    """Measure three files written in one commit, after reading them and without."""
    rows = []
    durabilities: tuple[Durability, ...] = ("power", "process")
    for durability in durabilities:
        for reading in (False, True):
            rows.append(_transaction(context, durability, reading=reading))
    return rows


def _transaction(context: Context, durability: Durability, *, reading: bool) -> Row:
    size = 4 * KIB
    kind = "durable" if durability == "power" else "process"
    does = "reads and writes" if reading else "writes"
    title = f"{kind} transaction, {does} {_MEMBERS} x {size_name(size)}"
    context.progress(title)
    content = payloads(size, context.rng)
    root = context.fresh_directory("transaction")
    names = ours.lay_out(root, _MEMBERS, content)
    beside = []
    for number in range(_MEMBERS):
        target = context.fresh_directory("plain") / f"{number}.md"
        target.write_bytes(content(number))
        beside.append(str(target))
    replace = plain.write_durably if durability == "power" else plain.write_replacing

    def several(data: bytes) -> None:
        for path in beside:
            if reading:
                plain.read(path)
            replace(path, data)

    with ours.make_volume(root, durability) as volume:
        for name in names:
            volume.read(name)
        arms = [
            Arm("plain", several, content),
            Arm("ours", _writer(volume, names, reading=reading), content),
        ]
        samples = interleave(arms, context.settings.write_plan(size), context.rng)
    seen = "read" if reading else "blind"
    return timed(f"transaction-{durability}/{seen}", title, samples)


def _writer(
    volume: CoherentVolume, names: Sequence[str], *, reading: bool
) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        with volume.transaction() as tx:
            for name in names:
                if reading:
                    tx.read(name)
                tx.write(name, data)

    return write
