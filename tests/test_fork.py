"""Hazard: a forked child inherits locks, a database connection, and what its parent saw."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

import coherent_volume
from coherent_volume import (
    BusyError,
    ClosedError,
    CoherentVolume,
    ConflictError,
    NotObservedError,
    database,
    files,
    forking,
    install,
    locks,
    merge,
    merging,
    points,
)
from coherent_volume import staging as staging_module
from coherent_volume.descriptors import dismiss
from coherent_volume.records import InstallRow
from tests.harness.processes import until

PLAN = "plans/plan.md"

# From Python 3.12 on, forking with threads alive warns; doing so is the point.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def in_child(work, deadline_s=20.0):
    """Run *work* in a forked child; what it returned, or how it failed."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = {"result": work()}
        except BaseException:  # noqa: BLE001 - pytest's own refusals are no Exceptions
            answer = {"failure": traceback.format_exc()}
        os.write(writable, json.dumps(answer).encode())
        os._exit(0)
    os.close(writable)
    try:
        ready, _, _ = select.select([readable], [], [], deadline_s)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        assert ready, "the child hangs"
        answer = json.loads(os.read(readable, 1 << 16))
        assert "result" in answer, answer.get("failure")
        return answer["result"]
    finally:
        os.close(readable)
        os.waitpid(pid, 0)


@pytest.mark.invariant("I1")
def test_forked_child_holds_no_observations(root, volume):
    shared = volume()
    shared.read(PLAN)

    def work():
        with pytest.raises(NotObservedError):
            shared.write(PLAN, "blind\n")
        return shared.session.name

    name = in_child(work)

    assert name != shared.session.name
    assert shared.write(PLAN, "parent's\n").generation == 1


@pytest.mark.invariant("I1")
def test_commit_of_a_forked_child_makes_its_parents_view_stale(root, volume):
    shared = volume()
    shared.read(PLAN)

    def work():
        shared.read(PLAN)
        return shared.write(PLAN, "child's\n").generation

    assert in_child(work) == 1
    with pytest.raises(ConflictError):
        shared.write(PLAN, "parent's\n")
    assert shared.read(PLAN) == b"child's\n"


@pytest.mark.invariant("I1")
def test_named_session_stays_itself_in_a_forked_child(volume):
    alice = volume("alice")
    alice.read(PLAN)
    assert in_child(lambda: [alice.session.name, alice.write(PLAN, "child's\n").generation]) == [
        "alice",
        1,
    ]
    alice.read(PLAN)
    assert alice.write(PLAN, "parent's\n").generation == 2


@pytest.mark.invariant("I7")
def test_parent_goes_on_after_its_child_closed_the_volume(root, volume):
    shared = volume()
    shared.read(PLAN)
    shared.write(PLAN, "one\n")

    def work():
        shared.read(PLAN)
        shared.close()
        return True

    assert in_child(work)
    for turn in range(5):
        shared.write(PLAN, f"{turn}\n")
    with volume("visitor") as visitor:
        assert visitor.observe(PLAN).generation == 6
        assert visitor.check().ok


@pytest.mark.invariant("I7")
def test_child_that_drops_the_volume_without_closing_it_harms_nothing(root, process):
    """Its finalisers must not close what the parent goes on using."""
    body = """
        import gc, os
        from coherent_volume import CoherentVolume
        volume = CoherentVolume(root, managed=("plans/**",))
        volume.read("plans/plan.md")
        for turn in range(5):
            volume.write("plans/plan.md", f"{turn}")
            child = os.fork()
            if child == 0:
                del volume
                gc.collect()
                os._exit(0)
            os.waitpid(child, 0)
        assert volume.check().ok
        return volume.observe("plans/plan.md").generation
        """
    assert process(body, root=root) == 5


@pytest.mark.invariant("I1")
def test_forked_children_that_update_together_lose_nothing(root, volume):
    (root / "plans/lines").write_bytes(b"")
    shared = volume()
    shared.read("plans/lines")
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for turn in range(15):
                    line = b"%d %d\n" % (number, turn)
                    shared.update(
                        "plans/lines", lambda data, line=line: data + line, retries=10_000
                    )
                status = 0
            finally:
                os._exit(status)
        children.append(pid)

    for turn in range(15):
        shared.update("plans/lines", lambda data, t=turn: data + b"p %d\n" % t, retries=10_000)

    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    lines = (root / "plans/lines").read_bytes().splitlines()
    assert len(lines) == len(set(lines)) == 75
    assert shared.observe("plans/lines").generation == 75


