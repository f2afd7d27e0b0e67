"""The serving process of one mount: ``python -m fuse_mount``, usually with an open device.

Always a process of its own: a program that served a mount and touched a page of
it would wait for itself. It gets everything from the process that mounted: the
device and two ends of pipes by number, the rest as one JSON object. It ends when
the file system is unmounted, after it has committed what was complete.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from dataclasses import asdict, dataclass

from coherent_volume import CoherentVolume
from coherent_volume.errors import CoherenceError
from coherent_volume.parts import VolumeParts
from fuse_mount import system
from fuse_mount.fence import Fence, Options
from fuse_mount.keeping import kept_of_the_dead
from fuse_mount.kernel import Connection
from fuse_mount.reasons import sweep
from fuse_mount.view import MountedTree

__all__ = ["Settings", "main", "serve"]

_log = logging.getLogger("coherent_volume")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a serving process is told."""

    root: str
    session: str
    mountpoint: str
    real: str
    """Where the volume is found by those who see the mount."""
    refused_errno: int
    observe: bool
    private: bool = False
    """Mounted in a name space of its own: nobody else can unmount it."""
    reflex_s: float = 0.5
    transport: str = "kernel"

    def text(self) -> str:
        """As one line."""
        return json.dumps(asdict(self))


def serve(settings: Settings, device: int, ready: int) -> None:
    """Serve *device* until it is unmounted; say on *ready* when it can be used.

    The transport fusepy has no device yet (-1): libfuse mounts by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit = system.raise_file_limit()
    volume = CoherentVolume(settings.root, session=settings.session)
    try:
        parts = volume._open_parts()
        kept = kept_of_the_dead(parts)
        sweep(os.path.join(parts.directory, "mounts"), parts.config.retention.refused_days)
        options = Options(settings.refused_errno, settings.observe, settings.reflex_s)
        fence = Fence(parts, options, volume._maintenance.nudge)
        root = os.dup(parts.root.descriptor)
        tree = MountedTree(root, max(64, limit // 2), fence, os.fsencode(settings.real))
        entry = _register(parts, settings)
        try:
            _unmount_on_term(settings)
            tree.start()

            def started() -> None:
                os.write(ready, json.dumps({"ok": True, "kept": kept}).encode())
                os.close(ready)

            if settings.transport == "fusepy":
                from fuse_mount.fusepy import serve_paths

                serve_paths(tree, settings.mountpoint, started)
            else:
                started()
                Connection(device, tree).serve()
        finally:
            tree.close()
            with contextlib.suppress(OSError):
                os.unlink(entry)
    finally:
        volume.close()


def _register(parts: VolumeParts, settings: Settings) -> str:
    """Write down that this mount is there; it counts only while the presence is locked."""
    parts.announce()
    entry = os.path.join(parts.directory, "mounts", f"{parts.staging.token}.json")
    with open(entry, "w", encoding="utf-8") as file:
        json.dump({**asdict(settings), "pid": os.getpid()}, file)
    return entry


def _unmount_on_term(settings: Settings) -> None:
    def leave(number: int, frame: object) -> None:  # noqa: ARG001
        if not settings.private:
            with contextlib.suppress(OSError):
                system.unmount(os.fsencode(settings.mountpoint), system.MNT_DETACH)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if settings.private else leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def main(words: list[str] | None = None) -> int:
    """DEVICE READY SETTINGS: serve; 0 when it was unmounted."""
    device, ready, text = (sys.argv[1:] if words is None else words)[:3]
    logging.basicConfig(format="coherent mount: %(message)s")
    try:
        serve(Settings(**json.loads(text)), int(device), int(ready))
    except (CoherenceError, OSError) as error:
        advice = getattr(error, "advice", "")
        message = getattr(error, "message", str(error))
        answer = {"ok": False, "message": message, "advice": advice}
        with contextlib.suppress(OSError):
            os.write(int(ready), json.dumps(answer).encode())
        return 1
    return 0
