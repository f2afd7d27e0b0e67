"""The grammar of transactions, and of the verbs that look back and bring back."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.call import Call, Common
from cli.grammar import (
    DERIVE,
    PAST,
    JsonOption,
    PathArgument,
    RootOption,
    SessionOption,
    verb,
)
from cli.help import CommandHelp

_Generation = typer.Argument(metavar="GENERATION", hidden=True, min=0, max=2**63 - 1)


@verb(
    DERIVE,
    "coherent transaction a.md b.md -- sh -c 'cat a.md >> b.md; rm a.md'",
    "coherent transaction --retries 8 from to -- ./move-one from to",
    cls=CommandHelp,
)
def transaction(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH...", hidden=True)] = None,
    command: Annotated[list[str] | None, typer.Option("--word", hidden=True)] = None,
    retries: Annotated[
        int,
        typer.Option("--retries", min=0, max=1000, metavar="N", help="Run CMD again on conflict."),
    ] = 0,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Let a command edit private copies of several files; commit all of it, or nothing.

    CMD runs in a private directory that holds only the PATHs. Whatever it
    changes, makes or removes there is committed at once, if none of the PATHs
    has changed meanwhile. If CMD fails nothing is written, and its status is
    passed on.
    """
    arguments = {"paths": paths or [], "retries": retries, "command": command or []}
    return Call("transaction", arguments, Common(json, root, session))


@verb(PAST, "coherent show plans/plan.md 3 > old.md")
def show(
    path: PathArgument,
    generation: Annotated[int, _Generation],
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Print a past generation; it does not count as having read the file."""
    return Call("show", {"path": path, "generation": generation}, Common(json, root, session))


@verb(PAST, "coherent diff plans/plan.md", "coherent diff plans/plan.md 3 5")
def diff(
    path: PathArgument,
    a: Annotated[
        int | None, typer.Argument(metavar="[A [B]]", hidden=True, min=0, max=2**63 - 1)
    ] = None,
    b: Annotated[int | None, typer.Argument(metavar="", hidden=True, min=0, max=2**63 - 1)] = None,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Print what changed from generation A to B, as a unified diff.

    Without B to the current generation; without A the newest change.
    """
    return Call("diff", {"path": path, "a": a, "b": b}, Common(json, root, session))


@verb(PAST, "coherent blame plans/plan.md")
def blame(
    path: PathArgument,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Print each line with the generation, session and time that brought it in."""
    return Call("blame", {"path": path}, Common(json, root, session))


@verb(
    PAST,
    "coherent restore plans/plan.md 3",
    "coherent restore --since 10m --by outside --dry-run",
)
def restore(
    path: Annotated[str | None, typer.Argument(metavar="[PATH", hidden=True)] = None,
    generation: Annotated[
        int | None, typer.Argument(metavar="GENERATION]", hidden=True, min=0, max=2**63 - 1)
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Undo what --by made since then: 10m, 2h, 3d, ISO 8601."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="SESSION", help='Whose work; "outside": other programs\'.'),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Bring a past generation back, as a new one; or undo all that a session did since.

    Files on which somebody else has built since are left alone and listed.
    """
    arguments = {
        "path": path,
        "generation": generation,
        "since": since,
        "by": by,
        "dry_run": dry_run,
    }
    return Call("restore", arguments, Common(json, root, session))


@verb(PAST, "coherent undo")
def undo(json: JsonOption = False, root: RootOption = None, session: SessionOption = None) -> Call:
    """Take back this session's last commit or transaction; once more to redo it."""
    return Call("undo", {}, Common(json, root, session))
