"""Hazard: everyday work in a mount is refused though nobody else touched its files.

Everything is managed, which is the worst case: every file that a tool makes on its
way is an artifact.
"""

from __future__ import annotations

import shutil
import stat
import threading

import pytest
from harness.mounted import mounts_of, needs_fuse

from coherent_volume import CoherentVolume
from fuse_mount import mounts

pytestmark = needs_fuse

GIT = "git -c user.name=a -c user.email=b@c -c safe.directory=*"


@pytest.fixture
def mounted(tmp_path):
    """Mounts of a volume in which everything is managed; nothing may be refused."""
    root = tmp_path / "root"
    root.mkdir()
    CoherentVolume(root, managed=("**",)).close()
    with mounts_of(root, tmp_path, limit_s=110) as make:
        yield make
        assert [(each.session, each.refusals) for each in mounts(root) if each.refusals] == []
    assert list((root / ".coherence" / "refused").iterdir()) == []


def needs(*programs):
    lost = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(lost), reason=f"{', '.join(lost)} is not installed")


@needs("git")
def test_git_commits_switches_and_rebases(mounted):
    alice = mounted("alice")
    alice.ok(
        f"mkdir repo && cd repo && {GIT} init -q -b main . && mkdir d"
        " && for i in $(seq 30); do echo one $i > d/$i; done"
        f" && {GIT} add . && {GIT} commit -qm one"
        f" && {GIT} checkout -q -b two && sed -i s/one/two/ d/* && rm d/30 && chmod +x d/1"
        f" && {GIT} commit -qam two && {GIT} checkout -q main"
        ' && test "$(cat d/* | grep -c one)" = 30 && test -z "$(git status -s)"'
        f" && {GIT} checkout -q two && {GIT} rebase -q main && test ! -e d/30"
        f' && test "$(cat d/* | grep -c two)" = 29 && test -z "$(git status -s)"'
        f" && echo three >> d/2 && {GIT} stash -q && {GIT} stash pop -q && {GIT} reset -q --hard"
        f" && {GIT} fsck"
    )


@needs("git")
def test_a_change_of_the_mode_alone_is_checked_out(mounted, tmp_path):
    alice = mounted("alice")
    alice.ok(
        f"{GIT} init -q -b main . && echo x > tool && {GIT} add tool && {GIT} commit -qm one"
        f" && {GIT} checkout -q -b two && chmod +x tool && {GIT} commit -qam two"
        f" && {GIT} checkout -q main"
    )
    assert not stat.S_IMODE((tmp_path / "root" / "tool").stat().st_mode) & 0o100
    alice.ok(f'{GIT} checkout -q two && test -x tool && test -z "$({GIT} status -s)"')


@needs("make")
def test_make_builds_what_changed_and_nothing_else(mounted):
    alice = mounted("alice")
    (alice.where / "Makefile").write_text(
        "all: $(patsubst %.in,%.out,$(wildcard *.in))\n\tcat $^ > $@\n"
        "%.out: %.in\n\techo $< >> built; cp $< $@\n"
    )
    alice.ok(
        "for i in 1 2 3 4 5; do echo $i > $i.in; done && make -s -j4"
        ' && test "$(wc -l < built)" = 5 && make -q all && echo 33 > 3.in && make -s'
        ' && test "$(tail -1 built)" = 3.in && test "$(wc -l < built)" = 6'
        ' && test "$(cat all)" = "$(printf "1\\n2\\n33\\n4\\n5")"'
    )


@needs("vim")
def test_an_editing_session_saves_again_and_again(mounted):
    alice = mounted("alice")
    script = (
        'edit notes.md\ncall setline(1, ["one", "two"])\nwrite\nsleep 600m\n'
        'call append("$", "three")\nwrite\n%s/two/TWO/\nwrite!\n'
        'split other.md\ncall setline(1, "x")\nwrite\nqall\n'
    )
    (alice.where / "script.vim").write_text(script)
    alice.ok("vim -es -u NONE -i NONE -S script.vim")
    assert alice.ok("cat notes.md other.md") == "one\nTWO\nthree\nx\n"


