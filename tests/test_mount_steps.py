"""Hazard: a saver of several steps shows peers a hole, half a file, or two generations."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
import threading
import time

import pytest
from harness.mounted import mounts_of, needs_fuse

from coherent_volume import NotObservedError
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import now_ns
from fuse_mount import credit
from fuse_mount.fence import Fence, Options, seen_of
from fuse_mount.tree import Caller, Change
from fuse_mount.view import MountedTree

pytestmark = needs_fuse

OLD = b"old line\n" * 500
NEW = b"new line, and longer\n" * 500

SAVERS = {
    "in place": "cat ../new > plans/plan.md",
    "slowly": "{ head -c 3000 ../new; sleep 0.1; tail -c +3001 ../new; } > plans/plan.md",
    "unlink and create": "rm plans/plan.md; sleep 0.02; cat ../new > plans/plan.md",
    "backup and create": "mv plans/plan.md plans/plan.md~; sleep 0.02; cat ../new > plans/plan.md",
    "truncate, then write": ": > plans/plan.md; sleep 0.1; cat ../new >> plans/plan.md",
    "one slow program": "python3 -c \"import os, time; p = 'plans/plan.md'; os.remove(p);"
    " time.sleep(0.4); open(p, 'wb').write(open('../new', 'rb').read())\"",
    "temp and rename": "cat ../new > t; mv t plans/plan.md",
    "twice opened": "exec 3>plans/plan.md; head -c 3000 ../new >&3; sleep 0.1;"
    " tail -c +3001 ../new >&3; exec 3>&-",
}


@pytest.fixture
def place(root, tmp_path, volume):
    """Alice's mount and bob, over a plan of many lines."""
    (root / "plans" / "plan.md").write_bytes(OLD)
    (tmp_path / "new").write_bytes(NEW)
    bob = volume("bob")
    with mounts_of(root, tmp_path, reflex_s=0.1) as mounted:
        yield mounted("alice"), bob


class Watcher:
    """Reads the real file again and again, as a peer would."""

    def __init__(self, path):
        self._path = path
        self._stop = threading.Event()
        self.seen = set()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self):
        while not self._stop.is_set():
            try:
                content = self._path.read_bytes()
            except FileNotFoundError:
                content = None
            self.seen.add({OLD: "old", NEW: "new", None: "hole"}.get(content, "half"))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("saver", SAVERS)
def test_peers_see_the_old_content_or_the_new_and_one_generation(place, root, saver):
    alice, bob = place
    alice.ok("cat plans/plan.md; sleep 0.15")
    with Watcher(root / "plans" / "plan.md") as watcher:
        alice.ok(SAVERS[saver])
        alice.ok("sleep 0.3")
    assert watcher.seen <= {"old", "new"}
    assert (root / "plans" / "plan.md").read_bytes() == NEW
    assert [each.generation for each in bob.log("plans/plan.md")][:1] == [1]


def test_a_temporary_file_renamed_while_open_goes_on_as_the_artifact(place, root):
    alice, bob = place
    alice.ok("cat plans/plan.md")
    with open(alice.where / "t", "wb", buffering=0) as file:
        file.write(b"first\n")
        os.rename(alice.where / "t", alice.where / "plans" / "plan.md")
        assert (root / "plans" / "plan.md").read_bytes() == b"first\n"
        file.write(b"second\n")
        assert (root / "plans" / "plan.md").read_bytes() == b"first\n"
    assert (root / "plans" / "plan.md").read_bytes() == b"first\nsecond\n"
    assert bob.log("plans/plan.md", limit=1)[0].generation == 2


def test_a_program_saves_again_what_it_renamed_while_it_was_open(place, root):
    alice, _ = place
    alice.ok(
        "python3 - <<'END'\nimport os\n"
        "f = open('t', 'w'); f.write('a'); f.flush(); os.replace('t', 'plans/plan.md')\n"
        "f.write('b'); f.close(); open('plans/plan.md', 'w').write('c')\nEND"
    )
    assert (root / "plans" / "plan.md").read_bytes() == b"c"


BEFORE = "mkdir plans/moved; sh -c 'echo x > plans/moved/d.md'; rm -r plans/moved; sleep 0.3"


