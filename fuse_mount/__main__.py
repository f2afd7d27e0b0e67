"""``python -m fuse_mount``: the serving process; started by the mount, not by hand."""

from __future__ import annotations

import sys

from fuse_mount.server import main

if __name__ == "__main__":
    sys.exit(main())
