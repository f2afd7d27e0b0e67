"""The fence: what a session may do to an artifact, and the commits that do it.

Owns every decision of the mount over managed files: admission before anything
happens, the commit of what was written, refusals with their errno, their reason
and the kept content. It is a client of the commit protocol and adds none of its
own: whatever it decides is judged again under the gate. Knows no node and no
handle.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from coherent_volume import operations
from coherent_volume.commit import commit
from coherent_volume.errors import (
    CoherenceError,
    ConflictError,
    FencedError,
    ForeignEditError,
    StaleGenerationError,
    UnavailableError,
    UsageError,
    printable,
)
from coherent_volume.files import Fingerprint, drop_lease
from coherent_volume.gating import settled_heads
from coherent_volume.judgement import Intent, judge
from coherent_volume.merge import MERGE_BYTES_MAX, keeps_every_hunk
from coherent_volume.merging import commit_or_merge, gathered
from coherent_volume.model import ArtifactKey, Commit, Digest
from coherent_volume.ownership import refuse_if_leased
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.reading import Reading, read, reading_open
from coherent_volume.recall import content_seen
from coherent_volume.records import SeenRow
from coherent_volume.recovery import Head
from coherent_volume.report import Refusal, explain, stored
from fuse_mount.claims import OVERWRITE, Claim, Claims
from fuse_mount.credit import Credit
from fuse_mount.errnos import errno_of
from fuse_mount.keeping import Content, copy_to_refused, keep_by
from fuse_mount.nodes import no_such
from fuse_mount.outcomes import before_commit, is_half, of_half
from fuse_mount.reasons import Reasons

__all__ = ["PATH_MAX", "Fence", "Options", "seen_of"]

_log = logging.getLogger("coherent_volume")
_MANAGED_MAX = 100_000
PATH_MAX = 4096


@dataclass(frozen=True, slots=True)
class Options:
    """How a mount deals with its session's saves."""

    refused_errno: int = errno.EACCES
    observe: bool = False
    """Refuse nothing, but note what would have been refused."""
    reflex_s: float = 0.5
    hold_s: float = 0.2
    """How long a deletion waits for the content that may follow it."""


