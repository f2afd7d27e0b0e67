"""Hazard: who watches is not woken, wakes for nothing, or never ends."""

from __future__ import annotations

import os
import random
import signal
import threading
import weakref

import pytest

from coherent_volume import UsageError, watch, watching
from coherent_volume.watching import hub_of
from tests.harness.editors import EDITORS
from tests.harness.processes import until

PLAN = "plans/plan.md"


def edited(root, name, token):
    EDITORS[name](str(root / PLAN), token, random.Random(1))


def take(entries, count):
    return [next(entries) for _ in range(count)]


@pytest.fixture(params=["hints", "polling"])
def way(request, monkeypatch):
    """Both ways of noticing: the kernel's watches, and without any."""
    if request.param == "polling":
        monkeypatch.setattr(watching, "start", lambda *_: None)
    return request.param


def test_commit_of_another_process_arrives(root, alice, process, way):
    with alice.watch(timeout=60.0) as entries:
        process(
            """
            from coherent_volume import CoherentVolume
            with CoherentVolume(root, session="bob") as volume:
                volume.read("plans/plan.md")
                volume.write("plans/plan.md", "bob's")
            """,
            root=root,
        )
        entry = next(entries)
    assert (entry.kind, entry.session, entry.path, entry.generation) == ("write", "bob", PLAN, 1)


def test_who_is_told_of_a_commit_and_reads_at_once_finds_it(root, alice, process):
    alice.read(PLAN)
    with alice.watch(timeout=60.0) as entries:
        child = process.start(
            """
            from coherent_volume import CoherentVolume
            with CoherentVolume(root, session="bob") as volume:
                for number in range(20):
                    volume.read("plans/plan.md")
                    volume.write("plans/plan.md", f"text {number}")
                    tell(number)
                    hear()
            """,
            root=root,
        )
        for _ in range(20):
            entry = next(entries)
            assert alice.observe(PLAN).generation >= entry.generation
            child.hear()
            child.tell()


def test_nothing_is_lost_between_a_token_and_the_watch(alice):
    token = alice.changes().token
    alice.create("plans/a", "1")
    alice.write("plans/a", "2")
    with alice.watch(since=token, timeout=60.0) as entries:
        alice.write("plans/a", "3")
        assert [each.generation for each in take(entries, 3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (None, ["plans/a", "plans/sub/b", "plans/c"]),
        ("plans/a", ["plans/a"]),
        (["plans/a", "plans/sub/"], ["plans/a", "plans/sub/b"]),
        (["plans/**", "!plans/a"], ["plans/sub/b", "plans/c"]),
    ],
)
def test_only_what_was_asked_for_is_told(alice, paths, expected):
    with alice.watch(paths, timeout=1.0) as entries:
        for path in ("plans/a", "plans/sub/b", "plans/c"):
            alice.create(path, "")
        assert [entry.path for entry in entries] == expected


def test_a_name_made_of_wildcards_can_be_watched(alice):
    with alice.watch("plans/[x].md", timeout=60.0) as entries:
        alice.create("plans/x.md", "")
        alice.create("plans/[x].md", "")
        paths = {entry.path for entry in take(entries, 2)}
    assert "plans/[x].md" in paths


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("editor", ["replace", "unlink_and_create", "overwrite", "append"])
def test_save_from_outside_becomes_exactly_one_entry_while_somebody_watches(root, alice, editor):
    alice.read(PLAN)
    alice.write(PLAN, "<before>".ljust(200) + "\n")
    with alice.watch(PLAN, timeout=60.0) as entries:
        edited(root, editor, "token01")
        assert (next(entries).kind) == "foreign"
        # Whatever else it made of that one save would stand before this.
        alice.create("plans/mark", "")
        alice.read(PLAN)
        alice.write(PLAN, "mine\n")
        assert next(entries).session == "alice"


