"""Hazard: work that was undone, overwritten or swept away cannot be brought back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime

import pytest

from coherent_volume import (
    CoherentVolume,
    ConflictError,
    ForeignEditError,
    GenerationNotKeptError,
    NotFoundError,
    StaleGenerationError,
    UsageError,
)

A, B, C = "plans/a.md", "plans/b.md", "plans/c.md"


def keep_only(root, generations):
    config = root / ".coherence/config.toml"
    text = re.sub(r"(?m)^generations = .*", f"generations = {generations}", config.read_text())
    config.write_text(text)


def contents(volume, *paths):
    found = []
    for path in paths:
        try:
            found.append(volume.read(path))
        except NotFoundError:
            found.append(None)
    return found


# ── reading the past ─────────────────────────────────────────────────────────


def test_every_kept_generation_can_be_read(alice):
    for text in ("one\n", "two\n"):
        alice.write(A, text)
    alice.delete(A)
    assert [alice.read_at(A, n) for n in (1, 2)] == [b"one\n", b"two\n"]
    with pytest.raises(NotFoundError, match="generation 3 is a deletion"):
        alice.read_at(A, 3)
    assert [e.generation for e in alice.history(A)] == [3, 2, 1]


def test_a_generation_that_is_not_kept_says_which_remain(volume, root):
    volume("alice").close()
    keep_only(root, 3)
    alice = volume("bob")
    for number in range(6):
        alice.write(A, f"{number}\n")
    for generation, what in [(1, "is not kept any longer"), (77, "does not exist")]:
        for act in (alice.read_at, alice.restore, alice.diff):
            with pytest.raises(GenerationNotKeptError) as refused:
                act(A, generation)
            assert f"generation {generation} {what}; generations 4 to 6 are kept" in str(
                refused.value
            )
            assert (refused.value.oldest, refused.value.newest) == (4, 6)


def test_asking_for_the_past_renews_no_view(alice, bob):
    alice.create(A, "one\n")
    assert bob.read_at(A, 1) == b"one\n"
    with pytest.raises(ConflictError):
        bob.write(A, "blind\n")


@pytest.mark.parametrize("wrong", [-1, True, "1", 1 << 64, 1.0])
def test_what_is_no_generation_is_told(alice, wrong):
    alice.create(A, "one\n")
    with pytest.raises(UsageError):
        alice.read_at(A, wrong)


def test_what_was_never_committed_has_generation_0_only(alice):
    assert alice.read_at("plans/plan.md", 0) == b"first\n"
    with pytest.raises(NotFoundError):
        alice.read_at("plans/nothing", 0)
    with pytest.raises(GenerationNotKeptError, match="nothing was committed here yet"):
        alice.read_at("plans/plan.md", 2)


# ── restore ──────────────────────────────────────────────────────────────────


@pytest.mark.invariant("I2")
def test_a_restore_is_a_new_generation_and_keeps_mode(alice, bob, root):
    alice.create(A, "one\n")
    (root / A).chmod(0o640)
    alice.write(A, "two\n")
    commit = bob.restore(A, 1)
    assert (commit.generation, commit.base) == (3, 2)
    assert (root / A).read_bytes() == b"one\n"
    assert (root / A).stat().st_mode & 0o777 == 0o640
    assert [e.kind for e in alice.log(A)] == ["restore", "write", "create"]
    assert not bob.restore(A, 1).changed


def test_a_deletion_is_restored_and_taken_back(alice, root):
    alice.create(A, "one\n")
    alice.delete(A)
    assert alice.restore(A, 1).generation == 3
    assert (root / A).read_bytes() == b"one\n"
    assert alice.restore(A, 2).digest == ""
    assert not (root / A).exists()
    assert not alice.restore(A, 2).changed


@pytest.mark.invariant("I8")
def test_a_restore_over_an_unseen_outside_edit_adopts_it_and_is_refused(alice, root):
    alice.create(A, "one\n")
    alice.write(A, "two\n")
    (root / A).write_bytes(b"outside\n")
    with pytest.raises(ForeignEditError, match="is generation 3; nothing was restored"):
        alice.restore(A, 1)
    assert (root / A).read_bytes() == alice.read_at(A, 3) == b"outside\n"
    assert alice.restore(A, 1).generation == 4


def test_large_content_is_restored_in_pieces(alice, bob):
    large = os.urandom(1 << 20) * 20
    alice.create(A, large)
    alice.write(A, "small\n")
    alice.restore(A, 1)
    assert bob.read(A) == large


def test_a_restore_gives_nobody_a_view(alice, bob):
    alice.create(A, "one\n")
    alice.write(A, "two\n")
    bob.restore(A, 1)
    with pytest.raises(ConflictError):
        bob.write(A, "blind\n")


# ── undo ─────────────────────────────────────────────────────────────────────


def test_undo_takes_back_the_last_commit_and_undone_twice_it_is_redone(alice):
    alice.write("plans/plan.md", "mine\n", overwrite=True)
    for expected in (b"first\n", b"mine\n", b"first\n"):
        (commit,) = alice.undo()
        assert alice.read("plans/plan.md") == expected
    assert commit.generation == 4
    assert [e.kind for e in alice.log("plans/plan.md")][:3] == ["undo"] * 3


@pytest.mark.parametrize("make", ["create", "write", "append"])
def test_undo_of_a_creation_deletes_however_it_was_made(alice, make):
    getattr(alice, make)(A, "new\n")
    alice.undo()
    assert contents(alice, A) == [None]
    alice.undo()
    assert contents(alice, A) == [b"new\n"]


def test_undo_takes_back_a_transaction_as_one(alice):
    alice.create(A, "a\n"), alice.create(B, "b\n")
    with alice.transaction() as tx:
        tx.write(A, "A\n")
        tx.rename(B, C)
    assert contents(alice, A, B, C) == [b"A\n", None, b"b\n"]
    assert len(alice.undo()) == 3
    assert contents(alice, A, B, C) == [b"a\n", b"b\n", None]
    alice.undo()
    assert contents(alice, A, B, C) == [b"A\n", None, b"b\n"]


def test_undo_is_refused_as_a_whole_when_somebody_built_on_a_member(alice, bob, root):
    alice.create(A, "a\n"), alice.create(B, "b\n")
    with alice.transaction() as tx:
        tx.write(A, "A\n")
        tx.write(B, "B\n")
    bob.read(B)
    bob.write(B, "bob's\n")
    with pytest.raises(StaleGenerationError) as refused:
        alice.undo()
    assert refused.value.path == B
    assert contents(alice, A, B) == [b"A\n", b"bob's\n"]
    (root / B).write_bytes(b"outside\n")
    bob.reacquire()
    with pytest.raises(ConflictError):
        bob.undo()


def test_undo_is_the_sessions_own_also_over_processes(alice, bob, process, root):
    alice.create(A, "a\n")
    process(
        "from coherent_volume import CoherentVolume\n"
        "CoherentVolume(root, session='alice').create('plans/b.md', 'b')",
        root=root,
    )
    bob.create(C, "c\n")
    (commit,) = alice.undo()
    assert commit.path == B
    with pytest.raises(NotFoundError, match="has committed nothing"):
        CoherentVolume(root, session="carol").undo()


def test_undo_never_takes_back_half_of_what_is_not_all_kept(volume, root):
    volume("alice").close()
    keep_only(root, 2)
    alice, bob = volume("bob"), volume("carol")
    with alice.transaction() as tx:
        tx.create(A, "a\n")
        tx.create(B, "b\n")
    for number in range(4):
        bob.write(A, f"{number}\n", overwrite=True)
    with pytest.raises(GenerationNotKeptError):
        alice.undo()
    assert contents(alice, B) == [b"b\n"]


@pytest.mark.parametrize("order", [(A, B), (B, A)], ids=["first", "last"])
@pytest.mark.parametrize("pruned", [A, B])
def test_undo_knows_how_many_members_there_were(volume, root, order, pruned):
    volume("alice").close()
    keep_only(root, 2)
    alice, bob = volume("bob"), volume("carol")
    for path in order:
        alice.create(path, "before\n")
    with alice.transaction() as tx:
        for path in order:
            tx.write(path, "alice's\n")
    for number in range(40):
        bob.write(pruned, f"{number}\n", overwrite=True)
    with pytest.raises(GenerationNotKeptError, match="not all of this session's last commit"):
        alice.undo()
    other = B if pruned == A else A
    assert contents(alice, other, pruned) == [b"alice's\n", b"39\n"]


@pytest.mark.invariant("I1")
def test_undo_is_refused_when_others_committed_the_same_bytes_meanwhile(alice, bob):
    alice.create(A, "5\n")
    alice.write(A, "6\n")
    bob.read(A)
    bob.write(A, "7\n")
    bob.write(A, "6\n")
    with pytest.raises(StaleGenerationError, match=r"bob committed .* generation 2, .* is 4"):
        alice.undo()
    assert contents(alice, A) == [b"6\n"]
    assert alice.log(A)[0].generation == 4


# ── a session's spree ────────────────────────────────────────────────────────


@pytest.fixture
def spree(alice, bob):
    """Bob changes, makes and deletes; what he built on is alice's."""
    for path in (A, B):
        alice.create(path, f"alice's {path}\n")
    since = time.time()
    bob.reacquire()
    for path in (A, B):
        bob.read(path)
    bob.write(A, "spree 1\n")
    bob.write(A, "spree 2\n")
    bob.delete(B)
    bob.create(C, "spree\n")
    return since


