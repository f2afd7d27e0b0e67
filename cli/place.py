"""Where a command works: the volume it means, and its PATH below the root.

Finds, translates and opens; decides nothing about content.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from cli.call import Common
from coherent_volume import CoherentVolume
from coherent_volume.errors import NotObservedError, NotPermittedError, UsageError
from coherent_volume.layout import mounted_session
from coherent_volume.model import SessionInfo
from coherent_volume.session import GUESSED, resolve_shell_session

__all__ = [
    "SIDECAR",
    "Place",
    "below_root",
    "current_directory",
    "opened",
    "session_of",
    "volume_root",
]

SIDECAR = ".coherence"
_ONE_SESSION = (
    "Each shell and each subshell is a session of its own; to be one session in several:"
    " export COHERENT_SESSION=NAME, or --as NAME."
)


class Place(NamedTuple):
    """An open volume and the session that speaks."""

    volume: CoherentVolume
    session: SessionInfo


@contextmanager
def opened(common: Common) -> Iterator[Place]:
    """The volume that *common* means, open, in the session of the ladder."""
    root = volume_root(common)
    session = session_of(common, root)
    name = session.name if session.kind == "named" else None
    with CoherentVolume(root, session=name) as volume:
        try:
            yield Place(volume, session)
        except NotObservedError as error:
            if session.rule.startswith(GUESSED):
                error.advice += f"\n{_ONE_SESSION}"
            raise


def volume_root(common: Common) -> str:
    """--root, or the nearest directory from here upwards that holds a sidecar."""
    if common.root is not None:
        return os.path.realpath(common.root)
    here = directory = current_directory()
    while not os.path.isdir(os.path.join(directory, SIDECAR)):
        parent = os.path.dirname(directory)
        if parent == directory:
            raise UsageError(
                "no volume in this directory or in any above it",
                path=here,
                advice="Make one: coherent init --managed 'GLOB'; or name one with --root.",
            )
        directory = parent
    return directory


def session_of(common: Common, root: str) -> SessionInfo:
    """Which session a command under *root* speaks for, and by which rule."""
    sidecar = os.path.join(root, SIDECAR)
    if not os.path.isdir(sidecar):
        # Let the library say what is wrong with this root: the same words
        # whether the command line or a script asks.
        CoherentVolume(root).close()
    name = common.session
    if name is None and not os.environ.get("COHERENT_SESSION"):
        mounted = mounted_session(root)
        if mounted is not None:
            return SessionInfo(mounted, "named", "the mount")
    return resolve_shell_session(name, sidecar)


def current_directory() -> str:
    """The working directory, free of links."""
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise UsageError(
            "the current directory no longer exists", advice="Change into one that does."
        ) from error
    except PermissionError as error:
        raise NotPermittedError("the current directory cannot be read") from error


def below_root(path: str) -> str:
    """*path*, given relative to the working directory, for the library.

    It comes out absolute, with the links among its parents followed as every
    other command follows them; whether it lies below the root is the library's
    to judge, and so is a link in the last place.
    """
    if not path:
        raise UsageError("the path is empty", advice="Name a file below the root.")
    parent, name = os.path.split(path)
    return os.path.join(os.path.realpath(os.path.join(current_directory(), parent)), name)