@pytest.mark.parametrize("before", ["true", BEFORE])
def test_whoever_moves_a_directory_to_managed_names_may_save_its_files(place, root, before):
    alice, _ = place
    alice.ok(
        f"{before}; mkdir drafts && echo mine > drafts/d.md && mv drafts plans/moved"
        " && echo changed > plans/moved/d.md"
    )
    assert (root / "plans" / "moved" / "d.md").read_bytes() == b"changed\n"


def test_what_a_peer_changes_in_a_moved_directory_is_not_overwritten_unread(place, root):
    alice, _ = place
    alice.ok("mkdir drafts && echo mine > drafts/d.md && mv drafts plans/moved")
    (root / "plans" / "moved" / "d.md").write_bytes(b"from outside\n")
    assert alice.sh("echo changed > plans/moved/d.md").returncode != 0
    assert (root / "plans" / "moved" / "d.md").read_bytes() == b"from outside\n"


def test_two_artifacts_are_exchanged_in_one_commit(place, root):
    import ctypes

    alice, bob = place
    bob.create("plans/other.md", b"other\n")
    alice.ok("cat plans/plan.md plans/other.md")
    one, two = (bytes(alice.where / "plans" / name) for name in ("plan.md", "other.md"))
    assert ctypes.CDLL(None).renameat2(-100, one, -100, two, 2) == 0
    assert (root / "plans" / "plan.md").read_bytes() == b"other\n"
    assert (root / "plans" / "other.md").read_bytes() == OLD


def test_a_link_takes_an_artifacts_name_as_a_deletion(place, root):
    alice, bob = place
    alice.ok(
        "cat plans/plan.md; ln -s ../elsewhere l; mv -T l plans/plan.md; readlink plans/plan.md"
    )
    assert (root / "plans" / "plan.md").is_symlink()
    assert bob.log("plans/plan.md", limit=1)[0].kind == "delete"


def test_a_directory_takes_the_name_of_an_artifact_that_was_deleted(place, root):
    alice, _ = place
    alice.ok("cat plans/plan.md; rm plans/plan.md; mkdir plans/plan.md; touch plans/plan.md/x")
    assert (root / "plans" / "plan.md").is_dir()


def test_a_deletion_that_a_peer_overtakes_is_dropped_and_noted(place, root):
    alice, bob = place
    alice.ok("cat plans/plan.md")
    bob.read("plans/plan.md")
    (alice.where / "plans" / "plan.md").unlink()
    bob.write("plans/plan.md", b"by bob\n")
    deadline = time.monotonic() + 5
    while not (alice.where / "plans" / "plan.md").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (alice.where / "plans" / "plan.md").read_bytes() == b"by bob\n"
    assert "bob committed" in alice.ok("cat .coherence/why/plans/plan.md")


def test_programs_of_one_session_do_not_lose_each_others_saves(place, root):
    alice, _ = place
    path = alice.where / "plans" / "plan.md"
    alice.ok("cat plans/plan.md; sleep 0.15")
    with path.open("r+b", buffering=0) as mine:
        alice.ok("echo theirs > plans/plan.md")
        with pytest.raises(PermissionError):
            mine.write(b"mine")
    assert (root / "plans" / "plan.md").read_bytes() == b"theirs\n"


def test_no_descriptors_are_left_over(place):
    from fuse_mount import mounts

    alice, bob = place
    (info,) = mounts(bob.root)

    def opened():
        return len(os.listdir(f"/proc/{info.pid}/fd"))

    for turn in range(30):
        (alice.where / "plans" / "plan.md").write_bytes(b"%d" % turn)
        os.truncate(alice.where / "plans" / "plan.md", 1)
        if turn == 9:
            before = opened()
    # The kernel forgets nodes when it likes; what it keeps is a few each.
    assert opened() < before + 60


