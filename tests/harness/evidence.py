"""What a volume holds on disk, looked at from outside once nobody has it open.

Nobody may open the database of a live volume (closing a second descriptor of it
would drop SQLite's own locks), so this is done by a process of its own, on a
copy, after the volume was closed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Kept", "Past", "keep_everything", "leftovers", "look"]

_LOOK = """\
import json, os, shutil, sqlite3, sys, tempfile
sidecar = os.fsencode(sys.argv[1])
with tempfile.TemporaryDirectory() as directory:
    for suffix in ("", "-wal"):
        source = os.path.join(sidecar, b"sidecar.db" + suffix.encode())
        if os.path.exists(source):
            shutil.copy(source, os.path.join(directory, "sidecar.db" + suffix))
    database = sqlite3.connect(os.path.join(directory, "sidecar.db"))
    rows = database.execute(
        "SELECT artifact.path, history.generation, base, kind, session, history.size, object,"
        " content FROM history JOIN artifact ON artifact.id = history.artifact ORDER BY seq"
    ).fetchall()
    pending = database.execute("SELECT count(*) FROM install").fetchone()[0]
    database.close()
past = []
for path, generation, base, kind, session, size, name, content in rows:
    if name is not None:
        with open(os.path.join(sidecar, b"objects", os.fsencode(name)), "rb") as file:
            content = file.read()
    past.append([os.fsdecode(path), generation, base, kind, session, size,
                 None if content is None else content.hex()])
json.dump({"past": past, "pending": pending}, sys.stdout)
"""


@dataclass(frozen=True)
class Past:
    """One row of the history, with its content (None: a deletion)."""

    path: str
    generation: int
    base: int
    kind: str
    session: str
    size: int
    content: bytes | None


@dataclass(frozen=True)
class Kept:
    """Everything that a closed volume keeps."""

    past: list[Past]
    visible: dict[str, bytes]
    refused: dict[str, bytes]
    pending: int
    """Installs that are not yet cleaned up."""

    def of(self, path: str) -> list[Past]:
        """The history of one artifact, oldest first."""
        return sorted((p for p in self.past if p.path == path), key=lambda p: p.generation)

    def everything(self) -> list[bytes]:
        """All contents, wherever they are kept."""
        past = [p.content for p in self.past if p.content is not None]
        return [*self.visible.values(), *past, *self.refused.values()]


def look(root: str | os.PathLike[str]) -> Kept:
    """What the volume at *root* holds; only when every process has closed it."""
    base = Path(root)
    sidecar = base / ".coherence"
    answer = subprocess.run(
        [sys.executable, "-I", "-c", _LOOK, os.fspath(sidecar)], capture_output=True, check=False
    )
    assert answer.returncode == 0, answer.stderr.decode(errors="replace")
    facts = json.loads(answer.stdout)
    return Kept(
        past=[
            Past(*row, content=None if text is None else bytes.fromhex(text))
            for *row, text in facts["past"]
        ],
        visible={
            os.fspath(file.relative_to(base)): file.read_bytes()
            for file in sorted(base.rglob("*"))
            if file.is_file() and sidecar not in file.parents
        },
        # A report about a refusal is no content of anybody's.
        refused={
            name: content
            for name, content in _files_in(sidecar / "refused").items()
            if not name.endswith(".report")
        },
        pending=facts["pending"],
    )


def keep_everything(root: str | os.PathLike[str]) -> None:
    """Let the volume at *root* prune nothing, for a test that looks at all of its past."""
    config = Path(root) / ".coherence" / "config.toml"
    text = config.read_text()
    assert "generations = 100\n" in text
    config.write_text(text.replace("generations = 100\n", "generations = 100_000\n"))


def leftovers(root: str | os.PathLike[str]) -> list[str]:
    """The names in the volume's staging directory."""
    return sorted(_files_in(Path(root) / ".coherence" / "staging"))


def _files_in(directory: Path) -> dict[str, bytes]:
    if not directory.is_dir():
        return {}
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}
