"""Random sessions at the other doors: the command line, and programs in a mount.

Recorded like those of ``workload``, and judged with them. A program in a mount
is told no numbers: what it saved is found by its content afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

from coherent_audit import ABSENT, Recorder, fingerprint
from tests.harness.command import COHERENT, REPOSITORY
from tests.harness.processes import say
from tests.harness.workload import FOREVER_S

__all__ = ["at_the_command_line", "in_a_mount"]

_CONFLICT, _NOT_FOUND, _EXISTS, _UNAVAILABLE, _NO_FILE = 75, 66, 73, 69, 2
_REFUSALS = {errno.EACCES, errno.ESTALE, errno.EAGAIN, errno.EEXIST}


class _Texts:
    """Texts that nobody else writes."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self._name, self._rng, self._number = name, rng, 0

    def new(self) -> bytes:
        self._number += 1
        line = f"{self._name} {os.getpid()} {self._number}\n".encode()
        return line * self._rng.choice([1, 1, 40])


# ── the command line ─────────────────────────────────────────────────────────


def at_the_command_line(
    root: str, log: str, seed: int, session: str, paths: list[str], seconds: float = FOREVER_S
) -> None:
    """Read and write with ``coherent``, one process for each step."""
    rng = random.Random(seed)
    texts, recorder = _Texts(session, rng), Recorder(log, session)
    in_hand: dict[str, str] = {}
    end = time.monotonic() + seconds
    say("ready")
    while time.monotonic() < end:
        path = rng.choice(paths)
        if path not in in_hand or rng.random() < 0.4:
            _read(root, session, recorder, path, in_hand)
        elif rng.random() < 0.8:
            _write(root, session, recorder, path, in_hand, texts.new())
        else:
            _append(root, session, recorder, path, texts.new())
    say("done")


def _coherent(
    root: str, session: str, *words: str, data: bytes = b""
) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [*COHERENT, *words, "--json"],
        input=data,
        capture_output=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COHERENT_SESSION": session},
        check=False,
    )
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


def _read(root: str, session: str, recorder: Recorder, path: str, in_hand: dict[str, str]) -> None:
    with recorder.operation("read", path) as learned:
        code, told = _coherent(root, session, "read", path)
        if code == 0:
            in_hand[path] = fingerprint(told["text"].encode())
            learned.update(content=in_hand[path], generation=told["generation"])
        elif code == _NOT_FOUND:
            in_hand[path] = ABSENT
            learned.update(content=ABSENT, generation=told.get("generation"))
        else:
            _refused(learned, code, told)


def _write(
    root: str,
    session: str,
    recorder: Recorder,
    path: str,
    in_hand: dict[str, str],
    data: bytes,
) -> None:
    content = fingerprint(data)
    with recorder.operation("commit", path, content=content, derived_from=in_hand[path]) as learned:
        verb = "create" if in_hand[path] == ABSENT else "write"
        code, told = _coherent(root, session, verb, path, data=data)
        if code == 0:
            learned.update(generation=told["generation"], base=told["base"])
            in_hand[path] = content
        else:
            _refused(learned, code, told)
            in_hand.pop(path)


def _append(root: str, session: str, recorder: Recorder, path: str, data: bytes) -> None:
    with recorder.operation("commit", path, repeats=True) as learned:
        code, told = _coherent(root, session, "append", path, data=data)
        if code == 0:
            learned.update(generation=told["generation"], base=told["base"])
        else:
            _refused(learned, code, told)


def _refused(learned: dict[str, Any], code: int, told: dict[str, Any]) -> None:
    learned["note"] = told["error"]
    if told["error"] == "UnconfirmedError":
        learned["outcome"] = "unknown"
    elif told.get("committed") is not None:
        learned["generation"] = told["committed"]
    else:
        assert code in (_CONFLICT, _NOT_FOUND, _EXISTS, _UNAVAILABLE, _NO_FILE), told
        learned["outcome"] = "refused"


# ── programs in a mount ──────────────────────────────────────────────────────


def in_a_mount(
    where: str, log: str, seed: int, session: str, paths: list[str], seconds: float = FOREVER_S
) -> None:
    """Read and save plain files, as programs do that never heard of the library."""
    rng = random.Random(seed)
    texts, recorder = _Texts(session, rng), Recorder(log, session)
    in_hand: dict[str, str] = {}
    end = time.monotonic() + seconds
    say("ready")
    while time.monotonic() < end:
        path = rng.choice(paths)
        if path not in in_hand or rng.random() < 0.4:
            with recorder.operation("read", path) as learned:
                content = _content(Path(where, path))
                if content is None:
                    learned["outcome"] = "refused"
                    continue
                learned["content"] = in_hand[path] = content
            # A read within a moment before its save proves nothing to the mount.
            time.sleep(rng.choice([0.0, 0.08]))
        else:
            _save(Path(where, path), recorder, path, in_hand, texts.new(), rng)
    say("done")


def _content(file: Path) -> str | None:
    try:
        return fingerprint(file.read_bytes())
    except FileNotFoundError:
        return ABSENT
    except OSError:
        return None


def _save(
    file: Path,
    recorder: Recorder,
    path: str,
    in_hand: dict[str, str],
    data: bytes,
    rng: random.Random,
) -> None:
    content = fingerprint(data)
    known = {"content": content, "derived_from": in_hand.pop(path)}
    with recorder.operation("commit", path, **known) as learned:
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        try:
            if rng.random() < 0.5:
                file.write_bytes(data)
            else:
                temporary.write_bytes(data)
                temporary.replace(file)
        except OSError as error:
            refused = error.errno in _REFUSALS
            learned.update(outcome="refused" if refused else "unknown", note=str(error.errno))
            with contextlib.suppress(OSError):
                temporary.unlink()
        else:
            in_hand[path] = content
