"""Weak sets that other threads change: their members at one moment.

Owns nothing. To iterate a ``WeakSet`` runs Python code between its members, and a
thread that adds one meanwhile ends it with RuntimeError.
"""

from __future__ import annotations

import weakref
from typing import TypeVar

__all__ = ["members"]

T = TypeVar("T")


def members(of: weakref.WeakSet[T]) -> list[T]:
    """Those of the set that live, as at one moment; called by any thread."""
    # One step of the interpreter: no thread comes between the references.
    references = tuple(of.data)  # type: ignore[attr-defined]
    return [member for each in references if (member := each()) is not None]
