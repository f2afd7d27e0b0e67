"""The lost update, first without the library and then with it.

Real processes edit a real file in a temporary directory. Both read before
either writes; Alice saves first, Bob second. Exits with a status other than 0
if the first half loses nothing or the second half loses anything.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection

from coherent_volume import CoherentVolume, ConflictError

PLAN = "plan.md"
START = "# Plan\n"
LINES = {"alice": "- alice: write the parser\n", "bob": "- bob: write the tests\n"}


def with_plain_files(root: str, who: str, turn: Connection) -> None:
    """Read the plan, add a line, save: as every script does it."""
    with open(os.path.join(root, PLAN), encoding="utf-8") as file:
        text = file.read()
    turn.send("read")
    turn.recv()
    with open(os.path.join(root, PLAN), "w", encoding="utf-8") as file:
        file.write(text + LINES[who])
    turn.send(None)


def with_the_library(root: str, who: str, turn: Connection) -> None:
    """The same through a volume: a save of stale text is refused, so derive again."""
    with CoherentVolume(root, session=who) as volume:
        text = volume.read_text(PLAN)
        turn.send("read")
        turn.recv()
        refusal = None
        try:
            volume.write(PLAN, text + LINES[who])
        except ConflictError as error:
            refusal = f"{type(error).__name__}: {error}"
            stale = volume.reacquire(PLAN)
            refusal += f"\n(reacquired: {', '.join(stale)})"
            volume.write(PLAN, volume.read_text(PLAN) + LINES[who])
        turn.send(refusal)


def play(root: str, edit: Callable[[str, str, Connection], None]) -> tuple[str, str | None]:
    """Let both read, then Alice save, then Bob; the plan, and what Bob was told."""
    with open(os.path.join(root, PLAN), "w", encoding="utf-8") as file:
        file.write(START)
    if edit is with_the_library:
        CoherentVolume(root, managed=[PLAN]).close()
    spawn = multiprocessing.get_context("spawn")
    ours, actors = {}, []
    for who in LINES:
        ours[who], theirs = spawn.Pipe()
        actors.append(spawn.Process(target=edit, args=(root, who, theirs)))
        actors[-1].start()
        # Only the child keeps this end: if it dies, recv says so and does not wait.
        theirs.close()
        ours[who].recv()  # it has read
    told = {}
    for who in LINES:
        ours[who].send("your turn")
        told[who] = ours[who].recv()
    for actor in actors:
        actor.join()
    with open(os.path.join(root, PLAN), encoding="utf-8") as file:
        return file.read(), told["bob"]


def shown(text: str) -> str:
    """*text* set off from the story around it."""
    return "".join(f"    | {line}\n" for line in text.splitlines())


def main() -> int:
    """Tell both halves; 0 if each shows its point."""
    print("Alice and Bob both read plan.md. Alice saves her line, then Bob saves his.\n")
    with tempfile.TemporaryDirectory() as root:
        plain, _ = play(root, with_plain_files)
    lost = [who for who, line in LINES.items() if line not in plain]
    print(f"1. Plain files. Nobody is told of anything, and the plan is now:\n{shown(plain)}")
    print(f"   LOST: what {' and '.join(lost) or 'nobody'} wrote.\n")

    with tempfile.TemporaryDirectory() as root:
        kept, refusal = play(root, with_the_library)
    print(f"2. A coherent volume. Bob's save is refused:\n{shown(refusal or '(not refused)')}")
    print(f"   He derives his change anew, and the plan is now:\n{shown(kept)}")
    complete = all(kept.count(line) == 1 for line in LINES.values())
    print(f"   {'KEPT: both edits.' if complete else 'LOST: not both edits are there.'}")

    if not lost or not complete or refusal is None:
        print("\nThis run did not show what it should have shown.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
