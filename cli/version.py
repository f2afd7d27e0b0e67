"""version: what is installed. Imports next to nothing, so that asking is cheap."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from cli.call import PROGRAM, Common, Reply

__all__ = ["version"]

_DISTRIBUTION = "coherent-volume"


def version(_common: Common) -> Reply:
    """The version of the distribution, and of the Python it runs on."""
    try:
        own = installed(_DISTRIBUTION)
    except PackageNotFoundError:
        # Run from a checkout that was never installed.
        own = "unknown"
    python = "{}.{}.{}".format(*sys.version_info)
    return Reply({"version": own, "python": python}, lambda: f"{PROGRAM} {own} (Python {python})\n")
