"""Hazard: a refusal says one thing in the mount and another to the command line."""

from __future__ import annotations

import os

import pytest
from harness.mounted import mounts_of, needs_fuse

pytestmark = needs_fuse


@pytest.fixture
def place(root, tmp_path, volume):
    """Alice's mount of a plan that bob has changed since she read it."""
    (root / "plans" / "plan.md").write_bytes(b"one\ntwo\nthree\n")
    bob, alice = volume("bob"), volume("alice")
    with mounts_of(root, tmp_path, reflex_s=0.05) as mounted:
        agent = mounted("alice")
        agent.ok("cat plans/plan.md; sleep 0.2")
        bob.read("plans/plan.md")
        bob.write("plans/plan.md", b"one\nTWO\nthree\n")
        yield agent, alice, bob


def why(agent, name="plans/plan.md"):
    return (agent.where / ".coherence" / "why" / name).read_text()


def test_a_refusal_at_the_open_has_the_report_that_the_command_line_shows(place):
    agent, alice, _ = place
    with pytest.raises(PermissionError):
        os.open(agent.where / "plans/plan.md", os.O_WRONLY | os.O_TRUNC)
    report = alice.why("plans/plan.md")
    assert (report.reason, report.base, report.head) == ("stale_generation", 0, 1)
    assert [each.session for each in report.between][-1] == "bob"
    assert {"-two", "+TWO"} <= set(report.diff)
    assert why(agent) == f"open refused: {report.text()}\n"
    assert os.getxattr(agent.where / "plans/plan.md", "user.coherence.why").decode() == why(agent)


def test_what_was_never_written_is_not_said_to_be_pending_or_deleted(place):
    agent, alice, _ = place
    assert agent.sh("echo mine > plans/plan.md").returncode != 0
    report = alice.why("plans/plan.md")
    assert report.kept is None
    assert "never came here" in report.merge_note
    assert [way.command for way in report.ways_out] == ["coherent read plans/plan.md"]


def test_a_refused_deletion_names_the_way_to_delete_it_all_the_same(place):
    agent, alice, _ = place
    with pytest.raises(PermissionError):
        os.unlink(agent.where / "plans/plan.md")
    report = alice.why("plans/plan.md")
    assert "coherent rm plans/plan.md --overwrite" in [way.command for way in report.ways_out]
    assert why(agent) == f"unlink refused: {report.text()}\n"


def test_a_refused_rename_names_the_content_that_is_kept(place, root):
    agent, alice, _ = place
    assert agent.sh("echo mine > t; mv t plans/plan.md").returncode != 0
    report = alice.why("plans/plan.md")
    assert (root / report.kept).read_bytes() == b"mine\n"
    assert why(agent) == f"rename refused: {report.text()}\n"


def test_another_try_at_the_open_does_not_hide_the_content_that_is_kept(place):
    agent, alice, _ = place
    agent.sh("echo mine > t; mv t plans/plan.md")
    kept = alice.why("plans/plan.md").kept
    with pytest.raises(PermissionError):
        os.open(agent.where / "plans/plan.md", os.O_WRONLY)
    assert alice.why("plans/plan.md").kept == kept
    assert kept in why(agent)


def test_the_same_refusal_has_the_same_words_however_often_it_is_tried(place):
    agent, _, _ = place
    texts = set()
    for _ in range(3):
        with pytest.raises(PermissionError):
            os.open(agent.where / "plans/plan.md", os.O_WRONLY)
        texts.add(why(agent))
    assert len(texts) == 1


def test_a_later_commit_of_a_peer_is_in_the_next_report(place):
    agent, alice, bob = place
    for head in (1, 2):
        with pytest.raises(PermissionError):
            os.open(agent.where / "plans/plan.md", os.O_WRONLY)
        assert alice.why("plans/plan.md").head == head
        bob.write("plans/plan.md", b"one\nTWO\nTHREE\n")
