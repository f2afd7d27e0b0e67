"""run, mount, unmount, mounts: tools that never heard of the library, under its rules."""

from __future__ import annotations

import dataclasses
import errno as numbers
import os
import signal

from cli.call import CommandLineError, Common, Reply
from cli.derive import CommandError
from cli.place import current_directory, session_of, volume_root
from cli.tables import table
from coherent_volume.errors import UsageError, printable
from fuse_mount import mounting, namespace

__all__ = ["mount", "mounts", "run", "unmount"]

_ERRNOS = {"EACCES": numbers.EACCES, "ESTALE": numbers.ESTALE}


def run(common: Common, command: list[str], errno: str, observe: bool) -> Reply:
    """Run a command in a mount of its own; its exit status is ours."""
    number = _number(errno)
    root = volume_root(common)
    name = _named(common, root)
    try:
        status = namespace.run(root, name, command, refused_errno=number, observe=observe)
    except namespace.CannotExecuteError as error:
        message, status = error.args
        raise CommandError(command[0], str(message), int(status)) from None
    return Reply({"session": name, "status": status}, str, status)


def mount(
    common: Common, mountpoint: str, errno: str, transport: str, foreground: bool, observe: bool
) -> Reply:
    """Mount at a second path."""
    number = _number(errno)
    if transport not in mounting.TRANSPORTS:
        raise CommandLineError(
            f"--transport must be kernel, fusepy or auto, not {transport!r}",
            "Try: coherent mount --help",
        )
    root = volume_root(common)
    name = _named(common, root)
    where = os.path.join(current_directory(), mountpoint)
    shown = mounting.mount(
        root, where, name, refused_errno=number, observe=observe, transport=transport
    )
    fields = {
        "mountpoint": shown.mountpoint,
        "session": name,
        "kept": shown.kept,
        "transport": shown.transport,
    }
    lines = [f"{printable(shown.mountpoint)} shows the volume for {printable(name)}"]
    if shown.transport != transport:
        lines += [f"over {shown.transport}"]
    lines += [f"kept from a mount that was killed: {printable(each)}" for each in shown.kept]
    if foreground:
        print("\n".join(lines), flush=True)
        _stay(shown)
        return Reply(fields, str)
    return Reply(fields, lambda: "\n".join(lines) + "\n")


def _stay(shown: mounting.Mount) -> None:
    """Until an interrupt, or until somebody else unmounts."""
    wanted = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    while shown.mountpoint in mounting.mounted():
        if signal.sigtimedwait(wanted, 0.5) is not None:
            shown.close()
            return


def unmount(common: Common, mountpoint: str) -> Reply:
    """Unmount."""
    del common  # a mount point needs no volume: its server may be dead
    where = os.path.join(current_directory(), mountpoint)
    mounting.unmount(where)
    return Reply({"mountpoint": where}, lambda: f"{printable(where)} is unmounted\n")


def mounts(common: Common) -> Reply:
    """What is mounted, for whom."""
    found = mounting.mounts(volume_root(common))
    rows = [
        (
            each.mountpoint,
            each.session,
            "alive" if each.alive else "killed",
            f"{each.refusals} {'observed' if each.observe else 'refused'}",
        )
        for each in found
    ]

    def text() -> str:
        if not rows:
            return "No mounts.\n"
        return table(("mount point", "session", "server", "refusals"), rows)

    return Reply({"mounts": [dataclasses.asdict(each) for each in found]}, text)


def _number(name: str) -> int:
    if name not in _ERRNOS:
        raise CommandLineError(
            f"--errno must be EACCES or ESTALE, not {name!r}", "Try: coherent run --help"
        )
    return _ERRNOS[name]


def _named(common: Common, root: str) -> str:
    session = session_of(common, root)
    if session.kind != "named":
        raise UsageError("a mount needs a session that lasts", advice="Name it: --as NAME")
    return session.name
