"""Hazard: somebody edits a file and bypasses the library (I8). No such edit may vanish."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from coherent_volume import (
    BusyError,
    ConflictError,
    DamagedError,
    ForeignEditError,
    NotFoundError,
    operations,
    points,
)
from coherent_volume.gating import ABSENCE_S
from tests.harness import evidence
from tests.harness.editors import (
    EDITORS,
    IN_PLACE,
    PATCHERS,
    edit_often,
    is_whole,
    signed,
    tokens_in,
)
from tests.harness.processes import Workers, until
from tests.harness.workload import FOREVER_S, write_often

PLAN = "plans/plan.md"
REMOVERS = ("remove", "move_away")
CONTENT_EDITORS = tuple(e for e in EDITORS if e not in {*REMOVERS, "change_mode"})


# ── one edit, nobody else at work ────────────────────────────────────────────


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("editor", CONTENT_EDITORS)
def test_write_over_an_outsiders_edit_is_refused(root, alice, editor):
    alice.create("plans/text", signed("original"))

    EDITORS[editor](str(root / "plans/text"), "outsider", random.Random(1))
    edited = (root / "plans/text").read_bytes()

    with pytest.raises(ForeignEditError):
        alice.write("plans/text", signed("alice"))
    assert "outsider" in tokens_in(edited)
    assert (root / "plans/text").read_bytes() == edited
    seen = alice.observe("plans/text")
    assert (seen.generation, seen.data) == (2, edited)
    assert alice.log("plans/text")[0].session == "outside"


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("editor", CONTENT_EDITORS)
def test_edit_by_an_outsider_is_one_generation_that_readers_see(root, alice, bob, editor):
    alice.create("plans/text", signed("original"))
    bob.read("plans/text")

    EDITORS[editor](str(root / "plans/text"), "outsider", random.Random(1))

    assert bob.state("plans/text") == "I"
    for _ in range(3):
        assert "outsider" in tokens_in(bob.read("plans/text"))
    assert bob.observe("plans/text").generation == 2
    bob.write("plans/text", "after reading\n")


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("editor", REMOVERS)
def test_removal_by_an_outsider_is_adopted_and_not_undone(root, alice, bob, editor):
    alice.create("plans/text", signed("original"))

    EDITORS[editor](str(root / "plans/text"), "outsider", random.Random(1))

    until(lambda: _is_gone(bob, "plans/text"), "the removal is adopted", 5.0)
    with pytest.raises(ConflictError):
        alice.write("plans/text", "from memory\n")
    assert not (root / "plans/text").exists()
    assert bob.create("plans/text", "anew\n").generation == 3


def _is_gone(volume, path):
    try:
        volume.read(path)
    except NotFoundError:
        return True
    except BusyError:
        return False
    return False


def test_change_of_mode_is_no_generation(root, alice, bob):
    alice.create("plans/text", signed("original"))

    (root / "plans/text").chmod(0o600)

    assert bob.observe("plans/text").generation == 1
    alice.write("plans/text", signed("alice"))
    assert (root / "plans/text").stat().st_mode & 0o777 == 0o600


def test_save_of_the_same_bytes_is_no_generation(root, alice, bob):
    alice.create("plans/text", signed("original"))

    temporary = root / "plans/other"
    temporary.write_bytes(signed("original"))
    temporary.replace(root / "plans/text")

    assert bob.observe("plans/text").generation == 1
    assert alice.write("plans/text", signed("alice")).generation == 2


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("in_place", [False, True])
def test_return_to_exact_older_bytes_is_adopted_and_not_undone(root, alice, bob, in_place):
    alice.create("plans/text", "old\n")
    alice.write("plans/text", "new\n")

    # A human's `git checkout` of the version before.
    if in_place:
        (root / "plans/text").write_bytes(b"old\n")
    else:
        (root / "plans/other").write_bytes(b"old\n")
        (root / "plans/other").replace(root / "plans/text")

    seen = bob.observe("plans/text")
    assert (seen.generation, seen.data) == (3, b"old\n")
    with pytest.raises(ConflictError):
        alice.write("plans/text", "newest\n")
    assert (root / "plans/text").read_bytes() == b"old\n"


@pytest.mark.invariant("I8")
def test_file_restored_after_a_delete_is_adopted_and_not_deleted_again(root, alice, bob):
    alice.create("plans/text", "old\n")
    alice.delete("plans/text")

    (root / "plans/text").write_bytes(b"old\n")

    seen = bob.observe("plans/text")
    assert (seen.generation, seen.data) == (3, b"old\n")
    assert (root / "plans/text").read_bytes() == b"old\n"


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("when", ["read", "written"])
def test_edit_of_the_same_size_with_a_restored_time_is_noticed(root, alice, when):
    file = root / "plans/text"
    alice.create("plans/text", "aaaa\n")
    if when == "read":
        alice.read("plans/text")
    before = file.stat()

    with file.open("r+b") as edited:
        edited.write(b"bbbb\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert alice.read("plans/text") == b"bbbb\n"


@pytest.mark.invariant("I8")
def test_edits_right_behind_a_commit_are_noticed_every_time(root, alice):
    file = root / "plans/text"
    alice.create("plans/text", b"%04d" % 0)
    for number in range(100):
        alice.write("plans/text", b"w%03d" % number)
        descriptor = os.open(file, os.O_WRONLY)
        os.pwrite(descriptor, b"f%03d" % number, 0)
        os.close(descriptor)
        assert alice.read("plans/text") == b"f%03d" % number


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("editor", [e for e in EDITORS if e != "change_mode"])
def test_edit_of_a_file_that_was_served_from_memory_is_noticed(root, alice, bob, editor):
    alice.create("plans/text", signed("original"))
    time.sleep(0.05)  # old enough to be remembered
    for reader in (alice, bob):
        for _ in range(3):
            assert reader.read("plans/text") == signed("original")

    EDITORS[editor](str(root / "plans/text"), "outsider", random.Random(1))

    for reader in (alice, bob):
        if editor in REMOVERS:
            assert _is_gone(reader, "plans/text")
        else:
            assert "outsider" in tokens_in(reader.read("plans/text"))


# ── a file that somebody holds open ──────────────────────────────────────────

HOLDER = """
    import os
    descriptor = os.open(path, os.O_RDWR)
    tell("open")
    while (order := hear()) != "close":
        os.pwrite(descriptor, order.encode(), 0)
        tell("written")
    os.close(descriptor)
    """


@pytest.mark.invariant("I8")
@pytest.mark.invariant("I10")
def test_commit_to_a_file_held_open_for_writing_is_busy_and_names_the_holder(root, alice, process):
    alice.create("plans/text", "aaaa\n")
    holder = process.start(HOLDER, path=root / "plans/text")
    holder.hear()

    with pytest.raises(BusyError) as refusal:
        alice.write("plans/text", "mine\n")

    assert str(holder.pid) in str(refusal.value)
    assert alice.observe("plans/text").generation == 1
    assert (root / "plans/text").read_bytes() == b"aaaa\n"
    holder.tell("close")
    holder.result()
    assert alice.write("plans/text", "mine\n").generation == 2


@pytest.mark.invariant("I8")
def test_half_written_file_is_never_adopted(root, alice, bob, process):
    alice.create("plans/text", "whole text\n")
    holder = process.start(
        """
        import os
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
        tell("emptied")
        hear()
        os.write(descriptor, b"half ")
        tell("half")
        hear()
        os.write(descriptor, b"and half\\n")
        os.close(descriptor)
        """,
        path=root / "plans/text",
    )

    for state in ("emptied", "half"):
        assert holder.hear() == state
        for session in (alice, bob):
            # Nobody is told of a generation that holds the half.
            try:
                seen = session.observe("plans/text")
            except BusyError:
                pass
            else:
                assert (seen.generation, seen.data) == (1, b"whole text\n")
        with pytest.raises((BusyError, ConflictError)):
            alice.write("plans/text", "over the half\n")
        holder.tell()
    holder.result()

    seen = bob.observe("plans/text")
    assert (seen.generation, seen.data) == (2, b"half and half\n")
    bob.close()
    alice.close()
    contents = [past.content for past in evidence.look(root).of("plans/text")]
    assert contents == [b"whole text\n", b"half and half\n"]


# ── one edit at each moment of a commit ──────────────────────────────────────

# In-place editors would wait at these points for the commit's read lease to go;
# they race it in processes of their own, further down.
RENAMERS = ("replace", "unlink_and_create", "remove", "move_away")
POINTS_OF_A_COMMIT = (
    "staged",
    "gate_acquired",
    "checked",
    "before_publish",
    "published",
    "before_install",
    "installed",
    "verified",
    "acknowledged",
)


class _EditAt:
    """Edits once at each of the given points, in their order."""

    def __init__(self, path: Path, *edits: tuple[str, str]) -> None:
        self._path, self._edits, self.done = str(path), list(edits), 0

    def __call__(self, name: str) -> None:
        if self.done < len(self._edits) and self._edits[self.done][0] == name:
            editor = self._edits[self.done][1]
            self.done += 1
            EDITORS[editor](self._path, f"outsider{self.done}", random.Random(1))


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("point", POINTS_OF_A_COMMIT)
@pytest.mark.parametrize("editor", RENAMERS)
def test_edit_in_the_middle_of_a_commit_is_kept_and_so_is_the_commit(
    root, volume, monkeypatch, editor, point
):
    alice, bob = volume("alice"), volume("bob")
    alice.create("plans/text", signed("original"))
    edit = _EditAt(root / "plans/text", (point, editor))

    monkeypatch.setattr(points, "reached", edit)
    refusal = _refusal_of(lambda: alice.write("plans/text", signed("alice")))
    monkeypatch.undo()

    assert edit.done == 1
    removed = editor in REMOVERS
    with contextlib.suppress(NotFoundError):
        bob.read("plans/text")
    kept = _closed(root, alice, bob)
    found = set().union(*map(tokens_in, kept.everything()))
    assert "alice" in found
    assert removed or "outsider1" in found
    past = kept.of("plans/text")
    assert kept.visible.get("plans/text") == past[-1].content
    # The writer was told: its bytes are a generation, or it got a refusal that says not.
    stands = refusal is None or refusal.fields.get("committed") is not None
    assert [p.session for p in past].count("alice") == 1 + stands
    # After the point of no return the edit comes later than the commit, and wins.
    if point in {"published", "before_install", "installed", "verified", "acknowledged"}:
        assert stands
        assert past[-1].session == "outside"


def _waited_for(path: Path) -> bool:
    """Whether somebody wants to open *path* for writing, and waits for a lease on it."""
    inode = f":{path.stat().st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return any("BREAKING" in line and inode in f"{line} " for line in lines)


def _write_in_place(path: str, data: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)  # waits for the commit's lease
    os.write(descriptor, data.encode())
    os.close(descriptor)


@pytest.mark.invariant("I8")
def test_editor_that_opened_the_file_in_the_middle_of_a_commit_gets_its_name_back(
    root, volume, monkeypatch
):
    """It resolved the name already: its bytes go to that inode, which must be the visible one."""
    alice, bob = volume("alice"), volume("bob")
    alice.create("plans/text", "one")
    with Workers() as workers:

        def open_at_the_exchange(name):
            if name == "before_install" and not workers.all:
                workers.start(_write_in_place, path=root / "plans/text", data="in place")
                until(lambda: _waited_for(root / "plans/text"), "the editor waits")

        monkeypatch.setattr(points, "reached", open_at_the_exchange)
        refusal = _refusal_of(lambda: alice.write("plans/text", "two"))
        monkeypatch.undo()
        workers.finish()

    assert isinstance(refusal, ForeignEditError)
    assert (root / "plans/text").read_bytes() == b"in place"
    assert bob.read("plans/text") == b"in place"
    kept = _closed(root, alice, bob)
    assert [p.content for p in kept.of("plans/text")] == [b"one", b"two", b"in place"]


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("second", RENAMERS)
@pytest.mark.parametrize("point", ["race_found", "put_back"])
def test_second_edit_while_the_first_is_put_back_is_kept_too(
    root, volume, monkeypatch, second, point
):
    alice, bob = volume("alice"), volume("bob")
    alice.create("plans/text", signed("original"))
    edit = _EditAt(root / "plans/text", ("before_install", "replace"), (point, second))

    monkeypatch.setattr(points, "reached", edit)
    refusal = _refusal_of(lambda: alice.write("plans/text", signed("alice")))
    monkeypatch.undo()

    assert edit.done == 2
    assert isinstance(refusal, ForeignEditError)
    assert refusal.committed == 2
    with contextlib.suppress(NotFoundError):
        bob.read("plans/text")
    kept = _closed(root, alice, bob)
    found = set().union(*map(tokens_in, kept.everything()))
    assert found >= {"original", "alice", "outsider1"}
    assert second in REMOVERS or "outsider2" in found
    past = kept.of("plans/text")
    assert kept.visible.get("plans/text") == past[-1].content
    assert past[-1].session == "outside"


@pytest.mark.invariant("I6")
@pytest.mark.parametrize("lost", ["copy", "generation", "report"])
def test_raced_commit_is_told_as_one_that_stands_whatever_fails_afterwards(
    root, alice, monkeypatch, lost
):
    alice.create("plans/text", signed("original"))
    monkeypatch.setattr(
        points, "reached", _EditAt(root / "plans/text", ("before_install", "replace"))
    )

    def failing(*_):
        if lost == "copy":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise DamagedError("the records contradict themselves")

    where = {"copy": "keeping.Keeping._draft", "generation": "commit.content_of"}
    monkeypatch.setattr(f"coherent_volume.{where.get(lost, 'report.attach')}", failing)
    with pytest.raises(ForeignEditError, match="yours is generation 2") as refusal:
        alice.write("plans/text", signed("alice"))
    assert refusal.value.fields["committed"] == 2
    assert (refusal.value.kept is None) == (lost != "report")
    assert [each.generation for each in alice.log("plans/text")] == [3, 2, 1]


def _refusal_of(call):
    try:
        call()
    except ConflictError as error:
        return error
    return None


def _closed(root, *volumes):
    for each in volumes:
        each.close()
    return evidence.look(root)


@pytest.mark.invariant("I8")
def test_second_name_given_in_the_middle_of_a_commit_keeps_the_inode_alive(
    root, volume, monkeypatch, expected_warnings
):
    """Who links the file just before it is displaced may write to it much later."""
    alice, bob = volume("alice"), volume("bob")
    alice.create("plans/text", signed("original"))

    def reached(name):
        if name == "before_install":
            os.link(root / "plans/text", root / "other")

    monkeypatch.setattr(points, "reached", reached)
    refusal = _refusal_of(lambda: alice.write("plans/text", signed("alice")))
    monkeypatch.undo()
    # Long after its time to go; other commits want its place.
    for number in range(8):
        time.sleep(0.03)
        bob.update("plans/text", lambda _, n=number: signed(f"bob{n}"))
    with open(root / "other", "r+b") as file:
        file.write(signed("outsider"))
    (root / "other").unlink()

    assert refusal is None
    bob.check(repair=True)
    kept = _closed(root, alice, bob)
    assert "outsider" in set().union(*map(tokens_in, kept.everything()))
    assert all(is_whole(p.content) for p in kept.of("plans/text"))


# ── editors racing commits ───────────────────────────────────────────────────


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("editor", CONTENT_EDITORS)
def test_editor_that_races_commits_loses_nothing(root, volume, editor, expected_warnings):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    edits, commits = _race(volume, root, editor, seed, seconds=2.0)

    kept = evidence.look(root)
    held = kept.everything()
    found = set().union(*map(tokens_in, held))
    lost = [token for token in [*edits, *commits] if token not in found]
    assert not lost, f"of {len(edits)} edits and {len(commits)} commits: {lost}"
    torn = [text for text in held if not is_whole(text)]
    assert not torn, f"{len(torn)} half texts were kept, the first: {torn[0][:200]!r}"
    _assert_one_generation_for_each(kept.of("plans/text"), editor, edits)


def _race(
    volume, root: Path, editor: str, seed: int, seconds: float
) -> tuple[list[str], list[str]]:
    """Three sessions at work and one editor; the tokens of all edits and all commits."""
    (root / PLAN).unlink()  # so that all there is is signed
    with volume("starter") as starter:
        starter.create("plans/text", signed("original"))
    evidence.keep_everything(root)
    path = "plans/text"
    with Workers() as workers:
        sessions = [
            workers.start(
                write_often,
                root=root,
                path=path,
                session=name,
                seed=seed + number,
                seconds=FOREVER_S,
            )
            for number, name in enumerate(("alice", "bob", "carol"))
        ]
        for worker in sessions:
            worker.wait_for("committed")
        outsider = workers.start(
            edit_often, path=root / path, editor=editor, seed=seed, seconds=seconds
        )
        outsider.finish()
        edits = [said["token"] for said in outsider.said("edited")]
        assert len(edits) >= 3, f"only {len(edits)} edits came through"
        for worker in sessions:
            assert worker.running, worker.complaint()
            worker.kill()
        commits = [said["token"] for worker in sessions for said in worker.said("committed")]
        refused = [said for worker in sessions for said in worker.said("refused")]
    print(f"{len(edits)} edits, {len(commits)} commits, {len(refused)} refusals")
    with volume("visitor") as visitor:
        # Whoever comes next mends what the killed left, and judges what they displaced.
        _is_gone(visitor, path)
        visitor.check(repair=True)
    return edits, commits


def _assert_one_generation_for_each(past: Sequence[evidence.Past], editor: str, edits) -> None:
    foreign = [p for p in past if p.session == "outside"]
    texts = [p.content for p in foreign if p.content is not None]
    if editor != "unlink_and_create":
        assert len(foreign) == len(texts), "a hole was adopted"
    # A patch stands on top of a text that somebody else signed, so count by token.
    for token in edits:
        carrying = [text for text in texts if token in tokens_in(text)]
        if editor not in PATCHERS:
            assert len(carrying) <= 1, f"{token} became {len(carrying)} generations"


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("editor", REMOVERS)
def test_remover_that_races_commits_is_obeyed_and_loses_no_commit(
    root, volume, editor, expected_warnings
):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    removals, commits = _race(volume, root, editor, seed, seconds=2.0)

    kept = evidence.look(root)
    found = set().union(*map(tokens_in, kept.everything()))
    assert not [token for token in commits if token not in found]
    deletions = [p for p in kept.of("plans/text") if p.content is None]
    assert deletions, f"{len(removals)} removals and none was adopted"
    assert {p.session for p in deletions} == {"outside"}


@pytest.mark.invariant("I8")
def test_changer_of_modes_that_races_commits_makes_no_generation(root, volume, expected_warnings):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    _, commits = _race(volume, root, "change_mode", seed, seconds=1.5)

    past = evidence.look(root).of("plans/text")
    assert "outside" not in {p.session for p in past}
    assert len(past) >= len(commits)


# ── holes ────────────────────────────────────────────────────────────────────


@pytest.mark.invariant("I8")
def test_hole_of_a_moment_is_not_taken_for_a_removal(root, alice, bob, process):
    alice.create("plans/text", "old\n")
    bob.read("plans/text")
    saver = process.start(
        """
        import os, time
        longest = 0.0
        for number in range(20):
            begun = time.monotonic()
            os.unlink(path)
            time.sleep(0.03)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            longest = max(longest, time.monotonic() - begun)
            os.write(descriptor, b"save %02d\\n" % number)
            os.close(descriptor)
            time.sleep(0.01)
        return longest
        """,
        path=root / "plans/text",
    )
    removed = False
    while saver.popen.poll() is None:
        try:
            data = bob.read("plans/text")
        except BusyError:
            continue
        except NotFoundError:
            removed = True
            continue
        assert data == b"old\n" or data.startswith(b"save"), data
    if saver.result() >= ABSENCE_S:
        pytest.skip("the saver was held up for longer than a hole of a moment")

    assert not removed
    assert bob.read("plans/text") == b"save 19\n"
    bob.close()
    alice.close()
    assert None not in [past.content for past in evidence.look(root).of("plans/text")]


@pytest.mark.invariant("I8")
def test_git_checkout_succeeds_while_sessions_commit(root, volume):
    """Git unlinks each file and insists on creating it; a file put back in between fails it."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    names = [f"plans/{number}.md" for number in range(3)]
    git = _Git(root)
    for version in ("one", "two"):
        for name in names:
            (root / name).write_bytes(signed(f"{version}{Path(name).stem}"))
        git("add", "-A")
        git("commit", "-qm", version)
    volume("starter").close()
    evidence.keep_everything(root)

    with Workers() as workers:
        sessions = [
            workers.start(
                write_often, root=root, path=name, session=f"s{n}", seed=seed + n, seconds=FOREVER_S
            )
            for n, name in enumerate(names)
        ]
        for worker in sessions:
            worker.wait_for("committed")
        for number in range(24):
            git("checkout", "-qf", ("HEAD~1", "master")[number % 2], "--", "plans")
        for worker in sessions:
            assert worker.running, worker.complaint()
            worker.kill()

    kept = evidence.look(root)
    for name in names:
        past = kept.of(name)
        assert None not in [p.content for p in past], "a hole was adopted as a removal"
        assert all(is_whole(p.content) for p in past)


