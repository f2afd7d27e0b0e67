"""Hazard: the one lock of all commits is held by a stopped, dead or forked process (I10, I11)."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from coherent_volume import BusyError, CoherentVolume, points
from coherent_volume.locks import FairLock
from tests.harness.processes import until

PLAN = "plans/plan.md"

# From Python 3.12 on, forking with threads alive warns; doing so is the point.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

HOLDER = """
    from coherent_volume import CoherentVolume, points
    def stay(name):
        if name == "gate_acquired":
            points.reached = lambda name: None
            tell("inside")
            hear()
    with CoherentVolume(root, session="bob") as volume:
        volume.read("plans/plan.md")
        points.reached = stay
        return volume.write("plans/plan.md", "bob's\\n").generation
    """

WAITER = """
    from coherent_volume import CoherentVolume
    with CoherentVolume(root, session=name) as volume:
        volume.read(own)
        tell("ready")
        hear()
        return volume.write(own, name).generation
    """


def gate_of(root: Path) -> Path:
    return root / ".coherence" / "gate"


def waiting(root: Path) -> list[int]:
    """The pids that wait for the gate, in the kernel's order."""
    inode = gate_of(root).stat().st_ino
    lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return [int(w[5]) for w in lines if w[1] == "->" and w[6].endswith(f":{inode}")]


def holders(root: Path) -> list[int]:
    """The pids that hold the gate: never more than one."""
    inode = gate_of(root).stat().st_ino
    lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return [int(w[4]) for w in lines if w[1] == "FLOCK" and w[5].endswith(f":{inode}")]


def short_waits(monkeypatch, seconds=0.5):
    for module in ("gating", "leasing", "reading", "maintenance"):
        monkeypatch.setattr(f"coherent_volume.{module}.GATE_WAIT_S", seconds)


@pytest.fixture
def alice(volume):
    alice = volume("alice")
    alice.read(PLAN)
    return alice


# ── a holder that does not come back ─────────────────────────────────────────


@pytest.mark.invariant("I10")
def test_stopped_holder_gives_peers_a_busy_error_with_its_pid_in_bounded_time(
    root, alice, process, monkeypatch
):
    holder = process.start(HOLDER, root=root)
    assert holder.hear() == "inside"
    os.kill(holder.pid, signal.SIGSTOP)
    short_waits(monkeypatch)

    start = time.monotonic()
    for attempt in (
        lambda: alice.write(PLAN, "alice's\n"),
        lambda: alice.create("plans/other", ""),
        lambda: alice.lease(PLAN),
        lambda: alice.break_lease(PLAN),
    ):
        with pytest.raises(BusyError) as refusal:
            attempt()
        assert f"pid {holder.pid}" in refusal.value.holder
        assert str(holder.pid) in str(refusal.value)
    assert time.monotonic() - start < 30.0
    assert not (root / "plans/other").exists()
    assert alice.read(PLAN) == b"first\n"

    os.kill(holder.pid, signal.SIGCONT)
    holder.tell("go on")
    assert holder.result() == 1
    assert alice.read(PLAN) == b"bob's\n"
    assert alice.write(PLAN, "alice's\n").generation == 2


@pytest.mark.invariant("I10")
def test_same_busy_situation_has_the_same_words(root, alice, process, monkeypatch):
    holder = process.start(HOLDER, root=root)
    assert holder.hear() == "inside"
    short_waits(monkeypatch, 0.05)

    told = set()
    for _ in range(3):
        with pytest.raises(BusyError) as refusal:
            alice.write(PLAN, "alice's\n")
        told.add(str(refusal.value))

    assert len(told) == 1


