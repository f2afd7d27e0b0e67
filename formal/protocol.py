"""The commit protocol as a transition function over small states: one artifact.

Owns the Python form of the model; ``Volume.tla`` is the other form, action by
action under the same names, and both must count the same states. Pure:
``successors`` lists every step that anybody could take next. A mutant is the
name of one deliberate break.
"""

from __future__ import annotations

from collections.abc import Iterator

from formal.state import (
    FOREIGN,
    NO_FILE,
    NO_INSTALL,
    NONE,
    UNSEEN,
    Bounds,
    Entry,
    File,
    Seen,
    State,
    Step,
    excusing,
    with_item,
)
from formal.world import crash, disk_steps, outside_steps

__all__ = ["successors"]


def successors(state: State, bounds: Bounds, mutant: str = "") -> Iterator[Step]:
    """Every state that one step leads to, with the step's name."""
    for session in range(1, bounds.sessions + 1):
        yield from _session_steps(state, session, bounds, mutant)
        yield from _gate_steps(state, session, mutant)
        yield from _commit_steps(state, session, mutant)
        yield from crash(state, session, bounds)
    yield from outside_steps(state, bounds, mutant)
    yield from disk_steps(state, bounds, mutant)


def _readable(state: State) -> bool:
    """Whether file and records agree, so that a read needs no gate."""
    settled = state.install == NO_INSTALL or not state.rebooted
    return settled and state.visible[0] == state.head.content


def _seen_now(state: State) -> Seen:
    return (state.generation, state.head.content, state.epoch, state.visible[1])


# ── a session outside the gate ───────────────────────────────────────────────


def _session_steps(state: State, session: int, bounds: Bounds, mutant: str) -> Iterator[Step]:
    at = state.at[session - 1]
    if at == "idle":
        if _readable(state) or mutant == "ReadMid":
            seen = _seen_now(state)
            if mutant == "ReadMid":
                seen = (seen[0], state.visible[0], seen[2], seen[3])
            if state.view[session - 1] != seen or session in state.taken:
                yield (
                    "FastRead",
                    state._replace(
                        view=with_item(state.view, session, seen), taken=state.taken - {session}
                    ),
                )
        if state.view[session - 1] != UNSEEN and state.commits < bounds.commits:
            for value in range(bounds.values):
                yield (
                    "Stage",
                    state._replace(
                        at=with_item(state.at, session, "staged"),
                        draft=with_item(state.draft, session, value),
                        commits=state.commits + 1,
                    ),
                )
    if state.gate == 0 or mutant == "NoGate":
        yield from _enterings(state, session, bounds)
    if state.owner[session - 1] == "live":
        # Its time is over, and the session does not know.
        yield "Expire", state._replace(owner=with_item(state.owner, session, "over"))
        if at == "idle" and state.gate == 0:
            owner = with_item(state.owner, session, "no")
            yield "Release", state._replace(owner=owner, lease=0)


def _enterings(state: State, session: int, bounds: Bounds) -> Iterator[Step]:
    at = state.at[session - 1]
    # An install that stays unfinished is taken to the gate, whatever is visible.
    if at == "idle" and (not _readable(state) or state.install != NO_INSTALL):
        yield "EnterToRead", _entered(state, session, "reading")
    if at == "idle" and state.leases < bounds.leases and state.owner[session - 1] != "live":
        entered = _entered(state, session, "leasing")
        yield "EnterToLease", entered._replace(leases=state.leases + 1)
    if at == "staged":
        yield "EnterToCommit", _entered(state, session, "committing")


def _entered(state: State, session: int, purpose: str) -> State:
    return state._replace(gate=session, at=with_item(state.at, session, purpose))


def _left(state: State, session: int, at: str = "idle") -> State:
    draft = state.draft if at == "staged" else with_item(state.draft, session, NONE)
    return state._replace(gate=0, at=with_item(state.at, session, at), draft=draft, checked=NONE)


# ── under the gate: recovery, then what the session came for ─────────────────

