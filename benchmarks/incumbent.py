"""The incumbent beside ours: agent-coherence, in a virtual environment of its own.

Everything runs in worker processes of that environment, each with the same
plain calls alternating inside it; only ratios cross over into our table.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.counter_worker import COUNTER
from benchmarks.settings import KIB, MIB, Context, size_name
from benchmarks.workers import environment, run_together, start

__all__ = ["DISTRIBUTION", "Incumbent", "find"]

DISTRIBUTION = "agent-coherence==0.15.0"
MODULE = "ccs.adapters.coherent_volume"


class Incumbent:
    """An installed incumbent and the measurements that it can be put through."""

    def __init__(self, python: Path) -> None:
        self._python = str(python)

    def _command(self, role: str, root: Path, job: dict[str, Any]) -> list[str]:
        worker = "benchmarks.incumbent_worker"
        return [self._python, "-m", worker, role, str(root), json.dumps(job)]

    @contextmanager
    def _hosted(self, root: Path) -> Iterator[None]:
        """Keep a coordinator alive in a process that measures nothing."""
        process = start(self._command("host", root, {}), environment())
        try:
            yield
        finally:
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()

    def _run(self, root: Path, role: str, jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        with self._hosted(root):
            return run_together(
                [self._command(role, root, job) for job in jobs], environment(), patience=300
            )

    def latencies(self, context: Context) -> dict[str, str]:
        """Return the ratio to plain of every single-caller row, by row key."""
        found: dict[str, str] = {}
        for size in context.settings.sizes:
            context.progress(f"incumbent {size_name(size)}")
            job = {
                "size": size,
                "seed": context.rng.randrange(1 << 32),
                "read": (max(3, context.settings.read_blocks // 3), _calls(size), 0.0),
                "write": (max(3, context.settings.write_blocks // 3), _calls(size), 0.06),
            }
            (ratios,) = self._run(context.fresh_directory("incumbent"), "latency", [job])
            found |= {key: f"{ratio:.1f}" for key, ratio in ratios.items()}
        return found

    def count(self, root: Path, processes: int, seconds: float) -> tuple[list[dict[str, Any]], int]:
        """Run the contended counter; return the reports and the final number."""
        counter = root / COUNTER
        counter.parent.mkdir()
        counter.write_bytes(b"0")
        reports = self._run(root, "counter", [{"seconds": seconds}] * processes)
        return reports, int(counter.read_bytes())

    def read_all(self, root: Path) -> tuple[float, float]:
        """Return the seconds to open and the ratio to plain of reading every file."""
        (found,) = self._run(root, "scale", [{}])
        return found["open"], found["ratio"]

    def import_commands(self) -> dict[str, list[str]]:
        """Return its interpreter bare and with its import."""
        return {
            "plain": [self._python, "-c", "pass"],
            "incumbent": [self._python, "-c", f"import {MODULE}"],
        }


def _calls(size: int) -> int:
    return 10 if size <= 64 * KIB else 4 if size <= MIB else 2


def find(directory: Path) -> tuple[Incumbent | None, str]:
    """Return the incumbent installed in a virtual environment, or why there is none."""
    python = directory / "bin" / "python"
    if not python.exists():
        return None, (
            f"no incumbent at {directory}: column left empty. To fill it: "
            f"python3 -m venv {directory} && {python} -m pip install {DISTRIBUTION}"
        )
    try:
        probe = subprocess.run(
            [str(python), "-c", f"import {MODULE}"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        return None, f"the incumbent's interpreter does not start: {error}"
    if probe.returncode:
        return None, f"the incumbent at {directory} does not import: {probe.stderr.strip()[-200:]}"
    return Incumbent(python), f"incumbent: {DISTRIBUTION} at {directory}"
