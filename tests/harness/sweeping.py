"""Sweeps: one operation, and one of its system calls in which it is killed or fails.

A ``Scenario`` says what is done and what everybody may find afterwards. A
``Sweep`` has a volume in which it can be done, and does it in a copy for each
system call. What is enumerated comes from a recorded run: strace counts the
calls of each name apart, so a call is a name and an ordinal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from coherent_volume import (
    CoherenceError,
    CoherentVolume,
    NotFoundError,
    UnconfirmedError,
    audit,  # noqa: F401 - imported here, so that no child has to
    points,
    transaction,  # noqa: F401 - the same
)
from coherent_volume.gating import settled_heads
from fuse_mount.fence import Fence, Options
from fuse_mount.tree import Caller
from fuse_mount.view import MountedTree
from tests.harness.power import PowerFail
from tests.harness.processes import say, until
from tests.harness.sweep import (
    Call,
    Ended,
    Nursery,
    PointHook,
    attach,
    begin,
    calls_in,
    end,
    injected,
)

__all__ = ["ERRORS", "SCENARIOS", "PowerSweep", "Result", "Scenario", "Sweep"]

A, B, C, D = "plans/a", "plans/b", "plans/c", "plans/d"
OLD, NEW = b"old text\n", b"new text\n"
LARGE_OLD, LARGE_NEW = OLD * 30_000, NEW * 30_000  # go to an object

ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EMFILE", "EINTR")

Contents = dict[str, bytes | None]


@dataclass(frozen=True)
class Scenario:
    """One operation, and what everybody may see of it when it is cut short."""

    act: Callable[[CoherentVolume], Any]
    old: Contents
    new: Contents
    prepare: Callable[[CoherentVolume], Any] = lambda volume: volume.create(A, OLD)
    ready: Callable[[CoherentVolume], Any] = lambda volume: volume.read(A)
    """What the victim does before its operation; what it returns is handed to ``act``."""
    dead_at: str | None = None
    """The point at which an earlier process died in ``act``, so that what is
    swept is the recovery from that."""
    keep: int = 100
    """How many generations are kept."""
    whole: bool = True
    """Whether an unaware reader sees all files old or all new (never so for several)."""
    takes_handle: bool = False


def three_files(volume: CoherentVolume) -> None:
    for path in (A, C, D):
        volume.create(path, OLD)


def read_two(volume: CoherentVolume) -> None:
    volume.read(A)
    volume.read(C)


def three_at_once(volume: CoherentVolume) -> None:
    with volume.transaction() as tx:
        tx.read(C)
        tx.write(A, NEW)
        tx.create(B, LARGE_NEW)
        tx.delete(C)
        tx.write(D, tx.read(D))  # a member that does not change


def write_and_tidy_up(volume: CoherentVolume) -> None:
    """A commit that prunes, and what the background does after it."""
    volume.write(A, LARGE_NEW)
    time.sleep(0.06)  # no displaced inode is touched before
    volume._maintenance._pass()
    with volume._parts.gate.held(1):
        volume._parts.sidecar.database.checkpoint(truncate=True)


def four_large_ones(volume: CoherentVolume) -> None:
    volume.create(A, b"1" * 300_000)
    for number in (b"2", b"3"):
        volume.write(A, number * 300_000)
    volume.write(A, LARGE_OLD)


def settle_all(volume: CoherentVolume) -> None:
    """Recovery by itself: it changes nothing else."""
    keys = [volume._addresses.key(path) for path in (A, B, C)]
    with settled_heads(volume._parts, keys):
        pass


def open_in_mount(volume: CoherentVolume) -> tuple[MountedTree, Caller, int]:
    """A program in the session's mount that has written NEW and not closed yet."""
    volume.read(A)
    parts = volume._parts
    fence = Fence(parts, Options(13, observe=False), lambda: None)
    tree = MountedTree(os.dup(parts.root.descriptor), 64, fence, os.fsencode(parts.root.path))
    caller = Caller(os.getuid(), os.getgid(), os.getpid())
    nodes = tree.nodes
    folder = nodes.get(tree.lookup(nodes.get(1), b"plans").node)
    flags = os.O_WRONLY | os.O_TRUNC
    with contextlib.suppress(OSError):  # the kernel is told to ask again
        tree.open(caller, nodes.get(tree.lookup(folder, b"a").node), flags)
    handle = tree.open(caller, nodes.get(tree.lookup(folder, b"a").node), flags)
    tree.write(caller, handle, 0, memoryview(NEW))
    return tree, caller, handle


