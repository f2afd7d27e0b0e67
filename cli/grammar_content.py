"""The grammar of the verbs that read, write and derive artifacts."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.call import Call, Common
from cli.grammar import (
    CONTENT,
    DERIVE,
    BaseOption,
    CommandArgument,
    FromOption,
    JsonOption,
    MergeOption,
    OverwriteOption,
    PathArgument,
    RootOption,
    SessionOption,
    verb,
)

# ── read and write ───────────────────────────────────────────────────────────


@verb(CONTENT, "coherent read plans/plan.md > mine.md")
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


@verb(
    CONTENT,
    "coherent write plans/plan.md < mine.md",
    "coherent write plans/plan.md --from mine.md",
)
def write(
    path: PathArgument,
    source: FromOption = None,
    base: BaseOption = None,
    overwrite: OverwriteOption = False,
    merge: MergeOption = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Commit new content, if nobody committed since you read it.

    A name that was never used needs no read before.
    """
    arguments = {
        "path": path,
        "source": source,
        "base": base,
        "overwrite": overwrite,
        "merge": merge,
    }
    return Call("write", arguments, Common(json, root, session))


@verb(CONTENT, "coherent merge plans/plan.md --mine mine.md --base 3")
def merge(
    path: PathArgument,
    mine: Annotated[
        str,
        typer.Option("--mine", metavar="FILE", help="Your content, refused or not yet written."),
    ],
    base: BaseOption = None,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Merge your content with what is current, and commit it if the edits are disjoint.

    Without --base refused content is taken to be derived from what it was
    derived from when it was refused, and other content from what you read last.
    Edits of the same place are refused, and a copy of both is kept with
    conflict markers.
    """
    arguments = {"path": path, "mine": mine, "base": base}
    return Call("merge", arguments, Common(json, root, session))


@verb(CONTENT, "echo '# Plan' | coherent create plans/new.md")
def create(
    path: PathArgument,
    source: FromOption = None,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Commit a new file; of two creators exactly one succeeds."""
    return Call("create", {"path": path, "source": source}, Common(json, root, session))


@verb(CONTENT, "echo 'deployed' | coherent append plans/log.md")
def append(
    path: PathArgument,
    source: FromOption = None,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Add to the end of whatever is there; never conflicts."""
    return Call("append", {"path": path, "source": source}, Common(json, root, session))


@verb(CONTENT, "coherent rm plans/old.md")
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


@verb(CONTENT, "coherent mv plans/a.md plans/b.md")
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


@verb(DERIVE, "coherent update plans/plan.md -- sed 's/TODO/DONE/'")
def update(
    path: PathArgument,
    command: CommandArgument,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Let a command that prints nothing empty it.")
    ] = False,
    json: JsonOption = False,
    root: RootOption = None,
    session: SessionOption = None,
) -> Call:
    """Pass a file through a filter and commit the result, retried on conflict.

    CMD reads the content on standard input and prints the new content. If it
    fails nothing is written, and its status is passed on.
    """
    arguments = {"path": path, "command": command, "allow_empty": allow_empty}
    return Call("update", arguments, Common(json, root, session))


@verb(
    DERIVE,
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
