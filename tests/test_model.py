"""Hazard: a sequence of ordinary steps that nobody thought of. The volume against its model."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coherent_volume import (
    AlreadyExistsError,
    CoherentVolume,
    ConflictError,
    ForeignEditError,
    NotFoundError,
    NotObservedError,
    StaleGenerationError,
)
from tests.harness import evidence
from tests.harness.model import Outcome, View, VolumeModel

SESSIONS = st.sampled_from(["alice", "bob"])
PATHS = st.sampled_from(["plans/a", "plans/b"])


class Large(bytes):
    """Kept outside the row; shown in a line of a report all the same."""

    def __repr__(self):
        return f"Large({len(self)} bytes)"


# Few contents, so that equal ones meet.
CONTENTS = st.sampled_from([b"", b"5", b"6", b"seven\n", Large(b"large" * 60_000)])

VERDICTS = {
    StaleGenerationError: "stale",
    ForeignEditError: "foreign edit",
    NotObservedError: "not observed",
    AlreadyExistsError: "exists",
    NotFoundError: "not found",
}


class CoherentMachine(RuleBasedStateMachine):
    """Two named sessions and an outsider at three names."""

    @initialize(stands=st.dictionaries(PATHS, CONTENTS, max_size=2))
    def start(self, stands):
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        (self.root / "plans").mkdir()
        self.model = VolumeModel()
        for path, content in stands.items():
            self.save(path, content)
        self.observer = CoherentVolume(self.root, managed=("plans/**",), durability="process")
        self.volumes = {name: CoherentVolume(self.root, session=name) for name in ("alice", "bob")}
        self.observations = {}

    def teardown(self):
        if not hasattr(self, "volumes"):
            return
        try:
            for volume in (*self.volumes.values(), self.observer):
                volume.close()
            self._compare_history()
        finally:
            self.directory.cleanup()

    # ── steps ────────────────────────────────────────────────────────────────

    @rule(session=SESSIONS, path=PATHS)
    def read(self, session, path):
        expected = self.model.read(session, path)
        seen = self._expect(expected, lambda v: v.observe(path), session)
        if seen is not None:
            assert seen.data == expected.content
            assert seen.generation == expected.generation
            self.observations[session, path] = seen, View(seen.generation, seen.data)

    @rule(session=SESSIONS, path=PATHS)
    def read_perhaps_from_memory(self, session, path):
        expected = self.model.read(session, path)
        data = self._expect(expected, lambda v: v.read(path), session)
        assert data == expected.content

    @rule(session=SESSIONS, path=PATHS, content=CONTENTS, overwrite=st.booleans())
    def write(self, session, path, content, overwrite):
        expected = self.model.write(session, path, content, overwrite=overwrite)
        self._commit(expected, lambda v: v.write(path, content, overwrite=overwrite), session)

    @precondition(lambda self: getattr(self, "observations", None))
    @rule(data=st.data(), content=CONTENTS)
    def write_with_an_explicit_base(self, data, content):
        session, path = data.draw(st.sampled_from(sorted(self.observations)))
        seen, view = self.observations[session, path]
        expected = self.model.write(session, path, content, view)
        self._commit(expected, lambda v: v.write(path, content, base=seen), session)

    @rule(session=SESSIONS, path=PATHS, content=CONTENTS)
    def create(self, session, path, content):
        expected = self.model.create(session, path, content)
        self._commit(expected, lambda v: v.create(path, content), session)

    @rule(session=SESSIONS, path=PATHS, overwrite=st.booleans())
    def delete(self, session, path, overwrite):
        expected = self.model.delete(session, path, overwrite=overwrite)
        self._commit(expected, lambda v: v.delete(path, overwrite=overwrite), session)

    @rule(session=SESSIONS, path=PATHS, tail=st.sampled_from([b"", b"tail\n"]))
    def append(self, session, path, tail):
        expected = self.model.append(session, path, tail)
        self._commit(expected, lambda v: v.append(path, tail), session)

    @rule(session=SESSIONS, path=PATHS, suffix=st.sampled_from([b"", b"suffix\n"]))
    def update(self, session, path, suffix):
        expected = self.model.update(session, path, suffix)
        self._commit(expected, lambda v: v.update(path, lambda data: data + suffix), session)

    @rule(session=SESSIONS, names=st.permutations(["plans/a", "plans/b"]))
    def rename(self, session, names):
        source, target = names
        expected = self.model.rename(session, source, target)
        self._commit(expected, lambda v: v.rename(source, target), session)

    @rule(
        session=SESSIONS,
        reads=st.lists(PATHS, unique=True),
        writes=st.dictionaries(PATHS, st.none() | CONTENTS),
    )
    def transaction(self, session, reads, writes):
        expected = self.model.transaction(session, reads, writes)
        volume = self.volumes[session]
        tx = volume.transaction()
        refusal = None
        try:
            with tx:
                for path in reads:
                    with contextlib.suppress(NotFoundError):
                        tx.read(path)
                for path, content in writes.items():
                    _ = tx.delete(path) if content is None else tx.write(path, content)
        except (ConflictError, NotFoundError) as error:
            refusal = error
        if refusal is not None:
            verdict = next(v for kind, v in VERDICTS.items() if isinstance(refusal, kind))
            assert verdict in expected[refusal.path].verdicts, f"{refusal}, expected {expected}"
            assert tx.commits == ()
            return
        assert {c.path: (c.generation, c.changed) for c in tx.commits} == {
            path: (outcome.generation, "done" in outcome.verdicts)
            for path, outcome in expected.items()
        }

    @rule(session=SESSIONS)
    def reacquire(self, session):
        stale, renumbered = self.model.reacquire(session)
        reported = set(self.volumes[session].reacquire())
        assert stale <= reported <= stale | renumbered

    @rule(path=PATHS, content=CONTENTS, in_place=st.booleans())
    def edit_from_outside(self, path, content, in_place):
        self.save(path, content, in_place=in_place)
        self.visit(path)

    @rule(path=PATHS)
    def remove_from_outside(self, path):
        self.model.edit_from_outside(path, None)
        (self.root / path).unlink(missing_ok=True)
        self.visit(path)

    def visit(self, path):
        """Background work of the sessions may adopt an edit at any time; so it is done now."""
        self.model.artifact(path)
        with contextlib.suppress(NotFoundError):
            self.observer.read(path)

    @rule()
    def let_time_pass(self):
        """From here on the next read may be remembered, and the one after it served from memory."""
        time.sleep(0.025)

    @rule(session=SESSIONS)
    def open_again(self, session):
        """What a short command does; a named session remembers."""
        self.volumes[session].close()
        self.volumes[session] = CoherentVolume(self.root, session=session)

    # ── comparing ────────────────────────────────────────────────────────────

    @invariant()
    def visible_files_are_the_models(self):
        if not hasattr(self, "model"):
            return
        for path, artifact in self.model.artifacts.items():
            file = self.root / path
            assert (file.read_bytes() if file.exists() else None) == artifact.visible

    @rule(session=SESSIONS, path=PATHS)
    def state(self, session, path):
        expected = "S" if self.model.is_current(session, path) else "I"
        assert self.volumes[session].state(path) == expected

    def save(self, path, content, *, in_place=True):
        file = self.root / path
        if in_place:
            file.write_bytes(content)
        else:
            temporary = self.root / "temporary"
            temporary.write_bytes(content)
            temporary.replace(file)
        self.model.edit_from_outside(path, content)

    def _expect(self, expected: Outcome, call, session):
        try:
            answer = call(self.volumes[session])
        except (ConflictError, NotFoundError) as error:
            verdict = next(v for kind, v in VERDICTS.items() if isinstance(error, kind))
            note = f"{verdict}: {error}"
            assert verdict in expected.verdicts, f"{note}, expected {expected}"
            return None
        assert expected.verdicts & {"done", "unchanged"}, f"{answer}, expected {expected}"
        return answer

    def _commit(self, expected: Outcome, call, session):
        commit = self._expect(expected, call, session)
        if commit is not None:
            assert commit.generation == expected.generation
            assert commit.changed == ("done" in expected.verdicts)
            assert not commit.changed or commit.base == commit.generation - 1

    def _compare_history(self):
        kept = evidence.look(self.root)
        for path, artifact in self.model.artifacts.items():
            for past in kept.of(path):
                if past.generation:  # generation 0 may have been edited before it was kept
                    assert past.content == artifact.contents[past.generation]


CoherentMachine.TestCase.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestVolumeAgainstItsModel = pytest.mark.invariant("I1")(CoherentMachine.TestCase)
