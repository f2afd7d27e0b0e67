"""Hazard: a proof that passes though something is not proved."""

from __future__ import annotations

import re

import pytest

from coherent_audit import Recorder, fingerprint, load
from formal.invariants import INVARIANTS
from proof.__main__ import _MODELLED, PROMISES, Proof, table
from proof.replay import Replay
from tests.harness.command import REPOSITORY


@pytest.fixture
def held():
    """A proof in which everything is green."""
    proof = Proof(list(PROMISES))
    proof.note(list(PROMISES), "tests", 3)
    for of in proof.of.values():
        of.dead.append("a break in test_x")
    return proof


def test_table_is_about_the_stated_guarantees():
    text = (REPOSITORY / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
    assert list(PROMISES) == re.findall(r"^\*\*(I\d+) ", text, re.MULTILINE)
    assert set(_MODELLED) == {*INVARIANTS, "Recovery"}


def test_everything_green_is_a_proof(held):
    assert held.fine
    lines = table(held).splitlines()
    assert lines[:2] == [
        "I1   NoLostUpdate       green     3 tests",
        "     dead in test_x: a break",
    ]


def test_one_failure_is_no_proof(held):
    held.note(["I5"], "tests", 1, ["test_y failed"])
    assert not held.fine
    assert "I5   NoTornRead         NOT GREEN" in table(held)
    assert "! test_y failed" in table(held)


@pytest.mark.parametrize("missing", ["checks", "dead"])
def test_guarantee_that_nothing_holds_is_no_proof(held, missing):
    getattr(held.of["I11"], missing).clear()
    assert not held.fine
    assert "UNHELD" in table(held)


def record(log, session, kind, path, **learned):
    with Recorder(log, session).operation(kind, path) as known:
        known.update(learned)


def test_recorded_run_happens_again(tmp_path):
    log = tmp_path / "log"
    one, two = fingerprint(b"one"), fingerprint(b"two" * 20)
    record(log, "alice", "commit", "a", generation=1, base=0, content=one)
    record(log, "bob", "read", "a", generation=1, content=one)
    record(log, "bob", "commit", "a", generation=2, base=1, derived_from=one, content=two)
    record(log, "bob", "commit", "a", generation=4, base=3, content="absent")
    record(log, "alice", "read", "a", generation=4, content="absent")
    root = tmp_path / "root"
    root.mkdir()
    replay = Replay(root, load([log]))
    assert (replay.go(), replay.complaints) == (5, [])


def test_replay_that_ends_otherwise_says_so(tmp_path):
    log = tmp_path / "log"
    record(log, "alice", "commit", "a", generation=1, base=0, content="=one")
    record(log, "alice", "read", "a", generation=1, content="=two")
    root = tmp_path / "root"
    root.mkdir()
    replay = Replay(root, load([log]))
    replay.go()
    assert "has other bytes now" in replay.complaints[0]
