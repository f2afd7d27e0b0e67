"""Hazard: what a command reports about the volume is wrong, unreadable or misleading."""

from __future__ import annotations

import pytest

from cli import demo
from cli.call import Common
from tests.harness.command import Command, on_a_terminal

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


# ── nothing there ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["log", "reacquire"])
def test_what_never_was_has_neither_a_history_nor_a_view(alice, verb):
    done = alice(verb, "plans/never.md")
    assert done.code == 66
    assert done.err.startswith("coherent: plans/never.md: no such artifact")


def test_what_a_peer_deleted_is_reacquired_as_gone(alice, bob):
    alice.ok("read", PLAN)
    bob.ok("read", PLAN)
    bob.ok("rm", PLAN)
    assert alice.ok("reacquire", PLAN, "--json").json()["reacquired"] == [PLAN]


def test_check_of_a_volume_at_rest_finds_nothing(alice):
    alice.ok("read", PLAN)
    alice.ok("write", PLAN, input="second\n")
    assert alice.ok("check").text == "artifacts 1, generations 2: sound\n"


# ── init ─────────────────────────────────────────────────────────────────────


def test_init_makes_a_private_volume_and_says_what_it_manages(root):
    done = Command(root).ok("init", "--managed", "plans/**", "--managed", "!plans/drafts/**")
    assert done.text.startswith("Made a coherent volume.\n")
    assert "plans/** !plans/drafts/**" in done.text
    assert (root / ".coherence").stat().st_mode & 0o777 == 0o700
    assert (root / ".coherence/.gitignore").read_text() == "*\n"


def test_init_again_changes_nothing_and_shows_the_configuration(root):
    Command(root).ok("init", "--managed", "plans/**", "--durability", "process")
    before = (root / ".coherence/config.toml").read_text()
    told = Command(root).ok("init", "--json").json()
    assert told["managed"] == ["plans/**"]
    assert (told["durability"], told["created"]) == ("process", False)
    assert (root / ".coherence/config.toml").read_text() == before


def test_init_without_globs_manages_every_file(root):
    Command(root).ok("init")
    (root / "deep/er").mkdir(parents=True)
    (root / "deep/er/file").write_bytes(b"x\n")
    assert Command(root, "alice").ok("read", "deep/er/file").out == b"x\n"


def test_init_with_other_globs_or_durability_is_refused(root):
    Command(root).ok("init", "--managed", "plans/**")
    assert Command(root)("init", "--managed", "other/**").code == 78
    assert Command(root)("init", "--durability", "process").code == 78


def test_init_refuses_what_is_no_durability_and_makes_nothing(root):
    done = Command(root)("init", "--durability", "eternal")
    assert done.code == 78
    assert not (root / ".coherence").exists()


def test_init_of_another_directory(root, tmp_path):
    Command(tmp_path).ok("init", "--root", "root", "--managed", "plans/**")
    assert Command(root, "alice").ok("read", PLAN).out == b"first\n"


def test_init_inside_a_volume_is_refused(alice, root):
    assert Command(root / "plans")("init").code == 2
    assert not (root / "plans/.coherence").exists()


def test_init_where_nothing_is(tmp_path):
    assert Command(tmp_path)("init", "--root", "nowhere").code in (2, 66)
    (tmp_path / "file").touch()
    assert Command(tmp_path)("init", "--root", "file").code == 2


def test_an_unknown_key_in_the_configuration_exits_with_78(alice, root):
    config = root / ".coherence/config.toml"
    config.write_text("managd = []\n" + config.read_text())
    done = alice("read", PLAN)
    assert done.code == 78
    assert "managd" in done.err


# ── session ──────────────────────────────────────────────────────────────────


def test_session_says_who_and_by_which_rule(alice, root):
    told = alice.ok("session", "--json").json()
    assert (told["session"], told["kind"]) == ("alice", "named")
    assert "COHERENT_SESSION" in told["rule"]
    told = alice.ok("session", "--as", "carol", "--json").json()
    assert told["session"] == "carol"
    assert "session  alice\n" in alice.ok("session").text


def test_a_name_given_goes_before_the_environment(alice, bob):
    alice.ok("read", PLAN, "--as", "bob")
    assert alice("write", PLAN, input="x\n").code == 75
    bob.ok("write", PLAN, input="x\n")


def test_an_agent_harness_is_known_by_its_mark(alice):
    shell = Command(alice.where)
    done = shell("session", "--json", CODEX_THREAD_ID="42")
    assert done.json()["session"] == "codex-42"
    assert "CODEX_THREAD_ID" in done.json()["rule"]


