"""Hazard: something fails inside a mount's server, and what a user wrote is gone with it.

The disk is full, a peer has the lease, the server died. The tree is called as the
transport calls it; nothing is mounted.
"""

from __future__ import annotations

import os
import shutil
import tracemalloc

import pytest
from harness.unmounted import CALLER, failing, kept_in

from coherent_volume.keeping import Keeping
from coherent_volume.model import ArtifactKey
from coherent_volume.staging import Staging
from coherent_volume.syscalls import RENAME_EXCHANGE
from fuse_mount.claims import OVERWRITE
from fuse_mount.keeping import kept_of_the_dead
from fuse_mount.states import Hold

PLAN = "plans/plan.md"


def fails_for(monkeypatch, name, *names):
    """Let os.NAME fail for files that bear one of *names*."""
    real = getattr(os, name)

    def act(path, *arguments, **options):
        return (failing if path in names else real)(path, *arguments, **options)

    monkeypatch.setattr(os, name, act)


@pytest.fixture
def full_disk(monkeypatch):
    """No room for one more byte, from the moment on when it is called."""

    def fill():
        monkeypatch.setattr(Keeping, "_draft", failing)
        monkeypatch.setattr(Staging, "stage", failing)

    return fill


# ── what was written is kept ─────────────────────────────────────────────────


@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC])
def test_what_was_written_is_kept_when_a_peer_takes_the_lease_before_the_close(
    mounted, root, bob, flags
):
    number = mounted.write(PLAN, b"precious\n", flags)
    with bob.lease(PLAN), pytest.raises(PermissionError):
        mounted.close(number)
    (kept,) = kept_in(root)
    assert kept.endswith(b"precious\n")
    assert "Your content is kept in .coherence/refused/plan.md" in mounted.why(PLAN)
    assert (root / PLAN).read_bytes() == b"first\n"


@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC])
def test_a_complete_save_is_kept_on_a_full_disk(mounted, root, full_disk, flags):
    number = mounted.write(PLAN, b"precious\n", flags)
    full_disk()
    with pytest.raises(OSError, match="No space left"):
        mounted.close(number)
    (kept,) = kept_in(root)
    assert kept.endswith(b"precious\n")
    assert mounted.parts.staging.token in os.listdir(root / ".coherence" / "mounts")
    assert os.listdir(root / ".coherence" / "mounts" / mounted.parts.staging.token) == ["index"]


@pytest.mark.usefixtures("expected_warnings")
def test_what_could_not_be_kept_at_all_is_found_by_the_next_mount(
    mounted, root, alice, full_disk, volume, monkeypatch
):
    number = mounted.write(PLAN, b"precious\n")
    full_disk()
    with monkeypatch.context() as broken:
        broken.setattr(Keeping, "refuse", failing)
        with pytest.raises(OSError, match="No space left"):
            mounted.close(number)
        mounted.unmount()
        assert kept_in(root) == []
    alice.close()
    (kept,) = kept_of_the_dead(volume("carol")._open_parts())
    assert (root / kept).read_bytes() == b"precious\n"
    folders = [each for each in (root / ".coherence" / "mounts").iterdir() if each.is_dir()]
    assert folders == []


def leave_behind(mounted, root):
    """What a killed server of alice's leaves: a copy with content, and one without."""
    mounted.write(PLAN, b"an hour of work\n")
    mounted.open(PLAN, os.O_WRONLY)
    here = root / ".coherence" / "mounts" / mounted.parts.staging.token
    return shutil.copytree(here, here.with_name("0123456789abcdef"))


@pytest.mark.usefixtures("expected_warnings")
def test_the_work_of_a_dead_mount_stays_until_it_can_be_kept(mounted, root, volume, monkeypatch):
    dead = leave_behind(mounted, root)
    parts = volume("carol")._open_parts()
    with monkeypatch.context() as broken:
        broken.setattr(Keeping, "refuse", failing)
        assert kept_of_the_dead(parts) == []
    assert [each.read_bytes() for each in dead.iterdir() if each.name != "index"] == [
        b"an hour of work\n"
    ]
    (kept,) = kept_of_the_dead(parts)
    assert (root / kept).read_bytes() == b"an hour of work\n"
    assert not dead.exists()


def test_the_work_of_a_dead_mount_is_kept_on_a_full_disk(mounted, root, volume, full_disk):
    dead = leave_behind(mounted, root)
    full_disk()
    (kept,) = kept_of_the_dead(volume("carol")._open_parts())
    assert (root / kept).read_bytes() == b"an hour of work\n"
    assert not dead.exists()


# ── what was committed is not told as failed ─────────────────────────────────


def test_a_rename_is_told_as_done_though_the_temporary_name_stays(
    mounted, root, bob, monkeypatch, expected_warnings
):
    (root / "temporary").write_bytes(b"second\n")
    fails_for(monkeypatch, "unlink", b"temporary")
    mounted.rename("temporary", PLAN)
    assert bob.read(PLAN) == b"second\n"
    assert ["was saved" in each.getMessage() for each in expected_warnings] == [True]


