"""Hazard: the mount works for root only, or an ordinary user is told nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from harness.command import COHERENT, REPOSITORY
from harness.mounted import needs_fuse

pytestmark = needs_fuse

NOBODY = 65534
AS_NOBODY = [
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("env", "-u", "COHERENT_SESSION", f"PYTHONPATH={REPOSITORY}", "PYTHONDONTWRITEBYTECODE=1"),
]


def in_a_namespace(device_mode: int, *words: str, cwd) -> subprocess.CompletedProcess[str]:
    """Run *words* as nobody where /dev/fuse has *device_mode*; this machine's stays as it is."""
    device = cwd.parent / "device"
    if not device.exists():
        os.mknod(device, 0o20600, os.makedev(10, 229))
    device.chmod(device_mode)
    script = 'mount --bind "$0" /dev/fuse && exec "$@"'
    return subprocess.run(
        [*("timeout", "40", "unshare", "-m", "bash", "-c", script), device, *AS_NOBODY, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def place(tmp_path):
    """A volume of nobody's, in a place that everybody may reach."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    where = tmp_path / "volume"
    where.mkdir()
    for each in (tmp_path, *tmp_path.parents):
        if not each.stat().st_mode & 0o001:
            each.chmod(0o711)
    os.chown(where, NOBODY, NOBODY)
    tried = in_a_namespace(0o666, sys.executable, "-c", "import coherent_volume", cwd=where)
    if tried.returncode != 0:
        pytest.skip("an ordinary user cannot reach this Python: " + tried.stderr.strip()[-80:])
    assert in_a_namespace(0o666, *COHERENT, "init", cwd=where).returncode == 0
    (where / "plan.md").write_bytes(b"first\n")
    os.chown(where / "plan.md", NOBODY, NOBODY)
    return where


def test_an_ordinary_user_runs_a_command_in_a_mount_of_its_own(place):
    script = "id -u; cat plan.md; echo mine > plan.md"
    done = in_a_namespace(
        0o666, *COHERENT, "run", "--as", "alice", "--", "bash", "-c", script, cwd=place
    )
    assert (done.returncode, done.stdout) == (0, f"{NOBODY}\nfirst\n"), done
    assert (place / "plan.md").read_bytes() == b"mine\n"
    assert (place / "plan.md").stat().st_uid == NOBODY


def test_an_ordinary_user_without_the_device_is_told_what_to_allow(place):
    done = in_a_namespace(0o600, *COHERENT, "run", "--as", "alice", "--", "true", cwd=place)
    assert done.returncode == 69
    assert "/dev/fuse cannot be opened" in done.stderr
    assert "mode 0666" in done.stderr


@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="fusermount3 is not installed")
def test_an_ordinary_user_mounts_by_the_helper_also_after_a_killed_server(place):
    where = place.parent / "mount"
    where.mkdir()
    os.chown(where, NOBODY, NOBODY)
    coherent = shlex.join(COHERENT)
    script = f"""
        {coherent} mount {where} --as alice && cat {where}/plan.md && echo mine > {where}/plan.md
        kill -9 $(sed 's/.*"pid": \\([0-9]*\\).*/\\1/' .coherence/mounts/*.json)
        until ! ls {where} 2>/dev/null; do sleep 0.1; done
        {coherent} mount {where} --as alice && cat {where}/plan.md && {coherent} unmount {where}
    """
    done = in_a_namespace(0o666, "bash", "-c", script, cwd=place)
    told = f"{where} shows the volume for alice\n"
    assert done.stdout.replace("plan.md\n", "") == (
        f"{told}first\n{told}mine\n{where} is unmounted\n"
    ), done
