"""Hazard: two believe that they own one artifact (I3, I4); an owner that never comes back (I10)."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from coherent_volume import ConflictError, FencedError, LeasedError, UsageError
from tests.harness.processes import until

PLAN = "plans/plan.md"

HOLDER = """
    from coherent_volume import CoherentVolume, FencedError
    with CoherentVolume(root, session=name) as volume:
        volume.read("plans/plan.md")
        lease = volume.lease("plans/plan.md", ttl=ttl)
        tell(lease.epoch)
        hear()
        try:
            return volume.write("plans/plan.md", "late\\n").generation
        except FencedError as error:
            return [error.reason, error.held, error.current, str(error)]
    """


def locked_turns(root: Path) -> tuple[int, int]:
    """(held, waited for) of the queues, as the kernel says."""
    inodes = {turn.stat().st_ino for turn in (root / ".coherence/turns").iterdir()}
    held = waited = 0
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        where = words[6] if words[1] == "->" else words[5]
        if int(where.rsplit(":", 1)[1]) in inodes:
            waited += words[1] == "->"
            held += words[1] != "->"
    return held, waited


# ── while it lasts ───────────────────────────────────────────────────────────


@pytest.mark.invariant("I3")
def test_lease_keeps_every_commit_of_peers_out_and_says_who_holds_it(root, alice, bob):
    alice.create("plans/other", "")
    for who in (alice, bob):
        who.read(PLAN)
        who.read("plans/other")
    attempts = (
        lambda: bob.write(PLAN, "bob's\n"),
        lambda: bob.write(PLAN, "bob's\n", overwrite=True),
        lambda: bob.append(PLAN, "bob's\n"),
        lambda: bob.delete(PLAN),
        lambda: bob.rename(PLAN, "plans/elsewhere"),
        lambda: bob.update(PLAN, lambda data: data + b"bob's\n"),
        lambda: bob.lease(PLAN),
    )

    with alice.lease(PLAN, ttl=60.0):
        for attempt in attempts:
            with pytest.raises(LeasedError) as refusal:
                attempt()
            assert refusal.value.holder == "alice"
            assert "alice" in str(refusal.value)
            until_ = datetime.fromisoformat(refusal.value.until)
            assert until_ > datetime.fromisoformat(refusal.value.since)
            json.dumps(refusal.value.as_dict())
        assert bob.read(PLAN) == b"first\n"
        bob.write("plans/other", "of no concern\n")
        assert alice.write(PLAN, "alice's\n").generation == 1

    bob.read(PLAN)
    assert bob.write(PLAN, "bob's\n").generation == 2


@pytest.mark.invariant("I3")
def test_lease_on_a_name_without_a_file_keeps_creators_out(root, alice, bob):
    bob.read(PLAN)
    with alice.lease("plans/new", ttl=60.0):
        with pytest.raises(LeasedError):
            bob.create("plans/new", "bob's\n")
        with pytest.raises(LeasedError):
            bob.rename(PLAN, "plans/new")
        assert not (root / "plans/new").exists()
        assert (root / PLAN).exists()
        assert alice.create("plans/new", "alice's\n").generation == 1
    assert bob.read("plans/new") == b"alice's\n"


@pytest.mark.invariant("I3")
@pytest.mark.parametrize("session", ["alice", None])
def test_lease_on_a_never_committed_file_changes_nothing_of_it(root, volume, bob, session):
    who = volume(session)
    who.read(PLAN)
    with who.lease(PLAN, ttl=60.0):
        assert bob.observe(PLAN).generation == 0
        assert (root / PLAN).read_bytes() == b"first\n"
        with pytest.raises(LeasedError):
            bob.write(PLAN, "bob's\n")
        assert who.write(PLAN, "mine\n").generation == 1
    assert bob.check().ok


@pytest.mark.parametrize("ttl", [0, -1, -0.001, float("nan"), float("inf")])
def test_lease_without_a_positive_time_is_a_usage_error(alice, bob, ttl):
    with pytest.raises(UsageError):
        alice.lease(PLAN, ttl=ttl)
    with alice.lease(PLAN, ttl=60.0) as lease:
        with pytest.raises(UsageError):
            lease.renew(ttl)
        with pytest.raises(LeasedError):
            bob.lease(PLAN)
    bob.lease(PLAN).release()


def test_states_of_a_view_follow_the_lease(alice, bob):
    assert alice.state(PLAN) == "I"
    alice.read(PLAN)
    assert alice.state(PLAN) == "S"
    with alice.lease(PLAN, ttl=60.0):
        assert alice.state(PLAN) == "E"
        bob.read(PLAN)
        assert bob.state(PLAN) == "S"
        with alice.open(PLAN, "w") as file:
            file.write("staged")
            assert alice.state(PLAN) == "M"
            assert bob.state(PLAN) == "S"
        assert alice.state(PLAN) == "E"
        assert bob.state(PLAN) == "I"
    assert alice.state(PLAN) == "S"


@pytest.mark.invariant("I3")
def test_lease_that_is_released_is_free_at_once_and_fences_nobody(alice, bob):
    bob.read(PLAN)
    lease = alice.lease(PLAN, ttl=60.0)
    lease.release()
    lease.release()
    taken = bob.lease(PLAN, ttl=60.0)
    lease.release()  # is no business of the former holder any longer
    with pytest.raises(LeasedError) as refusal:
        alice.lease(PLAN)
    assert refusal.value.holder == "bob"
    assert bob.write(PLAN, "bob's\n").generation == 1
    taken.release()


@pytest.mark.invariant("I3")
def test_second_lease_of_the_same_session_is_refused_and_ends_nothing(alice, bob):
    earlier = alice.lease(PLAN, ttl=60.0)

    with pytest.raises(LeasedError):
        alice.lease(PLAN, ttl=60.0)

    with pytest.raises(LeasedError):
        bob.lease(PLAN)
    earlier.release()
    bob.lease(PLAN).release()


def test_end_of_a_lease_that_was_over_does_not_end_a_later_one(alice, bob):
    earlier = alice.lease(PLAN, ttl=0.001)
    later = alice.lease(PLAN, ttl=60.0, wait=30.0)

    earlier.release()

    with pytest.raises(LeasedError):
        bob.lease(PLAN)
    later.release()


def test_lease_ends_with_its_block_also_when_it_raises(alice, bob):
    with pytest.raises(ZeroDivisionError), alice.lease(PLAN, ttl=60.0):
        _ = 1 / 0
    bob.lease(PLAN).release()


@pytest.mark.invariant("I3")
def test_lease_that_was_dropped_with_its_volume_is_free(volume, bob):
    alice = volume("alice")
    kept = alice.lease(PLAN, ttl=60.0)
    del kept
    alice.close()

    bob.lease(PLAN).release()


@pytest.mark.invariant("I3")
def test_two_processes_never_both_hold(root, volume, process):
    volume("starter").close()
    body = """
        import os
        from coherent_volume import CoherentVolume
        mark = os.path.join(root, "inside")
        with CoherentVolume(root, session=name) as volume:
            tell("ready")
            hear()
            for _ in range(15):
                with volume.lease("plans/plan.md", ttl=60.0, wait=60.0):
                    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                    volume.update("plans/plan.md", lambda data: data + name.encode())
                    os.unlink(mark)
        return True
        """
    children = [process.start(body, root=root, name=name) for name in ("a", "b", "c")]
    for child in children:
        assert child.hear() == "ready"
    for child in children:
        child.tell()

    assert all(child.result() for child in children)
    text = (root / PLAN).read_text().removeprefix("first\n")
    assert {name: text.count(name) for name in "abc"} == dict.fromkeys("abc", 15)


# ── when it ends badly ───────────────────────────────────────────────────────


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("name", ["alice", None])
def test_lease_of_a_killed_holder_is_free_at_once(root, bob, process, name):
    bob.read(PLAN)
    holder = process.start(HOLDER, root=root, name=name, ttl=3600.0)
    epoch = holder.hear()
    with pytest.raises(LeasedError):
        bob.lease(PLAN)

    holder.kill()

    with bob.lease(PLAN, ttl=60.0) as lease:  # without any waiting
        assert lease.epoch > epoch
        bob.read(PLAN)
        assert bob.write(PLAN, "bob's\n").generation == 1


@pytest.mark.invariant("I10")
def test_peer_commits_at_once_when_the_holder_was_killed(root, bob, process):
    bob.read(PLAN)
    holder = process.start(HOLDER, root=root, name="alice", ttl=3600.0)
    holder.hear()
    holder.kill()

    assert bob.write(PLAN, "bob's\n").generation == 1


@pytest.mark.invariant("I10")
def test_forked_child_does_not_keep_a_dead_parents_lease(root, bob, process):
    parent = process.start(
        """
        import os, signal
        from coherent_volume import CoherentVolume
        volume = CoherentVolume(root, session="alice")
        lease = volume.lease("plans/plan.md", ttl=3600.0)
        ready, say = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(say, b"x")
            signal.pause()
        os.read(ready, 1)
        tell(child)
        hear()
        """,
        root=root,
    )
    child = parent.hear()
    try:
        with pytest.raises(LeasedError):
            bob.lease(PLAN)
        parent.kill()
        os.kill(child, 0)  # it lives
        bob.lease(PLAN).release()
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.invariant("I3")
def test_forked_child_that_ends_does_not_end_its_parents_lease(root, bob, process):
    parent = process.start(
        """
        import os
        from coherent_volume import CoherentVolume
        volume = CoherentVolume(root, session="alice")
        lease = volume.lease("plans/plan.md", ttl=3600.0)
        child = os.fork()
        if child == 0:
            del lease
            volume.close()
            os._exit(0)
        os.waitpid(child, 0)
        tell("alone again")
        hear()
        lease.release()
        """,
        root=root,
    )
    assert parent.hear() == "alone again"
    with pytest.raises(LeasedError):
        bob.lease(PLAN)
    parent.tell("end")
    parent.result()
    bob.lease(PLAN).release()


@pytest.mark.invariant("I4")
@pytest.mark.invariant("I10")
@pytest.mark.parametrize("name", ["alice", None])
def test_woken_holder_is_fenced_even_when_generation_stood_still(root, bob, process, name):
    holder = process.start(HOLDER, root=root, name=name, ttl=0.4)
    epoch = holder.hear()
    os.kill(holder.pid, signal.SIGSTOP)

    taken = bob.lease(PLAN, ttl=60.0, wait=30.0)
    assert taken.epoch == epoch + 1
    taken.release()
    assert bob.observe(PLAN).generation == 0
    os.kill(holder.pid, signal.SIGCONT)
    holder.tell("write late")

    reason, held, current, text = holder.result()
    assert (reason, held, current) == ("fenced", epoch, epoch + 1)
    assert "Read it again" in text
    assert (root / PLAN).read_bytes() == b"first\n"
    assert bob.observe(PLAN).generation == 0


@pytest.mark.invariant("I4")
def test_stalled_holder_keeps_its_lease_until_its_time_is_over(root, bob, process):
    holder = process.start(HOLDER, root=root, name="alice", ttl=3600.0)
    holder.hear()
    os.kill(holder.pid, signal.SIGSTOP)

    with pytest.raises(LeasedError):
        bob.lease(PLAN, wait=0.3)

    os.kill(holder.pid, signal.SIGCONT)
    holder.tell("write")
    assert holder.result() == 1


@pytest.mark.invariant("I4")
@pytest.mark.parametrize("session", ["alice", None])
def test_broken_lease_fences_its_holder_who_recovers_by_reading(volume, bob, session):
    who = volume(session)
    who.read(PLAN)
    lease = who.lease(PLAN, ttl=60.0)

    assert bob.break_lease(PLAN)
    assert not bob.break_lease(PLAN)

    assert who.state(PLAN) == "I"
    with pytest.raises(FencedError) as refusal:
        who.write(PLAN, "late\n")
    assert Path(who.root, refusal.value.kept).read_bytes() == b"late\n"
    with pytest.raises(ConflictError):
        who.write(PLAN, "late\n")  # trying again is no reading
    with pytest.raises(FencedError):
        lease.renew(60.0)
    lease.release()
    assert who.read(PLAN) == b"first\n"
    assert who.state(PLAN) == "S"
    assert who.write(PLAN, "in time\n").generation == 1


@pytest.mark.invariant("I4")
@pytest.mark.parametrize("session", ["alice", None])
@pytest.mark.parametrize("how", ["read", "observe", "reacquire"])
def test_session_that_reads_after_its_ownership_was_taken_may_commit(
    root, volume, bob, session, how
):
    who = volume(session)
    file = root / PLAN
    until(lambda: time.time_ns() - file.stat().st_ctime_ns > 50_000_000, "memory may be used")
    who.read(PLAN)
    who.lease(PLAN, ttl=60.0)
    who.read(PLAN)
    who.read(PLAN)
    assert bob.break_lease(PLAN)

    assert getattr(who, how)(PLAN)

    assert who.write(PLAN, "in time\n").generation == 1


@pytest.mark.invariant("I4")
def test_observation_from_before_the_fence_is_no_base(alice, bob):
    base = alice.observe(PLAN)
    alice.lease(PLAN, ttl=60.0)
    base = alice.observe(PLAN)
    assert bob.break_lease(PLAN)
    alice.read(PLAN)

    with pytest.raises(FencedError):
        alice.write(PLAN, "late\n", base=base)


@pytest.mark.invariant("I4")
def test_fence_lasts_over_the_processes_of_a_named_session(root, alice, bob, process):
    alice.read(PLAN)
    lease = alice.lease(PLAN, ttl=60.0)
    alice.read(PLAN)
    assert bob.break_lease(PLAN)
    lease.release()
    alice.close()

    told = process(
        """
        from coherent_volume import CoherentVolume, FencedError
        with CoherentVolume(root, session="alice") as volume:
            try:
                volume.write("plans/plan.md", "late")
            except FencedError as error:
                volume.read("plans/plan.md")
                return [error.reason, volume.write("plans/plan.md", "in time").generation]
        """,
        root=root,
    )
    assert told == ["fenced", 1]


@pytest.mark.invariant("I4")
def test_ownership_that_was_taken_is_not_had_again_by_leasing_anew(alice, bob):
    alice.read(PLAN)
    alice.lease(PLAN, ttl=60.0)
    bob.break_lease(PLAN)
    again = alice.lease(PLAN, ttl=60.0)

    # What bob did between the two leases alice has not seen.
    with pytest.raises(ConflictError):
        alice.write(PLAN, "late\n")
    alice.read(PLAN)
    assert alice.write(PLAN, "in time\n").generation == 1
    again.release()


@pytest.mark.invariant("I2")
def test_epochs_grow_over_delete_and_create(alice, bob):
    alice.create("plans/text", "one\n")
    first = alice.lease("plans/text", ttl=60.0)
    bob.break_lease("plans/text")
    bob.read("plans/text")
    bob.delete("plans/text")
    bob.create("plans/text", "two\n")

    with bob.lease("plans/text", ttl=60.0) as lease:
        assert lease.epoch > first.epoch


# ── renewing and waiting ─────────────────────────────────────────────────────


@pytest.mark.invariant("I3")
def test_renewed_lease_outlives_its_first_time(alice, bob):
    start = time.monotonic()
    with alice.lease(PLAN, ttl=0.5) as lease:
        alice.read(PLAN)
        lease.renew(60.0)
        until(lambda: time.monotonic() - start > 0.6, "the first time is over")
        with pytest.raises(LeasedError):
            bob.lease(PLAN)
        assert alice.write(PLAN, "alice's\n").generation == 1


@pytest.mark.invariant("I10")
def test_lease_that_ran_out_is_taken_over_and_cannot_be_renewed(alice, bob):
    alice.read(PLAN)
    lease = alice.lease(PLAN, ttl=0.05)
    taken = bob.lease(PLAN, ttl=60.0, wait=30.0)

    with pytest.raises((FencedError, LeasedError)):
        lease.renew(60.0)
    lease.release()
    with pytest.raises(LeasedError):
        alice.lease(PLAN)
    taken.release()
    with pytest.raises(FencedError):
        alice.write(PLAN, "late\n")


@pytest.mark.invariant("I11")
def test_waiters_for_a_lease_are_served_in_the_order_in_which_they_came(root, volume):
    alice, bob, carol = volume("alice"), volume("bob"), volume("carol")
    served = []

    def wait_for_it(who):
        with who.lease(PLAN, ttl=60.0, wait=60.0):
            served.append(who.session.name)

    lease = alice.lease(PLAN, ttl=60.0)
    threads = []
    for number, who in enumerate((carol, bob)):
        threads.append(threading.Thread(target=wait_for_it, args=(who,)))
        threads[-1].start()
        until(lambda number=number: locked_turns(root) == (1, number), "waits")
    lease.release()
    for thread in threads:
        thread.join()

    assert served == ["carol", "bob"]


@pytest.mark.invariant("I10")
def test_waiter_is_served_at_once_when_the_holder_is_killed(root, bob, process):
    holder = process.start(HOLDER, root=root, name="alice", ttl=3600.0)
    holder.hear()
    got = []
    waiter = threading.Thread(target=lambda: got.append(bob.lease(PLAN, ttl=60.0, wait=60.0)))
    waiter.start()
    until(lambda: locked_turns(root)[0], "bob waits")

    holder.kill()

    waiter.join(10.0)
    assert [lease.session for lease in got] == ["bob"]


@pytest.mark.invariant("I10")
def test_waiting_is_bounded(alice, bob):
    with alice.lease(PLAN, ttl=3600.0):
        start = time.monotonic()
        with pytest.raises(LeasedError):
            bob.lease(PLAN, wait=0.2)
        assert 0.15 < time.monotonic() - start < 5.0


@pytest.mark.invariant("I10")
def test_lease_of_an_earlier_boot_is_over(alice, volume):
    alice.lease(PLAN, ttl=3600.0)
    later = volume("bob")
    later._parts.boot = "another boot"

    with later.lease(PLAN, ttl=60.0) as lease:
        assert lease.epoch == 1
