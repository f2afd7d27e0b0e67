"""Sessions: who is reading, and what it saw last.

Owns the ladder of identity and the observations. A *process session* is one
process (pid and start time); its observations are in memory and a forked child
is a new one. A *named session* lasts over many short processes; its
observations are in the sidecar. Unknown is never "the last agent".

Liveness is a kernel lock on ``sessions/<token>``, never a pid or a clock.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping

from coherent_volume.errors import UsageError
from coherent_volume.identity import (
    ancestors,
    boot_id,
    command_of,
    process_identity,
)
from coherent_volume.locks import Presence, is_present
from coherent_volume.model import ArtifactKey, Digest, SessionInfo
from coherent_volume.records import SeenRow
from coherent_volume.sidecar import Sidecar

__all__ = ["Session", "library_session", "presences", "resolve_shell_session"]

VARIABLE = "COHERENT_SESSION"
GUESSED = "parent process"
"""How the rule begins of a session that nobody named: each shell is one of its own."""

# Each of these holds the id of one conversation of an agent harness, and is set
# for the commands that the agent runs.
_HARNESS_MARKERS = (
    "CLAUDE_CODE_SESSION_ID",
    "CODEX_THREAD_ID",
    "GEMINI_SESSION_ID",
    "OPENCODE_SESSION_ID",
    "CURSOR_TRACE_ID",
)
_NAME_MAX = 200
_UNRECORDED_BYTES_MAX = 32 << 20


def _named(name: object, rule: str) -> SessionInfo:
    if not isinstance(name, str) or not name.strip() or len(name) > _NAME_MAX or "\0" in name:
        raise UsageError(f"a session name has 1 to {_NAME_MAX} characters, none of them NUL")
    if any("\ud800" <= c <= "\udfff" for c in name):
        # What a byte that is no UTF-8 becomes; the records could not be written with it.
        raise UsageError("a session name is text: UTF-8")
    if name == "outside":
        raise UsageError('"outside" is what foreign edits are called; choose another name')
    return SessionInfo(name, "named", rule)


def _process_session() -> SessionInfo:
    me = process_identity(os.getpid())
    started = me.started if me else 0
    return SessionInfo(f"process-{os.getpid()}-{started}", "process", "this process")


def library_session(
    explicit: str | None, environment: Mapping[str, str] | None = None
) -> SessionInfo:
    """Who a Python program is: the given name, COHERENT_SESSION, or its process."""
    values = os.environ if environment is None else environment
    if explicit is not None:
        return _named(explicit, "given explicitly")
    if values.get(VARIABLE):
        return _named(values[VARIABLE], f"environment variable {VARIABLE}")
    return _process_session()


def resolve_shell_session(explicit: str | None, sidecar_directory: str) -> SessionInfo:
    """Who a shell command is, by the first rule that matches.

    The name given; COHERENT_SESSION; the marker of an agent harness; an
    ancestor process that has this volume open under a name; the parent process.
    Two shells are two sessions. A subshell is not its parent: two background
    subshells of one script would share one view and could lose each other's work.
    """
    if explicit is not None or os.environ.get(VARIABLE):
        return library_session(explicit)
    for marker in _HARNESS_MARKERS:
        if os.environ.get(marker):
            return _named(
                f"{marker.split('_')[0].lower()}-{os.environ[marker]}"[:_NAME_MAX],
                f"environment variable {marker}",
            )
    open_here = {
        entry["pid"]: entry
        for entry in presences(sidecar_directory)
        if entry["alive"] and entry["kind"] == "named" and entry["boot"] == boot_id()
    }
    for pid in ancestors(os.getpid()) if open_here else ():
        found = open_here.get(pid)
        who = process_identity(pid)
        if found and who and who.started == found["started"]:
            return _named(str(found["session"]), f"ancestor process {pid}")
    parent = process_identity(os.getppid())
    if parent is None:
        return _process_session()
    return _named(f"parent-{parent.pid}-{parent.started}", f"{GUESSED} {parent.pid}")


class Unrecorded:
    """Content that this process was shown and that the records do not have.

    A file that was never committed is read without any record of it. If it is
    then edited from outside, this is the only place that still has what the
    session saw, for the diff and the merge of its refusal.
    """

    def __init__(self) -> None:
        self._contents: dict[Digest, bytes] = {}
        self._bytes = 0

    def get(self, digest: Digest) -> bytes | None:
        """The content with this *digest*, if it is remembered."""
        return self._contents.get(digest)

    def keep(self, digest: Digest, data: bytes) -> None:
        """Remember *data*, at the expense of what was remembered first."""
        # Two threads may cross here; then one content is forgotten too early.
        if len(data) > _UNRECORDED_BYTES_MAX // 2 or digest in self._contents:
            return
        self._contents[digest] = data
        self._bytes += len(data)
        while self._bytes > _UNRECORDED_BYTES_MAX:
            oldest = next(iter(self._contents), None)
            gone = None if oldest is None else self._contents.pop(oldest, None)
            self._bytes = 0 if gone is None else self._bytes - len(gone)


class Session:
    """One session as one process takes part in it."""

    def __init__(self, info: SessionInfo, sidecar: Sidecar) -> None:
        self.info = info
        self._sidecar = sidecar
        # What this very process was shown, by key. For a named session the
        # sidecar may know more (another process of the same name read on), but
        # what this process derives its writes from is what it saw itself.
        self.seen_here: dict[ArtifactKey, SeenRow] = {}
        self.unrecorded = Unrecorded()
        # The heads that notes told of in this process.
        self.told: dict[ArtifactKey, int] = {}

    @property
    def name(self) -> str:
        """The session's name, as peers see it."""
        return self.info.name

    @property
    def observer(self) -> str | None:
        """The name under which observations are kept in the sidecar, if they are."""
        return self.info.name if self.info.kind == "named" else None

    def seen(self, key: ArtifactKey) -> SeenRow | None:
        """What this session last saw of *key*, or None."""
        found = self.seen_here.get(key)
        if found is None and self.info.kind == "named":
            found = self._sidecar.observation(self.info.name, key)
        return found

    def all_seen(self) -> dict[ArtifactKey, SeenRow]:
        """Everything that this session has seen."""
        if self.info.kind == "named":
            return {**dict(self._sidecar.observations(self.info.name)), **self.seen_here}
        return dict(self.seen_here)

    def become_child(self) -> None:
        """Take a new identity in a forked child, unless the session has a name."""
        self.seen_here.clear()
        self.unrecorded = Unrecorded()
        self.told.clear()
        if self.info.kind == "process":
            self.info = _process_session()


