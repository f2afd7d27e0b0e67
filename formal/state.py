"""What a state of the model holds: one artifact, its disk, its sessions, and the ghosts.

A file's identity (inode and time of change) is one number, its stamp: the
generation for a file that the library staged, ``FOREIGN + n`` for the n-th
write from outside, 0 for the first file.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "FOREIGN",
    "HALF",
    "NONE",
    "NO_FILE",
    "NO_INSTALL",
    "TORN",
    "UNSEEN",
    "Bounds",
    "Entry",
    "File",
    "Install",
    "Seen",
    "State",
    "Step",
    "excusing",
    "initial",
    "with_item",
]

FOREIGN = 100
TORN = -9
"""The content of a file that a power loss left half-written."""
HALF = -5
"""The content of a file that the outside has begun to write, and not finished."""
NONE = -1

File = tuple[int, int]
"""(content, stamp)."""
NO_FILE: File = (NONE, NONE)
Seen = tuple[int, int, int, int]
"""(generation, content, epoch, stamp of the file from which it was read)."""
UNSEEN: Seen = (NONE, NONE, NONE, NONE)
Install = tuple[int, int]
"""(stamp of the file to displace, stamp of the staged file)."""
NO_INSTALL: Install = (NONE, NONE)


class Bounds(NamedTuple):
    """How much may happen; every count is of events in one history."""

    sessions: int = 2
    values: int = 2
    commits: int = 2
    foreign: int = 1
    crashes: int = 1
    power_losses: int = 0
    leases: int = 0


class Entry(NamedTuple):
    """One generation: its content, by whom (0: outside), what its author had seen, its stamp."""

    content: int
    author: int
    seen: int
    stamp: int


class State(NamedTuple):
    """Everything there is; first what is on disk, then processes, then ghosts and counts."""

    history: tuple[Entry, ...]
    epoch: int
    install: Install
    stage: File
    visible: File
    past: frozenset[tuple[File, File]]
    """(visible, stage) as they were since the directory was last flushed."""
    recorded: frozenset[int]
    """Stamps in the install records that are not forgotten."""
    rebooted: bool
    gate: int
    at: tuple[str, ...]
    draft: tuple[int, ...]
    view: tuple[Seen, ...]
    checked: int
    """Stamp of the file that the gate's holder looked at, and has a read lease on."""
    lease: int
    """The session in the lease table, or 0."""
    owner: tuple[str, ...]
    """What became of each session's lease: no, live, over."""
    writer: int
    """Stamp of the file that an outside program has open for writing."""
    aside: File
    """A displaced file that is not disposed of, because the outside has it open."""
    taken: frozenset[int]
    """Ghost: sessions whose ownership was taken away and that have not read since."""
    stale_apply: bool
    """Ghost: such a session committed."""
    acknowledged: int
    """Ghost: the highest generation of which an author was told that it stands."""
    kept: frozenset[int]
    """Foreign stamps whose bytes were put aside."""
    excused: frozenset[int]
    """Ghost: foreign stamps that the outside itself, or a power loss, replaced."""
    commits: int
    foreign: int
    crashes: int
    power_losses: int
    leases: int

    @property
    def generation(self) -> int:
        """The current generation."""
        return len(self.history) - 1

    @property
    def head(self) -> Entry:
        """The current generation's entry."""
        return self.history[-1]


def initial(bounds: Bounds) -> State:
    """A file of content 0 that was never committed, and sessions that never looked."""
    count = bounds.sessions
    return State(
        history=(Entry(0, 0, NONE, 0),),
        epoch=0,
        install=NO_INSTALL,
        stage=NO_FILE,
        visible=(0, 0),
        past=frozenset(),
        recorded=frozenset(),
        rebooted=False,
        gate=0,
        at=("idle",) * count,
        draft=(NONE,) * count,
        view=(UNSEEN,) * count,
        checked=NONE,
        lease=0,
        owner=("no",) * count,
        writer=NONE,
        aside=NO_FILE,
        taken=frozenset(),
        stale_apply=False,
        acknowledged=0,
        kept=frozenset(),
        excused=frozenset(),
        commits=0,
        foreign=0,
        crashes=0,
        power_losses=0,
        leases=0,
    )


Step = tuple[str, State]
"""The name of a step, and the state that it leads to."""


def with_item(values: tuple[Any, ...], session: int, value: object) -> tuple[Any, ...]:
    """*values* with that of *session* (counted from 1) replaced."""
    return (*values[: session - 1], value, *values[session:])


def excusing(state: State, stamp: int) -> frozenset[int]:
    """What is excused when the outside, or equal content, takes the place of *stamp*."""
    known = {entry.stamp for entry in state.history} | state.kept
    return state.excused | {stamp} if stamp >= FOREIGN and stamp not in known else state.excused
