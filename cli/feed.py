"""notes, since, watch: what others did, once, from a token on, and as it happens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict

from cli.call import Common, Reply
from cli.place import current_directory, opened
from cli.render import amount, to_json
from cli.streams import emit
from cli.tables import table
from coherent_volume.answers import (
    FeedEntry,
    Note,
)
from coherent_volume.errors import OutsideRootError, printable

__all__ = ["notes", "since", "watch"]


def notes(common: Common) -> None:
    """What changed of what the session read; remembered once it was taken."""
    with opened(common) as place:
        found = place.volume.notes(remember=False)
        if common.json:
            emit(to_json({"notes": [asdict(each) for each in found]}, ok=True))
        else:
            emit("\n".join(_note(each) for each in found))
        # Not before: whoever closed the pipe has been told nothing.
        place.volume.told(found)


def _note(note: Note) -> str:
    by = ", ".join(printable(each) for each in note.by) or "somebody"
    deed = "deleted" if note.kind == "delete" else "changed"
    return (
        f"{printable(note.path)}: {deed} by {by}; you saw generation {note.seen},"
        f" current is {note.current} ({note.at})\n{note.diff}\n"
    )


def since(common: Common, token: str | None, limit: int | None) -> Reply:
    """The entries after *token*, and where to go on."""
    with opened(common) as place:
        found = place.volume.changes(token, limit)

    def text() -> str:
        lost = "" if found.complete else "Some entries in between are no longer kept.\n"
        rows = table(
            ("AT", "KIND", "PATH", "GENERATION", "SESSION", "SIZE", "DETAIL"),
            [
                (
                    each.at,
                    each.kind,
                    each.path,
                    str(each.generation),
                    each.session,
                    amount(each.size) if each.digest else "",
                    each.detail,
                )
                for each in found.entries
            ],
        )
        return f"{lost}{rows}token {found.token}\n"

    fields = {
        "entries": [asdict(each) for each in found.entries],
        "token": found.token,
        "complete": found.complete,
    }
    return Reply(fields, text)


def watch(
    common: Common,
    paths: Sequence[str],
    since: str | None,
    seconds: float | None,
    count: int | None,
) -> None:
    """Print entries as they come, each at once."""
    with opened(common) as place:
        patterns = [_pattern(path, place.volume.root) for path in paths]
        with place.volume.watch(patterns or None, since, seconds) as entries:
            for number, entry in enumerate(entries, 1):
                emit(to_json(asdict(entry), ok=True) if common.json else _line(entry))
                if number == count:
                    return


def _line(entry: FeedEntry) -> str:
    if entry.kind == "gap":
        return f"{entry.at}  some entries are no longer kept; going on from {entry.token}\n"
    what = f"generation {entry.generation}" if entry.generation or entry.digest else ""
    words = [entry.at, entry.kind, entry.path, what, entry.session, _detail(entry)]
    return "  ".join(printable(word) for word in words if word) + "\n"


def _detail(entry: FeedEntry) -> str:
    return "" if entry.kind == "foreign" else entry.detail


def _pattern(path: str, root: str) -> str:
    """*path*, relative to the working directory, as a pattern anchored at the root."""
    below = os.path.relpath(os.path.join(current_directory(), path), root)
    if below == "..":
        raise OutsideRootError("the path leads out of the volume's root", path=path)
    if below.startswith("../"):
        raise OutsideRootError("the path leads out of the volume's root", path=path)
    return "**" if below == "." else below
