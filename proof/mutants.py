"""Deliberate one-line breaks of the code; each must be caught by a named check.

    python -m proof.mutants [NAME ...]

Each break is made in a copy of the project, and the check is run there. A break
that its check does not notice lives, and so does one whose check fails for
another reason than an assertion of its own: pytest must report failed tests,
not errors of collection. Exits with 1 when one lives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant", "Outcome", "applied", "run"]

ROOT = Path(__file__).resolve().parent.parent
_COPIED = ("coherent_volume", "cli", "fuse_mount", "tests", "formal", "proof", "pyproject.toml")
_TESTS_FAILED = 1  # pytest's own code; 2 and above are other ends
_LIMIT_S = 240


class Mutant(NamedTuple):
    """One break: *was* becomes *broken* in a module; *check* must notice."""

    name: str
    promise: str
    module: str
    was: str
    broken: str
    check: str


MUTANTS = (
    Mutant(
        "no compare before the swap",
        "I1",
        "judgement",
        "if base.digest == head.digest:\n        return",
        "if base is not None:\n        return",
        "test_lost_update.py::test_commit_from_a_stale_base_changes_nothing",
    ),
    Mutant(
        "new bytes that equal the head's pass",
        "I1",
        "judgement",
        "if base.digest == head.digest:\n        return",
        "if head.digest in (base.digest, intent.staged and intent.staged.digest):\n        return",
        "test_lost_update.py::test_two_counters_that_both_write_six_are_a_conflict",
    ),
    Mutant(
        "blind writes pass",
        "I1",
        "judgement",
        "if base is None:\n        if head.exists:",
        "if base is None:\n        if not head:",
        "test_lost_update.py::test_write_to_an_artifact_never_read_is_refused",
    ),
    Mutant(
        "a commit skips a number",
        "I2",
        "commit",
        "    generation = head.generation + 1\n    staged",
        "    generation = head.generation + 2\n    staged",
        "test_generations.py",
    ),
    Mutant(
        "no gate around check and publish",
        "I3",
        "gating",
        "with parts.gate.held(GATE_WAIT_S):",
        "with contextlib.nullcontext():",
        "test_lost_update.py::test_eight_processes_that_add_their_own_lines_lose_none_and_double_none",
    ),
    Mutant(
        "a live lease of a peer is ignored",
        "I3",
        "ownership",
        "if row is None or not row.leased:\n        return",
        "if row is None or row.id:\n        return",
        "test_fence.py",
    ),
    Mutant(
        "no fence against an older epoch",
        "I4",
        "judgement",
        "if base.epoch < head.epoch:",
        "if base.epoch < 0:",
        "test_fence.py",
    ),
    Mutant(
        "ownership is taken without a new epoch",
        "I4",
        "leasing",
        '"reclaim", epoch + 1, found.session',
        '"reclaim", epoch, found.session',
        "test_fence.py",
    ),
    Mutant(
        "breaking a lease makes no new epoch",
        "I4",
        "lease_records",
        "_set_epoch(connection, row, row.epoch + 1)",
        "_set_epoch(connection, row, row.epoch)",
        "test_fence.py",
    ),
    Mutant(
        "files are read without their records",
        "I5",
        "reading",
        "if row.digest == seen.digest and (",
        "if row.digest and (",
        "test_foreign_edit.py::test_edit_by_an_outsider_is_one_generation_that_readers_see",
    ),
    Mutant(
        "memory is served without a look at the file",
        "I9",
        "cache",
        "found.st_ctime_ns == entry[4]\n            and found.st_ino == entry[1]",
        "found.st_ctime_ns\n            or found.st_ino == entry[1]",
        "test_generations.py::test_reader_served_from_memory_sees_a_peers_commit_at_once",
    ),
    Mutant(
        "refused content is thrown away",
        "I6",
        "commit",
        "if intent.staged is None or not intent.keep_refused:",
        "if intent.staged is None or intent.key:",
        "test_lost_update.py::test_refused_content_is_kept_and_named",
    ),
    Mutant(
        "nobody finishes the install of the dead",
        "I7",
        "recovery",
        "elif row is not None and pending is not None:",
        "elif row is not None and pending == row:",
        "test_crash_points.py::test_process_killed_at_any_point_leaves_old_or_new",
    ),
    Mutant(
        "the log is not flushed in power mode",
        "I7",
        "database",
        '"FULL" if durability == "power"',
        '"NORMAL" if durability == "power"',
        "test_power_cut.py::test_acknowledged_commit_survives_the_cut",
    ),
    Mutant(
        "the ground below a commit is not flushed",
        "I7",
        "ground",
        "if not parts.durable:\n        return\n    if not judged.exists:",
        "if parts:\n        return\n    if not judged.exists:",
        "test_power_cut.py::test_what_lies_below_a_commit_is_not_taken_back_by_a_cut",
    ),
    Mutant(
        "inode numbers of another boot are trusted",
        "I7",
        "recovery",
        "if row is not None and row.boot != parts.boot:",
        "if row is not None and not row.boot:",
        "test_recovery.py",
    ),
    Mutant(
        "an exchange is not verified",
        "I8",
        "install",
        "if displaced is None or displaced.st_ino != previous.inode:\n        return False",
        "if displaced is None or displaced.st_ino:\n        return True",
        "test_foreign_edit.py::test_edit_in_the_middle_of_a_commit_is_kept_and_so_is_the_commit",
    ),
    Mutant(
        "a broken lease does not count as a race",
        "I8",
        "install",
        "return leased is None or not leased.leased or lease_unbroken(leased.descriptor)",
        "return bool(previous)",
        "test_foreign_edit.py::test_editor_that_opened_the_file_in_the_middle_of_a_commit"
        "_gets_its_name_back",
    ),
    Mutant(
        "writers with the file open are not waited for",
        "I8",
        "files",
        "raise WriterPresent(found.st_dev, found.st_ino) from None\n",
        "return False\n",
        "test_foreign_edit.py::test_half_written_file_is_never_adopted",
    ),
    Mutant(
        "a hole of a moment counts as a removal",
        "I8",
        "recovery",
        "if not seen.exists and not absent_for_sure:",
        "if not seen.exists and not key:",
        "test_foreign_edit.py::test_hole_of_a_moment_is_not_taken_for_a_removal",
    ),
    Mutant(
        "late bytes in a displaced file are dropped",
        "I8",
        "maintenance",
        "if displaced.verified != looks(found) and not _is_known(parts, record, descriptor):",
        "if displaced.verified == record:",
        "test_crash_points.py test_foreign_edit.py",
    ),
    Mutant(
        "an observation is remembered before its delivery",
        "I1",
        "views",
        "    if look.data is not None:\n        sink.write(look.data)\n",
        "    record(parts, key, reading)\n"
        "    if look.data is not None:\n        sink.write(look.data)\n",
        "test_recovery.py::test_content_that_could_not_be_delivered_was_not_seen",
    ),
    Mutant(
        "a dead holder keeps its lease",
        "I10",
        "ownership",
        "return not lease.hold or is_present(",
        "return not lease.hold or bool(lease) or is_present(",
        "test_fence.py",
    ),
    Mutant(
        "a forked child passes for its parent",
        "I10",
        "parts",
        "        self.session.become_child()\n        self.displaced",
        "        self.displaced",
        "test_fork.py",
    ),
    Mutant(
        "a signal is forgotten when no copy is there",
        "I9",
        "trusting",
        "if copy.generation < self._heard.get(copy.entry.key, 0):",
        "if copy.generation < 0:",
        "test_read_policies.py::test_signal_that_comes_before_the_copy_is_kept_is_not_lost",
    ),
    Mutant(
        "a dead listener is trusted",
        "I9",
        "trusting",
        "listener is None or now >= listener.heard_until + trust.seconds",
        "listener is None",
        "test_read_policies.py::test_dead_listener_makes_every_read_look",
    ),
    Mutant(
        "a copy is trusted without end",
        "I9",
        "trusting",
        "now >= copy.until or copy.era != self._era",
        "copy.era != self._era",
        "test_read_policies.py::test_lease_of_a_copy_ends_with_its_time",
    ),
    Mutant(
        "own writes that renew no view go unseen",
        "I9",
        "commit",
        "            parts.copies.hear(new.key, new.generation)",
        "            _ = new",
        "test_read_policies.py::test_own_writes_are_seen_at_once_also_where_they_renew_no_view",
    ),
    Mutant(
        "what the feed brings moves the view",
        "I1",
        "trusting",
        "        self._store(key, reading, data, reading.seen, era, until, fetched=reading)",
        "        record(self._parts, key, reading)",
        "test_read_policies.py::test_what_the_feed_brings_is_seen_only_when_it_is_read",
    ),
)


class Outcome(NamedTuple):
    """Whether the check noticed, and how long it took to."""

    dead: bool
    seconds: float
    told: str


def applied(mutant: Mutant, root: Path) -> Path:
    """The module in *root*, broken; AssertionError when the line to break is not there once."""
    module = root / "coherent_volume" / f"{mutant.module}.py"
    text = module.read_text(encoding="utf-8")
    found = text.count(mutant.was)
    assert found == 1, f"{mutant.name}: {mutant.module}.py has its line {found} times"
    module.write_text(text.replace(mutant.was, mutant.broken), encoding="utf-8")
    return module


def run(mutant: Mutant) -> Outcome:
    """Break a copy, run the check in it."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, copy / name, ignore=ignored)
            else:
                shutil.copy(source, copy)
        applied(mutant, copy)
        checks = [f"tests/{check}" for check in mutant.check.split()]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        try:
            ended = subprocess.run(
                [*command, "-p", "no:randomly", *checks],
                cwd=copy,
                env={**os.environ, "PYTHONPATH": str(copy)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            # A break that makes everybody wait for ever is noticed by that.
            return Outcome(dead=True, seconds=time.perf_counter() - started, told="never ended")
    last = (ended.stdout.strip().splitlines() or [""])[-1]
    return Outcome(ended.returncode == _TESTS_FAILED, time.perf_counter() - started, last)


def main(names: Sequence[str]) -> int:
    """Print one line for each mutant; the exit status."""
    alive = 0
    for mutant in MUTANTS:
        if names and not any(name in mutant.name for name in names):
            continue
        outcome = run(mutant)
        alive += not outcome.dead
        fate = "dead " if outcome.dead else "LIVES"
        check = mutant.check.partition("::")[0] or mutant.check
        print(f"{mutant.promise:4} {fate} {mutant.name:52} {check}", flush=True)
        if not outcome.dead:
            print(f"     {outcome.told}", flush=True)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
