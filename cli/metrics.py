"""metrics: the counters of all sessions, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from cli.call import Common, Reply
from cli.place import opened
from coherent_volume.answers import Metric
from coherent_volume.errors import printable
from coherent_volume.metrics import HELP

__all__ = ["metrics", "prometheus"]


def metrics(common: Common) -> Reply:
    """Every counter above zero."""
    with opened(common) as place:
        found = place.volume.metrics()
    return Reply({"metrics": [asdict(each) for each in found]}, lambda: prometheus(found))


def prometheus(found: Sequence[Metric]) -> str:
    """The text form: help, type and samples of each name."""
    lines = []
    for name, samples in groupby(sorted(found, key=lambda m: m.name), lambda m: m.name):
        lines.append(f"# HELP {name} {HELP.get(name, 'Counted by coherent-volume.')}\n")
        lines.append(f"# TYPE {name} counter\n")
        for each in samples:
            labels = [("session", each.session)]
            if each.reason:
                labels.append(("reason", each.reason))
            text = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels)
            lines.append(f"{name}{{{text}}} {each.value:.15g}\n")
    return "".join(lines)


def _escaped(value: str) -> str:
    """A label value: printable, because a terminal may show it, then as the format wants it."""
    return printable(value).replace("\\", "\\\\").replace('"', '\\"')
