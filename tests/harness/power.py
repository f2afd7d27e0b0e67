"""Real power cuts: an ext4 file system on a loop device that is stopped dead.

The shutdown ioctl throws away everything that was not written out; mounting
again replays the journal, as after a power loss. Needs root and loop devices.
It keeps every completed write: a drive that lies about its cache is not shown.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PowerFail", "power_fail"]

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NOLOGFLUSH = 2  # the log in memory is lost too
_COPIED_S = 30.0


class PowerFail:
    """A mounted file system, at ``path``, whose power can be cut."""

    def __init__(self, image: Path, path: Path, options: str) -> None:
        self.image, self.path, self.options = image, path, options

    def mount(self) -> None:
        # commit=300: nothing reaches the disk by the mere passing of time.
        options = f"loop,commit=300,{self.options}" if self.options else "loop,commit=300"
        _run("mount", "-o", options, str(self.image), str(self.path))

    def unmount(self) -> None:
        _run("umount", str(self.path))

    def cut(self) -> None:
        """Lose the power, and start again."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(descriptor)
        # Whoever made a name space of mounts meanwhile has a copy of this one, and
        # with it the very file system that was stopped, until it ends.
        end = time.monotonic() + _COPIED_S
        while True:
            self.unmount()
            self.mount()
            if self._works():
                return
            assert time.monotonic() < end, "another name space of mounts keeps the disk"
            time.sleep(0.2)

    def _works(self) -> bool:
        probe = self.path / "probe"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError:
            return False
        return True


@contextlib.contextmanager
def power_fail(scratch: Path, options: str = "") -> Iterator[PowerFail | None]:
    """A file system whose power can be cut, or None where that is impossible."""
    image, path = scratch / "disk", scratch / "mounted"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(96 << 20)
    disk = PowerFail(image, path, options)
    try:
        _run("mkfs.ext4", "-q", "-F", str(image))
        disk.mount()
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield disk
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            disk.unmount()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
