"""Hazard: what callers, disks and people do wrong. One typed error with advice; nothing lost."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from coherent_volume import (
    CoherenceError,
    CoherentVolume,
    ConfigurationError,
    ConflictError,
    DamagedError,
    NotFoundError,
    NotManagedError,
    NotPermittedError,
    NotRegularFileError,
    OutsideRootError,
    StorageError,
    UnsupportedFilesystemError,
    UsageError,
)
from tests.harness.command import Command
from tests.harness.processes import until

PLAN = "plans/plan.md"
is_root = os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="mounting needs root")


def explains(error: CoherenceError) -> bool:
    """Whether the error is complete: a message, a next step, and it travels."""
    again = pickle.loads(pickle.dumps(error))
    return bool(error.message and error.advice) and str(again) == str(error)


# ── the root ─────────────────────────────────────────────────────────────────


def test_root_that_does_not_exist(tmp_path):
    with pytest.raises(NotFoundError) as refusal:
        CoherentVolume(tmp_path / "nowhere", managed=("*",))
    assert explains(refusal.value)
    assert not (tmp_path / "nowhere").exists()


def test_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    with pytest.raises(UsageError) as refusal:
        CoherentVolume(tmp_path / "file", managed=("*",))
    assert explains(refusal.value)
    assert (tmp_path / "file").read_bytes() == b"text"


def test_directory_without_a_volume(root):
    with pytest.raises(UsageError) as refusal:
        CoherentVolume(root)
    assert explains(refusal.value)
    assert not (root / ".coherence").exists()


@pytest.mark.parametrize("inner_first", [False, True])
def test_roots_nested_in_one_another(root, inner_first):
    inner = root / "plans"
    first, second = (inner, root) if inner_first else (root, inner)
    CoherentVolume(first, managed=("**",)).close()

    if inner_first:
        # An outer volume may exist; what lies in the inner one is not its own.
        with CoherentVolume(second, managed=("**",)) as outer:
            with pytest.raises(UsageError) as refusal:
                outer.read(PLAN)
            with pytest.raises(UsageError):
                outer.create("plans/new.md", "x")
    else:
        with pytest.raises(UsageError) as refusal:
            CoherentVolume(second, managed=("**",))
    assert explains(refusal.value)
    assert (root / PLAN).read_bytes() == b"first\n"
    with CoherentVolume(first) as volume:
        name = "plan.md" if inner_first else PLAN
        volume.read(name)
        volume.write(name, "still works\n")


@pytest.mark.parametrize("magic", [0x6969, 0xFE534D42, 0xFF534D42, 0x01021997, 0x00C36400])
def test_file_system_without_coherent_locks_is_refused(root, monkeypatch, magic):
    """NFS, SMB 2, CIFS, 9p, Ceph: known by their magic, refused before anything is written."""
    monkeypatch.setattr("coherent_volume.layout.filesystem_magic", lambda descriptor: magic)

    with pytest.raises(UnsupportedFilesystemError) as refusal:
        CoherentVolume(root, managed=("plans/**",))

    assert explains(refusal.value)
    assert not (root / ".coherence").exists()


def test_globs_that_differ_from_the_volumes_own(root, alice):
    with pytest.raises(UsageError) as refusal:
        CoherentVolume(root, managed=("other/**",))
    assert explains(refusal.value)


@pytest.mark.parametrize(
    "managed",
    [
        (),
        ("",),
        "plans/**",
        (5,),
        ("plans/**", "../elsewhere/*"),
        ("/",),
        ("# plans",),
        ("{plans,notes}/**",),
        ("plans/[ab",),
        ("!plans/drafts/**",),
    ],
)
def test_globs_that_mean_nothing(root, managed):
    with pytest.raises(UsageError):
        CoherentVolume(root, managed=managed)
    assert not (root / ".coherence").exists()


def test_globs_that_only_look_odd_are_globs(root):
    """Escaped, in a class, or a lone brace: each of them matches a file."""
    odd = {r"\#a": "#a", "[x[]b": "xb", r"\[c": "[c", "{d}": "{d}", "e..e": "e..e"}
    with CoherentVolume(root, managed=tuple(odd)) as volume:
        for name in odd.values():
            assert volume.create(name, b"managed\n").generation == 1


@pytest.mark.parametrize(
    "text",
    ["managd = ['*']", "managed = ['*']\nsurprise = 1", "managed = [", "managed = []", "", b"\xff"],
)
def test_configuration_that_cannot_be_read(root, alice, text):
    alice.close()
    config = root / ".coherence" / "config.toml"
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError) as refusal:
        CoherentVolume(root)
    assert explains(refusal.value)


@pytest.mark.parametrize("session", ["", " ", "a\0b", "x" * 300, "outside", 5, "w\udcff"])
def test_session_name_that_cannot_be_one(root, session, alice):
    with pytest.raises(UsageError) as refusal:
        CoherentVolume(root, session=session)
    assert explains(refusal.value)


def test_session_name_from_the_environment_that_is_no_text_is_wrong_usage(root, alice):
    alice.create("plans/new.md", "one\n")
    for words in (["read", "plans/new.md"], ["write", "plans/new.md", "--overwrite"], ["status"]):
        done = Command(root)(*words, input="two\n", COHERENT_SESSION="w\udcff")
        assert (done.code, done.out) == (2, b""), done
        assert "a session name is text" in done.err
    assert (root / "plans/new.md").read_bytes() == b"one\n"


@pytest.mark.parametrize("session", ["a/b", "..", "../../x", "two\nlines", "\x1b[31m", "é" * 100])
def test_session_name_stays_a_name_whatever_it_contains(root, bob, volume, session):
    odd = volume(session)
    odd.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    with pytest.raises(ConflictError) as refusal:
        odd.write(PLAN, "odd\n")

    kept = root / refusal.value.kept
    assert kept.parent == root / ".coherence" / "refused"
    assert kept.read_bytes() == b"odd\n"
    odd.update(PLAN, lambda data: data + b"odd\n")
    with pytest.raises(ConflictError) as refusal:
        bob.write(PLAN, "bob's again\n")
    assert all(line.isprintable() for line in str(refusal.value).splitlines())


# ── names ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path", ["../outside.md", "plans/../../outside.md", "/etc/passwd", "plans/../../root/../x.md"]
)
def test_path_that_leaves_the_root(root, alice, path):
    for call in (alice.read, lambda p: alice.create(p, "x"), alice.delete, alice.observe):
        with pytest.raises(OutsideRootError) as refusal:
            call(path)
        assert explains(refusal.value)
    assert [p.name for p in root.parent.iterdir()] == ["root"]


@pytest.mark.parametrize("path", ["", ".", "plans", "plans/", "plans/\0.md", "a\0"])
def test_path_that_names_no_file(root, alice, path):
    for call in (alice.read, lambda p: alice.write(p, "x"), lambda p: alice.create(p, "x")):
        with pytest.raises(CoherenceError) as refusal:
            call(path)
        assert explains(refusal.value)
    assert sorted(p.name for p in (root / "plans").iterdir()) == ["plan.md"]


def test_path_that_is_not_managed(root, alice):
    (root / "other.txt").write_bytes(b"other\n")
    for path in ("other.txt", ".coherence/config.toml", "plans/.git/config", ".git/HEAD"):
        with pytest.raises(NotManagedError) as refusal:
            alice.read(path)
        assert explains(refusal.value)
        with pytest.raises(NotManagedError):
            alice.create(path + "x", "x")


def test_absolute_path_below_the_root_is_the_artifact(root, alice):
    assert alice.read(os.fspath(root / PLAN)) == b"first\n"
    assert alice.observe(root / PLAN).path == PLAN


def test_spellings_of_one_path_are_one_artifact(alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    for spelling in ("./plans/plan.md", "plans//plan.md", "plans/./plan.md", b"plans/plan.md"):
        assert bob.observe(spelling).path == PLAN
    bob.write("plans/../plans/plan.md", "bob's\n")
    with pytest.raises(ConflictError):
        alice.write(PLAN, "alice's\n")


@pytest.mark.parametrize(
    "name",
    [
        os.fsdecode(b"\xff\xfe.md"),
        "line\nbreak.md",
        "\x1b[31mred.md",
        "naïve — ☃.md",
        "cafe\u0301.md",
        " leading and trailing ",
        "-rf",
        "*.md",
        "!plan",
        "a" * 255,
    ],
    ids=ascii,
)
def test_unusual_name_works_from_end_to_end(root, alice, bob, name):
    path = f"plans/{name}"
    alice.create(path, "one\n")
    assert bob.read(path) == b"one\n"
    bob.write(path, "two\n")
    with pytest.raises(ConflictError) as refusal:
        alice.write(path, "stale\n")
    assert (root / refusal.value.kept).read_bytes() == b"stale\n"
    assert "\x1b" not in str(refusal.value)
    assert bob.log(path)[0].path == path
    moved = bob.rename(path, "plans/moved")
    assert bob.read("plans/moved") == b"two\n"
    bob.rename(moved.path, path)
    assert (root / "plans" / name).read_bytes() == b"two\n"
    bob.delete(path)
    assert not (root / "plans" / name).exists()


def test_name_longer_than_the_file_system_allows(root, alice):
    with pytest.raises(CoherenceError) as refusal:
        alice.create("plans/" + "a" * 256, "x")
    assert explains(refusal.value)
    assert alice.check().ok


def test_names_that_differ_only_in_their_unicode_form_are_two_artifacts(alice):
    alice.create("plans/caf\u00e9", "composed")
    alice.create("plans/cafe\u0301", "decomposed")
    assert alice.read("plans/caf\u00e9") == b"composed"


# ── contents ─────────────────────────────────────────────────────────────────


def test_empty_artifact(root, alice, bob):
    alice.create("plans/empty", b"")
    assert bob.read("plans/empty") == b""
    assert bob.observe("plans/empty").data == b""
    bob.write("plans/empty", "x")
    bob.write("plans/empty", "")
    assert (root / "plans/empty").stat().st_size == 0
    assert bob.observe("plans/empty").generation == 3


@pytest.mark.parametrize("size", [4095, 4096, 65536, 131072, 131073, 1 << 20, 5 * (1 << 20) + 1])
def test_content_of_any_size_comes_back(volume, size):
    content = os.urandom(size)
    alice, bob = volume("alice"), volume("bob")
    alice.create("plans/big", content)
    assert bob.read("plans/big") == content
    bob.append("plans/big", b"tail")
    assert alice.read("plans/big") == content + b"tail"


def test_large_artifact_is_streamed_in_bounded_memory(root, process):
    body = """
        import os, resource
        from coherent_volume import CoherentVolume
        size = 256 << 20
        limit = 160 << 20
        with open(source, "wb") as file:
            file.truncate(size)
            file.write(b"head")
            file.seek(size - 4)
            file.write(b"tail")
        with CoherentVolume(root, managed=("plans/**",), durability="process") as volume:
            volume.read("plans/plan.md")
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with open(source, "rb") as file:
                first = volume.write_from("plans/big", file)
            volume.append("plans/big", b"more")
            with open(target, "wb") as file:
                volume.read_to("plans/big", file)
            with open(source, "rb") as file:
                second = volume.write_from("plans/big", file)
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert [first.generation, second.generation] == [1, 3]
        with open(target, "rb") as file:
            assert file.read(4) == b"head"
            file.seek(size - 4)
            assert file.read() == b"tailmore"
        return (after - before) >> 10
        """
    grown = process(body, root=root, source=root / "source", target=root / "target")
    assert grown < 64, f"{grown} MiB more for a file of 256 MiB"
    assert (root / "plans/big").stat().st_size == 256 << 20


# ── something else bears the name ────────────────────────────────────────────


def _make(kind: str, path: Path) -> None:
    if kind == "directory":
        path.mkdir()
        (path / "inside").write_bytes(b"kept")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        import socket

        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket must be short
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(here)
    else:
        path.symlink_to("nowhere")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", ["directory", "fifo", "socket"])
@pytest.mark.parametrize("known", [False, True], ids=["from the start", "under us"])
def test_something_that_is_no_file(root, alice, kind, known):
    if known:
        alice.read(PLAN)
        alice.write(PLAN, "mine\n")
    (root / PLAN).unlink()
    _make(kind, root / PLAN)

    for call in (
        lambda: alice.read(PLAN),
        lambda: alice.write(PLAN, "x"),
        lambda: alice.write(PLAN, "x", overwrite=True),
        lambda: alice.append(PLAN, "x"),
        lambda: alice.create(PLAN, "x"),
        lambda: alice.delete(PLAN, overwrite=True),
    ):
        with pytest.raises(NotRegularFileError) as refusal:
            call()
        assert explains(refusal.value)

    assert not (root / PLAN).is_file()
    if kind == "directory":
        assert (root / PLAN / "inside").read_bytes() == b"kept"
        shutil.rmtree(root / PLAN)
    else:
        (root / PLAN).unlink()
    (root / PLAN).write_bytes(b"a file again\n")
    assert alice.read(PLAN) == b"a file again\n"
    assert alice.check().ok


def test_dangling_link_is_a_missing_target(root, alice):
    (root / "plans/link.md").symlink_to("nowhere.md")
    with pytest.raises(NotFoundError):
        alice.read("plans/link.md")
    assert alice.create("plans/link.md", "x").path == "plans/nowhere.md"


def test_parent_that_is_a_file(root, alice):
    for call in (lambda: alice.read(f"{PLAN}/x"), lambda: alice.create(f"{PLAN}/x", "x")):
        with pytest.raises(CoherenceError) as refusal:
            call()
        assert explains(refusal.value)
    assert (root / PLAN).read_bytes() == b"first\n"


def test_parent_directory_renamed_away(root, alice, bob):
    alice.create("plans/deep/text", "one\n")
    (root / "plans/deep").rename(root / "plans/other")
    time.sleep(0.15)  # older than a saver's hole

    with pytest.raises((NotFoundError, ConflictError)):
        alice.write("plans/deep/text", "two\n")
    assert bob.read("plans/other/text") == b"one\n"


# ── permissions ──────────────────────────────────────────────────────────────

AS_NOBODY = """
    import os, tempfile
    import coherent_volume
    from coherent_volume import CoherentVolume, CoherenceError
    with tempfile.TemporaryDirectory() as elsewhere:
        # Whatever is imported late is imported now, while it can be read.
        with CoherentVolume(elsewhere, managed=("*",), session="somebody") as volume:
            volume.create("file", "text")
            volume.update("file", bytes.upper)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    if not os.access(coherent_volume.__file__, os.R_OK):
        return ["unreadable", False]
    try:
        with CoherentVolume(root, managed=managed, session="nobody") as volume:
            volume.read("plans/plan.md")
            volume.write("plans/plan.md", "mine")
            return ["committed", True]
    except CoherenceError as error:
        return [type(error).__name__, bool(error.advice)]
    """


def as_nobody(process, root, managed):
    answer = process(AS_NOBODY, root=root, managed=managed)
    if answer[0] == "unreadable":
        pytest.skip("other users cannot read the library where it lies")
    return answer


@pytest.fixture
def open_root():
    """A root that every user can reach."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        root = Path(directory) / "root"
        (root / "plans").mkdir(parents=True)
        (root / PLAN).write_bytes(b"first\n")
        yield root
        root.chmod(0o755)


