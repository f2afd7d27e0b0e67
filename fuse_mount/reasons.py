"""Reasons: why something was refused, for those to whom an errno says too little.

Owns the refusals of one mount, newest per artifact, and their file in
``.coherence/mounts``, which outlives the mount. The text is that of the report about
the refusal, the same that ``coherent why`` shows, or else that of the error.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from typing import Any, NamedTuple

from coherent_volume.errors import CoherenceError
from coherent_volume.model import ArtifactKey

__all__ = ["Reason", "Reasons", "sweep"]

_SIZE_MAX = 1 << 20


def sweep(folder: str, days: int) -> None:
    """Remove what mounts noted more than *days* ago."""
    oldest = time.time() - days * 86_400
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if ".refusals" in entry.name and entry.stat().st_mtime < oldest:
                os.unlink(entry.path)


class Reason(NamedTuple):
    """One refusal: what was tried, and the words of the error."""

    operation: str
    text: str
    fields: dict[str, Any]


class Reasons:
    """What one mount refused, or would have refused."""

    def __init__(self, file: str, *, observing: bool) -> None:
        self._file = file
        self._observing = observing
        self._lock = threading.Lock()
        self._of: dict[ArtifactKey, Reason] = {}

    def note(self, key: ArtifactKey, operation: str, error: CoherenceError) -> None:
        """*operation* on *key* was refused because of *error*."""
        report = error.fields.get("report")
        text = str(error) if report is None else report.text()
        reason = Reason(operation, text, error.as_dict())
        with self._lock:
            again = self._of.get(key) == reason
            self._of[key] = reason
            if again:
                return  # ESTALE lets the kernel ask twice
            line = json.dumps(
                {**reason.fields, "operation": operation, "observed": self._observing}
            )
            with contextlib.suppress(OSError):
                self._append(line)

    def _append(self, line: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._file).st_size > _SIZE_MAX:
                os.replace(self._file, f"{self._file}.old")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._file, flags, 0o600)
        try:
            os.write(descriptor, line.encode(errors="surrogateescape") + b"\n")
        finally:
            os.close(descriptor)

    def settled(self, key: ArtifactKey) -> None:
        """A later save of *key* succeeded: there is nothing to explain any more."""
        self._of.pop(key, None)

    def why(self, key: ArtifactKey) -> str | None:
        """The words for the last refusal of *key*."""
        reason = self._of.get(key)
        return None if reason is None else f"{reason.operation} refused: {reason.text}\n"

    def keys(self) -> list[ArtifactKey]:
        """Every artifact with a refusal."""
        return sorted(self._of)
