"""One value to text or to JSON.

Prints nothing and decides nothing. Names and labels come from other parties,
so text shows them escaped; JSON carries them as they are, with undecodable
bytes as lone surrogates (``os.fsencode`` gives the bytes back).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from cli.call import Reply
from coherent_volume.errors import printable
from coherent_volume.model import Commit, MergedWith

__all__ = ["amount", "commit", "pairs", "paths", "plain", "to_json"]


def to_json(fields: dict[str, Any], *, ok: bool) -> str:
    """One JSON object on one line, ``ok`` first."""
    return json.dumps({"ok": ok, **fields}, default=_as_json) + "\n"


def _as_json(value: object) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


def plain(text: str) -> str:
    """*text*, perhaps of several lines, with every control character but the tab visible."""
    return "\n".join(
        # A tab is no danger, and lines of a diff are unreadable without theirs.
        "\t".join(map(printable, line.split("\t")))
        for line in text.split("\n")
    )


def commit(value: Commit, deed: str = "is") -> Reply:
    """A commit: "plan.md is generation 5"."""

    def text() -> str:
        line = f"{printable(value.path)} {deed} generation {value.generation}"
        if value.merged:
            line += f", merged with {_others(value.merged)}; read it before you write again"
        if not value.changed:
            line += " (unchanged)"
        if not value.installed:
            line += " (committed; the next visitor brings the visible file up to date)"
        return line + "\n"

    return Reply(asdict(value), text)


def _others(merged: Sequence[MergedWith]) -> str:
    """Whose commits they were: "generation 4 by bob"."""
    return ", ".join(
        f"generation {each.generation} by {printable(each.session)}" for each in merged
    )


def paths(found: Sequence[str], key: str) -> Reply:
    """A list of paths, one a line."""
    return Reply({key: list(found)}, lambda: "".join(f"{printable(path)}\n" for path in found))


def amount(size: int) -> str:
    """*size* bytes for people: "312 B", "1.2 kB", "40 MB"."""
    if size < 1000:
        return f"{size} B"
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        value, unit = value / 1000, larger
        if value < 999.5:
            break
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    found = list(rows)
    width = max(len(name) for name, _ in found)
    return "".join(f"{name:<{width}}  {printable(value)}".rstrip() + "\n" for name, value in found)
