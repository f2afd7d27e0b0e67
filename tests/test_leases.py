"""Hazard: those who wait for an artifact overtake one another, or wait for nobody.

What a lease keeps out and how a former holder is fenced stands in test_fence.
"""

from __future__ import annotations

import os
import signal
import threading

import pytest

from coherent_volume import FencedError, LeasedError, UsageError, leasing
from tests.harness.processes import until

PLAN = "plans/plan.md"

HOLDER = """
    from coherent_volume import CoherentVolume
    with CoherentVolume(root, session=name) as volume:
        with volume.lease("plans/plan.md", ttl=3600.0, wait=wait):
            tell(name)
            hear()
    """


def waiting(root, path=PLAN):
    """How many stand in the queue for the lease, the first one included."""
    import zlib

    turn = root / f".coherence/turns/lease-{zlib.crc32(path.encode()):08x}"
    if not turn.exists():
        return 0
    inode = str(turn.stat().st_ino)
    with open("/proc/locks") as locks:
        return sum(word.rsplit(":", 1)[-1] == inode for line in locks for word in line.split())


# ── waiting ──────────────────────────────────────────────────────────────────


@pytest.mark.invariant("I11")
def test_waiting_processes_are_served_in_the_order_in_which_they_came(root, alice, process):
    lease = alice.lease(PLAN, ttl=3600.0)
    names = ["carol", "bob", "dave"]
    children = []
    for number, name in enumerate(names, 1):
        children.append(process.start(HOLDER, root=root, name=name, wait=60.0))
        until(lambda number=number: waiting(root) == number, f"{name} waits")
    lease.release()

    for name, child in zip(names, children, strict=True):
        assert child.hear() == name
        child.tell()
        child.result()


@pytest.mark.invariant("I11")
def test_who_does_not_wait_does_not_overtake_those_who_do(root, alice, bob, process):
    lease = alice.lease(PLAN, ttl=3600.0)
    child = process.start(HOLDER, root=root, name="carol", wait=60.0)
    until(lambda: waiting(root) == 1, "carol waits")
    lease.release()

    with pytest.raises(LeasedError) as refusal:  # carol is awake: it is hers
        bob.lease(PLAN, ttl=60.0)

    assert refusal.value.holder == "carol"
    assert child.hear() == "carol"
    child.tell()
    child.result()


@pytest.mark.invariant("I10")
def test_first_in_line_that_was_stopped_keeps_nobody_waiting(root, alice, bob, process):
    lease = alice.lease(PLAN, ttl=3600.0)
    child = process.start(HOLDER, root=root, name="carol", wait=60.0)
    until(lambda: waiting(root) == 1, "carol waits")
    os.kill(child.pid, signal.SIGSTOP)
    lease.release()

    bob.lease(PLAN, ttl=60.0).release()  # without waiting
    bob.lease(PLAN, ttl=60.0, wait=30.0).release()  # behind her


@pytest.mark.invariant("I10")
def test_waiter_that_is_killed_leaves_the_line(root, alice, bob, process):
    lease = alice.lease(PLAN, ttl=3600.0)
    child = process.start(HOLDER, root=root, name="carol", wait=60.0)
    until(lambda: waiting(root) == 1, "carol waits")
    got = []
    thread = threading.Thread(target=lambda: got.append(bob.lease(PLAN, wait=60.0)))
    thread.start()
    until(lambda: waiting(root) == 2, "bob waits behind her")
    child.kill()
    lease.release()
    thread.join(30.0)
    assert [each.session for each in got] == ["bob"]


@pytest.mark.invariant("I10")
def test_waiter_is_served_when_the_lease_is_broken(root, volume):
    alice, bob, carol = volume("alice"), volume("bob"), volume("carol")
    alice.lease(PLAN, ttl=3600.0)
    got = []
    thread = threading.Thread(target=lambda: got.append(bob.lease(PLAN, wait=60.0)))
    thread.start()
    until(lambda: waiting(root), "bob waits")
    assert carol.break_lease(PLAN)
    thread.join(30.0)
    assert [each.session for each in got] == ["bob"]


@pytest.mark.invariant("I11")
def test_waiters_for_one_artifact_do_not_stand_in_the_way_of_another(root, volume):
    alice, bob, carol = volume("alice"), volume("bob"), volume("carol")
    # So many names that any sharing of queues among few would show.
    names = [f"plans/{number}" for number in range(80)]
    alice.lease(PLAN, ttl=3600.0)
    thread = threading.Thread(target=lambda: bob.lease(PLAN, wait=60.0).release())
    thread.start()
    until(lambda: waiting(root), "bob waits")
    for name in names:
        carol.lease(name, ttl=60.0, wait=60.0).release()
    assert thread.is_alive()
    alice.break_lease(PLAN)
    thread.join(30.0)


@pytest.mark.invariant("I3")
@pytest.mark.invariant("I10")
def test_storm_of_holders_that_are_killed_leaves_the_lease_free(root, volume, process):
    bob = volume("bob")
    for number in range(6):
        child = process.start(HOLDER, root=root, name=f"holder{number}", wait=30.0)
        child.hear()
        child.kill()
    with bob.lease(PLAN, ttl=60.0) as lease:
        assert lease.epoch == 6
    assert os.listdir(root / ".coherence/leases") == []


@pytest.mark.invariant("I11")
def test_many_descriptors_are_not_needed_for_many_leases(alice):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        alice.lease(f"plans/{number}", ttl=60.0, wait=1.0).release()
    assert len(os.listdir("/proc/self/fd")) < before + 20


@pytest.mark.parametrize("wait", [-1, float("nan"), float("inf"), "1", True])
def test_wait_that_is_no_time_is_a_usage_error(alice, wait):
    with pytest.raises(UsageError):
        alice.lease(PLAN, wait=wait)