def test_root_without_permission_to_write(open_root, process):
    open_root.chmod(0o555)

    answer = as_nobody(process, open_root, ["plans/**"])

    assert answer == ["NotPermittedError", True]

    assert [path.name for path in open_root.iterdir()] == ["plans"]


@needs_root
def test_volume_of_another_user(open_root, process):
    CoherentVolume(open_root, managed=("plans/**",)).close()

    answer = as_nobody(process, open_root, None)

    assert answer == ["NotPermittedError", True]


def test_artifact_without_permission(open_root, process):
    if is_root:
        for path in (open_root, open_root / "plans"):
            os.chown(path, 65534, 65534)
    (open_root / PLAN).chmod(0)

    answer = as_nobody(process, open_root, ["plans/**"])

    assert answer == ["NotPermittedError", True]
    assert (open_root / PLAN).stat().st_size == len(b"first\n")


@needs_root
def test_artifact_of_another_user_is_refused_or_keeps_its_owner(open_root, process):
    """No read lease can be had on it, and a commit could not give it its owner back."""
    for path in (open_root, open_root / "plans"):
        os.chown(path, 65534, 65534)
    before = (open_root / PLAN).stat()

    outcome, advised = as_nobody(process, open_root, ["plans/**"])

    after = (open_root / PLAN).stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)
    assert advised
    content = b"mine" if outcome == "committed" else b"first\n"
    assert outcome in {"committed", "NotPermittedError"}
    assert (open_root / PLAN).read_bytes() == content


