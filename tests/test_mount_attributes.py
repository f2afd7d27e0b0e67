"""Hazard: a mode, an owner or an attribute is lost because somebody saves at that time.

The tree is called as the transport calls it; nothing is mounted.
"""

from __future__ import annotations

import errno
import os
import stat

import pytest
from harness.unmounted import CALLER

from fuse_mount.tree import Change

PLAN = "plans/plan.md"


@pytest.fixture
def mounted(bob, mounted):
    bob.write(PLAN, b"0123456789\n", overwrite=True)
    mounted.read(PLAN)
    return mounted


def worn(root):
    """The mode and the attributes of the plan, the library's own aside."""
    path = root / PLAN
    names = [name for name in os.listxattr(path) if not name.startswith("user.coherence")]
    return stat.S_IMODE(path.stat().st_mode), {name: os.getxattr(path, name) for name in names}


def by_name(mounted, root):
    mounted.tree.setattr(CALLER, mounted.node(PLAN), Change(1, 0, 0, 0, 0, 0o640, 0, 0))
    mounted.tree.setxattr(mounted.node(PLAN), b"user.a", b"1", 0)


def by_descriptor(mounted, root):
    (state,) = mounted.tree._states.holding()
    mounted.tree.setattr(CALLER, state.copy.node, Change(1, 0, 0, 0, 0, 0o640, 0, 0))
    mounted.tree.setxattr(state.copy.node, b"user.a", b"1", 0)


def from_outside(mounted, root):
    os.chmod(root / PLAN, 0o640)
    os.setxattr(root / PLAN, "user.a", b"1")


HOW = pytest.mark.parametrize("how", [by_name, by_descriptor, from_outside])


@HOW
@pytest.mark.parametrize("moment", ["before the first write", "between", "after the close"])
def test_attributes_that_are_changed_beside_a_writer_stay(mounted, root, how, moment):
    number = mounted.open(PLAN, os.O_RDWR)
    if moment == "before the first write":
        how(mounted, root)
    mounted.tree.write(CALLER, number, 0, memoryview(b"X"))
    if moment == "between":
        how(mounted, root)
    if moment == "after the close":
        mounted.tree.flush(CALLER, number)
        how(mounted, root)
        mounted.tree.write(CALLER, number, 1, memoryview(b"X"))
    mounted.close(number)
    assert worn(root) == (0o640, {"user.a": b"1"})
    assert (root / PLAN).read_bytes().startswith(b"X")


@HOW
def test_attributes_that_are_changed_beside_a_writer_that_writes_nothing_stay(mounted, root, how):
    number = mounted.open(PLAN, os.O_RDWR)
    how(mounted, root)
    mounted.close(number)
    assert worn(root) == (0o640, {"user.a": b"1"})


def test_what_was_changed_through_the_writer_goes_before_what_was_changed_outside(mounted, root):
    number = mounted.write(PLAN, b"mine\n", os.O_RDWR)
    from_outside(mounted, root)
    os.setxattr(root / PLAN, "user.b", b"2")
    by_descriptor(mounted, root)
    (state,) = mounted.tree._states.holding()
    mounted.tree.setattr(CALLER, state.copy.node, Change(1, 0, 0, 0, 0, 0o600, 0, 0))
    mounted.tree.setxattr(state.copy.node, b"user.a", b"own", 0)
    mounted.close(number)
    assert worn(root) == (0o600, {"user.a": b"own", "user.b": b"2"})


def test_an_attribute_that_was_removed_beside_a_writer_stays_removed(mounted, root):
    os.setxattr(root / PLAN, "user.a", b"1")
    number = mounted.write(PLAN, b"mine\n", os.O_RDWR)
    os.removexattr(root / PLAN, "user.a")
    mounted.close(number)
    assert worn(root)[1] == {}


def test_a_peer_that_commits_at_each_moment_disturbs_no_change_and_no_link(mounted, root, bob):
    node = mounted.node(PLAN)  # the kernel has found it, and asks
    bob.append(PLAN, b"by bob\n")
    mounted.tree.setattr(CALLER, node, Change(1, 0, 0, 0, 0, 0o640, 0, 0))
    mounted.tree.setxattr(node, b"user.a", b"1", 0)
    assert mounted.tree.getxattr(node, b"user.coherence.generation") == b"2"
    for name in ("free", "plans/second.md"):
        mounted.tree.link(CALLER, node, *mounted.place(name))
        assert (root / name).read_bytes() == b"0123456789\n"  # the generation that was found
    assert worn(root) == (0o640, {"user.a": b"1"})
    (root / PLAN).unlink()
    with pytest.raises(OSError) as error:
        mounted.tree.setattr(CALLER, node, Change(1, 0, 0, 0, 0, 0o640, 0, 0))
    assert error.value.errno == errno.ESTALE


def test_a_save_takes_the_set_user_id_that_was_set_beside_it(mounted, root):
    number = mounted.write(PLAN, b"mine\n", os.O_RDWR)
    mounted.tree.drop_bits(number)  # as the kernel asks for with every write of a user
    os.chmod(root / PLAN, 0o4755)
    mounted.close(number)
    assert worn(root)[0] == 0o755
