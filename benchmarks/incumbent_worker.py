"""The incumbent measured inside its own interpreter, by its public calls alone.

``python -m benchmarks.incumbent_worker ROLE ROOT JOB`` with JOB a JSON object.
Uses nothing of the benchmarks but what needs the standard library only. Roles:

host      keeps the incumbent's coordinator alive until standard input closes,
          so that no measured process serves its own requests
latency   every single-caller operation at one size, beside plain calls
scale     one read of every file, beside plain reads
counter   increments the shared counter for a while
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from functools import partial
from typing import Any

# Importable only in the incumbent's own environment.
from ccs.adapters.coherent_volume import CoherentVolume  # type: ignore[import-not-found]
from ccs.core.exceptions import CoherenceError  # type: ignore[import-not-found]

from benchmarks import plain
from benchmarks.counter_worker import COUNTER, count_for, next_number
from benchmarks.measure import Arm, Plan, interleave, payloads

MANAGED = ("files/**",)


def _open(root: str) -> CoherentVolume:
    return CoherentVolume(root, managed=MANAGED)


def host(root: str, job: dict[str, Any]) -> None:
    """Hold the coordinator until the driver lets go."""
    volume = _open(root)
    print("ready", flush=True)
    sys.stdin.read()
    del volume


class FreshReader:
    """Reads through a volume object that is new in every block."""

    def __init__(self, root: str) -> None:
        self._root = root

    def open(self) -> None:
        """Start a block without any memory of the one before."""
        self._volume = _open(self._root)

    def read(self, name: str) -> bytes:
        """Read through the block's volume."""
        data: bytes = self._volume.read(name)
        return data


def latency(root: str, job: dict[str, Any]) -> None:
    """Print each operation's ratio to the plain call at one size."""
    print("ready", flush=True)
    sys.stdin.readline()
    size = int(job["size"])
    rng = random.Random(job["seed"])
    content = payloads(size, rng)
    read_plan, write_plan = Plan(*job["read"]), Plan(*job["write"])
    found = {
        f"unchanged/{size}": _unchanged(root, content, read_plan, rng),
        f"first-new/{size}": _first(root, content, read_plan, rng, committed=False),
        f"first-committed/{size}": _first(root, content, read_plan, rng, committed=True),
        f"write-power/{size}": _write(root, content, write_plan, rng),
        f"update/{size}": _update(root, content, write_plan, rng),
    }
    print(json.dumps(found), flush=True)


def _make(root: str, name: str, data: bytes) -> str:
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    return path


def _unchanged(root: str, content: Any, plan: Plan, rng: random.Random) -> float:
    name = "files/unchanged.md"
    path = _make(root, name, content(0))
    volume = _open(root)
    volume.read(name)
    arms = [
        Arm("plain", plain.read, lambda _: path),
        Arm("theirs", volume.read, lambda _: name),
    ]
    samples = interleave(arms, plan, rng)
    return samples.ratio("theirs", "plain").median


def _first(root: str, content: Any, plan: Plan, rng: random.Random, committed: bool) -> float:
    names = [f"files/first-{committed}/{number}.md" for number in range(plan.calls)]
    paths = [_make(root, name, content(number)) for number, name in enumerate(names)]
    if committed:
        volume = _open(root)
        for number, name in enumerate(names):
            volume.read(name)
            volume.write(name, content(number + plan.calls))
    reader = FreshReader(root)
    arms = [
        Arm("plain", plain.read, lambda call: paths[call % plan.calls]),
        Arm("theirs", reader.read, lambda call: names[call % plan.calls], reader.open),
    ]
    return interleave(arms, plan, rng).ratio("theirs", "plain").median


def _write(root: str, content: Any, plan: Plan, rng: random.Random) -> float:
    name = "files/write.md"
    _make(root, name, content(0))
    beside = _make(root, "beside/write.md", content(0))
    volume = _open(root)
    volume.read(name)
    arms = [
        Arm("plain", partial(plain.write_durably, beside), content),
        Arm("theirs", partial(volume.write, name), content),
    ]
    samples = interleave(arms, plan, rng)
    return samples.ratio("theirs", "plain").median


def _update(root: str, content: Any, plan: Plan, rng: random.Random) -> float:
    name = "files/update.md"
    _make(root, name, content(0))
    beside = _make(root, "beside/update.md", content(0))
    volume = _open(root)
    volume.read(name)

    def change(call: int) -> Any:
        data = content(call)
        return lambda _: data

    arms = [
        Arm("plain", partial(plain.update_durably, beside), change),
        Arm("theirs", partial(volume.write_cas, name), change),
    ]
    samples = interleave(arms, plan, rng)
    return samples.ratio("theirs", "plain").median


def scale(root: str, job: dict[str, Any]) -> None:
    """Print the time of opening, and of reading every file once both ways."""
    print("ready", flush=True)
    sys.stdin.readline()
    names = sorted(
        os.path.relpath(os.path.join(directory, file), root)
        for directory, _, files in os.walk(os.path.join(root, "files"))
        for file in files
    )
    start = time.perf_counter()
    for name in names:
        plain.read(os.path.join(root, name))
    plainly = time.perf_counter() - start
    start = time.perf_counter()
    volume = _open(root)
    opening = time.perf_counter() - start
    start = time.perf_counter()
    for name in names:
        volume.read(name)
    reading = time.perf_counter() - start
    print(json.dumps({"open": opening, "ratio": reading / plainly}), flush=True)


def counter(root: str, job: dict[str, Any]) -> None:
    """Increment by the incumbent's optimistic call, which retries by itself."""
    volume = _open(root)
    count_for(
        float(job["seconds"]), lambda: volume.write_cas(COUNTER, next_number), (CoherenceError,)
    )


ROLES = {"host": host, "latency": latency, "scale": scale, "counter": counter}


if __name__ == "__main__":
    ROLES[sys.argv[1]](sys.argv[2], json.loads(sys.argv[3]))
