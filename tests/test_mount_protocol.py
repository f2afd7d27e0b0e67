"""Hazard: a message of the kernel that is not what it says crashes the server."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

import pytest
from harness.unmounted import Connected, Mounted, failing
from hypothesis import given
from hypothesis import strategies as st

from coherent_volume import errors
from coherent_volume.merge import keeps_every_hunk
from fuse_mount import protocol
from fuse_mount.errnos import ERRNOS, errno_of
from fuse_mount.faces import Faces
from fuse_mount.locking import Wanted
from fuse_mount.protocol import Opcode, ProtocolError


def message(opcode: int, body: bytes, length: int | None = None) -> memoryview:
    size = protocol.IN_HEADER.size + len(body) if length is None else length
    return memoryview(protocol.IN_HEADER.pack(size, opcode, 7, 1, 0, 0, 1, 0, 0) + body)


@given(st.binary(max_size=300))
def test_no_bytes_at_all_break_the_decoder(data):
    try:
        request = protocol.request(memoryview(data))
        protocol.parse(request.opcode, request.body)
    except ProtocolError:
        pass


@given(st.sampled_from(list(Opcode)), st.binary(max_size=120))
def test_every_truncated_request_is_told_as_one(opcode, body):
    request = protocol.request(message(opcode, body))
    try:
        _, rest = protocol.parse(request.opcode, request.body)
        protocol.names(rest, 2)
    except ProtocolError:
        pass


@pytest.mark.parametrize("length", [0, 39, 41, 1 << 31])
def test_a_length_that_is_not_the_messages_is_refused(length):
    with pytest.raises(ProtocolError):
        protocol.request(message(Opcode.LOOKUP, b"", length))


def test_a_name_without_an_end_is_refused():
    with pytest.raises(ProtocolError):
        protocol.names(memoryview(b"name"), 1)


def test_unknown_requests_are_answered_with_enosys(expected_warnings):
    from fuse_mount.kernel import Connection

    reader, writer = os.pipe()
    connection = Connection(writer, tree=None)
    for opcode in (3999, 40, 51):
        connection._answer(message(opcode, b"\0" * 64))
        _, error, unique = struct.unpack("=IiQ", os.read(reader, 16))
        assert (-error, unique) == (38, 7)
    connection._answer(message(Opcode.SETATTR, b"short"))
    assert struct.unpack("=IiQ", os.read(reader, 16))[1] == -5
    os.close(reader)
    os.close(writer)


def test_times_before_1970_survive():
    attr = protocol.Attr(1, 0, 0, -1, -1_500_000_000, 0, 0o100644, 1, 0, 0, 0, 4096)
    packed = protocol.attr_reply(attr, 0)
    seconds = struct.unpack_from("=q", packed, 16 + 32)[0]
    nanoseconds = struct.unpack_from("=I", packed, 16 + 52)[0]
    assert (seconds, nanoseconds) == (-2, 500_000_000)


def _leaves(kind):
    below = kind.__subclasses__()
    return [leaf for each in below for leaf in _leaves(each)] if below else [kind]


@pytest.mark.parametrize("kind", _leaves(errors.CoherenceError), ids=lambda k: k.__name__)
def test_every_error_has_an_errno_that_no_tool_goes_round(kind):
    import errno

    assert kind in ERRNOS
    for operation in ("open", "rename", "write", "unlink", "flush"):
        found = errno_of(kind("x"), operation, errno.EACCES)
        assert found not in (0, errno.EPERM, errno.EBUSY, errno.EXDEV, errno.EEXIST)
        assert found != errno.EAGAIN or operation in ("open", "rename")


LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"d\n"]), max_size=8)


@given(LINES, LINES)
def test_an_unchanged_head_is_kept_and_an_overwritten_one_is_not(base, head):
    old, new = b"".join(base), b"".join(head)
    assert keeps_every_hunk(old, new, new)
    if old != new:
        assert not keeps_every_hunk(old, new, old)


def test_an_edit_elsewhere_keeps_every_hunk():
    base = b"".join(b"%d\n" % n for n in range(20))
    head = base + b"theirs\n"
    assert keeps_every_hunk(base, head, head.replace(b"3\n", b"three\n", 1))
    assert not keeps_every_hunk(base, head, base.replace(b"3\n", b"three\n", 1))


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=30))
def test_no_two_inodes_are_ever_shown_under_one_number(steps):
    faces = Faces()
    for old, new in steps:
        if old != new:
            faces.succeed(faces.number(old), new)
        shown = [faces.number(inode) for inode in range(1, 7)]
        assert len(set(shown)) == 6, steps


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 10**9)), min_size=2, max_size=20))
def test_the_time_shown_grows_with_every_generation(generations):
    faces = Faces()
    shown = [faces.time(b"plan.md", inode, mtime) for inode, mtime in generations]
    for before, after, one, two in zip(
        shown, shown[1:], generations, generations[1:], strict=False
    ):
        assert after == before if one == two else after >= before + 10**6


# ── what the kernel hears ────────────────────────────────────────────────────

PLAN = "plans/plan.md"


@pytest.fixture
def mounted(alice):
    alice.read(PLAN)
    here = Mounted(alice)
    yield here
    here.unmount()


@pytest.fixture
def connected(mounted):
    here = Connected(mounted)
    yield here
    here.close()


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_whoever_stops_waiting_for_a_lock_hears_of_it_at_whatever_moment(
    mounted, connected, monkeypatch, when
):
    node = mounted.node(PLAN)
    mounted.tree.lock(node, 1, Wanted(0, 9, fcntl.F_WRLCK, is_flock=False))
    take = mounted.tree.lock

    def interrupt():
        connected.ask(Opcode.INTERRUPT, 0, (9,), unique=8)

    def interrupted(*arguments):
        monkeypatch.setattr(mounted.tree, "lock", take)
        interrupt()
        take(*arguments)

    if when == "before":
        interrupt()
    elif when == "during":
        monkeypatch.setattr(mounted.tree, "lock", interrupted)
    connected.ask(Opcode.SETLKW, node.id, (0, 2, 0, 9, fcntl.F_WRLCK, 1, 0, 0), unique=9)
    if when == "after":
        interrupt()
    assert connected.answer() == (errno.EINTR, 9)


@pytest.mark.parametrize("opcode", [Opcode.OPEN, Opcode.CREATE])
def test_an_open_that_the_kernel_is_told_failed_is_not_open(
    mounted, connected, monkeypatch, opcode
):
    node = mounted.node(PLAN) if opcode == Opcode.OPEN else mounted.tree.nodes.root
    fields = (os.O_RDONLY, 1) if opcode == Opcode.OPEN else (os.O_RDWR | os.O_CREAT, 0o600, 0, 1)
    before = mounted.in_use()
    monkeypatch.setattr(mounted.tree, "drop_bits", failing)
    connected.ask(opcode, node.id, fields, b"" if opcode == Opcode.OPEN else b"free\0")
    assert connected.answer() == (errno.ENOSPC, 7)
    assert mounted.tree._open_files == {}
    assert mounted.in_use() == before
