"""Random sessions: what the processes in the histories and storms do.

Every function here runs in a worker. The classification of outcomes is written
against the words of the error tree only: a conflict and an unavailable one
changed nothing, an unconfirmed one may have.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from coherent_audit import ABSENT, Recorder, fingerprint
from coherent_volume import (
    CoherentVolume,
    Commit,
    ConflictError,
    ForeignEditError,
    LinkedArtifactError,
    NotFoundError,
    UnavailableError,
    UnconfirmedError,
    points,
)
from tests.harness.editors import signed
from tests.harness.processes import say

__all__ = ["FOREVER_S", "count_up", "live", "write_often"]

FOREVER_S = 3600.0


def _mortal(rng: random.Random, chance: float) -> None:
    """Let this process be killed with that chance at each named point of the protocol.

    Kills at random times seldom meet the short moments between two steps.
    """

    def reached(_: str) -> None:
        if rng.random() < chance:
            os.kill(os.getpid(), signal.SIGKILL)

    if chance:
        points.reached = reached


def write_often(
    root: str,
    path: str,
    session: str,
    seed: int,
    seconds: float = FOREVER_S,
    mortality: float = 0.0,
) -> None:
    """Read and write signed texts; say what was acknowledged, and the text of each attempt.

    A refusal is followed by reading again; the text that was refused is not
    tried a second time.
    """
    rng = random.Random(seed)
    _mortal(rng, mortality)
    end = time.monotonic() + seconds
    with CoherentVolume(root, session=session) as volume:
        say("ready")
        for number in range(1_000_000):
            if time.monotonic() > end:
                break
            token = f"{session}{number:05d}"
            try:
                volume.read(path)
            except (NotFoundError, UnavailableError, LinkedArtifactError) as error:
                say("unread", error=type(error).__name__)
            _think(rng)
            say("tries", token=token)
            try:
                commit = volume.write(path, signed(token))
            except (ConflictError, UnavailableError, LinkedArtifactError) as error:
                _say_refusal(token, error)
            else:
                say("committed", token=token, generation=commit.generation)


def _say_refusal(token: str, error: Exception) -> None:
    committed = getattr(error, "committed", None)
    if isinstance(error, ForeignEditError) and committed is not None:
        # It raced an outsider's edit: the commit stands in the history.
        say("committed", token=token, generation=committed)
    else:
        kept = getattr(error, "kept", None)
        say("refused", token=token, error=type(error).__name__, kept=kept, text=str(error))


def count_up(root: str, path: str, session: str | None, times: int) -> None:
    """Put *times* lines of one's own into the artifact with ``update``; say how it went."""
    name = session or f"process{os.getpid()}"
    with CoherentVolume(root, session=session) as volume:
        say("ready")
        for number in range(times):
            line = f"{name} {number}\n".encode()
            commit = volume.update(path, lambda data, line=line: data + line, retries=10_000)
            say("committed", line=line.decode(), generation=commit.generation)


# ── a recorded life ──────────────────────────────────────────────────────────


