"""One agent: it replays its part of a trace on a real volume and writes down what it got.

The library is used through ``observe`` and ``write`` only, under the read policy of
the arm. Each answer becomes a line of the agent's own log: when the call began and
ended, which generation was seen or made, how many bytes were handed over. Nothing is
judged here.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ours import ConflictError, UnavailableError, await_listening, counted, open_volume
from benchmarks.token_coherence.arms import ARMS, Arm
from benchmarks.token_coherence.document import Document, parse
from benchmarks.token_coherence.edits import apply, edits
from benchmarks.token_coherence.scenarios import BYTES_PER_TOKEN
from benchmarks.token_coherence.trace import Action, Trace, load

__all__ = ["READY", "Job", "name_of", "replay"]

TRIES = 8
READY = "files/ready"
"""A file that is in no trace: whoever listens reads it before the run begins."""


@dataclass(frozen=True)
class Job:
    """One run for one agent. ``think_s``: mean pause when there are no barriers."""

    volume: str
    trace: str
    log: str
    agent: int
    arm: str
    lockstep: bool = True
    think_s: float = 0.001
    round_steps: int = 0


@dataclass
class Held:
    """An agent's copy: ``known`` is what the library called it."""

    known: Any
    generation: int
    data: bytes
    document: Document | None


def name_of(file: int) -> str:
    """The path of a trace's file below the volume's root."""
    return f"files/{file:03d}.md"


class Agent:
    """One session on the volume, its copies and its log."""

    def __init__(self, volume: Any, job: Job, trace: Trace) -> None:
        self._volume = volume
        self._number = job.agent
        self._arm: Arm = ARMS[job.arm]
        self._trace = trace
        self._held: dict[int, Held] = {}
        self.log: list[dict[str, Any]] = []

    # ── reading ──────────────────────────────────────────────────────────────

    def view(self, file: int, purpose: str) -> Held:
        """Return the copy to act on, read in the way of the arm."""
        held = self._held.get(file)
        if held is None or self._arm.reads == "always":
            return self._observe(file, None, purpose)
        if self._arm.reads == "validate":
            return self._observe(file, held, purpose)
        self._note(time.monotonic_ns(), "copy", file, held.generation, purpose=purpose)
        return held

    def _observe(self, file: int, held: Held | None, purpose: str) -> Held:
        begin = time.monotonic_ns()
        known = None if held is None else held.known
        observation = self._volume.observe(name_of(file), known=known)
        end = time.monotonic_ns()
        data: bytes | None = observation.data
        head = len(_head(observation))
        if data is None:
            assert held is not None
            self._note(begin, "unchanged", file, observation.generation, end, purpose, wire=head)
            self._held[file] = Held(observation, held.generation, held.data, held.document)
            return self._held[file]
        body = data
        if self._arm.delta and held is not None:
            delta = edits(held.data, data)
            assert apply(held.data, delta) == data
            body = min(delta, data, key=len)
        document = parse(data)
        self._note(
            begin,
            "content",
            file,
            observation.generation,
            end,
            purpose,
            wire=head + len(body),
            delivered=len(body),
            whole=document is not None,
            said=None if document is None else document.generation,
        )
        self._held[file] = Held(observation, observation.generation, data, document)
        return self._held[file]

    def refresh(self) -> None:
        """Read every file; the policy hands it over, whether it changed or not."""
        for file in range(len(self._trace.sizes)):
            self._observe(file, self._held.get(file), "refresh")

    def told(self) -> None:
        """Note what reached the agent besides replies: signals, and content nobody asked for."""
        found = counted(self._volume)
        signals = int(found.get("signals", 0))
        brought = int(found.get("prefetched_bytes", 0))
        unasked = brought - int(found.get("prefetch_hit_bytes", 0))
        line = json.dumps({"path": name_of(0), "generation": 10, "by": "process-10000-1000000"})
        self._note(
            time.monotonic_ns(),
            "told",
            -1,
            0,
            purpose="told",
            delivered=unasked,
            wire=unasked + signals * (len(line) + 1),
            prefetched=int(found.get("prefetches", 0)),
        )

    # ── writing ──────────────────────────────────────────────────────────────

    def write(self, file: int, step: int) -> None:
        """Commit a document derived from the copy; read again and redo it when refused."""
        held = self.view(file, "write")
        write = f"{self._number}.{step}"
        size = self._trace.sizes[file] * BYTES_PER_TOKEN
        for attempt in range(TRIES):
            if held.document is None:
                return  # torn: the log says so, and nothing is derived from it
            rng = random.Random(f"{self._trace.seed} {write} {attempt}")
            data = held.document.next_by(self._number, write, size, rng)
            if self._commit(file, held, data, write):
                return
            held = self._observe(file, held, "retry")
        now = time.monotonic_ns()
        self._note(now, "failed", file, held.generation, write=write)

    def _commit(self, file: int, held: Held, data: bytes, write: str) -> bool:
        begin = time.monotonic_ns()
        try:
            if self._arm.overwrites:
                commit = self._volume.write(name_of(file), data, overwrite=True)
            else:
                commit = self._volume.write(name_of(file), data, base=held.known)
        except (ConflictError, UnavailableError) as error:
            kind = "refused" if isinstance(error, ConflictError) else "busy"
            self._note(begin, kind, file, held.generation, write=write, upload=len(data))
            return False
        end = time.monotonic_ns()
        self._note(begin, "write", file, commit.generation, end, write=write, upload=len(data))
        self._held[file] = Held(commit, commit.generation, data, parse(data))
        return True

    def act(self, action: Action, step: int) -> None:
        """Do what the trace says."""
        if action.writes:
            self.write(action.file, step)
        else:
            self.view(action.file, "read")

    def _note(
        self,
        begin: int,
        kind: str,
        file: int,
        generation: int,
        end: int | None = None,
        purpose: str = "write",
        **more: Any,
    ) -> None:
        end = time.monotonic_ns() if end is None else end
        record = {"begin": begin, "end": end, "agent": self._number, "kind": kind}
        record |= {"file": file, "generation": generation, "purpose": purpose}
        self.log.append(record | more)


def _head(observation: Any) -> bytes:
    """What an answer carries besides content, if it were one line of JSON."""
    fields = {"path": observation.path, "generation": observation.generation}
    fields |= {"digest": observation.digest, "epoch": observation.epoch}
    return json.dumps(fields | {"unchanged": observation.data is None}).encode()


def replay(job: Job, barrier: Callable[[], object]) -> None:
    """Run *job* to its end; *barrier* returns when all agents have called it."""
    trace = load(Path(job.trace))
    rng = random.Random(f"{trace.seed} {job.agent}")
    arm = ARMS[job.arm]
    meet = barrier if job.lockstep else lambda: time.sleep(rng.expovariate(1 / job.think_s))
    with open_volume(Path(job.volume), reads=arm.policy) as volume:
        if arm.listens:
            await_listening(volume, READY)
        agent = Agent(volume, job, trace)
        barrier()
        for step, action in enumerate(trace.of_agent(job.agent)):
            if arm.refresh == "before each round" and step % job.round_steps == 0:
                agent.refresh()
            meet()
            if action is not None:
                agent.act(action, step)
            meet()
            if arm.refresh == "after each step":
                agent.refresh()
        barrier()
        if arm.listens:
            agent.told()
    with open(job.log, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in agent.log)
