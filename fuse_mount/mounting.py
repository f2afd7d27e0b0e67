"""Mounting a volume at a second path, unmounting it, and the list of mounts.

Owns the way to a mounted device (mount(2) for root, fusermount3 for everybody
else), the checks before it, and the clean-up of mounts whose server was killed.
Serves nothing itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from coherent_volume import CoherentVolume
from coherent_volume.errors import (
    BusyError,
    CoherenceError,
    UnavailableError,
    UsageError,
    from_os_error,
)
from coherent_volume.layout import find_root, mounted_session
from coherent_volume.locks import is_present
from coherent_volume.session import library_session
from fuse_mount import system
from fuse_mount.device import TYPE, helper_program, mount_device
from fuse_mount.server import Settings

__all__ = ["TRANSPORTS", "Mount", "MountInfo", "launch_server", "mount", "mounts", "unmount"]

TRANSPORTS = ("kernel", "fusepy", "auto")

_START_S = 20.0
_END_S = 15.0
_LOG_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One mount of a volume. ``alive`` says whether its server runs."""

    mountpoint: str
    session: str
    pid: int
    alive: bool
    observe: bool
    refusals: int


class Mount:
    """A mounted volume; ``close``, or the end of a with-block, unmounts it."""

    def __init__(
        self, mountpoint: str, server: subprocess.Popen[bytes], kept: list[str], transport: str
    ) -> None:
        self.mountpoint = mountpoint
        self.transport = transport
        self._server = server
        self.kept = kept
        """What earlier mounts that were killed had not committed, below the root."""

    def close(self) -> None:
        """Unmount; what is complete is committed first."""
        if self.mountpoint in mounted():
            unmount(self.mountpoint)
        self._server.wait(_END_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def mount(
    root: str | os.PathLike[str],
    mountpoint: str | os.PathLike[str],
    session: str,
    *,
    refused_errno: int = errno.EACCES,
    observe: bool = False,
    reflex_s: float = 0.5,
    transport: str = "kernel",
) -> Mount:
    """Show the volume *root* at *mountpoint*, where all saves are *session*'s.

    *refused_errno* is what a stale save gets: EACCES or ESTALE. With *observe*
    nothing is refused, but noted. *transport* is "kernel", "fusepy" (slower, and
    with limits of its own), or "auto": fusepy where kernel cannot. Raises
    UsageError for a mount point that will not do, UnavailableError where nothing
    can be mounted.
    """
    if refused_errno not in (errno.EACCES, errno.ESTALE):
        raise UsageError("a refusal is EACCES or ESTALE")
    if transport not in TRANSPORTS:
        raise UsageError(f"a transport is one of {', '.join(TRANSPORTS)}, not {transport!r}")
    session = library_session(session).name
    where = os.path.realpath(mountpoint)
    with CoherentVolume(root, session=session) as volume:  # every reason not to, told here
        real = volume.root
    clean_up(real)
    _refuse_inside_run(os.path.realpath(root), real, where)
    _check_mountpoint(where, real)
    settings = Settings(real, session, where, real, refused_errno, observe, reflex_s=reflex_s)
    if transport != "fusepy":
        try:
            return _mounted_by_kernel(settings)
        except UnavailableError as reason:
            if transport != "auto":
                raise
            try:
                return _mounted_by_library(settings)
            except CoherenceError:
                raise reason from None  # what is missing for the better transport
    return _mounted_by_library(settings)


def _mounted_by_kernel(settings: Settings) -> Mount:
    device = mount_device(settings.mountpoint)
    try:
        server, kept = launch_server(settings, device)
    except BaseException:
        with contextlib.suppress(OSError, CoherenceError):
            _detach(settings.mountpoint, lazy=True)
        raise
    finally:
        os.close(device)
    return Mount(settings.mountpoint, server, kept, "kernel")


def _mounted_by_library(settings: Settings) -> Mount:
    # libfuse mounts by itself, from the serving process.
    server, kept = launch_server(replace(settings, transport="fusepy"), -1)
    return Mount(settings.mountpoint, server, kept, "fusepy")


def _refuse_inside_run(root: str, real: str, where: str) -> None:
    """The name space of a run ends with its command: nobody could unmount there."""
    if mounted_session(root) is None:
        return
    if any(each["private"] and each["mountpoint"] == root for _, each in _entries(real)):
        raise UsageError(
            "inside coherent run nothing else is mounted",
            path=where,
            advice="Mount it from a shell that is not inside of coherent run.",
        )


def _check_mountpoint(where: str, real: str) -> None:
    if not os.path.isdir(where):
        advice = "Name a directory." if os.path.lexists(where) else f"Make it: mkdir {where}"
        raise UsageError("the mount point is no directory", path=where, advice=advice)
    if where == real or where.startswith(real + "/"):
        raise UsageError(
            "the mount point lies inside the volume",
            path=where,
            advice="Choose a directory outside of it, or use: coherent run --as NAME -- CMD",
        )
    if where in mounted():
        raise UsageError(
            "something is mounted there already", path=where, advice="Unmount it first."
        )
    if os.listdir(where):
        raise UsageError(
            "the mount point is not empty", path=where, advice="Choose an empty directory."
        )
    outer = find_root(where)
    if outer is not None:
        raise UsageError(
            f"the mount point lies in the coherent volume {outer}",
            path=where,
            advice="Choose a directory outside of it.",
        )


def launch_server(settings: Settings, device: int) -> tuple[subprocess.Popen[bytes], list[str]]:
    """Start the serving process and wait until it serves; it, and what it kept of dead mounts."""
    heard, ready = os.pipe()
    log = _log_of(settings.root)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "fuse_mount", str(device), str(ready), settings.text()],
            pass_fds=[each for each in (device, ready) if each >= 0],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
    finally:
        os.close(ready)
        os.close(log)
    with os.fdopen(heard, "rb") as pipe:
        text = pipe.read()
    answer: dict[str, Any] = json.loads(text) if text else {}
    if not answer.get("ok"):
        process.wait()
        message = answer.get("message", "it ended without a word")
        raise UnavailableError(
            f"the serving process could not start: {message}", advice=answer.get("advice", "")
        )
    return process, list(answer["kept"])