def test_a_spree_is_taken_back_in_one_transaction(alice, spree):
    done = alice.restore_since(spree, by="bob")
    assert contents(alice, A, B, C) == [b"alice's plans/a.md\n", b"alice's plans/b.md\n", None]
    assert {(s.path, s.generation, s.deletes) for s in done.steps} == {
        (A, 1, False),
        (B, 1, False),
        (C, 0, True),
    }
    assert done.left == ()
    assert len(alice.undo()) == 3
    assert contents(alice, A, B, C) == [b"spree 2\n", None, b"spree\n"]


def test_what_others_built_on_is_left_alone_and_reported(alice, bob, spree):
    alice.read(A)
    alice.write(A, "alice again\n")
    done = alice.restore_since(datetime.fromtimestamp(spree, UTC), by="bob")
    assert [(e.path, e.reason) for e in done.left] == [
        (A, "alice has built on it since: generation 4")
    ]
    assert contents(alice, A, B, C) == [b"alice again\n", b"alice's plans/b.md\n", None]


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_somebody_has_leased_is_left_alone_and_the_rest_goes_back(alice, bob, spree, dry_run):
    with bob.lease(A, ttl=60.0) as lease:
        done = alice.restore_since(spree, by="bob", dry_run=dry_run)
    assert [e.path for e in done.left] == [A]
    assert re.fullmatch(r"bob holds a lease of it, until \S+ at the latest", done.left[0].reason)
    assert {step.path for step in done.steps} == {B, C}
    assert len(done.commits) == (0 if dry_run else 2)
    assert contents(alice, A)[0] == b"spree 2\n"
    assert lease is not None


