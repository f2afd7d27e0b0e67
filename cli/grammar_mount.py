"""The grammar of the verbs that put tools under the rules without their knowing."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.call import Call, Common
from cli.grammar import MOUNT, CommandArgument, JsonOption, RootOption, SessionOption, verb

MountpointArgument = Annotated[str, typer.Argument(metavar="MOUNTPOINT", hidden=True)]
ErrnoOption = Annotated[
    str, typer.Option("--errno", metavar="EACCES|ESTALE", help="What a stale save gets.")
]
ObserveOption = Annotated[
    bool, typer.Option("--observe", help="Refuse nothing; note what would have been refused.")
]


@verb(MOUNT, "coherent run --as planner -- bash", "coherent run --as builder -- make")
def run(
    command: CommandArgument,
    errno: ErrnoOption = "EACCES",
    observe: ObserveOption = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Run CMD with the volume mounted over itself: its stale saves are refused.

    CMD needs to know nothing. The mount is its own (nobody else sees it), acts for
    the session of --as, and is gone with it. Why something was refused stands in
    .coherence/why/PATH. The exit status is that of CMD.
    """
    arguments = {"command": command, "errno": errno, "observe": observe}
    return Call("run", arguments, Common(json, root, session))


@verb(MOUNT, "coherent mount /mnt/planner --as planner")
def mount(
    mountpoint: MountpointArgument,
    errno: ErrnoOption = "EACCES",
    transport: Annotated[
        str,
        typer.Option(
            "--transport", metavar="kernel|fusepy|auto", help="How to speak to the kernel."
        ),
    ] = "kernel",
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay until it is unmounted or interrupted.")
    ] = False,
    observe: ObserveOption = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Show the volume at MOUNTPOINT, an empty directory, for the session of --as.

    Saves below it are that session's, and a stale one fails with EACCES.
    """
    arguments = {
        "mountpoint": mountpoint,
        "errno": errno,
        "transport": transport,
        "foreground": foreground,
        "observe": observe,
    }
    return Call("mount", arguments, Common(json, root, session))


@verb(MOUNT, "coherent unmount /mnt/planner")
def unmount(
    mountpoint: MountpointArgument,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """End a mount, after everything that is complete was committed."""
    return Call("unmount", {"mountpoint": mountpoint}, Common(json, root, session))


@verb(MOUNT, "coherent mounts")
def mounts(
    json: JsonOption = False, root: RootOption = None, session: SessionOption = None
) -> Call:
    """List the mounts of the volume, and how much each has refused."""
    return Call("mounts", {}, Common(json, root, session))
