"""The error tree, arranged by what the caller does next.

Owns every exception that the package raises on purpose. Knows neither errno
nor exit codes: each edge (the command line, the mount) keeps one table of its
own, and a test proves that every leaf stands in both.

    CoherenceError
    ├── ConflictError       refused, nothing changed: reacquire, derive again
    ├── UnavailableError    not attempted, nothing changed: wait, call again
    ├── UnconfirmedError    outcome unknown: ask for the status first
    ├── NotFoundError       no such artifact: create it, or correct the path
    ├── UsageError          the caller's mistake: correct the call
    └── DamagedError        stop and keep the evidence: run a check

An ``except`` on a branch is always right for its leaves. Every error carries
its fields as attributes, survives pickling, and renders the same text for the
same situation: no clock reading and no counter ever enters a message, because
agents retry more often on text that changes.
"""

from __future__ import annotations

import errno
import os
from typing import Any, ClassVar

__all__ = [
    "AlreadyExistsError",
    "BusyError",
    "ClosedError",
    "CoherenceError",
    "ConfigurationError",
    "ConflictError",
    "DamagedError",
    "FencedError",
    "ForeignEditError",
    "GenerationNotKeptError",
    "LeasedError",
    "LinkedArtifactError",
    "NotFoundError",
    "NotManagedError",
    "NotObservedError",
    "NotPermittedError",
    "NotRegularFileError",
    "OutsideRootError",
    "SchemaVersionError",
    "StaleGenerationError",
    "StorageError",
    "SymlinkError",
    "UnavailableError",
    "UnconfirmedError",
    "UnsupportedFilesystemError",
    "UsageError",
    "from_os_error",
    "printable",
]


class CoherenceError(Exception):
    """Base of every error of this package.

    ``reason`` is a stable slug for programs, ``path`` the artifact (or None),
    ``advice`` one sentence that tells the next step, ``fields`` whatever else
    the leaf knows; each field can also be read as an attribute.
    """

    reason: ClassVar[str] = "error"
    default_advice: ClassVar[str] = ""

    def __init__(
        self, message: str, *, path: str | None = None, advice: str | None = None, **fields: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.advice = self.default_advice if advice is None else advice
        self.fields: dict[str, Any] = fields

    def __getattr__(self, name: str) -> Any:
        # Reached only when ordinary lookup fails. `fields` itself may be
        # absent while pickle rebuilds the object, hence the look in __dict__.
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        text = self.message
        if self.path is not None:
            text = f"{printable(self.path)}: {text}"
        return f"{text}\n{self.advice}" if self.advice else text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.path, self.advice, self.fields))

    def as_dict(self) -> dict[str, Any]:
        """The error as plain values, the same for the same situation."""
        return {
            "error": type(self).__name__,
            "reason": self.reason,
            "path": self.path,
            "message": self.message,
            "advice": self.advice,
            **self.fields,
        }


def _rebuild(
    kind: type[CoherenceError],
    message: str,
    path: str | None,
    advice: str,
    fields: dict[str, Any],
) -> CoherenceError:
    return kind(message, path=path, advice=advice, **fields)


