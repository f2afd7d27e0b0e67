"""Which process stands behind a request: /proc, looked at while the caller waits.

The number in a request is a thread's, and 0 when the kernel itself asks.
"""

from __future__ import annotations

import os
import time

from coherent_volume.identity import process_identity

__all__ = ["group_of", "keeps_writable", "process_of", "start_of"]

_GROUP_S = 1.0
_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")
_GROUPS_MAX = 4096
_LOOKED_AT_MAX = 256
_REMOVED = b" (deleted)"

_groups: dict[int, tuple[float, int]] = {}
_starts: dict[int, tuple[float, int]] = {}


def process_of(thread: int) -> tuple[int, str]:
    """(process, name of the program); (0, "") when nobody can be found."""
    try:
        descriptor = os.open(f"/proc/{thread}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return thread, ""
    try:
        lines = os.read(descriptor, 512).split(b"\n")
    except OSError:
        return thread, ""
    finally:
        os.close(descriptor)
    process = thread
    for line in lines:
        if line.startswith(b"Tgid:"):
            process = int(line[5:])
            break
    return process, os.fsdecode(lines[0].partition(b"\t")[2])


def group_of(thread: int) -> int:
    """The process of a thread that asks often; a number is not given away within a second."""
    now = time.monotonic()
    until, process = _groups.get(thread, (0.0, 0))
    if until > now:
        return process
    process, _ = process_of(thread)
    if len(_groups) >= _GROUPS_MAX:
        _groups.clear()
    _groups[thread] = (now + _GROUP_S, process)
    return process


def start_of(process: int) -> int:
    """When *process* began, in nanoseconds since the boot; 0 when that is not known any more.

    Looked up once a second: a number is not given away within that time.
    """
    if process == 0:
        return 0  # all callers that have no number are taken for one program
    now = time.monotonic()
    until, start = _starts.get(process, (0.0, 0))
    if until > now:
        return start
    found = process_identity(process)
    if len(_starts) >= _GROUPS_MAX:
        _starts.clear()
    start = found.started * _TICK_NS if found else 0
    if start:
        _starts[process] = (now + _GROUP_S, start)
    return start


def keeps_writable(process: int, key: bytes, inode: int) -> bool:
    """Whether *process* has another descriptor open for writing to the file *key*.

    A shell that redirects several commands to one file closes a descriptor for
    each of them; the save is done when the last one is closed. Who has more than
    ``_LOOKED_AT_MAX`` descriptors is taken for one that duplicates none: to look at all
    of them at each close would take it hours to close them. *inode* is the number
    under which the file is shown. The name alone would not do: other files end with it as
    well, and that of a file which the kernel looked up again is called deleted.
    """
    folder = f"/proc/{process}/fd"
    ending = b"/" + os.path.basename(key)
    try:
        # Their count; 0 where the kernel does not tell it.
        if os.stat(folder).st_size > _LOOKED_AT_MAX:
            return False
        numbers = os.listdir(folder)
    except OSError:
        return False  # it is ending, or it is another user's
    for number in numbers if len(numbers) <= _LOOKED_AT_MAX else ():
        try:
            link = os.fsencode(os.readlink(f"{folder}/{number}"))
            if not link.removesuffix(_REMOVED).endswith(ending):
                continue
            with open(f"/proc/{process}/fdinfo/{number}", "rb") as file:
                known = dict(line.split(b":", 1) for line in file.read().splitlines())
        except OSError:
            continue
        # Linux before 5.14 does not tell the inode.
        if (
            int(known.get(b"flags", b"0"), 8) & os.O_ACCMODE != os.O_RDONLY
            and int(known.get(b"ino", b"%d" % inode)) == inode
        ):
            return True
    return False
