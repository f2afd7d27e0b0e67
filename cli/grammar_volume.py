"""The grammar of the verbs about the volume itself."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.call import Call, Common
from cli.grammar import VOLUME, JsonOption, RootOption, SessionOption, verb


@verb(VOLUME, "coherent init --managed 'plans/**' --managed '!plans/drafts/**'")
def init(
    managed: Annotated[
        list[str] | None,
        typer.Option(
            "--managed", metavar="GLOB", help="Which files; as in .gitignore. Repeatable."
        ),
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option(
            "--durability",
            metavar="power|process",
            help="What a commit survives: a power loss, or kill -9.",
        ),
    ] = None,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Make this directory a volume; nothing in it is changed or copied.

    Without --managed every file below it is managed. In a volume that exists
    this shows its configuration, which is in .coherence/config.toml.
    """
    arguments = {"managed": managed or [], "durability": durability}
    return Call("init", arguments, Common(json, root, session))


@verb(VOLUME, "coherent check --repair")
def check(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Compare the records with the files and with themselves."""
    return Call("check", {"repair": repair}, Common(json, root, session))


@verb(VOLUME, "coherent verify", "coherent verify . run.log --explain")
def verify(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[VOLUME] [LOG...]", hidden=True)
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show the shortest history in which each violation shows."),
    ] = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Hold the volume's log, or a recorded run, against the guarantees.

    One line for each violation, and exit code 65 if there is one. Changes
    nothing. A LOG is a run as docs/VERIFY.md describes it; given a volume too,
    every commit that the run was told of must be there.
    """
    arguments = {"targets": targets or [], "explain": explain}
    return Call("verify", arguments, Common(json, root, session))


@verb(VOLUME, "coherent demo")
def demo(json: JsonOption = False, root: RootOption = None, session: SessionOption = None) -> Call:
    """Lose an update without the library, and keep it with the library.

    Works in a temporary directory, with real processes and real shells.
    """
    return Call("demo", {}, Common(json, root, session))


@verb(VOLUME, "coherent --version")
def version(
    json: JsonOption = False, root: RootOption = None, session: SessionOption = None
) -> Call:
    """Show the version."""
    return Call("version", {}, Common(json, root, session))