# ── the disk ─────────────────────────────────────────────────────────────────


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own: ``disk("size=2m")`` is its root."""
    mounted = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
        mounted.append(place)
        (place / "plans").mkdir()
        (place / PLAN).write_bytes(b"first\n")
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


@needs_root
def test_read_only_file_system(disk, volume):
    place = disk("size=4m")
    with volume("alice", root=place) as alice:
        alice.read(PLAN)
        alice.write(PLAN, "one\n")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)

    def visit():
        # Opening may be refused already; a write always is.
        with CoherentVolume(place) as visitor:
            visitor.read(PLAN)
            visitor.write(PLAN, "two\n")

    with pytest.raises(NotPermittedError) as refusal:
        visit()

    assert explains(refusal.value)
    subprocess.run(["mount", "-o", "remount,rw", place], check=True)
    with volume("alice", root=place) as alice:
        assert alice.observe(PLAN).generation == 1
        alice.write(PLAN, "two\n")


@pytest.fixture
def failing_disk(tmp_path):
    """An ext4 in a file that turns read-only at an error; ``failing_disk()`` is the error."""
    image, place = tmp_path / "image", tmp_path / "ext4"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    made = subprocess.run(["mkfs.ext4", "-q", image], capture_output=True, check=False)
    mount = ["mount", "-o", "loop,errors=remount-ro", image, place]
    if made.returncode or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no ext4 can be mounted here")
    device = place.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    trigger = Path("/sys/fs/ext4") / block.name / "trigger_fs_error"
    (place / "plans").mkdir()
    (place / PLAN).write_bytes(b"first\n")

    def fail() -> None:
        trigger.write_text("1")

    fail.place = place
    yield fail
    subprocess.run(["umount", "-l", place], check=True)


@needs_root
def test_file_system_that_turns_read_only_under_an_open_volume(
    failing_disk, volume, expected_warnings
):
    """As the kernel does after an I/O error, whoever has files open."""
    alice = volume("alice", root=failing_disk.place)
    alice.read(PLAN)
    alice.write(PLAN, "one\n")
    failing_disk()

    with pytest.raises((NotPermittedError, StorageError)) as refusal:
        alice.write(PLAN, "two\n")

    assert explains(refusal.value)
    assert (failing_disk.place / PLAN).read_bytes() == b"one\n"
    assert alice.read(PLAN) == b"one\n"


@needs_root
@pytest.mark.parametrize("bound", ["plans/bound", "plans/bound/text"], ids=["directory", "file"])
def test_what_is_bound_from_elsewhere_is_refused_before_anything_changes(root, alice, bound):
    """Of the same file system, so that only the mount tells."""
    (root / "plans" / "bound").mkdir()
    (root / "plans" / "bound" / "text").write_bytes(b"bound\n")
    alice.read("plans/bound/text")
    subprocess.run(["mount", "--bind", root / bound, root / bound], check=True)
    try:
        with pytest.raises(UnsupportedFilesystemError) as refusal:
            alice.write("plans/bound/text", "new\n")
        assert explains(refusal.value)
        assert alice.read("plans/bound/text") == b"bound\n"
    finally:
        subprocess.run(["umount", "-l", root / bound], check=True)
    assert alice.write("plans/bound/text", "new\n").generation == 1


@needs_root
@pytest.mark.parametrize("size", [3_000, 200_000], ids=["in the row", "as an object"])
def test_disk_full_at_any_step_loses_nothing(disk, volume, size):
    """Fill the disk but for a little, a little more each time, until a commit fits."""
    place = disk("size=3m")
    alice = volume("alice", root=place)
    old = b"o" * size
    alice.create("plans/text", old)
    ballast = place / "ballast"
    refusals = []
    for room in (*range(16), *range(16, 200, 8)):
        _fill(ballast, leave=room * 4096)
        new = bytes([65 + room % 26]) * size
        try:
            alice.write("plans/text", new)
        except StorageError as error:
            refusals.append(error)
            expected = old
        else:
            expected = old = new
        assert (place / "plans/text").read_bytes() == expected
        ballast.unlink()
        assert alice.read("plans/text") == expected
    assert refusals
    assert all(explains(error) for error in refusals)
    assert {error.errno for error in refusals} == {errno.ENOSPC}

    generations = alice.observe("plans/text").generation
    assert alice.write("plans/text", b"there is room again").generation == generations + 1
    assert alice.check().ok


@needs_root
def test_full_disk_is_called_so_when_the_volume_cannot_even_be_opened(disk, volume):
    place = disk("size=3m")
    with volume("alice", root=place) as alice:
        alice.create("plans/text", b"one\n")
    _fill(place / "ballast", leave=0)

    with pytest.raises(StorageError) as refusal:
        volume("alice", root=place).read("plans/text")

    assert (refusal.value.errno, refusal.value.step) == (errno.ENOSPC, "open the sidecar")
    assert "no space left on device" in str(refusal.value)


def _fill(ballast: Path, leave: int) -> None:
    free = os.statvfs(ballast.parent)
    size = max(0, free.f_bavail * free.f_frsize - leave)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1)) if size else None


@needs_root
def test_refused_write_on_a_full_disk_is_still_a_refusal(disk, volume):
    place = disk("size=3m")
    alice, bob = volume("alice", root=place), volume("bob", root=place)
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")
    _fill(place / "ballast", leave=0)

    with pytest.raises((ConflictError, StorageError)) as refusal:
        alice.write(PLAN, b"a" * 100_000)

    assert explains(refusal.value)
    assert (place / PLAN).read_bytes() == b"bob's\n"


def test_too_many_open_files(root, process):
    body = """
        import os, resource
        from coherent_volume import CoherenceError, CoherentVolume, StorageError
        volume = CoherentVolume(root, managed=("plans/**",), session="alice")
        volume.read("plans/plan.md")
        volume.write("plans/plan.md", "one")
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held, kinds, room, generation = [], set(), 0, 1
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        while True:
            # A descriptor more each time, until a commit succeeds.
            try:
                volume.read("plans/plan.md")
                generation = volume.write("plans/plan.md", f"room {room}").generation
                break
            except CoherenceError as error:
                assert isinstance(error, StorageError), repr(error)
                assert error.advice
                kinds.add(error.errno)
            try:
                CoherentVolume(root).close()
            except StorageError as error:
                kinds.add(error.errno)
            room += 1
            os.close(held.pop())
        for descriptor in held:
            os.close(descriptor)
        # It may have been acknowledged before it could be made visible.
        assert volume.read("plans/plan.md").decode() == f"room {room}"
        with open(root + "/plans/plan.md") as file:
            assert file.read() == f"room {room}"
        report = volume.check()
        assert report.ok, report
        volume.close()
        return [room, sorted(kinds), generation]
        """
    room, kinds, generation = process(body, root=root)
    assert 1 <= room <= 16
    assert kinds == [errno.EMFILE]
    assert generation == 2


def test_failing_commits_leave_no_descriptor_open(root, volume):
    alice, bob = volume("alice"), volume("bob")
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, "bob's\n")

    def failing():
        for call in (
            lambda: alice.write(PLAN, "x"),
            lambda: alice.create(PLAN, "x"),
            lambda: alice.read("plans/none"),
            lambda: alice.read("other"),
            lambda: alice.read("../x"),
            lambda: CoherentVolume(root, managed=("different",)),
        ):
            with contextlib.suppress(CoherenceError):
                call()

    failing()
    gc.collect()  # what earlier tests left to the collector must not be closed in between
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        failing()
    # The clean-up in the background has one or two open for a moment.
    until(lambda: len(os.listdir("/proc/self/fd")) <= before, "what was opened is closed")


# ── the sidecar ──────────────────────────────────────────────────────────────


def _committed(root: Path, times: int = 3) -> None:
    with CoherentVolume(root, managed=("plans/**",), session="alice") as alice:
        alice.read(PLAN)
        for number in range(times):
            alice.write(PLAN, f"{number}\n")


def _visit(root: Path, process) -> list:
    """A fresh process reads and writes; the result, or the error and whether it advises."""
    return process(
        """
        from coherent_volume import CoherenceError, CoherentVolume
        try:
            with CoherentVolume(root, session="visitor") as volume:
                volume.read("plans/plan.md")
                return ["committed", volume.write("plans/plan.md", "visitor's").generation]
        except CoherenceError as error:
            return [type(error).__name__, error.advice]
        """,
        root=root,
    )


@pytest.mark.parametrize("damage", ["garbage", "zeroed page", "truncated", "empty"])
def test_corrupted_database_is_reported_and_never_guessed(root, process, damage):
    _committed(root)
    database = root / ".coherence" / "sidecar.db"
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    content = bytearray(database.read_bytes())
    if damage == "garbage":
        content[:] = os.urandom(len(content))
    elif damage == "zeroed page":
        content[4096:8192] = bytes(4096)
    elif damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content.clear()
    database.write_bytes(content)

    outcome, advice = _visit(root, process)

    assert outcome == "DamagedError"
    assert "check --repair" in advice
    assert (root / PLAN).read_bytes() == b"2\n"


def test_bit_flips_in_the_database_never_turn_a_number_back(root, process, tmp_path):
    """Each is reported, or harmless; no commit is ever acknowledged with a used number."""
    _committed(root, times=5)
    database = root / ".coherence" / "sidecar.db"
    sound = bytearray(database.read_bytes())
    sound_tree = tmp_path / "sound"
    shutil.copytree(root, sound_tree)
    body = """
        import random, shutil
        from coherent_volume import CoherentVolume, CoherenceError
        rng = random.Random(seed)
        outcomes = {}
        for turn in range(40):
            copy = f"{scratch}/{turn}"
            shutil.copytree(sound, copy)
            with open(f"{copy}/.coherence/sidecar.db", "r+b") as file:
                size = file.seek(0, 2)
                file.seek(place := rng.randrange(size))
                byte = file.read(1)[0] ^ (1 << rng.randrange(8))
                file.seek(place)
                file.write(bytes([byte]))
            try:
                with CoherentVolume(copy, session="visitor") as volume:
                    seen = volume.observe("plans/plan.md")
                    number = volume.write("plans/plan.md", "visitor's").generation
                assert seen.data == b"4\\n", seen
                assert (seen.generation, number) == (5, 6), (place, byte, seen.generation, number)
                outcome = "harmless"
            except CoherenceError as error:
                outcome = type(error).__name__
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            shutil.rmtree(copy)
        return outcomes
        """
    outcomes = process(body, sound=sound_tree, scratch=tmp_path, seed=len(sound))
    print(outcomes)
    assert set(outcomes) <= {"harmless", "DamagedError"}


def test_deleted_database_is_damage_and_not_a_new_beginning(root, process):
    _committed(root)
    for file in (root / ".coherence").glob("sidecar.db*"):
        file.unlink()

    outcome, advice = _visit(root, process)

    assert outcome == "DamagedError"
    assert "check --repair" in advice
    assert (root / PLAN).read_bytes() == b"2\n"


@pytest.mark.parametrize("what", ["database", "directory", "replaced", "rolled back"])
def test_sidecar_that_is_taken_away_under_an_open_volume(root, alice, what):
    alice.read(PLAN)
    alice.write(PLAN, "one\n")
    sidecar = root / ".coherence"
    if what == "database":
        (sidecar / "sidecar.db").unlink()
    elif what == "directory":
        # At once: what works in the background would put files into it meanwhile.
        sidecar.rename(root.parent / "gone")
    elif what == "replaced":
        other = root.parent / "other"
        (other / "plans").mkdir(parents=True)
        CoherentVolume(other, managed=("plans/**",)).close()
        sidecar.rename(root.parent / "aside")
        (other / ".coherence").rename(sidecar)
    else:
        # A backup program, another process, puts yesterday's directory back.
        copy = root.parent / "backup"
        subprocess.run(["cp", "-a", sidecar, copy], check=True)
        alice.write(PLAN, "two\n")
        sidecar.rename(root.parent / "gone")
        copy.rename(sidecar)
    before = (root / PLAN).read_bytes()

    with pytest.raises(DamagedError) as refusal:
        alice.write(PLAN, "into nowhere\n")

    assert explains(refusal.value)
    assert (root / PLAN).read_bytes() == before


@pytest.mark.invariant("I2")
def test_rolled_back_sidecar_hands_out_no_number_twice(root, process):
    _committed(root, times=2)
    backup = root.parent / "backup"
    shutil.copytree(root / ".coherence", backup)
    with CoherentVolume(root, session="alice") as alice:
        for number in range(4):
            alice.append(PLAN, f"{number}\n")
    shutil.rmtree(root / ".coherence")
    shutil.copytree(backup, root / ".coherence")

    outcome, _ = _visit(root, process)

    assert outcome == "DamagedError"
    assert (root / PLAN).read_bytes() == b"1\n0\n1\n2\n3\n"


@pytest.mark.invariant("I2")
@pytest.mark.parametrize("loss", ["deleted", "garbage", "rolled back"])
def test_repair_goes_on_counting_and_keeps_what_is_visible(root, process, loss):
    _committed(root, times=2)
    sidecar = root / ".coherence"
    backup = root.parent / "backup"
    shutil.copytree(sidecar, backup)
    with CoherentVolume(root, session="alice") as alice:
        alice.read(PLAN)
        alice.write(PLAN, "last\n")
    if loss == "rolled back":
        shutil.rmtree(sidecar)
        backup.rename(sidecar)
    else:
        for file in sidecar.glob("sidecar.db*"):
            file.unlink()
        if loss == "garbage":
            (sidecar / "sidecar.db").write_bytes(os.urandom(20_000))

    # What every DamagedError advises.
    for options in (["--repair"], []):
        answer = _coherent_check(root, *options)
        assert answer.returncode == 0, answer.stdout + answer.stderr

    outcome, number = _visit(root, process)
    assert outcome == "committed"
    assert number > 3, "generation 3 was acknowledged before the loss"


def _coherent_check(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "check", *options, "--root", os.fspath(root)],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_schema_of_a_newer_version_is_refused_and_left_alone(root, process):
    _committed(root)
    database = root / ".coherence" / "sidecar.db"
    subprocess.run(
        [sys.executable, "-I", "-c", _RAISE_VERSION, os.fspath(database)],
        check=True,
    )
    before = database.read_bytes()

    outcome, advice = _visit(root, process)

    assert outcome == "SchemaVersionError"
    assert advice
    assert "repair" not in advice  # a newer program is needed, nothing is broken
    assert database.read_bytes() == before
    assert (root / PLAN).read_bytes() == b"2\n"


_RAISE_VERSION = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
version = database.execute("PRAGMA user_version").fetchone()[0]
database.execute(f"PRAGMA user_version = {version + 1}")
database.close()
"""


def test_unknown_argument_values(root, alice):
    for call in (
        lambda: CoherentVolume(root, durability="eventual"),
        lambda: alice.write(PLAN, "x", base="yesterday"),
        lambda: alice.write(PLAN, "x", base=-1),
        lambda: alice.update(PLAN, lambda data: data, retries=-1),
        lambda: alice.write(5, "x"),
        lambda: alice.read(None),
        lambda: alice.rename(PLAN, PLAN),
    ):
        with pytest.raises(UsageError):
            call()
    assert (root / PLAN).read_bytes() == b"first\n"
