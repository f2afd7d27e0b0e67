"""Hazard: what is written to an open artifact lands in the wrong place, or nowhere.

Mappings are written back page by page, whenever the kernel likes. Where the kernel
is not what the claim is about, the tree is called as the transport calls it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess

import pytest
from harness.mounted import mounts_of, needs_fuse
from harness.unmounted import CALLER, kept_in

PLAN = "plans/plan.md"
PUNCH_HOLE, KEEP_SIZE = 2, 1


@pytest.fixture
def mounted(bob, mounted):
    bob.write(PLAN, b"0123456789\n", overwrite=True)
    mounted.read(PLAN)
    return mounted


@pytest.fixture
def place(root, tmp_path, volume):
    """Alice's mount and bob's, over a plan that both have read."""
    (root / PLAN).write_bytes(b"0123456789\n")
    volume("bob")
    with mounts_of(root, tmp_path, reflex_s=0.0) as make:
        agents = make("alice"), make("bob")
        for each in agents:
            each.ok(f"cat {PLAN}")
        yield agents


@needs_fuse
@pytest.mark.parametrize("path", [PLAN, "plans/new.md", "free"])
def test_a_mapping_of_a_file_that_is_open_for_appending_is_written_in_place(place, root, path):
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    descriptor = os.open(place[0].where / path, flags, 0o644)
    if path != PLAN:
        os.write(descriptor, b"0123456789\n")
    with mmap.mmap(descriptor, 11) as page:
        page[0:2] = b"XX"
        page.flush()
        os.write(descriptor, b"appended\n")
    os.close(descriptor)
    assert (root / path).read_bytes() == b"XX23456789\nappended\n"


@pytest.mark.parametrize("path", [PLAN, "free"])
def test_a_page_that_is_written_back_is_not_appended(mounted, root, path):
    (root / "free").write_bytes(b"0123456789\n")
    number = mounted.open(path, os.O_WRONLY | os.O_APPEND)
    mounted.tree.write(CALLER, number, 0, memoryview(b"last\n"))
    mounted.tree.write(CALLER, number, 0, memoryview(b"XX"), is_page=True)
    mounted.close(number)
    assert (root / path).read_bytes() == b"XX23456789\nlast\n"


def test_a_hole_punched_through_an_appending_descriptor_is_saved(mounted, root):
    number = mounted.open(PLAN, os.O_WRONLY | os.O_APPEND)
    mounted.tree.fallocate(CALLER, number, PUNCH_HOLE | KEEP_SIZE, 0, 4)
    mounted.close(number)
    assert (root / PLAN).read_bytes() == b"\0" * 4 + b"456789\n"


def test_a_hole_is_not_punched_into_what_a_peer_appended_meanwhile(mounted, root, bob):
    number = mounted.open(PLAN, os.O_WRONLY | os.O_APPEND)
    bob.append(PLAN, b"by bob\n")
    mounted.tree.fallocate(CALLER, number, PUNCH_HOLE | KEEP_SIZE, 0, 4)
    with pytest.raises(PermissionError):
        mounted.close(number)
    assert (root / PLAN).read_bytes() == b"0123456789\nby bob\n"


@needs_fuse
def test_a_mapping_that_a_peer_overtook_is_kept_and_its_close_fails(place, root):
    alice, bob = place
    descriptor = os.open(alice.where / PLAN, os.O_RDWR)
    page = mmap.mmap(descriptor, 11)
    bob.ok(f"echo bob >> {PLAN}")
    page[0:2] = b"XX"
    page.close()  # its own copy of the descriptor included
    with pytest.raises(PermissionError):
        os.close(descriptor)
    assert kept_in(root) == [b"XX23456789\n"]
    assert (root / PLAN).read_bytes() == b"0123456789\nbob\n"
    assert "bob committed" in alice.ok(f"cat .coherence/why/{PLAN}")


@pytest.mark.parametrize("closes", [True, False])
def test_a_page_that_comes_after_a_peers_commit_is_kept(mounted, root, bob, closes):
    number = mounted.open(PLAN, os.O_RDWR)
    bob.append(PLAN, b"by bob\n")
    mounted.tree.write(CALLER, number, 0, memoryview(b"XX"), is_page=True)
    if closes:
        with pytest.raises(PermissionError):
            mounted.close(number)
    else:  # the mapping outlived the descriptor: nobody is left to be told
        mounted.tree.release(number)
    assert kept_in(root) == [b"XX23456789\n"]
    assert (root / PLAN).read_bytes() == b"0123456789\nby bob\n"


def test_a_page_that_comes_after_the_refusal_of_a_write_is_kept(mounted, root, bob):
    number = mounted.open(PLAN, os.O_RDWR)
    bob.append(PLAN, b"by bob\n")
    with pytest.raises(PermissionError):
        mounted.tree.write(CALLER, number, 0, memoryview(b"mine"))
    mounted.tree.write(CALLER, number, 0, memoryview(b"XX"), is_page=True)
    mounted.close(number)
    assert kept_in(root) == [b"XX23456789\n"]
    assert "Your content is kept in .coherence/refused/plan.md" in mounted.why(PLAN)


# ── two programs of one session ──────────────────────────────────────────────


@pytest.fixture
def another():
    """The number of a process that is not this one."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield CALLER._replace(pid=process.pid)
        process.kill()


