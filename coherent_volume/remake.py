"""Making a visible file again from the records, and judging it after a power loss.

Owns the content of kept generations and what a power loss may have left of our
own files: an older inode, a torn one, none. What is replaced here and is no
generation is kept aside first, and said. Runs under the gate (I7).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator

from coherent_volume import points
from coherent_volume.attributes import Attributes
from coherent_volume.digest import digest_of, digest_of_chunks
from coherent_volume.errors import DamagedError, NotFoundError, printable
from coherent_volume.files import CHUNK, Look, chunks_of, look
from coherent_volume.ground import flush_before_forgetting
from coherent_volume.install import Outcome, install, install_row, previous_of, put_back
from coherent_volume.model import ABSENT_DIGEST, ArtifactKey, Digest
from coherent_volume.parts import Displaced, VolumeParts
from coherent_volume.paths import shown
from coherent_volume.records import ArtifactRow, InstallRow

__all__ = ["after_another_boot", "content_of", "make_again"]

_log = logging.getLogger("coherent_volume")


def after_another_boot(parts: VolumeParts, key: ArtifactKey, row: ArtifactRow) -> ArtifactRow:
    """Installs of an earlier boot: the visible file may be old, torn or missing."""
    installs = parts.sidecar.installs(row.id)
    if not installs:
        return row
    seen = look(parts.root.descriptor, key)
    try:
        if seen.digest == row.digest or not _is_ours(seen, row, installs):
            flush_before_forgetting(parts, key, seen)
            _forget(parts, installs)
            return row  # settled; or a foreign edit since, which the caller adopts
        _keep_aside(parts, key, row, seen)
    finally:
        seen.close()
    return make_again(parts, key, row, installs)


def _is_ours(seen: Look, row: ArtifactRow, installs: list[InstallRow]) -> bool:
    if not seen.exists:
        # An unfinished create; a replaced file is never absent, because the
        # exchange of names is atomic in the journal.
        return row.exists and any(i.previous is None for i in installs)
    inodes = {(i.staged.inode, i.staged.mtime_ns) for i in installs if i.staged}
    inodes |= {(i.previous.inode, i.previous.mtime_ns) for i in installs if i.previous}
    return (seen.stat.st_ino, seen.stat.st_mtime_ns) in inodes


def _keep_aside(parts: VolumeParts, key: ArtifactKey, row: ArtifactRow, seen: Look) -> None:
    """Keep bytes that are about to be replaced and that no generation has."""
    if not seen.exists or parts.sidecar.knows_digest(row.id, seen.digest):
        return
    if seen.data is not None and not seen.data.strip(b"\0"):
        return
    kept = parts.staging.keep(
        key, chunks_of(seen.descriptor), "power-loss", row.generation, seen.digest
    )
    _log.warning("%s: bytes found after a power loss are kept in %s", printable(shown(key)), kept)


def make_again(
    parts: VolumeParts, key: ArtifactKey, row: ArtifactRow, installs: list[InstallRow]
) -> ArtifactRow:
    """Make the visible file anew from the records' content."""
    seen = look(parts.root.descriptor, key, keep=False)
    try:
        if row.exists:
            attributes = Attributes.of(seen.descriptor, seen.stat) if seen.exists else None
            content = content_of(parts, key, row.id, row.generation)
            made = parts.staging.stage(key, row.generation, content, attributes, history=False)
            stage, inode = made.stage, made.inode
        else:
            stage, inode = parts.staging.next_name(), None
        again = install_row(
            parts, stage, inode, previous_of(seen), row, seen.digest, row.generation
        )
        parts.sidecar.replace_installs(installs, again)
        parts.displaced.extend(Displaced(i) for i in installs)
        _log.warning(
            "%s: generation %d was made visible again", printable(shown(key)), row.generation
        )
        outcome = install(parts, key, again, seen)
    finally:
        seen.close()
    points.reached("healed")
    if outcome is Outcome.RACED:
        return put_back(parts, key, row, again)
    return row


def _forget(parts: VolumeParts, installs: list[InstallRow]) -> None:
    parts.displaced.extend(Displaced(i) for i in installs)
    parts.sidecar.forget_installs(installs)


def content_of(
    parts: VolumeParts, key: ArtifactKey, artifact: int, generation: int
) -> bytes | Iterable[bytes]:
    """The content of a kept generation; large content as chunks.

    It is what was committed: all of it is looked at before any is handed out.
    Raises NotFoundError when it is pruned, DamagedError when it is gone or differs.
    """
    found = parts.sidecar.content(artifact, generation)
    while found is not None:
        content, stored, digest = found
        if stored is None:
            if digest not in (ABSENT_DIGEST, digest_of(content or b"")):
                raise _damaged(key, generation)
            return content or b""
        try:
            descriptor = parts.staging.open_object(stored)
        except FileNotFoundError:
            # Retention may have overtaken us: the row goes first, then the object.
            found = parts.sidecar.content(artifact, generation)
            if found is not None and found[1] == stored:
                raise DamagedError(
                    f"the content of generation {generation} is missing from objects/",
                    path=shown(key),
                ) from None
        else:
            return _checked(descriptor, key, generation, digest)
    raise NotFoundError(
        f"generation {generation} is no longer kept", path=shown(key), generation=generation
    )


def _checked(descriptor: int, key: ArtifactKey, generation: int, digest: Digest) -> Iterator[bytes]:
    try:
        if digest_of_chunks(chunks_of(descriptor)) != digest:
            raise _damaged(key, generation)
    except BaseException:
        os.close(descriptor)
        raise
    return _chunks_and_close(descriptor)


def _damaged(key: ArtifactKey, generation: int) -> DamagedError:
    return DamagedError(f"the kept content of generation {generation} is damaged", path=shown(key))


def _chunks_and_close(descriptor: int) -> Iterator[bytes]:
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk
