"""Hazard: two sessions each change one file because of what the other one held (write skew)."""

from __future__ import annotations

import itertools
import time

import pytest

from coherent_volume import CoherentVolume, ConflictError, StaleGenerationError

ALICE, BOB = "plans/alice", "plans/bob"
POINTS_AFTER_THE_COMMIT = ("published", "before_install", "installed", "verified", "acknowledged")


@pytest.fixture
def rota(alice, bob):
    """Two doctors on call, of whom one must stay; both sessions have read both."""
    alice.create(ALICE, "on call\n")
    alice.create(BOB, "on call\n")
    for volume in (alice, bob):
        volume.read(ALICE), volume.read(BOB)
    return alice, bob


def test_plain_compare_and_swap_lets_write_skew_through(rota):
    alice, bob = rota
    assert alice.read(BOB) == bob.read(ALICE) == b"on call\n"
    alice.write(ALICE, "off\n")
    bob.write(BOB, "off\n")  # judged by BOB alone, which stood still
    assert {alice.read(ALICE), alice.read(BOB)} == {b"off\n"}


def leave(tx, mine, other):
    if tx.read(other) == b"on call\n":
        tx.write(mine, "off\n")


@pytest.mark.invariant("I1")
def test_transactions_refuse_write_skew(rota):
    alice, bob = rota
    with pytest.raises(StaleGenerationError) as refused, alice.transaction() as one:
        leave(one, ALICE, BOB)
        with bob.transaction() as two:
            leave(two, BOB, ALICE)
    assert refused.value.path == BOB
    assert [alice.read(ALICE), alice.read(BOB)] == [b"on call\n", b"off\n"]


def test_a_repeated_transaction_sees_what_the_other_did_and_stays(rota):
    alice, bob = rota
    done = []

    def mine(tx):
        leave(tx, ALICE, BOB)
        if not done:
            done.append(bob.transact(lambda other: leave(other, BOB, ALICE)))

    alice.transact(mine)
    assert [alice.read(ALICE), alice.read(BOB)] == [b"on call\n", b"off\n"]


def test_two_sessions_that_each_make_a_name_because_the_others_is_absent(alice, bob):
    def make(tx, mine, other):
        if not tx.exists(other):
            tx.create(mine, "here\n")

    with pytest.raises(ConflictError), alice.transaction() as one:
        make(one, ALICE, BOB)
        with bob.transaction() as two:
            make(two, BOB, ALICE)
    assert [e.path for e in alice.log()] == [BOB]


# ── many processes ───────────────────────────────────────────────────────────

TELLER = """
import random
from coherent_volume import CoherentVolume
dice = random.Random(seed)
moved = 0
with CoherentVolume(root) as volume:
    def transfer(tx):
        # The order of reading is random too: no order can deadlock.
        one, two = dice.sample(range(accounts), 2)
        have = int(tx.read(f"plans/{one}"))
        amount = dice.randint(0, have)
        tx.write(f"plans/{one}", str(have - amount))
        tx.update(f"plans/{two}", lambda data: str(int(data) + amount))
        return amount
    def total(tx):
        order = dice.sample(range(accounts), accounts)
        return sum(int(tx.read(f"plans/{n}")) for n in order)
    for _ in range(transfers):
        moved += volume.transact(transfer, retries=200)
        if dice.random() < 0.3:
            assert volume.transact(total, retries=200) == 100 * accounts
return moved
"""


@pytest.mark.invariant("I1")
def test_the_sum_of_all_accounts_is_the_same_at_every_transactional_read(process, root):
    accounts, tellers, transfers = 5, 4, 25
    with CoherentVolume(root, managed=("plans/**",), durability="process") as volume:
        for number in range(accounts):
            volume.create(f"plans/{number}", "100")
        arguments = {"root": root, "accounts": accounts, "transfers": transfers}
        children = [process.start(TELLER, seed=n, **arguments) for n in range(tellers)]
        moved = [child.result() for child in children]
        assert all(moved)
        with volume.transaction() as tx:
            balances = [int(tx.read(f"plans/{n}")) for n in range(accounts)]
        assert sum(balances) == 100 * accounts
        assert volume.check().ok


# ── a committer that dies, and a peer that has the old content in memory ──────

DOOMED = """
import os, signal
from coherent_volume import CoherentVolume, points
with CoherentVolume(root, session="doomed") as volume:
    with volume.transaction() as tx:
        for name in names:
            tx.read(name)
            tx.write(name, "new")
        points.reached = lambda name: name == at and os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("order", list(itertools.permutations("abc"))[::2], ids="".join)
@pytest.mark.parametrize("at", POINTS_AFTER_THE_COMMIT)
def test_who_has_seen_one_member_new_sees_all_of_them_new(volume, process, root, at, order):
    peer, visitor = volume("peer", durability="process"), volume("visitor")
    names = [f"plans/{letter}" for letter in "abc"]
    for name in names:
        peer.create(name, "old")
    for _ in range(2):
        time.sleep(0.025)  # a younger fingerprint proves nothing, and is not remembered
        assert [peer.read(name) for name in names] == [b"old"] * 3
    assert all(peer._cache.get(name) for name in names)

    process.start(DOOMED, root=root, names=names, at=at).wait()

    reads = [f"plans/{letter}" for letter in order]
    seen = [peer.read(name) for name in (*reads, *reads)]
    assert seen == sorted(seen, reverse=True), "old content after new"
    assert visitor.read(reads[0]) == b"new"
    assert [peer.read(name) for name in reversed(reads)] == [b"new"] * 3
