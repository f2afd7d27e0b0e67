"""Hazard: a read that trusts a copy for too long, or lets a write pass that it should not."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from coherent_volume import (
    AccessCount,
    BusyError,
    CoherentVolume,
    ConflictError,
    NotFoundError,
    ReadLease,
    UsageError,
    cache,
    listening,
    read_policy,
    trusting,
    watching,
)
from coherent_volume.model import ArtifactKey
from tests.harness.editors import EDITORS, is_whole, signed
from tests.harness.processes import until

PLAN = "plans/plan.md"
KEY = ArtifactKey(PLAN.encode())

# As Python would write them, so that a child process can be told.
POLICIES = (
    '"strict"',
    '"notified"',
    '"eager"',
    '"broadcast"',
    "ReadLease(60.0)",
    "AccessCount(5)",
)
TRUSTING = tuple(each for each in POLICIES if each not in ('"strict"', '"broadcast"'))
LISTENING = ('"notified"', '"eager"')


def policy_of(text):
    return eval(text, {"ReadLease": ReadLease, "AccessCount": AccessCount})


@pytest.fixture
def reader(volume, bob, monkeypatch):
    """Open the volume as alice under a policy; the plan is at generation 1, and read."""
    # On a busy machine two seconds may pass between two lines of a test.
    monkeypatch.setattr(read_policy, "FRESH_S", 30.0)

    def open_reader(text, session="alice"):
        if not bob.log(PLAN):
            bob.write(PLAN, "one\n", overwrite=True)
        alice = volume(session, reads=policy_of(text))
        assert alice.read(PLAN) == b"one\n"
        if text in LISTENING:
            until(lambda: alice.read(PLAN) and is_trusted(alice), "the copy is trusted")
        return alice

    return open_reader


def is_trusted(volume):
    copy = volume._copies._copies.get(KEY)
    now = trusting.time.monotonic()
    return copy is not None and volume._copies._is_trusted(copy, now)


def counted(volume, name):
    full = f"coherent_{name}_total"
    found = [m.value for m in volume.metrics() if m.name == full]
    return sum(found)


def commit(volume, text):
    volume.read(PLAN)
    return volume.write(PLAN, text)


# ── a write is judged as ever ────────────────────────────────────────────────


@pytest.mark.invariant("I1")
@pytest.mark.parametrize("text", POLICIES)
def test_stale_view_is_refused_and_the_next_read_is_fresh(root, reader, process, text):
    alice = reader(text)
    process(
        """
        from coherent_volume import CoherentVolume
        with CoherentVolume(root, session="carol") as volume:
            volume.read("plans/plan.md")
            volume.write("plans/plan.md", "carol's")
        """,
        root=root,
    )
    with pytest.raises(ConflictError):
        alice.write(PLAN, "derived from one")
    # A refusal is as good as a signal: whoever retries must not get the old copy again.
    assert alice.read(PLAN) == b"carol's"
    assert alice.write(PLAN, "derived from carol's").generation == 3


@pytest.mark.invariant("I1")
@pytest.mark.parametrize("text", TRUSTING)
def test_processes_that_count_together_under_a_policy_lose_nothing(root, volume, process, text):
    volume("starter").create("plans/n", "0")
    body = """
        from coherent_volume import AccessCount, CoherentVolume, ConflictError, ReadLease
        volume = CoherentVolume(root, session=f"worker{number}", reads=eval(text))
        done = tries = 0
        while done < 12:
            tries += 1
            assert tries < 5000
            held = int(volume.read("plans/n"))
            try:
                volume.write("plans/n", str(held + 1))
                done += 1
            except ConflictError:
                pass
        volume.close()
        return done
        """
    children = [process.start(body, root=root, text=text, number=n) for n in range(2)]
    assert [child.result() for child in children] == [12, 12]
    assert volume("judge").read("plans/n") == b"24"


@pytest.mark.invariant("I9")
@pytest.mark.parametrize("text", TRUSTING)
def test_own_writes_are_seen_at_once_also_where_they_renew_no_view(reader, bob, text):
    alice = reader(text)
    assert alice.write(PLAN, "two\n").generation == 2
    assert alice.read(PLAN) == b"two\n"
    assert alice.read(PLAN) == b"two\n"
    commit(bob, "bob's\n")
    alice.append(PLAN, "appended\n")  # the view is stale, and stays what it was
    assert alice.read(PLAN) == b"bob's\nappended\n"
    alice.update(PLAN, lambda data: data + b"updated\n", renew=False)
    assert alice.read(PLAN).endswith(b"updated\n")
    with alice.transaction(renew=False) as move:
        move.write(PLAN, move.read(PLAN) + b"moved\n")
    assert alice.read(PLAN).endswith(b"moved\n")
    alice.undo()
    assert alice.read(PLAN).endswith(b"updated\n")
    alice.delete(PLAN)
    with pytest.raises(NotFoundError):
        alice.read(PLAN)
    alice.create(PLAN, "anew\n")
    assert alice.read(PLAN) == b"anew\n"


@pytest.mark.parametrize("text", TRUSTING)
def test_read_never_moves_the_view_to_what_it_did_not_hand_over(reader, bob, text):
    alice = reader(text)
    commit(bob, "two\n")
    seen = alice.observe(PLAN)
    assert alice.view_of(PLAN).generation == seen.generation
    assert seen.data == {1: b"one\n", 2: b"two\n"}[seen.generation]


# ── listening ────────────────────────────────────────────────────────────────


@pytest.mark.invariant("I9")
@pytest.mark.parametrize("text", LISTENING)
@pytest.mark.parametrize("way", ["hints", "polling"])
def test_commit_of_a_peer_is_seen_when_the_feed_tells_of_it(reader, bob, monkeypatch, text, way):
    if way == "polling":
        monkeypatch.setattr(watching, "start", lambda *_: None)
    alice = reader(text)
    commit(bob, "two\n")
    until(lambda: alice.read(PLAN) == b"two\n", "the commit was seen")
    assert alice.view_of(PLAN).generation == 2
    until(lambda: counted(alice, "signals") == 1, "the signal was counted")


@pytest.mark.parametrize("text", TRUSTING)
def test_trusted_copy_is_handed_over_without_a_look(reader, monkeypatch, text):
    alice = reader(text)

    def look(*_):
        raise AssertionError("the file was looked at")

    seen = alice.observe(PLAN)
    monkeypatch.setattr(cache.ContentCache, "get", look)
    monkeypatch.setattr(trusting, "receive", look)
    assert alice.read(PLAN) == b"one\n"
    assert alice.observe(PLAN, known=seen).data is None


@pytest.mark.invariant("I9")
@pytest.mark.parametrize("text", LISTENING)
def test_dead_listener_makes_every_read_look(reader, bob, monkeypatch, expected_warnings, text):
    alice = reader(text)

    def fail(*_):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(listening.feed, "changes", fail)
    alice._copies._listener.wake()
    alice._copies._listener._thread.join(30.0)
    for number in range(3):
        monkeypatch.undo()
        commit(bob, f"text {number}\n")
        assert alice.read(PLAN) == b"text %d\n" % number
    (told,) = [record.getMessage() for record in expected_warnings]
    assert told.startswith("the feed is heard no more, so every read looks")


@pytest.mark.invariant("I9")
@pytest.mark.parametrize("text", LISTENING)
def test_stalled_listener_bounds_the_trust(reader, bob, monkeypatch, text):
    monkeypatch.setattr(read_policy, "FRESH_S", 0.3)
    go_on = threading.Event()
    alice = reader(text)
    monkeypatch.setattr(alice._copies._listener, "_take", lambda _: go_on.wait(60.0))
    commit(bob, "two\n")
    try:
        until(lambda: alice.read(PLAN) == b"two\n", "the time of the copy was over")
        assert counted(alice, "signals") == 0
        commit(bob, "three\n")
        until(lambda: not is_trusted(alice), "nothing was heard for too long")
        assert alice.read(PLAN) == b"three\n"
    finally:
        go_on.set()


@pytest.mark.invariant("I9")
def test_listener_that_cannot_look_for_a_while_goes_on_later(reader, bob, monkeypatch):
    monkeypatch.setattr(watching, "start", lambda *_: None)
    alice = reader('"notified"')
    listener = alice._copies._listener
    tried = threading.Event()

    def fail(*_):
        tried.set()
        raise BusyError("another process has it")

    monkeypatch.setattr(listening.feed, "changes", fail)
    assert tried.wait(30.0)
    failed_at = listener.heard_until
    monkeypatch.undo()
    until(lambda: listener.heard_until > failed_at, "it looked again")
    commit(bob, "two\n")
    until(lambda: alice.read(PLAN) == b"two\n", "the commit was seen")


def test_signal_older_than_the_copy_changes_nothing(reader, bob):
    alice = reader('"notified"')
    told = bob.recent(100).entries
    commit(bob, "two\n")
    until(lambda: alice.read(PLAN) == b"two\n" and is_trusted(alice), "the copy is trusted")
    late = counted(alice, "late_signals")
    alice._copies._take([each for each in told if each.path == PLAN and each.generation == 1])
    assert is_trusted(alice)
    assert counted(alice, "late_signals") == late + 1


@pytest.mark.invariant("I9")
@pytest.mark.parametrize("text", LISTENING)
def test_signal_that_comes_before_the_copy_is_kept_is_not_lost(reader, bob, monkeypatch, text):
    alice = reader(text)
    real = trusting.receive
    token = bob.changes().token

    def overtaken(parts, key):
        answer = real(parts, key)
        monkeypatch.setattr(trusting, "receive", real)
        commit(bob, "three\n")
        alice._copies._take(bob.changes(since=token).entries)
        return answer

    commit(bob, "two\n")
    alice._copies._copies.clear()
    monkeypatch.setattr(trusting, "receive", overtaken)
    assert alice.read(PLAN) == b"two\n"
    assert alice.read(PLAN) == b"three\n"


def test_entries_that_were_missed_put_every_copy_in_doubt(reader):
    alice = reader('"notified"')
    era = alice._copies._era
    token = alice._copies._listener._look("00ff-3")  # of another feed
    assert alice._copies._era == era + 1
    assert token == alice.changes().token


def test_file_without_records_is_looked_at_by_every_read(root, volume):
    volume("maker").close()
    alice = volume(reads="notified")  # no named session: its reading makes no record
    alice.read(PLAN)
    for number in range(3):
        EDITORS["replace"](str(root / PLAN), f"token{number}", random.Random(1))
        assert f"token{number}".encode() in alice.read(PLAN)


def test_what_the_feed_brings_is_seen_only_when_it_is_read(reader, bob):
    alice = reader('"eager"')
    commit(bob, "two\n")
    until(lambda: counted(alice, "prefetches") == 1, "the content was brought")
    assert alice.view_of(PLAN).generation == 1
    with pytest.raises(ConflictError):
        alice.write(PLAN, "derived from one")
    commit(bob, "three\n")
    until(lambda: counted(alice, "prefetches") >= 2 and fetched(alice) == 3, "and again")
    misses = counted(alice, "read_misses")
    assert alice.observe(PLAN).generation == 3
    assert counted(alice, "prefetch_hits") == 1
    assert counted(alice, "read_misses") == misses
    assert alice.write(PLAN, "derived from three").generation == 4


@pytest.mark.invariant("I4")
def test_what_the_feed_brought_before_a_refusal_is_not_handed_over(reader, bob):
    alice = reader('"eager"')
    commit(bob, "two\n")
    until(lambda: fetched(alice) == 2, "the content was brought")
    bob.lease(PLAN, ttl=60.0)
    assert alice.break_lease(PLAN)  # the epoch grows; the bytes stay
    with pytest.raises(ConflictError):
        bob.write(PLAN, "fenced\n")
    with pytest.raises(ConflictError):
        alice.write(PLAN, "derived from one")
    assert alice.read(PLAN) == b"two\n"
    assert alice.write(PLAN, "derived from two").generation == 3


def test_what_the_feed_brought_needs_one_look_when_it_is_asked_for_late(reader, bob):
    alice = reader('"eager"')
    commit(bob, "two\n")
    provable = lambda: fetched(alice) == 2 and alice._copies._copies[KEY].entry.inode > 0  # noqa: E731
    until(provable, "the content was brought, and again when it was old enough")
    alice._copies._copies[KEY].until = 0.0
    misses = counted(alice, "read_misses")
    assert alice.read(PLAN) == b"two\n"
    assert counted(alice, "read_misses") == misses
    assert counted(alice, "prefetches") == 1


def fetched(volume):
    copy = volume._copies._copies.get(KEY)
    return copy.generation if copy is not None and copy.fetched is not None else None


@pytest.mark.invariant("I5")
@pytest.mark.parametrize("text", [*LISTENING, "ReadLease(0.01)"])
def test_threads_get_whole_generations_under_their_own_numbers(volume, text):
    volume("starter").create("plans/text", signed("original"))
    reader, writer = volume("reader", reads=policy_of(text)), volume("writer")
    done = threading.Event()
    contents = {}

    def read():
        while not done.is_set():
            seen = reader.observe("plans/text")
            assert is_whole(seen.data)
            assert contents.setdefault(seen.generation, seen.data) == seen.data

    def write():
        try:
            for turn in range(25):
                writer.update("plans/text", lambda _, t=turn: signed(f"t{t}"), retries=100)
        finally:
            done.set()

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(read), pool.submit(read), pool.submit(write)]:
            future.result()
    until(lambda: reader.observe("plans/text").generation == 26, "the last one was seen")


# ── time, number, delivery ───────────────────────────────────────────────────


@pytest.mark.invariant("I9")
def test_lease_of_a_copy_ends_with_its_time(reader, bob):
    alice = reader("ReadLease(0.3)")
    commit(bob, "two\n")
    until(lambda: alice.read(PLAN) == b"two\n", "the time was over")


@pytest.mark.invariant("I9")
def test_copy_answers_no_more_reads_than_it_may(reader, bob):
    alice = reader("AccessCount(5)")
    commit(bob, "two\n")
    assert [alice.read(PLAN) for _ in range(7)] == [b"one\n"] * 5 + [b"two\n"] * 2
    assert counted(alice, "stale_hits") == 5


def test_stale_reads_are_counted_when_they_come_to_light(reader, bob):
    alice = reader("ReadLease(60.0)")
    for _ in range(3):
        alice.read(PLAN)
    commit(bob, "two\n")
    for _ in range(4):
        assert alice.read(PLAN) == b"one\n"
    alice._copies.doubt()
    assert alice.read(PLAN) == b"two\n"
    assert counted(alice, "stale_hits") == 4


@pytest.mark.parametrize("text", POLICIES)
def test_reacquire_always_looks(reader, bob, text):
    alice = reader(text)
    commit(bob, "two\n")
    assert alice.reacquire() == [PLAN]
    assert alice.read(PLAN) == b"two\n"
    assert alice.write(PLAN, "three\n").generation == 3


@pytest.mark.invariant("I9")
@pytest.mark.parametrize(
    "text", ['"strict"', '"notified"', '"eager"', '"broadcast"', "ReadLease(0.3)", "AccessCount(3)"]
)
def test_edit_from_outside_is_seen_within_the_bound(root, reader, text):
    alice = reader(text)
    EDITORS["replace"](str(root / PLAN), "token01", random.Random(1))
    if text in ('"strict"', '"broadcast"'):
        assert b"token01" in alice.read(PLAN)
    if text == "AccessCount(3)":
        assert b"token01" in [alice.read(PLAN) for _ in range(4)][-1]
    until(lambda: b"token01" in alice.read(PLAN), "the edit was seen")


def test_broadcast_hands_over_what_is_known(reader):
    alice = reader('"broadcast"')
    seen = alice.observe(PLAN)
    assert alice.observe(PLAN, known=seen).data == b"one\n"
    assert counted(alice, "unchanged_replies") == 0


@pytest.mark.parametrize(
    "policy",
    [
        "lazy",
        None,
        3,
        ReadLease(0),
        ReadLease(float("nan")),
        ReadLease("1"),
        AccessCount(0),
        AccessCount(1.5),
        AccessCount(1, ttl=-1),
    ],
)
def test_what_is_no_policy_is_refused_before_anything_is_opened(root, volume, policy):
    volume("maker").close()
    before = os.listdir(root / ".coherence/sessions")
    with pytest.raises(UsageError):
        CoherentVolume(root, reads=policy)
    assert os.listdir(root / ".coherence/sessions") == before


def test_policy_can_be_asked_for(volume):
    assert volume("a").reads == "strict"
    assert volume("b", reads=ReadLease(2.0)).reads == ReadLease(ttl=2.0)


# ── life ─────────────────────────────────────────────────────────────────────


def test_closing_takes_the_listener_along(reader):
    alice = reader('"notified"')
    thread = alice._copies._listener._thread
    assert thread.is_alive()
    alice.close()
    assert not thread.is_alive()


def test_volume_that_was_forgotten_takes_its_listener_along(root, bob):
    commit(bob, "one\n")
    alice = CoherentVolume(root, session="alice", reads="eager")
    alice.read(PLAN)
    thread = alice._copies._listener._thread
    del alice
    until(lambda: not thread.is_alive(), "the listener ended")


@pytest.mark.parametrize("text", LISTENING)
def test_forked_child_listens_for_itself(root, volume, process, text):
    volume("starter").create("plans/n", "0")
    child = process.start(
        """
        import os, time, warnings
        from coherent_volume import CoherentVolume
        warnings.simplefilter("ignore", DeprecationWarning)
        volume = CoherentVolume(root, session="parent", reads=eval(text))
        peer = CoherentVolume(root, session="peer")
        def wait_for(number):
            end = time.monotonic() + 60
            while volume.read("plans/n") != b"%d" % number:
                assert time.monotonic() < end
        wait_for(0)
        pid = os.fork()
        if pid == 0:
            status = 3
            try:
                assert volume._copies._listener is None
                wait_for(0)
                peer.read("plans/n")
                peer.write("plans/n", "1")
                wait_for(1)
                assert volume._copies._listener._thread.is_alive()
                volume.close()
                status = 0
            finally:
                os._exit(status)
        status = os.waitpid(pid, 0)[1]
        wait_for(1)
        volume.close()
        peer.close()
        return status
        """,
        root=root,
        text=text,
    )
    assert child.result() == 0
