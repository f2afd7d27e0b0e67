"""Hazard: a process is killed at any moment (I7). Old or new, never a mix, and nothing piles up."""

from __future__ import annotations

import random
import signal
import time
from itertools import pairwise

import pytest

from coherent_volume import BusyError
from tests.harness import evidence
from tests.harness.editors import is_whole, tokens_in
from tests.harness.processes import Workers, until
from tests.harness.workload import write_often

PLAN = "plans/plan.md"
WRITERS = 3


class _Storm:
    """Writers that are killed at random moments and replaced at once."""

    def __init__(self, workers, root, seed):
        self.workers, self.root = workers, root
        self.rng = random.Random(seed)
        self.mortality = 0.0
        self.running = []

    def begin(self, mortality=0.0):
        self.mortality = mortality
        self.running = [self.start(number) for number in range(WRITERS)]

    def start(self, number):
        # Each writer has a name of its own, so that its tokens are its own too.
        name = f"w{number}x{len(self.workers.all)}"
        return self.workers.start(
            write_often,
            root=self.root,
            path=PLAN,
            session=name,
            seed=self.rng.randrange(1 << 32),
            mortality=self.mortality,
        )

    def strike(self):
        """Kill one writer in the middle of whatever it does."""
        number = self.rng.randrange(WRITERS)
        victim = self.running[number]
        victim.wait_for("tries")
        time.sleep(self.rng.random() * 0.03)
        self.bury(victim)
        self.running[number] = self.start(number)

    def await_death(self):
        """Wait for one that dies of itself, at one of the named points."""
        dead = until(lambda: [w for w in self.running if not w.running], "somebody dies")[0]
        self.bury(dead)
        self.running[self.running.index(dead)] = self.start(len(self.workers.all) % WRITERS)

    @staticmethod
    def bury(worker):
        worker.kill()
        # Nothing else may have ended it: not an exception.
        assert worker.popen.returncode == -signal.SIGKILL, worker.complaint()

    def end(self):
        for worker in self.running:
            self.bury(worker)

    def acknowledged(self):
        """Generation by token, of all that any writer was told is committed."""
        said = [record for worker in self.workers.all for record in worker.said("committed")]
        return {record["token"]: record["generation"] for record in said}

    def refused(self):
        return {r["token"] for worker in self.workers.all for r in worker.said("refused")}


@pytest.fixture
def storm(root, volume):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    with volume("starter") as starter:
        starter.read(PLAN)
        starter.write(PLAN, b"")
    evidence.keep_everything(root)
    with Workers() as workers:
        yield _Storm(workers, root, seed)


@pytest.mark.invariant("I7")
@pytest.mark.invariant("I2")
@pytest.mark.parametrize("killed", ["at any moment", "at named points"])
def test_killed_writers_lose_nothing_that_was_acknowledged(storm, root, volume, killed):
    deaths = 15 if killed == "at any moment" else 30
    storm.begin(mortality=0.0 if killed == "at any moment" else 0.02)
    for _ in range(deaths):
        if killed == "at any moment":
            storm.strike()
        else:
            storm.await_death()
        # The file that an unaware reader sees is old or new, never a mix.
        visible = (root / PLAN).read_bytes()
        assert visible == b"" or is_whole(visible), f"torn: {visible[:80]!r}"
    storm.end()
    with volume("visitor") as visitor:
        seen = visitor.observe(PLAN)

    kept = evidence.look(root)
    past = {p.generation: p for p in kept.of(PLAN)}
    acknowledged = storm.acknowledged()
    print(f"{deaths} deaths, {len(acknowledged)} commits acknowledged, {len(past)} generations")
    assert len(acknowledged) > deaths
    for token, generation in acknowledged.items():
        assert token in tokens_in(past[generation].content)
    assert list(past) == list(range(len(past)))
    assert all(later.base == earlier.generation for earlier, later in pairwise(past.values()))
    assert all(p.content in {b"", b"first\n"} or is_whole(p.content) for p in past.values())
    # Nobody edited from outside: what the dead left was finished, not mistaken for an edit.
    assert "outside" not in {p.session for p in past.values() if p.generation}
    assert (seen.generation, seen.data) == (len(past) - 1, past[len(past) - 1].content)
    assert kept.visible[PLAN] == seen.data
    refused = storm.refused()
    assert not [p for p in past.values() if tokens_in(p.content) & refused]


@pytest.mark.invariant("I7")
@pytest.mark.invariant("I10")
def test_orphans_of_the_killed_do_not_pile_up(storm, root, volume):
    storm.begin(mortality=0.02)
    for _ in range(20):
        storm.await_death()
    storm.end()
    with volume("visitor") as visitor:
        visitor.read(PLAN)
        visitor.update(PLAN, lambda data: data)
        visitor.update(PLAN, lambda data: b"the last one\n")
    with volume("later") as later:
        later.read(PLAN)

    kept = evidence.look(root)
    # What the last visitors displaced themselves may still be too young to go.
    assert len(evidence.leftovers(root)) <= 3
    assert kept.pending <= 3
    named = {token for p in kept.past for token in tokens_in(p.content or b"")}
    assert named >= set(storm.acknowledged())


@pytest.mark.invariant("I10")
def test_killed_writer_frees_the_gate_at_once(root, volume, process):
    alice = volume("alice")
    alice.read(PLAN)
    holder = process.start(
        """
        import time
        from coherent_volume import CoherentVolume, points
        def stop_under_the_gate(name):
            if name == "gate_acquired":
                tell("inside")
                time.sleep(3600)
        with CoherentVolume(root, session="bob") as volume:
            volume.read("plans/plan.md")
            points.reached = stop_under_the_gate
            volume.write("plans/plan.md", "never")
        """,
        root=root,
    )
    assert holder.hear() == "inside"

    holder.kill()
    start = time.monotonic()
    alice.write(PLAN, "alice's\n")

    assert time.monotonic() - start < 5.0
    assert alice.observe(PLAN).generation == 1


@pytest.mark.invariant("I10")
def test_stalled_gate_holder_gives_peers_a_busy_error_that_names_it(
    root, volume, process, monkeypatch
):
    monkeypatch.setattr("coherent_volume.gating.GATE_WAIT_S", 1.0)
    alice = volume("alice")
    alice.read(PLAN)
    holder = process.start(
        """
        from coherent_volume import CoherentVolume, points
        def stop_under_the_gate(name):
            if name == "gate_acquired":
                points.reached = lambda name: None
                tell("inside")
                hear()
        with CoherentVolume(root, session="bob") as volume:
            volume.read("plans/plan.md")
            points.reached = stop_under_the_gate
            return volume.write("plans/plan.md", "bob's").generation
        """,
        root=root,
    )
    assert holder.hear() == "inside"

    with pytest.raises(BusyError) as refusal:
        alice.write(PLAN, "alice's\n")

    assert str(holder.pid) in str(refusal.value)
    assert alice.read(PLAN) == b"first\n"  # reading what is settled needs no gate
    holder.tell("go on")
    assert holder.result() == 1
