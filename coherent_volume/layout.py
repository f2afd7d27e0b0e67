"""The volume on disk: making ``.coherence``, and opening what is there.

Owns the names below ``.coherence`` and the judgement whether a directory can
be a volume at all. ``config.toml`` is written last: a directory without it is
no volume yet, and making it again completes it. Upholds nothing of the
protocol; a volume opens the same for ten files and for a million.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from coherent_volume import config as configuration
from coherent_volume.config import Config
from coherent_volume.errors import (
    ConfigurationError,
    DamagedError,
    NotFoundError,
    UnsupportedFilesystemError,
    UsageError,
    from_os_error,
)
from coherent_volume.globs import ManagedGlobs, Rules
from coherent_volume.identity import boot_id
from coherent_volume.locks import FairLock, lifecycle_lock
from coherent_volume.model import Durability
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import PathArgument, Root
from coherent_volume.session import VARIABLE as SESSION_VARIABLE
from coherent_volume.session import Session, library_session
from coherent_volume.sidecar import Sidecar
from coherent_volume.staging import Staging
from coherent_volume.syscalls import filesystem_magic

__all__ = [
    "SIDECAR_DIRECTORY",
    "existing_incarnation",
    "find_root",
    "initialise",
    "mounted_session",
    "open_parts",
]

SIDECAR_DIRECTORY = ".coherence"
_FOLDERS = ("staging", "objects", "refused", "sessions", "turns", "leases")

# File systems on which locks, leases or shared memory are not coherent between
# the machines (or mounts) that see them. Magic numbers: linux/magic.h.
_REFUSED_FILESYSTEMS = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x01021997: "9p",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x6B414653: "kAFS",
    0x73757245: "Coda",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x65735546: "FUSE",
    0x786F4256: "vboxsf",
    0xBACBACBC: "vmhgfs",
}


_EXT4 = 0xEF53
_FUSE = 0x65735546


class _Found(NamedTuple):
    config: Config
    incarnation: str


def find_root(start: PathArgument) -> str | None:
    """The nearest directory at or above *start* that is a volume's root."""
    here = os.path.realpath(os.fsdecode(start))
    while not os.path.isfile(os.path.join(here, SIDECAR_DIRECTORY, "config.toml")):
        above = os.path.dirname(here)
        if above == here:
            return None
        here = above
    return here


def open_parts(
    directory: PathArgument,
    managed: tuple[str, ...] | None,
    session: str | None,
    durability: Durability | None,
) -> VolumeParts:
    """Open the volume at *directory*; with *managed* make it if there is none.

    Raises ConfigurationError when what is asked differs from the volume's own
    configuration, DamagedError, UnsupportedFilesystemError, NotPermittedError.
    """
    try:
        root, mounted_for = _real_root(Root(directory))
    except OSError as error:
        if isinstance(error, NotFoundError):
            raise
        raise from_os_error(error, os.fsdecode(directory), "open the root") from error
    if session is None and not os.environ.get(SESSION_VARIABLE):
        session = mounted_for
    try:
        found = _read(root)
        if found is None:
            if managed is None and os.path.exists(os.path.join(_sidecar_path(root), "sidecar.db")):
                raise ConfigurationError(
                    "config.toml is missing from .coherence",
                    path=os.fsdecode(root.path),
                    advice='Write it again: coherent init --managed "GLOB". The history is kept.',
                )
            if managed is None:
                raise UsageError(
                    "no coherent volume here",
                    path=os.fsdecode(root.path),
                    advice='Make one: coherent init --managed "GLOB", or pass managed=(...).',
                )
            found = _make(root, configuration.checked(managed, durability or "power"))
        _refuse_difference(found.config, managed, durability)
        return _open(root, found, session)
    except OSError as error:
        root.close()
        if isinstance(error, NotFoundError):
            raise
        raise from_os_error(error, os.fsdecode(root.path), "open the volume") from error
    except BaseException:
        root.close()
        raise


def mounted_session(directory: PathArgument) -> str | None:
    """The session for which a volume is mounted at *directory*; None where it is not."""
    with contextlib.suppress(OSError):
        return os.fsdecode(os.getxattr(directory, "user.coherence.session"))
    return None


def _real_root(root: Root) -> tuple[Root, str | None]:
    """The root behind a mount of the volume, and whose mount it is; else *root* itself.

    Inside a mount the library works on the real files and the real records: locks
    and leases through the mount would not be those that everybody else takes.
    """
    if filesystem_magic(root.descriptor) != _FUSE:
        return root, None
    try:
        real = os.getxattr(root.descriptor, "user.coherence.real")
    except OSError:
        return root, None
    session = mounted_session(root.path)
    root.close()
    return Root(real, also=root.path), session


def existing_incarnation(root: Root) -> str:
    """The incarnation of the volume at *root*; raises UsageError when there is none."""
    found = _read(root)
    if found is None:
        raise UsageError("no coherent volume here", path=os.fsdecode(root.path))
    return found.incarnation


