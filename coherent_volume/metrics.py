"""Metrics: the counters as others read them, by their public names.

Owns the names, which follow the conventions of Prometheus, and what each one
counts. Adds what this process has not written yet, so that a caller always
finds its own deeds. Changes nothing.
"""

from __future__ import annotations

from coherent_volume import meters
from coherent_volume.answers import Metric
from coherent_volume.parts import VolumeParts

__all__ = ["HELP", "REFUSALS", "metrics"]

REFUSALS = "coherent_refusals_total"
_NAMES = {
    "commits": "coherent_commits_total",
    "refusals": REFUSALS,
    "merges": "coherent_merges_total",
    "foreign_edits": "coherent_foreign_edits_total",
    "lease_waits": "coherent_lease_waits_total",
    "lease_wait_seconds": "coherent_lease_wait_seconds_total",
    "read_hits": "coherent_read_hits_total",
    "read_misses": "coherent_read_misses_total",
    "read_bytes": "coherent_read_bytes_total",
    "unchanged_replies": "coherent_unchanged_replies_total",
    "unchanged_bytes_saved": "coherent_unchanged_saved_bytes_total",
    "repeated_bytes": "coherent_repeated_bytes_total",
    "unchanged_hit_bytes": "coherent_unchanged_hit_bytes_total",
    "broadcast_bytes": "coherent_broadcast_bytes_total",
    "signals": "coherent_signals_total",
    "late_signals": "coherent_late_signals_total",
    "stale_hits": "coherent_stale_hits_total",
    "prefetches": "coherent_prefetches_total",
    "prefetched_bytes": "coherent_prefetched_bytes_total",
    "prefetch_hits": "coherent_prefetch_hits_total",
    "prefetch_hit_bytes": "coherent_prefetch_hit_bytes_total",
    "retries": "coherent_retries_total",
}
HELP = {
    "coherent_commits_total": "Generations that sessions committed.",
    REFUSALS: "Writes that were refused, by reason.",
    "coherent_merges_total": "Commits that were merged with those of peers.",
    "coherent_foreign_edits_total": "Edits from outside that the session adopted.",
    "coherent_lease_waits_total": "Leases that had to be waited for.",
    "coherent_lease_wait_seconds_total": "Time spent waiting for leases.",
    "coherent_read_hits_total": "Reads that memory answered.",
    "coherent_read_misses_total": "Reads that opened the file.",
    "coherent_read_bytes_total": "Content read from files.",
    "coherent_unchanged_replies_total": "Reads that were answered with unchanged.",
    "coherent_unchanged_saved_bytes_total": "Content that unchanged replies did not repeat.",
    "coherent_repeated_bytes_total": "Content that memory handed over again (mean size).",
    "coherent_unchanged_hit_bytes_total": "Of what unchanged spared, what was in memory.",
    "coherent_broadcast_bytes_total": "What reads would bring if each brought all that was read.",
    "coherent_signals_total": "Entries of the feed that made a trusted copy old.",
    "coherent_late_signals_total": "Entries of the feed that were no news to a trusted copy.",
    "coherent_stale_hits_total": "Reads from a trusted copy after its successor was made.",
    "coherent_prefetches_total": "Contents that the feed brought before they were asked for.",
    "coherent_prefetched_bytes_total": "Content that the feed brought before it was asked for.",
    "coherent_prefetch_hits_total": "Reads that what the feed had brought answered.",
    "coherent_prefetch_hit_bytes_total": "Of what the feed had brought, what was asked for.",
    "coherent_retries_total": "Tries of an update or append that a conflict made vain.",
}


def metrics(parts: VolumeParts) -> tuple[Metric, ...]:
    """Every counter above zero, by name, session and reason."""
    found = {
        (name, session, label): value
        for session, name, label, value in meters.sums(parts.sidecar.database)
    }
    for (name, label), value in parts.meters.counts().items():
        key = (name, parts.session.name, label)
        found[key] = found.get(key, 0) + value
    return tuple(
        Metric(_NAMES.get(name, f"coherent_{name}_total"), session, value, label)
        for (name, session, label), value in sorted(found.items())
    )
