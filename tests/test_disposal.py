"""Hazard: what is cleaned up after a commit was still needed, or is never cleaned up."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

import pytest

from coherent_volume import ConflictError, ageing, disposal, points
from coherent_volume.disposal import clean_up
from coherent_volume.files import take_lease
from coherent_volume.parts import now_ns
from coherent_volume.sidecar import Sidecar

PLAN = "plans/plan.md"
HOUR_NS = 3_600 * 10**9


@pytest.fixture
def resting(volume):
    """Volumes whose background waits until it is told to work."""

    def open_volume(session):
        opened = volume(session)
        opened._maintenance.nudge = lambda: None
        return opened

    return open_volume


def _due(volume):
    """Let everything that the volume displaced be due."""
    parts = volume._parts
    entries = [each._replace(not_before_ns=now_ns()) for each in parts.displaced]
    parts.displaced.clear()
    parts.displaced.extend(entries)
    return entries


@pytest.mark.invariant("I8")
def test_clean_up_waits_for_the_edit_that_a_peer_is_putting_back(root, resting, monkeypatch):
    """Its bytes are known from the moment when it is a generation, and not visible yet."""
    alice, bob, carol = resting("alice"), resting("bob"), resting("carol")
    alice.read(PLAN)

    def linked(name):
        if name == "before_install":
            os.link(root / PLAN, root / "one")

    monkeypatch.setattr(points, "reached", linked)
    alice.write(PLAN, "alice's\n")
    os.link(root / PLAN, root / "two")
    (root / "one").write_bytes(b"one outsider's\n")
    (root / "one").unlink()
    monkeypatch.undo()
    bob.lease(PLAN).release()  # puts the first edit back, and displaces alice's file
    assert (root / PLAN).read_bytes() == b"one outsider's\n"
    (root / "two").write_bytes(b"another's\n")
    (root / "two").unlink()
    _due(bob)
    cleaner = threading.Thread(target=clean_up, args=(bob._parts,))

    def cleaned_up(name):
        if name == "put_back":
            cleaner.start()
            cleaner.join(0.3)  # it is over by then, unless it waits

    monkeypatch.setattr(points, "reached", cleaned_up)
    carol.lease(PLAN).release()
    cleaner.join()
    assert (root / PLAN).read_bytes() == b"another's\n"
    made = [(each.generation, each.session) for each in carol.log(PLAN)]
    assert made == [(3, "outside"), (2, "outside"), (1, "alice"), (0, "outside")]


def test_two_that_clean_up_at_once_offer_no_inode_twice(resting, monkeypatch):
    alice = resting("alice")
    alice.read(PLAN)
    for number in range(4):
        alice.write(PLAN, f"{number}\n")
    _due(alice)
    second = threading.Thread(target=clean_up, args=(alice._parts,))

    def reached(name):
        if name == "disposed" and second.ident is None:
            second.start()
            second.join(0.3)  # it is over by then, unless it waits

    monkeypatch.setattr(points, "reached", reached)
    clean_up(alice._parts)
    second.join()
    names = [name for name, _ in alice._parts.staging._spares]
    assert len(names) == len(set(names)) == 4


@pytest.mark.invariant("I7")
def test_install_is_not_forgotten_when_no_descriptor_was_free_to_flush_it(resting, monkeypatch):
    alice = resting("alice")
    alice.read(PLAN)
    alice.write(PLAN, "durable\n")
    _due(alice)

    def none_free(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(disposal, "openat2", none_free)
        with pytest.raises(OSError, match="Too many"):
            clean_up(alice._parts)
    assert alice._parts.sidecar.all_installs()
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda d: flushed.append(os.readlink(f"/proc/self/fd/{d}")))
    clean_up(alice._parts)
    assert [os.path.basename(each) for each in flushed] == ["plans"]
    assert not alice._parts.sidecar.all_installs()


@pytest.mark.invariant("I7")
def test_repair_flushes_the_installs_of_the_dead_before_it_forgets_them(
    root, process, resting, monkeypatch
):
    dead = process.start(
        """
        import os, signal
        from coherent_volume import CoherentVolume
        volume = CoherentVolume(root, session="dead")
        volume._maintenance.nudge = lambda: None
        volume.read("plans/plan.md")
        volume.write("plans/plan.md", "by the dead\\n")
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        root=root,
    )
    alice = resting("alice")
    assert dead.popen.wait(20) == -signal.SIGKILL
    order = []
    monkeypatch.setattr(os, "fsync", lambda _: order.append("flushed"))
    forget = Sidecar.forget_installs
    monkeypatch.setattr(
        Sidecar, "forget_installs", lambda *a: (order.append("forgotten"), forget(*a))
    )
    alice.check(repair=True)
    assert order.index("flushed") < order.index("forgotten")
    assert not alice._parts.sidecar.all_installs()