class Fence:
    """The rules of one session over one volume."""

    def __init__(self, parts: VolumeParts, options: Options, nudge: Callable[[], None]) -> None:
        self.parts = parts
        self.options = options
        self._nudge = nudge
        self.credit = Credit(parts, options.reflex_s)
        self.claims = Claims(parts, self.credit)
        folder = os.path.join(parts.directory, "mounts")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.reasons = Reasons(
            os.path.join(folder, f"{parts.staging.token}.refusals"), observing=options.observe
        )
        self.known: dict[ArtifactKey, tuple[Fingerprint, SeenRow]] = {}
        """Files that were found to be generations, so that they are opened without a look
        at the records. Not after a refusal: ownership may change while the file does not."""
        self._managed: dict[bytes, bool] = {}
        # The kernel cuts a program's name off after 15 bytes.
        self._uncredited = frozenset(each[:15] for each in parts.config.uncredited)

    def manages(self, path: bytes) -> bool:
        """Whether *path*, below the root, names an artifact."""
        found = self._managed.get(path)
        if found is None:
            key = ArtifactKey(path)
            # The system opens no path of PATH_MAX bytes below the root: nothing
            # there can be an artifact, and a plain file it can be.
            found = len(path) < PATH_MAX and self.parts.globs.matches(key)
            if found:
                with contextlib.suppress(UsageError):
                    self.parts.root.refuse_volumes_inside(key)
                    return self._remember(path, managed=True)
            return self._remember(path, managed=False)
        return found

    def _remember(self, path: bytes, *, managed: bool) -> bool:
        if len(self._managed) >= _MANAGED_MAX:
            self._managed.clear()
        self._managed[path] = managed
        return managed

    def uncredited(self, program: str) -> bool:
        """Whether *program* reads without showing anything to anybody."""
        return program in self._uncredited

    # ── refusals ─────────────────────────────────────────────────────────────

    def refusal(
        self, key: ArtifactKey, operation: str, error: CoherenceError, claim: Claim | None = None
    ) -> OSError:
        """The error of the system for *error*; its reason is noted, reflex reads are void.

        *claim* is what the refused operation rested on.
        """
        if claim is not None and is_half(claim.base) and isinstance(error, ConflictError):
            error, claim = of_half(key, error), None
        number = errno_of(error, operation, self.options.refused_errno)
        self.known.pop(key, None)
        if isinstance(error, ConflictError | UnavailableError):
            if isinstance(error, ConflictError):
                self._explain(key, operation, error, claim)
            self.reasons.note(key, operation, error)
            self.credit.void(key)
        else:
            _log.info("%s: %s", printable(shown(key)), error)
        return no_such(number)

    def _explain(
        self, key: ArtifactKey, operation: str, error: ConflictError, claim: Claim | None
    ) -> None:
        """Give *error* its report, where no commit has done so."""
        if "report" in error.fields:
            return
        base = self.parts.session.seen(key) if claim is None else claim.base
        asked = Refusal(
            key,
            error.reason,
            error.message,
            base,
            None if isinstance(error, FencedError) else error.fields.get("current"),
            kept=error.fields.get("kept"),
            withheld=operation not in ("unlink", "delete") and not error.fields.get("kept"),
        )
        # Whoever is refused tries again, often many times. The same situation has the
        # same report; and the one that names content of this session stays.
        last = stored(self.parts, key)
        told = (asked.reason, asked.cause, base.generation if base else None)
        same = (
            last is not None
            and (last.reason, last.cause, last.base) == told
            and asked.kept in (None, last.kept)
            and asked.head in (None, last.head)
        )
        error.fields["report"] = last if same else explain(self.parts, asked)

    def _resolves(self, key: ArtifactKey) -> bool:
        """Whether a stale save of *key* is merged, so that it is not refused at its open."""
        return self.parts.rules.on_conflict(key) == "merge"

    def _tolerates(self, key: ArtifactKey, operation: str, error: CoherenceError) -> bool:
        """Whether a refusal is only to be observed; it is noted then."""
        if not self.options.observe or not isinstance(error, ConflictError):
            return False
        self.known.pop(key, None)
        self.reasons.note(key, operation, error)
        return True

    # ── admission ────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def admitted(
        self, key: ArtifactKey, claim: Claim, operation: str, *, deletes: bool = False
    ) -> Iterator[Head]:
        """The head, held under the gate, if *claim* may follow it; else the refusal.

        A claim that is to be judged by content is let through here unless a
        peer has the lease.
        """
        try:
            with settled_heads(self.parts, [key]) as (head,):
                self._judge(key, claim, operation, head, deletes=deletes)
                yield head
        except CoherenceError as error:
            raise self.refusal(key, operation, error, claim) from error

    def _judge(
        self, key: ArtifactKey, claim: Claim, operation: str, head: Head, *, deletes: bool
    ) -> None:
        if claim.by_content is not None and claim.by_content.digest == head.digest and not deletes:
            refuse_if_leased(self.parts, head.row, key)
            return
        if self._resolves(key) and not deletes:
            refuse_if_leased(self.parts, head.row, key)
            return
        content = None if deletes else b""
        try:
            judge(self.parts, Intent(key, operation, content, claim.expectation, claim.base), head)
        except ConflictError as error:
            if not self._tolerates(key, operation, error):
                raise

    # ── commits ──────────────────────────────────────────────────────────────

    def save(
        self,
        key: ArtifactKey,
        claim: Claim,
        content: Callable[[], Content],
        operation: str,
        *,
        process: int = 0,
        attributes_of: ArtifactKey | None = None,
        keep: Callable[[], str] | None = None,
    ) -> Commit:
        """Make *content* the next generation of *key*, or refuse and keep it.

        *keep* moves it to ``refused/``; without, it is copied there.
        """
        try:
            with before_commit(key, operation):
                done = self._saved(key, claim, content, operation, attributes_of)
        except CoherenceError as error:
            keep_by(
                keep or (lambda: copy_to_refused(self.parts, key, claim.base, content)), key, error
            )
            raise self.refusal(key, operation, error, claim) from error
        self._committed(key, done, process, renews=not done.merged)
        return done

    def _saved(
        self,
        key: ArtifactKey,
        claim: Claim,
        content: Callable[[], Content],
        operation: str,
        attributes_of: ArtifactKey | None,
    ) -> Commit:
        def intended(kind: Claim, *, keep: bool, renew: bool = True) -> Intent:
            return Intent(
                key,
                "write",
                content(),
                kind.expectation,
                kind.base,
                renews_view=renew,
                keep_refused=keep,
                attributes_of=attributes_of,
            )

        def attempt(kind: Claim, *, keep: bool, renew: bool = True) -> Commit:
            return commit(self.parts, [intended(kind, keep=keep, renew=renew)])[0]

        if claim.by_content is not None and self._keeps(key, claim, content()):
            try:
                # The tool saw the peers' lines, its user did not: the view stays.
                return attempt(Claim(claim.by_content), keep=False, renew=False)
            except (StaleGenerationError, ForeignEditError) as error:
                if "committed" in error.fields:
                    raise  # an outside edit raced it; it stands in the history
        try:
            if self._resolves(key) and not self.options.observe:
                pending = intended(claim, keep=True)
                if not isinstance(pending.content, bytes | None):
                    pending.content = gathered(pending.content)
                return commit_or_merge(self.parts, pending)
            return attempt(claim, keep=not self.options.observe)
        except ConflictError as error:
            if not self._tolerates(key, operation, error):
                raise
            return attempt(OVERWRITE, keep=False)

    def _keeps(self, key: ArtifactKey, claim: Claim, pending: Content) -> bool:
        """Whether *pending* keeps everything that peers did between base and head."""
        reading, data = operations.content_now(self.parts, key)
        base, seen = claim.base, claim.by_content
        if base is None or seen is None or reading.seen.digest != seen.digest:
            return False
        if not isinstance(pending, bytes) or reading.seen.epoch > base.epoch:
            return False
        old = content_seen(self.parts, key, base, MERGE_BYTES_MAX).data
        return old is not None and keeps_every_hunk(old, data, pending)

    def append(
        self,
        key: ArtifactKey,
        claim: Claim,
        data: Callable[[], bytes],
        keep: Callable[[], str],
        process: int,
    ) -> Commit:
        """Add *data* at the end, whatever is there; nobody's work can be lost by it.

        *keep* moves what cannot be added to ``refused/``.
        """
        try:
            with before_commit(key, "append"):
                done = operations.append(self.parts, key, data())
        except CoherenceError as error:
            keep_by(keep, key, error)
            raise self.refusal(key, "append", error, claim) from error
        self._committed(key, done, process, renews=False)
        self.credit.note_appended(key, done.base, seen_of(done), process)
        return done

    def delete(self, claims: dict[ArtifactKey, Claim]) -> list[ArtifactKey]:
        """Make the next generation of each artifact a deletion; those that were refused."""
        try:
            commit(self.parts, [_deletion(key, claim) for key, claim in claims.items()])
        except CoherenceError as error:
            if len(claims) > 1:
                # One of them stands in the way of all: one at a time.
                return [k for key, claim in claims.items() for k in self.delete({key: claim})]
            ((key, claim),) = claims.items()
            if self._tolerates(key, "delete", error):
                return self.delete({key: OVERWRITE}) if claim is not OVERWRITE else [key]
            self.refusal(key, "delete", error, claim)
            return [key]
        for key in claims:
            self.reasons.settled(key)
        self._nudge()
        return []

    def swap(
        self,
        intents: Sequence[tuple[ArtifactKey, Claim, Content, ArtifactKey | None]],
        process: int,
    ) -> dict[ArtifactKey, SeenRow]:
        """Commit several contents as one: all or none; what whoever did it has seen with it."""
        wanted = [
            Intent(key, "rename", data, claim.expectation, claim.base, attributes_of=source)
            for key, claim, data, source in intents
        ]
        try:
            commits = commit(self.parts, wanted)
        except CoherenceError as error:
            for key, *_ in intents:
                self.known.pop(key, None)
            raise self.refusal(intents[0][0], "rename", error) from error
        for intent, done in zip(wanted, commits, strict=True):
            self._committed(intent.key, done, process)
        return {each.key: seen_of(done) for each, done in zip(wanted, commits, strict=True)}

    def _committed(
        self, key: ArtifactKey, done: Commit, process: int, *, renews: bool = True
    ) -> None:
        self.reasons.settled(key)
        if renews:
            self.credit.note_commit(key, seen_of(done), process)
        self._nudge()

    def keep_aside(
        self, key: ArtifactKey, claim: Claim, keep: Callable[[], str], error: ConflictError
    ) -> None:
        """Keep content that will not be saved, by *keep*, and note why."""
        keep_by(keep, key, error)
        self._explain(key, "write", error, claim)
        self.reasons.note(key, "write", error)

    # ── reading ──────────────────────────────────────────────────────────────

    def open_generation(self, key: ArtifactKey) -> tuple[int, Reading]:
        """A descriptor of the current generation, and which one it is."""
        with reading_open(self.parts, key) as (reading, look):
            if not reading.exists:
                raise no_such()
            descriptor = os.dup(look.descriptor)
            drop_lease(descriptor)
            return descriptor, reading

    def state_of(self, key: ArtifactKey) -> tuple[int, int | None, str]:
        """(generation, the session's base, state) of an artifact."""
        seen = read(self.parts, key).seen
        base = self.credit.standing(key, 0).base
        if base is None:
            return seen.generation, None, "I"
        return seen.generation, base.generation, "S" if base.digest == seen.digest else "I"


def seen_of(done: Commit) -> SeenRow:
    """What whoever made the commit *done* has seen with it."""
    return SeenRow(done.generation, Digest(bytes.fromhex(done.digest)), done.epoch)


def _deletion(key: ArtifactKey, claim: Claim) -> Intent:
    return Intent(key, "delete", None, claim.expectation, claim.base)
