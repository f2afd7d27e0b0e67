"""Outcomes: what a failure beside a commit is told as.

Before the commit everything is undone, and the caller hears why. After it the
commit stands whatever fails: whoever heard of a failure would do it again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from coherent_volume.errors import CoherenceError, StaleGenerationError, from_os_error, printable
from coherent_volume.model import ArtifactKey, Digest
from coherent_volume.paths import shown
from coherent_volume.records import SeenRow

__all__ = ["after_commit", "before_commit", "half_of", "is_half", "of_half"]

_log = logging.getLogger("coherent_volume")
_HALF = Digest(bytes(32))
"""The digest of no content: of half a save."""


@contextlib.contextmanager
def before_commit(key: ArtifactKey, operation: str) -> Iterator[None]:
    """Errors of the system in the block, as errors of the library."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, shown(key), operation) from error


@contextlib.contextmanager
def after_commit(key: ArtifactKey) -> Iterator[None]:
    """What fails in the block is logged; *key* was saved before it."""
    try:
        yield
    except (OSError, CoherenceError) as error:
        _log.warning("%s was saved, but: %s", printable(shown(key)), error)


def half_of(seen: SeenRow) -> SeenRow:
    """What somebody has seen who was shown an unfinished save that rests on *seen*: nothing."""
    return seen._replace(generation=seen.generation - 1, digest=_HALF)


def is_half(seen: SeenRow | None) -> bool:
    """Whether that is all that was seen."""
    return seen is not None and seen.digest == _HALF


def of_half(key: ArtifactKey, error: CoherenceError) -> StaleGenerationError:
    """The words for *error*, which refused what was derived from half of a save."""
    told = StaleGenerationError(
        "what this program read was an unfinished save of another program of this session",
        path=shown(key),
        current=error.fields.get("current"),
    )
    if error.fields.get("kept"):
        told.keep(str(error.fields["kept"]))
    return told
