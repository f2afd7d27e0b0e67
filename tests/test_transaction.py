"""Hazard: artifacts that belong together are changed by halves, or from a mix of moments."""

from __future__ import annotations

import io
import os
import time

import pytest

from coherent_volume import (
    AlreadyExistsError,
    BusyError,
    ClosedError,
    ConflictError,
    FencedError,
    ForeignEditError,
    LeasedError,
    NotFoundError,
    NotManagedError,
    NotObservedError,
    OutsideRootError,
    StaleGenerationError,
    StorageError,
    UnconfirmedError,
    UsageError,
    commit,
    points,
)

A, B, C = "plans/a.md", "plans/b.md", "plans/c.md"


@pytest.fixture
def three(alice):
    """Three artifacts, all of which alice has seen."""
    for path in (A, B, C):
        alice.create(path, f"first {path}\n")
    return alice


def heads(volume):
    return {e.path: e.generation for e in reversed(volume.log())}


def staged(volume):
    """What this process has in staging that no install has left there."""
    displaced = {each.record.stage for each in volume._parts.displaced}
    spares = {name for name, _ in volume._parts.staging._spares}
    mine = os.listdir(volume._parts.staging.staging)
    return {n for n in mine if n.startswith(volume._parts.staging.token)} - displaced - spares


# ── all or nothing ───────────────────────────────────────────────────────────


def test_leaving_the_block_commits_every_member(three):
    with three.transaction() as tx:
        tx.write(A, tx.read(A) + b"more\n")
        tx.create("plans/new.md", "new\n")
        tx.delete(C)
    assert [(c.path, c.generation) for c in tx.commits] == [(A, 2), ("plans/new.md", 1), (C, 2)]
    assert three.read(A) == b"first plans/a.md\nmore\n"
    assert three.read("plans/new.md") == b"new\n"
    with pytest.raises(NotFoundError):
        three.read(C)


def test_an_exception_in_the_block_discards_everything(three):
    before = three.log()
    with pytest.raises(ZeroDivisionError), three.transaction() as tx:
        tx.write(A, "half\n")
        tx.write_from(B, io.BytesIO(b"half\n"))
        1 / 0  # noqa: B018
    assert three.log() == before
    assert tx.commits == ()
    assert staged(three) == set()


def test_nobody_sees_anything_before_the_block_is_left(three, bob):
    with three.transaction() as tx:
        tx.write(A, "second\n")
        tx.write_from(B, io.BytesIO(b"second\n"))
        assert bob.read(A) == b"first plans/a.md\n"
        assert bob.read(B) == b"first plans/b.md\n"
    assert bob.read(A) == bob.read(B) == b"second\n"


@pytest.mark.invariant("I6")
def test_a_refusal_changes_nothing_keeps_every_member_and_names_the_one(three, bob, root):
    bob.read(B)
    with pytest.raises(StaleGenerationError) as refused, three.transaction() as tx:
        tx.write(A, "mine a\n")
        tx.write(B, "mine b\n")
        bob.write(B, "bob's\n")
    assert refused.value.path == B
    kept = refused.value.fields["kept_members"]
    assert {path: (root / file).read_bytes() for path, file in kept.items()} == {
        A: b"mine a\n",
        B: b"mine b\n",
    }
    assert refused.value.fields["kept"] == kept[B]
    assert kept[A] in str(refused.value)
    assert three.read(A) == b"first plans/a.md\n"
    assert three.read(B) == b"bob's\n"


def test_the_same_refusal_says_the_same_words(three, bob):
    bob.read(B)
    texts = set()
    bob.write(B, "bob's\n")
    for _ in range(2):
        with pytest.raises(ConflictError) as refused, three.transaction() as tx:
            tx.write(B, "mine\n")
            tx.write(A, "mine too\n")
        texts.add(str(refused.value))
    assert len(texts) == 1


def test_every_member_belongs_to_one_commit_of_the_history(three):
    with three.transaction() as tx:
        for path in (A, B, C):
            tx.write(path, "second\n")
    rows = three._parts.sidecar.last_commit("alice")
    assert [os.fsdecode(row.key) for row in rows] == [A, B, C]


# ── what is read inside ──────────────────────────────────────────────────────


