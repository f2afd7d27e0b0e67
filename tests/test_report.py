"""Hazard: a refusal that says too little to act on, changes its words, or obeys others' bytes."""

from __future__ import annotations

import json
import os
import pickle
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coherent_volume import (
    AlreadyExistsError,
    ConflictError,
    FencedError,
    ForeignEditError,
    NotObservedError,
    StaleGenerationError,
    ageing,
    report,
)
from coherent_volume.conflict import ConflictReport
from coherent_volume.difference import DIFF_BYTES_MAX, DIFF_LINES_MAX, excerpt
from coherent_volume.lines import lines_of
from coherent_volume.model import ArtifactKey
from coherent_volume.recall import current_now
from tests.harness.command import Command

PLAN = "plans/plan.md"


def refused(volume, content="mine\n", **options):
    """The refusal that *volume* gets for writing *content*."""
    with pytest.raises(ConflictError) as refusal:
        volume.write(PLAN, content, **options)
    return refusal.value


def commands(said):
    return [way.command for way in said.ways_out]


@pytest.fixture
def stale(alice, bob):
    """Alice, who has read what bob has changed since."""
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    return alice


# ── what it says ─────────────────────────────────────────────────────────────


def test_report_names_the_other_party_the_change_and_the_ways_out(root, stale, bob):
    said = refused(stale).report
    assert (said.path, said.session, said.reason) == (PLAN, "alice", "stale_generation")
    assert (said.base, said.head) == (0, 1)
    (passed,) = said.between
    assert (passed.generation, passed.session, passed.kind) == (1, "bob", "write")
    assert passed.at == bob.log(PLAN)[0].at
    assert said.diff[2:] == ("@@ -1 +1 @@", "-first", "+bob's")
    assert said.merge == "overlaps"
    assert (root / said.kept).read_bytes() == b"mine\n"
    assert commands(said) == [
        f"coherent read {PLAN}",
        f"coherent merge {PLAN} --mine {said.kept} --base 0",
        f"coherent write {PLAN} --overwrite --from {said.kept}",
    ]


def test_text_of_the_error_ends_with_the_report(stale):
    error = refused(stale)
    first, second, third, *rest = str(error).splitlines()
    assert first.startswith(f"{PLAN}: bob committed since you read it")
    assert second == error.advice
    assert third == f"Your content is kept in {error.kept}"
    assert "\n".join(rest) == error.report.details()
    assert json.loads(json.dumps(error.as_dict()))["report"]["head"] == 1


def test_error_with_its_report_travels_between_processes(stale):
    error = refused(stale)
    arrived = pickle.loads(pickle.dumps(error))
    assert arrived.report == error.report
    assert str(arrived) == str(error)
    assert arrived.as_dict() == error.as_dict()


def test_same_situation_says_the_same_bytes(stale):
    one, other = refused(stale), refused(stale)
    assert str(one) == str(other)
    assert one.as_dict() == other.as_dict()
    assert stale.why(PLAN) == one.report


def test_report_survives_being_stored():
    said = ConflictReport(
        "p", "/r", "s", "x", "c", None, 3, (), 0, ("+a",), "", "clean", "n", None, None, ()
    )
    assert ConflictReport.from_dict(json.loads(json.dumps(said.as_dict()))) == said


def test_commits_in_between_are_bounded(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    for number in range(50):
        bob.write(PLAN, f"{number}\n")
    said = refused(alice).report
    assert [each.generation for each in said.between] == [*range(1, 11), *range(41, 51)]
    assert said.omitted == 30
    assert "(30 more in between)" in said.text()


@pytest.mark.parametrize(
    ("mine", "verdict"),
    [(b"first\nmine\n", "overlaps"), (b"bob's\n", "already contained"), (b"\0", "not text")],
)
def test_report_says_whether_it_would_merge(stale, mine, verdict):
    assert refused(stale, mine).report.merge == verdict


def test_clean_merge_is_offered(root, alice, bob):
    (root / PLAN).write_bytes(b"1\n2\n3\n4\n5\n")
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, b"one\n2\n3\n4\n5\n")
    said = refused(alice, b"1\n2\n3\n4\nfive\n").report
    assert said.merge == "clean"
    assert "would merge cleanly" in said.text()
    assert any(each.startswith("coherent merge") for each in commands(said))