class _Stop:
    """Holds a thread at a named point of the protocol until it is let go."""

    def __init__(self, name):
        self.name, self.reached, self.go_on = name, threading.Event(), threading.Event()
        self.thread = None

    def __call__(self, name):
        if name == self.name and threading.get_ident() == self.thread:
            self.reached.set()
            self.go_on.wait(20)


@pytest.fixture
def thread_in_the_gate(volume, monkeypatch):
    """A thread of this process that stands inside the gate, in the middle of a commit."""
    monkeypatch.setattr("coherent_volume.gating.GATE_WAIT_S", 1.0)
    writer = volume("writer")
    writer.read(PLAN)
    stop = _Stop("checked")
    monkeypatch.setattr(points, "reached", stop)
    done = []

    def write():
        stop.thread = threading.get_ident()
        done.append(writer.write(PLAN, "from the thread\n"))

    thread = threading.Thread(target=write)
    thread.start()
    assert stop.reached.wait(10)
    yield stop
    stop.go_on.set()
    thread.join()
    assert [commit.generation for commit in done] == [1]


@pytest.mark.invariant("I10")
def test_child_forked_inside_the_gate_neither_hangs_nor_passes_it(root, volume, thread_in_the_gate):
    shared = volume()

    def work():
        # The gate is the parent's: the child must wait for it, and not forever.
        with pytest.raises(BusyError):
            shared.update(PLAN, lambda data: data + b"child\n")
        return shared.read(PLAN).decode()

    assert in_child(work) == "first\n"


@pytest.mark.invariant("I10")
def test_child_forked_inside_the_gate_does_not_keep_it(root, volume, thread_in_the_gate):
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        # It lives on and never touches the volume, as a forked server's child does.
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        thread_in_the_gate.go_on.set()
        bob = volume("bob")
        until(lambda: bob.observe(PLAN).generation == 1, "the thread commits")
        assert bob.write(PLAN, "bob's\n").generation == 2
    finally:
        os.write(go[1], b"x")
        os.waitpid(pid, 0)
        for descriptor in (*ready, *go):
            os.close(descriptor)


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("step", ["write_all", "sole_opener"])
def test_child_forked_while_content_is_staged_does_not_keep_the_file_open(
    root, volume, monkeypatch, step
):
    """While it is written, and while a spare inode is looked at before its use."""
    alice, bob = volume("alice"), volume("bob")
    alice.read(PLAN)
    alice.write(PLAN, "displaces the first\n")

    def spare_kept():
        alice.write(PLAN, f"{time.monotonic_ns()}\n")
        return len(alice._parts.staging._spares) > 1

    until(spare_kept, "a displaced inode is kept for later")
    staging, go_on = threading.Event(), threading.Event()
    real = getattr(staging_module, step)

    def stopped(descriptor, *others):
        staging.set()
        go_on.wait(20)
        return real(descriptor, *others)

    monkeypatch.setattr(staging_module, step, stopped)
    thread = threading.Thread(target=lambda: alice.write(PLAN, "from the thread\n"))
    thread.start()
    assert staging.wait(10)
    go = os.pipe()
    pid = os.fork()
    if pid == 0:
        # It lives on and never touches the volume, as a forked server's child does.
        os.read(go[0], 1)
        os._exit(0)
    try:
        monkeypatch.undo()
        go_on.set()
        thread.join()
        # What was staged is the visible file: a writable descriptor of it in the
        # child would make it busy for everybody, as long as the child lives.
        assert bob.read(PLAN) == b"from the thread\n"
        assert bob.write(PLAN, "bob's\n").generation > 2
    finally:
        os.write(go[1], b"x")
        os.waitpid(pid, 0)
        os.close(go[0])
        os.close(go[1])


@pytest.mark.invariant("I10")
def test_child_of_a_killed_parent_does_not_keep_the_gate(root, process, volume):
    parent = process.start(
        """
        import os, threading
        from coherent_volume import CoherentVolume, points
        volume = CoherentVolume(root, managed=("plans/**",), session="parent")
        volume.read("plans/plan.md")
        def fork_under_the_gate(name):
            if name != "checked":
                return
            points.reached = lambda name: None
            child = os.fork()
            if child == 0:
                os.read(os.pipe()[0], 1)  # for ever
            tell(child)
            hear()
        points.reached = fork_under_the_gate
        volume.write("plans/plan.md", "never")
        """,
        root=root,
    )
    child = parent.hear()
    try:
        parent.kill()
        alice = volume("alice")
        alice.read(PLAN)
        assert alice.write(PLAN, "alice's\n").generation == 1
    finally:
        os.kill(child, signal.SIGKILL)


