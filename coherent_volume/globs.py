"""Which paths a volume manages: gitignore-style patterns, compiled once.

A pure function of the patterns and the path. ``.coherence``, ``.git`` and
``.hg`` are never artifacts, whatever the patterns say: their owners lock them
in ways of their own.
"""

from __future__ import annotations

import os

import pathspec

from coherent_volume.errors import ConfigurationError
from coherent_volume.model import ArtifactKey

__all__ = ["NEVER_MANAGED", "ManagedGlobs"]

NEVER_MANAGED = frozenset({b".coherence", b".git", b".hg"})


class ManagedGlobs:
    """Answers whether a path is managed; later patterns win, ``!`` excludes."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns
        try:
            self._spec = pathspec.GitIgnoreSpec.from_lines(patterns)
        except ValueError as error:
            raise ConfigurationError(
                f"managed holds a pattern that cannot be read: {error}"
            ) from error

    def matches(self, key: ArtifactKey) -> bool:
        """Whether *key* names an artifact."""
        if not NEVER_MANAGED.isdisjoint(key.split(b"/")):
            return False
        return self._spec.match_file(os.fsdecode(key))
