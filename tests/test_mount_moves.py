"""Hazard: a name moves or misleads, and what is written by it is fenced by nobody or kept nowhere.

The tree is called as the transport calls it; nothing is mounted.
"""

from __future__ import annotations

import contextlib
import os
import threading

import pytest
from harness.unmounted import CALLER

from coherent_volume.model import ArtifactKey
from coherent_volume.syscalls import RENAME_EXCHANGE

PLAN = "plans/plan.md"


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


# ── whoever has it open ──────────────────────────────────────────────────────


@pytest.fixture
def opened(mounted):
    """An open file of the plan, for appending; what it added is told by ``goes_on``."""
    return mounted.open(PLAN, os.O_RDWR | os.O_APPEND)


def goes_on(mounted, number, text=b"more\n"):
    found, _ = mounted.tree.getattr(mounted.tree.handle(number).node)
    mounted.tree.write(CALLER, number, found.size, memoryview(text))
    mounted.close(number)


@pytest.mark.parametrize("goal", ["plans/old.md", "old.log"])
@pytest.mark.parametrize("begun", [False, True])
def test_what_is_written_to_a_file_that_was_renamed_is_in_the_file(
    mounted, root, opened, goal, begun
):
    if begun:
        mounted.tree.write(CALLER, opened, 6, memoryview(b"begun\n"))
    mounted.rename(PLAN, goal)
    goes_on(mounted, opened)
    assert (root / goal).read_bytes() == b"first\n" + begun * b"begun\n" + b"more\n"
    mounted.tree.settle(float("inf"))
    assert not (root / PLAN).exists()


def test_a_log_is_renamed_again_and_again(mounted, root, opened):
    for number in range(3):
        mounted.rename(f"plans/log.{number - 1}" if number else PLAN, f"plans/log.{number}")
        mounted.tree.settle(float("inf"))
    goes_on(mounted, opened)
    assert (root / "plans" / "log.2").read_bytes() == b"first\nmore\n"
    assert os.listdir(root / "plans") == ["log.2"]


def test_whoever_has_an_older_content_than_was_renamed_is_refused(mounted, root, bob, opened):
    bob.write(PLAN, b"second\n")
    mounted.read(PLAN)
    mounted.rename(PLAN, "old.log")
    with pytest.raises(OSError, match="Permission denied"):
        mounted.tree.write(CALLER, opened, 6, memoryview(b"nowhere\n"))
    assert (root / "old.log").read_bytes() == b"second\n"


@pytest.mark.parametrize("other", ["plans/other.md", "other"])
@pytest.mark.parametrize("reverse", [False, True])
def test_open_files_go_with_their_content_when_it_is_exchanged(
    mounted, root, bob, opened, other, reverse
):
    (root / other).write_bytes(b"other\n")
    mounted.read(other)
    beside = mounted.open(other, os.O_RDWR | os.O_APPEND)
    names = (PLAN, other)
    mounted.rename(*(names[::-1] if reverse else names), RENAME_EXCHANGE)
    goes_on(mounted, opened)
    goes_on(mounted, beside, b"others\n")
    assert (root / other).read_bytes() == b"first\nmore\n"
    assert bob.read(PLAN) == b"other\nothers\n"


def test_what_is_not_committed_yet_is_exchanged_like_everything(mounted, root, bob):
    _, number = mounted.tree.create(CALLER, *mounted.place("plans/new"), os.O_RDWR, 0o644)
    mounted.tree.write(CALLER, number, 0, memoryview(b"new\n"))
    (root / "other").write_bytes(b"other\n")
    mounted.rename("other", "plans/new", RENAME_EXCHANGE)
    assert mounted.read("plans/new") == bob.read("plans/new") == b"other\n"
    goes_on(mounted, number)
    assert (root / "other").read_bytes() == b"new\nmore\n"
    assert bob.read("plans/new") == b"other\n"
    mounted.tree.tidy()
    assert mounted.unfinished() == []


def test_whoever_exchanged_an_artifact_saves_it_again(mounted, root, bob):
    bob.create("plans/two.md", b"two\n")
    mounted.read("plans/two.md")
    mounted.rename(PLAN, "plans/two.md", RENAME_EXCHANGE)
    for path in (PLAN, "plans/two.md"):
        mounted.close(mounted.write(path, b"again\n"))
        assert bob.read(path) == b"again\n"
        assert mounted.why(path) == ""


def test_whoever_went_on_writing_what_it_renamed_saves_it_again(mounted, root, bob):
    (root / "draft").write_bytes(b"draft\n")
    number = mounted.open("draft", os.O_RDWR | os.O_APPEND)
    mounted.rename("draft", PLAN)
    goes_on(mounted, number)
    mounted.close(mounted.write(PLAN, b"again\n"))
    assert bob.read(PLAN) == b"again\n"
