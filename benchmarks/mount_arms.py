"""The sides of a comparison of mounts: each a directory with the same files in it.

Owns the mounting and unmounting of what the mount is compared with. A side that
cannot be had here is left out, and its reason is told.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ours import CoherentVolume
from benchmarks.settings import Context
from coherent_volume.model import Durability
from fuse_mount import mount

__all__ = ["FUSEPY", "NATIVE", "Side", "sides"]

NATIVE = "native"
ARTIFACTS, DURABLE, OTHERS = "artifacts", "durable", "others"
FUSEPY = "bare fusepy"
_WAIT_S = 20.0
_REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Side:
    """One directory to work in.

    ``fenced``: what is made there are artifacts; ``durable``: of a volume in power mode.
    """

    name: str
    top: Path
    fenced: bool = False
    durable: bool = False


@contextlib.contextmanager
def sides(
    context: Context, fill: Callable[[Path], None], programs: Sequence[Path]
) -> Iterator[list[Side]]:
    """Mount everything there is to compare, over directories made by *fill*.

    *programs* are built examples of libfuse: ``passthrough_ll``, ``passthrough_hp``.
    """
    native = context.fresh_directory(NATIVE)
    fill(native)
    found = [Side(NATIVE, native)]
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(_ours(context, fill, "kernel"))
        sure = stack.enter_context(_ours(context, fill, "kernel", durability="power"))
        found += [
            Side(ARTIFACTS, where / "managed", fenced=True),
            Side(DURABLE, sure / "managed", fenced=True, durable=True),
            Side(OTHERS, where / "free"),
        ]
        commands = [(path.name, _example(path)) for path in programs]
        missing = _without_fusepy()
        if missing is None:
            where = stack.enter_context(_ours(context, fill, "fusepy"))
            found.append(Side("others, over fusepy", where / "free"))
            commands.insert(0, (FUSEPY, [sys.executable, "-m", "benchmarks.loopback"]))
        else:
            context.notes.append(f"fusepy is left out: {missing}")
        if not programs:
            context.notes.append("libfuse's examples are left out: none was named (--c PROGRAM)")
        for name, words in commands:
            source, where = context.fresh_directory("source"), context.fresh_directory(name)
            fill(source)
            try:
                stack.enter_context(_served(words, source, where))
            except RuntimeError as error:
                context.notes.append(f"{name} is left out: {error}")
            else:
                found.append(Side(name, where))
        yield found


@contextlib.contextmanager
def _ours(
    context: Context,
    fill: Callable[[Path], None],
    transport: str,
    durability: Durability = "process",
) -> Iterator[Path]:
    """A mount of a volume with files that are managed, and others."""
    root, where = context.fresh_directory("root"), context.fresh_directory(transport)
    for name in ("managed", "free"):
        (root / name).mkdir()
        fill(root / name)
    globs = ("managed/files/*.md", "managed/tree-*/**")
    CoherentVolume(root, managed=globs, durability=durability).close()
    with mount(root, where, "benchmark", transport=transport):
        yield where


def _without_fusepy() -> str | None:
    if importlib.util.find_spec("fuse") is None:
        return "it is not installed (pip install '.[fuse]')"
    done = subprocess.run([sys.executable, "-c", "import fuse"], capture_output=True, check=False)
    return None if done.returncode == 0 else "it finds no libfuse 2 (Debian: libfuse2)"


def _example(path: Path) -> list[str]:
    foreground = "--foreground" if path.name.startswith("passthrough_hp") else "-f"
    return [str(path.absolute()), foreground]


@contextlib.contextmanager
def _served(words: Sequence[str], source: Path, where: Path) -> Iterator[None]:
    """A file system that a program of its own serves until the end of the block."""
    low_level = os.path.basename(words[0]).startswith("passthrough_ll")
    paths = ["-o", f"source={source}"] if low_level else [str(source)]
    server = subprocess.Popen(
        [*words, *paths, str(where)],
        cwd=_REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _WAIT_S
        while not os.path.ismount(where):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it mounted nothing (status {server.poll()})")
            time.sleep(0.01)
        yield
    finally:
        subprocess.run(["umount", where], capture_output=True, check=False)
        try:
            server.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            subprocess.run(["umount", "-l", where], capture_output=True, check=False)
            server.kill()
            server.wait()
