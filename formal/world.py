"""Everything that happens to the protocol: outside editors, crashes, flushes, power losses."""

from __future__ import annotations

from collections.abc import Iterator

from formal.state import (
    FOREIGN,
    HALF,
    NO_FILE,
    NO_INSTALL,
    NONE,
    TORN,
    UNSEEN,
    Bounds,
    File,
    State,
    Step,
    excusing,
    with_item,
)

__all__ = ["crash", "disk_steps", "outside_steps"]


def crash(state: State, session: int, bounds: Bounds) -> Iterator[Step]:
    """The process of *session* dies, wherever it is; what it knew dies along."""
    alive = state.at[session - 1] != "idle" or state.view[session - 1] != UNSEEN
    if state.crashes < bounds.crashes and alive:
        dead = _dead(state, session)
        yield "Crash", dead._replace(crashes=state.crashes + 1)


def _dead(state: State, session: int) -> State:
    held = state.gate == session
    return state._replace(
        gate=0 if held else state.gate,
        checked=NONE if held else state.checked,
        at=with_item(state.at, session, "idle"),
        draft=with_item(state.draft, session, NONE),
        view=with_item(state.view, session, UNSEEN),
        owner=with_item(state.owner, session, "no"),
        taken=state.taken - {session},
    )


def outside_steps(state: State, bounds: Bounds, mutant: str) -> Iterator[Step]:
    """What programs do that never heard of us, and the disposal of what they had open."""
    stamp = FOREIGN + state.foreign + 1
    if state.foreign < bounds.foreign:
        for value in range(bounds.values):
            saved = state._replace(
                visible=(value, stamp),
                past=state.past | {(state.visible, state.stage)},
                foreign=state.foreign + 1,
                excused=excusing(state, state.visible[1]),
                # Whoever was writing the file that it replaces writes to nowhere,
                # and not because of us.
                writer=NONE if state.writer == state.visible[1] else state.writer,
            )
            yield "OutsideRename", saved
        # A read lease makes an opener wait.
        leased = state.checked == state.visible[1] and mutant != "NoReadLease"
        if state.writer == NONE and not leased:
            yield "OutsideOpen", state._replace(writer=state.visible[1])
        if state.writer != NONE and state.foreign + 1 < bounds.foreign:
            yield "OutsideBegin", _written(state, (HALF, stamp))
    if state.writer != NONE:
        for value in range(bounds.values):
            yield "OutsideWrite", _written(state, (value, stamp))._replace(writer=NONE)
    if state.aside != NO_FILE and state.writer != state.aside[1]:
        kept = state.kept | {state.aside[1]} if state.aside[1] >= FOREIGN else state.kept
        yield "Dispose", state._replace(aside=NO_FILE, kept=kept)


def _written(state: State, file: File) -> State:
    """The file that the outside has open becomes *file*, wherever it is by now."""
    excused = excusing(state, state.writer)
    after = state._replace(writer=file[1], foreign=state.foreign + 1, excused=excused)
    if state.visible[1] == state.writer:
        return after._replace(visible=file)
    if state.stage[1] == state.writer:
        return after._replace(stage=file)
    if state.aside[1] == state.writer:
        return after._replace(aside=file)
    return after


def disk_steps(state: State, bounds: Bounds, mutant: str) -> Iterator[Step]:
    """The directory is flushed, or the power goes."""
    flushable = state.gate == 0 and state.install == NO_INSTALL and not state.rebooted
    if flushable and (state.past or state.recorded):
        yield "Flush", state._replace(past=frozenset(), recorded=frozenset())
    if state.power_losses < bounds.power_losses:
        for visible, stage in {*state.past, (state.visible, state.stage)}:
            yield from _power_losses(state, visible, stage, mutant)


def _power_losses(state: State, visible: File, stage: File, mutant: str) -> Iterator[Step]:
    after = state
    for session in range(1, len(state.at) + 1):
        after = _dead(after, session)
    histories = [state.history]
    if mutant == "NormalSync" and state.generation > 0:
        histories.append(state.history[:-1])
    unflushed = visible[1] in state.recorded and visible[1] < FOREIGN
    for history in histories:
        for shown in [visible, (TORN, visible[1])] if unflushed else [visible]:
            present = {shown[1], stage[1]}
            lost = after.excused | {
                stamp
                for stamp in (state.visible[1], state.stage[1])
                if stamp >= FOREIGN and stamp not in present
            }
            yield (
                "PowerLoss",
                after._replace(
                    history=history,
                    visible=_survivor(shown),
                    stage=_survivor(stage),
                    aside=_survivor(state.aside),
                    past=frozenset(),
                    rebooted=True,
                    writer=NONE,
                    excused=frozenset(lost),
                    power_losses=state.power_losses + 1,
                ),
            )


def _survivor(file: File) -> File:
    """Half of an outside edit is a content like any other once its author is dead."""
    return (0, file[1]) if file[0] == HALF else file