def _log_of(root: str) -> int:
    """Where a server's warnings go: a terminal or pipe of its starter's would be kept open."""
    folder = os.path.join(root, ".coherence", "mounts")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.join(folder, "log")
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.fstat(log).st_size > _LOG_BYTES_MAX:
        os.ftruncate(log, 0)
    return log


def _environment() -> dict[str, str]:
    """This environment, with the way to this very package."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


# ── unmounting, and what is mounted ──────────────────────────────────────────


def mounted() -> dict[str, str]:
    """Every mount point that this process sees, with the type of what is mounted."""
    found = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            place = before.split(" ")[4]
            for code, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                place = place.replace(code, plain)
            found[place] = after.split(" ")[0]
    return found


def unmount(mountpoint: str | os.PathLike[str]) -> None:
    """Unmount, after everything complete is committed; BusyError while somebody uses it."""
    where = os.path.join(
        os.path.realpath(os.path.dirname(os.path.abspath(mountpoint))),
        os.path.basename(os.path.abspath(mountpoint)),
    )
    if mounted().get(where) != TYPE.decode():
        raise UsageError("no coherent volume is mounted there", path=where)
    real = None
    with contextlib.suppress(OSError):
        real = os.fsdecode(os.getxattr(where, "user.coherence.real"))
    entry = _entry_of(real, where) if real else None
    _detach(where, lazy=real is None)
    if entry is not None and real is not None:
        token = os.path.basename(entry).removesuffix(".json")
        _wait_until_gone(os.path.join(real, ".coherence", "sessions", token))


def _detach(where: str, *, lazy: bool) -> None:
    if os.geteuid() != 0:
        helper = helper_program() or "fusermount3"
        words = [helper, "-u", *(["-z"] if lazy else []), "--", where]
        done = subprocess.run(words, capture_output=True, check=False)
        if done.returncode != 0:
            raise BusyError(done.stderr.decode(errors="replace").strip(), path=where)
        return
    try:
        system.unmount(os.fsencode(where), system.MNT_DETACH if lazy else 0)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise BusyError(
                "the mount is in use: a process has a file open or its directory there",
                path=where,
                advice="End it (fuser -vm shows which), then unmount again.",
            ) from error
        raise from_os_error(error, where, "unmount") from error


def _wait_until_gone(presence: str) -> None:
    deadline = time.monotonic() + _END_S
    while is_present(presence) and time.monotonic() < deadline:
        time.sleep(0.01)


def _entries(real: str) -> list[tuple[str, dict[str, Any]]]:
    folder = os.path.join(real, ".coherence", "mounts")
    found = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if name.endswith(".json"):
                with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
                    found.append((path, json.load(file)))
    return found


def _entry_of(real: str, where: str) -> str | None:
    return next((p for p, each in _entries(real) if each.get("mountpoint") == where), None)


def mounts(root: str | os.PathLike[str]) -> list[MountInfo]:
    """The mounts of the volume *root*, those of killed servers included."""
    real = os.path.realpath(root)
    found = []
    for path, entry in _entries(real):
        stem = path.removesuffix(".json")
        token = os.path.basename(stem)
        refusals = 0
        with contextlib.suppress(OSError), open(f"{stem}.refusals", "rb") as file:
            refusals = sum(1 for _ in file)
        alive = is_present(os.path.join(real, ".coherence", "sessions", token))
        found.append(
            MountInfo(
                str(entry["mountpoint"]),
                str(entry["session"]),
                int(entry["pid"]),
                alive,
                bool(entry["observe"]),
                refusals,
            )
        )
    return found


def clean_up(real: str) -> list[str]:
    """Unmount what killed servers left mounted; the mount points."""
    cleaned = []
    for path, entry in _entries(real):
        token = os.path.basename(path).removesuffix(".json")
        if is_present(os.path.join(real, ".coherence", "sessions", token)):
            continue
        where = str(entry.get("mountpoint"))
        if not entry.get("private") and mounted().get(where) == TYPE.decode() and _is_dead(where):
            with contextlib.suppress(OSError, CoherenceError):
                _detach(where, lazy=True)
                cleaned.append(where)
        with contextlib.suppress(OSError):
            os.unlink(path)
    return cleaned


def _is_dead(where: str) -> bool:
    try:
        os.statvfs(where)  # stat alone may be answered from the kernel's memory
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False
