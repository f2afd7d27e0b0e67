"""Hazard: a shell script, or two shells, lose an update that the command would have kept."""

from __future__ import annotations

import pytest

from tests.harness.command import Command, shell

PLAN = "plans/plan.md"

# The loop that a script needs, as the help shows it.
COUNT = """\
export COHERENT_SESSION=counter-$$
for _ in 1 2 3 4 5; do
  until n=$(coherent read plans/count) && echo $((n + 1)) | coherent write plans/count
  do s=$?; [ $s -eq 75 ] || exit $s; done
done > /dev/null 2>> errors
"""


@pytest.fixture
def alice(root):
    """The command in the name of alice, in a volume."""
    Command(root).ok("init", "--managed", "plans/**")
    return Command(root, "alice")


@pytest.mark.parametrize("name", ["bash", "sh"])
def test_scripts_that_reacquire_and_retry_lose_no_increment(alice, root, tmp_path, name):
    alice.ok("create", "plans/count", input="0\n")
    with (
        shell(tmp_path, root, COUNT, name) as one,
        shell(tmp_path, root, COUNT, name) as two,
        shell(tmp_path, root, COUNT, name) as three,
    ):
        for each in (one, two, three):
            out, said = each.communicate()
            assert (each.returncode, out, said) == (0, "", "")
    assert (root / "plans/count").read_bytes() == b"15\n"
    assert "Traceback" not in (root / "errors").read_text()


def test_the_loop_of_the_help_is_the_loop_of_this_test(alice):
    text = Command(alice.where).ok("--help").text
    for line in COUNT.splitlines():
        if line.startswith(("export", "  until", "  do")):
            words = line.strip().replace("plans/count", "count")
            assert words in text


def test_reacquire_then_write_is_a_retry_too(alice, root, tmp_path):
    script = """\
    export COHERENT_SESSION=carol
    coherent read plans/plan.md > mine && echo carol >> mine
    echo bob | coherent append plans/plan.md --as bob
    coherent write plans/plan.md --from mine; echo "refused $?"
    coherent reacquire
    coherent read plans/plan.md > mine && echo carol >> mine
    coherent write plans/plan.md --from mine
    """
    with shell(tmp_path, root, script) as bash:
        out, said = bash.communicate()
    assert out.splitlines() == [
        f"{PLAN} is generation 1",
        "refused 75",
        PLAN,
        f"{PLAN} is generation 2",
    ]
    assert "bob committed since you read it" in said
    assert (root / PLAN).read_bytes() == b"first\nbob\ncarol\n"


TWO = """\
coherent read plans/plan.md > $0-mine || exit 1
echo "read"
read -r go
echo "$0 was here" >> $0-mine
coherent write plans/plan.md --from $0-mine
echo "status $?"
"""


@pytest.mark.parametrize("name", ["bash", "sh"])
def test_two_shells_without_a_name_are_two_sessions(alice, root, tmp_path, name):
    with shell(tmp_path, root, TWO, name) as one, shell(tmp_path, root, TWO, name) as two:
        for each in (one, two):
            assert each.stdout.readline() == "read\n"
        out, _ = one.communicate("go\n")
        assert out.splitlines()[-1] == "status 0"
        out, said = two.communicate("go\n")
        assert out == "status 75\n"
        assert "committed since you read it" in said
    assert (root / PLAN).read_text().count("was here") == 1


PLAIN_STEPS = {
    "in a row": "READ > mine; echo x >> mine; WRITE < mine",
    "from a pipe": "READ > mine; cat mine | WRITE",
    "into a pipe": "READ | cat > mine; WRITE --from mine",
    "substituted": 'text=$(READ); echo "$text" | WRITE',
    "in a function": "f() { READ > mine; WRITE < mine; }; f",
    "in a condition": "if READ > mine; then WRITE < mine; fi",
}


@pytest.mark.parametrize("steps", PLAIN_STEPS.values(), ids=PLAIN_STEPS.keys())
@pytest.mark.parametrize("name", ["bash", "sh"])
def test_one_shell_without_a_name_is_one_session(alice, root, tmp_path, steps, name):
    for verb in ("read", "write"):
        steps = steps.replace(verb.upper(), f"coherent {verb} plans/plan.md")
    # Something after the last command: a shell that has nothing left to do may
    # become that command instead of starting it, and is then nobody's parent.
    with shell(tmp_path, root, f"{steps}; exit $?", name) as popen:
        _, said = popen.communicate()
    assert (popen.returncode, said) == (0, "")


def test_a_subshell_without_a_name_may_be_refused_but_loses_nothing(alice, root, tmp_path):
    script = "(coherent read plans/plan.md; true) > mine; coherent write plans/plan.md < mine"
    with shell(tmp_path, root, script) as bash:
        bash.communicate()
    assert bash.returncode == 75
    assert (root / PLAN).read_bytes() == b"first\n"
