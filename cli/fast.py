"""The grammar of the daily verbs, without typer.

A retry loop starts a process per step, and typer costs more than everything
else that such a process does. Only the plain and correct form of a command
line is recognised here; all others, every error included, are left to the
typer application, which stays the only place that explains. A test holds the
two grammars equal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from cli.call import Call, Common

__all__ = ["FORMS", "Form", "parse"]


class Form(NamedTuple):
    """How one verb is written: its positional arguments, then its own options.

    ``many`` takes any number of words, ``command`` at least one after ``--``.
    """

    required: tuple[str, ...] = ()
    optional: str | None = None
    many: str | None = None
    command: str | None = None
    options: dict[str, tuple[str, Any]] = {}  # noqa: RUF012 - never changed


_COMMON = {"--json": "json", "--root": "root", "--as": "session"}
_FROM = {"--from": ("source", None)}
_BASE = {"--base": ("base", None), "--overwrite": ("overwrite", False)}
_MERGE = {"--merge": ("merge", False)}
_RETRIES = {"--retries": ("retries", 0)}
_EMPTY = {"--allow-empty": ("allow_empty", False)}
_ENTRIES = {"-n": ("limit", None), "--limit": ("limit", None)}
_OBSERVE = {"--observe": ("observe", False)}
_LIMIT = {"-n": ("limit", 50), "--limit": ("limit", 50)}

FORMS = {
    "read": Form(("path",)),
    "write": Form(("path",), options={**_FROM, **_BASE, **_MERGE}),
    "create": Form(("path",), options=_FROM),
    "append": Form(("path",), options=_FROM),
    "rm": Form(("path",), options=_BASE),
    "mv": Form(("source", "target")),
    "update": Form(("path",), command="command", options=_EMPTY),
    "edit": Form(("path",), command="command"),
    "transaction": Form(many="paths", command="command", options=_RETRIES),
    "blame": Form(("path",)),
    "undo": Form(),
    "reacquire": Form(many="paths"),
    "status": Form(),
    "why": Form(("path",)),
    "log": Form(optional="path", options=_LIMIT),
    "session": Form(),
    "notes": Form(),
    "since": Form(optional="token", options=_ENTRIES),
    "run": Form(command="command", options={"--errno": ("errno", "EACCES"), **_OBSERVE}),
}
_FLAGS = frozenset({"allow_empty", "json", "merge", "observe", "overwrite"})
_NUMBERS = {"base": 0, "limit": 1, "retries": 0}  # and the least that each may be


def parse(words: Sequence[str]) -> Call | None:
    """The call that *words* mean, or None: ask the full parser."""
    if list(words) == ["--version"]:
        return Call("version", {}, Common())
    # The completion protocol speaks through an environment variable.
    form = FORMS.get(words[0]) if words and "_COHERENT_COMPLETE" not in os.environ else None
    if form is None:
        return None
    own, command = list(words[1:]), []
    if form.command is not None and "--" in own:
        cut = own.index("--")
        own, command = own[:cut], own[cut + 1 :]
    found = _split(own, {**_COMMON, **{flag: name for flag, (name, _) in form.options.items()}})
    arguments = None if found is None else _positional(form, found[0], command)
    if found is None or arguments is None:
        return None
    options = found[1]
    common = Common(**{name: options.pop(name) for name in _COMMON.values() if name in options})
    defaults = dict(form.options.values())
    return Call(words[0], {**arguments, **defaults, **options}, common)


def _positional(form: Form, words: list[str], command: list[str]) -> dict[str, Any] | None:
    """The positional arguments by name, or None when their number is wrong."""
    given = iter(words)
    arguments: dict[str, Any] = {}
    for name in form.required:
        arguments[name] = next(given, None)
        if arguments[name] is None:
            return None
    if form.optional is not None:
        arguments[form.optional] = next(given, None)
    if form.many is not None:
        arguments[form.many] = list(given)
    if form.command is not None:
        if not command:
            return None
        arguments[form.command] = command
    return None if next(given, None) is not None else arguments


def _split(words: list[str], known: dict[str, str]) -> tuple[list[str], dict[str, Any]] | None:
    """Positional words and options by name, or None for anything out of the plain."""
    positional: list[str] = []
    options: dict[str, Any] = {}
    remaining = iter(words)
    for word in remaining:
        if not word.startswith("-"):
            positional.append(word)
            continue
        name = known.get(word)
        if name is None or name in options:
            return None
        if name in _FLAGS:
            options[name] = True
            continue
        value = next(remaining, "-")
        if value.startswith("-"):
            return None
        if name in _NUMBERS:
            if not (value.isascii() and value.isdecimal() and len(value) <= 18):
                return None
            if int(value) < _NUMBERS[name]:
                return None
            options[name] = int(value)
        else:
            options[name] = value
    return positional, options
