"""``run``: a command that sees the volume, at its own path, as one session does.

Owns the private name space. The serving process and the launcher stay outside;
the command's process leaves for a mount name space of its own (an ordinary user
also for a user name space in which nothing but its own number is mapped), binds
the real volume to a private directory, mounts over the root, and executes. The
mount is gone with the last process in there, whatever kills it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from coherent_volume import CoherentVolume
from coherent_volume.errors import UnavailableError, UsageError
from coherent_volume.session import library_session
from fuse_mount import system
from fuse_mount.device import (
    TYPE,
    open_device,
    options_text,
    receive_descriptor,
    send_descriptor,
)
from fuse_mount.mounting import clean_up, launch_server
from fuse_mount.server import Settings

__all__ = ["CannotExecuteError", "run"]

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1)
_SETTLE_S = 10.0
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


class CannotExecuteError(Exception):
    """The command could not be started; (message, exit status as a shell's) in args."""


def run(
    root: str | os.PathLike[str],
    session: str,
    command: Sequence[str],
    *,
    refused_errno: int = errno.EACCES,
    observe: bool = False,
    reflex_s: float = 0.5,
) -> int:
    """Run *command* with the volume *root* mounted over itself for *session*.

    Returns its exit status, 128 + n when signal n ended it. Raises
    UnavailableError where no private mount is possible, CannotExecuteError.
    """
    if not command:
        raise UsageError("no command to run")
    session = library_session(session).name
    here = os.getcwd()
    where = os.path.realpath(root)
    with CoherentVolume(root, session=session) as volume:
        real = volume.root
    clean_up(real)
    private = tempfile.mkdtemp(prefix="coherent-")
    system.become_subreaper()
    settings = Settings(
        real, session, where, private, refused_errno, observe, private=True, reflex_s=reflex_s
    )
    ours, theirs = socket.socketpair()
    try:
        child = os.fork()
        if child == 0:
            ours.close()
            _become(theirs, settings, command, here)
        theirs.close()
        return _supervise(child, ours, settings)
    finally:
        ours.close()
        with contextlib.suppress(OSError):
            os.rmdir(private)


# ── the command's side ───────────────────────────────────────────────────────


def _become(
    channel: socket.socket, settings: Settings, command: Sequence[str], here: str
) -> NoReturn:
    """In the child: enter the name space, mount, hand the device over, execute. No return."""
    status = 1
    try:
        device = _enter(settings)
        send_descriptor(channel, device)
        os.close(device)
        if channel.recv(1) != b"\1":
            os._exit(status)
        # The working directory from before lies below the mount.
        os.chdir(here)
        environment = {
            **os.environ,
            "COHERENT_SESSION": settings.session,
            "COHERENT_REAL": settings.real,
        }
        channel.set_inheritable(False)
        try:
            os.execvpe(command[0], list(command), environment)  # noqa: S606
        except OSError as error:
            status = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
            channel.send(bytes([status]) + str(error.strerror).encode())
    except BaseException as error:  # noqa: BLE001 - it must end here, and say why
        what = str(error) or type(error).__name__
        with contextlib.suppress(OSError):
            channel.send(bytes([1]) + what.encode(errors="replace"))
    finally:
        os._exit(status)


def _enter(settings: Settings) -> int:
    """Enter the name space and mount; the device."""
    user, group = os.geteuid(), os.getegid()
    try:
        system.unshare(system.NEW_MOUNTS | (system.NEW_USERS if user != 0 else 0))
    except OSError as error:
        raise UnavailableError(
            f"this user may not make a name space: {error.strerror}",
            advice="Allow it (sysctl kernel.unprivileged_userns_clone=1, or"
            " kernel.apparmor_restrict_unprivileged_userns=0), or use: coherent mount",
        ) from None
    if user != 0:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    root = os.fsencode(settings.root)
    # Ours must not show outside; what is mounted outside later shows here.
    system.mount(b"none", b"/", b"", system.MS_REC | system.MS_SLAVE)
    system.mount(root, os.fsencode(settings.real), b"", system.MS_BIND | system.MS_REC)
    device = open_device()
    flags = system.MS_NOSUID | system.MS_NODEV
    system.mount(b"coherent", os.fsencode(settings.mountpoint), TYPE, flags, options_text(device))
    return device


# ── the launcher's side ──────────────────────────────────────────────────────


def _supervise(child: int, channel: socket.socket, settings: Settings) -> int:
    try:
        device = receive_descriptor(channel)
    except UnavailableError:
        message = channel.recv(4096).decode(errors="replace")
        os.waitpid(child, 0)
        raise UnavailableError(f"no private mount is possible: {message}", advice="") from None
    try:
        server, _ = launch_server(settings, device)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(device)
    with _forwarding(child):
        channel.send(b"\1")
        words = channel.recv(4096)
        _, status = os.waitpid(child, 0)
    _wait_for_the_rest(server)
    if words:
        raise CannotExecuteError(words[1:].decode(errors="replace"), words[0])
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _forwarding(child: int) -> Iterator[None]:
    def forward(number: int, frame: object) -> None:  # noqa: ARG001
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    before: dict[int, Any] = {}
    for number in _FORWARDED:
        # The terminal sends these two to the whole group: the command has them already.
        direct = number in (signal.SIGINT, signal.SIGQUIT)
        before[number] = signal.signal(number, (lambda *_: None) if direct else forward)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _wait_for_the_rest(server: subprocess.Popen[bytes]) -> None:
    """Wait until the server has committed everything, unless others still use the mount."""
    deadline = time.monotonic() + _SETTLE_S
    while server.poll() is None and time.monotonic() < deadline:
        if _others(server.pid):
            return  # a background job goes on with the mount
        time.sleep(0.005)


def _others(server: int) -> bool:
    """Whether a process that the command left behind is alive; the dead are reaped."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        children = [int(number) for number in file.read().split()]
    alive = False
    for child in children:
        if child != server:
            with contextlib.suppress(ChildProcessError):
                alive = os.waitpid(child, os.WNOHANG) == (0, 0) or alive
    return alive
