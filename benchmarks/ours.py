"""The library's side: the one place of the benchmarks that imports it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from coherent_volume import CoherentVolume
from coherent_volume.errors import ConflictError, UnavailableError

__all__ = [
    "MANAGED",
    "CoherentVolume",
    "ConflictError",
    "UnavailableError",
    "age",
    "commit_files",
    "lay_out",
    "open_volume",
]

MANAGED = ("files/**",)


def open_volume(
    root: Path, durability: Literal["power", "process"] | None = None, create: bool = False
) -> CoherentVolume:
    """Open a volume, as a fresh process session sees it; make it on request."""
    return CoherentVolume(root, managed=MANAGED if create else None, durability=durability)


def lay_out(root: Path, count: int, content: Callable[[int], bytes]) -> list[str]:
    """Write *count* plain files below *root*, a hundred to a directory; name them."""
    names = [f"files/{number // 100:03d}/{number:06d}.md" for number in range(count)]
    for number, name in enumerate(names):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content(number))
    return names


def commit_files(root: Path, names: list[str], content: Callable[[int], bytes]) -> None:
    """Commit every name once through the library, without waiting for the disk."""
    with open_volume(root, durability="process") as volume:
        for number, name in enumerate(names):
            volume.write(name, content(number), overwrite=True)


def age() -> None:
    """Wait until what was just written is older than a racy fingerprint may be."""
    time.sleep(0.1)
