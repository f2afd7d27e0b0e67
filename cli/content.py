"""read, write, merge, create, append, rm, mv: artifacts one at a time.

Content of any size passes in pieces, except through append and ``read --json``.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable
from typing import BinaryIO, cast

from cli import render
from cli.call import Common, Reply
from cli.place import SIDECAR, below_root, opened
from cli.source import Source
from cli.streams import Output, emit
from coherent_volume.errors import UsageError, printable
from coherent_volume.merge import MERGE_BYTES_MAX

__all__ = ["append", "create", "merge", "mv", "read", "rm", "write"]


def read(common: Common, path: str) -> None:
    """Print the content; the observation is recorded once all of it was taken."""
    where = below_root(path)
    with opened(common) as place:
        if not common.json:
            place.volume.read_to(where, _stream(Output()))
            return
        sink = _JsonContent()
        seen = place.volume.read_to(where, _stream(sink))
        sink.finish(path=seen.path, generation=seen.generation, digest=seen.digest)


def write(
    common: Common,
    path: str,
    source: str | None,
    base: int | None,
    overwrite: bool,
    merge: bool,
) -> Reply:
    """Commit the new content of an artifact this session has read, or a new one."""
    where = below_root(path)
    with opened(common) as place, Source(source) as content:
        return render.commit(
            place.volume.write_from(
                where,
                _stream(content),
                base=base,
                overwrite=overwrite,
                on_conflict="merge" if merge else None,
            )
        )


def merge(common: Common, path: str, mine: str, base: int | None) -> Reply:
    """Commit what the content of the file *mine* and the head become together."""
    where = below_root(path)
    with opened(common) as place, Source(mine, "--mine") as content:
        data = content.read(MERGE_BYTES_MAX + 1)
        if len(data) > MERGE_BYTES_MAX:
            raise UsageError(
                f"too large to be merged: more than {MERGE_BYTES_MAX >> 20} MiB", path=mine
            )
        derived = base if base is not None else _refused_from(place.volume.root, mine)
        return render.commit(place.volume.merge(where, data, derived))


def _refused_from(root: str, mine: str) -> int | None:
    """The generation that refused content was derived from, as its name says."""
    folder, name = os.path.split(os.path.realpath(mine))
    if folder != os.path.join(root, SIDECAR, "refused"):
        return None
    if re.search(r"\.unseen\.[0-9a-f]{16}$", name):
        raise UsageError(
            "this content was not derived from any generation",
            path=mine,
            advice="Name one with --base, or read the artifact and edit it anew.",
        )
    found = re.search(r"\.g(\d{1,18})\.[0-9a-f]{16}$", name)
    return int(found[1]) if found else None


def create(common: Common, path: str, source: str | None) -> Reply:
    """Commit the first content of a name that must be free."""
    where = below_root(path)
    with opened(common) as place, Source(source) as content:
        return render.commit(place.volume.create_from(where, _stream(content)), "created as")


def append(common: Common, path: str, source: str | None) -> Reply:
    """Commit the head's content with more at its end."""
    where = below_root(path)
    with opened(common) as place, Source(source) as content:
        return render.commit(place.volume.append(where, content.read()))


def rm(common: Common, path: str, base: int | None, overwrite: bool) -> Reply:
    """Commit the deletion of an artifact."""
    where = below_root(path)
    with opened(common) as place:
        return render.commit(
            place.volume.delete(where, base=base, overwrite=overwrite), "deleted by"
        )


def mv(common: Common, source: str, target: str) -> Reply:
    """Commit an artifact's content under a new name that must be free."""
    old, new = below_root(source), below_root(target)
    with opened(common) as place:
        commit = place.volume.rename(old, new)
        return render.commit(commit, f"(moved from {printable(source)}) is")


def _stream(stream: Output | Source | _JsonContent) -> BinaryIO:
    # The library asks no more of a stream than it uses: a read, or a write,
    # writelines and a flush.
    return cast("BinaryIO", stream)


class _JsonContent:
    """A sink that holds the content back until it is whole, then prints it as JSON.

    The content goes out at ``flush``, before the library records that it was
    seen; generation and digest, known only afterwards, follow in ``finish``.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._sent = False

    def write(self, data: bytes | memoryview) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self._pieces += map(bytes, pieces)

    def flush(self) -> None:
        if self._sent:
            return
        self._sent = True
        content = b"".join(self._pieces)
        try:
            key, value = "text", content.decode("utf-8")
        except UnicodeDecodeError:
            key, value = "base64", base64.b64encode(content).decode("ascii")
        emit(f'{{"ok": true, "{key}": {json.dumps(value)}')

    def finish(self, **fields: object) -> None:
        self.flush()
        emit(f", {json.dumps(fields)[1:]}\n")
