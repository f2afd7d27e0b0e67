"""Hazard: the mount works for root only, or an ordinary user is told nothing."""

from __future__ import annotations

import os
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