def test_binary_is_summarised(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    commit = bob.write(PLAN, b"\0" * 100)
    said = refused(alice).report
    assert said.diff == ()
    assert "has 100 bytes" in said.diff_note
    assert commit.digest in said.diff_note


def test_content_too_large_for_a_diff_is_named_by_its_size(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, b"x" * (9 << 20))
    said = refused(alice).report
    assert said.diff == ()
    assert f"too large to be compared: {9 << 20} bytes" in said.diff_note
    assert said.merge == "too large"


def test_base_that_was_pruned_is_said(root, volume):
    volume().close()
    config = root / ".coherence" / "config.toml"
    config.write_text(config.read_text().replace("generations = 100", "generations = 2"))
    alice, bob = volume("alice"), volume("bob")
    bob.read(PLAN)
    bob.write(PLAN, "seen by alice\n")
    alice.read(PLAN)
    for number in range(4):
        bob.write(PLAN, f"{number}\n")
    said = refused(alice).report
    assert "generation 1 (digest " in said.diff_note
    assert said.diff_note.endswith("is not kept any longer.")
    assert said.merge == "base lost"
    assert [each.generation for each in said.between] == [4, 5]
    assert said.omitted == 2
    assert not any("coherent merge" in each for each in commands(said))


@pytest.mark.parametrize("durability", ["power", "process"])
def test_large_file_that_was_never_committed_is_kept_when_it_is_displaced(root, volume, durability):
    """A named session's reading leaves a row without the content, which is too large for it."""
    lines = b"".join(b"line %d\n" % number for number in range(30_000))
    (root / PLAN).write_bytes(lines)
    with volume("alice", durability=durability) as alice:
        alice.read(PLAN)
    bob = volume("bob")
    bob.read(PLAN)
    bob.write(PLAN, lines + b"bob's\n")
    said = refused(volume("alice"), b"alice's\n" + lines).report
    assert said.diff[-1] == "+bob's"
    assert said.merge == "clean"


# ── each kind of refusal ─────────────────────────────────────────────────────


def test_blind_write(root, alice, bob):
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    error = refused(alice)
    assert isinstance(error, NotObservedError)
    said = error.report
    assert (said.base, said.head, said.merge, said.diff) == (None, 1, "not derived", ())
    assert [each.session for each in said.between] == ["bob"]
    assert "alice never read it" in said.text()
    assert ".unseen." in said.kept


def test_edit_from_outside(root, alice):
    alice.read(PLAN)
    (root / PLAN).write_bytes(b"vim's\n")
    error = refused(alice)
    assert isinstance(error, ForeignEditError)
    assert [(each.session, each.kind) for each in error.report.between] == [("outside", "foreign")]
    assert "+vim's" in error.report.diff


def test_edit_from_outside_of_a_file_that_was_never_committed(root, volume):
    alice = volume()
    alice.read(PLAN)
    (root / PLAN).write_bytes(b"vim's\n")
    said = refused(alice).report
    assert (said.base, said.head) == (0, 0)
    assert said.diff[3:] == ("-first", "+vim's")


def test_deletion_by_a_peer(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.delete(PLAN)
    said = refused(alice).report
    assert said.diff_note == "Generation 1 is a deletion."
    assert said.merge == "deleted"
    assert commands(said) == [f"coherent create {PLAN} --from {said.kept}"]


def test_refused_deletion_has_a_report_though_nothing_is_pending(stale):
    with pytest.raises(StaleGenerationError) as refusal:
        stale.delete(PLAN)
    said = refusal.value.report
    assert (said.kept, said.merge) == (None, "nothing pending")
    assert commands(said)[-1] == f"coherent rm {PLAN} --overwrite"
    assert stale.why(PLAN) == said


def test_create_over_what_exists(alice):
    with pytest.raises(AlreadyExistsError) as refusal:
        alice.create(PLAN, "x")
    assert refusal.value.report.merge == "not derived"


def test_fenced_author_is_shown_the_generation_and_not_the_epoch(root, alice, bob):
    lease = alice.lease(PLAN)
    alice.read(PLAN)
    bob.break_lease(PLAN)
    error = refused(alice)
    assert isinstance(error, FencedError)
    assert error.report.head == alice.observe(PLAN).generation
    assert error.report.merge == "not derived"
    lease.release()


def test_rename_that_is_refused(stale):
    with pytest.raises(StaleGenerationError) as refusal:
        stale.rename(PLAN, "plans/other.md")
    assert refusal.value.report.path == PLAN


# ── nobody's bytes drive a terminal ──────────────────────────────────────────


def test_what_others_wrote_is_shown_and_not_obeyed(root, volume):
    alice, mallory = volume("alice"), volume("mallory\x1b]0;title\x07")
    alice.read(PLAN)
    mallory.read(PLAN)
    mallory.write(PLAN, b"\x1b[2J\r\x08\xc2\x9b31m\xe2\x80\xae\n\tindented\n")
    text = str(refused(alice))
    assert all(each.isprintable() or each in "\n\t" for each in text)
    assert "+\\x1b[2J\\r\\x08\\x9b31m\\u202e\n" in text
    assert "+\tindented" in text
    shown = Command(root, "alice")("why", PLAN).out.decode()
    assert all(each.isprintable() or each in "\n\t" for each in shown)
    assert "mallory\\x1b]0;title\\x07" in shown


def test_commands_are_quoted(root, volume):
    name = "plans/$(touch pwned) 'it'.md"
    alice, bob = volume("alice"), volume("bob")
    bob.create(name, "x\n")
    with pytest.raises(ConflictError) as refusal:
        alice.write(name, "y\n")
    for command in commands(refusal.value.report):
        assert "'plans/$(touch pwned) '\"'\"'it'\"'\"'.md'" in command


# ── the diff ─────────────────────────────────────────────────────────────────


def rebuilt(diff, old):
    """What *diff* makes of *old*: a patch program in four lines."""
    lines, made, at = lines_of(old), [], 0
    for line in diff.lines[2:]:
        if line.startswith("@@"):
            start, _, count = line.split()[1][1:].partition(",")
            begin = int(start) - (count != "0")
            made += lines[at:begin]
            at = begin
            continue
        body, open_end, _ = line[1:].partition(" [no newline at the end]")
        content = body.encode() + (b"" if open_end else b"\n")
        if line[0] != "+":
            assert lines[at] == content
            at += 1
        if line[0] != "-":
            made.append(content)
    return b"".join(made + lines[at:])


texts = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"d\n"]), max_size=30).map(b"".join)


