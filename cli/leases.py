"""lease: own a file for a while, alone or while a command runs."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cli.call import Common, Reply
from cli.exit_codes import COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND, SIGNAL_BASE
from cli.place import Place, below_root, opened
from cli.streams import warn
from coherent_volume import CoherenceError
from coherent_volume.answers import LeaseStatus
from coherent_volume.errors import FencedError, UsageError, printable
from coherent_volume.leasing import Lease

__all__ = ["lease"]


def lease(
    common: Common,
    path: str,
    command: list[str],
    ttl: float,
    wait: float,
    *,
    release: bool,
    break_: bool,
) -> Reply:
    """Grant, end or take away a lease, or hold one while *command* runs."""
    if release + break_ + bool(command) > 1:
        raise UsageError("--release, --break and a command exclude one another")
    where = below_root(path)
    with opened(common) as place:
        if break_:
            return _ended(path, place.volume.break_lease(where), "broken")
        if release:
            return _ended(path, place.volume.release_lease(where), "released")
        if command:
            return _held(place, path, where, command, ttl, wait)
        granted = place.volume.lease(where, ttl, wait, held=False)
        (found,) = [each for each in place.volume.leases() if each.path == granted.path]
        return _granted(found)


def _ended(path: str, done: bool, how: str) -> Reply:
    said = f"the lease is {how}" if done else "nobody holds a lease"
    return Reply({"path": path, how: done}, lambda: f"{printable(path)}: {said}\n")


def _granted(found: LeaseStatus) -> Reply:
    fields = {
        "path": found.path,
        "session": found.session,
        "epoch": found.epoch,
        "since": found.since,
        "until": found.until,
    }
    holder = printable(found.session)
    return Reply(
        fields, lambda: f"{printable(found.path)}: leased by {holder} until {found.until}\n"
    )


def _held(
    place: Place, path: str, where: str, command: list[str], ttl: float, wait: float
) -> Reply:
    with place.volume.lease(where, ttl, wait) as granted:
        with _renewed(granted, ttl) as lost:
            status = _run(place, path, command)
        if not lost:
            _renew(granted, ttl, lost)  # was it ours up to the end?
    for reason in lost:
        warn(f"{printable(path)}: the lease was lost while the command ran: {reason}")
    fields = {"path": granted.path, "session": granted.session, "epoch": granted.epoch}
    return Reply({**fields, "lost": bool(lost), "exit_code": status}, str, status)


def _renew(granted: Lease, ttl: float, lost: list[str]) -> None:
    try:
        granted.renew(ttl)
    except FencedError as error:
        lost.append(error.message)
    except CoherenceError:
        pass  # busy: there is time for two more tries


@contextmanager
def _renewed(granted: Lease, ttl: float) -> Iterator[list[str]]:
    """Renew the lease three times in its time; yields why it was lost, if it is."""
    lost: list[str] = []
    over = threading.Event()

    def renew() -> None:
        while not lost and not over.wait(ttl / 3):
            _renew(granted, ttl, lost)

    thread = threading.Thread(target=renew, name="coherent-lease", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()


def _run(place: Place, path: str, command: list[str]) -> int:
    """Run *command* in the name of this session; its status as a shell has it."""
    environment = dict(os.environ)
    if place.session.kind == "named":
        # What it commits is committed by the holder of the lease.
        environment["COHERENT_SESSION"] = place.session.name
    try:
        done = subprocess.run(command, check=False, env=environment)
    except FileNotFoundError:
        warn(f"{printable(path)}: the command {printable(command[0])} was not found")
        return COMMAND_NOT_FOUND
    except OSError as error:
        why = f"cannot be run: {error.strerror}"
        warn(f"{printable(path)}: the command {printable(command[0])} {why}")
        return COMMAND_NOT_EXECUTABLE
    return done.returncode if done.returncode >= 0 else SIGNAL_BASE - done.returncode
