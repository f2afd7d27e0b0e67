"""The real ``coherent`` command, as a process, and real shells that call it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Command", "Done", "on_a_terminal", "shell"]

REPOSITORY = Path(__file__).resolve().parent.parent.parent

# -P: a directory named "cli" where the command happens to run is not ours.
COHERENT = [sys.executable, "-P", "-m", "cli"]


@dataclass(frozen=True)
class Done:
    """How a command ended: ``code`` is negative when a signal ended it."""

    code: int
    out: bytes
    err: str

    def json(self) -> dict[str, Any]:
        """The one JSON object on one line that it printed."""
        assert self.out.endswith(b"\n"), self
        assert self.out.count(b"\n") == 1, self
        value: dict[str, Any] = json.loads(self.out)
        return value

    @property
    def text(self) -> str:
        """Its standard output as text."""
        return self.out.decode()


class Command:
    """``coherent`` in one directory, in the name of one session.

    ``session=None`` leaves it to the command to find out who it is.
    """

    def __init__(self, where: Path, session: str | None = None) -> None:
        self.where = where
        self.session = session

    def __call__(
        self,
        *words: str | bytes | Path,
        input: bytes | str = b"",  # noqa: A002 - as subprocess calls it
        **environment: str,
    ) -> Done:
        """Run one command to its end."""
        data = input.encode() if isinstance(input, str) else input
        done = subprocess.run(
            [*COHERENT, *words],
            input=data,
            capture_output=True,
            cwd=self.where,
            env=self.environment(**environment),
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def start(self, *words: str | bytes | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start one command and go on; *options* as for Popen."""
        settings = {
            "args": [*COHERENT, *words],
            "cwd": self.where,
            "env": self.environment(),
            **options,
        }
        return subprocess.Popen(**settings)

    def ok(self, *words: str | bytes | Path, input: bytes | str = b"") -> Done:  # noqa: A002
        """Run one command that must succeed in silence on standard error."""
        done = self(*words, input=input)
        assert (done.code, done.err) == (0, ""), done
        return done

    def environment(self, **more: str) -> dict[str, str]:
        """What the command finds in its environment."""
        found = {**os.environ, "PYTHONPATH": str(REPOSITORY), **more}
        if self.session is not None:
            found.setdefault("COHERENT_SESSION", self.session)
        return found


@contextmanager
def shell(scratch: Path, where: Path, script: str, name: str = "bash") -> Iterator[Any]:
    """A real shell that runs *script* with ``coherent`` on its PATH."""
    programs = scratch / "bin"
    programs.mkdir(exist_ok=True)
    program = programs / "coherent"
    # exec: the command's parent is the calling shell, as with an installed one.
    if not program.exists():
        program.write_text(f'#!/bin/sh\nexec {shlex.join(COHERENT)} "$@"\n')
        program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    popen = subprocess.Popen(
        [name, "-c", script],
        cwd=where,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield popen
    finally:
        popen.kill()
        popen.communicate()


def on_a_terminal(command: Command, *words: str, **environment: str) -> str:
    """What *words* print when standard output and error are a terminal."""
    controller, terminal = os.openpty()
    with command.start(
        *words,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        env=command.environment(TERM="xterm-256color", COLUMNS="100", **environment),
    ) as popen:
        os.close(terminal)
        pieces = []
        while True:
            try:
                piece = os.read(controller, 65536)
            except OSError:  # the kernel's way to say that the other end is closed
                break
            if not piece:
                break
            pieces.append(piece)
        popen.wait()
    os.close(controller)
    return b"".join(pieces).decode()
