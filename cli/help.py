"""What help looks like: verbs in groups, usage as in a manual page, exit codes.

Plain text, the same on a terminal and in a pipe.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["EXIT_CODES", "CommandHelp", "GroupedHelp", "VerbHelp"]

EXIT_CODES = """\
\b
Exit codes, for scripts:
   0 done
   2 wrong usage, or not a managed regular file
  65 damaged: run coherent check --repair
  66 no such artifact
  69 unavailable: disk full, file system not supported, outcome unconfirmed
  70 internal error
  73 exists already
  74 standard input or output failed
  75 conflict or busy: read again, derive anew, retry
  77 outside the root, or not permitted
  78 wrong configuration
update, edit and transaction pass on the status of a command that fails.

\b
A retry loop:
  export COHERENT_SESSION=counter-$$
  until n=$(coherent read count) && echo $((n + 1)) | coherent write count
  do s=$?; [ $s -eq 75 ] || exit $s; done
"""


class GroupedHelp(TyperGroup):
    """Help that lists the verbs by group, one promise each, never cut short."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the list of verbs."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            group = str(getattr(command, "rich_help_panel", None) or "Commands")
            promise = (command.help or "").partition("\n")[0]
            groups.setdefault(group, []).append((name, promise))
        for group, rows in groups.items():
            with formatter.section(group):
                formatter.write_dl(rows)


class VerbHelp(TyperCommand):
    """A usage line as a manual page has it: ``coherent edit [OPTIONS] PATH -- CMD...``."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the words of the usage line that follow the verb."""
        names = [p.metavar or "" for p in self.params if p.param_type_name == "argument"]
        return ["[OPTIONS]", *names]


class CommandHelp(VerbHelp):
    """A verb whose list of paths ends at ``--``, where a command begins.

    The parser knows only one list of words for each verb; the words of the
    command reach it as values of the option ``--word``.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line that follow the verb."""
        return [*super().collect_usage_pieces(ctx), "-- CMD..."]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the command apart from the paths before parsing."""
        cut = args.index("--") if "--" in args else len(args)
        own, command = args[:cut], args[cut + 1 :]
        if not command and not {"--help", "-h"} & set(own):
            raise typer.BadParameter("Missing argument '-- CMD...'.", ctx=ctx)
        return super().parse_args(ctx, [*own, *(f"--word={word}" for word in command)])