@given(texts, texts, st.sampled_from([b"", b"end"]), st.integers(0, 200))
def test_diff_leads_from_the_old_text_to_the_new(one, other, end, around):
    frame = b"".join(b"%d\n" % number for number in range(around))
    old, new = frame + one + frame, frame + other + frame + end
    assert rebuilt(excerpt(old, new, "a", "b"), old) == new


def test_diff_is_bounded_and_says_what_is_left_out(stale):
    long = excerpt(b"", b"".join(b"%d\n" % n for n in range(1000)), "a", "b")
    assert len(long.lines) == DIFF_LINES_MAX
    assert long.left_out == 1003 - DIFF_LINES_MAX
    wide = excerpt(b"", b"".join(b"x" * 300 + b"\n" for n in range(100)), "a", "b")
    assert sum(len(line) + 1 for line in wide.lines) <= DIFF_BYTES_MAX
    single = excerpt(b"", b"y" * 100_000, "a", "b")
    assert "[65036 more bytes]" in single.lines[-1] or "more bytes]" in single.lines[-1]


def test_diff_of_a_large_file_takes_no_longer_than_looking_at_it():
    """Counted in lines that are compared, not in seconds."""
    big = b"".join(b"line %d\n" % n for n in range(300_000))
    middle = len(big) // 2
    diff = excerpt(big, big[:middle] + b"new\n" + big[middle:], "a", "b")
    assert diff.compared_whole
    assert len(diff.lines) < 15
    chosen = random.Random(1)
    alike = [b"".join(b"%d\n" % chosen.randrange(100) for _ in range(50_000)) for _ in range(2)]
    assert not excerpt(*alike, "a", "b").compared_whole
    assert not excerpt(big, big.replace(b"line", b"row"), "a", "b").compared_whole


# ── why ──────────────────────────────────────────────────────────────────────


def test_why_says_the_same_in_another_process_and_twice(root, stale):
    said = refused(stale).report
    why = Command(root, "alice").ok("why", PLAN)
    assert why.out == Command(root, "alice").ok("why", PLAN).out
    assert why.text == said.text() + "\n"
    told = Command(root, "alice").ok("why", PLAN, "--json").json()
    assert told == {"ok": True, "over": False, "report": json.loads(json.dumps(said.as_dict()))}


def test_why_is_about_this_session_only(root, stale, bob):
    refused(stale)
    assert bob.why(PLAN) is None
    told = Command(root, "bob").ok("why", PLAN)
    assert told.text.startswith(f"{PLAN}: nothing of yours was refused")
    assert Command(root, "bob").ok("why", PLAN, "--json").json() == {
        "ok": True,
        "over": False,
        "report": None,
    }


