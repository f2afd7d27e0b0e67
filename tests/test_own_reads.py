"""Hazard: a process reads the files of the sidecar that it has open, and so drops SQLite's locks.

A backup, a search or a checksum over the whole tree does that. A peer that closes then
took itself for the last one and deleted the log under the process that read.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from pathlib import Path

import pytest

from coherent_volume import CoherentVolume, DamagedError
from tests.harness.command import Command
from tests.test_fork import in_child

PLAN = "plans/plan.md"

# From Python 3.12 on, forking with threads alive warns; doing so is the point.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

PEER = """
    from coherent_volume import CoherentVolume
    with CoherentVolume(root, session="peer") as volume:
        volume.create(name, "peer's")
        return volume.observe(name).generation
    """


def read_everything(root: Path) -> None:
    """As a backup or a search does."""
    for path in root.rglob("*"):
        if path.is_file():
            path.read_bytes()


def database(root: Path, suffix: str = "") -> Path:
    return root / ".coherence" / f"sidecar.db{suffix}"


def locks(kind: str, path: Path) -> list[list[str]]:
    """The locks on a file: POSIX, of this process, or OFDLCK, of any."""
    inode = path.stat().st_ino
    lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return [
        words
        for words in lines
        if words[1] == kind
        and words[5].endswith(f":{inode}")
        and words[4] in ("-1", str(os.getpid()))
    ]


@pytest.mark.invariant("I7")
def test_commits_after_a_read_of_the_whole_tree_are_kept(root, alice, process):
    alice.write(PLAN, "one\n", overwrite=True)
    before = database(root, "-wal").stat().st_ino
    read_everything(root)
    assert process(PEER, root=root, name="plans/a") == 1
    assert database(root, "-wal").stat().st_ino == before

    assert alice.write(PLAN, "two\n").generation == 2
    assert process(PEER, root=root, name="plans/b") == 1
    alice.close()

    with CoherentVolume(root, session="visitor") as visitor:
        assert visitor.check().ok
        assert [visitor.observe(f"plans/{n}").generation for n in ("plan.md", "a", "b")] == [
            2,
            1,
            1,
        ]


@pytest.mark.invariant("I7")
def test_last_one_to_close_leaves_no_log(root, alice, bob):
    alice.write(PLAN, "one\n", overwrite=True)
    read_everything(root)
    alice.close()
    assert database(root, "-wal").exists()
    bob.close()
    assert not database(root, "-wal").exists()
    assert not database(root, "-shm").exists()


@pytest.mark.invariant("I7")
def test_volume_that_closes_leaves_another_of_its_process_locked(root, alice, bob):
    alice.write(PLAN, "one\n", overwrite=True)
    assert locks("POSIX", database(root))
    alice.close()
    for name, kind in [(database(root), "POSIX"), (database(root, "-shm"), "POSIX")]:
        assert locks(kind, name), name
    assert len(locks("OFDLCK", database(root))) == len(locks("OFDLCK", database(root, "-shm"))) == 1


@pytest.mark.invariant("I7")
def test_fork_leaves_the_log_guarded_in_the_parent_and_in_the_child(root, alice, process):
    alice._maintenance.nudge = lambda: None  # the parent opens nothing meanwhile
    alice.write(PLAN, "one\n", overwrite=True)

    def work():
        assert alice.read(PLAN) == b"one\n"
        read_everything(root)
        return len(locks("OFDLCK", database(root)))

    assert in_child(work) == 1
    assert alice.append(PLAN, "two\n").generation == 2
    read_everything(root)
    assert process(PEER, root=root, name="plans/a") == 1
    assert alice.append(PLAN, "three\n").generation == 3
    assert alice.check().ok


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_deleted_log_is_said_and_nothing_is_committed_into_it(root, alice, suffix):
    alice.write(PLAN, "one\n", overwrite=True)
    database(root, suffix).unlink()
    before = database(root).read_bytes()
    with pytest.raises(DamagedError, match="log was deleted"):
        alice.write(PLAN, "two\n")
    alice.close()
    # What a peer has written there since would be overwritten by the old log.
    assert database(root).read_bytes() == before
    assert (root / PLAN).read_bytes() == b"one\n"


@pytest.mark.invariant("I7")
def test_repair_rebuilds_records_whose_pages_contradict_each_other(root, volume):
    with volume("alice") as alice:
        for number in range(3):
            alice.write(PLAN, f"{number}\n", overwrite=True)
    with sqlite3.connect(database(root)) as connection:
        page, size = connection.execute(
            "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_master"
            " WHERE type='index' AND tbl_name='history'"
        ).fetchone()
    connection.close()
    with database(root).open("r+b") as file:
        file.seek((page - 1) * size + 3)
        file.write(struct.pack(">H", 0))  # the index is empty, its table is not
    shell = Command(root, "alice")
    assert shell("check").code == 65
    mended = shell("check", "--repair")
    assert mended.code == 0, mended
    assert b"rebuilt" in mended.out
    assert shell("check").code == 0
    assert shell("read", PLAN).out == b"2\n"
