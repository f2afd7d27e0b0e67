"""The contract: the same cases for every way to a volume, blind to which one it is.

Alice comes by the way under test, bob, her peer, by the library.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coherent_volume import CoherentVolume
from tests.contract.adapters import (
    ADAPTERS,
    AbsentError,
    Adapter,
    ExistsError,
    LeasedError,
    RefusedError,
)
from tests.harness.processes import until

TEXT = b"".join(b"line %d\n" % n for n in range(1, 21))


@pytest.fixture(scope="module", params=ADAPTERS)
def both(request, tmp_path_factory) -> Iterator[tuple[Adapter, CoherentVolume]]:
    """Alice by the way under test, and bob, over one volume for all cases."""
    scratch = tmp_path_factory.mktemp(f"contract-{request.param}")
    root = scratch / "root"
    (root / "merged").mkdir(parents=True)
    (root / "plans").mkdir()
    # Not the temporary files of tools, which would make generations of their own.
    CoherentVolume(root, managed=("plans/*.md", "merged/*.md")).close()
    with (root / ".coherence" / "config.toml").open("a") as config:
        config.write('[[rule]]\npaths = ["merged/*.md"]\non_conflict = "merge"\n')
    with (
        CoherentVolume(root, session="bob") as bob,
        ADAPTERS[request.param](root, scratch) as alice,
    ):
        yield alice, bob


@pytest.fixture
def alice(both) -> Adapter:
    """The session under test."""
    return both[0]


@pytest.fixture
def bob(both) -> CoherentVolume:
    """The peer."""
    return both[1]


@pytest.fixture
def root(bob) -> Path:
    """The real directory."""
    return Path(bob.root)


@pytest.fixture
def plan(root) -> str:
    """A plan of 20 lines that nobody but this case works on."""
    return new_plan(root, "plans")


@pytest.fixture
def merged_plan(root) -> str:
    """One whose stale saves are merged."""
    return new_plan(root, "merged")


def new_plan(root: Path, folder: str) -> str:
    path = f"{folder}/{len(os.listdir(root / folder))}-{time.monotonic_ns()}.md"
    (root / path).write_bytes(TEXT)
    return path


def bob_writes(bob: CoherentVolume, path: str, data: bytes = TEXT + b"by bob\n") -> None:
    bob.read(path)
    bob.write(path, data)


def generation(bob: CoherentVolume, path: str) -> int:
    found = bob.log(path, limit=1)
    return found[0].generation if found else 0


# ── alone ────────────────────────────────────────────────────────────────────


def test_what_is_read_is_what_is_there(alice, bob, plan):
    assert alice.read(plan) == TEXT
    bob_writes(bob, plan)
    assert alice.read(plan) == TEXT + b"by bob\n"


def test_each_write_is_one_generation_and_seen_by_the_peer(alice, bob, root, plan):
    alice.read(plan)
    for number in range(1, 4):
        alice.write(plan, b"%d\n" % number)
        assert bob.read(plan) == (root / plan).read_bytes() == b"%d\n" % number
        assert generation(bob, plan) == number


def test_a_new_artifact_is_created_once(alice, bob, plan):
    new = plan.replace(".md", "-new.md")
    alice.create(new, b"new\n")
    assert bob.read(new) == b"new\n"
    with pytest.raises(ExistsError):
        alice.create(new, b"again\n")
    assert bob.read(new) == b"new\n"
    assert generation(bob, new) == 1


def test_what_does_not_exist_cannot_be_read_or_deleted(alice, plan):
    for act in (
        lambda: alice.read("plans/absent.md"),
        lambda: alice.delete("plans/absent.md"),
    ):
        with pytest.raises(AbsentError):
            act()


def test_large_content_comes_through_whole(alice, bob, plan):
    data = os.urandom(1 << 20) + b"tail"
    alice.read(plan)
    alice.write(plan, data)
    assert alice.read(plan) == bob.read(plan) == data
    assert generation(bob, plan) == 1


def test_a_deletion_reaches_the_peer_and_is_one_generation(alice, bob, root, plan):
    alice.read(plan)
    alice.delete(plan)
    with pytest.raises(AbsentError):
        alice.read(plan)
    until(lambda: not (root / plan).exists(), "the file is gone")
    until(lambda: generation(bob, plan) == 1, "the deletion is committed")
    alice.create(plan, b"back\n")
    assert bob.read(plan) == b"back\n"
    assert generation(bob, plan) == 2


def test_a_rename_takes_the_content_along(alice, bob, root, plan):
    other = plan.replace(".md", "-other.md")
    alice.read(plan)
    alice.rename(plan, other)
    until(lambda: not (root / plan).exists(), "the file is gone")
    assert bob.read(other) == TEXT
    assert alice.read(other) == TEXT
    with pytest.raises(AbsentError):
        alice.read(plan)


def test_undo_brings_back_what_the_session_last_replaced(alice, bob, plan):
    alice.read(plan)
    alice.write(plan, b"a mistake\n")
    alice.undo()
    assert bob.read(plan) == alice.read(plan) == TEXT


# ── against a peer ───────────────────────────────────────────────────────────


@pytest.mark.invariant("I1")
def test_a_stale_write_is_refused_and_the_peers_content_stays(alice, bob, root, plan):
    alice.read(plan)
    bob_writes(bob, plan)
    with pytest.raises(RefusedError):
        alice.write(plan, b"from memory\n")
    assert bob.read(plan) == (root / plan).read_bytes() == TEXT + b"by bob\n"
    assert generation(bob, plan) == 1
    assert "bob committed" in alice.why(plan)


@pytest.mark.invariant("I6")
def test_refused_content_is_kept(alice, bob, root, plan):
    alice.read(plan)
    bob_writes(bob, plan)
    with pytest.raises(RefusedError):
        alice.replace(plan, b"from memory\n")
    assert (root / plan).read_bytes() == TEXT + b"by bob\n"
    kept = [each.read_bytes() for each in (root / ".coherence" / "refused").iterdir()]
    assert b"from memory\n" in kept


def test_a_stale_write_is_refused_as_often_as_it_is_tried(alice, bob, root, plan):
    alice.read(plan)
    bob_writes(bob, plan)
    for _ in range(3):
        with pytest.raises(RefusedError):
            alice.write(plan, b"from memory\n")
    assert (root / plan).read_bytes() == TEXT + b"by bob\n"


def test_who_reads_again_may_write(alice, bob, plan):
    alice.read(plan)
    bob_writes(bob, plan)
    with pytest.raises(RefusedError):
        alice.write(plan, b"from memory\n")
    alice.write(plan, alice.read(plan) + b"by alice\n")
    assert bob.read(plan) == TEXT + b"by bob\nby alice\n"


@pytest.mark.invariant("I1")
def test_two_who_turn_five_into_six_are_a_conflict(alice, bob, root, plan):
    bob_writes(bob, plan, b"5\n")
    alice.read(plan)
    bob_writes(bob, plan, b"6\n")
    with pytest.raises(RefusedError):
        alice.write(plan, b"6\n")
    assert generation(bob, plan) == 2


def test_what_was_never_read_and_changed_meanwhile_is_not_overwritten(alice, bob, root, plan):
    bob_writes(bob, plan)
    with pytest.raises(RefusedError):
        alice.write(plan, b"blind\n")
    assert (root / plan).read_bytes() == TEXT + b"by bob\n"


@pytest.mark.invariant("I6")
def test_a_stale_deletion_is_refused(alice, bob, root, plan):
    alice.read(plan)
    bob_writes(bob, plan)
    with pytest.raises(RefusedError):
        alice.delete(plan)
    assert alice.read(plan) == (root / plan).read_bytes() == TEXT + b"by bob\n"


def test_an_append_loses_nobodys_text(alice, bob, plan):
    alice.read(plan)
    bob_writes(bob, plan)
    alice.append(plan, b"by alice\n")
    assert bob.read(plan) == TEXT + b"by bob\nby alice\n"
    assert generation(bob, plan) == 2


def test_an_edit_of_the_head_keeps_the_peers_lines(alice, bob, plan):
    alice.read(plan)
    bob_writes(bob, plan)
    alice.edit(plan, b"line 3", b"edited")
    assert bob.read(plan) == TEXT.replace(b"line 3", b"edited") + b"by bob\n"


def test_an_edit_from_outside_is_not_overwritten_either(alice, bob, root, plan):
    alice.read(plan)
    (root / "editor").write_bytes(TEXT + b"by an editor\n")
    os.replace(root / "editor", root / plan)
    with pytest.raises(RefusedError):
        alice.write(plan, b"from memory\n")
    assert (root / plan).read_bytes() == TEXT + b"by an editor\n"


@pytest.mark.invariant("I3")
def test_what_a_peer_has_leased_is_told_as_such(alice, bob, root, plan):
    alice.read(plan)
    with bob.lease(plan), pytest.raises(LeasedError):
        alice.write(plan, b"by alice\n")
    assert (root / plan).read_bytes() == TEXT
    alice.write(plan, b"by alice\n")
    assert bob.read(plan) == b"by alice\n"


# ── where the configuration says: merge ──────────────────────────────────────


def test_a_stale_write_of_another_place_is_merged_if_configured(alice, bob, root, merged_plan):
    plan = merged_plan
    text = alice.read(plan)
    bob.update(plan, lambda data: data.replace(b"line 15\n", b"by bob\n"))
    alice.write(plan, text.replace(b"line 3\n", b"by alice\n"))
    merged = TEXT.replace(b"line 3\n", b"by alice\n").replace(b"line 15\n", b"by bob\n")
    assert bob.read(plan) == (root / plan).read_bytes() == merged
    assert bob.log(plan, limit=1)[0].kind == "merge"


def test_a_stale_write_of_the_same_place_is_refused_all_the_same(alice, bob, merged_plan):
    plan = merged_plan
    text = alice.read(plan)
    bob.update(plan, lambda data: data.replace(b"line 3\n", b"by bob\n"))
    with pytest.raises(RefusedError):
        alice.write(plan, text.replace(b"line 3\n", b"by alice\n"))
    assert bob.read(plan) == TEXT.replace(b"line 3\n", b"by bob\n")
