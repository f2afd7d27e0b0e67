"""Keeping: content that could not be saved goes to ``refused/``, and its error says where.

Owns the way there of working copies, of this mount and of mounts that died. A
file is moved and never copied first: a disk that was too full for the save is
too full for a second copy as well. Throws nothing away: what could not be moved
stays where it is, with its line in the index, for the next mount to find.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable

from coherent_volume.digest import digest_of_chunks
from coherent_volume.errors import CoherenceError, ConflictError, printable
from coherent_volume.files import chunks_of
from coherent_volume.locks import is_present
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.records import SeenRow

__all__ = [
    "DRAFT",
    "FOLDER",
    "Content",
    "copy_to_refused",
    "is_kept",
    "keep_by",
    "kept_of_a_mount",
    "kept_of_the_dead",
    "move_to_refused",
]

_log = logging.getLogger("coherent_volume")
Content = bytes | Iterable[bytes]
FOLDER = ".coherence/mounts"
DRAFT = b"plain-"
"""How the name of a file begins that is a copy of something else, and half of one maybe."""


def keep_by(way: Callable[[], str], key: ArtifactKey, error: CoherenceError) -> None:
    """Keep by *way* what *error* refused, unless that was done; *error* says where it is."""
    if _is_told(error):
        return
    try:
        name = way()
    except (OSError, CoherenceError) as trouble:
        _log.warning("%s: unsaved content could not be kept: %s", printable(shown(key)), trouble)
        return
    if isinstance(error, ConflictError):
        error.keep(name)  # the words of a conflict name it
    else:
        error.advice = f"{error.advice}\nYour content is kept in {name}"
        error.fields["kept"] = name


def is_kept(error: OSError) -> bool:
    """Whether the content whose save ended in *error* lies in ``refused/`` or the history."""
    cause = error.__cause__
    return isinstance(cause, CoherenceError) and _is_told(cause)


def _is_told(error: CoherenceError) -> bool:
    return bool(error.fields.get("kept")) or "committed" in error.fields


def move_to_refused(
    parts: VolumeParts, place: tuple[int, bytes], key: ArtifactKey, who: str, base: int | None
) -> str:
    """Give the file at *place* (directory, name) a name in ``refused/``; its path there.

    The old name stays, for the caller to remove. Raises OSError.
    """
    directory, name = place
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        digest = digest_of_chunks(chunks_of(descriptor))
        stage = parts.staging.next_name()
        try:
            # A second name needs no room on the disk. The first one is removed by the
            # caller, and only then: whoever dies in between has kept it twice.
            os.link(
                name, stage, src_dir_fd=directory, dst_dir_fd=parts.staging.staging,
                follow_symlinks=False,
            )  # fmt: skip
        except OSError:
            return parts.staging.keep(key, chunks_of(descriptor), who, base, digest)
        try:
            return parts.staging.refuse(stage, key, who, base, digest)
        except BaseException:
            parts.staging.discard(stage)
            raise
    finally:
        os.close(descriptor)


def copy_to_refused(
    parts: VolumeParts, key: ArtifactKey, base: SeenRow | None, content: Callable[[], Content]
) -> str:
    """Keep a copy of what lies elsewhere as well; its path below the root. Raises OSError."""
    drawn = content()
    digest = digest_of_chunks([drawn] if isinstance(drawn, bytes) else drawn)
    seen = base.generation if base else None
    return parts.staging.keep(key, content(), parts.session.name, seen, digest)


def kept_of_the_dead(parts: VolumeParts) -> list[str]:
    """Move what killed mounts left uncommitted to ``refused/``; where it is now."""
    above = os.path.join(os.fsdecode(parts.root.path), FOLDER)
    kept: list[str] = []
    try:
        tokens = sorted(os.listdir(above))
    except OSError:
        return kept
    for token in tokens:
        # Alive or not is told by the lock of its presence, as for stages.
        if token == parts.staging.token or is_present(
            os.path.join(parts.directory, "sessions", token)
        ):
            continue
        kept += kept_of_a_mount(parts, os.path.join(above, token))
    return kept


def kept_of_a_mount(parts: VolumeParts, folder: str) -> list[str]:
    """Move the working copies below *folder* to ``refused/``, and remove it if it is empty then."""
    kept: list[str] = []
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return kept  # the file of something else, or gone
    try:
        for line in _index(directory):
            try:
                kept += _keep_one(parts, directory, line)
            except FileNotFoundError:
                continue  # committed, or moved by another mount that starts
            except (OSError, CoherenceError, ValueError, KeyError, TypeError) as error:
                _log.warning("%s: unsaved content could not be kept: %s", folder, error)
        left = [os.fsencode(name) for name in os.listdir(directory)]
        for name in left:
            if name.startswith(DRAFT) or left == [b"index"]:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)
    with contextlib.suppress(OSError):
        os.rmdir(folder)
    return kept


def _index(directory: int) -> list[dict[str, str | int]]:
    lines = []
    with contextlib.suppress(OSError):
        descriptor = os.open(b"index", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        with open(descriptor, "rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):  # the last one may be half of one
                    lines.append(json.loads(line))
    return lines


def _keep_one(parts: VolumeParts, directory: int, line: dict[str, str | int]) -> list[str]:
    name = os.path.basename(os.fsencode(str(line["copy"])))
    key = ArtifactKey(os.fsencode(str(line["path"])))
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        size = os.fstat(descriptor).st_size
        digest = digest_of_chunks(chunks_of(descriptor))
    finally:
        os.close(descriptor)
    row = parts.sidecar.artifact(key)
    kept = []
    # An unchanged copy is a generation, and stays one without it.
    if size and (row is None or not parts.sidecar.knows_digest(row.id, digest)):
        who, base = str(line["session"]), int(line["base"])
        kept.append(move_to_refused(parts, (directory, name), key, who, base))
    os.unlink(name, dir_fd=directory)
    return kept
