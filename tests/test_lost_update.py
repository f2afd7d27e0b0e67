"""Hazard: a session saves over work that it never saw (I1), or its refused work vanishes (I6)."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections import Counter
from pathlib import Path

import pytest

from coherent_volume import (
    AlreadyExistsError,
    CoherenceError,
    ConflictError,
    NotFoundError,
    NotObservedError,
    StaleGenerationError,
)
from coherent_volume.digest import digest_of
from coherent_volume.model import ArtifactKey
from tests.harness.processes import Workers, until
from tests.harness.workload import count_up

PLAN = "plans/plan.md"

# ── stale writes ─────────────────────────────────────────────────────────────


@pytest.mark.invariant("I1")
def test_commit_from_a_stale_base_changes_nothing(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    first = bob.write(PLAN, "bob's\n")

    with pytest.raises(StaleGenerationError) as refusal:
        alice.write(PLAN, "alice's\n")

    assert (root / PLAN).read_bytes() == b"bob's\n"
    assert bob.observe(PLAN).generation == first.generation
    assert alice.log(PLAN)[0].session == "bob"
    error = refusal.value
    assert (error.path, error.base, error.current) == (PLAN, first.base, first.generation)
    assert error.by == "bob"


@pytest.mark.invariant("I1")
def test_two_real_processes_that_read_the_same_plan_cannot_both_save(root, process):
    body = """
        from coherent_volume import CoherentVolume, ConflictError
        with CoherentVolume(root, managed=("plans/**",)) as volume:
            plan = volume.read("plans/plan.md")
            tell("read")
            hear()
            try:
                volume.write("plans/plan.md", plan + who.encode() + b"\\n")
            except ConflictError as error:
                return type(error).__name__
            return "committed"
        """
    alice = process.start(body, root=root, who="alice")
    bob = process.start(body, root=root, who="bob")
    alice.hear()
    bob.hear()

    bob.tell("save")
    assert bob.result() == "committed"
    alice.tell("save")

    assert alice.result() == "StaleGenerationError"
    assert (root / PLAN).read_bytes() == b"first\nbob\n"


@pytest.mark.invariant("I1")
def test_writer_that_reacquires_after_a_refusal_keeps_both_edits(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, bob.read(PLAN) + b"bob\n")
    with pytest.raises(ConflictError):
        alice.write(PLAN, b"first\nalice\n")

    assert alice.reacquire() == [PLAN]
    alice.write(PLAN, alice.read(PLAN) + b"alice\n")

    assert (root / PLAN).read_bytes() == b"first\nbob\nalice\n"


@pytest.mark.invariant("I1")
def test_refused_writer_stays_refused_until_it_has_read(alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    for _ in range(3):
        with pytest.raises(StaleGenerationError):
            alice.write(PLAN, "alice's\n")

    alice.read(PLAN)
    alice.write(PLAN, "alice's\n")


@pytest.mark.invariant("I1")
def test_two_counters_that_both_write_six_are_a_conflict(volume, root):
    (root / "plans" / "counter").write_bytes(b"5")
    alice, bob = volume("alice"), volume("bob")
    assert int(alice.read("plans/counter")) == int(bob.read("plans/counter")) == 5

    alice.write("plans/counter", "6")
    with pytest.raises(StaleGenerationError):
        bob.write("plans/counter", "6")

    bob.update("plans/counter", lambda data: str(int(data) + 1).encode())
    assert (root / "plans" / "counter").read_bytes() == b"7"


@pytest.mark.invariant("I1")
def test_peer_that_went_away_and_came_back_to_the_same_bytes_is_no_false_alarm(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "other\n")
    last = bob.write(PLAN, "first\n")

    mine = alice.write(PLAN, "alice's\n")

    # The base on record is the head, not the older generation with the same bytes.
    assert mine.base == last.generation
    assert mine.generation == last.generation + 1
    assert (root / PLAN).read_bytes() == b"alice's\n"


@pytest.mark.invariant("I1")
def test_named_session_in_two_processes_shares_one_view(root, process, bob):
    read = """
        from coherent_volume import CoherentVolume
        with CoherentVolume(root, session="alice") as volume:
            volume.read("plans/plan.md")
        """
    write = """
        from coherent_volume import CoherentVolume, ConflictError
        with CoherentVolume(root, session="alice") as volume:
            try:
                volume.write("plans/plan.md", text)
            except ConflictError as error:
                return type(error).__name__
            return "committed"
        """
    bob.read(PLAN)
    process(read, root=root)
    assert process(write, root=root, text="alice's\n") == "committed"

    process(read, root=root)
    bob.update(PLAN, lambda data: data + b"bob\n")
    assert process(write, root=root, text="alice's again\n") == "StaleGenerationError"


# ── blind writes ─────────────────────────────────────────────────────────────


@pytest.mark.invariant("I1")
def test_write_to_an_artifact_never_read_is_refused(root, alice):
    with pytest.raises(NotObservedError) as refusal:
        alice.write(PLAN, "blind\n")

    assert (root / PLAN).read_bytes() == b"first\n"
    assert "read" in refusal.value.advice.lower()


@pytest.mark.invariant("I1")
def test_write_to_an_artifact_only_a_peer_has_read_is_refused(alice, bob):
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    with pytest.raises(NotObservedError):
        alice.write(PLAN, "blind\n")


@pytest.mark.invariant("I1")
def test_overwrite_replaces_unseen_content_and_says_what_it_replaced(root, alice, bob):
    bob.read(PLAN)
    replaced = bob.write(PLAN, "bob's\n")

    commit = alice.write(PLAN, "on purpose\n", overwrite=True)

    assert commit.base == replaced.generation
    assert (root / PLAN).read_bytes() == b"on purpose\n"


@pytest.mark.invariant("I1")
def test_state_tells_whether_a_write_would_be_refused(alice, bob):
    assert alice.state(PLAN) == "I"
    alice.read(PLAN)
    bob.read(PLAN)
    assert (alice.state(PLAN), bob.state(PLAN)) == ("S", "S")

    bob.write(PLAN, "bob's\n")

    assert (alice.state(PLAN), bob.state(PLAN)) == ("I", "S")


# ── names that come and go ───────────────────────────────────────────────────


@pytest.mark.invariant("I1")
def test_write_after_a_peers_delete_is_refused(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.delete(PLAN)

    with pytest.raises(ConflictError):
        alice.write(PLAN, "alice's\n")

    assert not (root / PLAN).exists()


@pytest.mark.invariant("I1")
def test_writer_that_was_told_of_the_delete_may_create_the_name_again(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.delete(PLAN)
    with pytest.raises(NotFoundError):
        alice.read(PLAN)

    alice.write(PLAN, "alice's\n")

    assert (root / PLAN).read_bytes() == b"alice's\n"


@pytest.mark.invariant("I1")
def test_delete_of_what_a_peer_changed_is_refused(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    with pytest.raises(StaleGenerationError):
        alice.delete(PLAN)

    assert (root / PLAN).read_bytes() == b"bob's\n"


@pytest.mark.invariant("I1")
def test_delete_of_what_was_never_read_is_refused(root, alice):
    with pytest.raises(NotObservedError):
        alice.delete(PLAN)
    assert (root / PLAN).exists()


@pytest.mark.invariant("I1")
def test_second_creator_of_one_name_is_refused(root, alice, bob):
    bob.create("plans/new.md", "bob's\n")

    with pytest.raises(AlreadyExistsError) as refusal:
        alice.create("plans/new.md", "alice's\n")

    assert isinstance(refusal.value, FileExistsError)
    assert (root / "plans/new.md").read_bytes() == b"bob's\n"


@pytest.mark.invariant("I1")
def test_second_writer_of_a_name_that_both_saw_absent_is_refused(root, alice, bob):
    for session in (alice, bob):
        with pytest.raises(NotFoundError):
            session.read("plans/new.md")
    bob.write("plans/new.md", "bob's\n")

    with pytest.raises(ConflictError):
        alice.write("plans/new.md", "alice's\n")

    assert (root / "plans/new.md").read_bytes() == b"bob's\n"


@pytest.mark.invariant("I1")
def test_creator_over_a_file_that_no_session_made_is_refused(root, alice):
    with pytest.raises(AlreadyExistsError):
        alice.create(PLAN, "mine\n")
    assert (root / PLAN).read_bytes() == b"first\n"


@pytest.mark.invariant("I1")
def test_rename_of_what_a_peer_changed_is_refused(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    with pytest.raises(StaleGenerationError):
        alice.rename(PLAN, "plans/moved.md")

    assert (root / PLAN).read_bytes() == b"bob's\n"
    assert not (root / "plans/moved.md").exists()


@pytest.mark.invariant("I1")
def test_rename_onto_a_peers_artifact_is_refused(root, alice, bob):
    alice.read(PLAN)
    bob.create("plans/taken.md", "bob's\n")

    with pytest.raises(ConflictError):
        alice.rename(PLAN, "plans/taken.md")

    assert (root / "plans/taken.md").read_bytes() == b"bob's\n"
    assert (root / PLAN).read_bytes() == b"first\n"


# ── an explicit base ─────────────────────────────────────────────────────────


@pytest.mark.invariant("I1")
def test_explicit_base_decides_and_not_what_the_session_saw_since(alice, bob):
    seen = alice.observe(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    alice.read(PLAN)  # another thought of the same agent

    with pytest.raises(StaleGenerationError):
        alice.write(PLAN, "from the old plan\n", base=seen)


@pytest.mark.invariant("I1")
def test_base_may_be_an_observation_a_commit_or_a_number(alice, bob):
    seen = alice.observe(PLAN)
    first = alice.write(PLAN, "one\n", base=seen)
    second = bob.write(PLAN, "two\n", base=first)
    third = alice.write(PLAN, "three\n", base=second.generation)

    assert [first.generation, second.generation, third.generation] == [
        first.generation + step for step in range(3)
    ]
    for old in (seen, first, first.generation):
        with pytest.raises(ConflictError):
            bob.write(PLAN, "late\n", base=old)


@pytest.mark.invariant("I1")
def test_base_that_is_ahead_of_the_artifact_is_refused(root, alice):
    alice.read(PLAN)
    head = alice.write(PLAN, "one\n")

    with pytest.raises((ConflictError, ValueError)):
        alice.write(PLAN, "from the future\n", base=head.generation + 5)

    assert (root / PLAN).read_bytes() == b"one\n"


# ── updates under contention ─────────────────────────────────────────────────


@pytest.mark.invariant("I1")
def test_eight_processes_that_add_their_own_lines_lose_none_and_double_none(root, volume):
    times = 12
    (root / "plans" / "lines").write_bytes(b"")
    volume("alice")  # makes the volume
    with Workers() as workers:
        for number in range(8):
            # Half of them are process sessions, half carry a name.
            name = f"writer{number}" if number % 2 else None
            workers.start(count_up, root=root, path="plans/lines", session=name, times=times)
        said = workers.finish()

    acknowledged = [r for r in said if r["event"] == "committed"]
    lines = Counter((root / "plans" / "lines").read_text().splitlines(keepends=True))
    assert len(acknowledged) == 8 * times
    assert lines == Counter(r["line"] for r in acknowledged)
    assert max(lines.values()) == 1
    generations = sorted(r["generation"] for r in acknowledged)
    assert generations == list(range(1, 8 * times + 1))
    _print_fairness(acknowledged)


def _print_fairness(acknowledged):
    """Shown with ``-s``; how even the turns were is a measure and no assertion."""
    half = sorted(acknowledged, key=lambda r: r["generation"])[: len(acknowledged) // 2]
    turns = Counter(r["line"].split()[0] for r in half)
    print(f"turns among the first half: min {min(turns.values())}, max {max(turns.values())}")


@pytest.mark.invariant("I1")
def test_update_hands_its_function_the_head_again_after_a_conflict(alice, bob):
    handed = []

    def derive(data):
        handed.append(data)
        if len(handed) == 1:
            bob.write(PLAN, bob.read(PLAN) + b"bob\n")
        return data + b"alice\n"

    alice.update(PLAN, derive)

    assert handed == [b"first\n", b"first\nbob\n"]
    assert alice.read(PLAN) == b"first\nbob\nalice\n"


def test_update_gives_up_after_its_retries(root, alice, bob):
    def derive(data):
        bob.write(PLAN, bob.read(PLAN) + b"bob\n")
        return data + b"alice\n"

    with pytest.raises(ConflictError):
        alice.update(PLAN, derive, retries=2)

    assert b"alice" not in (root / PLAN).read_bytes()


def test_update_whose_function_raises_changes_nothing(root, alice):
    with pytest.raises(ZeroDivisionError):
        alice.update(PLAN, lambda data: b"%d" % (1 // 0))
    assert (root / PLAN).read_bytes() == b"first\n"


def test_append_derives_from_the_head_and_never_conflicts(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    commit = alice.append(PLAN, "alice\n")

    assert (root / PLAN).read_bytes() == b"bob's\nalice\n"
    assert commit.base == commit.generation - 1


# ── refused content ──────────────────────────────────────────────────────────


@pytest.mark.invariant("I6")
def test_refused_content_is_kept_and_named(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    with pytest.raises(StaleGenerationError) as refusal:
        alice.write(PLAN, "hours of work\n")

    kept = refusal.value.kept
    assert kept.startswith(".coherence/refused/")
    assert (root / kept).read_bytes() == b"hours of work\n"
    assert kept in str(refusal.value)
    assert [each.file for each in alice.status().refused] == [kept]
    assert bob.status().refused[0].bytes == len(b"hours of work\n")


@pytest.mark.invariant("I6")
def test_refused_write_is_invisible_to_peers(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    head = bob.write(PLAN, "bob's\n")
    before = sorted(Path(root).rglob("[!.]*"))
    entries = alice.log(PLAN)

    for content in ("short", b"x" * 2_000_000):
        with pytest.raises(ConflictError):
            alice.write(PLAN, content)

    assert bob.observe(PLAN, known=head.generation).data is None
    assert bob.log(PLAN) == entries
    visible = [p for p in Path(root).rglob("[!.]*") if ".coherence" not in p.parts]
    assert visible == [p for p in before if ".coherence" not in p.parts]


@pytest.mark.invariant("I6")
def test_large_refused_content_is_kept_whole(root, alice, bob):
    content = bytes(range(256)) * 12_000  # larger than any inline limit
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    with pytest.raises(StaleGenerationError) as refusal:
        alice.write(PLAN, content)

    assert (root / refusal.value.kept).read_bytes() == content


@pytest.mark.invariant("I6")
def test_same_refusal_reads_the_same_each_time(alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    said = []

    for _ in range(2):
        with pytest.raises(ConflictError) as refusal:
            alice.write(PLAN, "alice's\n")
        said.append((str(refusal.value), refusal.value.as_dict()))

    assert said[0] == said[1]


@pytest.mark.invariant("I6")
def test_refused_content_is_kept_even_when_its_directory_was_removed(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    with pytest.raises(ConflictError) as refusal:
        alice.write(PLAN, "one\n")
    shutil.rmtree((root / refusal.value.kept).parent)

    with pytest.raises(ConflictError) as refusal:
        alice.write(PLAN, "two\n")

    assert (root / refusal.value.kept).read_bytes() == b"two\n"


def stale_without_the_directory(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    shutil.rmtree(root / ".coherence" / "refused")


@pytest.mark.invariant("I6")
def test_refusal_without_its_directory_closes_nothing_of_the_programs(
    root, alice, bob, monkeypatch
):
    stale_without_the_directory(root, alice, bob)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "makedirs", full)
        with pytest.raises(CoherenceError):
            alice.write(PLAN, "mine\n")
    own = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
    with pytest.raises(ConflictError) as refusal:
        alice.write(PLAN, "mine\n")
    assert (root / refusal.value.kept).read_bytes() == b"mine\n"
    alice.close()
    for descriptor in own:
        assert stat.S_ISCHR(os.fstat(descriptor).st_mode)
        os.close(descriptor)


@pytest.mark.invariant("I6")
def test_refusals_of_several_threads_make_their_directory_anew_once(root, alice, bob):
    stale_without_the_directory(root, alice, bob)
    before = len(os.listdir("/proc/self/fd"))
    kept = []

    def refused(number):
        with pytest.raises(ConflictError) as refusal:
            alice.write(PLAN, f"{number}\n")
        kept.append((refusal.value.kept, f"{number}\n"))

    threads = [threading.Thread(target=refused, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 4
    for name, content in kept:
        assert (root / name).read_text() == content
    # The clean-up in the background has one or two open for a moment.
    until(lambda: len(os.listdir("/proc/self/fd")) <= before, "what was opened is closed")


@pytest.mark.invariant("I6")
def test_refusal_whose_staged_file_is_gone_lets_go_of_no_directory(alice, monkeypatch):
    alice.read(PLAN)
    staging = alice._parts.staging
    closed, close = [], os.close
    monkeypatch.setattr(os, "close", lambda number: (closed.append(number), close(number)))
    with pytest.raises(FileNotFoundError):
        staging.refuse("gone", ArtifactKey(PLAN.encode()), "alice", 1, digest_of(b"mine"))
    assert staging.refused not in closed


@pytest.mark.invariant("I6")
def test_refused_create_and_blind_write_keep_their_content_too(root, alice, bob):
    bob.create("plans/new.md", "bob's\n")

    with pytest.raises(AlreadyExistsError) as created:
        alice.create("plans/new.md", "created\n")
    with pytest.raises(NotObservedError) as written:
        alice.write("plans/new.md", "written\n")

    assert (root / created.value.kept).read_bytes() == b"created\n"
    assert (root / written.value.kept).read_bytes() == b"written\n"


def test_refused_delete_keeps_nothing_because_there_is_nothing(alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    with pytest.raises(StaleGenerationError) as refusal:
        alice.delete(PLAN)

    assert getattr(refusal.value, "kept", None) is None
    assert alice.status().refused == ()
