"""The inventory: which managed files there are, found by walking the root.

Never part of a read or a commit (opening and using a volume costs the same for
ten files and for a million); only checks and repairs walk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from coherent_volume.globs import NEVER_MANAGED
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts

__all__ = ["managed_files"]


def managed_files(parts: VolumeParts) -> Iterator[ArtifactKey]:
    """The key of every managed regular file below the root; links are not followed."""
    pending = [b""]
    while pending:
        folder = pending.pop()
        # By path, not by descriptor: a walk of names, and every one of them is
        # opened beneath the root before anything is believed of it.
        try:
            entries = list(os.scandir(os.path.join(parts.root.path, folder)))
        except OSError:
            continue  # removed or closed to us meanwhile
        for entry in entries:
            key = ArtifactKey(os.path.join(folder, entry.name))
            if entry.name in NEVER_MANAGED:
                continue
            if entry.is_dir(follow_symlinks=False):
                if not os.path.exists(os.path.join(entry.path, b".coherence")):
                    pending.append(key)
            elif entry.is_file(follow_symlinks=False) and parts.globs.matches(key):
                yield key
