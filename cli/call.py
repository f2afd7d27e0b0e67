"""What goes into a verb and what comes out: Call and Reply.

Parsing and running are kept apart, so that nothing of the parser's own error
handling ever surrounds a commit, and so that both parsers can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["PROGRAM", "Call", "CommandLineError", "Common", "Reply"]

PROGRAM = "coherent"


class Common(NamedTuple):
    """The options that every verb takes."""

    json: bool = False
    root: str | None = None
    session: str | None = None


class Call(NamedTuple):
    """One parsed command line."""

    verb: str
    arguments: dict[str, Any]
    common: Common


class Reply(NamedTuple):
    """What a verb has to say: ``fields`` for programs, ``text`` for people."""

    fields: dict[str, Any]
    text: Callable[[], str]
    status: int = 0


class CommandLineError(Exception):
    """The command line does not parse; ``advice`` names the help to read."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