def test_reads_see_what_the_transaction_wrote(three):
    with three.transaction() as tx:
        tx.write(A, "mine\n")
        assert tx.read(A) == b"mine\n"
        tx.append(A, "more\n")
        assert tx.read_text(A) == "mine\nmore\n"
        tx.delete(B)
        assert not tx.exists(B)
        with pytest.raises(NotFoundError):
            tx.read(B)
        tx.rename(C, B)
        assert tx.read(B) == b"first plans/c.md\n"
        tx.update(B, bytes.upper)
    assert three.read(B) == b"FIRST PLANS/C.MD\n"
    assert heads(three) == {"plans/a.md": 2, "plans/b.md": 2, "plans/c.md": 2}


def test_the_last_content_of_a_member_makes_one_generation(three):
    with three.transaction() as tx:
        for text in ("one\n", "two\n", "three\n"):
            tx.write(A, text)
    assert [c.generation for c in tx.commits] == [2]
    assert three.read(A) == b"three\n"


def test_what_was_made_and_removed_again_never_happened(three):
    before = three.log()
    with three.transaction() as tx:
        tx.create("plans/new.md", "new\n")
        tx.delete("plans/new.md")
        tx.write("plans/other.md", "other\n")
        tx.delete("plans/other.md")
    assert tx.commits == ()
    assert three.log() == before


def test_a_deletion_and_a_creation_of_one_name_are_a_write(three):
    with three.transaction() as tx:
        tx.delete(A)
        tx.create(A, "again\n")
    assert three.read(A) == b"again\n"
    assert heads(three)[A] == 2


def test_reads_that_no_longer_fit_together_raise_at_once(three, bob):
    bob.reacquire()
    bob.read(A), bob.read(B)
    with pytest.raises(StaleGenerationError) as refused, three.transaction() as tx:
        tx.read(A)
        with bob.transaction() as other:
            other.write(A, "x\n")
            other.write(B, "y\n")
        tx.read(B)  # what it would see fits no moment at which A was as read
        pytest.fail("a mix was read")
    assert refused.value.path == A


def test_a_second_read_gives_the_same_bytes(three, bob):
    bob.read(A)
    with pytest.raises(StaleGenerationError), three.transaction() as tx:
        assert tx.read(A) == b"first plans/a.md\n"
        bob.write(A, "bob's\n")
        assert tx.read(A) == b"first plans/a.md\n"


def test_commits_elsewhere_do_not_disturb(three, bob):
    bob.read(C)
    with three.transaction() as tx:
        tx.read(A)
        bob.write(C, "bob's\n")
        tx.write(B, tx.read(A))
    assert len(tx.commits) == 1


# ── what is validated ────────────────────────────────────────────────────────


def test_what_was_only_read_must_still_stand(three, bob):
    bob.read(A)
    with pytest.raises(StaleGenerationError) as refused, three.transaction() as tx:
        tx.write(B, tx.read(A))
        bob.write(A, "bob's\n")
    assert refused.value.path == A
    assert three.read(B) == b"first plans/b.md\n"


def test_a_name_that_was_absent_must_still_be(three, bob):
    with pytest.raises(ConflictError) as refused, three.transaction() as tx:
        with pytest.raises(NotFoundError):
            tx.read("plans/lock")
        tx.write(A, "nobody holds the lock\n")
        bob.create("plans/lock", "bob\n")
    assert refused.value.path == "plans/lock"


def test_a_transaction_that_only_reads_is_validated_and_makes_nothing(three, bob):
    bob.read(A)
    with three.transaction() as tx:
        tx.read(A)
        tx.read(B)
    assert tx.commits == ()
    with pytest.raises(StaleGenerationError), three.transaction() as tx:
        tx.read(A)
        bob.write(A, "bob's\n")


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("member", [A, B], ids=["written", "only read"])
def test_an_outside_edit_of_any_member_refuses_all(three, root, member):
    with pytest.raises(ForeignEditError) as refused, three.transaction() as tx:
        tx.read(A)
        tx.read(B)
        tx.write(A, "mine\n")
        (root / member).write_bytes(b"outside\n")
    assert refused.value.path == member
    assert three.read(member) == b"outside\n"


