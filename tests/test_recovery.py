"""Hazard: the world changed while nobody looked: power cut, old records, a person (I7, I8).

A power cut is played: a process dies right after its commit, the files are put
as a cut would have left them, and the next visitor believes in another boot.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from coherent_volume import (
    CoherentVolume,
    ConflictError,
    DamagedError,
    ForeignEditError,
    NotFoundError,
    NotObservedError,
    StaleGenerationError,
    install,
    points,
)
from coherent_volume.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from tests.harness import evidence
from tests.harness.editors import EDITORS
from tests.harness.processes import until
from tests.harness.sweep import Nursery, PointHook

TEXT = "plans/text"
WITNESS = "user.coherence.gen"


# ── the process that dies, and the power cut ─────────────────────────────────


def commit_and_die(root: str, steps: list[list[str]], kill: list | None, edits: list) -> None:
    """Do *steps* as alice; die at once, with nothing cleaned up and nothing flushed."""
    volume = CoherentVolume(root, session="alice")
    volume._maintenance.nudge = lambda: None  # type: ignore[method-assign]
    with contextlib.suppress(NotFoundError):
        volume.read(TEXT)
    *first, (last, *arguments) = steps
    for verb, *words in first:
        getattr(volume, verb)(TEXT, *words)
    hook = PointHook(kill and tuple(kill))
    left = list(edits)

    def reached(name: str) -> None:
        if left and left[0][0] == name:
            _, editor, token = left.pop(0)
            EDITORS[editor](f"{root}/{TEXT}", token, random.Random(1))
        hook(name)

    points.reached = reached
    getattr(volume, last)(TEXT, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as opened:
        yield opened


@pytest.fixture
def die(root, volume, nursery):
    """``die(("write", "one"), ...)`` commits in a process that is killed right after."""
    volume("starter").close()

    def commit(*steps, kill=None, edits=()):
        ended = nursery(commit_and_die, root=root, steps=steps, kill=kill, edits=edits)
        assert ended.killed, ended.events

    return commit


@pytest.fixture
def text(root):
    """The file, before anybody committed to it."""
    file = root / TEXT
    file.write_bytes(b"zero\n")
    return file


@pytest.fixture
def next_boot(volume):
    """``next_boot("bob")`` is a volume opened after the machine was started again."""

    def boot(session="bob"):
        opened = volume(session)
        opened._parts.boot = "another boot"
        return opened

    return boot


def undo_rename(file: Path, inode: int) -> None:
    """The cut took the renames back: *inode* bears its former name again."""
    staging = file.parent.parent / ".coherence" / "staging"
    (stage,) = (s for s in staging.iterdir() if s.stat().st_ino == inode)
    with contextlib.ExitStack() as stack:
        directories = [os.open(d, os.O_RDONLY | os.O_DIRECTORY) for d in (staging, file.parent)]
        for each in directories:
            stack.callback(os.close, each)
        flags = RENAME_EXCHANGE if file.exists() else RENAME_NOREPLACE
        renameat2(
            directories[0], os.fsencode(stage.name), directories[1], file.name.encode(), flags
        )


def tear(file: Path, content: bytes) -> None:
    """The cut kept the inode and lost its data."""
    before = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def refused(root: Path) -> list[bytes]:
    return [f.read_bytes() for f in (root / ".coherence/refused").iterdir()]


def history(volume) -> list[tuple[int, str]]:
    """(generation, session), oldest first; no gap, no number twice."""
    entries = list(reversed(volume.log(TEXT)))
    assert all(b.generation == a.generation + 1 == b.base + 1 for a, b in pairwise(entries))
    return [(entry.generation, entry.session) for entry in entries]


def said(expected_warnings) -> str:
    return "\n".join(record.getMessage() for record in expected_warnings)


# ── after a power cut ────────────────────────────────────────────────────────


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("commits", [1, 2, 5])
def test_file_that_is_generations_behind_after_a_power_cut_is_made_current(
    root, text, die, next_boot, expected_warnings, commits
):
    original = text.stat().st_ino
    die(*[("write", f"text {n}\n") for n in range(1, commits + 1)])
    undo_rename(text, original)
    assert text.read_bytes() == b"zero\n"

    bob = next_boot()
    seen = bob.observe(TEXT)

    assert (seen.generation, seen.data) == (commits, f"text {commits}\n".encode())
    assert text.read_bytes() == seen.data
    assert f"{TEXT}: generation {commits} was made visible again" in said(expected_warnings)
    assert refused(root) == []  # generation 0 is in the history
    assert "outside" not in [who for generation, who in history(bob) if generation]
    assert bob.write(TEXT, "bob's\n").generation == commits + 1
    assert bob.check().ok


@pytest.mark.invariant("I7")
@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b"", []),
        (b"\0" * 8, []),
        (b"\0" * 4096, []),
        (b"tex\0\0\0\0\0", [b"tex\0\0\0\0\0"]),
        (b"text ", [b"text "]),
    ],
    ids=["empty", "zeros", "longer_zeros", "half_zeros", "half"],
)
def test_torn_file_after_a_power_cut_is_made_anew_and_its_bytes_are_kept(
    root, text, die, next_boot, expected_warnings, left, kept
):
    die(("write", "text 1\n"))
    tear(text, left)

    bob = next_boot()
    seen = bob.observe(TEXT)

    assert (seen.generation, seen.data) == (1, b"text 1\n")
    assert text.read_bytes() == b"text 1\n"
    assert refused(root) == kept
    assert ("kept in .coherence/refused/" in said(expected_warnings)) == bool(kept)
    assert bob.write(TEXT, "bob's\n").generation == 2


@pytest.mark.invariant("I7")
def test_torn_large_file_after_a_power_cut_is_made_anew(
    root, text, die, next_boot, expected_warnings
):
    content = "large\n" * 100_000
    die(("write", content))
    tear(text, b"\0" * len(content))

    assert next_boot().read(TEXT) == content.encode()
    assert text.read_bytes() == content.encode()
    assert refused(root) == []


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("where", ["in_staging", "nowhere"])
def test_created_file_that_a_power_cut_made_absent_exists_again(
    root, die, next_boot, expected_warnings, where
):
    file = root / TEXT
    staging = root / ".coherence/staging"
    die(("create", "new\n"))
    if where == "in_staging":
        # The rename was lost: the file bears its stage's name still.
        token = (root / ".coherence/sessions").iterdir()
        file.rename(staging / f"{next(iter(token)).name}.0")
    else:
        file.unlink()

    bob = next_boot()

    assert bob.observe(TEXT).generation == 1
    assert file.read_bytes() == b"new\n"
    assert bob.check().ok


@pytest.mark.invariant("I7")
def test_file_whose_deletion_a_power_cut_took_back_is_deleted_again(
    root, text, die, next_boot, expected_warnings
):
    inode = text.stat().st_ino
    die(("delete",))
    undo_rename(text, inode)

    bob = next_boot()

    with pytest.raises(NotFoundError) as missing:
        bob.read(TEXT)
    assert missing.value.generation == 1
    assert not text.exists()
    assert bob.create(TEXT, "anew\n").generation == 2


@pytest.mark.invariant("I7")
def test_power_cut_while_a_raced_edit_was_put_back_keeps_edit_and_commit(
    root, text, die, next_boot, expected_warnings
):
    die(
        ("write", "alice's\n"),
        kill=("put_back", 1),
        edits=[("before_install", "replace", "outsider")],
    )
    assert text.read_bytes() == b"alice's\n"
    tear(text, b"\0" * 8)

    bob = next_boot()

    assert b"<outsider>" in bob.read(TEXT)
    assert history(bob) == [(0, "outside"), (1, "alice"), (2, "outside")]
    assert text.read_bytes() == bob.read(TEXT)
    assert refused(root) == []


@pytest.mark.invariant("I7")
def test_commit_that_was_not_installed_before_the_power_cut_is_installed_after_it(
    text, die, next_boot, expected_warnings
):
    die(("write", "one\n"), kill=("published", 1))

    assert next_boot().read(TEXT) == b"one\n"
    assert text.read_bytes() == b"one\n"


@pytest.mark.invariant("I7")
def test_new_start_without_any_loss_repairs_nothing_and_says_nothing(text, die, next_boot):
    die(("write", "one\n"), ("write", "two\n"))

    bob = next_boot()

    assert bob.observe(TEXT).generation == 2
    assert bob.write(TEXT, "three\n").generation == 3


# ── a person after the power cut ─────────────────────────────────────────────


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("editor", ["replace", "truncate", "overwrite", "append"])
@pytest.mark.parametrize("behind", [False, True])
def test_edit_after_a_power_cut_is_adopted_and_not_healed_away(
    root, text, die, next_boot, editor, behind
):
    original = text.stat().st_ino
    die(("write", "one\n" * 20), ("write", "two\n" * 20))
    if behind:
        undo_rename(text, original)
    EDITORS[editor](str(text), "human", random.Random(1))
    edited = text.read_bytes()

    bob = next_boot()
    seen = bob.observe(TEXT)

    assert (seen.generation, seen.data) == (3, edited)
    assert b"<human>" in edited
    assert text.read_bytes() == edited
    assert history(bob)[-1] == (3, "outside")
    assert refused(root) == []


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("clean", [False, True])
def test_removal_after_a_new_start_is_adopted(text, die, volume, next_boot, clean):
    die(("write", "one\n"), ("write", "two\n"))
    if clean:
        with volume("cleaner") as cleaner:
            cleaner.create("plans/other", "")
            until(lambda: not cleaner._parts.displaced, "cleaned up")
    text.unlink()

    bob = next_boot()

    with pytest.raises(NotFoundError) as missing:
        bob.read(TEXT)
    assert missing.value.generation == 3
    assert not text.exists()


# ── a person within the same boot ────────────────────────────────────────────


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_exact_bytes_of_an_older_generation_are_adopted_and_not_undone(
    text, die, volume, settled, in_place
):
    die(("write", "one\n"), ("write", "two\n"))
    if settled:
        with volume("carol") as carol:
            carol.create("plans/other", "")
            until(lambda: not carol._parts.displaced, "cleaned up")
    if in_place:
        text.write_bytes(b"one\n")
    else:
        text.with_name("tmp").write_bytes(b"one\n")
        text.with_name("tmp").replace(text)

    bob = volume("bob")

    assert bob.observe(TEXT).generation == 3
    assert text.read_bytes() == b"one\n"
    assert history(bob)[-1] == (3, "outside")


@pytest.mark.invariant("I8")
def test_exact_bytes_from_before_the_first_commit_are_adopted_and_not_undone(text, die, volume):
    die(("write", "one\n"))
    text.write_bytes(b"zero\n")

    assert volume("bob").observe(TEXT).generation == 2
    assert text.read_bytes() == b"zero\n"


@pytest.mark.invariant("I7")
def test_change_of_mode_before_recovery_is_no_edit_and_is_kept(text, die, volume):
    die(("write", "one\n"), kill=("published", 1))
    text.chmod(0o600)

    bob = volume("bob")

    assert bob.observe(TEXT).generation == 1
    assert text.read_bytes() == b"one\n"
    assert text.stat().st_mode & 0o777 == 0o600


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("older", [b"zero\n", b"other\n"])
def test_file_restored_over_a_deletion_that_was_not_installed_is_adopted(
    root, text, die, volume, older
):
    die(("delete",), kill=("published", 1))
    text.with_name("tmp").write_bytes(older)
    text.with_name("tmp").replace(text)

    bob = volume("bob")

    # Its digest is that of the generation before; its inode is not.
    assert bob.observe(TEXT).generation == 2
    assert text.read_bytes() == older
    assert history(bob)[-1] == (2, "outside")


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("boots", [1, 2])
def test_edit_that_came_between_publishing_and_installing_is_adopted_on_top(
    text, die, volume, next_boot, boots
):
    die(("write", "one\n"), kill=("published", 1))
    text.with_name("tmp").write_bytes(b"edited\n")
    text.with_name("tmp").replace(text)

    bob = volume("bob") if boots == 1 else next_boot()

    assert bob.read(TEXT) == b"edited\n"
    assert history(bob) == [(0, "outside"), (1, "alice"), (2, "outside")]


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("settled", [False, True])
def test_edit_in_place_with_its_time_put_back_is_adopted(text, die, volume, settled):
    die(("write", "one\n"))
    if settled:
        with volume("carol") as carol:
            carol.create("plans/other", "")
            until(lambda: not carol._parts.displaced, "cleaned up")
    tear(text, b"two\n")  # same inode, same size, same mtime

    bob = volume("bob")
    assert bob.observe(TEXT).generation == 2
    assert text.read_bytes() == b"two\n"
    assert history(bob)[-1] == (2, "outside")


ODD_NAME = "plans/\x1b]0;title\x07\x1b[2Jx"


def commit_to_the_odd_name_and_die(root: str) -> None:
    """In a child: what is to be installed is gone when it dies."""
    volume = CoherentVolume(root, session="alice")

    def reached(name: str) -> None:
        if name == "before_install":
            for stage in Path(root, ".coherence", "staging").iterdir():
                stage.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    volume.create(ODD_NAME, "one")
    points.reached = reached
    volume.write(ODD_NAME, "two")


def test_name_that_a_warning_tells_reaches_no_terminal_as_a_command(
    root, volume, nursery, expected_warnings
):
    volume("starter").close()
    assert nursery(commit_to_the_odd_name_and_die, root=root).killed
    assert volume("bob").read(ODD_NAME) == b"two"
    told = said(expected_warnings)
    assert "was made visible again" in told
    assert "\x1b" not in told
    assert "\x07" not in told


@pytest.mark.invariant("I8")
def test_removed_file_is_not_installed_again(text, die, volume):
    die(("write", "one\n"))
    text.unlink()
    bob = volume("bob")

    with pytest.raises(NotFoundError):
        bob.read(TEXT)
    assert not text.exists()


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("kill", [("installed", 1), ("race_found", 1), ("put_back", 1)])
def test_second_edit_after_a_death_in_the_middle_of_a_race_loses_neither(
    root, text, die, volume, kill
):
    die(("write", "one\n"), kill=kill, edits=[("before_install", "replace", "first")])
    EDITORS["replace"](str(text), "second", random.Random(1))

    bob = volume("bob")
    assert b"<second>" in bob.read(TEXT)
    # The first edit may be found only while the leftovers are gone through.
    bob.write(TEXT, "bob's\n")
    bob.close()

    kept = evidence.look(root)
    held = b"".join(kept.everything())
    assert all(token in held for token in (b"<first>", b"<second>", b"one\n"))
    assert kept.visible[TEXT] == b"bob's\n"


@pytest.mark.invariant("I8")
def test_reader_finds_the_edit_that_a_dead_writer_displaced(text, die, volume, monkeypatch):
    """What is visible is the head of the records, so nothing but the time tells."""
    die(("write", "one\n"), kill=("installed", 1), edits=[("before_install", "replace", "first")])
    monkeypatch.setattr("coherent_volume.reading._INSTALL_IN_PROGRESS_NS", 0)

    assert b"<first>" in volume("bob").read(TEXT)
    assert b"<first>" in text.read_bytes()


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("kill", [("installed", 1), ("race_found", 1), ("put_back", 1)])
def test_second_edit_after_a_death_in_a_race_is_kept_when_only_the_sweep_comes_by(
    root, text, die, volume, expected_warnings, kill
):
    die(("write", "one\n"), kill=kill, edits=[("before_install", "replace", "first")])
    EDITORS["replace"](str(text), "second", random.Random(1))

    # Nobody asks for this file; a commit elsewhere sweeps up what the dead left.
    with volume("carol") as carol:
        carol.create("plans/other", "")
        until(lambda: not carol._parts.displaced, "cleaned up")

    held = b"".join(evidence.look(root).everything())
    assert all(token in held for token in (b"<first>", b"<second>", b"one\n"))
    assert b"<second>" in text.read_bytes()


@pytest.mark.invariant("I8")
def test_bytes_written_through_a_name_resolved_before_the_commit_are_kept_and_told(
    root, text, volume, monkeypatch, expected_warnings
):
    alice = volume("alice")
    alice.read(TEXT)
    resolved = os.open(text, os.O_PATH)

    def write_late(name):
        if name == "acknowledged":
            with open(f"/proc/self/fd/{resolved}", "r+b") as displaced:
                displaced.write(b"late!\n")

    # Room for the editor between its lookup and its open, on a busy machine too.
    monkeypatch.setattr(install, "DISPLACED_STAY_NS", 500_000_000)
    monkeypatch.setattr(points, "reached", write_late)
    alice.write(TEXT, "one\n")
    # The queue is empty for a moment while the file is being looked at: what is
    # told last is what to wait for.
    told = f"{TEXT}: an outside editor wrote to a replaced file"
    until(lambda: told in said(expected_warnings), "kept and told")
    os.close(resolved)

    assert refused(root) == [b"late!\n"]
    assert alice.read(TEXT) == b"one\n"


# ── what a session is credited with ──────────────────────────────────────────


class _Broken(io.RawIOBase):
    """A pipe whose reader is gone."""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        raise BrokenPipeError


@pytest.mark.invariant("I1")
@pytest.mark.parametrize("session", ["alice", None])
def test_content_that_could_not_be_delivered_was_not_seen(text, volume, session):
    who = volume(session)
    with pytest.raises(BrokenPipeError):
        who.read_to(TEXT, _Broken())

    with pytest.raises(NotObservedError):
        who.write(TEXT, "blind\n")
    assert volume(session or "bob").view_of(TEXT) is None


@pytest.mark.invariant("I1")
def test_base_that_is_let_in_by_equal_content_is_logged_as_the_current_one(text, alice, bob):
    alice.read(TEXT)
    bob.read(TEXT)
    bob.write(TEXT, "else\n")
    bob.write(TEXT, "zero\n")

    commit = alice.write(TEXT, "alice's\n")

    assert (commit.base, commit.generation) == (2, 3)
    assert len({entry.base for entry in alice.log(TEXT) if entry.generation}) == 3


@pytest.mark.invariant("I1")
def test_generation_zero_is_known_by_its_digest_and_not_by_its_number(text, alice):
    before = alice.observe(TEXT)
    assert alice.observe(TEXT, known=before).data is None
    text.write_bytes(b"edited\n")

    now = alice.observe(TEXT, known=before)

    assert now.data == b"edited\n"
    assert alice.observe(TEXT, known=0).data == b"edited\n"
    with pytest.raises(ForeignEditError):
        alice.write(TEXT, "from memory\n", base=before)


@pytest.mark.invariant("I1")
@pytest.mark.parametrize("session", ["alice", None])
def test_refused_write_tried_again_is_refused_again(text, volume, bob, session):
    who = volume(session)
    who.read(TEXT)
    bob.read(TEXT)
    bob.write(TEXT, "bob's\n")

    told = set()
    for _ in range(3):
        with pytest.raises(StaleGenerationError) as refusal:
            who.write(TEXT, "stale\n")
        told.add(str(refusal.value))

    assert len(told) == 1
    assert text.read_bytes() == b"bob's\n"


@pytest.mark.invariant("I5")
def test_reader_of_the_next_boot_trusts_no_fingerprint(text, die, next_boot, expected_warnings):
    bob = next_boot()
    bob.read(TEXT)
    die(("write", "one\n"))
    tear(text, b"\0\0\0\0")

    assert bob.read(TEXT) == b"one\n"
    assert text.read_bytes() == b"one\n"


# ── a sidecar that went back in time ─────────────────────────────────────────


@pytest.fixture
def rolled_back(root, text, volume):
    """``rolled_back(durability, known)``: three commits, records of only *known* of them."""

    def roll_back(durability, known=1):
        sidecar, before = root / ".coherence", root.parent / "before"
        volume("starter", durability=durability).close()
        for number in range(4):
            if number:
                with volume("alice") as alice:
                    alice.read(TEXT)
                    assert alice.write(TEXT, f"text {number}\n").generation == number
            if number == known:
                before.mkdir()
                for name in ("sidecar.db", "sidecar.db-wal"):
                    if (sidecar / name).exists():
                        shutil.copy(sidecar / name, before)
        for name in ("sidecar.db-wal", "sidecar.db-shm"):
            (sidecar / name).unlink(missing_ok=True)
        for kept in before.iterdir():
            shutil.copyfile(kept, sidecar / kept.name)

    return roll_back


@pytest.mark.invariant("I2")
@pytest.mark.parametrize("known", [0, 1, 2])
def test_records_lost_in_a_power_cut_in_process_mode_are_continued_from_the_file(
    text, rolled_back, next_boot, expected_warnings, known
):
    rolled_back("process", known)
    bob = next_boot()

    seen = bob.observe(TEXT)

    assert (seen.generation, seen.data) == (4, b"text 3\n")
    assert f"generations {known + 1} to 3 were lost in a power loss" in said(expected_warnings)
    assert bob.write(TEXT, "bob's\n").generation == 5
    assert bob.check().ok


@pytest.mark.invariant("I2")
def test_view_from_before_the_lost_generations_is_stale_afterwards(
    rolled_back, next_boot, expected_warnings
):
    rolled_back("process", 1)
    alice = next_boot("alice")  # her view of generation 1 came back with the records

    with pytest.raises(ConflictError):
        alice.write(TEXT, "from memory\n")


@pytest.mark.invariant("I2")
def test_records_that_went_back_within_one_boot_are_damage_and_nothing_is_counted(
    text, rolled_back, volume
):
    rolled_back("process", 1)
    bob = volume("bob")

    for attempt in (
        lambda: bob.read(TEXT),
        lambda: bob.write(TEXT, "x", overwrite=True),
        lambda: bob.create(TEXT, "x"),
        lambda: bob.append(TEXT, "x"),
    ):
        with pytest.raises(DamagedError) as damage:
            attempt()
        assert (damage.value.witness, damage.value.recorded) == (3, 1)
    assert not bob.check().ok
    assert text.read_bytes() == b"text 3\n"
    assert [entry.generation for entry in bob.log(TEXT)] == [1, 0]


@pytest.mark.invariant("I2")
@pytest.mark.parametrize("boots", [1, 2])
def test_records_that_went_back_in_power_mode_are_damage_in_any_boot(
    rolled_back, volume, next_boot, boots
):
    rolled_back("power", 1)
    bob = volume("bob") if boots == 1 else next_boot()

    with pytest.raises(DamagedError):
        bob.read(TEXT)


@pytest.mark.invariant("I2")
def test_repair_goes_on_counting_above_the_witness(rolled_back, volume):
    rolled_back("power", 1)
    bob = volume("bob")

    assert bob.check(repair=True).ok

    assert bob.observe(TEXT).generation == 4
    assert bob.read(TEXT) == b"text 3\n"


def _copy_with_attributes(source: Path, target: Path) -> None:
    shutil.copy2(source, target)
    assert os.getxattr(target, WITNESS) == os.getxattr(source, WITNESS)


@pytest.mark.invariant("I8")
def test_witness_of_another_volume_is_ignored(tmp_path, text, alice):
    other = tmp_path / "other"
    other.mkdir()
    with CoherentVolume(other, managed=("plans/**",), session="alice") as elsewhere:
        for number in range(5):
            elsewhere.write(TEXT, f"elsewhere {number}\n")
    alice.read(TEXT)
    alice.write(TEXT, "one\n")

    _copy_with_attributes(other / TEXT, text)

    assert alice.observe(TEXT).generation == 2
    assert alice.read(TEXT) == b"elsewhere 4\n"


@pytest.mark.invariant("I8")
def test_witness_of_another_path_is_ignored(root, text, alice):
    for number in range(5):
        alice.write("plans/other", f"other {number}\n")
    alice.read(TEXT)
    alice.write(TEXT, "one\n")

    _copy_with_attributes(root / "plans/other", text)

    assert alice.observe(TEXT).generation == 2
    assert alice.read(TEXT) == b"other 4\n"


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("value", [b"", b"::", b"x", b"a:b:c", b"\xff:\xff:\xff", b"0" * 2000])
def test_witness_that_makes_no_sense_is_ignored(text, alice, value):
    os.setxattr(text, WITNESS, value)
    assert alice.observe(TEXT).generation == 0
    assert alice.write(TEXT, "one\n").generation == 1


@pytest.mark.invariant("I8")
def test_copy_of_an_older_generation_with_its_witness_is_an_edit(tmp_path, text, alice):
    alice.read(TEXT)
    alice.write(TEXT, "one\n")
    _copy_with_attributes(text, tmp_path / "backup")
    alice.write(TEXT, "two\n")

    _copy_with_attributes(tmp_path / "backup", text)

    assert alice.observe(TEXT).generation == 3
    assert alice.read(TEXT) == b"one\n"
