"""Hazard: a signal handler raises at the wrong line. The gate must not stay held (I10)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading

import pytest

from coherent_volume import (
    BusyError,
    cache,
    database,
    locks,
    maintenance,
    meters,
    parts,
    sql_transaction,
)
from tests.harness.processes import until

PLAN = "plans/plan.md"


class _Interrupt(Exception):
    pass


def _interrupted_at(function, line, work):
    """Do *work*, with an interrupt on the *line*-th line of *function*; whether it came."""
    code, seen, came = function.__code__, 0, False

    def trace(frame, event, _):
        nonlocal seen, came
        if frame.f_code is not code or came:
            return trace
        if event in ("call", "line"):
            seen += 1
            if seen == line:
                came = True
                raise _Interrupt
        return trace

    sys.settrace(trace)
    try:
        work()
    except _Interrupt:
        pass
    finally:
        sys.settrace(None)
    return came


PLACES = [
    locks._Held.__enter__,
    locks._Held.__exit__,
    locks.FairLock.acquire,
    locks.FairLock.release,
    locks.FairLock._let_go,
    locks.FairLock._unlock,
    locks.FairLock._obtain,
    locks.FairLock._is_lost,
]


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("function", PLACES, ids=lambda f: f.__qualname__)
@pytest.mark.parametrize("kind", ["write", "transaction"])
def test_interrupt_at_any_line_of_the_lock_leaves_it_free(alice, process, root, function, kind):
    def write():
        alice.write(PLAN, alice.read(PLAN) + b"more\n")

    def transaction():
        with alice.transaction() as tx:
            tx.write(PLAN, tx.read(PLAN) + b"more\n")

    work = write if kind == "write" else transaction
    came = 0
    for line in range(1, 40):
        if not _interrupted_at(function, line, work):
            break
        came += 1
        assert not alice._parts.gate.is_mine
        alice.append(PLAN, "after\n")  # this thread and this process go on
    assert came > 1
    body = """
        from coherent_volume import CoherentVolume
        with CoherentVolume(root, session="peer") as volume:
            return volume.append("plans/plan.md", "peer\\n").generation
        """
    assert process(body, root=root) > 1


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("is_granted", [True, False], ids=["granted", "in vain"])
def test_interrupt_at_any_line_of_a_wait_leaves_the_lock_free(tmp_path, is_granted):
    path = os.fspath(tmp_path / "lock")
    peer = os.open(path, os.O_RDWR | os.O_CREAT)
    lock = locks.FairLock(path)

    def wait():
        # A lock that is free is waited for as well, behind an abandoned wait.
        try:
            lock.acquire(20 if is_granted else 0.01)
        except BusyError:
            pass
        else:
            lock.release()

    came = 0
    for line in range(1, 60):
        fcntl.flock(peer, fcntl.LOCK_EX)
        release = threading.Timer(0.02, fcntl.flock, (peer, fcntl.LOCK_UN))
        if is_granted:
            release.start()
        was_interrupted = _interrupted_at(locks._Waiter.obtain, line, wait)
        if is_granted:
            release.join()
        fcntl.flock(peer, fcntl.LOCK_UN)
        until(lambda: _is_free(peer), "a peer gets the lock")
        lock.acquire(5.0)
        assert not _is_free(peer)
        lock.release()
        if not was_interrupted:
            break
        came += 1
    os.close(peer)
    lock.close()
    assert came > 5


def _is_free(descriptor):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


@pytest.mark.invariant("I7")
@pytest.mark.parametrize(
    "function",
    [
        sql_transaction.Transaction.__enter__,
        sql_transaction.Transaction.__exit__,
        database.Database.begin,
        database.Database.leave,
    ],
    ids=lambda f: f.__qualname__,
)
def test_interrupt_at_any_line_of_a_commit_shows_and_undoes_no_half_of_it(alice, bob, function):
    """Whoever handles it still has the exception, and by it the frames, while he goes on."""
    code, came = function.__code__, 0
    for wanted in range(1, 30):
        lines = iter(range(1, wanted + 1))

        def trace(frame, event, _, lines=lines, wanted=wanted):
            if frame.f_code is code and event in ("call", "line") and next(lines, 0) == wanted:
                raise _Interrupt
            return trace

        sys.settrace(trace)
        try:
            alice.write(PLAN, f"{wanted}\n", overwrite=True)
        except _Interrupt:
            sys.settrace(None)
            came += 1
            # A peer need not wait for us to forget the exception.
            peer = bob.append(PLAN, "peer\n").generation
            assert not alice._parts.sidecar.database._writer.in_transaction
            seen = alice.observe(PLAN)
            assert (seen.generation, seen.data) == (peer, alice.read(PLAN))
            assert alice.append(PLAN, "handled\n").generation == peer + 1
        finally:
            sys.settrace(None)
        if next(lines, 0) and came:
            break
    assert came
    assert alice.check().ok


_PEER = """
    from coherent_volume import CoherentVolume
    with CoherentVolume(root, session="peer") as volume:
        return volume.append("plans/plan.md", "peer\\n").generation
    """


@pytest.mark.parametrize("function", [locks.FairLock.acquire, locks.FairLock._let_go])
def test_signal_handler_at_any_line_of_the_lock_is_told_that_it_is_busy_or_goes_on(
    alice, process, root, function
):
    code, came = function.__code__, 0
    for wanted in range(1, 40):
        answers, lines = [], iter(range(1, wanted + 1))

        def trace(frame, event, _, answers=answers, left=lines, last=wanted):
            if frame.f_code is not code or answers or event not in ("call", "line"):
                return trace
            if frame.f_locals["self"] is alice._parts.gate and next(left, 0) == last:
                sys.settrace(None)
                try:
                    answers.append(alice.append("plans/log", "from a handler\n").generation)
                except BusyError as busy:
                    answers.append(busy.holder)
            return trace

        sys.settrace(trace)
        try:
            alice.append(PLAN, f"{wanted}\n")
        finally:
            sys.settrace(None)
        if not answers:
            break
        came += 1
        assert not alice._parts.gate.is_mine
        assert alice.append(PLAN, "after\n").generation == 2 * wanted
    assert came > 3
    assert process(_PEER, root=root)


def test_interrupt_before_a_hold_is_made_prints_nothing(capsys):
    made = locks._Held.__new__(locks._Held)
    del made
    assert capsys.readouterr().err == ""


# One that falls into a callback of the collector is lost there, and Python says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_by_a_timer_leave_the_volume_usable(alice):
    came = []

    def interrupt(*_):
        came.append(1)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for hit in range(60):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + hit / 20_000)
                while len(came) <= hit:
                    alice.update(PLAN, lambda content: content[:100] + b"x")
            except KeyboardInterrupt:
                pass
            alice.append(PLAN, "after\n")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.invariant("I6")
@pytest.mark.parametrize("left", ["relaxed", "open"])
def test_interrupt_in_housekeeping_leaves_later_commits_as_durable_as_before(volume, left):
    """In the end of a transaction that need not survive a power loss, before it is undone."""
    shared = volume("alice", durability="power")
    shared.create("plans/x", "one")
    parts = shared._parts
    held = []

    def trace(frame, event, _):
        if event == "call" and _is_the_last_step(frame, left):
            sys.settrace(None)
            raise _Interrupt
        return trace

    with parts.gate.held(5.0):
        sys.settrace(trace)
        try:
            with parts.sidecar.database.transaction(durable=False):
                pass
        except _Interrupt as error:
            held.append(error)  # and with it the frames, so that nothing is undone late
        finally:
            sys.settrace(None)
    assert held
    with parts.gate.held(5.0), parts.sidecar.database.transaction(durable=True) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert shared.write("plans/x", "two").generation == 2


def _is_the_last_step(frame, left):
    caller = frame.f_back.f_code.co_name
    if left == "open":  # the block's end, before the transaction hears of it
        return frame.f_code.co_name == "__exit__" and caller.startswith("test_interrupt_in")
    return frame.f_code.co_filename == contextlib.__file__ and caller == "leave"


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("reads", ["strict", "eager"])
@pytest.mark.parametrize(
    "place",
    [
        (meters.Meters, "_add"),
        (cache.ContentCache, "_drop"),
        (parts, "announce"),
        (maintenance.Maintenance, "_start"),
    ],
    ids=lambda each: each[1],
)
def test_signal_handler_that_uses_the_volume_goes_on_inside_any_mutex(
    volume, monkeypatch, place, reads
):
    shared = volume("alice", reads=reads)
    for path in ("plans/x", "plans/y"):
        shared.create(path, "one")
    shared.close()
    shared = volume("alice", reads=reads)
    shared._parts.presence, former = None, shared._parts.presence
    former.withdraw()
    real, answers = getattr(*place), []

    def handler(*_):
        answers.append(shared.read("plans/y"))
        shared._parts.announce()
        shared._maintenance.nudge()

    def at_that_line(*arguments):
        monkeypatch.setattr(*place, real)
        signal.raise_signal(signal.SIGALRM)
        return real(*arguments)

    before = signal.signal(signal.SIGALRM, handler)
    monkeypatch.setattr(*place, at_that_line)
    try:
        shared._parts.announce()
        shared._maintenance.nudge()
        # Not at once: only a file that is not young any more is kept in memory.
        until(lambda: shared.read("plans/x") == b"one" and answers, "the handler has read")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert answers == [b"one"]
    assert shared.write("plans/x", "two").generation == 2