THREE_OLD: Contents = {A: OLD, B: None, C: OLD, D: OLD}
THREE_NEW: Contents = {A: NEW, B: LARGE_NEW, C: None, D: OLD}

SCENARIOS = {
    "write": Scenario(lambda v: v.write(A, NEW), {A: OLD}, {A: NEW}),
    "large write": Scenario(
        lambda v: v.write(A, LARGE_NEW),
        {A: LARGE_OLD},
        {A: LARGE_NEW},
        lambda v: v.create(A, LARGE_OLD),
    ),
    "create": Scenario(
        lambda v: v.create(A, NEW), {A: None}, {A: NEW}, lambda v: None, lambda v: None
    ),
    "delete": Scenario(lambda v: v.delete(A), {A: OLD}, {A: None}),
    "rename": Scenario(lambda v: v.rename(A, B), {A: OLD, B: None}, {A: None, B: OLD}, whole=False),
    "transaction": Scenario(
        three_at_once, THREE_OLD, THREE_NEW, three_files, read_two, whole=False
    ),
    "recovery": Scenario(
        three_at_once, THREE_NEW, THREE_NEW, three_files, read_two, "published", whole=False
    ),
    "recovery of half": Scenario(
        three_at_once, THREE_NEW, THREE_NEW, three_files, read_two, "installed", whole=False
    ),
    "prune": Scenario(write_and_tidy_up, {A: LARGE_OLD}, {A: LARGE_NEW}, four_large_ones, keep=2),
    "mount flush": Scenario(
        lambda handle: handle[0].flush(*handle[1:]),
        {A: OLD},
        {A: NEW},
        ready=open_in_mount,
        takes_handle=True,
    ),
}


# ── what the processes do ────────────────────────────────────────────────────


def prepare(root: str, scenario: str) -> None:
    """The volume as it stands before the operation."""
    chosen = SCENARIOS[scenario]
    os.makedirs(f"{root}/plans", exist_ok=True)
    CoherentVolume(root, managed=("plans/**",)).close()
    config = Path(root, ".coherence", "config.toml")
    text = config.read_text()
    assert "generations = 100\n" in text
    config.write_text(text.replace("generations = 100\n", f"generations = {chosen.keep}\n"))
    with CoherentVolume(root, session="alice") as volume:
        chosen.prepare(volume)
        until(lambda: not volume._parts.displaced, "cleaned up")


def die(root: str, scenario: str, at: str) -> None:
    """An earlier process that was killed in the operation."""
    chosen = SCENARIOS[scenario]
    volume = CoherentVolume(root, session="alice")
    chosen.ready(volume)
    points.reached = PointHook((at, 1))
    chosen.act(volume)


def reuse_the_log(volume: CoherentVolume) -> None:
    """Bring the database's log to its steady size, and everything to the disk.

    While it grows every flush of it commits the file system's journal, and with
    it whatever else was done to any directory.
    """
    for number in range(8):
        volume.write("plans/filler", bytes(60_000) + str(number).encode(), overwrite=True)
    with volume._parts.gate.held(1):
        volume._parts.sidecar.database.checkpoint(truncate=False)
    os.sync()


def victim(root: str, scenario: str, log: str, injection: list[str], power: bool = False) -> None:
    """The operation between the marks; what its caller was told."""
    chosen = SCENARIOS[scenario]
    volume = CoherentVolume(root, session="carol" if chosen.dead_at else "alice")
    # What the background does is swept where the scenario does it.
    volume._maintenance.nudge = lambda: None  # type: ignore[method-assign]
    if power:
        reuse_the_log(volume)
    handle = volume
    act: Callable[[Any], Any] = settle_all
    if chosen.dead_at is None:
        act = chosen.act
        made = chosen.ready(volume)
        handle = made if chosen.takes_handle else volume
    attach(log, injection)
    told: dict[str, Any]
    begin()
    try:
        answer = act(handle)
    except CoherenceError as error:
        unknown = isinstance(error, UnconfirmedError)
        told = {"outcome": "unknown" if unknown else "refused", "text": repr(error)}
    except OSError as error:
        outcome = "refused" if chosen.takes_handle else "untyped"
        told = {"outcome": outcome, "text": repr(error)}
    except BaseException as error:  # noqa: BLE001 - nothing untyped may come out
        told = {"outcome": "untyped", "text": repr(error)}
    else:
        told = {"outcome": "acknowledged", "text": f"{answer}"}
    end()
    say("told", **told)
    os._exit(0)


