"""From a verb to the function that does it.

A verb opens the volume, makes one call of the library, and hands the value to
``render``. Its module is imported when it is run and not before: a command
that reads one file should not pay for the others.
"""

from __future__ import annotations

from importlib import import_module

from cli.call import Call, Reply

__all__ = ["MODULES", "run"]

MODULES = {
    "init": "setup",
    "version": "version",
    "demo": "demo",
    "read": "content",
    "write": "content",
    "merge": "content",
    "create": "content",
    "append": "content",
    "rm": "content",
    "mv": "content",
    "update": "derive",
    "edit": "derive",
    "reacquire": "views",
    "status": "views",
    "why": "views",
    "log": "views",
    "transaction": "transacting",
    "show": "history",
    "diff": "history",
    "blame": "history",
    "restore": "history",
    "undo": "history",
    "session": "views",
    "notes": "feed",
    "since": "feed",
    "watch": "feed",
    "lease": "leases",
    "top": "top",
    "metrics": "metrics",
    "savings": "savings",
    "check": "views",
    "verify": "verifying",
    "run": "mounts",
    "mount": "mounts",
    "unmount": "mounts",
    "mounts": "mounts",
}


def run(call: Call) -> Reply | None:
    """Do what *call* says; None when the verb has printed its output already."""
    module = import_module(f"cli.{MODULES[call.verb]}")
    reply: Reply | None = getattr(module, call.verb)(call.common, **call.arguments)
    return reply
