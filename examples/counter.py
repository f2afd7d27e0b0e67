"""Eight processes add to one counter, and no increment is lost.

``update`` reads, calls the function, and commits; when a peer was faster it
reads again and calls the function again. Exits with 1 if the sum is wrong.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile

from coherent_volume import CoherentVolume

PROCESSES = 8
INCREMENTS = 25


def add_one(content: bytes) -> bytes:
    """Return the next number; called again for each new head."""
    return b"%d\n" % (int(content) + 1)


def work(root: str) -> int:
    """Add INCREMENTS times; the last number that this process made."""
    with CoherentVolume(root) as volume:
        for _ in range(INCREMENTS):
            commit = volume.update("counter", add_one)
        return commit.generation


def main() -> int:
    """Let all count at once, then compare."""
    with tempfile.TemporaryDirectory() as root:
        with CoherentVolume(root, managed=["counter"]) as volume:
            volume.create("counter", "0\n")
        with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
            last = pool.map(work, [root] * PROCESSES, chunksize=1)
        with CoherentVolume(root) as volume:
            total = int(volume.read("counter"))
            commits = len([each for each in volume.log("counter") if each.kind == "update"])
    expected = PROCESSES * INCREMENTS
    print(f"{PROCESSES} processes, {INCREMENTS} increments each: {total} of {expected} counted")
    print(f"last generation {max(last)}; {commits} of them are still in the history")
    return 0 if total == expected else 1


if __name__ == "__main__":
    sys.exit(main())
