"""Which paths a volume manages: gitignore-style patterns, compiled once.

A pure function of the patterns and the path. ``.coherence``, ``.git`` and
``.hg`` are never artifacts, whatever the patterns say: their owners lock them
in ways of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pathspec

from coherent_volume.config import Blind, Config, OnConflict, Rule
from coherent_volume.errors import ConfigurationError
from coherent_volume.model import ArtifactKey

__all__ = ["NEVER_MANAGED", "ManagedGlobs", "Rules"]

NEVER_MANAGED = frozenset({b".coherence", b".git", b".hg"})


class ManagedGlobs:
    """Answers whether a path is managed; later patterns win, ``!`` excludes."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns
        self._spec = _compiled(patterns, "managed")

    def matches(self, key: ArtifactKey) -> bool:
        """Whether *key* names an artifact."""
        if not NEVER_MANAGED.isdisjoint(key.split(b"/")):
            return False
        return self._spec.match_file(os.fsdecode(key))


class Rules:
    """The settings that hold for one artifact: the volume's, or those of its rules."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rules = [(_compiled(rule.paths, "a rule"), rule) for rule in config.rules]

    def on_conflict(self, key: ArtifactKey) -> OnConflict:
        """What becomes of a stale write to *key*."""
        return next(
            (r.on_conflict for r in self._of(key) if r.on_conflict), self._config.on_conflict
        )

    def blind(self, key: ArtifactKey) -> Blind:
        """What a mount does with a write to *key* unread."""
        return next((r.blind for r in self._of(key) if r.blind), self._config.blind)

    def _of(self, key: ArtifactKey) -> Iterator[Rule]:
        """The rules for *key*, the strongest first."""
        name = os.fsdecode(key)
        return (rule for spec, rule in reversed(self._rules) if spec.match_file(name))


def _compiled(patterns: tuple[str, ...], where: str) -> pathspec.GitIgnoreSpec:
    try:
        return pathspec.GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise ConfigurationError(f"{where} holds a pattern that cannot be read: {error}") from error