_PURPOSES = ("reading", "leasing", "committing", "putting back")


def _gate_steps(state: State, session: int, mutant: str) -> Iterator[Step]:
    at = state.at[session - 1]
    if at not in _PURPOSES:
        return
    busy = _left(state, session, "staged" if at == "committing" else "idle")
    open_outside = state.writer == state.visible[1] and mutant != "NoReadLease"
    if state.rebooted and mutant != "NoBoot":
        yield ("Busy", busy) if open_outside else ("RecoverAfterBoot", _after_boot(state))
    elif state.install != NO_INSTALL and mutant == "NoHealing":
        yield "RecoverInstall", state._replace(install=NO_INSTALL, stage=NO_FILE)
    elif state.install != NO_INSTALL:
        # Whoever puts back holds the editor's file already, and does not wait.
        waits = open_outside or _displaces_open_file(state)
        done = "RecoverInstall", _finish_install(state, mutant)
        yield ("Busy", busy) if waits and at != "putting back" else done
    elif state.visible[0] != state.head.content:
        yield ("Busy", busy) if open_outside else ("Adopt", _adopted(state, state.visible))
    else:
        yield from _settled_steps(state, session, mutant)


def _settled_steps(state: State, session: int, mutant: str) -> Iterator[Step]:
    at = state.at[session - 1]
    if at == "reading":
        view = with_item(state.view, session, _seen_now(state))
        read = _left(state, session)._replace(view=view, taken=state.taken - {session})
        yield "Read", read
    elif at == "leasing":
        yield "Lease", _leased(state, session, mutant)
    elif at == "putting back":
        yield "Raced", _left(state, session)
    else:
        yield from _judged(state, session, mutant)


def _adopted(state: State, file: File) -> State:
    """*file* is the next generation, made by the outside."""
    entry = Entry(file[0], 0, state.head.content, file[1])
    return state._replace(history=(*state.history, entry))


def _after_boot(state: State) -> State:
    """Inode numbers of another boot prove only what the records name."""
    known = state.recorded | {stamp for stamp in state.install if stamp != NONE}
    kept = state.kept
    if state.stage[1] >= FOREIGN and state.stage[1] not in known:
        kept |= {state.stage[1]}
    # Records are forgotten only after a flush of the directory: what is seen now may
    # be taken back by a second power loss.
    plain = state._replace(
        install=NO_INSTALL,
        stage=NO_FILE,
        recorded=frozenset(),
        past=frozenset(),
        rebooted=False,
        kept=kept,
    )
    ours = state.visible[1] in known
    if not known or state.visible[0] == state.head.content or not ours:
        return plain
    made_again = (state.head.content, state.generation)
    return plain._replace(
        visible=made_again, past=state.past | {(state.visible, NO_FILE)}, recorded=known
    )


def _finish_install(state: State, mutant: str) -> State:
    previous, staged = state.install
    if state.stage[1] == staged:
        if state.visible[1] == previous:
            return _exchanged(state)
        # Somebody edited meanwhile; our bytes are in the history.
        return state._replace(install=NO_INSTALL, stage=NO_FILE)
    if state.stage[1] == previous:
        return _displaced(state, mutant)._replace(install=NO_INSTALL)
    if _displaces_open_file(state):
        # Put back unpublished: it is adopted when its editor has closed it.
        return _exchanged(state)
    # What was displaced is a foreign edit that raced the install: it is published
    # on top, and goes back the way it came.
    adopted = _adopted(state, state.stage)
    return adopted._replace(
        install=(staged, state.stage[1]), recorded=state.recorded | {staged, state.stage[1]}
    )


def _displaces_open_file(state: State) -> bool:
    """Whether a foreign edit that was displaced is still being written."""
    return state.writer == state.stage[1] != NONE and state.stage[1] not in state.install


def _exchanged(state: State) -> State:
    # An exchange changes the time of change of both files, so what memory holds
    # of either proves nothing any more.
    both = (state.visible[1], state.stage[1])
    view = tuple((*seen[:3], NONE) if seen[3] in both else seen for seen in state.view)
    return state._replace(
        visible=state.stage,
        stage=state.visible,
        past=state.past | {(state.visible, state.stage)},
        view=view,
    )