def begin(mounted, path, half):
    """Truncate, and write the first half; the number of the open file."""
    if half:
        return mounted.write(path, half)
    return mounted.open(path, os.O_WRONLY | os.O_TRUNC)


def replace(mounted, content, caller, path=PLAN):
    """Save as most editors do."""
    folder = mounted.tree.nodes.root
    _, number = mounted.tree.create(caller, folder, b"draft", os.O_WRONLY, 0o600)
    mounted.tree.write(caller, number, 0, memoryview(content))
    mounted.tree.release(number)
    mounted.tree.rename(caller, (folder, b"draft"), mounted.place(path), 0)


@pytest.mark.parametrize("path", [PLAN, "plans/unknown.md"])
@pytest.mark.parametrize("half", [b"", b"01234"])
def test_a_save_derived_from_half_of_another_programs_save_is_refused(
    mounted, root, another, half, path
):
    if path != PLAN:
        (root / path).write_bytes(b"of nobody yet\n")
        mounted.read(path)
    number = begin(mounted, path, half)
    reader = mounted.tree.open(another, mounted.node(path), os.O_RDONLY)
    assert mounted.tree.read(reader, 0, 100) == half
    mounted.tree.release(reader)
    with pytest.raises(PermissionError):
        replace(mounted, half + b"and more\n", another, path)
    assert "what this program read was an unfinished save of another program" in mounted.why(path)
    mounted.tree.write(CALLER, number, len(half), memoryview(b"whole\n"))
    mounted.close(number)
    assert (root / path).read_bytes() == half + b"whole\n"


@pytest.mark.parametrize("half", [b"", b"01234"])
def test_a_program_whose_file_another_replaced_during_its_save_hears_of_it(
    mounted, root, another, half
):
    number = begin(mounted, PLAN, half)
    replace(mounted, b"of the other\n", another)
    with pytest.raises(PermissionError):
        mounted.tree.write(CALLER, number, len(half), memoryview(b"whole\n"))
    with pytest.raises(PermissionError):
        mounted.close(number)
    assert (root / PLAN).read_bytes() == b"of the other\n"
    assert kept_in(root) == ([half] if half else [])
    assert "another program of this session replaced it" in mounted.why(PLAN)


def test_a_program_that_writes_what_another_replaced_before_hears_of_it(mounted, another):
    number = mounted.open(PLAN, os.O_RDWR)
    replace(mounted, b"of the other\n", another)
    with pytest.raises(PermissionError):
        mounted.tree.write(CALLER, number, 0, memoryview(b"mine"))
    mounted.close(number)


# ── closing ──────────────────────────────────────────────────────────────────


def bob_saves(place, path=PLAN):
    place[1].ok(f"cat {path} > /dev/null; echo bob > {path}")


@needs_fuse
@pytest.mark.parametrize("where", ["plans/deeper/plans/plan.md", "../plans/plan.md"])
def test_a_refused_close_is_told_whatever_else_of_that_name_the_program_writes(place, where):
    alice = place[0]
    other = alice.where / where
    other.parent.mkdir(parents=True, exist_ok=True)
    with other.open("wb"):
        file = os.open(alice.where / PLAN, os.O_WRONLY | os.O_TRUNC)
        os.write(file, b"alice\n")
        bob_saves(place)
        with pytest.raises(PermissionError):
            os.close(file)
    assert (place[1].where / PLAN).read_bytes() == b"bob\n"


@needs_fuse
@pytest.mark.parametrize("busy", [False, True])
def test_two_descriptors_of_a_program_are_no_two_programs(place, root, busy):
    with contextlib.ExitStack() as stack:
        for _ in range(300 * busy):  # more than are looked at
            stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        path = place[0].where / PLAN
        file = os.open(path, os.O_RDWR)
        os.stat(path)
        with path.open("ab") as log:
            log.write(b"appended\n")
        os.pwrite(file, b"X", 0)
        os.close(file)
    assert (root / PLAN).read_bytes() == b"X123456789\nappended\n"


@needs_fuse
def test_a_save_through_two_descriptors_is_one_generation(place, root, volume):
    place[0].ok(f"exec 3>{PLAN}; echo one >&3; stat {PLAN} > /dev/null; echo two >&3; exec 3>&-")
    assert (root / PLAN).read_bytes() == b"one\ntwo\n"
    assert [each.generation for each in volume("carol").log(PLAN)] == [1, 0]