def test_equal_content_counts_as_unchanged(three, bob):
    bob.read(A)
    with three.transaction() as tx:
        tx.write(B, tx.read(A))
        bob.write(A, "for a moment\n")
        bob.write(A, "first plans/a.md\n")
    assert tx.commits[0].changed


def test_a_write_without_a_read_is_judged_by_the_sessions_view(three, bob):
    with pytest.raises(NotObservedError), bob.transaction() as tx:
        tx.write(A, "blind\n")
    with pytest.raises(NotObservedError), bob.transaction() as tx:
        tx.append(A, "")
        tx.write(A, "blind all the same\n")
    bob.read(A)
    three.write(A, "second\n")
    with pytest.raises(StaleGenerationError), bob.transaction() as tx:
        tx.write(A, "stale\n")
    assert three.read(A) == b"second\n"


def test_what_a_refused_transaction_read_counts_as_read(three, bob):
    three.write(A, "second\n")
    with pytest.raises(NotObservedError), bob.transaction() as tx:
        tx.read(A)
        tx.write(B, "blind\n")
    assert bob.write(A, "third\n").generation == 3


def test_without_renew_the_sessions_view_stays_as_it_was(three, bob):
    with bob.transaction(renew=False) as tx:
        tx.write(A, tx.read(A) + b"by a filter\n")
    with pytest.raises(NotObservedError):
        bob.write(A, "blind\n")


@pytest.mark.invariant("I3")
def test_a_peers_lease_on_a_written_member_refuses_all(three, bob):
    bob.read(B)
    with bob.lease(B):
        with pytest.raises(LeasedError), three.transaction() as tx:
            tx.write(A, "mine\n")
            tx.write(B, "mine\n")
        with three.transaction() as tx:  # reading takes nothing from anybody
            tx.write(A, tx.read(B))
    assert heads(three)[A] == 2


@pytest.mark.invariant("I4")
def test_a_member_whose_ownership_was_taken_away_fences_all(three, bob):
    with pytest.raises(FencedError) as refused, three.transaction() as tx:
        tx.read(A)
        tx.write(B, "mine\n")
        three.lease(A)
        bob.break_lease(A)
    assert refused.value.path == A


# ── races after the commit point ─────────────────────────────────────────────


@pytest.mark.invariant("I8")
def test_an_outside_edit_that_races_one_member_leaves_the_commit_of_all(three, root, monkeypatch):
    def race(name, done=[]):  # noqa: B006
        if name == "before_install" and not done:
            done.append(True)
            (root / "tmp").write_bytes(b"outside\n")
            (root / "tmp").rename(root / A)

    with pytest.raises(ForeignEditError) as raced, three.transaction() as tx:
        for path in (A, B, C):
            tx.write(path, "mine\n")
        monkeypatch.setattr(points, "reached", race)
    assert raced.value.path == A
    assert raced.value.fields["members"] == {A: 2, B: 2, C: 2}
    assert three.read(A) == b"outside\n"
    assert three.read_at(A, 2) == three.read(B) == three.read(C) == b"mine\n"
    assert heads(three) == {A: 3, B: 2, C: 2}


@pytest.mark.invariant("I7")
def test_an_unconfirmed_commit_names_every_member(three, monkeypatch):
    def fail(*_):
        raise UnconfirmedError("could not write the sidecar: disk I/O error")

    monkeypatch.setattr(commit, "publish_all", fail)
    with pytest.raises(UnconfirmedError) as unknown, three.transaction() as tx:
        tx.write(A, "mine\n")
        tx.write(B, "mine\n")
    assert unknown.value.fields["members"] == {A: 2, B: 2}


def test_a_peer_with_old_content_in_memory_sees_all_members_new(three, volume, monkeypatch):
    """Between two installs a peer reads the first, then the second from memory."""
    peer = volume("peer")
    for _ in range(2):  # the second reading is remembered, the third comes from memory
        let_time_pass()
        assert peer.read(A).startswith(b"first")
        assert peer.read(B).startswith(b"first")
    seen = []

    def look(name):
        if name == "installed" and not seen:
            seen.append(peer._cache.get(B))

    with three.transaction() as tx:
        tx.write(A, "second\n")
        tx.write(B, "second\n")
        assert peer._cache.get(B) is not None, "the test needs it in memory"
        monkeypatch.setattr(points, "reached", look)
    assert seen == [None]


