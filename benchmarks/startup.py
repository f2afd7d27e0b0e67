"""Whole processes: import and command start over a bare interpreter."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import ours
from benchmarks.incumbent import Incumbent
from benchmarks.measure import Arm, Plan, Samples, interleave, payloads
from benchmarks.settings import KIB, Context
from benchmarks.table import Row, Target
from benchmarks.workers import WorkerFailedError, environment

__all__ = ["starts"]

IMPORT = Target(0.060, "<=", of="difference", unit="s")


def command_line() -> list[str]:
    """Return how the command is started: the installed script, else its module."""
    script = Path(sys.executable).with_name("coherent")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "import sys; from cli.main import main; sys.exit(main())"]


def _same(command: list[str], _: int) -> list[str]:
    return command


def _run(command: Sequence[str]) -> None:
    ended = subprocess.run(command, check=False, capture_output=True, env=environment())
    if ended.returncode:
        words = ended.stderr.decode(errors="replace")
        raise WorkerFailedError(f"{command[0]} ended with {ended.returncode}: {words}")


def _row(key: str, title: str, samples: Samples, target: Target | None = None) -> Row:
    return Row(
        key,
        title,
        "s",
        samples.median("plain"),
        samples.median("ours"),
        samples.ratio("ours", "plain"),
        target=target,
    )


def starts(context: Context, incumbent: Incumbent | None) -> list[Row]:
    """Measure the import, the version, and a read by the command."""
    runs, rng = context.settings.startup_runs, context.rng
    python = sys.executable
    context.progress("import")
    bare = [python, "-c", "pass"]
    samples = interleave_commands(
        {"plain": bare, "ours": [python, "-c", "import coherent_volume"]}, runs, rng
    )
    rows = [_row("import", "import coherent_volume (whole process)", samples, IMPORT)]
    if incumbent is not None:
        theirs = interleave_commands(incumbent.import_commands(), runs, rng)
        over = theirs.median("incumbent") - theirs.median("plain")
        ratio = theirs.ratio("incumbent", "plain").median
        rows[0].incumbent = f"{ratio:.2f} (+{over * 1e3:.0f} ms)"
    context.progress("command start")
    command = command_line()
    samples = interleave_commands({"plain": bare, "ours": [*command, "--version"]}, runs, rng)
    rows.append(_row("cli-version", "coherent --version beside bare python", samples))
    rows.append(_command_read(context, command))
    return rows


def _command_read(context: Context, command: list[str]) -> Row:
    root = context.fresh_directory("cli")
    (name,) = ours.lay_out(root, 1, payloads(KIB, context.rng))
    ours.make_volume(root).close()
    path = str(root / name)
    script = f"import sys; sys.stdout.buffer.write(open({path!r}, 'rb').read())"
    pairs = {
        "plain": [sys.executable, "-c", script],
        "ours": [*command, "read", "--root", str(root), path],
    }
    samples = interleave_commands(pairs, context.settings.startup_runs, context.rng)
    return _row("cli-read", "coherent read beside python -c open().read()", samples)


def interleave_commands(pairs: dict[str, list[str]], runs: int, rng: random.Random) -> Samples:
    """Run commands in alternation and return their times."""
    arms = [Arm(name, _run, partial(_same, command)) for name, command in pairs.items()]
    return interleave(arms, Plan(runs, 1), rng)
