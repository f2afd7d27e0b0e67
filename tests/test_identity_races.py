"""Hazard: one process passes for another: a pid used again, a storm of forks, a late awakening."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from coherent_volume import CoherentVolume
from tests.harness.command import REPOSITORY
from tests.harness.processes import until

PLAN = "plans/plan.md"

# In a name space of their own, so that nobody else takes the number.
_TWO_LIVES = """
import os, signal, sys
from coherent_volume import CoherentVolume, NotObservedError

def life(work):
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writable, repr(work()).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        return pid, pipe.read()

def first():
    volume = CoherentVolume(sys.argv[1])
    volume.read("plans/plan.md")
    return volume.session.kind, volume.lease("plans/plan.md", ttl=600).epoch

def second():
    volume = CoherentVolume(sys.argv[1])
    try:
        volume.write("plans/plan.md", "blind")
    except NotObservedError as error:
        refused = error.reason
    volume.read("plans/plan.md")
    with volume.lease("plans/plan.md", ttl=600):
        return refused, volume.write("plans/plan.md", "second").generation

one = life(first)
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(one[0] - 1))
two = life(second)
print([one, two])
"""


@pytest.mark.invariant("I1")
@pytest.mark.invariant("I10")
def test_process_with_the_pid_of_a_dead_one_has_neither_its_views_nor_its_lease(root, volume):
    volume("starter").close()
    done = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--mount-proc"),
            *(sys.executable, "-c", _TWO_LIVES, os.fspath(root)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    if "unshare" in done.stderr or "ns_last_pid" in done.stderr:
        pytest.skip(f"pids cannot be chosen here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[(2, \"('process', 0)\"), (2, \"('not_observed', 1)\")]\n"


@pytest.mark.invariant("I4")
@pytest.mark.parametrize("at", ["staged", "gate_acquired", "before_publish"])
@pytest.mark.parametrize("name", ["alice", None])
def test_holder_that_was_stopped_in_its_commit_is_fenced_or_was_first(root, bob, process, name, at):
    """Before the gate it is late; under the gate nobody could take its lease away."""
    holder = process.start(
        """
        import os, signal
        from coherent_volume import CoherentVolume, FencedError, points
        volume = CoherentVolume(root, session=name)
        volume.read("plans/plan.md")
        lease = volume.lease("plans/plan.md", ttl=0.3)
        def reached(point):
            if point == at:
                points.reached = lambda point: None
                tell("stopping")
                os.kill(os.getpid(), signal.SIGSTOP)
        points.reached = reached
        try:
            return volume.write("plans/plan.md", "late").generation
        except FencedError as error:
            return [error.reason, error.fields["held"], error.fields["current"]]
        """,
        root=root,
        name=name,
        at=at,
    )
    assert holder.hear() == "stopping"
    stat = Path(f"/proc/{holder.pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
    if at == "staged":
        bob.lease(PLAN, ttl=60, wait=30).release()
        os.kill(holder.pid, signal.SIGCONT)
        assert holder.result() == ["fenced", 0, 1]
        assert (root / PLAN).read_bytes() == b"first\n"
        return
    os.kill(holder.pid, signal.SIGCONT)
    assert holder.result() == 1
    assert (root / PLAN).read_bytes() == b"late"


@pytest.mark.invariant("I1")
@pytest.mark.invariant("I10")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_storm_of_forks_beside_committing_threads_loses_nothing(volume, monkeypatch):
    # On a busy machine all of them together take longer than one wait.
    monkeypatch.setattr("coherent_volume.gating.GATE_WAIT_S", 90.0)
    shared: CoherentVolume = volume()
    shared.write(PLAN, b"", overwrite=True)
    stop = threading.Event()
    written: list[bytes] = []

    def commit() -> None:
        while not stop.is_set():
            line = f"thread {len(written)}\n".encode()
            shared.append(PLAN, line)
            written.append(line)

    thread = threading.Thread(target=commit)
    thread.start()
    children = {}
    try:
        for number in range(15):
            line = f"child {number}\n".encode()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    shared.append(PLAN, line)
                    status = 0
                finally:
                    os._exit(status)
            children[pid] = line
        for pid, line in children.items():
            assert os.waitpid(pid, 0)[1] == 0, line
    finally:
        stop.set()
        thread.join()
    lines = shared.read(PLAN).splitlines(keepends=True)
    assert sorted(lines) == sorted([*written, *children.values()])
    assert shared.audit().ok
