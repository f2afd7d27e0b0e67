"""What every verb of the typer application is made of: the app, shared options, groups.

Each command only turns its arguments into a Call; ``main`` runs it. So no
error handling of the parser ever surrounds a commit. Help is plain text,
grouped, and the same on a terminal and in a pipe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from cli.call import Call
from cli.help import EXIT_CODES, GroupedHelp, VerbHelp

__all__ = [
    "CONTENT",
    "DERIVE",
    "FEED",
    "PAST",
    "VIEW",
    "VOLUME",
    "BaseOption",
    "CommandArgument",
    "FromOption",
    "JsonOption",
    "MergeOption",
    "OverwriteOption",
    "PathArgument",
    "RootOption",
    "SessionOption",
    "app",
    "verb",
]

_Function = TypeVar("_Function", bound=Callable[..., Call])

CONTENT, DERIVE, PAST, VIEW, FEED, VOLUME = (
    "Read and write",
    "Derive new content with a command",
    "Look back and bring back",
    "See who knows what",
    "Work side by side",
    "The volume",
)

app = typer.Typer(
    cls=GroupedHelp,
    # None, so that typer never imports rich: no boxes, no colour, and 40 ms less.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog=EXIT_CODES,
)


def verb(
    group: str, *examples: str, cls: type[VerbHelp] = VerbHelp
) -> Callable[[_Function], _Function]:
    """Register the function as the verb of its name, in *group*, with *examples* below."""
    shown = "\n".join(f"  {line}" for line in examples)
    return app.command(cls=cls, rich_help_panel=group, epilog=f"\b\nExample:\n{shown}")


# Hidden: the usage line and the text name them, a list would only repeat it.
PathArgument = Annotated[str, typer.Argument(metavar="PATH", hidden=True)]
CommandArgument = Annotated[list[str], typer.Argument(metavar="-- CMD...", hidden=True)]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="FILE", help="Take the content from FILE.")
]
BaseOption = Annotated[
    int | None,
    typer.Option(
        "--base",
        min=0,
        max=2**63 - 1,
        metavar="GENERATION",
        help="Derived from this generation, whatever the session saw.",
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the head unseen; nobody's edit is checked for.")
]
MergeOption = Annotated[
    bool, typer.Option("--merge", help="If it is stale, merge it where the edits are disjoint.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
RootOption = Annotated[
    str | None,
    typer.Option(
        "--root", metavar="DIR", help="The volume; default: the nearest directory upwards."
    ),
]
SessionOption = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Speak for this session; see coherent session."),
]