def test_a_change_of_mode_that_meets_the_commit_is_not_lost(root, volume, monkeypatch):
    alice = volume("alice")
    parts = alice._open_parts()
    fence = Fence(parts, Options(), alice._maintenance.nudge)
    tree = MountedTree(os.dup(parts.root.descriptor), 100, fence, os.fsencode(root))
    try:
        plans = tree.nodes.get(tree.lookup(tree.nodes.root, b"plans").node)
        caller = Caller(0, 0, os.getpid())
        entry, handle = tree.create(caller, plans, b"new.md", os.O_WRONLY, 0o644)
        tree.release(handle)  # empty: it is committed by the clock
        told = []

        def change_mode():
            change = Change(1, 0, 0, 0, 0, 0o600, 0, 0)
            node = entry.node
            while True:
                try:
                    told.append(tree.setattr(caller, tree.nodes.get(node), change))
                    return
                except OSError as error:  # as the kernel does
                    if error.errno != errno.ESTALE:
                        raise
                    node = tree.lookup(plans, b"new.md").node

        changer = threading.Thread(target=change_mode)

        def at(point):
            if point == "checked" and not changer.ident:
                changer.start()
                changer.join(0.3)  # it either goes through now or waits for the commit

        monkeypatch.setattr("coherent_volume.points.reached", at)
        tree.settle(float("inf"))
        changer.join(30)
        assert told
        assert stat.S_IMODE(os.stat(root / "plans" / "new.md").st_mode) == 0o600
    finally:
        tree.close()


def test_whoever_was_fenced_saves_again_after_reading_the_unchanged_file(place):
    alice, bob = place
    alice.ok("cat plans/plan.md")
    bob.write("plans/plan.md", NEW, overwrite=True)
    alice.ok("cat plans/plan.md; sleep 0.3; cat plans/plan.md")
    with bob.lease("plans/plan.md"):
        bob.break_lease("plans/plan.md")  # the bytes stay, the epoch grows
    assert alice.sh("echo mine > plans/plan.md").returncode != 0
    alice.ok("cat plans/plan.md; sleep 0.3")
    alice.ok("echo mine > plans/plan.md")


def test_a_living_process_is_held_to_what_it_read_however_much_is_opened_after(bob, monkeypatch):
    monkeypatch.setattr(credit, "_OPENS_MAX", 8)
    first = seen_of(bob.write("plans/plan.md", OLD, overwrite=True))
    here = credit.Credit(bob._open_parts(), 0.0)
    key, editor, saver = ArtifactKey(b"plans/plan.md"), os.getpid(), os.getppid()
    here.note_read(key, first, editor, None)
    here.note_commit(key, seen_of(bob.write("plans/plan.md", NEW)), saver)
    for number in range(100):
        here.note_opened(
            ArtifactKey(b"plans/%d" % number), 2**22 + number, first
        )  # no such process
    assert here.standing(key, editor).base == first
    assert len(here._last) < 20


def test_a_program_is_not_held_to_what_another_read_that_had_its_number(bob, monkeypatch):
    key, number = ArtifactKey(b"plans/plan.md"), os.getppid()
    here = credit.Credit(bob._open_parts(), 0.0)
    here.note_read(key, seen_of(bob.write("plans/plan.md", OLD, overwrite=True)), number, None)
    newer = seen_of(bob.write("plans/plan.md", NEW))
    here.note_read(key, newer, os.getpid(), None)
    assert here.standing(key, number).base != newer
    monkeypatch.setattr(credit, "start_of", lambda process: now_ns() * (process == number))
    assert here.standing(key, number).base == newer


def test_what_was_edited_right_after_the_start_is_not_saved_over(root, alice, monkeypatch):
    parts, real = alice._open_parts(), time.time_ns
    with monkeypatch.context() as behind:
        # The times of files are behind the clock by up to a tick, here by one of 10 ms.
        behind.setattr(time, "time_ns", lambda: real() + 10**7)
        fence = Fence(parts, Options(), alice._maintenance.nudge)
    (root / "plans" / "new.md").write_bytes(b"a person's edit after the start\n")
    assert fence.claims.claim(ArtifactKey(b"plans/new.md"), 0).base is None


@pytest.mark.parametrize("again", [False, True])
def test_what_was_edited_after_the_clock_was_set_back_is_not_saved_over(
    root, alice, monkeypatch, again
):
    parts, real = alice._open_parts(), time.time_ns
    key = ArtifactKey(b"plans/plan.md")
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: real() + 3 * 10**9)
        fence = Fence(parts, Options(), alice._maintenance.nudge)
        assert fence.claims.claim(key, 0).base is not None
        if again:
            ahead.setattr(time, "time_ns", real)
            fence.claims.watch_clock()
            ahead.setattr(time, "time_ns", lambda: real() + 3 * 10**9)
        else:
            ahead.setattr(time, "time_ns", real)
        (root / "plans" / "plan.md").write_bytes(b"a person's edit after the start\n")
        assert fence.claims.claim(key, 0).base is None