def test_a_session_needs_a_name(alice):
    for name in ("", " ", "outside", "x" * 1000):
        assert alice("session", "--as", name).code == 2


# ── reacquire ────────────────────────────────────────────────────────────────


def test_reacquire_lists_what_peers_changed_and_renews_the_view(alice, bob):
    bob.ok("create", "plans/other.md", input="other\n")
    for path in (PLAN, "plans/other.md"):
        alice.ok("read", path)
        bob.ok("append", path, input="bob\n")
    assert alice("write", PLAN, input="x\n").code == 75

    assert alice.ok("reacquire", PLAN).text == f"{PLAN}\n"
    assert alice.ok("reacquire", "--json").json() == {"ok": True, "reacquired": ["plans/other.md"]}
    assert alice.ok("reacquire").out == b""

    alice.ok("write", PLAN, input="x\n")


def test_reacquire_of_several_paths_relative_to_here(alice, bob, root):
    alice.ok("read", PLAN)
    bob.ok("append", PLAN, input="bob\n")
    below = Command(root / "plans", "alice")
    assert below.ok("reacquire", "plan.md", "./plan.md").text == f"{PLAN}\n"


def test_reacquire_of_a_link_means_its_target(alice, bob, root):
    (root / "plans/link.md").symlink_to("plan.md")
    alice.ok("read", "plans/link.md")
    bob.ok("append", PLAN, input="bob\n")
    assert alice.ok("reacquire", "plans/link.md").text == f"{PLAN}\n"


# ── status and log ───────────────────────────────────────────────────────────


def test_status_shows_who_is_behind_and_what_was_refused(alice, bob):
    alice.ok("read", PLAN)
    bob.ok("read", PLAN)
    bob.ok("write", PLAN, input="bob's\n")
    kept = alice("write", PLAN, "--json", input="mine\n").json()["kept"]

    told = alice.ok("status", "--json").json()

    sessions = {each["name"]: each for each in told["sessions"]}
    assert (sessions["alice"]["behind"], sessions["bob"]["behind"]) == (1, 0)
    assert sessions["bob"]["commits"] == 1
    assert [each["file"] for each in told["refused"]] == [kept]
    assert told["session"]["name"] == "alice"
    assert "COHERENT_SESSION" in told["session"]["rule"]
    text = alice.ok("status").text
    assert kept in text
    assert "session     alice (environment variable COHERENT_SESSION)\n" in text


def test_status_of_a_fresh_volume_is_short(alice):
    text = alice.ok("status").text
    assert "artifacts   0\n" in text
    assert "REFUSED" not in text


def test_log_shows_newest_first_and_no_more_than_asked(alice, bob, root):
    alice.ok("read", PLAN)
    alice.ok("write", PLAN, input="second\n")
    bob.ok("append", PLAN, input="third\n")
    bob.ok("create", "plans/other.md", input="x\n")
    entries = alice.ok("log", PLAN, "--json").json()["entries"]
    assert [(e["generation"], e["base"], e["session"]) for e in entries[:2]] == [
        (2, 1, "bob"),
        (1, 0, "alice"),
    ]
    assert alice.ok("log", "-n", "1", "--json").json()["entries"][0]["path"] == "plans/other.md"
    lines = alice.ok("log", PLAN, "-n", "2").text.splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:3] == ["AT", "PATH", "GENERATION"]
    assert Command(root / "plans", "alice").ok("log", "plan.md", "-n", "2").text.splitlines() == (
        lines
    )


def test_log_of_nothing_is_empty(alice):
    assert alice.ok("log").out == b""
    assert alice.ok("log", "--json").json() == {"ok": True, "entries": []}


def test_a_foreign_edit_shows_in_the_log_as_from_outside(alice, root):
    alice.ok("read", PLAN)
    alice.ok("write", PLAN, input="second\n")
    (root / PLAN).write_bytes(b"edited\n")
    assert alice("write", PLAN, "--json", input="x\n").json()["error"] == "ForeignEditError"
    assert alice.ok("log", PLAN, "--json").json()["entries"][0]["kind"] == "foreign"


def test_what_a_session_is_called_reaches_no_terminal_as_a_command(alice):
    mallory = Command(alice.where, "mallory\x1b[2J\x07")
    done = mallory("create", "plans/x.md", input="x\n")
    outputs = [done.err.encode(), done.out]
    for words in (["status"], ["log"], ["create", "plans/x.md"]):
        outputs += [alice(*words).out, alice(*words).err.encode()]
    assert not any(b"\x1b" in each or b"\x07" in each for each in outputs)


