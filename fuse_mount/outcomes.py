"""Outcomes: what a failure beside a commit is told as.

Before the commit everything is undone, and the caller hears why. After it the
commit stands whatever fails: whoever heard of a failure would do it again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from coherent_volume.errors import CoherenceError, from_os_error, printable
from coherent_volume.model import ArtifactKey
from coherent_volume.paths import shown

__all__ = ["after_commit", "before_commit"]

_log = logging.getLogger("coherent_volume")


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
