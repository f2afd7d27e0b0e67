"""savings: what coherence spared the sessions, against two baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from cli.call import Common, Reply
from cli.place import opened
from cli.render import amount
from cli.tables import table
from coherent_volume import Savings, SessionSavings

__all__ = ["savings"]


def savings(common: Common) -> Reply:
    """A line for each session that read, and one for all."""
    with opened(common) as place:
        found = place.volume.savings()
    return Reply(asdict(found), lambda: _text(found))


def _text(found: Savings) -> str:
    if not found.sessions:
        return "no session has read anything yet\n"
    rows: Sequence[SessionSavings] = [*found.sessions, found.total]
    told = table(
        (
            "SESSION",
            "READS",
            "UNCHANGED",
            "HANDED OVER",
            "DEMAND",
            "SAVED",
            "TOKENS",
            "BROADCAST",
            "SAVED",
            "TOKENS",
        ),
        [
            (
                each.session or "in all",
                str(each.reads),
                str(each.unchanged),
                amount(each.handed_over),
                amount(each.demand),
                _share(each.saved_of_demand, each.demand),
                str(each.saved_tokens_of_demand),
                amount(each.broadcast),
                _share(each.saved_of_broadcast, each.broadcast),
                str(each.saved_tokens_of_broadcast),
            )
            for each in rows
        ],
    )
    return told + "".join(f"{line}\n" for line in found.method.split("; "))


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
