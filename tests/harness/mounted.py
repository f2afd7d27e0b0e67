"""Mounts for tests: never left behind, never able to hang the suite.

A watchdog aborts the connection if a test takes too long: whoever waits for the
mount then gets an error instead of an eternal sleep. What cannot be mounted here
is skipped with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 60


@functools.cache
def why_not(transport: str = "kernel") -> str | None:
    """Why nothing can be mounted here; None when it can."""
    if transport == "fusepy" and (
        importlib.util.find_spec("fuse") is None or not find_library("fuse")
    ):
        return "fusepy or libfuse 2 is not installed"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    if os.geteuid() != 0:
        return "not root; ordinary users are covered where fusermount3 is"
    done = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return None if done.returncode == 0 else "this root may not mount anything"


needs_fuse = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def abort(where: str) -> None:
    """End the connection behind *where* by force, and unmount it."""
    minor = None
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            words = line.split(" ")
            if words[4] == where and " fuse" in line:
                minor = words[2].partition(":")[2]
    if minor is not None:
        with contextlib.suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")
        subprocess.run(["umount", "-l", where], capture_output=True, check=False)


@contextlib.contextmanager
def guarded(where: Path, limit_s: float = LIMIT_S) -> Iterator[None]:
    """Abort whatever is mounted at *where* after a while, and in the end in any case."""
    dog = threading.Timer(limit_s, abort, [str(where)])
    dog.daemon = True
    dog.start()
    try:
        yield
    finally:
        dog.cancel()
        abort(str(where))


class Agent:
    """One mount, and shells in it."""

    def __init__(self, where: Path, session: str) -> None:
        self.where = where
        self.session = session

    def sh(self, script: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run *script* with bash in the mount."""
        return subprocess.run(
            ["timeout", "-k", "1", "30", "bash", "-c", script],
            cwd=self.where,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def ok(self, script: str) -> str:
        """Run *script*, which must succeed; what it printed."""
        done = self.sh(script)
        assert done.returncode == 0, (script, done)
        return done.stdout


@contextlib.contextmanager
def mounts_of(
    root: Path, scratch: Path, limit_s: float = LIMIT_S, **common: Any
) -> Iterator[Callable[..., Agent]]:
    """Mount ``root`` for any number of sessions; all are unmounted in the end."""
    from fuse_mount import mount

    with contextlib.ExitStack() as stack:

        def mounted(session: str, **options: Any) -> Agent:
            where = scratch / f"mount-{session}"
            where.mkdir()
            stack.enter_context(guarded(where, limit_s))
            stack.enter_context(mount(root, where, session, **{**common, **options}))
            return Agent(where, session)

        yield mounted
