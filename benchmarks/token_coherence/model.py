"""The published simulator, made anew from its description: it counts tokens, nothing runs.

Agents hold copies of artifacts; a directory says who is believed to hold one; a
write takes the peers' copies away by signals. Two oddities of the original can
be switched, because its figures need them:

* ``late_signals_kill``: a signal drops the copy that it finds, also one that was
  fetched after the write which the signal speaks of. Off: versions are compared.
* ``stranding``: a peer that a write has signalled counts as waiting, and a pushed
  update does not end that; after five steps it leaves the directory, so later
  updates pass it by. It shows with ``eager`` only.

``latency=0`` with both off is the synchronous model: what a layer that checks
versions at each read must cost. A writer's upload is never charged, a hit costs 0.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from benchmarks.token_coherence.trace import Trace

__all__ = [
    "EAGER",
    "NOTIFIED",
    "PAPER",
    "SIGNAL_TOKENS",
    "SYNCHRONOUS",
    "Model",
    "Rules",
    "Strategy",
    "Tally",
    "run",
]

SIGNAL_TOKENS = 12
PATIENCE_STEPS = 5
"""After so many steps a peer that is still waiting leaves the directory."""

Strategy = Literal["broadcast", "lazy", "eager", "lease", "access_count", "always_read"]


@dataclass(frozen=True)
class Rules:
    """How the copies are kept. ``ttl`` is in steps, ``uses`` in reads of one copy."""

    strategy: Strategy = "lazy"
    latency: int = 1
    late_signals_kill: bool = True
    stranding: bool = True
    ttl: int = 10
    uses: int = 8
    push_tokens: int | None = None
    """What a pushed update costs; None: the whole artifact."""


PAPER = Rules()
NOTIFIED = Rules(late_signals_kill=False, stranding=False)
"""Copies are trusted until the next step brings the signal; late signals are ignored."""
EAGER = Rules("eager", late_signals_kill=False, stranding=False)
"""As NOTIFIED, but the signal brings the content, to everybody who holds a copy."""
SYNCHRONOUS = Rules(latency=0, late_signals_kill=False, stranding=False)
"""Every read is validated."""


@dataclass
class Tally:
    """What a run came to. Hits and ``stale`` are of reads; misses of writes too."""

    reads: int = 0
    writes: int = 0
    hits: int = 0
    misses: int = 0
    stale: int = 0
    stale_bases: int = 0
    """Writes that started from a copy behind the artifact: lost updates."""
    signals: int = 0
    fetched: int = 0
    pushed: int = 0

    @property
    def tokens(self) -> int:
        """The cost: content fetched, content pushed, and signals."""
        return self.fetched + self.pushed + SIGNAL_TOKENS * self.signals

    @property
    def hit_rate(self) -> float:
        """The share of reads, not of writes, that a copy answered."""
        return self.hits / self.reads if self.reads else 0.0


@dataclass(slots=True)
class Copy:
    """An agent's copy of one artifact."""

    version: int
    since: int
    uses: int = 0
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Message:
    """A signal on its way; ``push`` brings the content, else it only invalidates."""

    sent: int
    to: int
    artifact: int
    version: int
    writer: int
    push: bool


