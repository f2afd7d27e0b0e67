"""Hazard: the second transport comes unasked, fails without a reason, loses what libfuse hides."""

from __future__ import annotations

import errno
import mmap
import os
import signal

import pytest
from harness.command import Command
from harness.mounted import guarded, mounts_of, needs_fuse, why_not

from coherent_volume.errors import UnavailableError, UsageError
from fuse_mount import mount, mounting, mounts

pytestmark = needs_fuse

needs_fusepy = pytest.mark.skipif(why_not("fusepy") is not None, reason=why_not("fusepy") or "")


@pytest.fixture
def where(tmp_path):
    """An empty mount point, cleared in the end."""
    place = tmp_path / "m"
    place.mkdir()
    with guarded(place):
        yield place


@pytest.fixture
def bob(volume):
    """The peer, and the volume."""
    return volume("bob")


@pytest.fixture
def alice(root, tmp_path, bob):
    """A mount over fusepy."""
    with mounts_of(root, tmp_path, transport="fusepy") as mounted:
        yield mounted("alice")


# ── the choice ───────────────────────────────────────────────────────────────


def test_an_unknown_transport_is_refused(root, bob, where):
    with pytest.raises(UsageError, match="kernel, fusepy, auto"):
        mount(root, where, "alice", transport="carrier pigeon")
    done = Command(root, "alice")("mount", where, "--transport", "carrier pigeon")
    assert done.code == 2
    assert "kernel, fusepy or auto" in done.err


def test_what_is_missing_is_told_with_how_to_get_it(root, bob, where, monkeypatch):
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "nowhere/libfuse.so")
    with pytest.raises(UnavailableError, match=r"libfuse 2|package fusepy") as caught:
        mount(root, where, "alice", transport="fusepy")
    assert "Install it" in caught.value.advice
    assert os.listdir(where) == []


def test_auto_takes_the_kernel_where_it_can(root, bob, where):
    with mount(root, where, "alice", transport="auto") as shown:
        assert shown.transport == "kernel"


@needs_fusepy
def test_auto_takes_fusepy_where_the_kernel_cannot_be_spoken_to(root, bob, where, monkeypatch):
    def no_device(place):
        raise UnavailableError("this kernel is too old")

    monkeypatch.setattr(mounting, "mount_device", no_device)
    with mount(root, where, "alice", transport="auto") as shown:
        assert shown.transport == "fusepy"
        assert (where / "plans" / "plan.md").read_bytes() == b"first\n"
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "nowhere/libfuse.so")
    with pytest.raises(UnavailableError, match="this kernel is too old"):
        mount(root, where, "alice", transport="auto")


# ── what libfuse does otherwise ──────────────────────────────────────────────


@needs_fusepy
def test_a_removed_file_lives_on_in_its_descriptor(alice, root):
    for name in ("plain", "plans/managed"):
        with open(alice.where / name, "w+b", buffering=0) as file:
            file.write(b"before")
            os.unlink(alice.where / name)
            file.write(b" after")
            assert os.fstat(file.fileno()).st_size == 12
            file.truncate(9)
            file.seek(0)
            assert file.read() == b"before af"
        assert [each for each in os.listdir(root) if "hidden" in each] == []
    assert os.listdir(root / "plans") == ["plan.md"]


@needs_fusepy
def test_a_reader_keeps_the_generation_that_it_opened(alice, bob):
    path = alice.where / "plans" / "plan.md"
    with path.open("rb", buffering=0) as file:
        assert file.read(3) == b"fir"
        (alice.where / "other").write_bytes(b"another, longer\n")
        os.replace(alice.where / "other", path)
        assert file.read() == b"st\n"
        assert path.read_bytes() == b"another, longer\n"
    assert [each.kind for each in bob.log("plans/plan.md")] == ["write", "baseline"]


@needs_fusepy
def test_names_that_are_not_utf8_and_times_come_through(alice, root):
    name = os.fsencode(alice.where) + b"/plans/caf\xe9"
    with open(name, "wb") as file:
        file.write(b"x")
    os.utime(alice.where / "plans" / "plan.md", ns=(10**18 + 1, 2 * 10**18 + 3))
    assert os.stat(root / "plans" / "plan.md").st_atime_ns == 10**18 + 1
    assert os.stat(root / "plans" / "plan.md").st_mtime_ns == 2 * 10**18 + 3
    assert b"caf\xe9" in os.listdir(os.fsencode(root / "plans"))


@needs_fusepy
def test_a_shared_writable_map_is_refused_and_not_lost(alice):
    path = alice.where / "plans" / "plan.md"
    with path.open("r+b") as file, pytest.raises(OSError, match="No such device"):
        mmap.mmap(file.fileno(), 0)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as view:
        assert view[:] == b"first\n"


@needs_fusepy
def test_a_killed_server_is_cleaned_up_and_what_it_had_not_committed_kept(root, bob, where):
    first = mount(root, where, "alice", transport="fusepy")
    file = (where / "plans" / "plan.md").open("r+b", buffering=0)
    file.write(b"UNSAVED")
    (info,) = mounts(root)
    os.kill(info.pid, signal.SIGKILL)
    first._server.wait(10)
    with pytest.raises(OSError) as caught:
        os.statvfs(where)
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    with pytest.raises(OSError, match=r"not connected|aborted"):
        file.close()
    with mount(root, where, "alice", transport="fusepy") as second:
        (kept,) = second.kept
        assert (root / kept).read_bytes() == b"UNSAVED"
        assert (where / "plans" / "plan.md").read_bytes() == b"first\n"
