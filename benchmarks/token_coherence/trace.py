"""Traces: what every agent will do at every step, drawn before anything runs.

One trace is replayed by every arm and by the model, so that arms differ in
nothing but how they read. The order of the draws is the published simulator's:
one generator, and for each agent of each step "does it act", "on which file",
"does it write". With the published seeds this gives the published runs.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.token_coherence.scenarios import Scenario

__all__ = ["Action", "Trace", "draw", "load", "save", "turns"]


class Action(NamedTuple):
    """One agent reads or writes one file."""

    agent: int
    file: int
    writes: bool


@dataclass(frozen=True)
class Trace:
    """All actions of one run, step by step, in the order of the agents."""

    agents: int
    sizes: tuple[int, ...]
    seed: int
    steps: tuple[tuple[Action, ...], ...]

    def of_agent(self, agent: int) -> list[Action | None]:
        """Return what *agent* does at each step; None: nothing."""
        return [next((a for a in step if a.agent == agent), None) for step in self.steps]

    @property
    def actions(self) -> int:
        """How many actions there are in all."""
        return sum(map(len, self.steps))


def draw(scenario: Scenario, seed: int) -> Trace:
    """Return the trace of *scenario* for one *seed*; the same for the same seed."""
    rng = random.Random(seed)
    files = range(len(scenario.sizes))
    weights = [1 / (rank + 1) ** scenario.zipf for rank in files]
    steps = []
    for _ in range(scenario.steps):
        step = []
        for agent in range(scenario.agents):
            if rng.random() >= scenario.activity:
                continue
            file = rng.choices(files, weights)[0] if scenario.zipf else rng.choice(files)
            step.append(Action(agent, file, rng.random() < scenario.volatility))
        steps.append(tuple(step))
    return Trace(scenario.agents, scenario.sizes, seed, tuple(steps))


def turns(agents: int, rounds: int, size: int) -> Trace:
    """Return a trace in which the agents write one file in turn, round after round."""
    steps = tuple((Action(agent, 0, True),) for _ in range(rounds) for agent in range(agents))
    return Trace(agents, (size,), 0, steps)


def save(trace: Trace, path: Path) -> None:
    """Write *trace* to a file that any process can replay."""
    document = {
        "agents": trace.agents,
        "sizes": trace.sizes,
        "seed": trace.seed,
        "steps": [[[a.agent, a.file, int(a.writes)] for a in step] for step in trace.steps],
    }
    path.write_text(json.dumps(document))


def load(path: Path) -> Trace:
    """Return the trace that ``save`` wrote."""
    found = json.loads(path.read_text())
    steps = tuple(
        tuple(Action(agent, file, bool(writes)) for agent, file, writes in step)
        for step in found["steps"]
    )
    return Trace(found["agents"], tuple(found["sizes"]), found["seed"], steps)