@pytest.mark.invariant("I8")
def test_save_as_vim_does_it_becomes_exactly_one_entry(root, alice):
    alice.read(PLAN)
    alice.write(PLAN, "before\n")
    path, backup = root / PLAN, root / f"{PLAN}~"
    with alice.watch(timeout=60.0) as entries:
        # A probe, a backup by rename, the new file under the name, the backup away.
        (root / "plans/4913").write_text("")
        (root / "plans/4913").unlink()
        path.rename(backup)
        path.write_text("from vim\n")
        backup.unlink()
        entry = next(entries)
        assert (entry.kind, entry.path, entry.generation) == ("foreign", PLAN, 2)
        alice.create("plans/mark", "")
        assert next(entries).path == "plans/mark"


def test_new_file_from_outside_is_told_once_by_all_who_watch(root, alice, bob):
    with alice.watch(timeout=60.0) as first, bob.watch(timeout=60.0) as second:
        (root / "plans/fresh.md").write_text("hello\n")
        told = [(e.kind, e.path, e.generation) for e in (next(first), next(second))]
        assert told == [("foreign", "plans/fresh.md", 0)] * 2
        alice.create("plans/mark", "")
        assert {next(first).path, next(second).path} == {"plans/mark"}


def test_directory_that_appears_later_is_watched_too(root, volume):
    alice = volume("alice", managed=("**",))
    with alice.watch("later/**", timeout=60.0) as entries:
        (root / "later/deep").mkdir(parents=True)
        (root / "later/deep/file").write_text("one\n")
        assert next(entries).path == "later/deep/file"


def test_directory_that_goes_away_takes_its_artifacts_along(root, alice, tmp_path):
    alice.create("plans/sub/a", "1")
    with alice.watch(timeout=60.0) as entries:
        (root / "plans/sub").rename(tmp_path / "elsewhere")
        entry = next(entries)
    assert (entry.kind, entry.path, entry.digest) == ("foreign", "plans/sub/a", "")


def test_own_commits_cause_no_gate_traffic(alice, monkeypatch):
    taken = []
    with alice.watch(timeout=60.0) as entries:
        alice.create("plans/a", "1")
        next(entries)
        looked = []
        real = watching.read
        monkeypatch.setattr(
            watching, "read", lambda parts, key: looked.append(key) or real(parts, key)
        )
        monkeypatch.setattr("coherent_volume.reading._read_gated", lambda *_: taken.append(1))
        alice.write("plans/a", "2")
        next(entries)
        until(lambda: looked, "the hint of the install was taken")
    assert taken == []


# ── ends ─────────────────────────────────────────────────────────────────────


def test_watch_ends_after_its_time(alice, way):
    assert list(alice.watch(timeout=0.2)) == []
    assert list(alice.watch(timeout=0)) == []


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
def test_time_that_cannot_be_waited_for_is_a_usage_error(alice, timeout):
    with pytest.raises(UsageError):
        alice.watch(timeout=timeout)


def test_token_that_is_none_starts_nothing(alice):
    before = threading.active_count()
    with pytest.raises(UsageError):
        alice.watch(since="nonsense")
    assert threading.active_count() == before


@pytest.mark.parametrize("what", ["watch", "volume"])
def test_closing_ends_the_waiting_of_another_thread(alice, what):
    entries = alice.watch()
    told = []
    thread = threading.Thread(target=lambda: told.extend(entries))
    thread.start()

    (entries if what == "watch" else alice).close()

    thread.join(30.0)
    assert not thread.is_alive()
    assert told == []


