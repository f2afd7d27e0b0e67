"""The device: how a mounted connection to the kernel is had.

Owns /dev/fuse, the options of mount(2), and the helper of ordinary users. What
is missing is told with what to install or allow.
"""

from __future__ import annotations

import array
import errno
import os
import shutil
import socket
import subprocess

from coherent_volume.errors import NotPermittedError, UnavailableError, from_os_error
from fuse_mount import system

__all__ = [
    "TYPE",
    "helper_program",
    "mount_device",
    "open_device",
    "options_text",
    "receive_descriptor",
    "send_descriptor",
]

DEVICE = "/dev/fuse"
TYPE = b"fuse.coherent"


def helper_program() -> str | None:
    """The program that mounts for ordinary users."""
    return shutil.which("fusermount3") or shutil.which("fusermount")


def options_text(device: int) -> bytes:
    """The options of mount(2) for this user."""
    text = b"fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions"
    text %= (device, os.geteuid(), os.getegid())
    return text + b",allow_other" if os.geteuid() == 0 else text


def open_device() -> int:
    """An open /dev/fuse; UnavailableError says what is missing."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UnavailableError(
            f"{DEVICE} does not exist: this kernel (or container) has no FUSE",
            advice="Load the module (modprobe fuse), or give the container --device /dev/fuse.",
        ) from None
    except PermissionError as error:
        raise NotPermittedError(
            f"{DEVICE} cannot be opened: {error.strerror}",
            advice="Let this user open it (mode 0666), or install fusermount3 (package fuse3).",
        ) from None


def mount_device(where: str) -> int:
    """Mount an empty connection at *where*; its device."""
    if os.geteuid() != 0:
        return _by_helper(where)
    device = open_device()
    try:
        flags = system.MS_NOSUID | system.MS_NODEV
        system.mount(b"coherent", os.fsencode(where), TYPE, flags, options_text(device))
    except OSError as error:
        os.close(device)
        if error.errno in (errno.EPERM, errno.EACCES):
            raise UnavailableError(
                "this root may not mount anything (a container without CAP_SYS_ADMIN?)",
                path=where,
                advice="Give the container the capability SYS_ADMIN and the device /dev/fuse.",
            ) from error
        raise from_os_error(error, where, "mount") from error
    return device


def _by_helper(where: str) -> int:
    helper = helper_program()
    if helper is None:
        raise UnavailableError(
            "an ordinary user needs fusermount3 for a mount",
            path=where,
            advice="Install it (Debian: apt install fuse3), or use: coherent run --as NAME -- CMD",
        )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [helper, "-o", "default_permissions,subtype=coherent,fsname=coherent", "--", where],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise UnavailableError(
                f"fusermount3 refused: {done.stderr.decode(errors='replace').strip()}", path=where
            )
        return receive_descriptor(ours)


def send_descriptor(channel: socket.socket, descriptor: int) -> None:
    """Hand *descriptor* to the process at the other end."""
    numbers = array.array("i", [descriptor])
    channel.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])


def receive_descriptor(channel: socket.socket) -> int:
    """A descriptor that the process at the other end hands over."""
    numbers = array.array("i")
    _, extra, _, _ = channel.recvmsg(1, socket.CMSG_LEN(numbers.itemsize))
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(data[: numbers.itemsize])
            os.set_inheritable(numbers[0], False)
            return numbers[0]
    raise UnavailableError("the mount helper handed over no device")