@contextlib.contextmanager
def idle_child():
    """A child that never touches the volume, as a forked server's does."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go[1])
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        yield
    finally:
        for descriptor in (*go[::-1], *ready):
            os.close(descriptor)
        os.waitpid(pid, 0)


@pytest.fixture
def forks_at(monkeypatch):
    """Let a child be forked, once, right before or after a function of a module."""
    with contextlib.ExitStack() as children:

        def arrange(module, name, *, after=False):
            real = getattr(module, name)

            def forking_once(*arguments, **options):
                monkeypatch.setattr(module, name, real)
                if not after:
                    children.enter_context(idle_child())
                result = real(*arguments, **options)
                if after:
                    children.enter_context(idle_child())
                return result

            monkeypatch.setattr(module, name, forking_once)

        yield arrange


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("step", ["openat2", "take_lease"])
def test_child_forked_during_a_look_does_not_keep_its_lease(root, alice, forks_at, step):
    forks_at(files, step, after=step == "take_lease")
    alice.read(PLAN)
    # It would wait for the lease, and without waiting fail.
    os.close(os.open(root / PLAN, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.invariant("I10")
def test_child_forked_while_a_lock_is_opened_does_not_keep_it(tmp_path, forks_at):
    path = os.fspath(tmp_path / "lock")
    lock, peer = locks.FairLock(path), locks.FairLock(path)
    forks_at(locks, "_open", after=True)
    lock.acquire(1.0)
    dismiss(lock._descriptor)  # as when this process dies
    peer.acquire(0.2)
    peer.release()
    peer.close()


@pytest.mark.invariant("I10")
def test_child_forked_while_a_presence_is_made_does_not_keep_it(tmp_path, forks_at):
    path = os.fspath(tmp_path / "presence")
    forks_at(os, "rename")
    presence = locks.Presence(path, "text")
    dismiss(presence._descriptor)  # as when this process dies
    assert not locks.is_present(path)


@pytest.mark.invariant("I10")
def test_child_forked_when_a_lease_was_granted_does_not_keep_it(root, alice, bob, forks_at):
    forks_at(points, "reached")
    real = points.reached
    points.reached = lambda name: real(name) if name == "leased" else None
    try:
        lease = alice.lease(PLAN, ttl=600)
    finally:
        points.reached = real
    lease._hold._lock.fh.close()  # as when this process dies
    bob.lease(PLAN, ttl=5).release()


def test_child_keeps_the_application_s_file_after_a_look_that_failed(alice, monkeypatch):
    alice.read(PLAN)
    alice.write(PLAN, "one\n")
    parts = alice._parts
    name = parts.staging.next_name()
    with open(os.path.join(parts.directory, "staging", name), "wb"):
        pass
    record = InstallRow(1, 1, name, None, None, b"", "", 0)

    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="Input/output"):
        patched.setattr(files, "read_exactly", failing)
        install._look_at_displaced(parts, PLAN.encode(), record)
    mine = os.open(os.devnull, os.O_RDONLY)  # has the number of the look
    try:
        assert in_child(lambda: os.fstat(mine).st_size) == 0
    finally:
        os.close(mine)


# ── the database ─────────────────────────────────────────────────────────────


@pytest.fixture
def thread_in_a_transaction(volume, monkeypatch):
    """A volume with a thread that stands in the transaction of a commit, longer than all wait."""
    monkeypatch.setattr(forking, "_WAIT_S", 0.05)
    monkeypatch.setattr("coherent_volume.maintenance._CLOSE_WAIT_S", 0.05)
    monkeypatch.setattr(database, "_IN_USE_WAIT_S", 0.05, raising=False)
    shared = volume()
    shared.read(PLAN)
    inside, go_on = threading.Event(), threading.Event()
    real = database.Database.transaction

    @contextlib.contextmanager
    def stopped(self, *, durable):
        with real(self, durable=durable) as connection:
            yield connection
            if threading.current_thread() is thread:
                inside.set()
                go_on.wait(20)

    monkeypatch.setattr(database.Database, "transaction", stopped)
    pool = ThreadPoolExecutor(1)
    thread = pool.submit(threading.current_thread).result()
    commit = pool.submit(shared.write, PLAN, "from the thread\n")
    assert inside.wait(10)
    yield shared
    go_on.set()
    # Its connection was not closed under it.
    assert commit.result(20).generation == 1
    pool.shutdown()


@pytest.mark.invariant("I7")
def test_fork_leaves_a_commit_of_another_thread_alone(root, thread_in_a_transaction):
    def work():
        # What SQLite would tell of its locks in this process is not true.
        with pytest.raises(ClosedError, match="forked while another thread"):
            thread_in_a_transaction.read(PLAN)
        with pytest.raises(ClosedError, match="forked while another thread"):
            CoherentVolume(root)

    assert in_child(work) is None


@pytest.mark.invariant("I7")
def test_close_leaves_a_commit_of_another_thread_alone(thread_in_a_transaction):
    thread_in_a_transaction.close()


@pytest.mark.invariant("I7")
def test_interrupt_in_the_fork_hook_ends_the_fork_and_not_the_hook(volume, monkeypatch):
    shared = volume()
    shared._maintenance.nudge = lambda: None  # the interrupt is meant for the hook alone
    shared.read(PLAN)
    shared.write(PLAN, "one\n")
    parents = shared._parts.sidecar.database
    before = {parents._reader, parents._writer}

    def interrupted(*_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    readable, writable = os.pipe()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(locks.FairLock, "acquire", interrupted)
    with pytest.raises(KeyboardInterrupt):
        if os.fork() == 0:
            inherited = [each for each in before if each in (parents._reader, parents._writer)]
            answer = [os.getpid(), len(inherited), shared.read(PLAN).decode()]
            os.write(writable, json.dumps(answer).encode())
            os._exit(0)
    signal.signal(signal.SIGINT, handler)
    os.close(writable)
    pid, inherited, content = json.loads(os.read(readable, 1 << 10))
    os.close(readable)
    os.waitpid(pid, 0)
    assert (inherited, content) == (0, "one\n")
    assert shared.write(PLAN, "two\n").generation == 2


@pytest.mark.invariant("I7")
def test_volume_opened_by_a_thread_during_a_fork_does_not_end_the_hook(volume, monkeypatch):
    shared, other = volume(), volume("other")
    members = weakref.WeakSet.__iter__
    opened = []

    def switched(self):
        for each in members(self):
            yield each
            if self is forking._open_volumes and not opened:
                opened.append(volume("opened meanwhile"))

    monkeypatch.setattr(weakref.WeakSet, "__iter__", switched)

    def work():
        return [each._parts.sidecar.database._reader is None for each in (shared, other)]

    assert in_child(work) == [True, True]


# ── multiprocessing ──────────────────────────────────────────────────────────


def _append_own_line(root, number):
    with CoherentVolume(root) as volume:
        return volume.update(
            "plans/lines", lambda data: data + b"%d\n" % number, retries=10_000
        ).generation


@pytest.mark.invariant("I1")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pool_of_processes_loses_nothing(root, volume, method):
    (root / "plans/lines").write_bytes(b"")
    shared = volume()  # alive in the parent while its pool works
    shared.read("plans/lines")

    with multiprocessing.get_context(method).Pool(3) as pool:
        generations = pool.starmap(_append_own_line, [(os.fspath(root), n) for n in range(12)])

    assert sorted(generations) == list(range(1, 13))
    lines = sorted(map(int, shared.read("plans/lines").split()))
    assert lines == list(range(12))


def test_error_of_a_pool_process_arrives_as_it_was_raised(root, volume):
    volume("starter").close()
    with (
        multiprocessing.get_context("spawn").Pool(1) as pool,
        pytest.raises(NotObservedError) as refusal,
    ):
        pool.apply(_write_blind, (os.fspath(root),))
    assert refusal.value.path == PLAN
    assert (root / refusal.value.kept).read_bytes() == b"blind\n"


def _write_blind(root):
    with CoherentVolume(root) as volume:
        volume.write(PLAN, "blind\n")


class _SlowFinder:
    """Lets the import of *name* take a while, and says when it has begun."""

    def __init__(self, name):
        self.name = name
        self.begun = threading.Event()

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            self.begun.set()
            time.sleep(0.5)


@pytest.mark.invariant("I10")
def test_child_can_import_what_a_thread_was_importing_during_the_fork(alice, bob, monkeypatch):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    for module in (merging, merge):
        # Both places, so that both have the same module again afterwards.
        name = module.__name__
        monkeypatch.setattr(coherent_volume, name.rpartition(".")[2], None)
        monkeypatch.delitem(sys.modules, name)
    finder = _SlowFinder("coherent_volume.merge")
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])

    def refused():
        with pytest.raises(ConflictError):
            alice.write(PLAN, "alice's\n", on_conflict="merge")

    thread = threading.Thread(target=refused)
    thread.start()
    assert finder.begun.wait(10)
    assert in_child(refused) is None
    thread.join()
