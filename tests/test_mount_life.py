"""Hazard: a mount that was killed hangs, loses something, or stands in the way of the next."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time

import pytest
from harness.command import COHERENT, Command
from harness.mounted import Agent, guarded, mounts_of, needs_fuse

from coherent_volume import CoherentVolume
from coherent_volume.errors import BusyError, UnavailableError, UsageError
from fuse_mount import mount, mounts, unmount


@pytest.fixture
def bob(volume):
    """The peer, and the volume."""
    return volume("bob")


def kill_server(root):
    (info,) = mounts(root)
    os.kill(info.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while mounts(root)[0].alive and time.monotonic() < deadline:
        time.sleep(0.01)
    return info


@needs_fuse
def test_a_killed_server_is_told_as_enotconn_and_cleaned_up_by_the_next_mount(root, bob, tmp_path):
    where = tmp_path / "m"
    where.mkdir()
    with guarded(where):
        first = mount(root, where, "alice")
        kill_server(root)
        with pytest.raises(OSError) as caught:
            os.listdir(where)
        assert caught.value.errno == errno.ENOTCONN
        first._server.wait(10)
        with mount(root, where, "alice"):
            assert (where / "plans" / "plan.md").read_bytes() == b"first\n"
        assert os.listdir(where) == []
    assert mounts(root) == []


@needs_fuse
def test_what_a_killed_server_had_not_committed_is_kept_and_listed(root, bob, tmp_path):
    where = tmp_path / "m"
    where.mkdir()
    with guarded(where):
        first = mount(root, where, "alice")
        file = (where / "plans" / "plan.md").open("r+b", buffering=0)
        file.write(b"UNSAVED")
        kill_server(root)
        with pytest.raises(OSError, match=r"not connected|aborted"):
            file.close()
        first._server.wait(10)
        assert (root / "plans" / "plan.md").read_bytes() == b"first\n"
        with mount(root, where, "alice") as second:
            (kept,) = second.kept
            assert (root / kept).read_bytes() == b"UNSAVED"


@needs_fuse
def test_an_acknowledged_save_survives_the_death_of_its_server(root, bob, tmp_path):
    where = tmp_path / "m"
    where.mkdir()
    with guarded(where):
        first = mount(root, where, "alice")
        for number in range(20):
            (where / "plans" / "plan.md").write_bytes(b"%d\n" % number)
        kill_server(root)
        first._server.wait(10)
    with CoherentVolume(root, session="carol") as volume:
        assert volume.read("plans/plan.md") == b"19\n"
    assert (root / "plans" / "plan.md").read_bytes() == b"19\n"


@needs_fuse
def test_unmounting_commits_what_was_held(root, bob, tmp_path):
    with mounts_of(root, tmp_path) as mounted:
        alice = mounted("alice")
        alice.ok("rm plans/plan.md; : > plans/empty.md")
    assert not (root / "plans" / "plan.md").exists()
    assert (root / "plans" / "empty.md").read_bytes() == b""


@needs_fuse
def test_a_mount_point_that_will_not_do_is_refused_with_the_reason(root, bob, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (root / "inside").mkdir()
    other = tmp_path / "other"
    (other / "below").mkdir(parents=True)
    CoherentVolume(other, managed=("**",)).close()
    for where, words in (
        (tmp_path / "none", "is no directory"),
        (tmp_path / "full", "not empty"),
        (root / "inside", "inside the volume"),
        (root, "inside the volume"),
        (other / "below", "in the coherent volume"),
        (tmp_path / "full" / "x", "is no directory"),
    ):
        with pytest.raises(UsageError, match=words):
            mount(root, where, "alice")
    with mounts_of(root, tmp_path) as mounted:
        alice = mounted("alice")
        with pytest.raises(UsageError, match="mounted there already"):
            mount(root, alice.where, "carol")
    with pytest.raises(UsageError, match="no coherent volume is mounted"):
        unmount(tmp_path / "full")


def test_without_a_device_the_message_says_what_is_missing(root, bob, tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    monkeypatch.setattr("fuse_mount.device.DEVICE", str(tmp_path / "no-device"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(UnavailableError, match="has no FUSE"):
        mount(root, tmp_path / "m", "alice")


@needs_fuse
def test_the_command_line_mounts_lists_and_unmounts(root, bob, tmp_path):
    where = tmp_path / "m"
    where.mkdir()
    command = Command(root, "alice")
    with guarded(where):
        assert command.ok("mount", str(where)).text == f"{where} shows the volume for alice\n"
        agent = Agent(where, "alice")
        assert agent.ok("cat plans/plan.md") == "first\n"
        coherent = " ".join(COHERENT)
        assert "alive" in command.ok("mounts").text
        plain = {k: v for k, v in os.environ.items() if k != "COHERENT_SESSION"}
        inside = subprocess.run(
            [*COHERENT, "session", "--json"],
            cwd=where,
            env={**plain, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=False,
        )
        assert '"rule": "the mount"' in inside.stdout, (inside, coherent)
        command.ok("unmount", str(where))
    assert command.ok("mounts").text == "No mounts.\n"
    assert os.listdir(where) == []


@needs_fuse
def test_a_mount_in_use_is_not_unmounted_under_its_user(root, bob, tmp_path):
    with mounts_of(root, tmp_path) as mounted:
        alice = mounted("alice")
        with (alice.where / "plans" / "plan.md").open("rb"), pytest.raises(BusyError):
            unmount(alice.where)
        assert alice.ok("cat plans/plan.md") == "first\n"


@needs_fuse
def test_notes_of_refusals_are_swept_by_age(root, bob, tmp_path):
    folder = root / ".coherence" / "mounts"
    folder.mkdir(exist_ok=True)
    for name, age_s in (("old.refusals", 40 * 86_400), ("new.refusals", 0)):
        (folder / name).write_text("{}\n")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    with mounts_of(root, tmp_path) as mounted:
        mounted("alice")
    left = os.listdir(folder)
    assert ("old.refusals" in left, "new.refusals" in left) == (False, True)
