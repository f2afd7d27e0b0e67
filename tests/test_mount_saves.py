"""Hazard: a tool that never heard of the library saves over a peer's newer version.

Each way in which real tools save: fresh, it succeeds as natively and is exactly
one generation; stale, it is refused, and the peer's content stays.
"""

from __future__ import annotations

import difflib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.mounted import Agent, mounts_of, needs_fuse
from harness.patterns import EDITS, LINES, PROGRAMS, SILENT, WHOLE

from coherent_volume import CoherentVolume

pytestmark = needs_fuse

RIPE_S = 0.25


@pytest.fixture
def agents(root, tmp_path, volume):
    """A volume with a plan of 20 lines, its peer bob, and mounts."""
    (root / "plans" / "plan.md").write_bytes(LINES)
    bob = volume("bob")
    with mounts_of(root, tmp_path, reflex_s=0.2) as mounted:
        yield bob, mounted


@dataclass
class Case:
    """One tool's plan in the volume that all tools share, and alice's shell beside it."""

    alice: Agent
    bob: CoherentVolume
    path: str
    real: Path
    outside: Path

    def run(self, script: str):
        return self.alice.sh(script.replace("../", f"{self.outside}/"))

    def generation(self) -> int:
        return self.bob.log(self.path, limit=1)[0].generation


KINDS = {"fresh": WHOLE, "stale": WHOLE, "edit": EDITS, "silent": SILENT}


