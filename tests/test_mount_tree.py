"""Hazard: a program that works on the real directory fails, or sees something else, in a mount."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import resource
import stat
import threading

import pytest
from harness.mounted import mounts_of, needs_fuse

pytestmark = needs_fuse

NOREPLACE, EXCHANGE = 1, 2


@pytest.fixture
def alice(root, tmp_path, volume):
    """A mount of a volume that manages plans/ only."""
    volume("bob")
    with mounts_of(root, tmp_path) as mounted:
        yield mounted("alice")


@pytest.fixture
def free(alice):
    """A directory of the mount with nothing managed in it."""
    (alice.where / "free").mkdir()
    return alice.where / "free"


def renameat2(old, new, flags):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, bytes(old), -100, bytes(new), flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def test_files_directories_and_links_are_made_read_and_removed(free, root):
    (free / "a").write_bytes(b"content")
    (free / "d").mkdir(mode=0o750)
    os.symlink("a", free / "l")
    os.link(free / "a", free / "b")
    os.mkfifo(free / "fifo", 0o600)
    assert (free / "l").read_bytes() == b"content"
    assert (os.stat(free / "a").st_nlink, os.stat(free / "b").st_nlink) == (2, 2)
    assert os.stat(free / "a").st_ino == os.stat(free / "b").st_ino
    assert stat.S_ISFIFO(os.stat(free / "fifo").st_mode)
    assert sorted(os.listdir(free)) == sorted(os.listdir(root / "free"))
    (free / "a").unlink()
    assert (free / "b").read_bytes() == b"content"
    for name in ("b", "l", "fifo"):
        (free / name).unlink()
    (free / "d").rmdir()
    assert os.listdir(root / "free") == []


def test_names_that_are_not_utf8_work(free, root):
    name = os.fsencode(free) + b"/caf\xe9 \xff"
    with open(name, "wb") as file:
        file.write(b"x")
    assert os.listdir(os.fsencode(root / "free")) == [b"caf\xe9 \xff"]
    os.rename(name, name + b"2")
    assert os.listdir(os.fsencode(free)) == [b"caf\xe9 \xff2"]


def test_an_artifact_whose_name_is_not_utf8_is_committed(alice, root):
    name = os.fsencode(alice.where) + b"/plans/caf\xe9"
    with open(name, "wb") as file:
        file.write(b"x")
    with open(os.fsencode(root) + b"/plans/caf\xe9", "rb") as file:
        assert file.read() == b"x"


def test_an_unlinked_file_lives_on_in_its_descriptor(free):
    with open(free / "a", "w+b", buffering=0) as file:
        file.write(b"before")
        (free / "a").unlink()
        file.write(b" after")
        file.truncate(9)
        assert os.fstat(file.fileno()).st_size == 9
        file.seek(0)
        assert file.read() == b"before af"


def test_a_file_that_lost_the_name_it_was_found_by_is_readable_by_another(free):
    (free / "a").write_bytes(b"x")
    os.link(free / "a", free / "b")
    (free / "a").unlink()
    assert (free / "b").read_bytes() == b"x"


def test_renames_replace_keep_and_exchange(free):
    (free / "a").write_bytes(b"a")
    (free / "b").write_bytes(b"b")
    with pytest.raises(OSError, match="exists"):
        renameat2(free / "a", free / "b", NOREPLACE)
    renameat2(free / "a", free / "b", EXCHANGE)
    assert ((free / "a").read_bytes(), (free / "b").read_bytes()) == (b"b", b"a")
    os.rename(free / "a", free / "b")
    assert (free / "b").read_bytes() == b"b"


def test_a_directory_is_renamed_while_files_in_it_are_open(free):
    (free / "d").mkdir()
    with open(free / "d" / "f", "w+b", buffering=0) as file:
        file.write(b"1")
        os.rename(free / "d", free / "e")
        file.write(b"2")
    assert (free / "e" / "f").read_bytes() == b"12"
    assert not (free / "d").exists()


def test_sparse_files_stay_sparse(free):
    with open(free / "s", "w+b", buffering=0) as file:
        file.truncate(1 << 20)
        os.pwrite(file.fileno(), b"x", 1 << 19)
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) > 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0
        os.posix_fallocate(file.fileno(), 0, 4096)
    assert os.stat(free / "s").st_blocks * 512 < 1 << 18


def test_times_modes_and_attributes_are_those_of_the_file(free, root):
    (free / "a").write_bytes(b"x")
    os.utime(free / "a", ns=(10**18 + 1, 10**18 + 2))
    os.chmod(free / "a", 0o640)
    os.setxattr(free / "a", "user.colour", b"red")
    seen, real = os.stat(free / "a"), os.stat(root / "free" / "a")
    assert (seen.st_atime_ns, seen.st_mtime_ns, seen.st_mode) == (
        real.st_atime_ns,
        real.st_mtime_ns,
        real.st_mode,
    )
    assert seen.st_mtime_ns == 10**18 + 2
    assert os.listxattr(free / "a") == ["user.colour"]
    os.removexattr(free / "a", "user.colour")
    with pytest.raises(OSError, match="No data"):
        os.getxattr(root / "free" / "a", "user.colour")


def test_two_appending_descriptors_lose_nothing(free):
    one = os.open(free / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    two = os.open(free / "log", os.O_WRONLY | os.O_APPEND)
    for number in range(50):
        os.write(one if number % 2 else two, b"%2d\n" % number)
    os.close(one)
    os.close(two)
    assert (free / "log").read_bytes() == b"".join(b"%2d\n" % n for n in range(50))


def test_maps_read_and_write(free):
    (free / "m").write_bytes(bytes(8192))
    with open(free / "m", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[4096:4100] = b"data"
        view.flush()
    assert (free / "m").read_bytes()[4096:4100] == b"data"


def test_large_content_comes_through_whole(free, root):
    data = os.urandom(1 << 20) * 9 + b"tail"
    (free / "big").write_bytes(data)
    digest = hashlib.sha256(data).digest()
    assert hashlib.sha256((free / "big").read_bytes()).digest() == digest
    assert hashlib.sha256((root / "free" / "big").read_bytes()).digest() == digest


def test_a_thousand_files_are_open_at_once(free):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"at most {hard} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    files = []
    try:
        for number in range(1500):
            files.append(os.open(free / f"{number}", os.O_RDWR | os.O_CREAT))
            os.write(files[-1], b"%d" % number)
        assert all(os.pread(fd, 9, 0) == b"%d" % n for n, fd in enumerate(files))
        assert len(os.listdir(free)) == 1500
    finally:
        for descriptor in files:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_changes_outside_is_seen_at_once(free, root):
    (root / "free" / "a").write_bytes(b"one")
    assert (free / "a").read_bytes() == b"one"
    (root / "free" / "a").write_bytes(b"longer content")
    assert (free / "a").read_bytes() == b"longer content"
    (root / "free" / "b").write_bytes(b"other")
    os.replace(root / "free" / "b", root / "free" / "a")
    assert (free / "a").read_bytes() == b"other"
    (root / "free" / "a").unlink()
    assert not (free / "a").exists()


def test_many_threads_work_in_one_directory(free):
    wrong = []

    def work(number):
        for turn in range(20):
            path = free / f"{number}-{turn}"
            path.write_bytes(b"x" * turn)
            os.rename(path, free / f"{number}-done")
            if len((free / f"{number}-done").read_bytes()) != turn:
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(os.listdir(free)) == 8


def test_git_works_in_a_mount(alice):
    alice.ok(
        "cd free 2>/dev/null || mkdir free && cd free && git init -q . && seq 100 > f && git add ."
        " && git -c user.name=a -c user.email=b commit -qm one && git checkout -q -b two"
        " && echo x > f && git -c user.name=a -c user.email=b commit -qam two"
        ' && git checkout -q - && test $(wc -l < f) = 100 && git fsck && test -z "$(git status -s)"'
    )


def test_programs_are_executed_from_a_mount(alice):
    assert alice.ok("mkdir -p x && cp /bin/echo x/echo && x/echo hello") == "hello\n"


# ── managed names ────────────────────────────────────────────────────────────


def test_new_artifacts_have_the_mode_that_was_asked_for(alice, root):
    alice.ok("umask 027; echo x > plans/a; cp /bin/true plans/run; install -m 750 plans/a plans/b")
    modes = [stat.S_IMODE((root / "plans" / name).stat().st_mode) for name in ("a", "run", "b")]
    assert [oct(mode) for mode in modes] == ["0o640", "0o750", "0o750"]


def test_an_artifact_keeps_its_mode_and_its_number_over_a_save_in_place(alice, root):
    path = alice.where / "plans" / "plan.md"
    os.chmod(path, 0o600)
    path.read_bytes()
    before = os.stat(path)
    with path.open("r+b") as file:
        file.write(b"FIRST")
    after = os.stat(path)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert after.st_mtime_ns >= before.st_mtime_ns + 10**6
    assert (root / "plans" / "plan.md").read_bytes() == b"FIRST\n"


def test_a_mapped_artifact_is_committed_when_it_is_closed(alice, root):
    path = alice.where / "plans" / "plan.md"
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0) as view:
            view[:5] = b"FIRST"
            view.flush()
        assert (root / "plans" / "plan.md").read_bytes() == b"first\n"
    assert (root / "plans" / "plan.md").read_bytes() == b"FIRST\n"


def test_the_time_of_an_artifact_never_goes_back(alice, root, volume):
    path = alice.where / "plans" / "plan.md"
    before = os.stat(path).st_mtime_ns
    other = root / "older"
    other.write_bytes(b"older\n")
    os.utime(other, ns=(1, 1))
    os.replace(other, root / "plans" / "plan.md")
    assert path.read_bytes() == b"older\n"
    assert os.stat(path).st_mtime_ns >= before + 10**6


def test_a_directory_with_artifacts_is_moved_by_copying_each(alice, root):
    done = alice.sh("mv plans other && ls other && test ! -e plans")
    assert (done.returncode, done.stdout) == (0, "plan.md\n"), done
    alice.ok("sleep 0.4")
    assert (root / "other" / "plan.md").read_bytes() == b"first\n"
    assert not (root / "plans").exists()


def test_a_directory_of_artifacts_is_removed(alice, root):
    alice.ok("for i in 1 2 3 4 5; do echo $i > plans/$i; done; rm -r plans; test ! -e plans")
    assert not (root / "plans").exists()


def test_what_a_session_has_not_committed_is_seen_by_it_alone(alice, root):
    path = alice.where / "plans" / "new.md"
    with path.open("wb", buffering=0) as file:
        file.write(b"half")
        assert path.read_bytes() == b"half"
        assert "new.md" in os.listdir(alice.where / "plans")
        assert "new.md" not in os.listdir(root / "plans")
    assert (root / "plans" / "new.md").read_bytes() == b"half"


def test_the_sidecar_is_shown_for_reading_only(alice):
    inside = alice.where / ".coherence"
    assert sorted(os.listdir(inside)) == [".gitignore", "config.toml", "refused", "why"]
    assert "managed" in (inside / "config.toml").read_text()
    for act in (
        lambda: (inside / "x").write_bytes(b""),
        lambda: (inside / "config.toml").write_bytes(b""),
        (inside / "config.toml").unlink,
        lambda: os.rename(inside, alice.where / "gone"),
        lambda: os.rmdir(inside),
        lambda: os.rename(alice.where / "plans", inside / "plans"),
    ):
        with pytest.raises(OSError) as caught:
            act()
        assert caught.value.errno in (errno.EACCES, errno.EPERM, errno.ENOENT), caught.value
    with pytest.raises(FileNotFoundError):
        (inside / "sidecar.db").stat()


def test_the_library_inside_a_mount_works_on_the_real_volume(alice, root):
    from coherent_volume import CoherentVolume

    with CoherentVolume(alice.where) as volume:
        assert (volume.root, volume.session.name) == (str(root), "alice")
        path = alice.where / "plans" / "plan.md"
        assert volume.read(path) == b"first\n"
        volume.write(path, b"by the library\n")
    assert (alice.where / "plans" / "plan.md").read_bytes() == b"by the library\n"
    alice.ok("echo by the mount > plans/plan.md")  # the same session saw it
    assert (root / "plans" / "plan.md").read_bytes() == b"by the mount\n"


# ── locks ────────────────────────────────────────────────────────────────────

LOCKING = """
import fcntl, os, sys
path, kind = sys.argv[1:]
with open(path, "r+b") as file:
    (fcntl.flock if kind == "flock" else fcntl.lockf)(file, fcntl.LOCK_EX)
    value = int(file.read() or b"0")
    file.seek(0)
    file.write(b"%d" % (value + 1))
    file.flush()
"""


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_locks_exclude_the_programs_of_other_mounts_and_those_outside(root, tmp_path, volume, kind):
    import subprocess
    import sys

    volume("bob")
    (root / "count").write_bytes(b"0")
    (tmp_path / "lock.py").write_text(LOCKING)
    with mounts_of(root, tmp_path) as mounted:
        places = [mounted("alice").where, mounted("carol").where, root]
        running = [
            subprocess.Popen([sys.executable, tmp_path / "lock.py", place / "count", kind])
            for place in places * 4
        ]
        assert [each.wait(60) for each in running] == [0] * 12
    assert (root / "count").read_bytes() == b"12"


def test_a_lock_that_another_mount_holds_is_told(root, tmp_path, volume):
    import fcntl

    volume("bob")
    (root / "free").write_bytes(b"x")
    with mounts_of(root, tmp_path) as mounted:
        one, two = mounted("alice").where, mounted("carol").where
        for name in ("free", "plans/plan.md"):
            with (one / name).open("r+b") as mine, (two / name).open("r+b") as theirs:
                fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with pytest.raises(OSError, match="temporarily"):
                    fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.lockf(mine, fcntl.LOCK_UN)
                fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