def test_command_line_of_the_holder_cannot_speak_to_the_terminal(root, alice, monkeypatch):
    nasty = "\x1b[2J\a\r\nsudo rm"
    # The lock file is all it needs: who holds it is told from its descriptor.
    code = "import fcntl, sys; fcntl.flock(3, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    with (
        gate_of(root).open("r+b") as gate,
        subprocess.Popen(
            [nasty, "-S", "-c", code.replace("3,", f"{gate.fileno()},")],
            executable=sys.executable,
            pass_fds=[gate.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder,
    ):
        assert holder.stdout.readline() == b"\n"
        short_waits(monkeypatch, 0.05)
        with pytest.raises(BusyError) as refusal:
            alice.write(PLAN, "alice's\n")
        holder.stdin.close()

    for text in (refusal.value.message, refusal.value.holder, str(refusal.value).split("\n")[0]):
        assert str(holder.pid) in text
        assert text.isprintable()


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("stopped_first", [False, True])
def test_killed_holder_frees_the_gate_for_who_waits_already(root, alice, process, stopped_first):
    holder = process.start(HOLDER, root=root)
    assert holder.hear() == "inside"
    if stopped_first:
        os.kill(holder.pid, signal.SIGSTOP)
    done = []
    writer = threading.Thread(target=lambda: done.append(alice.write(PLAN, "alice's\n")))
    writer.start()
    until(lambda: waiting(root), "alice waits")

    holder.kill()

    writer.join(8.0)  # less than the bound of the wait
    assert [commit.generation for commit in done] == [1]


# ── an abandoned wait ────────────────────────────────────────────────────────


@pytest.mark.invariant("I10")
def test_abandoned_wait_does_not_leave_the_gate_locked(root, volume, process, monkeypatch):
    alice, carol = volume("alice"), volume("carol")
    alice.read(PLAN)
    carol.read(PLAN)
    holder = process.start(HOLDER, root=root)
    assert holder.hear() == "inside"
    short_waits(monkeypatch, 0.2)
    for _ in range(2):
        with pytest.raises(BusyError):
            alice.write(PLAN, "alice's\n")
    assert waiting(root)  # the place in the queue outlives the wait
    monkeypatch.undo()

    holder.tell("go on")
    assert holder.result() == 1

    # Nobody of those who gave up keeps what the kernel then gave to them.
    carol.read(PLAN)
    assert carol.write(PLAN, "carol's\n").generation == 2
    until(lambda: not holders(root), "the gate is free")
    alice.read(PLAN)
    assert alice.write(PLAN, "alice's\n").generation == 3


@pytest.mark.invariant("I10")
def test_abandoned_wait_can_be_taken_up_again(tmp_path):
    one, two = FairLock(str(tmp_path / "lock")), FairLock(str(tmp_path / "lock"))
    one.acquire(1.0)
    for _ in range(3):
        with pytest.raises(BusyError):
            two.acquire(0.02)
    one.release()
    for _ in range(50):
        two.acquire(5.0)
        with pytest.raises(BusyError):
            one.acquire(0.005)
        two.release()
        one.acquire(5.0)
        one.release()
    one.close()
    two.close()
    again = FairLock(str(tmp_path / "lock"))
    again.acquire(0.5)
    again.release()
    again.close()


@pytest.mark.invariant("I10")
def test_volume_that_is_closed_after_an_abandoned_wait_frees_its_place(
    root, volume, process, monkeypatch
):
    leaver = volume("leaver")
    leaver.read(PLAN)
    holder = process.start(HOLDER, root=root)
    assert holder.hear() == "inside"
    short_waits(monkeypatch, 0.1)
    with pytest.raises(BusyError):
        leaver.write(PLAN, "leaver's\n")
    leaver.close()
    monkeypatch.undo()

    holder.tell("go on")
    holder.result()

    until(lambda: not holders(root) and not waiting(root), "the gate is free", 8.0)
    assert volume("bob").observe(PLAN).generation == 1


# ── order ────────────────────────────────────────────────────────────────────


@pytest.mark.invariant("I11")
def test_waiters_are_served_in_the_order_in_which_they_came(root, volume, process):
    names = ["alice", "carol", "dave", "erin", "frank"]
    with volume("starter") as starter:
        for name in names:
            starter.create(f"plans/{name}", "")
    waiters = {n: process.start(WAITER, root=root, name=n, own=f"plans/{n}") for n in names}
    for child in waiters.values():
        assert child.hear() == "ready"
    holder = process.start(HOLDER, root=root)
    assert holder.hear() == "inside"
    queue = names[2:] + names[:2]  # another order than that of their start
    for number, name in enumerate(queue, 1):
        waiters[name].tell("write")
        until(lambda number=number: len(waiting(root)) == number, f"{name} waits")

    holder.tell("go on")
    for name in queue:
        assert waiters[name].result() == 2

    with volume("visitor") as visitor:
        log = [entry.session for entry in reversed(visitor.log())]
    assert log[-6:] == ["bob", *queue]


@pytest.mark.invariant("I11")
@pytest.mark.invariant("I10")
def test_waiter_that_is_killed_is_skipped(root, alice, volume, process):
    with volume("starter") as starter:
        starter.create("plans/carol", "")
    waiter = process.start(WAITER, root=root, name="carol", own="plans/carol")
    assert waiter.hear() == "ready"
    holder = process.start(HOLDER, root=root)
    assert holder.hear() == "inside"
    waiter.tell("write")
    until(lambda: waiting(root), "carol waits")
    done = []
    writer = threading.Thread(target=lambda: done.append(alice.create("plans/alice", "")))
    writer.start()
    until(lambda: len(waiting(root)) == 2, "alice waits behind her")

    waiter.kill()
    holder.tell("go on")

    writer.join(8.0)
    assert [commit.generation for commit in done] == [1]
    assert holder.result() == 1


# ── threads ──────────────────────────────────────────────────────────────────


@pytest.mark.invariant("I11")
def test_threads_of_one_process_exclude_each_other(volume, monkeypatch):
    shared = volume("alice")
    inside, most, order = [], [], []

    def count(name):
        if name == "gate_acquired":
            inside.append(threading.get_ident())
            most.append(len(inside))
            time.sleep(0)  # let the others in, if anything lets them
        if name in {"acknowledged", "installed"} and threading.get_ident() in inside:
            if name == "installed":
                inside.remove(threading.get_ident())
            order.append(name)

    monkeypatch.setattr(points, "reached", count)
    threads = [
        threading.Thread(target=lambda n=n: shared.create(f"plans/{n}", str(n))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()

    assert len(most) >= 8
    assert max(most) == 1
    assert len(order) >= 8
    assert {shared.read(f"plans/{n}") for n in range(8)} == {str(n).encode() for n in range(8)}


@pytest.mark.invariant("I10")
def test_thread_that_stays_under_the_gate_gives_its_siblings_a_busy_error(alice, monkeypatch):
    entered, go_on, main = threading.Event(), threading.Event(), threading.get_ident()

    def stay(name):
        if name == "gate_acquired" and threading.get_ident() != main:
            entered.set()
            go_on.wait(30)

    monkeypatch.setattr(points, "reached", stay)
    done = []
    sibling = threading.Thread(target=lambda: done.append(alice.create("plans/other", "")))
    sibling.start()
    assert entered.wait(30)
    short_waits(monkeypatch, 0.2)

    with pytest.raises(BusyError) as refusal:
        alice.write(PLAN, "mine\n")
    go_on.set()
    sibling.join()

    assert str(os.getpid()) in refusal.value.holder
    assert [commit.generation for commit in done] == [1]
    monkeypatch.undo()
    assert alice.write(PLAN, "mine\n").generation == 1


# ── forks ────────────────────────────────────────────────────────────────────


@pytest.mark.invariant("I10")
def test_forked_child_does_not_keep_a_dead_parents_gate(root, alice, process):
    parent = process.start(
        """
        import os, signal, threading
        from coherent_volume import CoherentVolume, forking, points
        # The fork comes from another thread while this one is under the gate, and
        # gives up waiting for it: the child inherits the locked descriptor.
        forking._WAIT_S = 0.1
        entered = threading.Event()
        def stay(name):
            if name == "gate_acquired":
                points.reached = lambda name: None
                entered.set()
                threading.Event().wait()
        volume = CoherentVolume(root, session="bob")
        volume.read("plans/plan.md")
        points.reached = stay
        write = lambda: volume.write("plans/plan.md", "never")
        threading.Thread(target=write, daemon=True).start()
        entered.wait()
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        tell(child)
        hear()
        """,
        root=root,
    )
    child = parent.hear()
    try:
        assert holders(root) == [parent.pid]
        parent.kill()
        os.kill(child, 0)  # it lives, and it holds nothing

        start = time.monotonic()
        assert alice.write(PLAN, "alice's\n").generation == 1
        assert time.monotonic() - start < 5.0
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.invariant("I10")
def test_two_volumes_of_one_process_on_one_root_do_not_deadlock(volume):
    alice, bob = volume("alice"), volume("bob")
    alice.create("plans/shared", "")

    def add(who, times=20):
        for number in range(times):
            line = f"{who.session.name}{number}\n".encode()
            who.update("plans/shared", lambda data, line=line: data + line, retries=200)

    threads = [threading.Thread(target=add, args=(who,)) for who in (alice, bob)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert not any(thread.is_alive() for thread in threads)
    assert len(alice.read("plans/shared").splitlines()) == 40


@pytest.mark.invariant("I10")
def test_two_volumes_of_one_process_on_one_root_survive_a_fork(root, volume):
    alice, bob = volume("alice"), volume("bob")
    for who in (alice, bob):
        who.create(f"plans/{who.session.name}", "")
    readable, writable = os.pipe()

    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            for who in (alice, bob):
                who.read(PLAN)
                who.write(PLAN, f"{who.session.name}'s child\n")
            os.write(writable, b"done")
        finally:
            os._exit(0)
    assert time.monotonic() - start < 1.5  # it did not wait for itself (2 s)
    os.close(writable)
    for who in (alice, bob):
        who.write(f"plans/{who.session.name}", "parent's\n")
    assert select.select([readable], [], [], 30.0)[0]
    assert os.read(readable, 10) == b"done"
    os.close(readable)
    os.waitpid(pid, 0)
    assert alice.observe(PLAN).generation == 2
    assert not holders(root)


@pytest.mark.invariant("I10")
def test_commit_inside_the_function_of_an_update_does_not_deadlock(alice):
    with CoherentVolume(alice.root, session="bob") as bob:

        def derive(data: bytes) -> bytes:
            bob.create("plans/beside", "")
            return data + b"second\n"

        start = time.monotonic()
        assert alice.update(PLAN, derive).generation == 1
        assert time.monotonic() - start < 5.0


# ── a lock file that somebody deletes ────────────────────────────────────────


@pytest.mark.invariant("I1")
@pytest.mark.parametrize("is_waited_for", [False, True])
def test_deleted_gate_does_not_let_two_into_it(root, alice, process, is_waited_for):
    alice.append(PLAN, "one\n")
    if is_waited_for:
        # Its thread goes on waiting at the old file.
        with gate_of(root).open("rb+") as peer:
            fcntl.flock(peer, fcntl.LOCK_EX)
            with pytest.raises(BusyError):
                alice._parts.gate.acquire(0.01)
            gate_of(root).unlink()
    else:
        gate_of(root).unlink()
    holder = process.start(HOLDER, root=root)
    assert holder.hear() == "inside"
    with pytest.raises(BusyError) as refused:
        alice._parts.gate.acquire(0.05)
    assert str(holder.pid) in refused.value.holder
    holder.tell()
    assert holder.result() == 2
    assert alice.append(PLAN, "three\n").generation == 3


@pytest.mark.invariant("I1")
def test_who_tidies_up_empty_files_deletes_no_lock(root, alice):
    alice.update(PLAN, lambda content: content + b"more\n")
    turns = sorted((root / ".coherence" / "turns").iterdir())
    assert turns
    assert [path for path in (gate_of(root), *turns) if not path.stat().st_size] == []