def names() -> list[str]:
    return [f"{kind}-{name}" for kind, table in KINDS.items() for name in table]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One mount for all tools, each with a plan of its own that bob changed at the right time."""
    base = tmp_path_factory.mktemp("saves")
    root = base / "root"
    for name in names():
        (root / name / "plans").mkdir(parents=True)
        (root / name / "plans" / "plan.md").write_bytes(LINES)
    with (
        CoherentVolume(root, managed=("*/plans/**",), session="bob") as bob,
        mounts_of(root, base, limit_s=300, reflex_s=0.2) as mounted,
    ):
        alice = mounted("alice")

        def bob_writes(kind):
            for name in names():
                if (kind == "fresh") == name.startswith("fresh-"):
                    bob.read(f"{name}/plans/plan.md")
                    bob.write(f"{name}/plans/plan.md", LINES + b"by bob\n")

        bob_writes("fresh")
        alice.ok(f"cat */plans/plan.md >/dev/null && sleep {RIPE_S}")
        bob_writes("stale")
        yield alice, bob, root, base


@pytest.fixture
def case(shared, request, tmp_path) -> Case:
    """The case that the test is called for."""
    alice, bob, root, _ = shared
    kind, name = request.param
    program = PROGRAMS.get(name) or PROGRAMS.get(name.partition("_")[0])
    if program is not None and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    (tmp_path / "new").write_bytes(b"new\n")
    edited = LINES.replace(b"line 3 of the plan", b"edited")
    diff = difflib.unified_diff(
        LINES.decode().splitlines(keepends=True),
        edited.decode().splitlines(keepends=True),
        "a/plans/plan.md",
        "b/plans/plan.md",
    )
    (tmp_path / "edit.patch").write_text("".join(diff))
    here = f"{kind}-{name}"
    path = f"{here}/plans/plan.md"
    return Case(Agent(alice.where / here, "alice"), bob, path, root / path, tmp_path)


def cases(kind: str, table: dict[str, str]):
    return pytest.mark.parametrize(
        "case", [(kind, name) for name in table], indirect=True, ids=table
    )


def settled(volume, path: str, before: int) -> int:
    """The generation of *path* once the mount has committed what it holds."""

    def now() -> int:
        found = volume.log(path, limit=1)
        return found[0].generation if found else 0

    deadline = time.monotonic() + 5
    while now() == before and time.monotonic() < deadline:
        time.sleep(0.02)
    return now()


@cases("fresh", WHOLE)
def test_a_fresh_save_is_one_generation_with_the_native_content(case, request):
    done = case.run(WHOLE[request.node.callspec.id])
    assert done.returncode == 0, done
    assert case.alice.ok("cat plans/plan.md") == "new\n"
    settled(case.bob, case.path, 1)
    kinds = [each.kind for each in case.bob.log(case.path)]
    assert case.real.read_bytes() == b"new\n"
    assert case.generation() == 2, kinds


@cases("stale", WHOLE)
def test_a_stale_save_is_refused_and_the_peers_content_stays(case, request):
    done = case.run(WHOLE[request.node.callspec.id])
    case.alice.ok("sleep 0.3")
    assert case.real.read_bytes() == LINES + b"by bob\n"
    assert case.generation() == 1
    assert done.returncode != 0, done
    assert "bob committed" in case.alice.ok(f"cat ../.coherence/why/{case.path}")


@cases("silent", SILENT)
def test_a_tool_that_ignores_errors_changes_nothing_all_the_same(case, request):
    done = case.run(SILENT[request.node.callspec.id])
    case.alice.ok("sleep 0.3")
    assert done.returncode == 0, "it reports the refusal: move it to WHOLE"
    assert case.real.read_bytes() == LINES + b"by bob\n"
    assert case.generation() == 1


@cases("edit", EDITS)
def test_an_edit_of_the_head_keeps_the_peers_lines_and_goes_through(case, request):
    done = case.run(EDITS[request.node.callspec.id])
    assert done.returncode == 0, done
    content = case.real.read_bytes()
    assert content == LINES.replace(b"line 3 of the plan", b"edited") + b"by bob\n"
    assert case.generation() == 2


def test_a_retry_of_the_same_stale_save_is_refused_again(agents, root):
    bob, mounted = agents
    alice = mounted("alice")
    alice.ok(f"cat plans/plan.md && sleep {RIPE_S}")
    bob.read("plans/plan.md")
    bob.write("plans/plan.md", LINES + b"by bob\n")
    blind = "python3 -c \"open('plans/plan.md').read(); open('plans/plan.md', 'w').write('x')\""
    for _ in range(3):
        alice.sh(blind + f"; sleep {RIPE_S}")
    assert (root / "plans" / "plan.md").read_bytes() == LINES + b"by bob\n"
    alice.ok(f"cat plans/plan.md; sleep {RIPE_S}; echo x > plans/plan.md")
    assert (root / "plans" / "plan.md").read_bytes() == b"x\n"


def test_refused_content_of_a_rename_is_kept_and_named(agents, root):
    bob, mounted = agents
    alice = mounted("alice")
    alice.ok(f"cat plans/plan.md && sleep {RIPE_S}")
    bob.read("plans/plan.md")
    bob.write("plans/plan.md", b"by bob\n")
    assert alice.sh("echo mine > t; mv t plans/plan.md; s=$?; rm -f t; exit $s").returncode != 0
    reason = alice.ok("cat .coherence/why/plans/plan.md")
    kept = reason.rpartition("Your content is kept in ")[2].splitlines()[0]
    assert (root / kept).read_bytes() == b"mine\n"
    assert alice.ok(f"cat {kept}") == "mine\n"


def test_an_append_never_conflicts_and_loses_nothing(agents, root):
    bob, mounted = agents
    alice = mounted("alice")
    alice.ok(f"cat plans/plan.md && sleep {RIPE_S}")
    bob.read("plans/plan.md")
    bob.write("plans/plan.md", b"by bob\n")
    alice.ok("echo by alice >> plans/plan.md")
    assert (root / "plans" / "plan.md").read_bytes() == b"by bob\nby alice\n"


def test_a_stale_deletion_is_refused_and_a_fresh_one_is_carried_out(agents, root):
    bob, mounted = agents
    alice = mounted("alice")
    alice.ok(f"cat plans/plan.md && sleep {RIPE_S}")
    bob.read("plans/plan.md")
    bob.write("plans/plan.md", b"by bob\n")
    assert alice.sh("rm -f plans/plan.md").returncode != 0
    assert alice.ok("cat plans/plan.md") == "by bob\n"
    alice.ok(f'sleep {RIPE_S}; rm plans/plan.md; test ! -e plans/plan.md; test -z "$(ls plans)"')
    assert settled(bob, "plans/plan.md", 1) == 2
    assert not (root / "plans" / "plan.md").exists()


def test_a_write_through_a_handle_older_than_a_peers_commit_is_refused(agents, root):
    bob, mounted = agents
    alice = mounted("alice")
    path = alice.where / "plans" / "plan.md"
    path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        bob.read("plans/plan.md")
        bob.write("plans/plan.md", b"by bob\n")
        with pytest.raises(PermissionError):
            file.write(b"mine")
        with pytest.raises(PermissionError):
            file.write(b"mine")
    assert (root / "plans" / "plan.md").read_bytes() == b"by bob\n"


def test_a_reader_keeps_the_generation_that_it_opened(agents, root):
    bob, mounted = agents
    alice = mounted("alice")
    with (alice.where / "plans" / "plan.md").open("rb", buffering=0) as file:
        assert file.read(5) == LINES[:5]
        bob.read("plans/plan.md")
        bob.write("plans/plan.md", b"by bob\n")
        assert file.read() == LINES[5:]
        assert (alice.where / "plans" / "plan.md").read_bytes() == b"by bob\n"


def test_a_peers_lease_is_eagain_at_open_and_rename(agents, root):
    bob, mounted = agents
    alice = mounted("alice")
    alice.ok("cat plans/plan.md")
    with bob.lease("plans/plan.md"):
        done = alice.sh("echo x > plans/plan.md")
        assert "temporarily unavailable" in done.stderr
        done = alice.sh("echo x > t; mv t plans/plan.md")
        assert "temporarily unavailable" in done.stderr
        assert "Permission denied" in alice.sh("rm -f plans/plan.md").stderr
    assert (root / "plans" / "plan.md").read_bytes() == LINES


def test_blind_writes_are_measured_from_the_sessions_start(agents, root):
    bob, mounted = agents
    bob.create("plans/other.md", b"other\n")
    alice = mounted("alice")
    alice.ok("echo unread > plans/other.md")  # nobody touched it since
    bob.read("plans/plan.md")
    bob.write("plans/plan.md", b"by bob\n")
    assert alice.sh("echo unread > plans/plan.md").returncode != 0
    assert (root / "plans" / "plan.md").read_bytes() == b"by bob\n"


def test_reading_by_uncredited_programs_counts_for_nothing(agents, root):
    bob, mounted = agents
    alice = mounted("alice")
    bob.read("plans/plan.md")
    bob.write("plans/plan.md", b"by bob\n")
    alice.ok(f"grep -q bob plans/plan.md; sleep {RIPE_S}")
    assert alice.sh("echo x > plans/plan.md").returncode != 0


def test_estale_can_be_chosen(agents, root):
    bob, mounted = agents
    import errno

    alice = mounted("alice", refused_errno=errno.ESTALE)
    bob.read("plans/plan.md")
    bob.write("plans/plan.md", b"by bob\n")
    assert "Stale file handle" in alice.sh("echo x > plans/plan.md").stderr


def test_observing_refuses_nothing_and_notes_what_it_would_have_refused(agents, root):
    from fuse_mount import mounts

    bob, mounted = agents
    alice = mounted("alice", observe=True)
    bob.read("plans/plan.md")
    bob.write("plans/plan.md", b"by bob\n")
    alice.ok("echo x > plans/plan.md")
    assert (root / "plans" / "plan.md").read_bytes() == b"x\n"
    (found,) = mounts(root)
    assert (found.observe, found.refusals > 0) == (True, True)


def test_attributes_tell_generation_base_head_state_and_why(agents, root):
    import os

    bob, mounted = agents
    alice = mounted("alice")
    path = alice.where / "plans" / "plan.md"
    path.read_bytes()
    alice.ok(f"sleep {RIPE_S}")
    bob.read("plans/plan.md")
    bob.write("plans/plan.md", b"by bob\n")
    assert alice.sh("echo x > plans/plan.md").returncode != 0
    found = {
        name: os.getxattr(path, f"user.coherence.{name}")
        for name in ("generation", "base", "head", "state", "why")
    }
    assert found["generation"] == found["head"] == b"1"
    assert (found["base"], found["state"]) == (b"0", b"I")
    assert b"bob committed" in found["why"]
    assert os.getxattr(alice.where, "user.coherence.real") == bytes(root)


# ── where the configuration says: merge ──────────────────────────────────────


def merging(root):
    CoherentVolume(root, managed=("plans/**",)).close()
    config = root / ".coherence" / "config.toml"
    config.write_text(config.read_text().replace('= "refuse"', '= "merge"', 1))


@pytest.mark.parametrize("how", ["cat draft > plans/plan.md", "cp draft t && mv t plans/plan.md"])
def test_stale_save_of_another_place_is_merged_where_the_configuration_says_so(root, tmp_path, how):
    (root / "plans" / "plan.md").write_bytes(LINES)
    merging(root)
    with CoherentVolume(root, session="bob") as bob, mounts_of(root, tmp_path) as mounted:
        alice = mounted("alice")
        alice.ok(f"sed 's/^line 3 .*/by alice/' plans/plan.md > draft; sleep {RIPE_S}")
        bob.update("plans/plan.md", lambda text: text.replace(b"line 15 of the plan", b"by bob"))
        alice.ok(how)
        settled(bob, "plans/plan.md", 1)
        text = bob.read("plans/plan.md")
        assert b"by alice\n" in text
        assert b"by bob\n" in text
        assert bob.log("plans/plan.md", limit=1)[0].kind == "merge"

        alice.ok(f"sed 's/^by bob/by alice/' plans/plan.md > draft; sleep {RIPE_S}")
        bob.update("plans/plan.md", lambda text: text.replace(b"by bob", b"by bob again"))
        assert alice.sh(how).returncode != 0, "the same line"
        assert b"by bob again\n" in bob.read("plans/plan.md")
