"""The grammar of the verbs that follow what others do, and of leases."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.call import Call, Common
from cli.grammar import FEED, JsonOption, PathArgument, RootOption, SessionOption, verb

_Limit = Annotated[
    int | None,
    typer.Option("-n", "--limit", min=1, max=2**63 - 1, metavar="N", help="At most N rows."),
]


@verb(FEED, "coherent notes")
def notes(json: JsonOption = False, root: RootOption = None, session: SessionOption = None) -> Call:
    """Tell what changed of the files that you read, once, with a short diff.

    It is no reading: read a file again before you write it.
    """
    return Call("notes", {}, Common(json, root, session))


@verb(FEED, "coherent since", "coherent since 5c0f1e2a-17")
def since(
    token: Annotated[str | None, typer.Argument(metavar="[TOKEN]", hidden=True)] = None,
    limit: _Limit = None,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """List what happened since a token, and the next token.

    Commits, edits from outside, leases and refusals, in one order. Without
    TOKEN only the token of now is printed.
    """
    return Call("since", {"token": token, "limit": limit}, Common(json, root, session))


@verb(FEED, "coherent watch", "coherent watch plans/plan.md --json", "coherent watch --count 1")
def watch(
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH...]", hidden=True)] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TOKEN", help="Begin after this token.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", help="End after this time.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", min=1, metavar="N", help="End after N entries.")
    ] = None,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Print what happens as it happens, until Ctrl-C; with --json an object a line.

    PATH may be a file, a directory or a pattern as in .gitignore. Meanwhile
    edits from outside are taken note of at once.
    """
    arguments = {"paths": paths or [], "since": since, "seconds": seconds, "count": count}
    return Call("watch", arguments, Common(json, root, session))


@verb(
    FEED,
    "coherent lease plans/plan.md --wait 60 -- ./rewrite-the-plan",
    "coherent lease plans/plan.md --ttl 120 --as planner",
    "coherent lease plans/plan.md --break",
)
def lease(  # noqa: PLR0913 - one for each option
    path: PathArgument,
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- CMD...]", hidden=True)] = None,
    ttl: Annotated[
        float, typer.Option("--ttl", metavar="SECONDS", help="How long it lasts unless renewed.")
    ] = 30.0,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="Wait for it at most this long.")
    ] = 0.0,
    release: Annotated[bool, typer.Option("--release", help="End your lease.")] = False,
    break_: Annotated[
        bool, typer.Option("--break", help="Take it from its holder, who is fenced.")
    ] = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Own a file for a while: nobody else commits to it.

    With CMD the lease is held and renewed while CMD runs, and the status of CMD
    is passed on. Without CMD it belongs to your session until its time is over
    or --release; asking again extends it.
    """
    arguments = {"path": path, "command": command or [], "ttl": ttl, "wait": wait}
    arguments |= {"release": release, "break_": break_}
    return Call("lease", arguments, Common(json, root, session))


@verb(FEED, "coherent top", "coherent top --once")
def top(
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, max=3600, metavar="SECONDS", help="Redraw.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Show sessions, hot files, refusals and leases live; q or Ctrl-C ends it."""
    return Call("top", {"interval": interval, "once": once}, Common(json, root, session))


@verb(FEED, "coherent metrics > /var/lib/node_exporter/coherent.prom")
def metrics(
    json: JsonOption = False, root: RootOption = None, session: SessionOption = None
) -> Call:
    """Print the counters of all sessions, in the text form of Prometheus."""
    return Call("metrics", {}, Common(json, root, session))


@verb(FEED, "coherent savings")
def savings(
    json: JsonOption = False, root: RootOption = None, session: SessionOption = None
) -> Call:
    """Show what sessions were not handed over because they knew it, in bytes and tokens.

    Against demand reading (each read hands over its content) and against broadcast
    (each read hands over all that the session has read). From the counters.
    """
    return Call("savings", {}, Common(json, root, session))
