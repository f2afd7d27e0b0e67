"""The typer application, whole: every group of verbs, and the call that words mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

# Imported for what they register; the order is that of the groups in the help.
from cli import (  # noqa: F401
    grammar_content,
    grammar_feed,
    grammar_history,
    grammar_mount,
    grammar_views,
    grammar_volume,
)
from cli.call import PROGRAM, Call, CommandLineError, Common
from cli.grammar import app

__all__ = ["app", "parse"]


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> Call | None:
    """Edit files together without losing anybody's work.

    Every read is remembered, and a write is refused when a peer has committed
    since. A refusal says why and changes nothing; read again, derive your
    change anew, and write. A PATH is relative to the current directory.
    """
    if context.invoked_subcommand is not None:
        return None
    if version:
        return Call("version", {}, Common())
    typer.echo(context.get_help())
    return None


# What typer raises for a command line that does not parse. typer exports only
# this leaf of the family, whose home moved from one version to the next.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def parse(words: Sequence[str]) -> Call | None:
    """The call that *words* mean; None when help was printed instead."""
    command = typer.main.get_command(app)
    try:
        outcome = command.main(args=list(words), prog_name=PROGRAM, standalone_mode=False)
    except _UsageError as error:
        raise _wrong_usage(error, words) from error
    if isinstance(outcome, Call):
        return outcome
    if outcome:
        # The parser turns a Ctrl-C into its exit code; nothing else ends it so.
        raise KeyboardInterrupt
    return None


_ELSEWHERE_CALLED = {
    "cat": "read",
    "delete": "rm",
    "history": "log",
    "move": "mv",
    "observe": "read",
    "remove": "rm",
    "rename": "mv",
    "umount": "unmount",
}
"""What other tools, and the library, call a verb."""


def _wrong_usage(error: Any, words: Sequence[str]) -> CommandLineError:
    where = error.ctx.command_path if error.ctx is not None else PROGRAM
    first = words[0] if words else ""
    meant = _ELSEWHERE_CALLED.get(first)
    if meant is not None:
        return CommandLineError(f"No such command '{first}'.", f"Try: {PROGRAM} {meant} --help")
    if first.partition("=")[0] in ("--root", "--as", "--json"):
        return CommandLineError(
            f"{first} belongs after the verb.", f"For example: {PROGRAM} status {first} ..."
        )
    return CommandLineError(error.format_message(), f"Try: {where} --help")
