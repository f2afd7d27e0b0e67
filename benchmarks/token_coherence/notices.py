"""What the feed tells an agent: which of its copies are behind.

The only module that knows the feed's calls, so that the arm ``notified`` is the
only one that needs them.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["Notices"]


class Notices:
    """The newest generation of each path that the feed spoke of, as of the last ``poll``."""

    def __init__(self, volume: Any) -> None:
        self._volume = volume
        self._token: str = volume.changes().token
        self._newest: dict[str, int] = {}

    def poll(self) -> int:
        """Take in what the feed has; return how many bytes that was, as lines of JSON."""
        found = self._volume.changes(since=self._token)
        self._token = found.token
        received = 0
        for entry in found.entries:
            self._newest[entry.path] = max(self._newest.get(entry.path, 0), entry.generation)
            told = {"path": entry.path, "generation": entry.generation, "by": entry.session}
            received += len(json.dumps(told)) + 1
        return received

    def speak_of(self, path: str, generation: int) -> bool:
        """Whether *generation* of *path* is known to be behind."""
        return self._newest.get(path, 0) > generation
