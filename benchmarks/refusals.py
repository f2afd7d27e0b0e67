"""Refusals: what a refused write costs beside a plain read of the file.

Text of many lines, changed by a peer in one place and by the author in another,
so that the diff and the question whether it would merge have work to do. Every
refusal is the first of its file: a repeated one writes less.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import ours, plain
from benchmarks.measure import Arm, Plan, interleave
from benchmarks.ours import ConflictError
from benchmarks.settings import KIB, Context, size_name
from benchmarks.startup import command_line, surroundings_with_bytecode
from benchmarks.table import Row, Target, timed

__all__ = ["refusals"]

AIM = Target(3.0, "<=")


def refusals(context: Context) -> list[Row]:
    """Measure refused writes with their reports, in this process and as a command."""
    rows = [_refused_write(context, size) for size in context.settings.sizes]
    return [*rows, _refused_command(context)]


def _text(size: int) -> Callable[[int], bytes]:
    """Return a maker of texts: the same lines, with one in the middle of its own."""
    lines = [b"line %08d of a text that people edit\n" % number for number in range(size // 39)]

    def make(version: int) -> bytes:
        changed = [*lines, b"end\n"]
        changed[len(lines) // 2] = b"version %d\n" % version
        return b"".join(changed)

    return make


def _stale(root: Path, count: int, content: Callable[[int], bytes]) -> list[str]:
    """Lay out *count* files that the session "author" has read and a peer has changed."""
    names = ours.lay_out(root, count, lambda _: content(0))
    ours.make_volume(root, "process").close()
    with ours.open_volume(root, "author") as author:
        for name in names:
            author.read(name)
    ours.commit_files(root, names, lambda _: content(1))
    ours.age()
    return names


def _refused_write(context: Context, size: int) -> Row:
    title = f"refused write with report {size_name(size)}"
    context.progress(title)
    content = _text(size)
    whole = context.settings.write_plan(size)
    plan = Plan(whole.blocks, whole.calls)
    root = context.fresh_directory("refused")
    names = _stale(root, (plan.blocks + 1) * plan.calls, content)
    mine = b"author's first line\n" + content(0)
    with ours.open_volume(root, "author") as volume:

        def refused(name: str) -> None:
            try:
                volume.write(name, mine)
            except ConflictError as conflict:
                verdict = conflict.report.merge
            else:
                verdict = "accepted"
            if verdict not in {"clean", "unknown", "too large"}:
                context.failures.append(f"{title}: {verdict}")

        arms = [
            Arm("plain", plain.read, lambda call: str(root / names[call])),
            Arm("ours", refused, names.__getitem__),
        ]
        samples = interleave(arms, plan, context.rng)
    return timed(f"refused/{size}", title, samples, AIM)


def _refused_command(context: Context) -> Row:
    title = "coherent write refused beside python -c open().read()"
    context.progress(title)
    runs = context.settings.startup_runs
    root = context.fresh_directory("refused-command")
    names = _stale(root, runs + 1, _text(4 * KIB))
    surroundings = surroundings_with_bytecode(context)
    draft = context.fresh_directory("draft") / "mine"
    draft.write_bytes(b"author's first line\n" + _text(4 * KIB)(0))

    def read(name: str) -> list[str]:
        script = f"import sys; sys.stdout.buffer.write(open({str(root / name)!r}, 'rb').read())"
        return [sys.executable, "-c", script]

    def write(name: str) -> list[str]:
        options = ["--root", str(root), "--as", "author", "--from", str(draft)]
        return [*command_line(), "write", *options, str(root / name)]

    def run(expected: int, command: list[str]) -> None:
        ended = subprocess.run(command, check=False, capture_output=True, env=surroundings)
        if ended.returncode != expected:
            context.failures.append(f"{title}: {command} ended with {ended.returncode}")

    arms = [
        Arm("plain", partial(run, 0), lambda call: read(names[call])),
        Arm("ours", partial(run, 75), lambda call: write(names[call])),
    ]
    return timed("refused-command", title, interleave(arms, Plan(runs, 1), context.rng), AIM)
