"""show, diff, blame, restore, undo: looking back and bringing back."""

from __future__ import annotations

import base64
import re
import sys
from datetime import datetime
from importlib import import_module
from typing import Any, cast

from cli import render, reports_history
from cli.call import Common, Reply
from cli.limits import many_open_files
from cli.place import below_root, opened
from cli.streams import Output
from cli.tables import is_terminal, progress
from coherent_volume.difference import escaped
from coherent_volume.errors import UsageError

__all__ = ["blame", "diff", "restore", "show", "undo"]

_RELATIVE = re.compile(r"(\d{1,9})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def show(common: Common, path: str, generation: int) -> Reply | None:
    """Print the content of a kept generation."""
    where = below_root(path)
    with opened(common) as place:
        if not common.json:
            place.volume.read_at_to(where, generation, cast("Any", Output()))
            return None
        content = place.volume.read_at(where, generation)
    fields: dict[str, Any] = {"path": path, "generation": generation}
    try:
        fields["text"] = content.decode()
    except UnicodeDecodeError:
        fields["base64"] = base64.b64encode(content).decode("ascii")
    return Reply(fields, lambda: "")


def diff(common: Common, path: str, a: int | None, b: int | None) -> Reply | None:
    """Print a unified diff: as it is into a pipe, escaped on a terminal."""
    where = below_root(path)
    with opened(common) as place:
        text = place.volume.diff(where, a, b)
    if common.json:
        return Reply({"path": path, "diff": text}, lambda: text)
    output = Output()
    if is_terminal(sys.stdout):
        drawn: str = import_module("cli.terminal").diff(escaped(text))
        output.write(drawn.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
    else:
        # patch must get the very bytes.
        output.write(text.encode("utf-8", "surrogateescape"))
    output.flush()
    return None


def blame(common: Common, path: str) -> Reply:
    """Who brought in each line."""
    where = below_root(path)
    with opened(common) as place:
        return reports_history.blame(place.volume.blame(where))


def undo(common: Common) -> Reply:
    """Take back the last commit of this session."""
    with opened(common) as place, many_open_files():
        return reports_history.commits(place.volume.undo(), "undone")


def restore(
    common: Common,
    path: str | None,
    generation: int | None,
    since: str | None,
    by: str | None,
    dry_run: bool,
) -> Reply:
    """Bring back one generation of one file, or all that a session changed."""
    if since is None and by is None and not dry_run:
        if path is None or generation is None:
            raise UsageError(
                "say what to restore",
                advice="coherent restore PATH GENERATION, or --since TIME --by SESSION.",
            )
        where = below_root(path)
        with opened(common) as place:
            return render.commit(place.volume.restore(where, generation), "restored as")
    if since is None or by is None or path is not None:
        raise UsageError(
            "--since and --by go together, and without a PATH",
            advice="coherent restore --since TIME --by SESSION [--dry-run]",
        )
    when = _moment(since)
    with opened(common) as place, progress("restoring") as advance, many_open_files():
        done = place.volume.restore_since(when, by, dry_run=dry_run, progress=advance)
    return reports_history.restoration(done, dry_run=dry_run)


def _moment(text: str) -> datetime | float:
    relative = _RELATIVE.fullmatch(text)
    if relative:
        seconds = int(relative[1]) * _SECONDS[relative[2]]
        return datetime.now().astimezone().timestamp() - seconds
    try:
        # A time without a zone is the local one, as people write it.
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            "--since is not a time",
            advice="Write 90s, 10m, 2h, 3d, or ISO 8601 such as 2026-01-31T14:05.",
        ) from None