def let_time_pass():
    time.sleep(0.025)  # a younger fingerprint proves nothing, and is not remembered


# ── sizes and kinds ──────────────────────────────────────────────────────────


def test_large_and_binary_members_are_staged_at_once_and_streamed(three, bob):
    large = bytes(range(256)) * 8192  # 2 MiB
    with three.transaction() as tx:
        tx.write(A, large)
        tx.create_from("plans/large", io.BytesIO(large))
        tx.append("plans/large", b"\0end")
        tx.rename("plans/large", "plans/moved")
        sink = io.BytesIO()
        tx.read_to("plans/moved", sink)
        assert sink.getvalue() == large + b"\0end"
        assert all(len(i.content or b"") < 4096 for i in tx._intents())
    assert bob.read(A) == large
    assert bob.read("plans/moved") == large + b"\0end"
    assert staged(three) == set()
    assert len(os.listdir(three._parts.staging.objects)) == 2


def test_a_large_member_is_read_again_or_refused(three, bob):
    bob.write(B, b"x" * (2 << 20), overwrite=True)
    with pytest.raises(StaleGenerationError), three.transaction() as tx:
        assert len(tx.read(B)) == 2 << 20
        bob.write(B, b"y" * (2 << 20))
        tx.read(B)
        pytest.fail("two contents of one artifact were read")


def test_a_rename_keeps_mode_and_content(three, root):
    (root / A).chmod(0o640)
    with three.transaction() as tx:
        tx.rename(A, "plans/moved.md")
    assert (root / "plans/moved.md").stat().st_mode & 0o777 == 0o640
    assert not (root / A).exists()


def test_deletions_from_outside_are_waited_for_all_at_once(three, root):
    names = [f"plans/{n}.md" for n in range(12)]
    with three.transaction() as tx:
        for name in names:
            tx.create(name, "x\n")
    with pytest.raises(ForeignEditError), three.transaction() as tx:
        for name in names:
            tx.write(name, "y\n")
            (root / name).unlink()
    assert {name: generation for name, generation in heads(three).items() if name in names} == (
        dict.fromkeys(names, 2)
    )


# ── bad use ──────────────────────────────────────────────────────────────────


def test_an_unmanaged_path_is_refused_at_once_and_nothing_is_staged(three):
    with pytest.raises(NotManagedError), three.transaction() as tx:
        tx.write(A, "mine\n")
        tx.write_from("elsewhere.md", io.BytesIO(b"x"))
    assert heads(three)[A] == 1
    assert staged(three) == set()
    with pytest.raises(OutsideRootError), three.transaction() as tx:
        tx.read("../secret")


def test_a_link_inside_the_root_stands_for_its_target(three, root):
    (root / "plans/link.md").symlink_to("a.md")
    with three.transaction() as tx:
        tx.write("plans/link.md", tx.read(A) + b"by the link\n")
        assert tx.read(A).endswith(b"by the link\n")
    assert [c.path for c in tx.commits] == [A]


def test_creating_a_taken_name_is_refused_at_once(three, bob):
    with pytest.raises(AlreadyExistsError), three.transaction() as tx:
        tx.create(A, "x")
        pytest.fail("not refused at once")
    with pytest.raises(AlreadyExistsError), three.transaction() as tx:
        tx.create("plans/new.md", "mine\n")
        bob.create("plans/new.md", "bob's\n")


def test_wrong_uses_are_told(three):
    tx = three.transaction()
    with pytest.raises(ClosedError):
        tx.read(A)
    with tx:
        with pytest.raises(NotFoundError):
            tx.rename("plans/nothing", "plans/x")
        with pytest.raises(UsageError):
            tx.rename(A, A)
        with pytest.raises(AlreadyExistsError):
            tx.rename(A, B)
        with pytest.raises(NotFoundError):
            tx.delete("plans/nothing") if not tx.exists("plans/nothing") else None
        with pytest.raises(UsageError):
            tx.write(A, 5)
    with pytest.raises(ClosedError):
        tx.write(A, "late\n")
    with pytest.raises(UsageError), tx:
        pass


def test_a_forked_child_cannot_end_its_parents_transaction(three, process, root):
    with three.transaction() as tx:
        tx.write_from(A, io.BytesIO(b"mine\n"))
        pid = os.fork()
        if pid == 0:
            try:
                tx.__exit__(None, None, None)
            except ClosedError:
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert three.read(A) == b"mine\n"


