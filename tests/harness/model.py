"""The volume as it ought to be, in memory, in one process, with nothing to crash.

The state machine of ``test_model`` does the same things to a real volume and to
this one, and compares. It says *what* must come out; which exact error of two
that fit may be told is left open where the protocol leaves it open.

An outsider's edit changes what is visible at once; it becomes a generation when
the next visitor comes (``settle``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Artifact", "Outcome", "Verdict", "VolumeModel"]

Verdict = Literal[
    "done",
    "unchanged",
    "stale",
    "foreign edit",
    "not observed",
    "exists",
    "not found",
]


@dataclass
class Artifact:
    """One name: its generations by number (None: deleted), and who made the last."""

    visible: bytes | None = None
    contents: dict[int, bytes | None] = field(default_factory=lambda: {0: None})
    head: int = 0
    foreign_head: bool = False
    registered: bool = False
    """Whether the volume has a record of it; before that, all edits stay generation 0."""

    @property
    def content(self) -> bytes | None:
        """What the head holds."""
        return self.contents[self.head]

    def settle(self) -> None:
        """What the next visitor does: an outsider's edit becomes a generation."""
        if self.visible == self.content:
            return
        if self.registered:
            self.head += 1
        self.contents[self.head] = self.visible
        self.foreign_head = True

    def advance(self, content: bytes | None) -> None:
        """A commit."""
        self.registered = True
        self.head += 1
        self.contents[self.head] = self.visible = content
        self.foreign_head = False


@dataclass(frozen=True)
class Outcome:
    """What must come out: any one of ``verdicts``, and when done this generation."""

    verdicts: frozenset[Verdict]
    generation: int | None = None
    content: bytes | None = None


def _outcome(*verdicts: Verdict, of: Artifact | None = None) -> Outcome:
    if of is None:
        return Outcome(frozenset(verdicts))
    return Outcome(frozenset(verdicts), of.head, of.content)


@dataclass(frozen=True)
class View:
    """What a session saw last: a number and a content."""

    generation: int
    content: bytes | None


