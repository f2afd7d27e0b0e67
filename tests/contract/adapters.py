"""Ways to a volume, all with the same verbs: the library, the command, and both mounts.

An adapter acts for one session. Whatever its way calls a refusal, it raises one of
the four errors below, so that a case of the contract need not know which way it was.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coherent_volume import CoherentVolume, errors
from tests.harness.command import Command
from tests.harness.mounted import mounts_of, why_not

__all__ = ["ADAPTERS", "AbsentError", "Adapter", "ExistsError", "LeasedError", "RefusedError"]


class RefusedError(Exception):
    """A save that somebody else's newer content stands against."""


class LeasedError(Exception):
    """A peer owns the artifact for the moment."""


class AbsentError(Exception):
    """There is no such artifact."""


class ExistsError(Exception):
    """There is one already."""


class Adapter(abc.ABC):
    """One session's way to the artifacts of a volume."""

    @abc.abstractmethod
    def read(self, path: str) -> bytes: ...

    @abc.abstractmethod
    def create(self, path: str, data: bytes) -> None: ...

    @abc.abstractmethod
    def write(self, path: str, data: bytes) -> None: ...

    @abc.abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """As ``write``, by the way whose refused content is kept."""

    @abc.abstractmethod
    def append(self, path: str, data: bytes) -> None: ...

    @abc.abstractmethod
    def edit(self, path: str, old: bytes, new: bytes) -> None:
        """Read, change and write at once, as an editing tool does."""

    @abc.abstractmethod
    def delete(self, path: str) -> None: ...

    @abc.abstractmethod
    def rename(self, source: str, target: str) -> None: ...

    @abc.abstractmethod
    def undo(self) -> None: ...

    @abc.abstractmethod
    def why(self, path: str) -> str: ...


class Library(Adapter):
    """Calls of CoherentVolume."""

    def __init__(self, root: Path) -> None:
        self._volume = CoherentVolume(root, session="alice")

    def _do(self, act: Callable[..., object], *words: object):
        try:
            return act(*words)
        except errors.AlreadyExistsError as error:
            raise ExistsError from error
        except errors.LeasedError as error:
            raise LeasedError from error
        except errors.NotFoundError as error:
            raise AbsentError from error
        except errors.ConflictError as error:
            raise RefusedError(str(error)) from error

    def read(self, path):
        return self._do(self._volume.read, path)

    def create(self, path, data):
        self._do(self._volume.create, path, data)

    def write(self, path, data):
        self._do(self._volume.write, path, data)

    def replace(self, path, data):
        self.write(path, data)

    def append(self, path, data):
        self._do(self._volume.append, path, data)

    def edit(self, path, old, new):
        self._do(self._volume.update, path, lambda data: data.replace(old, new))

    def delete(self, path):
        self._do(self._volume.delete, path)

    def rename(self, source, target):
        self._do(self._volume.rename, source, target)

    def undo(self):
        self._do(self._volume.undo)

    def why(self, path):
        return str(self._volume.why(path))

    def close(self):
        self._volume.close()


