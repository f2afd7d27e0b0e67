"""Hazard: where stale saves are merged, the next write overwrites what was merged in.

The tree is called as the transport calls it; nothing is mounted.
"""

from __future__ import annotations

import os

import pytest
from harness.unmounted import CALLER, Mounted

PLAN = "plans/plan.md"
LINES = [b"line %d of the plan\n" % number for number in range(1, 21)]
OLD = b"".join(LINES)
MINE = OLD.replace(b"line 3 of", b"line 3 by alice, of")


@pytest.fixture
def mounted(root, volume):
    """Alice's mount of a volume that merges; bob has saved since she read."""
    (root / PLAN).write_bytes(OLD)
    volume("bob").close()
    config = root / ".coherence" / "config.toml"
    config.write_text(config.read_text().replace('= "refuse"', '= "merge"', 1))
    here = Mounted(volume("alice"))
    here.read(PLAN)
    volume("bob").update(PLAN, lambda text: text.replace(b"line 12 of", b"line 12 by bob, of"))
    yield here
    here.unmount()


def saved_on(mounted, number):
    """Go on writing through an open file of which a save was merged."""
    mounted.tree.write(CALLER, number, len(MINE), memoryview(b"line 21\n"))
    with pytest.raises(OSError, match="Permission denied"):
        mounted.close(number)


def of_whom(root):
    text = (root / PLAN).read_bytes()
    return [word for word in (b"by alice", b"by bob", b"line 21") if word in text]


def kept_in(root):
    return [each.read_bytes() for each in (root / ".coherence" / "refused").iterdir()]


def test_a_file_that_is_written_on_after_a_merge_does_not_take_back_what_was_merged_in(
    mounted, root
):
    number = mounted.write(PLAN, MINE)
    mounted.tree.flush(CALLER, number)
    assert of_whom(root) == [b"by alice", b"by bob"]
    saved_on(mounted, number)
    assert of_whom(root) == [b"by alice", b"by bob"]
    assert MINE + b"line 21\n" in kept_in(root)


def test_a_renamed_file_that_is_written_on_after_a_merge_does_not_take_back_what_was_merged_in(
    mounted, root
):
    (root / "draft").write_bytes(MINE)
    number = mounted.open("draft", os.O_WRONLY)
    mounted.rename("draft", PLAN)
    assert of_whom(root) == [b"by alice", b"by bob"]
    saved_on(mounted, number)
    assert of_whom(root) == [b"by alice", b"by bob"]
    assert MINE + b"line 21\n" in kept_in(root)


def test_what_others_open_after_a_merge_is_what_was_merged(mounted, root):
    number = mounted.write(PLAN, MINE)
    reader = mounted.open(PLAN, os.O_RDONLY)
    mounted.close(number)
    merged = mounted.read(PLAN)
    assert merged == (root / PLAN).read_bytes()
    other = mounted.open(PLAN, os.O_RDWR)
    assert mounted.tree.read(other, 0, 1 << 20) == merged
    mounted.tree.write(CALLER, other, len(merged), memoryview(b"line 21\n"))
    mounted.close(other)
    mounted.tree.release(reader)
    assert of_whom(root) == [b"by alice", b"by bob", b"line 21"]
