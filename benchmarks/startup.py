"""Whole processes: import and command start over a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import ours
from benchmarks.incumbent import Incumbent
from benchmarks.measure import Arm, Plan, Samples, interleave, payloads
from benchmarks.settings import KIB, Context
from benchmarks.table import Row, Target, timed
from benchmarks.workers import WorkerFailedError, environment

__all__ = ["command_line", "starts", "surroundings_with_bytecode"]

IMPORT = Target(0.060, "<=", of="difference", unit="s")


def command_line() -> list[str]:
    """Return how the command is started: the installed script, else its module."""
    script = Path(sys.executable).with_name("coherent")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "import sys; from cli.main import main; sys.exit(main())"]


def _same(command: list[str], _: int) -> list[str]:
    return command


def _run(surroundings: dict[str, str], command: Sequence[str]) -> None:
    ended = subprocess.run(command, check=False, capture_output=True, env=surroundings)
    if ended.returncode:
        words = ended.stderr.decode(errors="replace")
        raise WorkerFailedError(f"{command[0]} ended with {ended.returncode}: {words}")


def starts(context: Context, incumbent: Incumbent | None) -> list[Row]:
    """Measure the import, the version, and a read by the command."""
    python = sys.executable
    context.progress("import")
    bare = [python, "-c", "pass"]
    samples = _alternate(context, {"plain": bare, "ours": [python, "-c", "import coherent_volume"]})
    rows = [timed("import", "import coherent_volume (whole process)", samples, IMPORT)]
    if incumbent is not None:
        theirs = _alternate(context, incumbent.import_commands())
        over = theirs.median("incumbent") - theirs.median("plain")
        ratio = theirs.ratio("incumbent", "plain").median
        rows[0].incumbent = f"{ratio:.2f} (+{over * 1e3:.0f} ms)"
    context.progress("command start")
    command = command_line()
    samples = _alternate(context, {"plain": bare, "ours": [*command, "--version"]})
    rows.append(timed("cli-version", "coherent --version beside bare python", samples))
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
    samples = _alternate(context, pairs)
    return timed("cli-read", "coherent read beside python -c open().read()", samples)


def surroundings_with_bytecode(context: Context) -> dict[str, str]:
    """Return the environment of a command that finds its bytecode.

    It goes to a place of this run's own, filled by the first runs: an installed
    package has its bytecode, whatever the environment says about writing it.
    """
    surroundings = environment()
    surroundings.pop("PYTHONDONTWRITEBYTECODE", None)
    surroundings["PYTHONPYCACHEPREFIX"] = str(context.directory / "bytecode")
    return surroundings


def _alternate(context: Context, pairs: dict[str, list[str]]) -> Samples:
    """Run commands in alternation and return their times.

    One run of each is thrown away.
    """
    run = partial(_run, surroundings_with_bytecode(context))
    arms = [Arm(name, run, partial(_same, command)) for name, command in pairs.items()]
    return interleave(arms, Plan(context.settings.startup_runs, 1), context.rng)
