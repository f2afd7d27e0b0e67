"""Runs: one arm on one trace in a fresh volume, audited; and the summary of several."""

from __future__ import annotations

import math
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from benchmarks.ours import make_volume
from benchmarks.token_coherence.agent import READY, Job, name_of
from benchmarks.token_coherence.arms import ARMS
from benchmarks.token_coherence.audit import Outcome, audit, read_logs
from benchmarks.token_coherence.crew import Crew
from benchmarks.token_coherence.document import first
from benchmarks.token_coherence.model import EAGER, NOTIFIED, SYNCHRONOUS, run
from benchmarks.token_coherence.scenarios import BYTES_PER_TOKEN, Scenario
from benchmarks.token_coherence.tables import broadcast_cost
from benchmarks.token_coherence.trace import Trace, draw, save

__all__ = ["Cell", "Laboratory", "broadcast_due", "workplace"]

COUNTED = (
    "reads",
    "writes",
    "content",
    "unchanged",
    "refused",
    "busy",
    "signals",
    "stale",
    "most_stale",
    "prefetched",
    "lost",
    "torn",
    "upload_bytes",
)


@contextmanager
def workplace() -> Iterator[Path]:
    """Yield a temporary directory, in memory where there is one; it goes with the block."""
    memory = Path("/dev/shm")  # noqa: S108 - a fresh directory with a random name is made in it
    where = memory if memory.is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="token-coherence-", dir=where))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True)
class Cell:
    """All runs of one arm on one scenario, each beside the model on the same trace."""

    scenario: Scenario
    arm: str
    mode: str
    outcomes: tuple[Outcome, ...]
    traces: tuple[Trace, ...]

    def mean(self, figure: Callable[[Outcome], float]) -> float:
        """Return the mean of one figure over the runs."""
        return fmean(map(figure, self.outcomes))

    def spread(self, figure: Callable[[Outcome], float]) -> float:
        """Return the standard deviation of one figure over the runs."""
        return pstdev(map(figure, self.outcomes))

    def modelled(self) -> float:
        """Return what the model of such copies makes of the same traces, in tokens."""
        arm = ARMS[self.arm]
        rules = {"eager": EAGER, "notified": NOTIFIED}.get(arm.policy, SYNCHRONOUS)
        return fmean(run(trace, rules).tokens for trace in self.traces)

    def faults(self) -> dict[str, int]:
        """Return what the arm must not show and did, summed over the runs."""
        sums = {n: sum(getattr(o, n) for o in self.outcomes) for n in ARMS[self.arm].faults}
        return {name: count for name, count in sums.items() if count}

    def latency_us(self, kind: str, quantile: float) -> float | None:
        """Return a quantile of the replies of one kind; None when there were none."""
        times = sorted(t for o in self.outcomes for t in o.latencies.get(kind, ()))
        return times[math.ceil(quantile * len(times)) - 1] if times else None

    def as_dict(self) -> dict[str, Any]:
        """Return the means, the faults and the latencies as plain values."""
        outcomes = self.outcomes
        kinds = ("unchanged", "content", "write", "refused")
        return {
            "scenario": self.scenario.name,
            "arm": self.arm,
            "mode": self.mode,
            "runs": len(self.outcomes),
            "seed": self.scenario.seed,
            "tokens": {
                "mean": self.mean(lambda o: o.tokens),
                "sd": self.spread(lambda o: o.tokens),
            },
            "wire_tokens": self.mean(lambda o: o.wire_tokens),
            "hit_rate": self.mean(lambda o: o.hit_rate),
            "model_tokens": self.modelled(),
            **{name: fmean(getattr(outcome, name) for outcome in outcomes) for name in COUNTED},
            "faults": self.faults(),
            "latency_us": {
                kind: {"p50": self.latency_us(kind, 0.5), "p99": self.latency_us(kind, 0.99)}
                for kind in kinds
                if self.latency_us(kind, 0.5) is not None
            },
        }


class Laboratory:
    """Where runs are made: a directory, and one crew at a time, kept while its size fits."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._crew: Crew | None = None
        self._agents = 0
        self._made = 0

    def cell(self, scenario: Scenario, arm: str, runs: int, mode: str = "lockstep") -> Cell:
        """Run *arm* on the first *runs* traces of *scenario*."""
        traces = tuple(draw(scenario, scenario.seed + number) for number in range(runs))
        outcomes = tuple(self.run(trace, arm, lockstep=mode == "lockstep") for trace in traces)
        return Cell(scenario, arm, mode, outcomes, traces)

    def run(
        self, trace: Trace, arm: str, *, lockstep: bool = True, round_steps: int = 0
    ) -> Outcome:
        """Replay one trace with one arm in a fresh volume, and audit it."""
        self._made += 1
        place = self._directory / f"{self._made:05d}"
        files = _lay_out(place / "volume", trace.sizes, trace.seed)
        save(trace, place / "trace.json")
        logs = [place / f"agent-{number}.log" for number in range(trace.agents)]
        jobs = [
            Job(
                str(place / "volume"),
                str(place / "trace.json"),
                str(log),
                number,
                arm,
                lockstep,
                round_steps=round_steps,
            )
            for number, log in enumerate(logs)
        ]
        self._crew_of(trace.agents).run(jobs)
        outcome = audit(ARMS[arm], trace.sizes, trace.agents, read_logs(logs), files)
        shutil.rmtree(place)
        return outcome

    def _crew_of(self, agents: int) -> Crew:
        if self._crew is None or self._agents != agents:
            self.close()
            self._crew, self._agents = Crew(agents), agents
        return self._crew

    def close(self) -> None:
        """End the agents' processes."""
        if self._crew is not None:
            self._crew.__exit__()
            self._crew = None


def _lay_out(volume: Path, sizes: Sequence[int], seed: int) -> list[Path]:
    """Make a volume in which every file is at generation 1."""
    rng = random.Random(seed)
    volume.mkdir(parents=True)
    (volume / "files").mkdir()
    with make_volume(volume, "process") as made:
        for file, size in enumerate(sizes):
            made.create(name_of(file), first(size * BYTES_PER_TOKEN, rng))
        made.create(READY, "")
    return [volume / name_of(file) for file in range(len(sizes))]


def broadcast_due(trace: Trace, outcome: Outcome) -> int:
    """Return what broadcast must cost, to the token; reads after refusals come on top."""
    return broadcast_cost(trace) + outcome.refused_tokens
