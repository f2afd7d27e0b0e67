"""The typer application: grammar and help of every verb.

Each command only turns its arguments into a Call; ``main`` runs it. So no
error handling of the parser ever surrounds a commit. Help is plain text,
grouped, and the same on a terminal and in a pipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer

from cli.call import PROGRAM, Call, CommandLineError, Common
from cli.help import EXIT_CODES, GroupedHelp, VerbHelp

__all__ = ["app", "parse"]

_Function = TypeVar("_Function", bound=Callable[..., Call])

_CONTENT, _DERIVE, _VIEW, _VOLUME = (
    "Read and write",
    "Derive new content with a command",
    "See who knows what",
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


def _verb(group: str, *examples: str) -> Callable[[_Function], _Function]:
    """Register the function as the verb of its name, in *group*, with *examples* below."""
    shown = "\n".join(f"  {line}" for line in examples)
    return app.command(cls=VerbHelp, rich_help_panel=group, epilog=f"\b\nExample:\n{shown}")


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


# ── read and write ───────────────────────────────────────────────────────────


@_verb(_CONTENT, "coherent read plans/plan.md > mine.md")
def read(
    path: PathArgument,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Print a file, and remember which generation you saw.

    The session counts as having seen it once all of the content was taken.
    """
    return Call("read", {"path": path}, Common(json, root, session))


@_verb(
    _CONTENT,
    "coherent write plans/plan.md < mine.md",
    "coherent write plans/plan.md --from mine.md",
)
def write(
    path: PathArgument,
    source: FromOption = None,
    base: BaseOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Commit new content, if nobody committed since you read it.

    A name that was never used needs no read before.
    """
    arguments = {"path": path, "source": source, "base": base, "overwrite": overwrite}
    return Call("write", arguments, Common(json, root, session))


@_verb(_CONTENT, "echo '# Plan' | coherent create plans/new.md")
def create(
    path: PathArgument,
    source: FromOption = None,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Commit a new file; of two creators exactly one succeeds."""
    return Call("create", {"path": path, "source": source}, Common(json, root, session))


@_verb(_CONTENT, "echo 'deployed' | coherent append plans/log.md")
def append(
    path: PathArgument,
    source: FromOption = None,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Add to the end of whatever is there; never conflicts."""
    return Call("append", {"path": path, "source": source}, Common(json, root, session))


@_verb(_CONTENT, "coherent rm plans/old.md")
def rm(
    path: PathArgument,
    base: BaseOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Delete a file, if nobody committed since you read it."""
    arguments = {"path": path, "base": base, "overwrite": overwrite}
    return Call("rm", arguments, Common(json, root, session))


@_verb(_CONTENT, "coherent mv plans/a.md plans/b.md")
def mv(
    source: Annotated[str, typer.Argument(metavar="FROM", hidden=True)],
    target: Annotated[str, typer.Argument(metavar="TO", hidden=True)],
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Give a file a new name, if nobody committed since you read it."""
    return Call("mv", {"source": source, "target": target}, Common(json, root, session))


# ── derive ───────────────────────────────────────────────────────────────────


@_verb(_DERIVE, "coherent update plans/plan.md -- sed 's/TODO/DONE/'")
def update(
    path: PathArgument,
    command: CommandArgument,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Pass a file through a filter and commit the result, retried on conflict.

    CMD reads the content on standard input and prints the new content. If it
    fails nothing is written, and its status is passed on.
    """
    return Call("update", {"path": path, "command": command}, Common(json, root, session))


@_verb(
    _DERIVE,
    "coherent edit plans/plan.md -- vim",
    "coherent edit plans/plan.md -- patch {} fix.diff",
)
def edit(
    path: PathArgument,
    command: CommandArgument,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Let a command edit a private copy, and commit it if the head stood still.

    {} in CMD stands for the path of the copy; without {} it comes last. If CMD
    fails nothing is written, and its status is passed on. On a conflict the
    edited content is kept, and the refusal says where.
    """
    return Call("edit", {"path": path, "command": command}, Common(json, root, session))


# ── views ────────────────────────────────────────────────────────────────────


@_verb(_VIEW, "coherent reacquire plans/plan.md")
def reacquire(
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH...]", hidden=True)] = None,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Take note of what peers changed; list the files that you must look at again."""
    return Call("reacquire", {"paths": paths or []}, Common(json, root, session))


@_verb(_VIEW, "coherent status")
def status(
    json: JsonOption = False, root: RootOption = None, session: SessionOption = None
) -> Call:
    """Show the volume: sessions, how far each is behind, refused content."""
    return Call("status", {}, Common(json, root, session))


@_verb(_VIEW, "coherent log plans/plan.md -n 5")
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


@_verb(_VIEW, "coherent session", "coherent session --as bob")
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


# ── the volume ───────────────────────────────────────────────────────────────


@_verb(_VOLUME, "coherent init --managed 'plans/**' --managed '!plans/drafts/**'")
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


@_verb(_VOLUME, "coherent check --repair")
def check(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Compare the records with the files and with themselves."""
    return Call("check", {"repair": repair}, Common(json, root, session))


@_verb(_VOLUME, "coherent demo")
def demo(json: JsonOption = False, root: RootOption = None, session: SessionOption = None) -> Call:
    """Lose an update without the library, and keep it with the library.

    Works in a temporary directory, with real processes and real shells.
    """
    return Call("demo", {}, Common(json, root, session))


@_verb(_VOLUME, "coherent --version")
def version(
    json: JsonOption = False, root: RootOption = None, session: SessionOption = None
) -> Call:
    """Show the version."""
    return Call("version", {}, Common(json, root, session))


# ── parsing ──────────────────────────────────────────────────────────────────

# What typer raises for a command line that does not parse. typer exports only
# this leaf of the family, whose home moved from one version to the next.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def parse(words: Sequence[str]) -> Call | None:
    """The call that *words* mean; None when help was printed instead."""
    command = typer.main.get_command(app)
    try:
        outcome = command.main(args=list(words), prog_name=PROGRAM, standalone_mode=False)
    except _UsageError as error:
        raise _wrong_usage(error) from error
    if isinstance(outcome, Call):
        return outcome
    if outcome:
        # The parser turns a Ctrl-C into its exit code; nothing else ends it so.
        raise KeyboardInterrupt
    return None


def _wrong_usage(error: Any) -> CommandLineError:
    where = error.ctx.command_path if error.ctx is not None else PROGRAM
    return CommandLineError(error.format_message(), f"Try: {where} --help")
