"""Addresses: from what a caller names to the managed artifact behind it.

Owns the admission of paths: normalised, inside the root, managed, not in
another volume, and through symbolic links that stay inside the root. Keeps
what it has admitted, so that a path is judged once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from coherent_volume.errors import (
    NotManagedError,
    OutsideRootError,
    SymlinkError,
    UsageError,
    printable,
)
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import PathArgument, shown

__all__ = ["Addresses"]

T = TypeVar("T")
_KEPT_MAX = 100_000


class Addresses:
    """The admitted paths of one volume object."""

    def __init__(self, parts: VolumeParts) -> None:
        self._parts = parts
        self._keys: dict[PathArgument, ArtifactKey] = {}

    def admitted(self, path: PathArgument) -> ArtifactKey | None:
        """The key that *path* spells, if it was asked for before."""
        return self._keys.get(path)

    def key(self, path: PathArgument) -> ArtifactKey:
        """The key that *path* spells, without following links."""
        key = self._keys.get(path)
        if key is None:
            key = self._admit(self._parts.root.key(path))
            if len(self._keys) >= _KEPT_MAX:
                self._keys.clear()
            self._keys[path] = key
        return key

    def direct(self, path: PathArgument) -> ArtifactKey:
        """The key of *path*, which must not be, or lead through, a symbolic link.

        Moving what a link points to would leave the link dangling.
        """
        key = self.key(path)
        target = self._parts.root.follow(key)
        if target != key:
            raise UsageError(
                "a symbolic link cannot be renamed as an artifact",
                path=shown(key),
                advice=f"Name its target: {printable(shown(target))}",
            )
        return key

    def final(self, path: PathArgument) -> ArtifactKey:
        """The key of what *path* names, with every link followed now.

        Raises NotManagedError, OutsideRootError, UsageError.
        """
        return self._admit(self._parts.root.follow(self._parts.root.key(path)))

    def is_direct(self, path: PathArgument, key: ArtifactKey) -> bool:
        """Whether *path* names *key* without any link."""
        return self._keys.get(path) == key

    def on(self, path: PathArgument, act: Callable[[VolumeParts, ArtifactKey], T]) -> T:
        """Do *act* on the artifact that *path* names, through links inside the root.

        Raises NotManagedError, OutsideRootError, UsageError.
        """
        try:
            return act(self._parts, self.key(path))
        except SymlinkError:
            refusal: Exception | None = None
        except NotManagedError as error:
            refusal = error  # unless it is a link to something managed
        key = self._parts.root.key(path)
        followed = self._parts.root.follow(key)
        if followed == key:
            raise refusal or OutsideRootError(
                "a symbolic link on the way is not followed", path=shown(key)
            )
        return act(self._parts, self._admit(followed))

    def once(self, path: PathArgument, act: Callable[[VolumeParts, ArtifactKey], T]) -> T:
        """As ``on``, for an *act* that cannot be repeated: it consumes a stream.

        Links are followed beforehand; one that appears meanwhile is refused.
        """
        followed = self.final(path)
        try:
            return act(self._parts, followed)
        except SymlinkError:
            raise OutsideRootError(
                "a symbolic link appeared on the way", path=shown(followed)
            ) from None

    def _admit(self, key: ArtifactKey) -> ArtifactKey:
        parts = self._parts
        if not parts.globs.matches(key):
            raise NotManagedError(
                "not managed by this volume", path=shown(key), managed=list(parts.config.managed)
            )
        parts.root.refuse_volumes_inside(key)
        return key