class VolumeModel:
    """Artifacts by path, and what each session saw of them. All sessions have names."""

    def __init__(self) -> None:
        self.artifacts: dict[str, Artifact] = {}
        self.views: dict[tuple[str, str], View] = {}

    def artifact(self, path: str) -> Artifact:
        """The artifact at *path*, settled, as any operation finds it."""
        found = self.artifacts.setdefault(path, Artifact())
        found.settle()
        return found

    # ── outsiders ────────────────────────────────────────────────────────────

    def edit_from_outside(self, path: str, content: bytes | None) -> None:
        """An outsider saves (or removes, with None)."""
        self.artifacts.setdefault(path, Artifact()).visible = content

    # ── sessions ─────────────────────────────────────────────────────────────

    def read(self, session: str, path: str) -> Outcome:
        """A read renews the view, also when it finds nothing."""
        artifact = self.artifact(path)
        if artifact.content is None:
            if artifact.registered:
                self._see(session, path)
            else:
                self.views.pop((session, path), None)
            return _outcome("not found")
        artifact.registered = True  # a named session's view needs a record to refer to
        self._see(session, path)
        return _outcome("done", of=artifact)

    def write(
        self,
        session: str,
        path: str,
        content: bytes,
        base: View | None = None,
        *,
        overwrite: bool = False,
    ) -> Outcome:
        """Compare and swap against *base*, or else against what the session saw."""
        artifact = self.artifact(path)
        refusal = None if overwrite else self._refusal(session, path, artifact, base)
        return refusal or self._commit(session, path, artifact, content)

    def create(self, session: str, path: str, content: bytes) -> Outcome:
        """A new name, whatever the session saw there before."""
        artifact = self.artifact(path)
        if artifact.content is not None:
            return _outcome("exists")
        return self._commit(session, path, artifact, content)

    def delete(self, session: str, path: str, *, overwrite: bool = False) -> Outcome:
        """The generation that says "deleted"."""
        artifact = self.artifact(path)
        if artifact.content is None:
            view = self.views.get((session, path))
            saw_it = view is not None and view.content is not None and not overwrite
            return _outcome("stale", "foreign edit") if saw_it else _outcome("not found")
        refusal = None if overwrite else self._refusal(session, path, artifact, None)
        return refusal or self._commit(session, path, artifact, None)

    def append(self, session: str, path: str, tail: bytes) -> Outcome:
        """Derived from the head, made if there is none; a stale view stays as it was."""
        artifact = self.artifact(path)
        renews = self._is_current(session, path, artifact)
        return self._commit(
            session, path, artifact, (artifact.content or b"") + tail, renews=renews
        )

    def update(self, session: str, path: str, suffix: bytes) -> Outcome:
        """The function was handed the head, so the view is current afterwards."""
        artifact = self.artifact(path)
        if artifact.content is None:
            return _outcome("not found")
        return self._commit(session, path, artifact, artifact.content + suffix)

    def rename(self, session: str, source: str, target: str) -> Outcome:
        """A deletion here and a creation there, both or none."""
        here, there = self.artifact(source), self.artifact(target)
        if here.content is None:
            return _outcome("not found")
        refusal = self._refusal(session, source, here, None)
        if refusal is not None and there.content is not None:
            return Outcome(refusal.verdicts | {"exists"})
        if refusal is not None:
            return refusal
        if there.content is not None:
            return _outcome("exists")
        content = here.content
        self._commit(session, source, here, None)
        return self._commit(session, target, there, content)

    def transaction(
        self, session: str, reads: list[str], writes: dict[str, bytes | None]
    ) -> dict[str, Outcome]:
        """All of *writes* (None: a deletion) after *reads*, or the refusals of those that fail.

        What was read counts as read either way. The outcome is that of each
        member, or of those any of which refuses all.
        """
        for path in reads:
            self.read(session, path)
        refusals = {}
        for path, content in writes.items():
            artifact = self.artifact(path)
            refusal = None if path in reads else self._refusal(session, path, artifact, None)
            if refusal is None and content is None and artifact.content is None:
                refusal = _outcome("not found")
            if refusal is not None:
                refusals[path] = refusal
        return refusals or {
            path: self._commit(session, path, self.artifact(path), content)
            for path, content in writes.items()
        }

    def reacquire(self, session: str) -> tuple[set[str], set[str]]:
        """(paths whose view was stale, paths whose number only was); all are read now."""
        stale, renumbered = set(), set()
        for (name, path), view in list(self.views.items()):
            if name != session:
                continue
            artifact = self.artifact(path)
            if not self._is_current(session, path, artifact):
                stale.add(path)
            elif view.generation != artifact.head:
                renumbered.add(path)
            self.read(session, path)
        return stale, renumbered

    def is_current(self, session: str, path: str) -> bool:
        """Whether ``state`` says S: the session saw what is there, or that nothing is."""
        return self._is_current(session, path, self.artifact(path))

    # ── rules ────────────────────────────────────────────────────────────────

    def _is_current(self, session: str, path: str, artifact: Artifact) -> bool:
        view = self.views.get((session, path))
        # Equal content is as good as the same number.
        return view is not None and view.content == artifact.content

    def _refusal(
        self, session: str, path: str, artifact: Artifact, base: View | None
    ) -> Outcome | None:
        view = base or self.views.get((session, path))
        if view is None:
            return None if artifact.content is None else _outcome("not observed")
        if view.content == artifact.content:
            return None
        return _outcome("foreign edit" if artifact.foreign_head else "stale")

    def _commit(
        self,
        session: str,
        path: str,
        artifact: Artifact,
        content: bytes | None,
        *,
        renews: bool = True,
    ) -> Outcome:
        changed = content != artifact.content
        if changed:
            artifact.advance(content)
        if renews:
            artifact.registered = True
            self._see(session, path)
        return _outcome("done" if changed else "unchanged", of=artifact)

    def _see(self, session: str, path: str) -> None:
        artifact = self.artifacts[path]
        self.views[session, path] = View(artifact.head, artifact.content)