# ── check ────────────────────────────────────────────────────────────────────


def test_check_of_a_sound_volume(alice):
    alice.ok("read", PLAN)
    alice.ok("write", PLAN, input="second\n")
    assert alice.ok("check").text.endswith(": sound\n")
    told = alice.ok("check", "--json").json()
    assert (told["ok"], told["artifacts"]) == (True, 1)


def test_a_deleted_sidecar_exits_with_65(alice, root):
    alice.ok("read", PLAN)
    (root / ".coherence/sidecar.db").unlink()
    for name in ("sidecar.db-wal", "sidecar.db-shm"):
        (root / ".coherence" / name).unlink(missing_ok=True)
    done = alice("read", PLAN)
    assert done.code == 65
    assert "coherent check --repair" in done.err
    assert alice("status", "--json").json()["error"] == "DamagedError"
    assert (root / PLAN).read_bytes() == b"first\n"


@pytest.mark.parametrize("damage", ["deleted", "garbage"])
def test_check_with_repair_brings_back_a_volume_whose_sidecar_is_lost(alice, bob, root, damage):
    alice.ok("read", PLAN)
    alice.ok("write", PLAN, input="second\n")
    for path in (root / ".coherence").glob("sidecar.db*"):
        path.unlink() if damage == "deleted" else path.write_bytes(b"garbage" * 1000)
    assert alice("check").code == 65
    assert bob("check", "--json").json()["ok"] is False

    done = alice("check", "--repair")

    assert (done.code, done.err) == (0, ""), done
    assert "(repaired): sidecar.db: " in done.text
    assert "kept in .coherence/damaged/1\n" in done.text
    assert alice.ok("check").text.endswith(": sound\n")
    assert alice.ok("read", PLAN).out == b"second\n"
    assert alice.ok("write", PLAN, "--json", input="third\n").json()["generation"] > 1


# ── terminals ────────────────────────────────────────────────────────────────


def test_tables_on_a_terminal_are_drawn_and_escape_names(alice):
    alice.ok("create", b"plans/\x1b[31mred[bold]x[/bold].md", input="x\n")
    drawn = on_a_terminal(alice, "log", NO_COLOR="1")
    assert "─" in drawn
    assert "\\x1b" in drawn
    assert "[bold]x[/bold]" in drawn.replace("\r\n", "")
    assert "\x1b[31m" not in drawn


def test_no_color_is_honoured(alice):
    alice.ok("create", "plans/x.md", input="x\n")
    for words in (["status"], ["log"], ["--help"]):
        assert "\x1b[3" not in on_a_terminal(alice, *words, NO_COLOR="1")


def test_progress_is_shown_on_a_terminal_only(alice):
    alice.ok("create", "plans/x.md", input="x\n")
    assert "checking" in on_a_terminal(alice, "check")
    assert "checking" not in alice("check").err


# ── demo ─────────────────────────────────────────────────────────────────────


def test_the_demo_shows_its_point(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    told = Command(tmp_path).ok("demo", "--json").json()
    assert told["without"]["kept"] is False
    assert told["without"]["refusal"] == ""
    for act in ("library", "shells"):
        assert told[act]["kept"] is True
        assert "plan.md: alice committed since you read it" in told[act]["refusal"]
    assert list(tmp_path.iterdir()) == []


def test_the_demo_tells_its_story_in_text(tmp_path):
    text = Command(tmp_path, "somebody-else").ok("demo").text
    assert "Lost without a word: what Alice wrote." in text
    assert text.count("Both edits are there.") == 2
    assert "exit status 75" in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('open("plan.md", "w").write(text + ', 'open("plan.md", "a").write('),
        ("import sys", "import nothing_of_that_name"),
    ],
    ids=["nothing is lost", "an actor crashes"],
)
def test_the_demo_fails_when_it_does_not_show_a_loss(monkeypatch, capfd, old, new):
    assert old in demo._PLAIN
    monkeypatch.setattr(demo, "_PLAIN", demo._PLAIN.replace(old, new))
    reply = demo.demo(Common())
    assert reply.status == reply.fields["exit_code"] == 1
    assert "did not show" in reply.text()


def test_the_demo_fails_when_there_is_no_shell_to_show_it(tmp_path):
    nowhere = tmp_path / "empty"
    nowhere.mkdir()
    done = Command(tmp_path)("demo", PATH=str(nowhere))
    assert done.code != 0
    assert "Traceback" not in done.err
