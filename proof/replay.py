"""Replay a recorded run: the same commits, one after the other, must be accepted again.

    python -m proof.replay LOG...

The operations are put into one order that gives what everybody saw, and done in
that order in a new volume, by sessions of the same names. Each must be given
the generation that it was given then, and each read the same content. What a
run does not tell (edits from outside, what the killed had committed) is filled
in as an edit from outside when a number is due that nobody claimed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from coherent_audit import ABSENT, Access, Operation, load, replayable
from coherent_volume import CoherentVolume, NotFoundError

__all__ = ["Replay"]


class Replay:
    """One volume in which a run happens again."""

    def __init__(self, root: Path, operations: Sequence[Operation]) -> None:
        self.root = root
        self.run = replayable(operations)
        self.sessions: dict[str, CoherentVolume] = {}
        self.complaints: list[str] = []
        self.known: dict[tuple[str, int], str] = {}
        """By path and generation: the content that somebody was shown."""
        for each in self.run:
            for access in _accesses(each):
                if access.generation is not None and access.content is not None:
                    self.known[access.path, access.generation] = access.content
        self.outside = CoherentVolume(root, managed=("**",), durability="process", session="replay")

    def go(self) -> int:
        """Do everything again; how many operations that was."""
        for operation in self.run:
            try:
                self._again(operation)
            except (AssertionError, OSError) as error:
                self.complaints.append(f"{operation}: {error}")
                break
        for volume in (*self.sessions.values(), self.outside):
            volume.close()
        return len(self.run)

    def _again(self, operation: Operation) -> None:
        volume = self._session(operation.session)
        if operation.kind == "read":
            if operation.generation is not None:
                self._reach(operation.path, operation.generation)
                self._compare(volume, operation.path, operation.content)
            return
        # What an append left is known from those who read it.
        writes = [
            replace(a, content=a.content or self.known.get((a.path, a.generation)))
            for a in _writes(operation)
            if a.generation is not None
        ]
        for access in writes:
            self._reach(access.path, (access.generation or 1) - 1)
            self._see(volume, access.path)
        with volume.transaction() as tx:
            for access in writes:
                if access.content == ABSENT:
                    tx.delete(access.path)
                else:
                    tx.write(access.path, _bytes(access))
        given = {commit.path: commit.generation for commit in tx.commits}
        wanted = {access.path: access.generation for access in writes}
        assert given == wanted, f"was {wanted}, is {given} now"

    def _session(self, name: str) -> CoherentVolume:
        if name not in self.sessions:
            self.sessions[name] = CoherentVolume(self.root, session=name or None)
        return self.sessions[name]

    def _see(self, volume: CoherentVolume, path: str) -> int:
        try:
            return volume.observe(path).generation
        except NotFoundError as error:
            return error.fields["generation"] or 0

    def _compare(self, volume: CoherentVolume, path: str, content: str | None) -> None:
        try:
            found = volume.read(path)
        except NotFoundError:
            assert content == ABSENT, f"is absent now, and was {content}"
        else:
            wanted = Access(path, content=content)
            assert content is None or found == _bytes(wanted), "has other bytes now"

    def _reach(self, path: str, generation: int) -> None:
        """Fill in what nobody claimed, up to *generation*."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        here = self._see(self.outside, path)
        assert here <= generation, f"{path} is at {here} already"
        if generation == 0 and not file.exists() and self.known.get((path, 0), ABSENT) != ABSENT:
            file.write_bytes(_bytes(Access(path, content=self.known[path, 0])))
        while here < generation:
            content = self.known.get((path, here + 1), f"=filled in as {here + 1}")
            if content == ABSENT:
                self.outside.delete(path, overwrite=True)
            else:
                data = _bytes(Access(path, content=content))
                self.outside.write(path, data, overwrite=True)
            here += 1


def _writes(operation: Operation) -> tuple[Access, ...]:
    if operation.kind == "transaction":
        return operation.writes
    return (Access(operation.path, operation.generation, content=operation.content),)


def _accesses(operation: Operation) -> tuple[Access, ...]:
    return (*_writes(operation), *operation.reads)


def _bytes(access: Access) -> bytes:
    """Content that stands for a fingerprint: the text itself if it is one."""
    if access.content is None:
        return f"appended as {access.generation}".encode()
    return access.content.removeprefix("=").encode()


def main(logs: Sequence[str]) -> int:
    """Replay *logs* as one run; the exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        replay = Replay(Path(scratch), load(logs))
        done = replay.go()
    for complaint in replay.complaints:
        print(complaint)
    print(f"{done} operations, {'DIFFERENT' if replay.complaints else 'all as they were'}")
    return 1 if replay.complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