def printable(text: str) -> str:
    """*text* with control characters and undecodable bytes made visible.

    Names and session labels come from other parties; a terminal must never
    obey an escape sequence that one of them contains.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


# ── refused: nothing changed, the refused content is kept ────────────────────


class ConflictError(CoherenceError):
    """The write was not derived from the artifact's current generation.

    Nothing that a peer can see has changed. ``kept`` names the file that holds
    the refused content (None when there was none, as in a delete). ``report``
    is the ConflictReport, once the refusal is told to a caller.
    """

    reason = "conflict"
    default_advice = "Read it again (reacquire), derive your change anew, and write."

    def keep(self, kept: str | None) -> None:
        """Note where the refused content is kept (a path below the root)."""
        self.fields["kept"] = kept

    def __str__(self) -> str:
        text = super().__str__()
        kept, report = self.fields.get("kept"), self.fields.get("report")
        members = self.fields.get("kept_members") or {}
        if kept:
            text += f"\nYour content is kept in {kept}"
        text = "\n".join([text, *(f"and in {name}" for name in members.values() if name != kept)])
        return text if report is None else f"{text}\n{report.details()}"

    def as_dict(self) -> dict[str, Any]:
        """The error and its report as plain values."""
        values = super().as_dict()
        report = values.get("report")
        return values if report is None else {**values, "report": report.as_dict()}


class StaleGenerationError(ConflictError):
    """A peer committed since this session looked: ``base``, ``current``, ``by``."""

    reason = "stale_generation"


class NotObservedError(ConflictError):
    """The artifact exists and this session has never read it: ``current``."""

    reason = "not_observed"
    default_advice = "Read it first; or pass overwrite if you mean to replace content unseen."


class FencedError(ConflictError):
    """The session's ownership epoch is behind: ``held``, ``current``.

    Its lease was reclaimed or broken meanwhile, so it must not commit even
    though the generation stood still.
    """

    reason = "fenced"


class ForeignEditError(ConflictError):
    """Somebody edited the file from outside: ``base``, ``current``.

    Their bytes are the generation ``current``. When the edit raced a commit,
    ``committed`` names the generation that holds this writer's bytes.
    """

    reason = "foreign_edit"


class AlreadyExistsError(ConflictError, FileExistsError):
    """The name to be created is taken: ``current``."""

    reason = "already_exists"
    default_advice = "Read it and write, or choose another name."


# ── not attempted: nothing changed ───────────────────────────────────────────


class UnavailableError(CoherenceError):
    """Not attempted; nothing changed. Wait and call again."""

    reason = "unavailable"
    default_advice = "Nothing was changed; try again in a moment."


class LeasedError(UnavailableError):
    """A peer holds a live lease: ``holder``, ``since``, ``until``."""

    reason = "leased"


class BusyError(UnavailableError):
    """A lock or the file itself stayed in use for too long: ``holder``."""

    reason = "busy"


class StorageError(UnavailableError):
    """The operating system refused a step: disk full, too many open files, I/O.

    ``errno`` is the system's number and ``step`` what was being done.
    """

    reason = "storage"
    default_advice = "Nothing was changed. Free space or resources, then try again."


class UnsupportedFilesystemError(UnavailableError):
    """The root lies on a file system without coherent locks: ``filesystem``."""

    reason = "unsupported_filesystem"
    default_advice = "Move the volume to a local file system (ext4, xfs, btrfs, tmpfs)."


# ── outcome unknown ──────────────────────────────────────────────────────────


class UnconfirmedError(CoherenceError):
    """The commit may or may not stand: ``generation`` is the one it would be."""

    reason = "unconfirmed"
    default_advice = "Ask for the status of the artifact before anything else."


# ── nothing there ────────────────────────────────────────────────────────────


class NotFoundError(CoherenceError, FileNotFoundError):
    """No such artifact: it never existed, or ``generation`` deleted it."""

    reason = "not_found"
    default_advice = "Check the path, or create it."


class GenerationNotKeptError(NotFoundError):
    """The generation is pruned or was never made: ``generation``, ``oldest``, ``newest``.

    The last two are the generations that remain, None where none does.
    """

    reason = "generation_not_kept"
    default_advice = "List the generations that are kept: coherent log PATH"


# ── the caller's mistake ─────────────────────────────────────────────────────


class UsageError(CoherenceError, ValueError):
    """The call cannot mean anything; correct it."""

    reason = "usage"
    default_advice = "Nothing was changed. Correct the call."


class NotManagedError(UsageError):
    """The path matches none of the volume's managed globs: ``managed``."""

    reason = "not_managed"
    default_advice = "Add a glob to managed in .coherence/config.toml, or use ordinary file calls."


class OutsideRootError(UsageError):
    """The path leads out of the volume's root."""

    reason = "outside_root"
    default_advice = "Name a path below the root; links that lead out of it are not followed."


class SymlinkError(OutsideRootError):
    """A symbolic link stands in the way and was not followed."""

    reason = "symbolic_link"
    default_advice = "Name the link's target, or move the link away."


class NotPermittedError(UsageError):
    """The operating system denies access, or the file system is read-only."""

    reason = "not_permitted"
    default_advice = "Nothing was changed. Check owner, mode and mount options."


class NotRegularFileError(UsageError):
    """Something other than a regular file bears the name: ``found``."""

    reason = "not_a_regular_file"
    default_advice = "Only regular files are artifacts. Move it away, then read again."


class LinkedArtifactError(UsageError):
    """The file has several hard links: ``links``. A commit would split them."""

    reason = "hard_linked"
    default_advice = "Give the artifact a file of its own: cp PATH PATH.new && mv PATH.new PATH"


class ConfigurationError(UsageError):
    """The volume's configuration is wrong or differs from what was asked."""

    reason = "configuration"
    default_advice = "Correct .coherence/config.toml."


class ClosedError(UsageError):
    """The volume (or the file object) is closed."""

    reason = "closed"
    default_advice = "Open it again."


# ── damaged ──────────────────────────────────────────────────────────────────


class DamagedError(CoherenceError):
    """The records contradict the disk or themselves; nothing is guessed."""

    reason = "damaged"
    default_advice = "Keep the directory as it is and run: coherent check --repair"


class SchemaVersionError(DamagedError):
    """A newer program wrote the sidecar: ``schema``, ``known``."""

    reason = "newer_schema"
    default_advice = "Nothing is broken: install the newer coherent-volume that wrote it."


# ── from the operating system ────────────────────────────────────────────────

_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MISPLACED = frozenset({errno.ENOTDIR, errno.EISDIR})


def from_os_error(error: OSError, path: str | None, step: str) -> CoherenceError:
    """The error of this package for an *error* of the system before any commit.

    Nothing was changed: every caller raises it before the commit point.
    """
    number = error.errno
    reason = os.strerror(number) if number else str(error)
    if number in _DENIED:
        return NotPermittedError(f"could not {step}: {reason}", path=path, errno=number)
    if number == errno.ENAMETOOLONG:
        return UsageError(
            f"could not {step}: {reason}",
            path=path,
            advice="A name has at most 255 bytes, a path at most 4095.",
        )
    if number in (errno.EXDEV, errno.ELOOP):
        return OutsideRootError("a link or a mount on the way leads elsewhere", path=path)
    if number == errno.EBADF:
        return ClosedError("the volume was closed by another thread", path=path)
    if number in _MISPLACED:
        return NotRegularFileError(f"could not {step}: {reason}", path=path, found="a directory")
    return StorageError(f"could not {step}: {reason}", path=path, step=step, errno=number)
