"""Hazard: input that nobody thought of. Each ends in a typed refusal, and nothing else changes."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coherent_volume import CoherenceError, CoherentVolume
from coherent_volume.config import parse
from coherent_volume.errors import ConfigurationError
from coherent_volume.globs import ManagedGlobs
from coherent_volume.model import ArtifactKey
from fuse_mount import protocol
from fuse_mount.fence import Fence, Options
from fuse_mount.kernel import Connection
from fuse_mount.protocol import Opcode
from fuse_mount.view import MountedTree

PLAN = "plans/plan.md"

PIECES = st.sampled_from(
    [
        "plans",
        "plan.md",
        "..",
        ".",
        "",
        "/",
        "a",
        "\0",
        "é",
        "\udcff",
        ".coherence",
        ".git",
        "x" * 300,
    ]
)
PATHS = st.lists(PIECES, max_size=6).map("/".join) | st.text(max_size=20) | st.binary(max_size=20)


@pytest.fixture(scope="module")
def place():
    """A volume two directories deep, and what must not change around it."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "outer" / "root"
        (root / "plans").mkdir(parents=True)
        (root / PLAN).write_bytes(b"first\n")
        (root.parent / "secret").write_bytes(b"outside\n")
        with CoherentVolume(root, managed=("plans/**",), session="alice") as volume:
            yield root, volume


def around(root: Path) -> list[str]:
    return sorted(each.name for each in (*root.parent.iterdir(), *root.parent.parent.iterdir()))


@settings(max_examples=60)
@given(PATHS)
def test_no_path_leads_out_or_fails_untyped(place, path):
    root, volume = place
    before = around(root)
    for act in (volume.read, lambda p: volume.append(p, b"x"), volume.state, volume.delete):
        with contextlib.suppress(CoherenceError):
            found = act(path)
            assert found != b"outside\n"
    assert around(root) == before
    assert (root.parent / "secret").read_bytes() == b"outside\n"
    assert not (root / ".git").exists()


@settings(max_examples=150)
@given(
    st.lists(st.text(max_size=12) | st.sampled_from(["**", "!**", "[", "\\", "/", "!"]), max_size=4)
)
def test_no_globs_manage_the_sidecar_or_fail_untyped(globs):
    try:
        managed = ManagedGlobs(tuple(globs))
    except CoherenceError:
        return
    for key in (b".coherence/config.toml", b"a/.git/config", b".hg/store"):
        assert not managed.matches(ArtifactKey(key))
    managed.matches(ArtifactKey(b"plans/plan.md"))


VALID = """\
managed = ["plans/**"]
durability = "power"
[retention]
generations = 100
"""


@settings(max_examples=200)
@given(
    st.text(max_size=60)
    | st.builds(
        lambda at, text: VALID[:at] + text + VALID[at + len(text) :],
        st.integers(0, len(VALID)),
        st.text(max_size=4),
    )
)
def test_no_configuration_fails_untyped(text):
    with contextlib.suppress(ConfigurationError):
        parse(text)


# ── messages of the kernel ───────────────────────────────────────────────────

# Those that wait, take much space by their nature, or end the mount.
_LEFT_OUT = {Opcode.SETLKW, Opcode.FALLOCATE, Opcode.DESTROY, Opcode.INIT}
_SILENT = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}
OPCODES = st.sampled_from([each for each in Opcode if each not in _LEFT_OUT])
NUMBERS = st.sampled_from([0, 1, 2, 3, 1 << 31, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)
BODIES = st.builds(
    lambda numbers, tail: struct.pack(f"={len(numbers)}Q", *numbers) + tail,
    st.lists(NUMBERS, max_size=8),
    st.sampled_from(
        [b"", b"plans\0", b"plan.md\0", b"plans\0plan.md\0", b"no end", b"\0", b"\xff\0"]
    )
    | st.binary(max_size=60).map(lambda data: data.replace(b"/", b"").replace(b"..", b"")),
)


@pytest.fixture(scope="module")
def mounted():
    """The mount's server without a kernel: what it answers comes out of a pipe."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        (root / "plans").mkdir(parents=True)
        (root / PLAN).write_bytes(b"first\n")
        with CoherentVolume(root, managed=("plans/**",), session="alice") as volume:
            volume.read(PLAN)
            parts = volume._open_parts()
            fence = Fence(parts, Options(13, observe=False), volume._maintenance.nudge)
            tree = MountedTree(os.dup(parts.root.descriptor), 64, fence, bytes(root))
            reader, writer = os.pipe2(os.O_NONBLOCK)
            try:
                yield Connection(writer, tree), reader, volume
            finally:
                tree.close()
                os.close(reader)
                os.close(writer)


@settings(max_examples=150)
@given(OPCODES, st.sampled_from([1, 2, 3, 99]), BODIES)
def test_every_message_is_answered_once_and_fails_typed(
    mounted, expected_warnings, opcode, node, body
):
    connection, reader, _ = mounted
    header = protocol.IN_HEADER.pack(
        protocol.IN_HEADER.size + len(body), opcode, 7, node, 0, 0, os.getpid(), 0, 0
    )
    connection._answer(memoryview(header + body))
    answers = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(reader, 1 << 20):
            answers += piece
    if opcode in _SILENT:
        assert answers == b""
    elif answers or opcode != Opcode.SETLK:
        length, error, unique = struct.unpack_from("=IiQ", answers)
        assert (length, unique) == (len(answers), 7)
        assert -4096 < error <= 0
    failed = [r.getMessage() for r in expected_warnings if r.levelno >= logging.ERROR]
    expected_warnings.clear()
    assert not failed, failed


def test_volume_is_sound_after_all_those_messages(mounted):
    _, _, volume = mounted
    assert volume.audit().ok
