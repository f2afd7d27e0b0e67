"""Hazard: a session is never told that what it read has changed, or is told for ever."""

from __future__ import annotations

import pytest

from coherent_volume import ConflictError
from coherent_volume.notes import short_diff

PLAN = "plans/plan.md"


@pytest.mark.parametrize("session", ["alice", None])
def test_each_head_is_told_once_with_who_and_a_short_diff(root, volume, bob, session):
    who = volume(session)
    assert who.notes() == []
    who.read(PLAN)
    assert who.notes() == []
    bob.read(PLAN)
    bob.write(PLAN, "first\nsecond\n")
    (root / PLAN).write_text("first\nsecond\nthird\n")

    (note,) = who.notes()

    assert (note.path, note.seen, note.current, note.by) == (PLAN, 0, 2, ("bob", "outside"))
    assert note.diff == "@@ -1,0 +2,2 @@\n+second\n+third"
    assert who.notes() == []
    bob.read(PLAN)
    bob.write(PLAN, "anew\n")
    assert [each.current for each in who.notes()] == [3]
    assert who.notes() == []


def test_a_note_renews_no_view(alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    assert alice.notes()
    assert alice.state(PLAN) == "I"
    with pytest.raises(ConflictError):
        alice.write(PLAN, "late\n")


def test_what_was_told_stays_told_over_the_processes_of_a_named_session(root, alice, bob, process):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    body = """
        from coherent_volume import CoherentVolume
        with CoherentVolume(root, session="alice") as volume:
            return [note.current for note in volume.notes()]
        """
    assert process(body, root=root) == [1]
    assert process(body, root=root) == []


def test_notes_that_were_not_delivered_are_told_again(alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    found = alice.notes(remember=False)
    assert alice.notes(remember=False) == found
    alice.told(found)
    assert alice.notes() == []


def test_own_changes_and_equal_content_are_no_news(alice, bob):
    alice.read(PLAN)
    alice.write(PLAN, "mine\n")
    bob.read(PLAN)
    bob.write(PLAN, "theirs\n")
    bob.write(PLAN, "mine\n")
    assert alice.notes() == []


def test_deletion_is_told(alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.delete(PLAN)
    (note,) = alice.notes()
    assert (note.kind, note.by, note.diff) == ("delete", ("bob",), "(deleted)")


def test_reading_again_makes_a_later_change_news_again(alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "one\n")
    assert alice.notes()
    alice.read(PLAN)
    bob.write(PLAN, "two\n")
    (note,) = alice.notes()
    assert (note.seen, note.current, note.diff) == (1, 2, "@@ -1 +1 @@\n-one\n+two")


def test_unreadable_artifact_hides_no_other(root, alice, bob):
    alice.create("plans/a", "1")
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    (root / "plans/a").unlink()
    (root / "plans/a").mkdir()
    assert [note.path for note in alice.notes()] == [PLAN]


# ── the short diff ───────────────────────────────────────────────────────────


def test_what_peers_wrote_reaches_no_terminal_unescaped():
    text = short_diff(b"plain\n", "\x1b[31mred\x07\u202e\n".encode())
    assert text.replace("\n", "").isprintable()
    assert "\\x1b[31mred" in text


def test_long_differences_are_cut():
    many = short_diff(b"", b"".join(b"line %d\n" % n for n in range(1000)))
    assert many.endswith("\n(the rest is cut)")
    assert len(many.splitlines()) == 41
    wide = short_diff(b"", b"x" * 10_000)
    assert len(wide) < 700


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (b"\xff\xfe", b"text", "not text"),
        (b"", b"\n" * 10_000, "the rest is cut"),
    ],
)
def test_what_cannot_be_shown_is_named(before, after, said):
    assert said in short_diff(before, after)
