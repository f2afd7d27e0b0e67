"""Hazard: history that grows for ever, or pruning that takes what is still needed."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from coherent_volume import (
    CoherentVolume,
    ConflictError,
    DamagedError,
    GenerationNotKeptError,
    ageing,
)
from tests.harness import evidence

PLAN = "plans/plan.md"
DAY_S = 86_400


@pytest.fixture
def keeping(root):
    """``keeping(generations=3)``: a new volume on ``root`` with that retention."""

    def make(**retention: int) -> Path:
        CoherentVolume(root, managed=("plans/**",)).close()
        config = root / ".coherence" / "config.toml"
        head, _, _ = config.read_text().partition("[retention]")
        lines = "".join(f"{key} = {value}\n" for key, value in retention.items())
        config.write_text(f"{head}[retention]\n{lines}")
        return root

    return make


def objects_of(root: Path) -> list[str]:
    return sorted(file.name for file in (root / ".coherence" / "objects").iterdir())


def numbers_of(root: Path, path: str = PLAN) -> list[int]:
    return [past.generation for past in evidence.look(root).of(path)]


def test_configured_number_of_generations_is_kept(keeping, volume):
    root = keeping(generations=5)
    with volume("alice", managed=None) as alice:
        alice.read(PLAN)
        for number in range(40):
            alice.write(PLAN, f"{number}\n")
        assert len(alice.log(PLAN)) <= 6

    numbers = numbers_of(root)
    assert numbers[-1] == 40
    # The head and at most five of its past.
    assert 5 <= len(numbers) <= 6
    assert numbers == list(range(numbers[0], 41))
    assert evidence.look(root).of(PLAN)[-1].content == b"39\n"


@pytest.mark.invariant("I2")
def test_pruning_one_artifact_spares_the_others(keeping, volume):
    root = keeping(generations=3)
    with volume("alice", managed=None) as alice:
        for name in ("plans/quiet", "plans/busy"):
            alice.create(name, "one\n")
        alice.write("plans/quiet", "two\n")
        for number in range(20):
            alice.write("plans/busy", f"{number}\n")
        seen = alice.observe("plans/quiet")

    assert seen.generation == 2
    assert numbers_of(root, "plans/quiet") == [1, 2]
    assert numbers_of(root, "plans/busy")[-1] == 21


@pytest.mark.invariant("I2")
def test_head_is_kept_however_old_it_is(keeping, volume, monkeypatch):
    root = keeping(generations=100, days=1)
    with volume("alice", managed=None) as alice:
        alice.read(PLAN)
        alice.write(PLAN, "one\n")
        alice.write(PLAN, "two\n")
    later = time.time_ns() + 400 * DAY_S * 10**9
    monkeypatch.setattr("time.time_ns", lambda: later)
    monkeypatch.setattr("time.time", lambda: later / 1e9)
    now = ageing.now_ns() + 400 * DAY_S * 10**9
    monkeypatch.setattr(ageing, "now_ns", lambda: now)

    with volume("bob", managed=None) as bob:
        assert bob.observe(PLAN).generation == 2
        bob.create("plans/other", "text")
        bob.update(PLAN, lambda data: data + b"three\n")
    monkeypatch.undo()

    kept = evidence.look(root).of(PLAN)
    assert kept[-1].generation == 3
    assert kept[-1].content == b"two\nthree\n"
    # What was older than a day is gone, all but perhaps the one that was the head until now.
    assert [past.generation for past in kept] in ([3], [2, 3])


@pytest.mark.invariant("I2")
def test_numbers_go_on_though_their_past_was_pruned(keeping, volume):
    root = keeping(generations=1)
    with volume("alice", managed=None) as alice:
        alice.read(PLAN)
        for number in range(10):
            alice.write(PLAN, f"{number}\n")
        alice.delete(PLAN)
        for _ in range(3):
            alice.create(PLAN, "again\n")
            alice.delete(PLAN)
        assert alice.create(PLAN, "last\n").generation == 18
    assert numbers_of(root)[-1] == 18


def test_objects_of_pruned_generations_vanish(keeping, volume):
    root = keeping(generations=3)
    with volume("alice", managed=None) as alice:
        for number in range(12):
            content = bytes([65 + number]) * 400_000
            if number:
                alice.write("plans/big", content)
            else:
                alice.create("plans/big", content)
    with volume("bob", managed=None) as bob:
        bob.read("plans/big")

    kept = evidence.look(root).of("plans/big")  # it fails if the object of a kept one is gone
    assert kept[-1].content == b"L" * 400_000
    assert len(objects_of(root)) == len(kept) <= 4


@pytest.mark.invariant("I6")
def test_object_that_two_generations_share_outlives_the_first(keeping, volume):
    root = keeping(generations=2)
    same, other = b"s" * 400_000, b"o" * 400_000
    with volume("alice", managed=None) as alice:
        alice.create("plans/big", same)
        for content in (other, same, other, same):
            alice.write("plans/big", content)
        alice.rename("plans/big", "plans/moved")
        for number in range(4):
            alice.create("plans/big", f"{number}")
            alice.delete("plans/big")
    with volume("bob", managed=None) as bob:
        assert bob.read("plans/moved") == same
        assert bob.check().ok

    assert evidence.look(root).of("plans/moved")[-1].content == same


@pytest.mark.invariant("I6")
def test_refused_content_is_swept_by_age_and_not_before(keeping, volume, monkeypatch):
    root = keeping(refused_days=7)
    with volume("alice", managed=None) as alice, volume("bob", managed=None) as bob:
        alice.read(PLAN)
        bob.read(PLAN)
        bob.write(PLAN, "bob's\n")
        kept = []
        for content in ("old work", "new work"):
            with pytest.raises(ConflictError) as refusal:
                alice.write(PLAN, content)
            kept.append(root / refusal.value.kept)
    age = time.time() - 8 * DAY_S
    os.utime(kept[0], (age, age))
    an_hour_later = ageing.now_ns() + 3600 * 10**9
    monkeypatch.setattr(ageing, "now_ns", lambda: an_hour_later)

    with volume("carol", managed=None) as carol:
        carol.update(PLAN, lambda data: data + b"carol\n")

    assert not kept[0].exists()
    assert kept[1].read_bytes() == b"new work"


def test_stages_of_dead_processes_are_collected(root, volume, process):
    body = """
        import os, signal
        from coherent_volume import CoherentVolume, points
        def die(name):
            if name == point:
                os.kill(os.getpid(), signal.SIGKILL)
        volume = CoherentVolume(root, managed=("plans/**",), session="victim")
        volume.read("plans/plan.md")
        points.reached = die
        volume.write("plans/plan.md", "x" * size)
        """
    for turn, point in enumerate(("staged", "gate_acquired", "checked", "before_publish") * 3):
        size = 300_000 if turn % 2 else 300
        assert process.start(body, root=root, point=point, size=size).wait() == -9

    with volume("alice") as alice:
        alice.read(PLAN)
        alice.write(PLAN, "alive\n")
    with volume("bob") as bob:
        bob.read(PLAN)

    # What alice displaced may still be too young to go.
    assert len(evidence.leftovers(root)) <= 1
    assert objects_of(root) == []
    assert numbers_of(root) == [0, 1]


def test_short_commands_leave_no_pile_of_stages(root, volume):
    """Each is gone before its own clean-up is due; the next ones must do it."""
    for number in range(30):
        with volume(f"command{number}") as command:
            command.update(PLAN, lambda data, n=number: b"%d\n" % n)

    # What the last few displaced may still be young.
    assert len(evidence.leftovers(root)) <= 5
    assert evidence.look(root).pending <= 5


def test_stage_of_a_living_process_is_not_collected(root, volume, process):
    slow = process.start(
        """
        from coherent_volume import CoherentVolume, points
        def wait(name):
            if name == "staged":
                points.reached = lambda name: None
                tell("staged")
                hear()
        with CoherentVolume(root, managed=("plans/**",), session="slow") as volume:
            volume.read("plans/plan.md")
            points.reached = wait
            return volume.create("plans/slow.md", "x" * 300_000).generation
        """,
        root=root,
    )
    assert slow.hear() == "staged"
    for name in ("alice", "bob"):
        with volume(name) as other:
            other.update(PLAN, lambda data: data + b"more\n")
            other.check()

    slow.tell("go on")

    assert slow.result() == 1
    assert (root / "plans/slow.md").stat().st_size == 300_000


def test_sidecar_stays_small_under_many_commits(keeping, volume):
    root = keeping(generations=10)
    text = "durability = "
    config = root / ".coherence" / "config.toml"
    config.write_text(config.read_text().replace(f'{text}"power"', f'{text}"process"'))
    with volume("alice", managed=None) as alice:
        alice.read(PLAN)
        for number in range(600):
            alice.write(PLAN, f"{number:08d}".encode() * 1500)
        size = alice.status().sidecar_bytes
    # The log alone would hold more than twice 7 MB; ten generations are 120 kB.
    assert size < 10_000_000
    assert len(numbers_of(root)) <= 11


def test_pruning_does_not_make_a_reader_of_an_old_generation_wrong(keeping, volume):
    keeping(generations=1)
    alice, bob = volume("alice", managed=None), volume("bob", managed=None)
    seen = bob.observe(PLAN)
    alice.read(PLAN)
    for number in range(5):
        alice.write(PLAN, f"{number}\n")

    assert bob.observe(PLAN, known=seen).data == b"4\n"
    alice.write(PLAN, "5\n")
    with pytest.raises(ConflictError):
        bob.write(PLAN, "from the pruned one\n", base=seen)


def overtake(reader, monkeypatch, meanwhile):
    """Let *meanwhile* happen after *reader* has looked up an object, before it opens that."""
    staging = reader._parts.staging
    opens = staging.open_object

    def late(name):
        monkeypatch.setattr(staging, "open_object", opens)
        meanwhile(name)
        return opens(name)

    monkeypatch.setattr(staging, "open_object", late)


def test_reader_that_retention_overtakes_is_told_so_and_not_of_damage(keeping, volume, monkeypatch):
    root = keeping(generations=1)
    large = [bytes([65 + number]) * 300_000 for number in range(3)]
    with volume("alice", managed=None) as alice:
        alice.create("plans/large", large[0])
    bob = volume("bob", managed=None)

    def pruned(name):
        with volume("carol", managed=None) as carol:
            for content in large[1:]:
                carol.write("plans/large", content, overwrite=True)
        assert name not in objects_of(root)

    overtake(bob, monkeypatch, pruned)
    with pytest.raises(GenerationNotKeptError, match="generation 1 is not kept any longer"):
        bob.read_at("plans/large", 1)


def test_reader_whose_object_was_replaced_reads_the_other_one(root, volume, monkeypatch):
    alice = volume("alice")
    alice.create("plans/large", b"x" * 300_000)

    def replaced(name):
        folder = root / ".coherence"
        (folder / "objects" / name).rename(folder / "objects" / f"{name}9")
        with sqlite3.connect(folder / "sidecar.db") as database:
            database.execute("UPDATE history SET object = object || '9'")
        database.close()

    overtake(alice, monkeypatch, replaced)
    assert alice.read_at("plans/large", 1) == b"x" * 300_000


def test_object_that_is_gone_though_its_row_stands_is_damage(root, volume):
    alice = volume("alice")
    alice.create("plans/large", b"x" * 300_000)
    for name in objects_of(root):
        (root / ".coherence" / "objects" / name).unlink()
    with pytest.raises(DamagedError, match="missing from objects/"):
        alice.read_at("plans/large", 1)
