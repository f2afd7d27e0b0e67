"""A round: many sessions at all doors of one volume, killed and edited around; then judged.

Everything that happens is drawn from one seed. What is judged is the recording
(by a checker that knows nothing of the library), the volume's own log, and the
two against each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coherent_audit import ABSENT, Operation, Recorder, check, fingerprint, load, minimal
from coherent_volume import CoherentVolume, NotFoundError
from fuse_mount import mount, mounts
from tests.harness import mounted
from tests.harness.doors import at_the_command_line, in_a_mount
from tests.harness.evidence import keep_everything
from tests.harness.processes import Worker, Workers
from tests.harness.workload import live

__all__ = ["PATHS", "Judged", "Plan", "run"]

PATHS = ["plans/plan.md", "plans/notes.md", "plans/todo/list.md", "plans/quiet.md"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a round is made of."""

    seed: int
    seconds: float
    library: int = 4
    command_line: int = 1
    mount: int = 1
    edits: bool = True
    kills: bool = True
    durability: str = "power"
    calm: tuple[float, float] = (0.05, 0.25)
    """Seconds between two kills, at least and at most."""
    mortality: float = 0.0005
    """The chance to die at a named point of the protocol."""
    reads: int = 30
    """How often a session of the library reads, where it writes 30 times."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """What came of a round."""

    operations: list[Operation]
    outcomes: Counter[tuple[str, str]]
    kills: int
    complaints: list[str]


def run(directory: Path, plan: Plan) -> Judged:
    """One round in a new volume below *directory*."""
    root, logs = directory / "root", directory / "logs"
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    logs.mkdir()
    (root / PATHS[0]).write_bytes(b"start\n")
    with Recorder(logs / "start.log", "").operation(
        "foreign", PATHS[0], content=fingerprint(b"start\n")
    ):
        pass
    CoherentVolume(root, managed=("plans/**",), durability=plan.durability).close()
    keep_everything(root)
    with _mountpoint(root, directory, plan) as place, Workers() as workers:
        kills = _Crew(workers, root, logs, place, plan).go()
    _read_all(root, logs / "end.log")
    operations = load(logs.glob("*.log"))
    complaints = _complaints(root, operations)
    if complaints:
        complaints.insert(0, f"{plan}")
    outcomes = Counter((each.kind, each.outcome) for each in operations)
    return Judged(operations, outcomes, kills, complaints)


class _Mounted:
    """A mount of the volume whose server can be killed, and another one take its place."""

    def __init__(self, root: Path, where: Path, stack: contextlib.ExitStack) -> None:
        self.root, self.where, self._stack = root, where, stack
        where.mkdir()
        self.mount()

    def mount(self) -> None:
        self._stack.enter_context(mount(self.root, self.where, "mount", reflex_s=0.05))

    def kill_server(self) -> None:
        for each in mounts(self.root):
            if each.alive and each.mountpoint == str(self.where):
                os.kill(each.pid, signal.SIGKILL)

    def replace(self) -> None:
        """Nobody may be at work here: without a mount this is a plain directory."""
        mounted.abort(str(self.where))
        self.mount()


@contextlib.contextmanager
def _mountpoint(root: Path, directory: Path, plan: Plan) -> Iterator[_Mounted | None]:
    if not plan.mount or mounted.why_not() is not None:
        yield None
        return
    where = directory / "mount"
    with contextlib.ExitStack() as stack:
        found = _Mounted(root, where, stack)
        stack.enter_context(mounted.guarded(where, plan.seconds + 120))
        yield found


class _Crew:
    """The sessions of a round; with ``kills`` one is shot and replaced now and then."""

    def __init__(
        self, workers: Workers, root: Path, logs: Path, place: _Mounted | None, plan: Plan
    ) -> None:
        self.workers, self.root, self.logs, self.place = workers, root, logs, place
        self.plan, self.rng = plan, random.Random(plan.seed)
        self.doors = ["library"] * plan.library + ["command line"] * plan.command_line
        if place is not None:
            self.doors += ["mount"] * plan.mount

    def start(self, number: int, seconds: float) -> Worker:
        common: dict[str, Any] = {
            "log": self.logs / f"{number}-{len(self.workers.all)}.log",
            "seed": self.rng.randrange(1 << 32),
            "paths": PATHS,
            "seconds": seconds,
        }
        door = self.doors[number]
        if door == "command line":
            session = f"shell{number}"
            return self.workers.start(
                at_the_command_line, root=self.root, session=session, **common
            )
        if door == "mount":
            assert self.place is not None
            where = self.place.where
            return self.workers.start(in_a_mount, where=where, session="mount", **common)
        return self.workers.start(
            live,
            root=self.root,
            session=f"agent{number}" if number % 2 else None,
            mix=(self.plan.reads, 4 if self.plan.edits else 0),
            mortality=self.plan.mortality if self.plan.kills else 0.0,
            **common,
        )

    def go(self) -> int:
        """Let them work; how many were killed."""
        running = [self.start(number, self.plan.seconds) for number in range(len(self.doors))]
        for worker in running:
            worker.wait_for("ready")
        end = time.monotonic() + self.plan.seconds
        kills = 0
        while time.monotonic() < end:
            time.sleep(self.rng.uniform(*self.plan.calm))
            kills += self._replace_the_dead(running, end)
            number = self.rng.randrange(len(self.doors))
            if self.plan.kills and running[number].said("ready"):
                if self.doors[number] == "mount":
                    self._lose_the_server()
                running[number].kill()
                assert running[number].popen.returncode in (0, -signal.SIGKILL), running[
                    number
                ].complaint()
                kills += 1
                if self.doors[number] == "mount" and self.place is not None:
                    self.place.replace()
                running[number] = self.start(number, max(0.2, end - time.monotonic()))
        for worker in running:
            status = worker.popen.wait(60)
            assert status in (0, -signal.SIGKILL), worker.complaint()
        return kills

    def _replace_the_dead(self, running: list[Worker], end: float) -> int:
        """Those that died at a named point; how many."""
        dead = [n for n, worker in enumerate(running) if worker.popen.poll() == -signal.SIGKILL]
        for number in dead:
            running[number] = self.start(number, max(0.2, end - time.monotonic()))
        return len(dead)

    def _lose_the_server(self) -> None:
        """Every second time the mount's server dies under its program, before that does."""
        if self.place is not None and self.rng.random() < 0.5:
            self.place.kill_server()
            time.sleep(self.rng.uniform(0.0, 0.05))


