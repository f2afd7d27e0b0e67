"""Hazard: something happens in the volume and who asks later is not told, or told wrongly."""

from __future__ import annotations

import os

import pytest

from coherent_volume import ConflictError, UsageError, events, rebuild_sidecar

PLAN = "plans/plan.md"


def kinds(changes):
    return [(each.kind, each.session) for each in changes.entries]


def test_everything_that_happens_stands_in_one_order_without_gaps(root, alice, bob):
    token = alice.changes().token
    alice.read(PLAN)
    alice.write(PLAN, "one\n")
    bob.read(PLAN)
    with bob.lease(PLAN, ttl=60.0):
        pass
    alice.write(PLAN, "two\n")
    with pytest.raises(ConflictError):
        bob.write(PLAN, "late\n")
    (root / PLAN).write_text("from outside\n")
    alice.read(PLAN)
    alice.lease(PLAN, ttl=60.0)
    bob.break_lease(PLAN)
    alice.lease("plans/other", ttl=0.001)
    bob.lease("plans/other", ttl=60.0, wait=30.0).release()
    alice.read(PLAN)
    alice.delete(PLAN)

    found = alice.changes(token)

    assert kinds(found) == [
        ("write", "alice"),
        ("lease", "bob"),
        ("release", "bob"),
        ("write", "alice"),
        ("refuse", "bob"),
        ("foreign", "outside"),
        ("lease", "alice"),
        ("break", "bob"),
        ("lease", "alice"),
        ("reclaim", "bob"),
        ("release", "bob"),
        ("delete", "alice"),
    ]
    numbers = [each.seq for each in found.entries]
    assert numbers == sorted(numbers)
    assert found.complete
    details = {each.kind: each.detail for each in found.entries}
    assert (details["refuse"], details["break"], details["reclaim"]) == (
        "stale_generation",
        "alice",
        "alice",
    )
    refused = next(each for each in found.entries if each.kind == "refuse")
    assert (refused.path, refused.generation) == (PLAN, 2)
    assert alice.changes(found.token).entries == ()


def test_each_token_goes_on_exactly_where_it_was_given(alice):
    token = alice.changes().token
    alice.create("plans/a", "1")
    for number in range(5):
        alice.write("plans/a", f"{number}")
    everything = alice.changes(token).entries

    assert [alice.changes(each.token).entries for each in everything] == [
        everything[number + 1 :] for number in range(len(everything))
    ]
    bit_by_bit = []
    while found := alice.changes(token, limit=2):
        if not found.entries:
            break
        assert len(found.entries) <= 2
        bit_by_bit += found.entries
        token = found.token
    assert tuple(bit_by_bit) == everything


def test_tries_that_are_repeated_are_no_refusals(alice, bob):
    alice.create("plans/n", "0")
    token = alice.changes().token
    tried = []

    def increment(data):
        if not tried:
            bob.update("plans/n", lambda other: other + b"b")
        tried.append(data)
        return data + b"a"

    bob.observe("plans/n")
    alice.update("plans/n", increment)

    assert len(tried) == 2
    assert kinds(alice.changes(token)) == [("update", "bob"), ("update", "alice")]


@pytest.mark.parametrize("token", ["", "x", "12", "abc-", "-3", "ab-1x", "Ab-1", "ab-" + "9" * 30])
def test_what_is_no_token_is_a_usage_error(alice, token):
    with pytest.raises(UsageError):
        alice.changes(token)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_is_not_positive_is_a_usage_error(alice, limit):
    with pytest.raises(UsageError):
        alice.changes(alice.changes().token, limit=limit)


def test_who_fell_behind_is_told_and_still_finds_every_head(volume, root):
    volume("maker").close()
    config = root / ".coherence/config.toml"
    text = config.read_text()
    assert "generations = 100" in text
    config.write_text(text.replace("generations = 100", "generations = 3"))
    alice = volume("alice", managed=None)
    token = alice.changes().token
    alice.create("plans/a", "")
    for number in range(20):
        alice.write("plans/a", f"{number}")
    alice.create("plans/b", "")

    found = alice.changes(token)

    assert not found.complete
    assert ("plans/a", 21) in {(each.path, each.generation) for each in found.entries}
    assert ("plans/b", 1) in {(each.path, each.generation) for each in found.entries}
    assert alice.changes(found.token).complete


def test_events_are_bounded_and_their_numbers_never_come_again(alice, monkeypatch):
    monkeypatch.setattr(events, "EVENTS_MAX", 10)
    for _ in range(20):
        alice.lease(PLAN, ttl=60.0).release()
    before = events.newest(alice._parts.sidecar.database)
    with alice._parts.gate.held(1.0):
        events.prune(alice._parts.sidecar.database, before=2**62)

    left = alice._parts.sidecar.database.read("SELECT seq FROM event")
    assert [row[0] for row in left] == [before]
    alice.lease(PLAN, ttl=60.0)
    assert events.newest(alice._parts.sidecar.database) == before + 1


def test_token_of_another_sidecar_yields_a_fresh_one(root, volume):
    alice = volume("alice")
    alice.create("plans/a", "1")
    token = alice.changes().token
    alice.close()
    rebuild_sidecar(root)
    again = volume("alice")

    found = again.changes(token)

    assert (found.entries, found.complete) == ((), False)
    again.create("plans/b", "1")
    after = again.changes(found.token)
    assert after.complete
    assert [each.path for each in after.entries] == ["plans/b"]


def test_a_failing_note_never_takes_the_place_of_the_refusal(alice, bob, monkeypatch):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    def fail(*_):
        raise UsageError("no room for notes")

    monkeypatch.setattr(events, "append", fail)
    with pytest.raises(ConflictError) as refusal:
        alice.write(PLAN, "late\n")
    assert refusal.value.reason == "stale_generation"
    assert os.path.exists(os.path.join(alice.root, refusal.value.kept))


def test_cost_of_asking_does_not_depend_on_the_length_of_the_history(alice):
    """No step of the plan may walk a table: every one searches by its key."""
    plan = alice._parts.sidecar.database.read(f"EXPLAIN QUERY PLAN {events._AFTER}", (1, 10))
    steps = [row[3] for row in plan]
    assert not [step for step in steps if step.startswith("SCAN")], steps
    assert not [step for step in steps if "TEMP B-TREE" in step], steps
