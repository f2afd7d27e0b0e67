"""init: make a directory a volume."""

from __future__ import annotations

import os

from cli.call import Common, Reply
from cli.place import SIDECAR, current_directory
from cli.render import pairs
from coherent_volume import CoherentVolume
from coherent_volume.model import Durability

__all__ = ["init"]

_EVERYTHING = ("**",)


def init(common: Common, managed: list[str], durability: Durability | None) -> Reply:
    """Make a volume, or confirm the one that is here."""
    root = os.path.realpath(common.root) if common.root is not None else current_directory()
    existed = os.path.isdir(os.path.join(root, SIDECAR))
    globs = tuple(managed) or (None if existed else _EVERYTHING)
    with CoherentVolume(root, managed=globs, durability=durability) as volume:
        facts = {
            "root": volume.root,
            "managed": list(volume.managed),
            "durability": volume.durability,
        }
        lines = [
            ("root", volume.root),
            ("managed", " ".join(volume.managed)),
            ("durability", volume.durability),
        ]
    first = "This is a coherent volume already.\n" if existed else "Made a coherent volume.\n"
    return Reply(
        {**facts, "created": not existed},
        lambda: first + pairs(lines) + "Next: coherent read PATH, then coherent write PATH\n",
    )