def test_a_view_is_not_written_down_over_a_later_one_of_the_session(bob, volume):
    key = ArtifactKey(b"plans/plan.md")
    mounted, beside, later = volume("alice"), volume("alice"), volume("alice")
    here = credit.Credit(mounted._open_parts(), 0.0)
    here.note_read(key, seen_of(bob.write("plans/plan.md", OLD, overwrite=True)), 1, None)
    beside.read("plans/plan.md")
    beside.write("plans/plan.md", NEW)
    here.ripen()
    here.write_down()
    assert later.write("plans/plan.md", b"on top of what alice made\n").generation == 3


def test_a_view_that_could_not_be_written_down_is_once_it_can(bob, volume, monkeypatch):
    monkeypatch.setattr(credit, "GATE_WAIT_S", 0.05)
    key = ArtifactKey(b"plans/plan.md")
    mounted, later = volume("alice"), volume("alice")
    here = credit.Credit(mounted._open_parts(), 0.0)
    here.note_read(key, seen_of(bob.write("plans/plan.md", OLD, overwrite=True)), 1, None)
    here.ripen()
    with bob._open_parts().gate.held(1):
        here.write_down()
    with pytest.raises(NotObservedError):
        later.write("plans/plan.md", NEW)
    here.write_down()
    assert later.write("plans/plan.md", NEW).generation == 2


@pytest.mark.parametrize("known", [False, True])
def test_an_open_that_failed_has_shown_nothing(root, alice, bob, known):
    bob.write("plans/plan.md", OLD, overwrite=True)
    parts = alice._open_parts()
    fence = Fence(parts, Options(reflex_s=0.0), alice._maintenance.nudge)
    tree = MountedTree(os.dup(parts.root.descriptor), 100, fence, os.fsencode(root))
    key, caller = ArtifactKey(b"plans/plan.md"), Caller(0, 0, os.getpid())

    def read():
        plans = tree.nodes.get(tree.lookup(tree.nodes.root, b"plans").node)
        node = tree.nodes.get(tree.lookup(plans, b"plan.md").node)
        tree.release(tree.open(caller, node, os.O_RDONLY))

    try:
        if known:
            time.sleep(0.05)  # a younger file proves nothing
            read()
            fence.credit.void(key)
            assert key in fence.known
        tree._descriptors_max = 0
        with pytest.raises(OSError, match="Too many"):
            read()
        assert fence.credit.standing(key, 0).base is None
    finally:
        tree.close()


@pytest.mark.parametrize("beside", [False, True])
def test_a_reflex_read_of_what_another_program_saved_renews_nothing(place, beside):
    alice, _ = place
    editor = """
import sys, time
def read():
    with open("plans/plan.md") as file:
        return file.read()
def save(text):
    try:
        with open("plans/plan.md", "w") as file:
            file.write(text)
    except OSError as error:
        return error.errno
old = read()
print(flush=True)
sys.stdin.readline()
read()  # as some editors do for their backup
stale = save("by heart")
time.sleep(0.3)
stale = stale and save("by heart")  # a refusal voids that reading
time.sleep(0.3)
text = read()
time.sleep(0.3)
fresh = save(text + "of the editor") if stale else None
print(stale, fresh, flush=True)
"""
    with (
        contextlib.ExitStack() as stack,
        subprocess.Popen(
            [sys.executable, "-c", editor],
            cwd=alice.where,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as program,
    ):
        program.stdout.readline()
        alice.ok("cat plans/plan.md; sleep 0.3; cat ../new >> plans/plan.md; sleep 0.3")
        alice.ok("cat plans/plan.md; sleep 0.3; cat plans/plan.md ../new > ../x")
        alice.ok("cat ../x > plans/plan.md; sleep 0.3")
        if beside:  # a third one has it open for writing: they share a copy
            stack.enter_context(open(alice.where / "plans" / "plan.md", "r+b"))
        assert program.communicate("\n")[0] == f"{errno.EACCES} None\n"
    assert alice.ok("cat plans/plan.md").endswith("of the editor")
