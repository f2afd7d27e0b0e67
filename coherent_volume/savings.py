"""Savings: what was not handed over because it was known, beside two baselines.

Owns the arithmetic and its words; counts nothing itself and changes nothing. All
figures come from the meters, so they are indications like every metric: a process that
was killed, or that only read a little, has left none.

* *demand*: every read hands over the content that it asks for.
* *broadcast*: every read hands over all that its session has read in that process, as a
  prompt does that carries the shared files along. A weak baseline: demand is far below.
"""

from __future__ import annotations

from dataclasses import dataclass

from coherent_volume.metrics import metrics
from coherent_volume.parts import VolumeParts

__all__ = ["BYTES_PER_TOKEN", "METHOD", "Savings", "SessionSavings", "savings"]

BYTES_PER_TOKEN = 4
METHOD = (
    f"tokens are bytes divided by {BYTES_PER_TOKEN}, no tokenizer was asked;"
    " demand: each read hands over its content;"
    " broadcast: each read hands over all that the session has read in that process;"
    " content handed over again from memory is taken at the mean size of what was read"
)


@dataclass(frozen=True, slots=True)
class SessionSavings:
    """What one session was handed, in bytes, and what it would have been handed otherwise."""

    session: str
    reads: int
    unchanged: int
    """Reads that were answered with "unchanged"."""
    handed_over: int
    demand: int
    broadcast: int
    saved_of_demand: int
    saved_of_broadcast: int
    saved_tokens_of_demand: int
    saved_tokens_of_broadcast: int


@dataclass(frozen=True, slots=True)
class Savings:
    """What coherence spared, for each session that read, and in all."""

    sessions: tuple[SessionSavings, ...]
    total: SessionSavings
    method: str = METHOD
    bytes_per_token: int = BYTES_PER_TOKEN


_NAMES = {
    "coherent_read_hits_total": "hits",
    "coherent_read_misses_total": "misses",
    "coherent_read_bytes_total": "read",
    "coherent_repeated_bytes_total": "repeated",
    "coherent_unchanged_hit_bytes_total": "spared_in_memory",
    "coherent_unchanged_replies_total": "unchanged",
    "coherent_unchanged_saved_bytes_total": "spared",
    "coherent_broadcast_bytes_total": "broadcast",
}


def savings(parts: VolumeParts) -> Savings:
    """What the sessions of this volume were spared so far, by their own counters."""
    counted: dict[str, dict[str, float]] = {}
    total = dict.fromkeys(_NAMES.values(), 0.0)
    for metric in metrics(parts):
        name = _NAMES.get(metric.name)
        if name is not None:
            own = counted.setdefault(metric.session, dict.fromkeys(_NAMES.values(), 0.0))
            own[name] += metric.value
            total[name] += metric.value
    sessions = tuple(_of(session, found) for session, found in sorted(counted.items()))
    return Savings(sessions, _of("", total))


def _of(session: str, counted: dict[str, float]) -> SessionSavings:
    demand = round(counted["read"] + counted["repeated"] + counted["spared_in_memory"])
    spared = round(counted["spared"])
    handed_over = demand - spared
    # Never below demand: what is asked for is part of all that was read.
    broadcast = max(demand, round(counted["broadcast"]))
    return SessionSavings(
        session,
        round(counted["hits"] + counted["misses"]),
        round(counted["unchanged"]),
        handed_over,
        demand,
        broadcast,
        spared,
        broadcast - handed_over,
        round(spared / BYTES_PER_TOKEN),
        round((broadcast - handed_over) / BYTES_PER_TOKEN),
    )