def test_why_says_that_a_refusal_is_over_once_the_session_saw_what_is_current(root, stale):
    with pytest.raises(ConflictError):
        stale.write(PLAN, "again\n")
    alice = Command(root, "alice")
    assert alice.ok("why", PLAN, "--json").json()["over"] is False
    alice.ok("read", PLAN)
    assert alice.ok("why", PLAN, "--json").json()["over"] is True
    last = alice.ok("why", PLAN).text.splitlines()[-1]
    assert last == "You have seen what is current since: a write now is not refused for this."


def test_why_explains_a_stale_view_that_was_not_refused_yet(root, stale):
    said = stale.why(PLAN)
    assert (said.reason, said.base, said.head, said.merge) == (
        "stale_view",
        0,
        1,
        "nothing pending",
    )
    assert commands(said) == [f"coherent read {PLAN}"]
    assert not any((root / ".coherence" / "refused").iterdir())


def test_why_goes_on_to_the_present_when_the_session_read_again(stale, bob):
    old = refused(stale).report
    stale.read(PLAN)
    assert stale.why(PLAN) == old
    bob.write(PLAN, "bob's again\n")
    assert (stale.why(PLAN).base, stale.why(PLAN).head) == (1, 2)


def test_report_that_somebody_meddled_with_is_none(root, stale):
    refused(stale)
    (label,) = (root / ".coherence" / "refused").glob("*.report")
    for text in ("", "{", "[]", '{"path": 1}'):
        label.write_text(text)
        stale.read(PLAN)
        assert stale.why(PLAN) is None


def test_reports_are_not_listed_as_refused_content_and_are_swept(root, stale, volume, monkeypatch):
    error = refused(stale)
    an_hour_later = ageing.now_ns() + 3600 * 10**9
    monkeypatch.setattr(ageing, "now_ns", lambda: an_hour_later)
    assert [each.file for each in stale.status().refused] == [error.kept]
    old = time.time() - 40 * 86_400
    for path in (root / ".coherence" / "refused").iterdir():
        os.utime(path, (old, old))
    with volume("carol") as carol:
        carol.create("plans/new.md", "x")
        carol._maintenance._pass()
    assert not any((root / ".coherence" / "refused").iterdir())


# ── it never takes the refusal's place ───────────────────────────────────────


def test_trouble_in_the_making_leaves_the_refusal(root, stale, monkeypatch):
    monkeypatch.setattr(report, "passed_since", lambda *_: 1 / 0)
    error = refused(stale)
    assert isinstance(error, StaleGenerationError)
    assert "cannot be shown: ZeroDivisionError" in str(error)
    assert (root / error.kept).read_bytes() == b"mine\n"


def test_report_that_cannot_be_stored_is_in_the_error_all_the_same(stale, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stale._parts.staging, "note", full)
    assert refused(stale).report.head == 1


def test_tries_that_are_repeated_are_not_explained(alice, bob, monkeypatch):
    made = []
    monkeypatch.setattr(report, "build", lambda *_: made.append(1))
    tries = []

    def edit(text):
        tries.append(text)
        if len(tries) < 3:
            bob.read(PLAN)
            bob.write(PLAN, f"{len(tries)}\n")
        return text + b"alice\n"

    alice.update(PLAN, edit)
    assert len(tries) == 3
    assert not made


def test_refusal_without_a_commit_is_explained_as_well(root, stale):
    """As a mount does it that refuses at an open."""
    key = ArtifactKey(PLAN.encode())
    parts = stale._parts
    seen = parts.session.seen(key)
    head, _ = current_now(parts, key)
    said = report.explain(
        parts,
        report.Refusal(key, "stale_generation", "refused at open", seen, head.generation, b"x\n"),
    )
    assert said == stale.why(PLAN)
    assert (said.cause, said.merge) == ("refused at open", "overlaps")


@pytest.mark.invariant("I6")
@pytest.mark.parametrize("way", ["refuse", "merge"])
def test_kept_copy_that_was_edited_by_hand_survives_the_next_refusal(root, stale, way):
    def again():
        with pytest.raises(ConflictError) as refusal:
            stale.write(PLAN, "mine\n", on_conflict=way)
        return root / (refusal.value.fields.get("marked") or refusal.value.kept)

    kept = again()
    fresh = kept.read_bytes()
    for number in (1, 2):
        kept.write_bytes(b"resolved by hand %d\n" % number)
        assert again() == kept
        assert kept.read_bytes() == fresh
        beside = kept.with_name(f"{kept.name}.edited{number}")
        assert beside.read_bytes() == b"resolved by hand %d\n" % number
