"""Named points of the protocol at which a test may stop, kill or interleave.

``reached`` does nothing. A test's child process replaces it; no environment
variable and no configuration reaches it. PROTOCOL.md carries the crash table:
for each name what is on disk then, and who repairs it.
"""

from __future__ import annotations

__all__ = ["POINTS", "reached"]

POINTS = (
    "staged",
    "gate_acquired",
    "checked",
    "before_publish",
    "published",
    "before_install",
    "installed",
    "race_found",
    "put_back",
    "verified",
    "acknowledged",
    "before_dispose",
    "disposed",
    "before_adopt",
    "adopted",
    "healed",
    "leased",
)


def reached(name: str) -> None:
    """Mark that the protocol has come to the point *name*; does nothing."""