def test_a_lease_that_comes_in_between_is_left_alone_too(alice, bob, spree):
    held = []

    def take(done, total):
        if total == 3 and not held:  # the plan stands, nothing is judged yet
            held.append(bob.lease(A, ttl=60.0))

    done = alice.restore_since(spree, by="bob", progress=take)
    assert held
    assert [e.path for e in done.left] == [A]
    assert contents(alice, A, B, C) == [b"spree 2\n", b"alice's plans/b.md\n", None]
    held[0].release()


def test_ones_own_lease_hinders_nobody(alice, spree):
    with alice.lease(A, ttl=60.0):
        assert alice.restore_since(spree, by="bob").left == ()


def test_a_dry_run_changes_nothing(alice, spree):
    before = alice.log()
    done = alice.restore_since(spree, by="bob", dry_run=True)
    assert len(done.steps) == 3
    assert done.commits == ()
    assert alice.log() == before


def test_a_spree_before_the_time_is_not_touched(alice, spree):
    assert alice.restore_since(time.time(), by="bob").steps == ()
    assert alice.restore_since(spree, by="nobody").steps == ()


def test_a_spree_that_is_gone_already_needs_nothing(alice, bob, spree):
    bob.restore(A, 1)
    done = alice.restore_since(spree, by="bob")
    assert A not in {s.path for s in done.steps}