class _Git:
    def __init__(self, root: Path) -> None:
        self._root = root
        self("init", "-q", "-b", "master")

    def __call__(self, *arguments: str) -> None:
        identity = ["-c", "user.name=human", "-c", "user.email=human@example.org"]
        answer = subprocess.run(
            ["git", *identity, *arguments],
            cwd=self._root,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"},
        )
        assert answer.returncode == 0, answer.stderr


def test_every_editor_is_tested():
    assert {*CONTENT_EDITORS, *REMOVERS, "change_mode"} == set(EDITORS)
    assert set(PATCHERS) < set(IN_PLACE)


def test_points_of_a_commit_are_points():
    assert set(POINTS_OF_A_COMMIT) < set(points.POINTS)


@pytest.mark.invariant("I5")
@pytest.mark.parametrize("way", ["observe", "update", "append", "rename"])
def test_large_file_that_is_changed_while_it_is_read_again_is_no_generation(
    root, alice, monkeypatch, way
):
    """Beside somebody who has it open; what was hashed is not what would be handed on."""
    monkeypatch.setattr("coherent_volume.files.IN_MEMORY_MAX", 100)
    alice.create("plans/large", b"A" * 1000)
    real = operations.reading_open
    with open(root / "plans/large", "r+b", buffering=0) as editor:

        @contextlib.contextmanager
        def edited(parts, key):
            with real(parts, key) as found:
                os.pwrite(editor.fileno(), b"B" * 10, 500)
                yield found
                os.pwrite(editor.fileno(), b"A" * 10, 500)

        monkeypatch.setattr("coherent_volume.operations.reading_open", edited)
        calls = {
            "observe": lambda: alice.observe("plans/large"),
            "update": lambda: alice.update("plans/large", lambda data: data + b"!", retries=0),
            "append": lambda: alice.append("plans/large", b"!"),
            "rename": lambda: alice.rename("plans/large", "plans/moved"),
        }
        monkeypatch.setattr("coherent_volume.operations.TURN_WAIT_S", 0.01)
        with pytest.raises(BusyError):
            calls[way]()
    for entry in alice.log():
        if entry.path == "plans/large":
            assert alice.read_at(entry.path, entry.generation) == b"A" * 1000
