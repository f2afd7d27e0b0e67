"""Hazard: a name moves or misleads, and what is written by it is fenced by nobody or kept nowhere.

The tree is called as the transport calls it; nothing is mounted.
"""

from __future__ import annotations

import contextlib
import os
import threading

import pytest
from harness.unmounted import CALLER, Mounted

from coherent_volume.model import ArtifactKey
from coherent_volume.syscalls import RENAME_EXCHANGE

PLAN = "plans/plan.md"


@pytest.fixture
def mounted(bob, alice):
    bob.read(PLAN)
    here = Mounted(alice)
    here.read(PLAN)
    yield here
    here.unmount()


# ── names ────────────────────────────────────────────────────────────────────


def test_a_directory_whose_name_ends_like_the_mark_of_a_removed_one_is_fenced(mounted, root, bob):
    (root / "plans" / "old (deleted)").mkdir()
    path = "plans/old (deleted)/x.md"
    bob.create(path, b"one\n")
    assert mounted.read(path) == b"one\n"
    bob.write(path, b"bob\n")
    with pytest.raises(OSError, match="Permission denied"):
        mounted.write(path, b"stale\n")
    assert bob.read(path) == b"bob\n"


def test_a_removed_directory_is_nowhere_though_another_has_the_name_that_it_is_shown_by(
    mounted, root
):
    for name in ("old", "old (deleted)"):
        (root / "plans" / name).mkdir()
    removed, other = (mounted.node(f"plans/{name}") for name in ("old", "old (deleted)"))
    os.rmdir(root / "plans" / "old")
    assert mounted.tree.nodes.where(removed) is None
    assert mounted.tree.nodes.where(other) == b"plans/old (deleted)"


# ── directories ──────────────────────────────────────────────────────────────


def make(mounted, path, text=b"text"):
    _, number = mounted.tree.create(CALLER, *mounted.place(path), os.O_RDWR, 0o644)
    mounted.tree.write(CALLER, number, 0, memoryview(text))
    mounted.close(number)


def unlink(mounted, path):
    mounted.tree.unlink(CALLER, *mounted.place(path))


def test_the_clock_and_the_move_of_a_directory_do_not_wait_for_each_other(
    mounted, root, monkeypatch
):
    (root / "plans" / "a").mkdir()
    for path in ("plans/a/x", "plans/b"):
        make(mounted, path)
        unlink(mounted, path)
    places = mounted.place("plans/a"), mounted.place("plans/b")
    between = mounted.tree.state(ArtifactKey(b"plans/a/x"))
    clock = threading.Thread(target=mounted.tree.settle, args=(float("inf"),), daemon=True)
    locked = mounted.tree.locked

    @contextlib.contextmanager
    def meeting(*keys):
        with locked(*keys):
            if ArtifactKey(b"plans/a") in keys:
                # It takes what is due, in order, until it meets a name that is taken here.
                clock.start()
                while clock.is_alive() and between.lock.acquire(blocking=False):
                    between.lock.release()
            yield

    monkeypatch.setattr(mounted.tree, "locked", meeting)
    move = threading.Thread(target=lambda: mounted.tree.rename(CALLER, *places, 0), daemon=True)
    move.start()
    move.join(10)
    assert not move.is_alive()
    clock.join(10)
    assert os.listdir(root / "plans" / "b") == []


def test_a_directory_takes_the_name_of_an_artifact_that_was_just_removed(mounted, root):
    (root / "plans" / "new").mkdir()
    unlink(mounted, PLAN)
    mounted.rename("plans/new", PLAN)
    assert (root / PLAN).is_dir()


def test_the_move_of_a_directory_ends_no_hold_of_a_name_that_only_begins_like_it(mounted, root):
    for name in ("x", "y"):
        (root / "plans" / name).mkdir()
    make(mounted, "plans/xy.md")
    unlink(mounted, "plans/xy.md")
    mounted.rename("plans/x", "plans/z")
    mounted.tree.rmdir(CALLER, *mounted.place("plans/y"))
    assert mounted.unfinished() == [b"plans/xy.md"]


def test_an_artifact_is_not_exchanged_for_a_directory_behind_its_records(mounted, root):
    (root / "plans" / "folder").mkdir()
    with pytest.raises(OSError, match="cross-device"):
        mounted.rename("plans/folder", PLAN, RENAME_EXCHANGE)
    assert (root / PLAN).read_bytes() == b"first\n"
