"""What this process may use: as many open files as the system lets it have."""

from __future__ import annotations

import contextlib
import resource

__all__ = ["raise_open_files"]


def raise_open_files() -> None:
    """Lift the soft bound on open files to the hard one.

    A commit holds two descriptors for each of its members, and the usual soft
    bound of 1,024 is there for programs that use select.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