def test_a_program_writes_again_what_it_removed_a_while_ago(mounted):
    alice = mounted("alice")
    alice.ok(
        "python3 - <<'END'\n"
        "import os, time\n"
        "open('f', 'w').write('one'); open('f').read(); os.remove('f'); time.sleep(1.3)\n"
        "open('f', 'w').write('two')\nassert open('f').read() == 'two'\nEND"
    )


def test_an_open_log_goes_on_behind_what_a_peer_appended(mounted, tmp_path):
    alice = mounted("alice")
    script = (
        "import os, subprocess, time\n"
        "open('log', 'w').write('first\\n')\n"
        "log = os.open('log', os.O_WRONLY | os.O_APPEND)\n"
        "child = os.fork()\n"
        "if child:\n"
        "    os.write(log, b'parent\\n')\n"
        "    os.close(log)\n"  # commits: nobody of this process has it any more
        "    subprocess.run(['sh', '-c', 'echo peer >> $ROOT/log'], check=True)\n"
        "    open('go', 'w').close()\n"
        "    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "while not os.path.exists('go'):\n"
        "    time.sleep(0.02)\n"
        "os.write(log, b'child\\n')\n"
        "os.close(log)\n"
        "os._exit(0)\n"
    )
    root = tmp_path / "root"
    alice.ok(f"ROOT={root} python3 - <<'END'\n{script}END")
    assert (root / "log").read_bytes() == b"first\nparent\npeer\nchild\n"


def test_whoever_appended_to_what_it_wrote_may_rename_it(mounted):
    alice = mounted("alice")
    alice.ok(
        "python3 -c \"import os; open('a', 'w').write('1'); open('a', 'a').write('2');"
        " os.rename('a', 'b')\" && test $(cat b) = 12"
    )


def test_a_file_takes_the_place_of_a_link_or_a_fifo(mounted, tmp_path):
    alice = mounted("alice")
    alice.ok(
        "ln -s nowhere a && mkfifo b && echo x > t && mv -f t a && echo y > t && mv -f t b"
        ' && test "$(cat a b)" = "$(printf "x\\ny")"'
    )
    assert (tmp_path / "root" / "a").read_bytes() == b"x\n"


def test_a_directory_with_a_file_that_is_not_committed_yet_is_not_replaced(mounted):
    alice = mounted("alice")
    done = alice.sh(
        'mkdir one two && : > two/held && python3 -c \'import os; os.rename("one", "two")\''
    )
    assert "not empty" in done.stderr
    assert alice.ok("ls two") == "held\n"


def test_a_moved_artifact_keeps_its_inode_number(mounted):
    alice = mounted("alice")
    alice.ok(
        "echo x > a && n=$(stat -c %i a) && mv a b && test $n = $(stat -c %i b)"
        " && mv b a && sleep 0.4 && test $n = $(stat -c %i a)"
    )


def test_four_agents_work_side_by_side(mounted):
    agents = [mounted(f"agent{n}") for n in range(4)]
    wrong = []

    def work(agent):
        done = agent.sh(
            "set -e; n=$(basename $PWD); mkdir $n; for k in $(seq 6); do echo $n $k >> log;"
            " echo $k > $n/state.tmp; mv $n/state.tmp $n/state; seq $k > $n/$k;"
            " sed -i s/1/one/ $n/$k; cp $n/$k $n/copy; done"
        )
        if done.returncode != 0:
            wrong.append(done)

    threads = [threading.Thread(target=work, args=(agent,)) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    lines = agents[0].ok("sort log | uniq -c | awk '{print $1}' | sort -u; wc -l < log")
    assert lines == "1\n24\n"
    assert agents[1].ok("cat mount-agent*/state | sort -u") == "6\n"