def _exists_write_append(tx):
    tx.exists(A)
    tx.write(A, "mine\n")
    tx.append(A, "more\n")


def _exists_delete_create(tx):
    tx.exists(A)
    tx.delete(A)
    tx.create(A, "mine\n")


def _append_delete_create(tx):
    tx.append(A, "more\n")
    tx.delete(A)
    tx.create(A, "mine\n")


def _append_write(tx):
    tx.append(A, "more\n")
    tx.write(A, "mine\n")


@pytest.mark.invariant("I1")
@pytest.mark.parametrize(
    "steps", [_exists_write_append, _exists_delete_create, _append_delete_create, _append_write]
)
@pytest.mark.parametrize("who", ["stale", "blind"])
def test_no_order_of_steps_replaces_what_was_never_read(three, bob, steps, who):
    if who == "stale":
        bob.read(A)
    three.write(A, "precious\n")
    with pytest.raises(ConflictError), bob.transaction() as tx:
        steps(tx)
    assert three.read(A) == b"precious\n"


# ── transact ─────────────────────────────────────────────────────────────────


def test_transact_calls_again_on_a_conflict_and_returns_the_answer(three, bob):
    bob.read(A)
    tries = []

    def move(tx):
        text = tx.read_text(A)
        if not tries:
            bob.write(A, "bob's\n")
        tries.append(text)
        tx.write(B, text)
        return len(tries)

    assert three.transact(move) == 2
    assert three.read(B) == b"bob's\n"
    assert os.listdir(three._parts.staging.refused) == []


def test_transact_gives_up_and_keeps_what_was_refused_last(three, bob):
    bob.read(A)

    def never(tx):
        tx.write(B, tx.read(A) + b"mine\n")
        bob.write(A, bob.read(A) + b"again\n")

    with pytest.raises(StaleGenerationError) as refused:
        three.transact(never, retries=2)
    assert heads(three)[A] == 4
    assert refused.value.fields["kept"]
    kept, report = sorted(os.listdir(three._parts.staging.refused), key=len)
    assert refused.value.fields["kept"].endswith(kept)
    assert report.endswith(".report")


@pytest.mark.parametrize("error", [AlreadyExistsError, NotObservedError])
def test_transact_does_not_repeat_what_would_end_the_same(three, bob, error):
    tries = []

    def wrong(tx):
        tries.append(1)
        tx.create(A, "x") if error is AlreadyExistsError else tx.write(B, "blind\n")

    with pytest.raises(error):
        bob.transact(wrong)
    assert len(tries) == 1


def test_transact_never_repeats_a_commit_that_stands(three, root, monkeypatch):
    tries = []

    def race(name):
        if name == "before_install" and len(tries) == 1 and not (root / "raced").exists():
            (root / "raced").touch()
            (root / "tmp").write_bytes(b"outside\n")
            (root / "tmp").rename(root / A)

    def add(tx):
        tries.append(1)
        tx.write(A, "mine\n")
        tx.update(B, lambda data: data + b"once\n")

    monkeypatch.setattr(points, "reached", race)
    with pytest.raises(ForeignEditError):
        three.transact(add)
    assert len(tries) == 1
    assert three.read(B).count(b"once\n") == 1


def test_a_busy_member_refuses_all_and_changes_nothing(three, root):
    with (root / A).open("r+b"), pytest.raises(BusyError), three.transaction() as tx:
        tx.write(A, "mine\n")
        tx.write(B, "mine\n")
    assert heads(three)[B] == 1


@pytest.mark.invariant("I7")
def test_a_view_that_cannot_be_renewed_does_not_deny_the_commit_of_the_others(three, monkeypatch):
    """The disk may be full again right after the commit point."""

    def fail(*_):
        raise StorageError("no space", step="write", errno=28)

    with three.transaction() as tx:
        tx.write(A, tx.read(A) + b"more\n")
        tx.write(B, tx.read(B))
        monkeypatch.setattr("coherent_volume.commit.remember", fail)

    assert [commit.changed for commit in tx.commits] == [True, False]
    assert three.read(A).endswith(b"more\n")