def test_rows_whose_objects_go_are_deleted_for_good_first(resting, monkeypatch):
    alice = resting("alice")
    for number in (b"1", b"2"):
        alice.write("plans/large", number * 300_000, overwrite=True)
    database, durable = alice._parts.sidecar.database, []
    transaction = database.transaction

    def noted(*, durable: bool, noted=durable):
        noted.append(durable)
        return transaction(durable=durable)

    monkeypatch.setattr(database, "transaction", noted)
    with alice._parts.gate.held(5):
        dropped = alice._parts.sidecar.prune_aged(1 << 62, 10)
    assert len([name for name in dropped if name]) == 1
    assert durable == [True]


def test_a_directory_among_the_refused_content_ends_no_clean_up(root, resting):
    alice = resting("alice")
    stray = root / ".coherence" / "refused" / "a directory"
    stray.mkdir()
    os.utime(stray, (0, 0))
    assert alice.check(repair=True).ok
    assert stray.is_dir()


def test_aged_generations_are_looked_for_once_an_hour(resting, monkeypatch):
    looked = []
    real = Sidecar.has_aged
    monkeypatch.setattr(Sidecar, "has_aged", lambda *a: (looked.append(1), real(*a))[1])
    for name in ("alice", "bob", "carol"):
        with resting(name) as visitor:
            visitor.append(PLAN, f"{name}\n")
            visitor._maintenance._pass()
    assert len(looked) == 1


def test_a_spare_inode_that_somebody_reads_is_not_waited_for(root, resting):
    """A reader that was stopped has a lease on it for most of a minute."""
    alice = resting("alice")
    alice.read(PLAN)
    for text in ("one\n", "two\n"):
        alice.write(PLAN, text)
    _due(alice)
    clean_up(alice._parts)
    ((spare, _), *_) = alice._parts.staging._spares
    reader = os.open(root / ".coherence" / "staging" / spare, os.O_RDONLY)
    try:
        assert take_lease(reader)
        writer = threading.Thread(target=alice.write, args=(PLAN, "three\n"))
        writer.start()
        writer.join(10)
        assert not writer.is_alive()
    finally:
        os.close(reader)
    writer.join()
    assert (root / PLAN).read_bytes() == b"three\n"


# ── age ──────────────────────────────────────────────────────────────────────


@pytest.fixture
def later(monkeypatch):
    """Let the machine have run for *hours*, and its clock say something else."""
    real_clock, real_machine = time.time_ns, ageing.now_ns

    def set_to(*, hours, clock_hours):
        monkeypatch.setattr(ageing, "now_ns", lambda: real_machine() + int(hours * HOUR_NS))
        monkeypatch.setattr(
            ageing.time, "time_ns", lambda: real_clock() + int(clock_hours * HOUR_NS)
        )

    return set_to


def _with_a_past(root, alice):
    alice.read(PLAN)
    for text in ("one\n", "two\n"):
        alice.write(PLAN, text)
    with pytest.raises(ConflictError):
        alice.write(PLAN, "stale\n", base=1)
    ageing.sweep(alice._parts)
    return root / ".coherence" / "refused"


def test_a_clock_that_is_wrong_for_a_moment_costs_nothing_of_the_past(root, resting, later):
    alice = resting("alice")
    refused = _with_a_past(root, alice)
    later(hours=2, clock_hours=24 * 60)
    ageing.sweep(alice._parts)
    assert len(alice.log(PLAN)) == 3
    assert list(refused.iterdir())


def test_what_is_old_by_the_machines_own_time_is_forgotten(root, resting, later):
    alice = resting("alice")
    refused = _with_a_past(root, alice)
    later(hours=24 * 60, clock_hours=24 * 60)
    ageing.sweep(alice._parts)
    assert [each.generation for each in alice.log(PLAN)] == [2]
    assert not list(refused.iterdir())


def test_a_start_of_the_machine_ages_nothing_by_more_than_a_day(root, resting, later):
    alice = resting("alice")
    _with_a_past(root, alice)
    alice._parts.boot = "another boot"
    later(hours=0, clock_hours=24 * 60)
    ageing.sweep(alice._parts)
    assert len(alice.log(PLAN)) == 3