# ── presence ─────────────────────────────────────────────────────────────────


def announce(sidecar_directory: str, token: str, info: SessionInfo) -> Presence:
    """Make this process's life visible to its peers until it ends."""
    me = process_identity(os.getpid())
    text = json.dumps(
        {
            "session": info.name,
            "kind": info.kind,
            "pid": os.getpid(),
            "started": me.started if me else 0,
            "boot": boot_id(),
            "command": command_of(os.getpid()),
        }
    )
    return Presence(os.path.join(sidecar_directory, "sessions", token), text)


def presences(sidecar_directory: str) -> list[dict[str, object]]:
    """Every announced process, with ``alive`` and ``token``; the dead are removed."""
    folder = os.path.join(sidecar_directory, "sessions")
    found: list[dict[str, object]] = []
    try:
        tokens = sorted(os.listdir(folder))
    except OSError:
        return found
    for token in tokens:
        path = os.path.join(folder, token)
        if token.endswith(".new"):
            continue
        alive = is_present(path)
        entry: dict[str, object] = {}
        with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
            entry = json.load(file)
        if {"session", "kind", "pid", "started", "boot", "command"} <= entry.keys():
            found.append({**entry, "alive": alive, "token": token})
        if not alive:
            # Its process is gone for good: tokens are never used twice.
            with contextlib.suppress(OSError):
                os.unlink(path)
    return found
