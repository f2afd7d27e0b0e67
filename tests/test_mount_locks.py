"""Hazard: a program's lock on an artifact is lost, or held for ever, when the artifact is saved.

The tree is called as the transport calls it; nothing is mounted.
"""

from __future__ import annotations

import fcntl
import os

import pytest

from fuse_mount.locking import Wanted

PLAN = "plans/plan.md"
ALICE, OTHER = 1, 2


def lock(*, is_flock, kind=fcntl.F_WRLCK):
    return Wanted(0, (1 << 63) - 1, kind, is_flock)


@pytest.fixture(params=["flock", "fcntl"])
def is_flock(request):
    return request.param == "flock"


@pytest.fixture
def saved(mounted, bob):
    """A reader has the lock of an artifact, which gets a new generation: its node."""

    def save(wanted):
        number = mounted.open(PLAN, os.O_RDONLY)
        node = mounted.tree.handle(number).node
        mounted.tree.lock(node, ALICE, wanted)
        bob.write(PLAN, b"second\n")
        return node

    return save


def test_a_lock_excludes_others_after_the_save_that_it_was_taken_for(mounted, saved, is_flock):
    wanted = lock(is_flock=is_flock)
    saved(wanted)
    with pytest.raises(BlockingIOError):
        mounted.tree.lock(mounted.node(PLAN), OTHER, wanted)


@pytest.mark.parametrize("how", ["unlocked", "closed"])
def test_a_lock_is_free_again_though_its_file_was_saved_meanwhile(mounted, saved, is_flock, how):
    wanted = lock(is_flock=is_flock)
    node = saved(wanted)
    if how == "unlocked":
        mounted.tree.lock(node, ALICE, lock(is_flock=is_flock, kind=fcntl.F_UNLCK))
    else:
        mounted.tree.unlock_all(node, ALICE, is_flock=is_flock)
    mounted.tree.lock(mounted.node(PLAN), OTHER, wanted)


def test_whoever_waits_with_an_older_generation_open_gets_the_lock_when_it_is_free(
    mounted, saved, is_flock
):
    wanted = lock(is_flock=is_flock)
    older = mounted.node(PLAN)
    node = saved(wanted)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            mounted.tree.lock(older, OTHER, wanted)
    mounted.tree.unlock_all(node, ALICE, is_flock=is_flock)
    mounted.tree.lock(older, OTHER, wanted)
    with pytest.raises(BlockingIOError):
        mounted.tree.lock(mounted.node(PLAN), ALICE, wanted)


def test_no_two_artifacts_share_a_lock(mounted, root, is_flock):
    wanted = lock(is_flock=is_flock)
    for owner, name in enumerate(("f818404893", "f1211939598"), 1):  # of one 32-bit checksum
        (root / "plans" / name).write_bytes(b"x")
        mounted.tree.lock(mounted.node(f"plans/{name}"), owner, wanted)