def visit(root: str, paths: list[str], power: bool = False) -> dict[str, Any]:
    """What the next visitor finds: it reads, audits, commits and checks."""
    logged: list[logging.LogRecord] = []
    handler = logging.Handler(logging.DEBUG)
    handler.emit = logged.append  # type: ignore[method-assign]
    logging.getLogger("coherent_volume").addHandler(handler)
    logging.getLogger("coherent_volume").setLevel(logging.DEBUG)
    with CoherentVolume(root, session="bob") as volume:
        if power:
            volume._parts.boot = "another boot"
        seen = {path: _observed(volume, path) for path in paths}
        done = {}
        for path, (_, content) in seen.items():
            commit = volume.create if content is None else volume.write
            done[path] = commit(path, "bob's\n").generation
        found = volume.check(repair=False)
        findings = [str(f) for f in volume.audit().findings]
        until(lambda: not volume._parts.displaced, "cleaned up")
        stages = os.listdir(f"{root}/.coherence/staging")
        if any(not s.startswith(volume._parts.staging.token) for s in stages):
            # Clean-up in the background is done once, and tried again a visit later.
            volume.check(repair=True)
            stages = os.listdir(f"{root}/.coherence/staging")
        return {
            "seen": {path: content for path, (_, content) in seen.items()},
            "next": {path: done[path] - seen[path][0] for path in paths},
            "damage": findings + [str(f) for f in found.findings if f.severity == "damage"],
            "foreign": [e.path for e in volume.log() if e.kind == "foreign"],
            "stages": [s for s in stages if not s.startswith(volume._parts.staging.token)],
            "logged": [record.getMessage() for record in logged],
        }


def _observed(volume: CoherentVolume, path: str) -> tuple[int, str | None]:
    try:
        found = volume.observe(path)
    except NotFoundError as error:
        return error.fields["generation"] or 0, None
    assert found.data is not None
    return found.generation, found.data.hex()


# ── the sweep ────────────────────────────────────────────────────────────────


@dataclass
class Result:
    """What a sweep came to: cases, how many of them really hit, and what was wrong."""

    cases: int = 0
    hits: int = 0
    old: int = 0
    new: int = 0
    outcomes: dict[str, int] = dataclasses.field(default_factory=dict)
    complaints: list[str] = dataclasses.field(default_factory=list)

    def __iadd__(self, other: Result) -> Self:
        """Both together."""
        self.cases += other.cases
        self.hits += other.hits
        self.old += other.old
        self.new += other.new
        for name, count in other.outcomes.items():
            self.outcomes[name] = self.outcomes.get(name, 0) + count
        self.complaints += other.complaints
        return self


