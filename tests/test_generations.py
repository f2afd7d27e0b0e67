"""Hazard: two contents share a number, a number comes back, a view shows what was not seen."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from itertools import pairwise

import pytest

from coherent_volume import (
    AlreadyExistsError,
    ConflictError,
    LinkedArtifactError,
    NotFoundError,
    NotManagedError,
    OutsideRootError,
    UsageError,
    artifact_io,
)
from tests.harness import evidence

PLAN = "plans/plan.md"

# ── numbers ──────────────────────────────────────────────────────────────────


@pytest.mark.invariant("I2")
def test_generations_grow_by_one_over_delete_and_create(root, alice):
    alice.read(PLAN)
    numbers = [alice.observe(PLAN).generation]
    for commit in (
        lambda: alice.write(PLAN, "one\n"),
        lambda: alice.append(PLAN, "more\n"),
        lambda: alice.delete(PLAN),
        lambda: alice.create(PLAN, "again\n"),
        lambda: alice.update(PLAN, bytes.upper),
        lambda: alice.delete(PLAN),
        lambda: alice.write(PLAN, "and again\n"),
    ):
        numbers.append(commit().generation)

    assert numbers == list(range(8))
    assert alice.observe(PLAN).generation == 7
    alice.close()
    kept = evidence.look(root).of(PLAN)
    assert [past.generation for past in kept] == list(range(8))
    assert all(later.base == earlier.generation for earlier, later in pairwise(kept))


@pytest.mark.invariant("I2")
def test_numbers_go_on_when_every_process_was_gone_in_between(root, process):
    body = """
        from coherent_volume import CoherentVolume
        with CoherentVolume(root, managed=("plans/**",), session="alice") as volume:
            if volume.log("plans/plan.md") and volume.log("plans/plan.md")[0].kind != "delete":
                return volume.delete("plans/plan.md", overwrite=True).generation
            return volume.write("plans/plan.md", "text", overwrite=True).generation
        """
    assert [process(body, root=root) for _ in range(5)] == [1, 2, 3, 4, 5]


@pytest.mark.invariant("I2")
def test_name_that_was_never_there_starts_at_generation_one(alice):
    assert alice.create("plans/new.md", "text").generation == 1


@pytest.mark.invariant("I2")
def test_head_content_written_from_a_current_view_makes_no_generation(root, alice):
    alice.read(PLAN)
    first = alice.write(PLAN, "one\n")
    inode = (root / PLAN).stat().st_ino

    again = alice.write(PLAN, "one\n")

    assert (again.generation, again.changed) == (first.generation, False)
    assert (root / PLAN).stat().st_ino == inode
    assert len(alice.log(PLAN)) == 2  # generation 0 and the first commit


@pytest.mark.invariant("I2")
def test_renamed_artifact_leaves_one_number_on_each_name(root, alice, bob):
    alice.read(PLAN)
    alice.write(PLAN, "one\n")

    moved = alice.rename(PLAN, "plans/moved.md")

    assert (moved.path, moved.generation) == ("plans/moved.md", 1)
    assert bob.read("plans/moved.md") == b"one\n"
    with pytest.raises(NotFoundError):
        bob.read(PLAN)
    assert not (root / PLAN).exists()
    # The old name goes on counting: 1 was the text, 2 its departure.
    assert alice.create(PLAN, "new\n").generation == 3
    # The new name is in the mover's view, and in nobody else's.
    alice.write("plans/moved.md", "two\n")


@pytest.mark.invariant("I2")
def test_clock_that_was_set_back_changes_no_order(alice, bob, monkeypatch):
    alice.read(PLAN)
    first = alice.write(PLAN, "one\n")
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    monkeypatch.setattr("time.time_ns", lambda: 1_000_000 * 10**9)

    second = bob.update(PLAN, bytes.upper)

    assert second.generation == first.generation + 1
    newest, *_ = alice.log(PLAN)
    assert newest.generation == second.generation


# ── generation 0 ─────────────────────────────────────────────────────────────


@pytest.mark.invariant("I5")
def test_uncommitted_file_that_an_outsider_changed_is_not_called_unchanged(root, volume):
    reader = volume()
    seen = reader.observe(PLAN)
    assert seen.generation == 0
    (root / PLAN).write_bytes(b"other\n")

    again = reader.observe(PLAN, known=seen)

    assert again.data == b"other\n"
    assert again.digest != seen.digest


@pytest.mark.invariant("I1")
def test_uncommitted_file_that_an_outsider_changed_makes_the_view_stale(root, volume):
    for session in (None, "alice"):
        writer = volume(session)
        writer.read(PLAN)
        (root / PLAN).write_bytes(f"outsider was here before {session}\n".encode())

        with pytest.raises(ConflictError):
            writer.write(PLAN, "mine\n")

        assert (root / PLAN).read_bytes().startswith(b"outsider")


def test_reading_an_uncommitted_file_writes_nothing_for_a_process_session(root, volume):
    reader = volume()
    before = reader.status().sidecar_bytes
    for _ in range(3):
        assert reader.observe(PLAN).generation == 0
    assert reader.status().sidecar_bytes == before
    assert reader.log(PLAN) == []


@pytest.mark.invariant("I7")
def test_first_commit_keeps_the_bytes_that_stood_there_before(root, alice):
    alice.read(PLAN)
    alice.write(PLAN, "one\n")
    alice.close()

    assert [past.content for past in evidence.look(root).of(PLAN)] == [b"first\n", b"one\n"]


# ── observations ─────────────────────────────────────────────────────────────


@pytest.mark.invariant("I5")
def test_observation_names_what_it_shows(alice, bob):
    alice.read(PLAN)
    commit = alice.write(PLAN, "one\n")

    seen = bob.observe(PLAN)

    assert (seen.path, seen.generation, seen.digest) == (PLAN, commit.generation, commit.digest)
    assert seen.data == b"one\n"


@pytest.mark.invariant("I5")
@pytest.mark.parametrize("kind", ["observation", "generation"])
def test_known_generation_is_answered_without_data(alice, bob, kind):
    alice.read(PLAN)
    alice.write(PLAN, "one\n")
    seen = bob.observe(PLAN)
    known = seen if kind == "observation" else seen.generation

    assert bob.observe(PLAN, known=known).data is None
    alice.write(PLAN, "two\n")
    assert bob.observe(PLAN, known=known).data == b"two\n"


@pytest.mark.invariant("I5")
@pytest.mark.invariant("I9")
def test_reader_served_from_memory_sees_a_peers_commit_at_once(alice, bob):
    alice.read(PLAN)
    for number in range(5):
        time.sleep(0.03)  # old enough to be remembered
        before = bob.read(PLAN)
        assert bob.read(PLAN) == before
        alice.write(PLAN, f"{number}\n")
        assert bob.read(PLAN) == f"{number}\n".encode()


@pytest.mark.invariant("I5")
@pytest.mark.invariant("I7")
def test_commit_that_could_not_be_made_visible_is_read_all_the_same(root, alice, bob, monkeypatch):
    """An acknowledged commit is the truth, also when installing it failed."""
    alice.read(PLAN)
    time.sleep(0.03)
    for _ in range(3):
        assert bob.read(PLAN) == b"first\n"

    def fails(*_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr("coherent_volume.install.renameat2", fails)
    commit = alice.write(PLAN, "one\n")
    monkeypatch.undo()

    assert (commit.generation, commit.installed) == (1, False)
    assert bob.read(PLAN) == b"one\n"
    assert (root / PLAN).read_bytes() == b"one\n"
    alice.write(PLAN, "two\n")
    assert bob.read(PLAN) == b"two\n"


def test_known_answer_without_data_renews_the_view_all_the_same(alice, bob):
    seen = alice.observe(PLAN)
    assert alice.observe(PLAN, known=seen).data is None
    alice.write(PLAN, "mine\n")


@pytest.mark.invariant("I1")
def test_stale_view_stays_stale_after_an_append_of_its_own(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    alice.append(PLAN, "alice\n")

    with pytest.raises(ConflictError):
        alice.write(PLAN, "without bob's line\n")

    assert (root / PLAN).read_bytes() == b"bob's\nalice\n"


def test_current_view_stays_current_after_an_append_of_its_own(alice):
    alice.read(PLAN)
    alice.append(PLAN, "alice\n")
    assert alice.state(PLAN) == "S"
    alice.write(PLAN, "all of it\n")


@pytest.mark.invariant("I1")
def test_append_to_what_was_never_read_is_no_view(alice):
    alice.append(PLAN, "alice\n")
    with pytest.raises(ConflictError):
        alice.write(PLAN, "blind\n")


@pytest.mark.invariant("I1")
def test_own_commit_is_an_observation(alice):
    alice.create("plans/new.md", "one\n")
    alice.write("plans/new.md", "two\n")
    alice.delete("plans/new.md")
    alice.write("plans/new.md", "three\n")


@pytest.mark.invariant("I1")
def test_named_session_keeps_its_view_over_processes_and_volumes(root, process, volume):
    volume("alice").read(PLAN)

    assert (
        process(
            """
            from coherent_volume import CoherentVolume
            with CoherentVolume(root, session="alice") as volume:
                return volume.write("plans/plan.md", "from another process").generation
            """,
            root=root,
        )
        == 1
    )
    again = volume("alice")
    again.write(PLAN, "from another volume")


@pytest.mark.invariant("I1")
def test_process_session_is_not_shared_with_another_process(root, process, volume):
    volume().read(PLAN)
    body = """
        from coherent_volume import CoherentVolume, NotObservedError
        with CoherentVolume(root) as volume:
            try:
                volume.write("plans/plan.md", "blind")
            except NotObservedError:
                return "refused"
        """
    assert process(body, root=root) == "refused"


@pytest.mark.invariant("I9")
def test_reacquire_reports_and_renews_what_was_stale(root, alice, bob):
    for name in ("plans/a", "plans/b", "plans/c"):
        (root / name).write_bytes(b"text\n")
        alice.read(name)
    bob.update("plans/a", bytes.upper)
    (root / "plans/b").write_bytes(b"edited outside\n")

    assert sorted(alice.reacquire()) == ["plans/a", "plans/b"]

    assert alice.reacquire() == []
    for name in ("plans/a", "plans/b", "plans/c"):
        alice.write(name, "mine\n")


def test_reacquire_of_one_path_leaves_the_others_stale(root, alice, bob):
    for name in ("plans/a", "plans/b"):
        (root / name).write_bytes(b"text\n")
        alice.read(name)
        bob.update(name, bytes.upper)

    assert alice.reacquire("plans/a") == ["plans/a"]

    alice.write("plans/a", "mine\n")
    with pytest.raises(ConflictError):
        alice.write("plans/b", "mine\n")


# ── what a commit leaves as it was ───────────────────────────────────────────


def test_commit_keeps_mode_owner_and_extended_attributes(root, alice):
    file = root / PLAN
    file.chmod(0o2640 if os.geteuid() == 0 else 0o640)
    os.setxattr(file, "user.colour", b"blue")
    if os.geteuid() == 0:
        os.chown(file, 12, 34)
        file.chmod(0o2640)
    before = file.stat()
    alice.read(PLAN)

    alice.write(PLAN, "one\n")
    alice.append(PLAN, "two\n")

    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert os.getxattr(file, "user.colour") == b"blue"


def test_created_artifact_gets_the_mode_that_open_would_give(root, alice):
    before = os.umask(0o027)
    try:
        alice.create("plans/deep/down/new.md", "text")
        (root / "plans/plain").write_bytes(b"")
    finally:
        os.umask(before)

    assert (root / "plans/deep/down/new.md").stat().st_mode == (root / "plans/plain").stat().st_mode
    assert stat.S_IMODE((root / "plans/deep/down").stat().st_mode) == 0o750


def test_modification_time_never_goes_back(root, alice):
    alice.read(PLAN)
    times = []
    for number in range(5):
        alice.write(PLAN, f"{number}\n")
        times.append((root / PLAN).stat().st_mtime_ns)
    assert times == sorted(times)


def test_sidecar_is_private_and_ignored_by_git(root, alice):
    sidecar = root / ".coherence"
    assert stat.S_IMODE(sidecar.stat().st_mode) == 0o700
    assert (sidecar / ".gitignore").read_text().strip() == "*"


# ── links ────────────────────────────────────────────────────────────────────


def test_symbolic_link_inside_the_root_stands_for_its_target(root, alice, bob):
    (root / "plans/link.md").symlink_to("plan.md")

    alice.read("plans/link.md")
    commit = alice.write("plans/link.md", "through the link\n")

    assert commit.path == PLAN
    assert (root / "plans/link.md").is_symlink()
    assert (root / PLAN).read_bytes() == b"through the link\n"
    assert bob.observe(PLAN).generation == commit.generation


@pytest.mark.invariant("I1")
def test_view_through_a_link_and_view_of_the_target_are_one(root, alice, bob):
    (root / "plans/link.md").symlink_to("plan.md")
    alice.read("plans/link.md")
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    with pytest.raises(ConflictError):
        alice.write("plans/link.md", "alice's\n")


def test_symbolic_link_to_an_unmanaged_target_is_not_managed(root, alice):
    (root / "other.txt").write_bytes(b"other\n")
    (root / "plans/link.md").symlink_to("../other.txt")
    with pytest.raises(NotManagedError):
        alice.read("plans/link.md")


@pytest.mark.parametrize("absolute", [False, True])
def test_symbolic_link_out_of_the_root_is_refused(root, alice, absolute):
    outside = root.parent / "outside.md"
    outside.write_bytes(b"secret\n")
    (root / "plans/link.md").symlink_to(outside if absolute else "../../outside.md")

    for call in (
        lambda: alice.read("plans/link.md"),
        lambda: alice.write("plans/link.md", "x"),
        lambda: alice.write("plans/link.md", "x", overwrite=True),
        lambda: alice.create("plans/link.md", "x"),
        lambda: alice.append("plans/link.md", "x"),
        lambda: alice.delete("plans/link.md"),
    ):
        with pytest.raises(OutsideRootError):
            call()
    assert outside.read_bytes() == b"secret\n"


def test_linked_directory_out_of_the_root_is_refused(root, alice):
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "a.md").write_bytes(b"secret\n")
    (root / "plans/dir").symlink_to(outside)

    with pytest.raises(OutsideRootError):
        alice.read("plans/dir/a.md")
    with pytest.raises(OutsideRootError):
        alice.create("plans/dir/b.md", "x")
    assert not (outside / "b.md").exists()


def test_links_that_chase_each_other_are_refused(root, alice):
    (root / "plans/a.md").symlink_to("b.md")
    (root / "plans/b.md").symlink_to("a.md")
    with pytest.raises(UsageError):
        alice.read("plans/a.md")


def test_commit_to_a_hard_linked_artifact_is_refused_with_advice(root, alice):
    alice.read(PLAN)
    os.link(root / PLAN, root / "twin.md")

    with pytest.raises(LinkedArtifactError) as refusal:
        alice.write(PLAN, "mine\n")

    assert refusal.value.links == 2
    assert "cp" in refusal.value.advice
    assert (root / "twin.md").read_bytes() == (root / PLAN).read_bytes() == b"first\n"
    (root / "twin.md").unlink()
    alice.write(PLAN, "mine\n")


# ── file objects and text ────────────────────────────────────────────────────


def test_writer_commits_when_its_block_ends(root, alice):
    alice.read(PLAN)
    with alice.open(PLAN, "w") as file:
        file.write("one\n")
        file.write("two\n")
        assert (root / PLAN).read_bytes() == b"first\n"
    assert (root / PLAN).read_bytes() == b"one\ntwo\n"
    assert alice.observe(PLAN).generation == 1


def test_writer_whose_block_raises_discards(root, alice):
    alice.read(PLAN)

    def write_half():
        with alice.open(PLAN, "w") as file:
            file.write("half of it")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert (root / PLAN).read_bytes() == b"first\n"
    assert alice.observe(PLAN).generation == 0


@pytest.mark.parametrize("mode", ["w", "a"])
def test_text_writer_whose_end_cannot_be_written_discards(root, alice, monkeypatch, mode):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def small():
        content = tempfile.SpooledTemporaryFile()  # noqa: SIM115 - the writer closes it
        take = content.write
        monkeypatch.setattr(
            content, "write", lambda data: take(data) if content.tell() < 8000 else full()
        )
        return content

    monkeypatch.setattr(artifact_io, "_spool", small)
    alice.read(PLAN)

    def write_lines():
        with alice.open(PLAN, mode) as file:
            for number in range(1200):  # the last of them wait for the end of the block
                file.write(f"line {number:04}\n")

    with pytest.raises(OSError, match="No space left"):
        write_lines()
    assert (root / PLAN).read_bytes() == b"first\n"
    assert alice.observe(PLAN).generation == 0


@pytest.mark.invariant("I1")
def test_writer_whose_view_went_stale_inside_its_block_is_refused(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    file = alice.open(PLAN, "w")
    file.write("alice's\n")
    bob.write(PLAN, "bob's\n")
    with pytest.raises(ConflictError):
        file.close()
    assert (root / PLAN).read_bytes() == b"bob's\n"


@pytest.mark.invariant("I1")
def test_reading_file_object_is_an_observation(alice, bob):
    with alice.open(PLAN) as file:
        assert list(file) == ["first\n"]
    with bob.open(PLAN, "rb") as file:
        assert file.read() == b"first\n"
    alice.write(PLAN, "mine\n")


def test_file_object_modes(root, alice):
    with alice.open("plans/new.bin", "wb") as file:
        file.write(b"\x00\xff")
    with alice.open("plans/new.bin", "a") as file:
        file.write("tail")
    assert (root / "plans/new.bin").read_bytes() == b"\x00\xfftail"
    with alice.open("plans/x.md", "x") as file:
        file.write("created")
    with pytest.raises(AlreadyExistsError), alice.open("plans/x.md", "x") as file:
        file.write("again")
    assert (root / "plans/x.md").read_bytes() == b"created"
    for mode in ("r+", "q", "", "rw"):
        with pytest.raises(UsageError):
            alice.open(PLAN, mode)


def test_text_is_utf8_and_bytes_are_bytes(root, alice):
    alice.create("plans/text.md", "grüße\r\n")
    assert (root / "plans/text.md").read_bytes() == "grüße\r\n".encode()
    assert alice.read_text("plans/text.md") == "grüße\r\n"
    alice.write("plans/text.md", b"\xff\xfe")
    assert alice.read("plans/text.md") == b"\xff\xfe"
    with pytest.raises(ValueError):
        alice.read_text("plans/text.md")


def test_data_that_is_neither_text_nor_bytes_is_refused(root, alice):
    alice.read(PLAN)
    for wrong in (None, 5, ["lines"]):
        with pytest.raises((UsageError, TypeError)):
            alice.write(PLAN, wrong)
    assert (root / PLAN).read_bytes() == b"first\n"