def initialise(
    directory: PathArgument, managed: tuple[str, ...], durability: Durability = "power"
) -> bool:
    """Make a volume at *directory*; False when the same one is there already."""
    root = Root(directory)
    try:
        fresh = _read(root) is None
    finally:
        root.close()
    parts = open_parts(directory, managed, None, durability)
    parts.sidecar.database.close()
    parts.close()
    return fresh


def _open(root: Root, found: _Found, session: str | None) -> VolumeParts:
    _refuse_filesystem(root)
    directory = _sidecar_path(root)
    config = found.config
    globs = ManagedGlobs(config.managed)
    info = library_session(session)
    try:
        sidecar = Sidecar(os.path.join(directory, "sidecar.db"), config.durability)
    except FileNotFoundError:
        raise DamagedError("the sidecar database is missing", path=os.fsdecode(root.path)) from None
    try:
        if sidecar.incarnation() != found.incarnation:
            raise DamagedError(
                "the sidecar belongs to another life of this volume", path=os.fsdecode(root.path)
            )
        staging = Staging(directory, found.incarnation, durable=config.durability == "power")
    except BaseException:
        sidecar.database.close()
        raise
    return VolumeParts(
        root=root,
        directory=directory,
        config=config,
        incarnation=found.incarnation,
        globs=globs,
        rules=Rules(config),
        sidecar=sidecar,
        staging=staging,
        session=Session(info, sidecar),
        boot=f"{boot_id()}.{os.fstat(staging.staging).st_ino:x}",
        gate=FairLock(os.path.join(directory, "gate")),
        flushes_files=config.durability == "power" and filesystem_magic(root.descriptor) != _EXT4,
    )


def _sidecar_path(root: Root) -> str:
    return os.path.join(os.fsdecode(root.path), SIDECAR_DIRECTORY)


def _read(root: Root) -> _Found | None:
    """Configuration and incarnation of an existing volume, or None."""
    directory = _sidecar_path(root)
    try:
        with open(os.path.join(directory, "config.toml"), "rb") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        with open(os.path.join(directory, "incarnation"), encoding="utf-8") as file:
            incarnation = file.read().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        raise DamagedError(
            "the volume has lost its incarnation file", path=os.fsdecode(root.path)
        ) from None
    try:
        return _Found(configuration.parse(text.decode()), incarnation)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"config.toml is not valid UTF-8: {error}") from error


def _make(root: Root, config: Config) -> _Found:
    """Make the volume, complete or not at all: ``config.toml`` comes last."""
    ManagedGlobs(config.managed)  # refuses what cannot be compiled, before anything is made
    _refuse_filesystem(root)
    _refuse_nesting(root)
    directory = _sidecar_path(root)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    with lifecycle_lock(os.path.join(directory, "lifecycle.lock")):
        found = _read(root)
        if found is not None:
            return found  # another process was faster
        os.chmod(directory, 0o700)
        _write(directory, ".gitignore", "*\n")
        for folder in _FOLDERS:
            os.makedirs(os.path.join(directory, folder), exist_ok=True)
        incarnation = _incarnation_kept(directory)
        if incarnation is None:
            incarnation = os.urandom(16).hex()
            Sidecar.create(os.path.join(directory, "sidecar.db"), incarnation)
            _write(directory, "incarnation", f"{incarnation}\n")
        _write(directory, "config.toml", configuration.render(config))
        _sync(directory)
        _sync(os.fsdecode(root.path))
    return _Found(config, incarnation)


def _incarnation_kept(directory: str) -> str | None:
    """The incarnation of a sidecar that lost only its configuration."""
    try:
        with open(os.path.join(directory, "incarnation"), encoding="utf-8") as file:
            incarnation = file.read().strip()
    except OSError:
        return None
    return incarnation if os.path.exists(os.path.join(directory, "sidecar.db")) else None


def _write(directory: str, name: str, text: str) -> None:
    draft = os.path.join(directory, f"{name}.new")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(draft, os.path.join(directory, name))


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_difference(
    config: Config, managed: tuple[str, ...] | None, durability: Durability | None
) -> None:
    if managed is not None and configuration.checked(managed, "power").managed != config.managed:
        raise ConfigurationError(
            f"this volume manages {list(config.managed)}, not {list(managed)}",
            advice="Open it without managed, or edit .coherence/config.toml.",
        )
    if durability is not None and durability != config.durability:
        raise ConfigurationError(
            f'this volume has durability "{config.durability}", not "{durability}"',
            advice="Open it without durability, or edit .coherence/config.toml.",
        )


def _refuse_filesystem(root: Root) -> None:
    name = _REFUSED_FILESYSTEMS.get(filesystem_magic(root.descriptor))
    if name is not None:
        raise UnsupportedFilesystemError(
            f"{name} keeps no locks and leases that all its users obey",
            path=os.fsdecode(root.path),
            filesystem=name,
        )


def _refuse_nesting(root: Root) -> None:
    above = os.path.dirname(os.fsdecode(root.path))
    outer = find_root(above) if above != os.fsdecode(root.path) else None
    if outer is not None:
        raise UsageError(
            f"the directory lies in the coherent volume {outer}",
            path=os.fsdecode(root.path),
            advice="Use that volume, or move this directory out of it.",
        )