class _Life:
    """One session that does random things to a few artifacts and records them."""

    def __init__(
        self, volume: CoherentVolume, recorder: Recorder, seed: int, paths: list[str]
    ) -> None:
        self.volume = volume
        self.paths = paths
        self.recorder = recorder
        self.rng = random.Random(seed)
        self.in_hand: dict[str, str | None] = {}
        """By path: the bytes this session saw last, None where the recorder cannot know."""
        self.written = 0

    def new_text(self) -> bytes:
        self.written += 1
        token = f"{self.volume.session.name} {os.getpid()} {self.written}\n"
        return token.encode() * self.rng.choice([1, 1, 40, 800])

    @contextmanager
    def attempt(self, path: str, content: str | None, **known: Any) -> Iterator[dict[str, Any]]:
        """Record a commit; a refusal by the library ends it quietly."""
        with self.recorder.operation("commit", path, content=content, **known) as learned:
            try:
                yield learned
            except ForeignEditError as error:
                committed = error.fields.get("committed")
                learned["note"] = type(error).__name__
                if committed is None:
                    learned["outcome"] = "refused"
                else:
                    learned["generation"] = committed
                self.in_hand.pop(path, None)
            except (ConflictError, UnavailableError, NotFoundError) as error:
                learned.update(outcome="refused", note=type(error).__name__)
            except UnconfirmedError:
                learned["outcome"] = "unknown"
                self.in_hand.pop(path, None)

    def acknowledge(self, learned: dict[str, Any], commit: Commit, content: str | None) -> None:
        if commit.changed:
            learned.update(generation=commit.generation, base=commit.base)
        else:
            learned.update(kind="read", generation=commit.generation)
        learned["content"] = content
        self.in_hand[commit.path] = content

    # Each method below is one thing to do; ``live`` picks among them.

    def read(self, path: str) -> None:
        with self.recorder.operation("read", path) as learned:
            try:
                # A plain read tells no number, and may be served from memory.
                seen = self.volume.observe(path) if self.rng.random() < 0.5 else None
                data = self.volume.read(path) if seen is None else seen.data
            except NotFoundError as error:
                learned.update(content=ABSENT, generation=error.fields.get("generation"))
                self.in_hand[path] = ABSENT
            except UnavailableError as error:
                learned.update(outcome="refused", note=type(error).__name__)
            else:
                assert data is not None
                content = fingerprint(data)
                learned.update(content=content, generation=seen and seen.generation)
                self.in_hand[path] = content

    def write(self, path: str) -> None:
        if path not in self.in_hand:
            return self.read(path)
        data = self.new_text()
        content = fingerprint(data)
        with self.attempt(path, content, derived_from=self.in_hand[path]) as learned:
            self.acknowledge(learned, self.volume.write(path, data), content)
        return None

    def update(self, path: str) -> None:
        data = self.new_text()
        content = fingerprint(data)

        handed = []

        def derive(before: bytes) -> bytes:
            handed.append(fingerprint(before))
            return data

        with self.attempt(path, content, repeats=True) as learned:
            commit = self.volume.update(path, derive, retries=50)
            learned["derived_from"] = handed[-1]
            self.acknowledge(learned, commit, content)

    def append(self, path: str) -> None:
        with self.attempt(path, None, repeats=True) as learned:
            commit = self.volume.append(path, f"{os.getpid()} appends {self.written}\n")
            self.acknowledge(learned, commit, None)

    def create(self, path: str) -> None:
        data = self.new_text()
        content = fingerprint(data)
        with self.attempt(path, content, derived_from=ABSENT) as learned:
            self.acknowledge(learned, self.volume.create(path, data), content)

    def delete(self, path: str) -> None:
        with self.attempt(path, ABSENT, derived_from=self.in_hand.get(path)) as learned:
            self.acknowledge(learned, self.volume.delete(path), ABSENT)

    def transact(self, path: str) -> None:
        """Read some, write some: what invites write skew, and mixes of two commits."""
        others = [each for each in self.paths if each != path]
        both = [path, self.rng.choice(others)]
        reads = both[: self.rng.choice([1, 2])]
        writes = {each: self.new_text() for each in both[: self.rng.choice([1, 2])]}
        planned = [{"path": p, "content": fingerprint(data)} for p, data in writes.items()]
        seen: dict[str, str] = {}
        with self.recorder.operation("transaction", writes=planned) as learned:
            try:
                with self.volume.transaction() as tx:
                    for each in reads:
                        seen[each] = self._read_in(tx, each)
                    for each, data in writes.items():
                        tx.write(each, data)
            except ForeignEditError as error:
                self._raced(learned, planned, error)
            except (ConflictError, UnavailableError, NotFoundError) as error:
                learned.update(outcome="refused", note=type(error).__name__)
            except UnconfirmedError:
                learned["outcome"] = "unknown"
                self._forget(both)
            else:
                self._transacted(learned, planned, seen, tx.commits)

    def _read_in(self, tx: Any, path: str) -> str:
        try:
            found = fingerprint(tx.read(path))
        except NotFoundError:
            found = ABSENT
        self.in_hand[path] = found
        return found

    def _forget(self, paths: list[str]) -> None:
        for path in paths:
            self.in_hand.pop(path, None)

    def _raced(
        self, learned: dict[str, Any], planned: list[dict[str, Any]], error: ForeignEditError
    ) -> None:
        committed = error.fields.get("committed")
        learned.update(writes=planned, note=type(error).__name__)
        if committed is None:
            learned["outcome"] = "refused"
        made = error.fields.get("members") or {error.path: committed}
        for plan in planned if committed is not None else ():
            plan["generation"] = made[plan["path"]]
        self._forget([plan["path"] for plan in planned])

    def _transacted(
        self,
        learned: dict[str, Any],
        planned: list[dict[str, Any]],
        seen: dict[str, str],
        commits: Sequence[Commit],
    ) -> None:
        by_path = {commit.path: commit for commit in commits}
        for plan in planned:
            commit = by_path[plan["path"]]
            plan.update(generation=commit.generation, base=commit.base)
            if plan["path"] in seen:
                plan["derived_from"] = seen[plan["path"]]
            self.in_hand[plan["path"]] = plan["content"]
        learned["writes"] = planned
        learned["reads"] = [{"path": p, "content": c} for p, c in seen.items()]

    def edit_from_outside(self, path: str) -> None:
        """What an editor does in this same process's stead, whole and renamed."""
        data = self.new_text()
        full = os.path.join(self.volume.root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with self.recorder.operation("foreign", path, content=fingerprint(data)):
            temporary = f"{full}.{os.getpid()}.tmp"
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, full)


def _think(rng: random.Random) -> None:
    # Spreads the sessions' steps; nothing relies on how long it lasts.
    time.sleep(rng.random() * 0.003)


def live(
    root: str,
    log: str,
    seed: int,
    session: str | None,
    paths: list[str],
    seconds: float = FOREVER_S,
    mortality: float = 0.0,
    mix: Sequence[int] = (30, 0),
) -> None:
    """Do random things to *paths* until the time is over, or until killed.

    *mix* is how often it reads, and edits from outside, where it writes 30 times.
    """
    reads, edits = mix
    end = time.monotonic() + seconds
    _mortal(random.Random(seed), mortality)
    with CoherentVolume(root, session=session) as volume:
        life = _Life(volume, Recorder(log, volume.session.name), seed, paths)
        deeds: list[tuple[Callable[[str], None], int]] = [
            (life.read, reads),
            (life.write, 30),
            (life.update, 15),
            (life.append, 6),
            (life.create, 6),
            (life.delete, 3),
            (life.transact, 10),
            (life.edit_from_outside, edits),
        ]
        say("ready")
        while time.monotonic() < end:
            (deed,) = life.rng.choices([d for d, _ in deeds], [weight for _, weight in deeds])
            # The last path has it quiet: what is read there may be served from memory.
            weights = [*[20] * (len(paths) - 1), 2]
            deed(life.rng.choices(paths, weights)[0])
            if life.rng.random() < 0.3:
                _think(life.rng)
        say("done")
