"""Content in memory: an unchanged file is served after one ``stat``.

Owns the entries and their bound. An entry is made only from a look whose
fingerprint proves something (taken under a lease, long enough after the last
change), so an equal fingerprint proves equal bytes and an equal generation: a
commit always installs another inode.
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

from coherent_volume.files import IN_MEMORY_MAX, Fingerprint
from coherent_volume.model import ArtifactKey
from coherent_volume.paths import PathArgument
from coherent_volume.records import SeenRow

__all__ = ["CACHE_BYTES_MAX", "ContentCache", "Entry"]

CACHE_BYTES_MAX = 64 << 20
"""Content kept in memory per volume object; the oldest entries go first."""


class Entry(NamedTuple):
    """One artifact's content as last read, under the path that the caller used."""

    key: ArtifactKey
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    device: int
    data: bytes
    seen: SeenRow


class ContentCache:
    """Entries by the caller's own spelling of the path: no normalising on a hit."""

    def __init__(self, root: int) -> None:
        self._root = root
        # Protects the account of bytes; a look-up is one dictionary access. Reentrant,
        # for a signal handler that reads: the account may then be too high.
        self._lock = threading.RLock()
        self._entries: dict[PathArgument, Entry] = {}
        self._bytes = 0

    def get(self, path: PathArgument) -> Entry | None:
        """The entry of *path* if the file is unchanged since it was made."""
        entry = self._entries.get(path)
        if entry is None:
            return None
        try:
            found = os.stat(entry[0], dir_fd=self._root, follow_symlinks=False)
        except OSError:
            return None
        if (
            found.st_ctime_ns == entry[4]
            and found.st_ino == entry[1]
            and found.st_mtime_ns == entry[3]
            and found.st_size == entry[2]
            and found.st_dev == entry[5]
        ):
            return entry
        return None

    def put(
        self,
        path: PathArgument,
        key: ArtifactKey,
        fingerprint: Fingerprint,
        data: bytes,
        seen: SeenRow,
    ) -> None:
        """Keep *data* for *path*, at the expense of the oldest entries."""
        if len(data) > IN_MEMORY_MAX:
            return
        device, inode, size, mtime_ns, ctime_ns = fingerprint
        entry = Entry(key, inode, size, mtime_ns, ctime_ns, device, data, seen)
        with self._lock:
            self._drop(path)
            self._entries[path] = entry
            self._bytes += len(data)
            while self._bytes > CACHE_BYTES_MAX and self._entries:
                self._drop(next(iter(self._entries)))

    def _drop(self, path: PathArgument) -> None:
        entry = self._entries.pop(path, None)
        if entry is not None:
            self._bytes -= len(entry.data)

    def clear(self) -> None:
        """Forget everything."""
        self._lock = threading.RLock()  # a new one: this also mends a forked child
        self._entries = {}
        self._bytes = 0
