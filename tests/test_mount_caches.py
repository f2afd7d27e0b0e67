"""Hazard: what the kernel or the server remembers of a file outlives the file as it was.

The kernel reads files by itself here (passthrough) or from its own cache, closes
are not told, and an open of what was read before looks into no record. Each test
is a way in which one of these could show old content, or miss a read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import shutil
import stat
import subprocess
import threading
import time

import pytest
from harness.mounted import mounts_of, needs_fuse

from fuse_mount.handles import Handle
from fuse_mount.nodes import Node
from fuse_mount.passthrough import Passthrough
from fuse_mount.workers import Workers

PLAN = "plans/plan.md"


@pytest.fixture
def place(root, tmp_path, volume):
    """Alice's mount and bob, over a plan that nobody has committed."""
    (root / "plans" / "plan.md").write_bytes(b"content 0\n")
    bob = volume("bob")
    with mounts_of(root, tmp_path, reflex_s=0.05) as mounted:
        yield mounted("alice"), bob


def save(descriptor_of, data):
    descriptor = os.open(descriptor_of, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def ripe():
    """Let what was read become older than the window of reflex reads."""
    time.sleep(0.15)


# ── content ──────────────────────────────────────────────────────────────────


@needs_fuse
def test_a_reader_keeps_its_generation_while_spare_files_are_used_again(place):
    alice, bob = place
    bob.read(PLAN)
    readers = []
    for number in range(1, 25):
        bob.write(PLAN, b"content %d\n" % number)
        descriptor = os.open(alice.where / PLAN, os.O_RDONLY)
        readers.append((descriptor, b"content %d\n" % number))
        if number % 6 == 0:
            time.sleep(0.08)  # the displaced files become spares after 50 ms
    try:
        for descriptor, content in readers:
            assert os.pread(descriptor, 100, 0) == content
    finally:
        for descriptor, _ in readers:
            os.close(descriptor)


@needs_fuse
def test_readers_beside_a_writer_see_whole_generations_that_never_go_back(place):
    alice, bob = place
    bob.read(PLAN)
    bob.write(PLAN, b"0000 " * 900)
    done, wrong = threading.Event(), []

    def read():
        newest = 0
        while not done.is_set():
            try:
                file = open(alice.where / PLAN, "rb", buffering=0)  # noqa: SIM115
            except OSError as error:
                if error.errno == errno.ESTALE:
                    continue  # it met two commits in a row, which is told as such
                wrong.append(error)
                return
            with file:
                found = file.readall()
                size = os.fstat(file.fileno()).st_size
            numbers = set(found.split())
            number = int(min(numbers, default=b"-1"))
            if len(numbers) != 1 or size != len(found) or number < newest:
                wrong.append((numbers, size, newest))
            newest = max(newest, number)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for each in readers:
        each.start()
    try:
        for number in range(1, 150):
            bob.write(PLAN, b"%04d " % number * (900 + number % 7))
    finally:
        done.set()
        for each in readers:
            each.join()
    assert wrong == []
    assert (alice.where / PLAN).read_bytes().startswith(b"0149 ")


@needs_fuse
def test_every_open_and_every_stat_shows_the_head(place):
    alice, bob = place
    bob.read(PLAN)
    where = alice.where / PLAN
    for number in range(1, 50):
        content = b"x" * (1 + number * 7 % 50)
        bob.write(PLAN, content)
        if number % 2:
            assert os.stat(where).st_size == len(content)
        assert where.read_bytes() == content


@needs_fuse
def test_an_edit_in_place_of_the_same_length_and_time_is_seen(place, root):
    alice, _ = place
    ripe()  # older than a tick of the clock, so that it is remembered
    for _ in range(3):
        assert (alice.where / PLAN).read_bytes() == b"content 0\n"
    found = os.stat(root / PLAN)
    with open(root / PLAN, "r+b") as file:
        file.write(b"CONTENT 0\n")
    os.utime(root / PLAN, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert (alice.where / PLAN).read_bytes() == b"CONTENT 0\n"


@needs_fuse
def test_a_file_that_two_mounts_write_is_the_same_in_both(root, tmp_path, volume):
    volume("bob")
    with mounts_of(root, tmp_path) as mounted:
        here, there = mounted("alice").where / "free", mounted("carol").where / "free"
        with open(here, "w+b", buffering=0) as one, open(there, "r+b", buffering=0) as two:
            for number in range(20):
                writer, reader = (one, two) if number % 2 else (two, one)
                os.pwrite(writer.fileno(), b"%04d" % number, 0)
                assert os.pread(reader.fileno(), 4, 0) == b"%04d" % number


# ── credit ───────────────────────────────────────────────────────────────────


@needs_fuse
def test_opening_what_was_read_before_credits_what_is_there_now(place):
    alice, bob = place
    bob.read(PLAN)
    for number in range(1, 4):
        for _ in range(3):  # the later ones look into no record
            (alice.where / PLAN).read_bytes()
        ripe()
        bob.write(PLAN, b"content %d\n" % number)
        with pytest.raises(PermissionError):
            save(alice.where / PLAN, b"stale\n")
    (alice.where / PLAN).read_bytes()
    ripe()
    save(alice.where / PLAN, b"fresh\n")
    assert bob.read(PLAN) == b"fresh\n"


@needs_fuse
def test_a_return_to_old_content_is_no_longer_what_was_read(place):
    alice, bob = place
    bob.read(PLAN)
    (alice.where / PLAN).read_bytes()
    ripe()
    bob.write(PLAN, b"other\n")
    (alice.where / PLAN).read_bytes()
    ripe()
    bob.write(PLAN, b"content 0\n")
    with pytest.raises(PermissionError):
        save(alice.where / PLAN, b"derived from other\n")


@needs_fuse
def test_many_views_are_written_down_for_the_session(root, tmp_path, volume):
    for number in range(80):
        (root / "plans" / f"{number}.md").write_bytes(b"%d\n" % number)
    volume("bob")
    with mounts_of(root, tmp_path, reflex_s=0.05) as mounted:
        mounted("alice").ok("cat plans/*.md")
        ripe()
    alice = volume("alice")
    for number in range(80):
        assert alice.view_of(f"plans/{number}.md").generation == 0, number


# ── names ────────────────────────────────────────────────────────────────────


@needs_fuse
def test_a_directory_that_was_moved_outside_is_saved_into_where_it_is(root, tmp_path, volume):
    (root / "plans" / "old").mkdir()
    (root / "plans" / "old" / "plan.md").write_bytes(b"first\n")
    bob = volume("bob")
    with mounts_of(root, tmp_path, reflex_s=0.05) as mounted:
        alice = mounted("alice")
        inside = os.open(alice.where / "plans" / "old", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for _ in range(2):
                os.close(os.open("plan.md", os.O_RDONLY, dir_fd=inside))
            os.rename(root / "plans" / "old", root / "plans" / "new")
            descriptor = os.open("plan.md", os.O_RDONLY, dir_fd=inside)
            assert os.read(descriptor, 10) == b"first\n"
            os.close(descriptor)
            descriptor = os.open("other.md", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=inside)
            os.write(descriptor, b"made\n")
            os.close(descriptor)
        finally:
            os.close(inside)
        assert bob.read("plans/new/other.md") == b"made\n"
        assert not (root / "plans" / "old").exists()


@needs_fuse
def test_a_temporary_name_that_is_an_artifact_is_used_again_and_again(place):
    alice, bob = place
    for number in range(4):
        with open(alice.where / "plans" / "tmp.md", "wb", buffering=0) as file:
            file.write(b"content %d\n" % number)
        os.rename(alice.where / "plans" / "tmp.md", alice.where / PLAN)
        time.sleep(0.3)  # its deletion is committed after 200 ms
    assert bob.read(PLAN) == b"content 3\n"


@needs_fuse
def test_of_two_open_files_that_became_an_artifact_the_one_that_wrote_is_committed(place):
    alice, bob = place
    (alice.where / "t").write_bytes(b"saved")
    idle = os.open(alice.where / "t", os.O_WRONLY)
    busy = os.open(alice.where / "t", os.O_WRONLY | os.O_APPEND)
    os.rename(alice.where / "t", alice.where / PLAN)
    os.write(busy, b" and more")
    os.close(busy)
    os.close(idle)
    assert bob.read(PLAN) == b"saved and more"
    assert [each.generation for each in bob.log(PLAN)] == [2, 1, 0]


# ── what the kernel no longer tells ──────────────────────────────────────────


@needs_fuse
def test_the_lock_of_a_reader_ends_when_it_closes(place, root):
    alice, _ = place
    (root / "free").write_bytes(b"x" * 100)
    reader = os.open(alice.where / "free", os.O_RDONLY)
    fcntl.lockf(reader, fcntl.LOCK_SH)
    other = os.open(root / "free", os.O_RDWR)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(reader)
        deadline = time.monotonic() + 10  # a release has no caller that it could hold up
        while True:
            try:
                fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, "the lock outlives its reader"
                time.sleep(0.01)
    finally:
        os.close(other)


@needs_fuse
@pytest.mark.parametrize("how", ["write", "truncate", "cut off at the open", "before the bits"])
def test_whoever_changes_a_program_takes_its_set_user_id(place, root, how):
    alice, _ = place
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    for each in (alice.where, *alice.where.parents):
        if not each.stat().st_mode & 0o001:
            each.chmod(0o711)
    program = alice.where / "program"
    program.write_bytes(b"old content")
    program.chmod(0o4777 if how != "before the bits" else 0o777)
    script = {
        "write": 'printf x 1<>"$0"',
        "truncate": 'truncate -s 3 "$0"',
        "cut off at the open": ': > "$0"',
        "before the bits": 'printf x 1<>"$0"',
    }[how]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    subprocess.run([*nobody, "sh", "-c", script, program], check=True, cwd="/")
    if how == "before the bits":
        program.chmod(0o4777)
        subprocess.run([*nobody, "sh", "-c", script, program], check=True, cwd="/")
    assert stat.S_IMODE(os.stat(program).st_mode) == 0o777
    assert stat.S_IMODE(os.stat(root / "program").st_mode) == 0o777


class Ids:
    """A kernel that gives out backing ids, or refuses them."""

    def __init__(self, monkeypatch, refuses=0):
        self.open, self.asked, self._refuses = set(), 0, refuses
        monkeypatch.setattr("fuse_mount.passthrough.fcntl.ioctl", self._ioctl)

    def _ioctl(self, device, request, argument):
        if request == 0x4004E502:
            self.open.remove(int.from_bytes(argument, "little"))
            return 0
        self.asked += 1
        if self._refuses:
            raise OSError(self._refuses, "refused")
        self.open.add(self.asked)
        return self.asked


@pytest.fixture
def opened(tmp_path):
    """Make a node of a file of its own, and open files of it."""
    descriptors = []

    def make(name, flags=os.O_RDONLY):
        path = tmp_path / name
        path.touch()
        node = Node(len(descriptors) + 2, -1, os.stat(path))
        for _ in range(2):
            descriptors.append(os.open(path, flags))
        return [Handle(node, each, flags) for each in descriptors[-2:]]

    yield make
    for each in descriptors:
        os.close(each)


def test_all_open_files_of_a_node_have_one_id_and_idle_ids_are_bounded(monkeypatch, opened):
    kernel, passthrough = Ids(monkeypatch), Passthrough(-1)
    passthrough.is_agreed = True
    monkeypatch.setattr("fuse_mount.passthrough._IDS_MAX", 3)
    files = [opened(f"{number}") for number in range(6)]
    for one, two in files:
        assert passthrough.way_of(one) == passthrough.way_of(two) != (0, 0)
    assert len(kernel.open) == 6  # an id in use is never closed
    for one, _ in files:
        passthrough.released(one)
    assert len(kernel.open) == 6
    for _, two in files:
        passthrough.released(two)
    assert len(kernel.open) == 3
    for one, _ in files:
        passthrough.let_go(one.node)
    assert not kernel.open


def test_without_the_right_to_it_the_kernel_is_asked_once(monkeypatch, opened):
    kernel, passthrough = Ids(monkeypatch, refuses=errno.EPERM), Passthrough(-1)
    passthrough.is_agreed = True
    for number in range(3):
        for each in opened(f"{number}"):
            assert passthrough.way_of(each) == (0, 0)
    assert kernel.asked == 1


def test_a_file_on_a_stacked_file_system_does_not_speak_for_the_others(monkeypatch, opened):
    kernel, passthrough = Ids(monkeypatch, refuses=errno.ELOOP), Passthrough(-1)
    passthrough.is_agreed = True
    assert [passthrough.way_of(each) for each in opened("stacked")] == [(0, 0), (0, 0)]
    assert kernel.asked == 1
    kernel._refuses = 0
    assert passthrough.way_of(opened("plain")[0]) == (128, 2)


def test_without_a_free_descriptor_the_kernel_asks_for_what_it_reads(monkeypatch, opened):
    Ids(monkeypatch)
    passthrough = Passthrough(-1)
    passthrough.is_agreed = True
    one, two = opened("plain")

    def none_left(*_):
        raise OSError(errno.EMFILE, "none left")

    with monkeypatch.context() as full:
        full.setattr("fuse_mount.passthrough.os.open", none_left)
        assert passthrough.way_of(one) == (0, 0)
    assert passthrough.way_of(two) == (0, 0)  # as the other one


# ── who serves ───────────────────────────────────────────────────────────────


class Served:
    """Requests that a test hands out, and the threads that answer them."""

    def __init__(self, is_short):
        self.requests, self.answered = queue.Queue(), queue.Queue()
        self.before = set(threading.enumerate())
        self.stuck, self.ended = threading.Event(), threading.Event()
        self.thread = threading.Thread(
            target=Workers(self._take, self._answer, is_short, 64, self.ended).run
        )
        self.thread.start()

    def _take(self, buffer):
        request = self.requests.get()
        buffer[: len(request)] = request
        return len(request)

    def _answer(self, message):
        request = bytes(message)
        if request == b"stuck":
            self.stuck.wait(30)
        self.answered.put((request, threading.get_ident()))

    def workers(self):
        names = [each.name for each in threading.enumerate() if each not in self.before]
        return [name for name in names if name != "fuse-watch"]

    def end(self):
        self.stuck.set()
        self.requests.put(b"")
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.mark.parametrize("looks_short", [True, False])
def test_a_request_that_takes_long_does_not_keep_the_others_waiting(looks_short):
    served = Served(lambda message: looks_short)
    try:
        served.requests.put(b"stuck")
        served.requests.put(b"next")
        assert served.answered.get(timeout=30)[0] == b"next"
        served.requests.put(b"another")
        assert served.answered.get(timeout=30)[0] == b"another"
        served.stuck.set()
        assert served.answered.get(timeout=30)[0] == b"stuck"
        for number in range(20):
            served.requests.put(b"%d" % number)
            assert served.answered.get(timeout=30)[0] == b"%d" % number
    finally:
        served.end()


@pytest.mark.parametrize("looks_short", [True, False])
def test_many_requests_that_take_long_do_not_keep_the_others_waiting(looks_short):
    served = Served(lambda message: looks_short)
    try:
        for _ in range(18):
            served.requests.put(b"stuck")
        for number in range(20):
            served.requests.put(b"%d" % number)
        assert {served.answered.get(timeout=30)[0] for _ in range(20)} == {
            b"%d" % number for number in range(20)
        }
        started = len(served.workers())
        served.stuck.set()
        assert [served.answered.get(timeout=30)[0] for _ in range(18)] == [b"stuck"] * 18
        deadline = time.monotonic() + 30
        while len(served.workers()) > 8 and time.monotonic() < deadline:
            served.requests.put(b"more")
            served.answered.get(timeout=30)
        assert started > 18
        assert len(served.workers()) <= 8
    finally:
        served.end()


def test_threads_that_nobody_lets_go_of_are_not_multiplied_without_end():
    served = Served(lambda message: False)
    try:
        for _ in range(100):
            served.requests.put(b"stuck")
        deadline = time.monotonic() + 3
        while len(served.workers()) <= 64 and time.monotonic() < deadline:
            time.sleep(0.05)  # one more each tick of the watch, if nothing bounds them
        assert len(served.workers()) <= 64
    finally:
        served.end()


def test_short_requests_are_answered_by_the_thread_that_took_them():
    served = Served(lambda message: True)
    try:
        threads = set()
        for _ in range(50):
            served.requests.put(b"short")
            threads.add(served.answered.get(timeout=30)[1])
        assert len(threads) <= 2  # the watch may have passed the lead on once
    finally:
        served.end()
