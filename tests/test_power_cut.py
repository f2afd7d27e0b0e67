"""Real power cuts: no acknowledged commit is lost, and what lies below one stays below it.

An ext4 on a loop device is stopped dead behind a process that was killed, and
mounted again. The next visitor believes in another boot, as it would.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from coherent_volume import CoherentVolume
from tests.harness.power import PowerFail, power_fail
from tests.harness.processes import Workers, until

PLAN = "plans/plan.md"


@pytest.fixture(params=["", "data=writeback,noauto_da_alloc"], ids=["ordered", "writeback"])
def disk(request, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("power cuts need root, for a loop device")
    with power_fail(tmp_path, request.param) as found:
        if found is None:
            pytest.skip("no loop device with ext4 can be mounted here")
        yield found


def until_the_cut(disk: PowerFail, work: Callable[[CoherentVolume, Path], None]) -> None:
    """Do *work* in a process that dies of it, then cut the power."""
    with Workers() as workers:
        worker = workers.start(live_and_die, root=disk.path, deed=work.__name__)
        until(lambda: not worker.running, "it has died")
        assert worker.popen.returncode == -signal.SIGKILL, worker.complaint()
    disk.cut()


def live_and_die(root: str, deed: str) -> None:
    volume = CoherentVolume(root, managed=("plans/**",), session="alice")
    # What is flushed in the background must not decide what survives.
    volume._maintenance.nudge = lambda: None
    if Path(root, PLAN).exists():
        volume._parts.boot = "another boot"
    else:
        _reuse_the_log(volume)
    globals()[deed](volume, Path(root, PLAN))
    os.kill(os.getpid(), signal.SIGKILL)


def _reuse_the_log(volume: CoherentVolume) -> None:
    """Bring the database's log to its steady size.

    While it grows every flush of it commits the file system's journal, and with
    it whatever else was done to any directory.
    """
    Path(volume.root, "plans").mkdir()
    Path(volume.root, PLAN).write_text("old")
    for number in range(12):
        volume.write("plans/filler", bytes(60_000) + str(number).encode())
    with volume._parts.gate.held(1):
        volume._parts.sidecar.database.checkpoint(truncate=False)
    os.sync()


def next_visitor(disk: PowerFail) -> CoherentVolume:
    volume = CoherentVolume(disk.path, session="bob")
    volume._parts.boot = "another boot"
    return volume


def save_outside(path: Path, text: str) -> None:
    """As an editor that does not flush."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.rename(path)


def commit(volume: CoherentVolume, _: Path) -> None:
    volume.read(PLAN)
    volume.write(PLAN, "new")


def commit_over_an_edit(volume: CoherentVolume, path: Path) -> None:
    volume.read(PLAN)
    save_outside(path, "edited")
    volume.read(PLAN)
    volume.write(PLAN, "new")


def commit_over_a_save_of_the_same(volume: CoherentVolume, path: Path) -> None:
    volume.read(PLAN)
    save_outside(path, "old")
    volume.write(PLAN, "new")


@pytest.mark.invariant("I7")
def test_acknowledged_commit_survives_the_cut(disk, expected_warnings):
    until_the_cut(disk, commit)

    assert (disk.path / PLAN).read_text() in ("old", "new"), "neither empty nor torn"
    with next_visitor(disk) as bob:
        assert bob.read(PLAN) == b"new"
    expected_warnings.clear()


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("work", [commit_over_an_edit, commit_over_a_save_of_the_same])
def test_what_lies_below_a_commit_is_not_taken_back_by_a_cut(disk, expected_warnings, work):
    """Else the file from before the edit would pass for an edit on top of the commit."""
    until_the_cut(disk, work)

    with next_visitor(disk) as bob:
        assert bob.read(PLAN) == b"new"
    expected_warnings.clear()


def visit_after_an_edit(volume: CoherentVolume, path: Path) -> None:
    save_outside(path, "edited after the cut")
    assert volume.read(PLAN) == b"edited after the cut"


@pytest.mark.invariant("I7")
def test_second_cut_takes_back_nothing_that_the_first_recovery_built_on(disk, expected_warnings):
    until_the_cut(disk, commit)
    until_the_cut(disk, visit_after_an_edit)

    with next_visitor(disk) as carol:
        carol._parts.boot = "a third boot"
        assert carol.read(PLAN) == b"edited after the cut"
    expected_warnings.clear()
