"""Hazard: content changes on its way through the command line, or a view is wrong afterwards."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess

import pytest

from tests.harness.command import COHERENT, Command

PLAN = "plans/plan.md"


@pytest.fixture
def alice(root):
    """The command in the name of alice, in a volume."""
    Command(root).ok("init", "--managed", "plans/**")
    return Command(root, "alice")


@pytest.fixture
def bob(alice):
    """The command in the name of bob, in the same volume."""
    return Command(alice.where, "bob")


# ── read and write ───────────────────────────────────────────────────────────


def test_what_is_written_is_read_byte_for_byte(alice, root):
    content = bytes(range(256)) * 300 + b"\r\n\0 no newline at the end"
    alice.ok("read", PLAN)
    alice.ok("write", PLAN, input=content)
    assert (root / PLAN).read_bytes() == content
    assert alice.ok("read", PLAN).out == content


def test_a_write_without_a_read_is_refused_as_one_that_saw_nothing(alice, root):
    done = alice("write", PLAN, input="blind\n")
    assert done.code == 75
    assert done.out == b""
    assert done.err.startswith(f"coherent: {PLAN}: ")
    assert (root / PLAN).read_bytes() == b"first\n"


def test_a_write_from_a_stale_read_is_refused_and_its_content_kept(alice, bob, root):
    alice.ok("read", PLAN)
    bob.ok("read", PLAN)
    bob.ok("write", PLAN, input="bob's\n")

    done = alice("write", PLAN, "--json", input="alice's\n")

    assert done.code == 75
    told = done.json()
    assert (told["ok"], told["error"]) == (False, "StaleGenerationError")
    assert (told["base"], told["current"], told["exit_code"]) == (0, 1, 75)
    assert (root / PLAN).read_bytes() == b"bob's\n"
    assert (root / told["kept"]).read_bytes() == b"alice's\n"


def test_the_text_of_a_refusal_names_the_kept_content(alice, bob):
    for each in (alice, bob):
        each.ok("read", PLAN)
    bob.ok("write", PLAN, input="bob's\n")
    assert ".coherence/refused/plan.md.alice." in alice("write", PLAN, input="mine\n").err


def test_the_same_refusal_is_the_same_bytes(alice, bob):
    for each in (alice, bob):
        each.ok("read", PLAN)
    bob.ok("write", PLAN, input="bob's\n")
    texts = {alice("write", PLAN, input="mine\n").err for _ in range(3)}
    objects = {alice("write", PLAN, "--json", input="mine\n").out for _ in range(3)}
    assert len(texts) == len(objects) == 1


def test_a_name_never_used_needs_no_read(alice, root):
    assert alice.ok("write", "plans/new.md", input="new\n").text == (
        "plans/new.md is generation 1\n"
    )
    assert (root / "plans/new.md").read_bytes() == b"new\n"


def test_writing_what_is_there_makes_no_generation(alice):
    alice.ok("read", PLAN)
    alice.ok("write", PLAN, input="second\n")
    assert alice.ok("write", PLAN, input="second\n").text.endswith("generation 1 (unchanged)\n")


def test_base_names_what_the_content_was_derived_from(alice, bob):
    bob.ok("read", PLAN)
    bob.ok("write", PLAN, input="bob's\n")
    assert alice("write", PLAN, "--base", "0", input="old\n").code == 75
    assert alice.ok("write", PLAN, "--base", "1", "--json", input="x\n").json()["base"] == 1


def test_a_base_beyond_every_number_is_an_error_and_no_crash(alice):
    alice.ok("read", PLAN)
    for base in ("17", "9" * 18, "9" * 40):
        done = alice("write", PLAN, "--base", base, input="x\n")
        assert done.code in (2, 75), done
        assert "internal error" not in done.err


def test_a_base_that_was_never_made_is_called_so_and_the_content_is_kept(alice, root):
    for path, current in ((PLAN, 0), ("plans/new.md", 0)):
        done = alice("write", path, "--base", "17", "--json", input="x\n")
        assert done.code == 75
        told = done.json()
        assert told["message"] == (
            f"generation 17, named as the base, was never made: current is {current}"
        )
        assert (root / told["kept"]).read_bytes() == b"x\n"


def test_overwrite_replaces_content_unseen(alice, root):
    alice.ok("write", PLAN, "--overwrite", input="mine\n")
    assert (root / PLAN).read_bytes() == b"mine\n"


def test_content_can_come_from_a_file(alice, root, tmp_path):
    (tmp_path / "draft").write_bytes(b"draft\n")
    alice.ok("read", PLAN)
    alice.ok("write", PLAN, "--from", tmp_path / "draft")
    assert (root / PLAN).read_bytes() == b"draft\n"


def test_a_missing_source_is_the_callers_mistake_and_changes_nothing(alice, root):
    alice.ok("read", PLAN)
    done = alice("write", PLAN, "--from", "nowhere")
    assert done.code == 2
    assert done.err.startswith("coherent: nowhere: cannot be read: No such file or directory\n")
    assert (root / PLAN).read_bytes() == b"first\n"


def test_a_source_that_is_a_directory_changes_nothing(alice, root):
    alice.ok("read", PLAN)
    assert alice("write", PLAN, "--from", "plans").code == 2
    assert (root / PLAN).read_bytes() == b"first\n"


def test_a_closed_standard_input_is_no_empty_content(alice, root):
    alice.ok("read", PLAN)
    done = alice.start("write", PLAN, preexec_fn=lambda: os.close(0), stderr=subprocess.PIPE)
    assert b"standard input is closed" in done.communicate()[1]
    assert done.returncode == 2
    assert (root / PLAN).read_bytes() == b"first\n"


def test_read_of_nothing_exits_with_66(alice):
    done = alice("read", "plans/none.md")
    assert done.code == 66
    assert done.out == b""
    assert alice("read", "plans/none.md", "--json").json()["error"] == "NotFoundError"


# ── create, append, rm, mv ───────────────────────────────────────────────────


def test_create_takes_only_a_free_name(alice, bob, root):
    alice.ok("create", "plans/new.md", input="alice's\n")
    done = bob("create", "plans/new.md", input="bob's\n")
    assert done.code == 73
    assert (root / "plans/new.md").read_bytes() == b"alice's\n"
    assert bob("create", PLAN, input="bob's\n").code == 73


def test_append_needs_no_read_and_loses_nothing(alice, bob, root):
    alice.ok("append", PLAN, input="alice\n")
    bob.ok("append", PLAN, input="bob\n")
    assert (root / PLAN).read_bytes() == b"first\nalice\nbob\n"


def test_rm_deletes_only_what_was_seen(alice, bob, root):
    assert alice("rm", PLAN).code == 75
    alice.ok("read", PLAN)
    bob.ok("read", PLAN)
    bob.ok("write", PLAN, input="bob's\n")
    assert alice("rm", PLAN).code == 75
    alice.ok("read", PLAN)
    assert alice.ok("rm", PLAN).text == f"{PLAN} deleted by generation 2\n"
    assert not (root / PLAN).exists()
    assert alice("read", PLAN).code == 66


def test_mv_keeps_the_content_under_the_new_name(alice, root):
    assert alice("mv", PLAN, "plans/b.md").code == 75
    alice.ok("read", PLAN)
    done = alice.ok("mv", PLAN, "plans/b.md")
    assert done.text == f"plans/b.md (moved from {PLAN}) is generation 1\n"
    assert not (root / PLAN).exists()
    assert alice.ok("read", "plans/b.md").out == b"first\n"


def test_mv_takes_only_a_free_name(alice, root):
    (root / "plans/taken.md").write_bytes(b"taken\n")
    alice.ok("read", PLAN)
    assert alice("mv", PLAN, "plans/taken.md").code == 73
    assert (root / "plans/taken.md").read_bytes() == b"taken\n"
    assert (root / PLAN).read_bytes() == b"first\n"


# ── JSON ─────────────────────────────────────────────────────────────────────

COMMIT = {
    "ok",
    "path",
    "generation",
    "digest",
    "session",
    "base",
    "changed",
    "installed",
    "epoch",
    "merged",
}


def test_every_commit_is_one_json_object(alice):
    alice.ok("read", PLAN)
    told = alice.ok("write", PLAN, "--json", input="x\n").json()
    assert set(told) == COMMIT
    assert (told["ok"], told["path"], told["session"]) == (True, PLAN, "alice")
    assert (told["base"], told["generation"]) == (0, 1)
    assert len(bytes.fromhex(told["digest"])) == 16
    for words in (
        ["create", "plans/n.md"],
        ["append", PLAN],
        ["mv", "plans/n.md", "plans/m.md"],
        ["rm", "plans/m.md"],
    ):
        assert set(alice.ok(*words, "--json", input="y\n").json()) == COMMIT


def test_json_of_a_read_carries_text_or_base64(alice):
    told = alice.ok("read", PLAN, "--json").json()
    assert (told["text"], told["path"], told["generation"]) == ("first\n", PLAN, 0)
    binary = b"\xff\0\xfe"
    digest = alice.ok("write", PLAN, "--json", input=binary).json()["digest"]
    told = alice.ok("read", PLAN, "--json").json()
    assert base64.b64decode(told["base64"]) == binary
    assert "text" not in told
    assert (told["generation"], told["digest"]) == (1, digest)


def test_json_of_a_read_that_fails_is_one_object(alice):
    done = alice("read", "plans/none.md", "--json")
    assert (done.code, done.err) == (66, "")
    assert done.json()["ok"] is False


# ── paths ────────────────────────────────────────────────────────────────────


def test_a_path_is_relative_to_the_working_directory(alice, root):
    below = Command(root / "plans", "alice")
    assert below.ok("read", "plan.md").out == b"first\n"
    below.ok("write", "./plan.md", input="second\n")
    assert below.ok("read", "../plans/plan.md").out == b"second\n"
    assert below.ok("read", root / PLAN).out == b"second\n"
    assert below("read", PLAN).code == 66
    assert below.ok("write", "plan.md", "--json", input="third\n").json()["path"] == PLAN


def test_root_names_a_volume_from_anywhere(alice, root, tmp_path):
    away = Command(tmp_path, "alice")
    assert away("read", root / PLAN).code == 2
    assert away.ok("read", root / PLAN, "--root", root).out == b"first\n"
    assert away.ok("read", f"root/{PLAN}", "--root", "root").out == b"first\n"


def test_a_root_reached_by_a_link_is_the_same_volume(alice, root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    away = Command(tmp_path, "alice")
    assert away.ok("read", f"link/{PLAN}", "--root", "link").out == b"first\n"
    assert Command(tmp_path / "link" / "plans", "alice").ok("read", "plan.md").out == b"first\n"


def test_a_parent_that_is_a_link_means_what_it_means_to_cat(alice, root):
    (root / "plans/deep/er").mkdir(parents=True)
    (root / "plans/deep/plan.md").write_bytes(b"deep\n")
    (root / "short").symlink_to("plans/deep/er")
    assert alice.ok("read", "short/../plan.md").out == b"deep\n"


def test_a_path_outside_the_root_exits_with_77(alice, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret\n")
    for path in ("../secret", tmp_path / "secret", "plans/../../secret"):
        done = alice("read", path)
        assert (done.code, done.out) == (77, b"")


def test_a_link_out_of_the_root_exits_with_77(alice, root, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret\n")
    (root / "plans/link.md").symlink_to(tmp_path / "secret")
    (root / "plans/out").symlink_to(tmp_path)
    assert alice("read", "plans/link.md").code == 77
    assert alice("read", "plans/out/secret").code == 77
    assert alice("write", "plans/out/secret", "--overwrite", input="x").code == 77
    assert (tmp_path / "secret").read_bytes() == b"secret\n"


def test_no_volume_anywhere_is_wrong_usage_with_advice(tmp_path):
    done = Command(tmp_path)("read", "a")
    assert done.code == 2
    assert "coherent init" in done.err


def test_a_root_that_is_no_volume_is_wrong_usage(tmp_path):
    assert Command(tmp_path)("read", "a", "--root", tmp_path).code == 2


@pytest.mark.parametrize("path", ["", ".", "plans", "plans/", ".."])
def test_what_is_no_file_is_refused(alice, path):
    done = alice("read", path)
    assert done.code in (2, 66, 77)
    assert "internal error" not in done.err


def test_an_unmanaged_path_is_wrong_usage(alice, root):
    (root / "other.md").write_bytes(b"other\n")
    done = alice("read", "other.md", "--json")
    assert done.code == 2
    assert done.json()["error"] == "NotManagedError"


def test_names_that_are_not_utf8_work_and_are_printed_escaped(alice, root):
    name = b"plans/caf\xe9\x1b[31m\n.md"
    told = alice.ok("create", name, input="x\n")
    assert told.text == "plans/caf\\udce9\\x1b[31m\\n.md created as generation 1\n"
    assert alice.ok("read", name).out == b"x\n"
    assert os.fsencode(alice.ok("read", name, "--json").json()["path"]) == name
    log = alice.ok("log").text
    assert "\x1b" not in log
    assert log.count("\n") == 2
    assert b"caf\xe9\x1b[31m\n.md" in os.listdir(os.fsencode(root / "plans"))


def test_names_work_in_a_locale_without_them(alice, root):
    (root / "plans/naïve.md").write_bytes(b"x\n")
    for variables in ({"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"}):
        done = alice("read", "plans/naïve.md".encode(), **variables)
        assert (done.code, done.out) == (0, b"x\n")
        done = alice("append", "plans/naïve.md".encode(), input="", **variables)
        assert done.code == 0, done


# ── size ─────────────────────────────────────────────────────────────────────


def test_large_content_streams_in_bounded_memory(alice, root, tmp_path):
    size = 200 * 1024 * 1024
    if shutil.disk_usage(tmp_path).free < 5 * size:
        pytest.skip("not enough space")
    block = os.urandom(1024 * 1024)
    with (tmp_path / "big").open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
    # Far below the content, far above what the command itself takes.
    limit = f'ulimit -v {180 * 1024}; exec "$@"'

    def run(*words, **streams):
        command = ["sh", "-c", limit, "sh", *COHERENT, *words]
        return subprocess.run(
            command,
            cwd=root,
            env=alice.environment(),
            check=False,
            stderr=subprocess.PIPE,
            **streams,
        )

    with (tmp_path / "big").open("rb") as source:
        done = run("write", "plans/big", stdin=source, stdout=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, b"")
    with (tmp_path / "copy").open("wb") as sink:
        done = run("read", "plans/big", stdout=sink)
    assert (done.returncode, done.stderr) == (0, b"")
    digests = set()
    for place in (tmp_path / "big", tmp_path / "copy", root / "plans/big"):
        with place.open("rb") as file:
            digests.add(hashlib.file_digest(file, "sha256").hexdigest())
    assert len(digests) == 1
