"""What must hold in every state, and the breaks that must make it fall."""

from __future__ import annotations

from formal.state import FOREIGN, NO_INSTALL, NONE, UNSEEN, State

__all__ = ["INVARIANTS", "MUTANTS", "broken"]

MUTANTS = {
    "NoCAS": "NoLostUpdate",
    "NoGate": "SingleWriter",
    "TwoLeases": "SingleWriter",
    "IgnoreLease": "SingleWriter",
    "NoBump": "NoStaleApply",
    "NoFence": "NoStaleApply",
    "NormalSync": "MonotonicVersion",
    "NoFingerprint": "BoundedStaleness",
    "NoHealing": "NoMix",
    "NoBoot": "NoMix",
    "NoFlush": "NoMix",
    "ReadMid": "NoTornRead",
    "NoVerify": "NoForeignLost",
    "NoSoleOpener": "NoForeignLost",
    "NoReadLease": "NoTornRead",
}
"""Each deliberate break, and the invariant that must fall to it."""


def _single_writer(state: State, _: str) -> bool:
    """At most one session owns (E) or writes (M)."""
    writing = [
        session
        for session, (owner, at) in enumerate(zip(state.owner, state.at, strict=True), 1)
        if owner == "live" or at in ("published", "exchanged")
    ]
    return len(writing) <= 1


def _monotonic_version(state: State, _: str) -> bool:
    """No acknowledged generation and no seen one goes away."""
    return state.acknowledged <= state.generation and all(
        seen[0] <= state.generation for seen in state.view
    )


def _bounded_staleness(state: State, mutant: str) -> bool:
    """What memory would serve is no acknowledged commit behind."""
    return all(
        state.acknowledged <= seen[0]
        for seen in state.view
        if seen[3] != NONE and (seen[3] == state.visible[1] or mutant == "NoFingerprint")
    )


def _no_lost_update(state: State, _: str) -> bool:
    """Every author had seen the content that its commit replaced."""
    return all(
        new.author == 0 or new.seen == old.content
        for old, new in zip(state.history, state.history[1:], strict=False)
    )


def _no_stale_apply(state: State, _: str) -> bool:
    """Nobody commits after its ownership was taken away."""
    return not state.stale_apply


def _no_mix(state: State, _: str) -> bool:
    """At rest the file is the head's or the outside's; nothing of ours passes for foreign."""
    # A power loss may take back an outside edit that its editor did not flush.
    taken_back = state.power_losses > 0
    at_rest = state.gate == 0 and state.install == NO_INSTALL and not state.rebooted
    return (
        not at_rest
        or state.visible[0] == state.head.content
        or state.visible[1] >= FOREIGN
        or (taken_back and state.head.stamp >= FOREIGN)
    ) and all(
        new.author != 0 or new.stamp >= FOREIGN or (taken_back and old.stamp >= FOREIGN)
        for old, new in zip(state.history, state.history[1:], strict=False)
    )


def _no_torn_read(state: State, _: str) -> bool:
    """What a session saw is the generation that it was told, and none is half of anything."""
    return all(entry.content >= 0 for entry in state.history) and all(
        seen == UNSEEN or seen[0] > state.generation or state.history[seen[0]].content == seen[1]
        for seen in state.view
    )


def _no_foreign_lost(state: State, _: str) -> bool:
    """Every outside write is visible, staged, in the history, kept, or replaced by its like."""
    known = {entry.stamp for entry in state.history} | state.kept | state.excused
    known |= {state.visible[1], state.stage[1], state.aside[1]}
    return all(stamp in known for stamp in range(FOREIGN + 1, FOREIGN + state.foreign + 1))


INVARIANTS = {
    "SingleWriter": _single_writer,
    "MonotonicVersion": _monotonic_version,
    "BoundedStaleness": _bounded_staleness,
    "NoLostUpdate": _no_lost_update,
    "NoStaleApply": _no_stale_apply,
    "NoMix": _no_mix,
    "NoTornRead": _no_torn_read,
    "NoForeignLost": _no_foreign_lost,
}


def broken(state: State, names: tuple[str, ...], mutant: str = "") -> str | None:
    """The first of the named invariants that does not hold in *state*."""
    return next((name for name in names if not INVARIANTS[name](state, mutant)), None)
