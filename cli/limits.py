"""What this process may use: as many open files as the system lets it have."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

__all__ = ["many_open_files"]


@contextlib.contextmanager
def many_open_files() -> Iterator[None]:
    """Lift the soft bound on open files to the hard one during the block.

    A commit holds two descriptors for each of its members, and the usual soft
    bound of 1,024 is there for programs that use select. A command that is
    started must not inherit the higher one: it might be such a program.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
