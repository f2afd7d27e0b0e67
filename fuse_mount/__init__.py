"""The FUSE mount, which brings tools that never heard of the library under its rules.

``mount`` shows a volume at a second path where every save is judged as one
session's; ``run`` starts a command that sees the volume so at its own path. The
modules, from the kernel down to the rules: ``workers`` (threads), ``kernel``
(messages), ``passthrough`` (files that the kernel reads by itself), ``view``,
``fenced_names``, ``fenced_files``, ``fenced_reading``, ``managed`` (what programs
see), ``fence``, ``claims``, ``credit`` (decisions), ``working`` (uncommitted
content), ``tree``, ``handles``, ``nodes`` (plain files).
"""

from __future__ import annotations

from fuse_mount.mounting import Mount, MountInfo, mount, mounts, unmount

__all__ = ["Mount", "MountInfo", "mount", "mounts", "unmount"]
