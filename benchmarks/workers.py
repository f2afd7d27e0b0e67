"""Worker processes that start together: the driver's half of a small protocol.

A worker prints ``ready``, waits for a line on its standard input, works, and
prints one JSON object. So start-up is never in the measured time.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["WorkerFailedError", "environment", "run_together", "start"]


def environment() -> dict[str, str]:
    """Return the environment of a child that finds what this process finds."""
    here = str(Path(__file__).resolve().parent.parent)
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    kept = {name: value for name, value in os.environ.items() if name != "COHERENT_SESSION"}
    return kept | {"PYTHONPATH": os.pathsep.join(paths)}


class WorkerFailedError(RuntimeError):
    """A worker ended without an answer; its last words are the message."""


def start(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a worker and return once it is ready."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        _, words = process.communicate()
        raise WorkerFailedError(_last_line(words))
    return process


def _last_line(words: str) -> str:
    lines = words.strip().splitlines()
    return lines[-1] if lines else "a worker ended without a word"


def run_together(
    commands: Sequence[Sequence[str]], environment: dict[str, str], patience: float
) -> list[dict[str, Any]]:
    """Start all, let them go at once, and return what each printed.

    Raises WorkerFailedError when one has not answered within *patience* seconds.
    """
    processes: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            processes.append(start(command, environment))
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [_answer(process, patience) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def _answer(process: subprocess.Popen[str], patience: float) -> dict[str, Any]:
    try:
        printed, words = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        raise WorkerFailedError(f"a worker gave no answer within {patience:.0f} s") from None
    if process.returncode != 0 or not printed.strip():
        raise WorkerFailedError(_last_line(words))
    answer: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    return answer