def _displaced(state: State, mutant: str) -> State:
    """The staged place is empty; what was there goes, unless somebody has it open."""
    open_outside = state.writer != NONE and state.writer == state.stage[1]
    if open_outside and mutant != "NoSoleOpener":
        return state._replace(stage=NO_FILE, aside=state.stage)
    return state._replace(stage=NO_FILE)


def _leased(state: State, session: int, mutant: str) -> State:
    """The lease table names *session*, unless a live lease stands in the way."""
    holder = state.lease
    if holder and state.owner[holder - 1] == "live" and mutant != "TwoLeases":
        return _left(state, session)
    epoch, taken = state.epoch, state.taken
    if holder not in (0, session):
        taken |= {holder} if state.view[holder - 1] != UNSEEN else frozenset()
        if mutant != "NoBump":
            epoch += 1
    view = state.view
    generation, content, seen_epoch, stamp = view[session - 1]
    if generation != NONE and seen_epoch == state.epoch and content == state.head.content:
        # Current under the old epoch, so current under the new.
        view = with_item(view, session, (state.generation, content, epoch, stamp))
    return _left(state, session)._replace(
        lease=session,
        owner=with_item(state.owner, session, "live"),
        epoch=epoch,
        taken=taken,
        view=view,
    )


def _judged(state: State, session: int, mutant: str) -> Iterator[Step]:
    _, content, epoch, _ = state.view[session - 1]
    holder = state.lease
    excluded = holder not in (0, session) and state.owner[holder - 1] == "live"
    if state.writer == state.visible[1] and mutant != "NoReadLease":
        yield "Busy", _left(state, session, "staged")
    elif (
        (excluded and mutant != "IgnoreLease")
        or (epoch < state.epoch and mutant != "NoFence")
        or (content != state.head.content and mutant != "NoCAS")
    ):
        yield "Refuse", _left(state, session)
    else:
        at = with_item(state.at, session, "checked")
        # An outside write of the head's own bytes is in the history already.
        excused = excusing(state, state.visible[1])
        checked = state._replace(at=at, checked=state.visible[1], excused=excused)
        ours = 0 < state.visible[1] < FOREIGN
        # A file that is not ours may be in a directory that nobody has flushed: a
        # power loss would bring back what was there before it, of which no record
        # tells, and which would pass for an outside edit on top of the commit.
        flushed = checked if ours or mutant == "NoFlush" else checked._replace(past=frozenset())
        yield "Check", flushed


# ── a commit: publish, install, verify ───────────────────────────────────────


def _commit_steps(state: State, session: int, mutant: str) -> Iterator[Step]:
    at = state.at[session - 1]
    if at == "checked":
        generation = state.generation + 1
        draft = state.draft[session - 1]
        entry = Entry(draft, session, state.view[session - 1][1], generation)
        yield (
            "Publish",
            state._replace(
                history=(*state.history, entry),
                install=(state.checked, generation),
                stage=(draft, generation),
                recorded=state.recorded | {state.checked, generation},
                at=with_item(state.at, session, "published"),
                stale_apply=state.stale_apply or session in state.taken,
            ),
        )
    elif at == "published":
        yield "Exchange", _exchanged(state)._replace(at=with_item(state.at, session, "exchanged"))
    elif at == "exchanged":
        generation = state.generation
        told = state._replace(acknowledged=max(state.acknowledged, generation))
        if state.stage[1] == state.install[0] or mutant == "NoVerify":
            seen = (generation, state.draft[session - 1], state.epoch, NONE)
            done = _left(_displaced(told, mutant), session)._replace(install=NO_INSTALL)
            yield "Acknowledge", done._replace(view=with_item(state.view, session, seen))
        else:
            back = with_item(state.at, session, "putting back")
            yield "FindRace", told._replace(at=back, checked=NONE)