_COMMANDS = """
import os, sys
from importlib import import_module
from cli.main import main
for name in ("app", "content", "derive", "history", "views", "failures", "streams", "render"):
    import_module(f"cli.{name}")
for line in sys.stdin:
    words = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        for number, name in enumerate(("in", "out", "err")):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(f"{sys.argv[1]}.{name}", flags, 0o600), number)
        code = main(words)
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class CommandLine(Adapter):
    """The command ``coherent``, a process for each verb.

    They are forked from one that has imported it: the start of the interpreter is
    most of what a command costs.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self._streams = scratch / "stream"
        self._starter = subprocess.Popen(
            [sys.executable, "-c", _COMMANDS, self._streams],
            cwd=root,
            env=Command(root, "alice").environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._starter.communicate(timeout=30)

    def _do(self, *words: str, input: bytes = b"") -> bytes:  # noqa: A002
        self._streams.with_suffix(".in").write_bytes(input)
        self._starter.stdin.write("\t".join(words) + "\n")
        self._starter.stdin.flush()
        code = int(self._starter.stdout.readline())
        told = self._streams.with_suffix(".err").read_text()
        if code == 0:
            return self._streams.with_suffix(".out").read_bytes()
        if code == 66:
            raise AbsentError(told)
        if code == 73:
            raise ExistsError(told)
        assert code == 75, (code, told)
        raise LeasedError(told) if "lease" in told else RefusedError(told)

    def read(self, path):
        return self._do("read", path)

    def create(self, path, data):
        self._do("create", path, input=data)

    def write(self, path, data):
        self._do("write", path, input=data)

    def replace(self, path, data):
        self.write(path, data)

    def append(self, path, data):
        self._do("append", path, input=data)

    def edit(self, path, old, new):
        self._do("update", path, "--", "sed", f"s/{old.decode()}/{new.decode()}/")

    def delete(self, path):
        self._do("rm", path)

    def rename(self, source, target):
        self._do("mv", source, target)

    def undo(self):
        self._do("undo")

    def why(self, path):
        return self._do("why", path).decode()


class Mounted(Adapter):
    """Plain system calls in a mount, which know nothing of any of this."""

    def __init__(self, where: Path) -> None:
        self._where = where

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except FileExistsError as error:
            raise ExistsError from error
        except FileNotFoundError as error:
            raise AbsentError from error
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise LeasedError from error
            if error.errno != errno.EACCES:
                raise
            raise RefusedError from error

    def _put(self, path: str, data: bytes, mode: str) -> None:
        with self._telling(), open(self._where / path, mode, buffering=0) as file:
            file.write(data)

    def read(self, path):
        with self._telling():
            return (self._where / path).read_bytes()

    def create(self, path, data):
        self._put(path, data, "xb")

    def write(self, path, data):
        if not (self._where / path).exists():
            raise AbsentError  # a tool would create it
        self._put(path, data, "wb")

    def replace(self, path, data):
        temporary = self._where / "temporary"  # not managed
        temporary.write_bytes(data)
        with self._telling():
            os.replace(temporary, self._where / path)

    def append(self, path, data):
        self._put(path, data, "ab")

    def edit(self, path, old, new):
        # A process of its own: who reads and saves within a moment is judged by the text.
        script = f"s/{old.decode()}/{new.decode()}/"
        done = subprocess.run(
            ["sed", "-i", script, self._where / path], capture_output=True, check=False
        )
        assert done.returncode == 0, done

    def delete(self, path):
        with self._telling():
            os.unlink(self._where / path)

    def rename(self, source, target):
        with self._telling():
            os.rename(self._where / source, self._where / target)

    def undo(self):
        Command(self._where, "alice").ok("undo")

    def why(self, path):
        return (self._where / ".coherence" / "why" / path).read_text()


@contextlib.contextmanager
def _library(root: Path, scratch: Path) -> Iterator[Adapter]:
    adapter = Library(root)
    yield adapter
    adapter.close()


@contextlib.contextmanager
def _command(root: Path, scratch: Path) -> Iterator[Adapter]:
    adapter = CommandLine(root, scratch)
    yield adapter
    adapter.close()


def _mount(transport: str) -> Callable[[Path, Path], contextlib.AbstractContextManager[Adapter]]:
    @contextlib.contextmanager
    def mounted(root: Path, scratch: Path) -> Iterator[Adapter]:
        if reason := why_not(transport):
            pytest.skip(reason)
        # No reflex window: what a case reads counts at once.
        with mounts_of(root, scratch, limit_s=300, reflex_s=0.0, transport=transport) as make:
            yield Mounted(make("alice").where)

    return mounted


ADAPTERS = {
    "library": _library,
    "command": _command,
    "kernel": _mount("kernel"),
    "fusepy": _mount("fusepy"),
}
