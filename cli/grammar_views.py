"""The grammar of the verbs that show who knows what."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.call import Call, Common
from cli.grammar import VIEW, JsonOption, PathArgument, RootOption, SessionOption, verb


@verb(VIEW, "coherent reacquire plans/plan.md")
def reacquire(
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH...]", hidden=True)] = None,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Take note of what peers changed; list the files that you must look at again."""
    return Call("reacquire", {"paths": paths or []}, Common(json, root, session))


@verb(VIEW, "coherent status")
def status(
    json: JsonOption = False, root: RootOption = None, session: SessionOption = None
) -> Call:
    """Show the volume: sessions, how far each is behind, refused content."""
    return Call("status", {}, Common(json, root, session))


@verb(VIEW, "coherent why plans/plan.md")
def why(
    path: PathArgument,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Explain the last refusal of a file: who changed what since you read it, and what to do."""
    return Call("why", {"path": path}, Common(json, root, session))


@verb(VIEW, "coherent log plans/plan.md -n 5")
def log(
    path: Annotated[str | None, typer.Argument(metavar="[PATH]", hidden=True)] = None,
    limit: Annotated[
        int,
        typer.Option(
            "-n", "--limit", min=1, max=2**63 - 1, metavar="N", help="At most N generations."
        ),
    ] = 50,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """List the generations, newest first: who made each, from which base."""
    return Call("log", {"path": path, "limit": limit}, Common(json, root, session))


@verb(VIEW, "coherent session", "coherent session --as bob")
def session(
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Say which session a command here speaks for, and by which rule.

    The first that is known: --as; the variable COHERENT_SESSION; the mark of an
    agent harness; a named ancestor process; the parent process.
    """
    return Call("session", {}, Common(json, root, session))