class Sweep:
    """A template volume, and copies of it in each of which one call goes wrong."""

    def __init__(self, directory: Path, nurseries: list[Nursery], name: str) -> None:
        self.directory, self.nurseries, self.name = directory, nurseries, name
        self.scenario = SCENARIOS[name]
        directory.mkdir(parents=True, exist_ok=True)
        self.template = directory / "template"
        self.template.mkdir()
        assert nurseries[0](prepare, root=self.template, scenario=name).status == 0
        # One run to leave compiled code behind, so that all later ones are alike.
        for _ in range(2):
            ended, log = self._run(nurseries[0], "recorded", [])
            assert ended.said("told")[0]["outcome"] == "acknowledged", ended.events
        self.calls = calls_in(log)
        shutil.rmtree(directory / "recorded", ignore_errors=True)

    def _run(self, nursery: Nursery, name: str, injection: list[str]) -> tuple[Ended, Path]:
        root = self.directory / name
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.template, root)
        if self.scenario.dead_at:
            # Dead in this very copy: records name inodes.
            dead = nursery(die, root=root, scenario=self.name, at=self.scenario.dead_at)
            assert dead.killed, dead.events
        log = self.directory / f"{name}.log"
        arguments = {"root": root, "scenario": self.name, "log": log, "injection": injection}
        return nursery(victim, **arguments), log

    def each(self, calls: Sequence[Call], what: str) -> Result:
        """Let *what* (as strace says it) happen at each of *calls*; what came of it."""

        def some(lane: int) -> Result:
            result = Result()
            for number in range(lane, len(calls), len(self.nurseries)):
                result += self._one(lane, calls[number], what)
            return result

        total = Result()
        with ThreadPoolExecutor(len(self.nurseries)) as lanes:
            for result in lanes.map(some, range(len(self.nurseries))):
                total += result
        return total

    def _one(self, lane: int, call: Call, what: str) -> Result:
        name = f"lane{lane}"
        at = f"--inject={call.name}:{what}:when={call.ordinal}"
        injection = [at] if call.ordinal else []
        ended, log = self._run(self.nurseries[lane], name, injection)
        result = Result(cases=1, hits=injected(log, what))
        root = self._root(lane)
        told = ended.said("told")
        outcome = told[0]["outcome"] if told else "killed"
        result.outcomes[outcome] = 1
        try:
            assert "error" not in what or told, f"no answer at all: {ended}"
            assert outcome != "untyped", "an error without a type"
            self._judge_visible(root)
            self._judge(result, outcome, self._visit(lane, root))
        except AssertionError as error:
            result.complaints.append(f"{self.name}, {what} at {call}: {error}\n{told}")
        return result

    def _root(self, lane: int) -> Path:
        return self.directory / f"lane{lane}"

    def _visit(self, lane: int, root: Path) -> dict[str, Any]:
        paths = sorted(self.scenario.old)
        found: dict[str, Any] = self.nurseries[lane](visit, root=root, paths=paths).result
        return found

    def _judge_visible(self, root: Path) -> None:
        """What an unaware reader sees is old or new of each file; of all, if there is one."""
        old, new = self.scenario.old, self.scenario.new
        before = THREE_OLD if self.scenario.dead_at else old
        for path in old:
            file = root / path
            content = file.read_bytes() if file.exists() else None
            assert content in (before[path], old[path], new[path]), f"{path} is torn"

    def _judge(self, result: Result, outcome: str, visitor: dict[str, Any]) -> None:
        seen = {
            path: None if text is None else bytes.fromhex(text)
            for path, text in visitor["seen"].items()
        }
        result.old, result.new = seen == self.scenario.old, seen == self.scenario.new
        shown = {path: content and content[:20] for path, content in seen.items()}
        assert result.old or result.new, f"neither old nor new: {shown}"
        if outcome == "acknowledged":
            assert result.new, "an acknowledged commit was lost"
        if outcome == "refused":
            assert result.old, "told as a failure, and yet it stands"
        assert set(visitor["next"].values()) == {1}, visitor["next"]
        assert (visitor["damage"], visitor["foreign"], visitor["stages"]) == ([], [], []), {
            name: visitor[name] for name in ("damage", "foreign", "stages", "logged")
        }


class PowerSweep(Sweep):
    """After the death the power goes as well; one case at a time, on one disk."""

    def __init__(self, directory: Path, nursery: Nursery, name: str, disk: PowerFail) -> None:
        self.disk, self.number, self.root = disk, 0, disk.path / "volume0"
        super().__init__(directory, [nursery], name)

    def _run(self, nursery: Nursery, name: str, injection: list[str]) -> tuple[Ended, Path]:
        shutil.rmtree(self.root, ignore_errors=True)
        # A new name each time: a cut may bring the old one back.
        self.number += 1
        root = self.root = self.disk.path / f"{self.name} {self.number}"
        shutil.copytree(self.template, root)
        log = self.directory / f"{name}.log"
        arguments = {"root": root, "scenario": self.name, "log": log, "injection": injection}
        ended = nursery(victim, **arguments, power=True)
        self.disk.cut()
        return ended, log

    def cuts(self, calls: Sequence[Call]) -> Result:
        """The power goes in each of *calls*, and once after the acknowledgement."""
        total = self.each(calls, "signal=KILL")
        told = self._one(0, Call("none", 0, "after it was told"), "signal=KILL")
        told.hits = told.outcomes.get("acknowledged", 0)
        total += told
        return total

    def _root(self, lane: int) -> Path:
        return self.root

    def _judge_visible(self, root: Path) -> None:
        """Each file is old or new or, having been made lately, absent; never empty or torn."""
        for path, old in self.scenario.old.items():
            file = root / path
            content = file.read_bytes() if file.exists() else None
            assert content in (old, self.scenario.new[path], None), f"{path} is torn"

    def _visit(self, lane: int, root: Path) -> dict[str, Any]:
        paths = sorted(self.scenario.old)
        found: dict[str, Any] = self.nurseries[lane](
            visit, root=root, paths=paths, power=True
        ).result
        return found
