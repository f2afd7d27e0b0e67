"""The library's side: the one place of the benchmarks that imports it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from coherent_volume import CoherentVolume
from coherent_volume.errors import ConflictError, UnavailableError
from coherent_volume.model import Durability
from coherent_volume.read_policy import ReadPolicy

__all__ = [
    "MANAGED",
    "CoherentVolume",
    "ConflictError",
    "Durability",
    "UnavailableError",
    "age",
    "await_listening",
    "commit_files",
    "counted",
    "lay_out",
    "lay_out_history",
    "make_volume",
    "open_volume",
]

MANAGED = ("files/**",)


def make_volume(root: Path, durability: Durability = "power") -> CoherentVolume:
    """Make a volume and return it open; its durability is fixed from here on."""
    return CoherentVolume(root, managed=MANAGED, durability=durability)


def open_volume(
    root: Path, session: str | None = None, reads: ReadPolicy = "strict"
) -> CoherentVolume:
    """Open a volume that was made before."""
    return CoherentVolume(root, session=session, reads=reads)


def await_listening(volume: CoherentVolume, name: str) -> None:
    """Read *name*, which makes the volume listen, and return when it does."""
    volume.read(name)
    copies = volume._copies
    deadline = time.monotonic() + 60
    while copies is None or copies._listener is None or copies._listener.heard_until < 0:
        if time.monotonic() > deadline:
            raise TimeoutError("the volume does not listen")
        time.sleep(0.001)


def counted(volume: CoherentVolume) -> dict[str, float]:
    """Return what this process's session was counted for, by the short names of the counters."""
    return {
        metric.name.removeprefix("coherent_").removesuffix("_total"): metric.value
        for metric in volume.metrics()
        if metric.session == volume.session.name
    }


def lay_out(root: Path, count: int, content: Callable[[int], bytes]) -> list[str]:
    """Write *count* plain files below *root*, a hundred to a directory; name them."""
    names = [f"files/{number // 100:03d}/{number:06d}.md" for number in range(count)]
    for number, name in enumerate(names):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content(number))
    return names


def commit_files(root: Path, names: list[str], content: Callable[[int], bytes]) -> None:
    """Commit every name once through the library."""
    with open_volume(root) as volume:
        for number, name in enumerate(names):
            volume.write(name, content(number), overwrite=True)


def lay_out_history(volume: CoherentVolume, generations: int, sessions: int) -> None:
    """Put *generations* into the records, a hundred to an artifact, and the views of *sessions*."""
    parts = volume._parts
    database = parts.sidecar.database
    now = time.time_ns()
    artifacts = range(10**6, 10**6 + -(-generations // 100))
    with parts.gate.held(10.0), database.transaction(durable=False) as connection:
        connection.executemany(
            "INSERT INTO artifact VALUES (?, ?, 100, zeroblob(16), 5, 0, ?, 0)",
            [(number, b"files/old/%d" % number, parts.boot) for number in artifacts],
        )
        connection.executemany(
            "INSERT INTO history (artifact, generation, base, kind, session, at, digest, size,"
            " companions, members, content)"
            " VALUES (?, ?, ?, 'write', ?, ?, zeroblob(16), 5, 0, 1, zeroblob(5))",
            [
                (artifacts[number // 100], number % 100 + 1, number % 100, f"s{number % 97}", now)
                for number in range(generations)
            ],
        )
        connection.executemany(
            "INSERT INTO observation VALUES (?, ?, 100, zeroblob(16), 0)",
            [(f"s{who}", number) for who in range(sessions) for number in artifacts[:20]],
        )


def age() -> None:
    """Wait until what was just written is older than a racy fingerprint may be."""
    time.sleep(0.1)