@pytest.mark.parametrize("wrong", [datetime(2026, 1, 1), "yesterday", None, float("inf")])  # noqa: DTZ001
def test_what_is_no_time_is_told(alice, wrong):
    with pytest.raises(UsageError):
        alice.restore_since(wrong, by="bob")


def test_progress_is_told(alice, spree):
    told = []
    alice.restore_since(spree, by="bob", progress=lambda done, total: told.append((done, total)))
    assert told[0][0] == 0
    assert all(done <= total for done, total in told)


def git(root, *words):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
    subprocess.run(command, cwd=root, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.invariant("I8")
@pytest.mark.parametrize("adopted", [False, True], ids=["unseen", "adopted"])
def test_a_stray_git_checkout_of_40_files_is_undone_as_one(volume, root, adopted):
    alice = volume("alice", durability="process")
    names = [f"plans/{number:02}.md" for number in range(40)]
    for name in names:
        (root / name).write_text("as committed to git\n")
    git(root, "init", "-q")
    git(root, "add", "plans")
    git(root, "commit", "-qm", "start")
    with alice.transaction() as tx:
        for name in names[:35]:
            tx.write(name, tx.read(name) + b"hours of work\n")
        for name in names[35:]:
            tx.read(name)
            tx.delete(name)
        tx.create("plans/other.md", "not in git\n")
    worked = {name: contents(alice, name)[0] for name in [*names, "plans/other.md"]}
    since = time.time()

    git(root, "checkout", "-q", "-f", "HEAD", "--", "plans")
    assert all((root / name).read_bytes() == b"as committed to git\n" for name in names)
    if adopted:
        alice.reacquire()

    done = alice.restore_since(since, by="outside")
    assert len(done.steps) == len(done.commits) == 40
    assert done.left == ()
    assert {name: contents(alice, name)[0] for name in worked} == worked
    assert [(root / n).exists() for n in names] == [True] * 35 + [False] * 5
    kinds = [e.kind for e in alice.log(names[0])]
    assert kinds == ["restore", "foreign", "write", "baseline"]


def test_something_odd_in_place_of_an_artifact_is_reported_and_the_rest_goes_back(alice, root):
    alice.create(A, "a\n"), alice.create(B, "b\n")
    since = time.time()
    (root / A).unlink()
    (root / A).mkdir()
    (root / B).write_bytes(b"outside\n")
    done = alice.restore_since(since, by="outside")
    assert [e.path for e in done.left] == [A]
    assert contents(alice, B) == [b"b\n"]


def test_an_old_outside_edit_that_is_found_only_now_is_left_alone(volume, root):
    alice = volume("alice")
    alice.read("plans/plan.md")
    (root / "plans/plan.md").write_text("by hand, long ago\n")
    since = time.time() + 3600
    done = alice.restore_since(since, by="outside")
    assert (done.steps, done.commits) == ((), ())
    assert [each.path for each in done.left] == ["plans/plan.md"]
    assert "is older" in done.left[0].reason
    assert alice.read("plans/plan.md") == b"by hand, long ago\n"
    assert alice.log("plans/plan.md")[0].session == "outside"