def test_two_threads_share_a_watch_without_telling_an_entry_twice(alice):
    told = []
    with alice.watch(timeout=60.0) as entries:

        def listen():
            told.extend(entries)

        threads = [threading.Thread(target=listen) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(20):
            alice.create(f"plans/{number}x", "")
        until(lambda: len(told) >= 20, "all were told")
        entries.close()
        for thread in threads:
            thread.join()
    assert sorted(e.seq for e in told) == sorted({e.seq for e in told})
    assert len(told) == 20


def test_last_watch_takes_its_threads_along(alice):
    def ours():
        # The thread that reads the kernel's queue serves the whole process and stays.
        return [t for t in threading.enumerate() if type(t).__name__ != "InotifyFD"]

    before = len(ours())
    with alice.watch(timeout=60.0):
        with alice.watch(timeout=60.0):
            pass
        assert "coherent-adoption" in {thread.name for thread in ours()}
        assert len(ours()) > before
    until(lambda: len(ours()) == before, "the threads ended")


def test_who_fell_behind_is_told_by_one_entry_and_goes_on(volume, root):
    volume("maker").close()
    config = root / ".coherence/config.toml"
    config.write_text(config.read_text().replace("generations = 100", "generations = 2"))
    alice = volume("alice", managed=None)
    token = alice.changes().token
    alice.create("plans/a", "")
    for number in range(9):
        alice.write("plans/a", f"{number}")
    with alice.watch(since=token, timeout=60.0) as entries:
        told = take(entries, 3)
        alice.write("plans/a", "now")
        told.append(next(entries))
    assert [each.kind for each in told] == ["gap", "write", "write", "write"]
    assert told[-1].generation == 11


def test_without_kernel_watches_it_says_so_once_and_works(
    alice, root, monkeypatch, expected_warnings
):
    def exhausted():
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watch, "_kernel_observer", exhausted)
    monkeypatch.setattr(watch, "_told", set())
    alice.read(PLAN)
    alice.write(PLAN, "before\n")
    for _ in range(2):
        with alice.watch(timeout=60.0) as entries:
            alice.create(f"plans/{os.urandom(4).hex()}", "")
            next(entries)
    with alice.watch(PLAN, timeout=60.0) as entries:
        edited(root, "replace", "token02")
        assert next(entries).kind == "foreign"
    told = [record.getMessage() for record in expected_warnings]
    assert told == ["watching by comparing file times: inotify watch limit reached"]


def test_forked_child_has_no_part_in_its_parents_watch(root, alice, process):
    child = process.start(
        """
        import os
        from coherent_volume import CoherentVolume
        volume = CoherentVolume(root, session="parent")
        entries = volume.watch(timeout=60.0)
        pid = os.fork()
        if pid == 0:
            inherited = list(entries)
            volume.create("plans/of-the-child", "")
            with volume.watch(timeout=60.0) as own:
                volume.create("plans/again", "")
                os._exit(0 if inherited == [] and next(own).path == "plans/again" else 3)
        status = os.waitpid(pid, 0)[1]
        told = [next(entries).path, next(entries).path]
        volume.close()
        return [status, told]
        """,
        root=root,
    )
    assert child.result() == [0, ["plans/of-the-child", "plans/again"]]


def test_interrupt_ends_a_watch_and_its_process(root, alice, process):
    child = process.start(
        """
        from coherent_volume import CoherentVolume
        with CoherentVolume(root, session="bob") as volume:
            with volume.watch() as entries:
                try:
                    tell("ready")
                    next(entries)
                except KeyboardInterrupt:
                    return "interrupted"
        """,
        root=root,
    )
    child.hear()
    os.kill(child.pid, signal.SIGINT)
    assert child.result() == "interrupted"


def test_watch_that_joins_while_others_are_woken_ends_no_thread(alice, monkeypatch):
    watches = [alice.watch(timeout=0) for _ in range(3)]
    hub = hub_of(alice._parts)
    members = weakref.WeakSet.__iter__

    def switched(self):
        for each in members(self):
            yield each
            if self is hub._watches and len(watches) < 10:
                watches.append(alice.watch(timeout=0))

    monkeypatch.setattr(weakref.WeakSet, "__iter__", switched)
    hub._wake()
    hub.close()
    assert all(each._closed for each in watches)