def _read_all(root: Path, log: Path) -> None:
    recorder = Recorder(log, "auditor")
    with CoherentVolume(root, session="auditor") as auditor:
        for path in PATHS:
            with recorder.operation("read", path) as learned:
                try:
                    seen = auditor.observe(path)
                except NotFoundError as error:
                    learned.update(content=ABSENT, generation=error.fields.get("generation"))
                else:
                    assert seen.data is not None
                    learned.update(content=fingerprint(seen.data), generation=seen.generation)


def _complaints(root: Path, operations: list[Operation]) -> list[str]:
    """Whatever cannot be: in the volume's log, in the run, between the two."""
    with CoherentVolume(root, session="auditor") as auditor:
        found = [f"{f.invariant}: {f.path}: {f.message}" for f in auditor.audit().findings]
        made = {path: _past(auditor, path) for path in PATHS}
    numbered = []
    for operation in operations:
        past = made.get(operation.path, {})
        if _was_saved_in_the_mount(operation):
            generation = max(past.get(("mount", operation.content), {0})) or None
            if generation is None:
                found.append(f"acknowledged commit missing: {operation}")
            deletions = {g for (_, c), made_by in past.items() if c == ABSENT for g in made_by}
            before = operation.derived_from
            operation = dataclasses.replace(  # noqa: PLW2901 - the same one, numbered
                operation,
                generation=generation,
                base=generation and generation - 1,
                # A program that saves finds no file, and makes one: that is a
                # creation, whatever it had read before.
                derived_from=ABSENT if (generation or 0) - 1 in deletions else before,
            )
        elif operation.kind in ("commit", "transaction") and operation.outcome == "done":
            for each in operation.writes or (operation,):
                key = operation.session, each.content
                if each.content and each.generation not in made[each.path].get(key, ()):
                    found.append(f"acknowledged commit missing: {operation}")
        numbered.append(operation)
    for violation in check(numbered)[:5]:
        shortest = minimal(numbered, violation)[:30]
        shown = "".join(f"\n        {each}" for each in shortest)
        found.append(f"{violation}\n    shortest history:{shown}")
    return found


def _was_saved_in_the_mount(operation: Operation) -> bool:
    return (operation.kind, operation.outcome, operation.session) == ("commit", "done", "mount")


def _past(volume: CoherentVolume, path: str) -> dict[tuple[str, str | None], set[int]]:
    """Generations by session and content, of all that was ever committed to *path*."""
    past: dict[tuple[str, str | None], set[int]] = {}
    for entry in volume.log(path):
        content = ABSENT
        if entry.digest:
            content = fingerprint(volume.read_at(path, entry.generation))
        past.setdefault((entry.session, content), set()).add(entry.generation)
    return past
