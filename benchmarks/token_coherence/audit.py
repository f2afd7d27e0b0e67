"""The checker: it judges a run from the agents' logs and the files that are left.

It uses nothing of the library. What it counts:

* *stale*: a read that returned an older generation than one whose write had
  ended before the read began.
* *lost*: acknowledged writes that are missing from the final file's ledger.
* *torn*: contents whose checksum fails; *mislabelled*: contents that say another
  generation of themselves than the library did.
* *too_stale*: stale reads of a generation whose successor had stood for longer than
  the policy lets a copy be trusted; *most_stale*: how long that was at most.
* *gaps*: generations of a file that were made twice or never.
* *signals*: copies that were made stale by a commit, as the published model
  charges them, and *predicted*: the misses that this model with no latency
  foresees when the log is replayed through it in the order of the generations.
* *bound*: each write spoils at most n-1 copies, so a file is handed over at most
  n + (n-1) writes times, and once more for each refusal.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.settings import FRESH_S
from benchmarks.token_coherence.arms import Arm
from benchmarks.token_coherence.document import parse
from benchmarks.token_coherence.model import SIGNAL_TOKENS, SYNCHRONOUS, Model
from benchmarks.token_coherence.scenarios import BYTES_PER_TOKEN

__all__ = ["Outcome", "audit", "read_logs"]

Record = dict[str, Any]
READS = frozenset({"content", "unchanged", "copy"})


@dataclass
class Outcome:
    """What one run came to. Times are in microseconds."""

    reads: int = 0
    hits: int = 0
    content: int = 0
    unchanged: int = 0
    writes: int = 0
    refused: int = 0
    busy: int = 0
    failed: int = 0
    delivered_bytes: int = 0
    wire_bytes: int = 0
    upload_bytes: int = 0
    signals: int = 0
    stale: int = 0
    too_stale: int = 0
    most_stale: float = 0.0
    """In milliseconds."""
    prefetched: int = 0
    lost: int = 0
    torn: int = 0
    mislabelled: int = 0
    gaps: int = 0
    predicted: int | None = None
    beyond_bound: int = 0
    refused_tokens: int = 0
    """What the reads after refusals handed over, in tokens."""
    latencies: dict[str, list[float]] = field(default_factory=dict)

    @property
    def tokens(self) -> float:
        """The cost as the published model counts it: content, and 12 for each signal."""
        return self.delivered_bytes / BYTES_PER_TOKEN + SIGNAL_TOKENS * self.signals

    @property
    def wire_tokens(self) -> float:
        """All that the replies carried, "unchanged" included."""
        return self.wire_bytes / BYTES_PER_TOKEN

    @property
    def hit_rate(self) -> float:
        """The share of reads that handed over no content."""
        return self.hits / self.reads if self.reads else 0.0

    @property
    def unpredicted(self) -> int:
        """How far the model's misses are from the measured ones; 0 where it foresees none."""
        return 0 if self.predicted is None else abs(self.content - self.predicted)


def read_logs(logs: Iterable[Path]) -> list[Record]:
    """Return the records of all agents, each agent's in its own order."""
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def audit(
    arm: Arm, sizes: Sequence[int], agents: int, records: list[Record], files: Sequence[Path]
) -> Outcome:
    """Judge one run of *arm*: its *records* and the *files* as they are left."""
    outcome = Outcome()
    _count(outcome, records)
    by_file: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        by_file[record["file"]].append(record)
    replayed = Model(agents, tuple(sizes), SYNCHRONOUS)
    caches = arm.reads == "validate"
    for file, path in enumerate(files):
        of_file = by_file[file]
        _stale(outcome, of_file)
        made = [record["generation"] for record in of_file if record["kind"] == "write"]
        outcome.gaps += len(set(range(2, len(made) + 2)) ^ set(made)) + len(made) - len(set(made))
        outcome.lost += _lost(of_file, path)
        outcome.torn += parse(path.read_bytes()) is None
        if caches:
            _replay(replayed, file, of_file)
            contents = [record for record in of_file if record["kind"] == "content"]
            retries = sum(record["purpose"] == "retry" for record in contents)
            allowed = agents + (agents - 1) * len(made) + retries
            outcome.beyond_bound += max(0, len(contents) - allowed)
    if caches:
        # Who is brought the content needs no signal besides.
        outcome.signals = 0 if arm.policy == "eager" else replayed.tally.signals
        outcome.predicted = replayed.tally.misses
    elif arm.reads == "always":
        outcome.predicted = outcome.content + outcome.unchanged
    if not arm.overwrites:
        outcome.mislabelled = sum(_mislabelled(record) for record in records)
    return outcome


def _count(outcome: Outcome, records: list[Record]) -> None:
    times: dict[str, list[float]] = defaultdict(list)
    for record in records:
        kind, purpose = record["kind"], record["purpose"]
        if kind != "copy":
            times[kind].append((record["end"] - record["begin"]) / 1000)
        outcome.content += kind == "content"
        outcome.unchanged += kind == "unchanged"
        outcome.reads += purpose == "read"
        outcome.hits += purpose == "read" and kind != "content"
        outcome.writes += kind == "write"
        outcome.refused += kind == "refused"
        outcome.busy += kind == "busy"
        outcome.failed += kind == "failed"
        outcome.torn += record.get("whole") is False
        outcome.delivered_bytes += record.get("delivered", 0)
        outcome.wire_bytes += record.get("wire", 0)
        outcome.upload_bytes += record.get("upload", 0)
        outcome.prefetched += record.get("prefetched", 0)
        if purpose == "retry":
            outcome.refused_tokens += record.get("delivered", 0) // BYTES_PER_TOKEN
    outcome.latencies = dict(times)


def _stale(outcome: Outcome, records: list[Record]) -> None:
    """Count reads older than a generation whose write had ended before they began."""
    ended = {r["generation"]: r["end"] for r in records if r["kind"] == "write"}
    in_order = sorted((end, generation) for generation, end in ended.items())
    newest = position = 0
    reads = [r for r in records if r["kind"] in READS and r["purpose"] != "refresh"]
    for record in sorted(reads, key=lambda r: r["begin"]):
        while position < len(in_order) and in_order[position][0] < record["begin"]:
            newest = max(newest, in_order[position][1])
            position += 1
        if record["generation"] >= newest:
            continue
        outcome.stale += 1
        # The next one may be somebody's whose write has not returned yet.
        later = [ended[g] for g in range(record["generation"] + 1, newest + 1) if g in ended]
        behind = (record["begin"] - min(later)) / 1e6
        outcome.most_stale = max(outcome.most_stale, behind)
        outcome.too_stale += behind > 1000 * FRESH_S


def _lost(records: list[Record], path: Path) -> int:
    left = parse(path.read_bytes())
    ledger = set(left.ledger) if left is not None else set()
    return sum(r["kind"] == "write" and r["write"] not in ledger for r in records)


def _mislabelled(record: Record) -> bool:
    return bool(record["kind"] == "content" and record["said"] != record["generation"])


def _replay(model: Model, file: int, records: list[Record]) -> None:
    """Replay what happened to one file: by generation, the write that made it before its reads.

    Among the reads of one generation their order changes nothing.
    """
    events = [r for r in records if r["kind"] in READS or r["kind"] == "write"]
    events.sort(key=lambda r: (r["generation"], r["kind"] != "write", r["begin"]))
    for record in events:
        act = model.write if record["kind"] == "write" else model.read
        act(record["agent"], file)