def test_a_temporary_name_that_leads_to_another_file_by_then_is_not_removed(
    mounted, root, bob, monkeypatch
):
    (root / "temporary").write_bytes(b"second\n")
    (root / "other").write_bytes(b"other\n")

    def at(point):
        if point == "acknowledged" and (root / "other").exists():
            os.replace(root / "other", root / "temporary")

    monkeypatch.setattr("coherent_volume.points.reached", at)
    mounted.rename("temporary", PLAN)
    assert bob.read(PLAN) == b"second\n"
    assert (root / "temporary").read_bytes() == b"other\n"


@pytest.mark.parametrize("reverse", [False, True])
def test_an_artifact_and_another_file_are_exchanged_or_both_stay(
    mounted, root, bob, monkeypatch, reverse
):
    (root / "other").write_bytes(b"other\n")
    names = ("other", PLAN) if reverse else (PLAN, "other")
    with monkeypatch.context() as full:
        full.setattr("fuse_mount.fenced_moves.copy_content", failing)
        with pytest.raises(OSError, match="No space left"):
            mounted.rename(*names, RENAME_EXCHANGE)
    assert (root / PLAN).read_bytes() == b"first\n"
    assert (root / "other").read_bytes() == b"other\n"
    mounted.rename(*names, RENAME_EXCHANGE)
    assert bob.read(PLAN) == b"other\n"
    assert (root / "other").read_bytes() == b"first\n"
    left = os.listdir(root / ".coherence" / "mounts" / mounted.parts.staging.token)
    assert left == ["index"]


# ── nothing is used up ───────────────────────────────────────────────────────


@pytest.mark.parametrize("what", ["working.copy_content", "working.give"])
def test_opens_that_fail_leave_nothing_open(mounted, monkeypatch, what):
    monkeypatch.setattr(f"fuse_mount.{what}", failing)
    for turn in range(5):
        with pytest.raises(OSError, match="No space left"):
            mounted.open(PLAN, os.O_RDWR)
        if turn == 0:
            before = mounted.in_use()
    assert mounted.in_use() == before


@pytest.mark.parametrize("what", ["attributes", "descriptors"])
def test_a_new_file_that_cannot_be_made_leaves_nothing_open_and_the_deletion_before_it(
    mounted, root, monkeypatch, what
):
    mounted.tree.unlink(CALLER, *mounted.place(PLAN))
    before = mounted.in_use()
    with monkeypatch.context() as broken:
        if what == "attributes":
            broken.setattr(mounted.tree, "give", failing)
        else:
            broken.setattr(mounted.tree, "_descriptors_max", 0)
        for _ in range(5):
            with pytest.raises(OSError, match=r"No space left|Too many"):
                mounted.tree.create(CALLER, *mounted.place(PLAN), os.O_WRONLY, 0o644)
    assert mounted.in_use() == before
    mounted.tree.settle(float("inf"))
    assert not (root / PLAN).exists()


def test_a_large_file_that_becomes_an_artifact_is_not_read_into_memory(mounted, root):
    with (root / "large").open("wb") as file:
        file.write(b"large")
        file.truncate(24 << 20)
    number = mounted.open("large", os.O_WRONLY)
    tracemalloc.start()
    try:
        mounted.rename("large", PLAN)
        mounted.tree.write(CALLER, number, 0, memoryview(b"again"))
        mounted.close(number)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (root / PLAN).stat().st_size == 24 << 20
    assert (root / PLAN).read_bytes()[:6] == b"again\0"
    assert peak < 12 << 20


def test_the_clock_remembers_what_is_unfinished_and_nothing_else(mounted, monkeypatch):
    for number in range(20):
        path = f"plans/{number}.md"
        _, handle = mounted.tree.create(CALLER, *mounted.place(path), os.O_WRONLY, 0o644)
        mounted.tree.write(CALLER, handle, 0, memoryview(b"text"))
        mounted.close(handle)
    mounted.open("plans/1.md", os.O_WRONLY)
    with pytest.raises(OSError, match="Stale"):  # the kernel would come back, and does not
        mounted.tree.open(CALLER, mounted.node("plans/2.md"), os.O_WRONLY)
    mounted.tree.unlink(CALLER, *mounted.place("plans/3.md"))
    mounted.tree.tidy()
    assert mounted.unfinished() == [b"plans/1.md", b"plans/2.md", b"plans/3.md"]
    monkeypatch.setattr("fuse_mount.working._FORSAKEN_S", -1.0)
    mounted.tree.settle(float("inf"))
    mounted.tree.tidy()
    assert mounted.unfinished() == [b"plans/1.md"]


def test_a_state_that_a_thread_is_at_stays_the_one_of_its_artifact(mounted):
    state = mounted.tree.state(ArtifactKey(b"plans/plan.md"))
    with state.lock:
        state.deleted = Hold(OVERWRITE, 0.0, 0)
        state.deleted = None
        mounted.tree.tidy()
        assert mounted.unfinished() == []
        assert mounted.tree.state(ArtifactKey(b"plans/plan.md")) is state