class Model:
    """The state of one run. ``read`` and ``write`` are one agent's actions."""

    def __init__(self, agents: int, sizes: tuple[int, ...], rules: Rules) -> None:
        self.rules = rules
        self.tally = Tally()
        self.now = 0
        self._sizes = sizes
        self._agents = range(agents)
        self._version = [1] * len(sizes)
        self._copies: list[list[Copy | None]] = [[None] * len(sizes) for _ in self._agents]
        self._holders: list[set[int]] = [set() for _ in sizes]
        self._waiting: list[dict[int, int]] = [{} for _ in sizes]
        self._queue: deque[Message] = deque()

    # ── a step ───────────────────────────────────────────────────────────────

    def begin_step(self, now: int) -> None:
        """Deliver what was sent in earlier steps."""
        self.now = now
        while self._queue and self._queue[0].sent + self.rules.latency <= now:
            self._deliver(self._queue.popleft())

    def end_step(self) -> None:
        """Broadcast, where that is the strategy; let the stranded leave the directory."""
        if self.rules.strategy == "broadcast":
            for artifact, size in enumerate(self._sizes):
                for agent in self._agents:
                    self._hold(agent, artifact)
                    self.tally.pushed += size
        if self.rules.stranding:
            for artifact, waiting in enumerate(self._waiting):
                for agent in [a for a, at in waiting.items() if self.now - at >= PATIENCE_STEPS]:
                    self._holders[artifact].discard(agent)
                    del waiting[agent]

    # ── actions ──────────────────────────────────────────────────────────────

    def read(self, agent: int, artifact: int) -> None:
        """Answer a read from the agent's copy, or fetch."""
        self.tally.reads += 1
        copy = self._usable(agent, artifact)
        if copy is None:
            self._fetch(agent, artifact)
            return
        self.tally.hits += 1
        copy.uses += 1
        self.tally.stale += copy.version < self._version[artifact]

    def write(self, agent: int, artifact: int) -> None:
        """Fetch if need be, make a new version, and tell those who held the old one."""
        self.tally.writes += 1
        # Before the writer's own fetch: who fetches for this write is no peer of it.
        peers = sorted(self._holders[artifact] - {agent})
        copy = self._usable(agent, artifact)
        if copy is None:
            self._fetch(agent, artifact)
        else:
            self.tally.stale_bases += copy.version < self._version[artifact]
        for peer in self._holders[artifact] - {agent}:
            self._holders[artifact].discard(peer)
            self._waiting[artifact][peer] = self.now
        self._version[artifact] += 1
        self._hold(agent, artifact)
        if self.rules.strategy not in {"broadcast", "always_read"}:
            for peer in peers:
                self._signal(agent, peer, artifact)

    def _usable(self, agent: int, artifact: int) -> Copy | None:
        copy, rules = self._copies[agent][artifact], self.rules
        if copy is None or not copy.valid or rules.strategy == "always_read":
            return None
        if rules.strategy == "lease" and self.now >= copy.since + rules.ttl:
            return None
        if rules.strategy == "access_count" and copy.uses >= rules.uses:
            return None
        return copy

    def _fetch(self, agent: int, artifact: int) -> None:
        self.tally.misses += 1
        self.tally.fetched += self._sizes[artifact]
        self._hold(agent, artifact)

    def _hold(self, agent: int, artifact: int) -> None:
        self._copies[agent][artifact] = Copy(self._version[artifact], self.now)
        self._holders[artifact].add(agent)
        self._waiting[artifact].pop(agent, None)

    # ── signals ──────────────────────────────────────────────────────────────

    def _signal(self, writer: int, peer: int, artifact: int) -> None:
        push = self.rules.strategy == "eager"
        if push:
            cost = self.rules.push_tokens
            self.tally.pushed += self._sizes[artifact] if cost is None else cost
        else:
            self.tally.signals += 1
        message = Message(self.now, peer, artifact, self._version[artifact], writer, push)
        if self.rules.latency:
            self._queue.append(message)
        else:
            self._deliver(message)

    def _deliver(self, message: Message) -> None:
        artifact, agent = message.artifact, message.to
        copy = self._copies[agent][artifact]
        late = copy is not None and message.version <= copy.version
        if late and not self.rules.late_signals_kill:
            return
        if message.push:
            self._copies[agent][artifact] = Copy(message.version, self.now)
            self._holders[artifact] |= {agent, message.writer}
            if not self.rules.stranding:
                self._waiting[artifact].pop(agent, None)
            return
        if copy is not None:
            copy.valid = False
            copy.version = min(copy.version, message.version - 1)
        self._holders[artifact].discard(agent)
        self._waiting[artifact].pop(agent, None)


def run(trace: Trace, rules: Rules) -> Tally:
    """Replay *trace* under *rules*; after its last step nothing more is charged."""
    model = Model(trace.agents, trace.sizes, rules)
    for now, step in enumerate(trace.steps):
        model.begin_step(now)
        for action in step:
            if action.writes:
                model.write(action.agent, action.file)
            else:
                model.read(action.agent, action.file)
        model.end_step()
    return model.tally