@pytest.mark.parametrize("ttl", ["30", None, True])
def test_time_that_is_no_number_is_a_usage_error(alice, ttl):
    with pytest.raises(UsageError):
        alice.lease(PLAN, ttl=ttl)


# ── the refusal ──────────────────────────────────────────────────────────────


def test_refusal_says_who_since_when_until_when_and_how_to_go_on(alice, bob):
    alice.lease(PLAN, ttl=3600.0)
    told = []
    for _ in range(2):
        with pytest.raises(LeasedError) as refusal:
            bob.lease(PLAN)
        told.append((str(refusal.value), refusal.value.as_dict()))

    assert told[0] == told[1]
    text, fields = told[0]
    (lease,) = bob.leases()
    assert (fields["holder"], fields["since"], fields["until"]) == (
        "alice",
        lease.since,
        lease.until,
    )
    assert f"{PLAN}: alice holds a lease since {lease.since}, until {lease.until}" in text
    assert f"coherent lease {PLAN} --wait 60 -- CMD" in text
    assert f"coherent lease {PLAN} --break" in text


def test_holder_with_a_hostile_name_reaches_no_terminal(volume, bob):
    volume("evil\x1b[31m").lease("plans/a b\x1b", ttl=60.0)
    with pytest.raises(LeasedError) as refusal:
        bob.lease("plans/a b\x1b")
    assert "\x1b" not in str(refusal.value)
    assert "coherent lease 'plans/a b\\x1b' --break" in str(refusal.value)


# ── renewing ─────────────────────────────────────────────────────────────────


@pytest.mark.invariant("I4")
def test_lease_that_was_released_cannot_be_renewed_by_way_of_a_later_one(alice):
    earlier = alice.lease(PLAN, ttl=60.0)
    earlier.release()
    later = alice.lease(PLAN, ttl=60.0)
    with pytest.raises(FencedError):
        earlier.renew(3600.0)
    assert later.epoch == earlier.epoch
    later.renew(60.0)


@pytest.mark.invariant("I4")
def test_stalled_process_cannot_renew_what_its_own_session_took_over(volume):
    stalled, awake = volume("alice"), volume("alice")
    earlier = stalled.lease(PLAN, ttl=0.001)
    later = awake.lease(PLAN, ttl=60.0, wait=30.0)
    with pytest.raises(FencedError):
        earlier.renew(60.0)
    earlier.release()
    assert [each.session for each in awake.leases()] == ["alice"]
    later.release()
    assert awake.leases() == ()


def test_renewal_does_not_care_who_has_the_file_open(root, alice):
    lease = alice.lease(PLAN, ttl=60.0)
    with open(root / PLAN, "r+b"):
        lease.renew(3600.0)
        assert alice.break_lease(PLAN)


def test_until_moves_with_the_renewal_and_since_does_not(alice):
    lease = alice.lease(PLAN, ttl=60.0)
    (before,) = alice.leases()
    lease.renew(3600.0)
    (after,) = alice.leases()
    assert after.since == before.since
    assert after.until > before.until


# ── leases that no process holds ─────────────────────────────────────────────


@pytest.mark.invariant("I3")
def test_lease_of_a_name_outlives_its_process_and_ends_by_release(root, alice, bob, process):
    process(
        """
        from coherent_volume import CoherentVolume
        with CoherentVolume(root, session="alice") as volume:
            volume.lease("plans/plan.md", ttl=3600.0, held=False)
        """,
        root=root,
    )
    bob.read(PLAN)
    with pytest.raises(LeasedError):
        bob.write(PLAN, "bob's\n")
    with pytest.raises(LeasedError):
        bob.release_lease(PLAN)
    assert [(each.session, each.held) for each in bob.leases()] == [("alice", False)]
    alice.read(PLAN)
    alice.write(PLAN, "alice's\n")
    assert alice.release_lease(PLAN)
    assert not alice.release_lease(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")


def test_asking_again_extends_a_lease_of_a_name(alice, bob):
    alice.lease(PLAN, ttl=60.0, held=False)
    (before,) = bob.leases()
    token = bob.changes().token
    alice.lease(PLAN, ttl=3600.0, held=False)
    (after,) = bob.leases()
    assert (after.since, after.epoch) == (before.since, before.epoch)
    assert after.until > before.until
    assert bob.changes(token).entries == ()
    with pytest.raises(LeasedError):
        alice.lease(PLAN, ttl=60.0)  # a process of the same name cannot hold it too


@pytest.mark.invariant("I4")
def test_lease_of_a_name_that_ran_out_is_reclaimed_and_fences_its_owner(alice, bob):
    alice.read(PLAN)
    alice.lease(PLAN, ttl=0.001, held=False)
    bob.lease(PLAN, ttl=60.0, wait=30.0).release()
    with pytest.raises(FencedError):
        alice.write(PLAN, "late\n")


def test_session_without_a_name_cannot_own_beyond_its_process(volume):
    with pytest.raises(UsageError):
        volume(None).lease(PLAN, held=False)


def test_release_leaves_alone_what_a_process_holds(alice, volume):
    other = volume("alice")
    lease = alice.lease(PLAN, ttl=60.0)
    with pytest.raises(LeasedError):
        other.release_lease(PLAN)
    lease.renew(60.0)


def test_wait_is_counted(alice, bob):
    alice.lease(PLAN, ttl=0.05)
    bob.lease(PLAN, ttl=60.0, wait=30.0)
    found = {m.name: m.value for m in bob.metrics() if m.session == "bob"}
    assert found["coherent_lease_waits_total"] == 1
    assert 0 < found["coherent_lease_wait_seconds_total"] < 30
    assert leasing._POLL_S < 0.1
