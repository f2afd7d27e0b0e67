"""Hazard: bits flip in the sidecar, and other bytes than were committed pass for a generation."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3

import pytest

from coherent_volume import (
    CoherenceError,
    CoherentVolume,
    DamagedError,
    NotFoundError,
    rebuild_sidecar,
)
from coherent_volume.sidecar import Sidecar
from tests.harness.command import Command
from tests.harness.sweep import Nursery

PLAN = "plans/plan.md"
SMALL = [b"one\n", b"two\n", b"three\n"]
LARGE = [content * 60_000 for content in SMALL]


@pytest.fixture(params=["in the row", "as an object"])
def contents(request):
    return SMALL if request.param == "in the row" else LARGE


@pytest.fixture
def kept(root, volume, contents):
    """A closed volume with three generations."""
    with volume("alice") as alice:
        for content in contents:
            alice.write(PLAN, content, overwrite=True)
    return root


def flip(root, generation, bit=5):
    """Flip one bit of what is kept of *generation*."""
    with sqlite3.connect(root / ".coherence" / "sidecar.db") as database:
        content, stored = database.execute(
            "SELECT content, object FROM history WHERE generation=?", (generation,)
        ).fetchone()
        if stored is None:
            data = bytes([content[0] ^ 1 << bit]) + content[1:]
            database.execute("UPDATE history SET content=? WHERE generation=?", (data, generation))
    database.close()
    if stored is not None:
        flip_file(root / ".coherence" / "objects" / stored, 70_000, bit)


def flip_file(path, place, bit):
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


@pytest.mark.invariant("I5")
def test_flipped_past_is_never_shown(kept, volume, contents):
    flip(kept, 2)
    alice = volume("alice")
    with pytest.raises(DamagedError, match="generation 2 is damaged"):
        alice.read_at(PLAN, 2)
    assert alice.read_at(PLAN, 1) == contents[0]
    assert alice.read(PLAN) == contents[2]
    done = Command(kept, "alice")("show", PLAN, "2")
    assert (done.code, done.out) == (65, b"")


@pytest.mark.invariant("I5")
@pytest.mark.parametrize("how", ["restore", "undo"])
def test_flipped_past_is_never_brought_back(kept, volume, contents, how):
    flip(kept, 2)
    alice = volume("alice")
    with pytest.raises(DamagedError):
        _ = alice.restore(PLAN, 2) if how == "restore" else alice.undo()
    seen = alice.observe(PLAN)
    assert (seen.generation, seen.data) == (3, contents[2])


def commit_and_die(root: str, large: bool) -> None:
    """In a child: publish, and die before the install."""
    from coherent_volume import points

    volume = CoherentVolume(root, session="bob")
    volume.read(PLAN)

    def reached(name):
        if name == "published":
            os.kill(os.getpid(), signal.SIGKILL)

    points.reached = reached
    volume.write(PLAN, b"four\n" * (60_000 if large else 1))


@pytest.mark.invariant("I7")
def test_flipped_head_is_not_made_visible_by_recovery(kept, volume, contents):
    """Adopted as an outside edit it would stand on top of the commit that it damaged."""
    with Nursery() as nursery:
        ended = nursery(commit_and_die, root=kept, large=contents is LARGE)
        assert ended.killed
    for stage in (kept / ".coherence" / "staging").iterdir():
        stage.unlink()
    flip(kept, 4)
    alice = volume("alice")
    with pytest.raises(DamagedError, match="generation 4 is damaged"):
        alice.read(PLAN)
    assert (kept / PLAN).read_bytes() == contents[2]
    assert len(alice.log(PLAN)) == 5


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("column", ["generation", "digest", "size", "epoch", "boot", "checksum"])
def test_no_column_of_a_row_changes_unnoticed(kept, volume, column):
    changed = {
        "digest": "zeroblob(16)",
        "boot": "'another'",
    }.get(column, f"{column} + 1")
    with sqlite3.connect(kept / ".coherence" / "sidecar.db") as database:
        assert database.execute(f"UPDATE artifact SET {column} = {changed}").rowcount == 1
    database.close()
    alice = volume("alice")
    for act in (alice.read, lambda path: alice.append(path, "more\n")):
        with pytest.raises(DamagedError):
            act(PLAN)


def commit_often_and_die(root: str) -> None:
    """In a child: leave a log behind that nobody has moved into the database."""
    volume = CoherentVolume(root, session="alice")
    for number in range(5):
        volume.write(PLAN, f"{number}\n", overwrite=True)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.invariant("I2")
@pytest.mark.invariant("I5")
def test_flipped_log_serves_no_other_bytes_and_no_used_number(root, volume, tmp_path):
    """A log that fails its checksum is cut off in silence; the files remember."""
    volume("starter").close()
    with Nursery() as nursery:
        assert nursery(commit_often_and_die, root=root).killed
    rng = random.Random(5)
    size = (root / ".coherence" / "sidecar.db-wal").stat().st_size
    outcomes = set()
    for turn in range(25):
        copy = tmp_path / f"flipped{turn}"
        shutil.copytree(root, copy)
        flip_file(copy / ".coherence" / "sidecar.db-wal", rng.randrange(size), rng.randrange(8))
        try:
            with CoherentVolume(copy, session="visitor") as visitor:
                seen = visitor.observe(PLAN)
                number = visitor.write(PLAN, "visitor's\n").generation
        except DamagedError:
            outcomes.add("said")
        else:
            outcomes.add("harmless")
            assert (seen.generation, seen.data, number) == (5, b"4\n", 6)
        shutil.rmtree(copy)
    assert "said" in outcomes


@pytest.mark.invariant("I2")
@pytest.mark.parametrize("way", ["rebuilt", "made anew"])
def test_log_of_a_database_that_was_lost_is_not_replayed_into_the_new_one(root, volume, way):
    volume("starter").close()
    rebuild_sidecar(root)  # damaged/1 is there, with a database of its own
    with Nursery() as nursery:
        assert nursery(commit_often_and_die, root=root).killed
    sidecar = root / ".coherence"
    log = (sidecar / "sidecar.db-wal").read_bytes()
    (sidecar / "sidecar.db").unlink()
    if way == "rebuilt":
        assert rebuild_sidecar(root) == str(sidecar / "damaged" / "2")
        assert (sidecar / "damaged" / "2" / "sidecar.db-wal").read_bytes() == log
    else:
        for name in ("config.toml", "incarnation"):
            (sidecar / name).unlink()
        CoherentVolume(root, managed=["plans/*"]).close()
    with sqlite3.connect(sidecar / "sidecar.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM artifact").fetchone() == (0,)
    database.close()


@pytest.mark.invariant("I5")
def test_rebuild_that_was_killed_takes_up_what_it_had_set_aside(root, volume, monkeypatch):
    with volume("alice") as alice:
        alice.write(PLAN, "one\n", overwrite=True)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Sidecar, "create", killed)
        rebuild_sidecar(root)
    assert rebuild_sidecar(root) == str(root / ".coherence" / "damaged" / "1")
    assert [entry.session for entry in volume("bob").log(PLAN)][:1] == ["alice"]


@pytest.mark.invariant("I6")
def test_large_contents_of_a_history_that_is_lost_are_kept_beside_the_evidence(root, volume):
    with volume("alice") as alice:
        for content in LARGE:
            alice.write(PLAN, content, overwrite=True)
    with (root / ".coherence" / "sidecar.db").open("r+b") as file:
        file.write(bytes(4096))
    done = Command(root, "alice")("check", "--repair")
    assert done.code == 0
    kept = root / ".coherence" / "damaged" / "1" / "objects"
    assert {file.read_bytes() for file in kept.iterdir()} == set(LARGE)
    assert volume("bob").read(PLAN) == LARGE[-1]


@pytest.mark.invariant("I5")
def test_large_contents_of_a_history_that_is_salvaged_stay(kept, volume, contents):
    rebuild_sidecar(kept)
    assert not (kept / ".coherence" / "damaged" / "1" / "objects").exists()
    alice = volume("alice")
    assert [alice.read_at(PLAN, number) for number in (1, 2, 3)] == contents


@pytest.mark.parametrize("seed", range(3))
def test_flipped_small_files_of_the_sidecar_change_no_content(kept, contents, seed):
    """Its configuration and its identity: refused, or without effect."""
    rng = random.Random(seed)
    for name in ("config.toml", "incarnation", "gate", "sessions", "leases", "turns"):
        path = kept / ".coherence" / name
        files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.is_file())
        for file in [f for f in files if f.stat().st_size]:
            sound = file.read_bytes()
            flip_file(file, rng.randrange(len(sound)), rng.randrange(8))
            try:
                with CoherentVolume(kept, session="visitor") as visitor:
                    assert visitor.read(PLAN) == contents[2]
            except NotFoundError:
                raise
            except CoherenceError:
                pass  # it is said
            file.write_bytes(sound)
