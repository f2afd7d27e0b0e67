"""Hazard: a merge that loses a line, invents agreement, or lets two counters count once (I1)."""

from __future__ import annotations

import contextlib
import difflib
from collections import Counter

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from coherent_volume import (
    AlreadyExistsError,
    ConflictError,
    FencedError,
    ForeignEditError,
    MergedWith,
    NotObservedError,
    StaleGenerationError,
    UsageError,
    lines,
    points,
)
from coherent_volume import merge as merging
from coherent_volume.lines import (
    STEPS_MAX,
    TooAlikeError,
    lines_of,
    matches,
    matching_blocks,
)
from coherent_volume.merge import (
    LINES_MAX,
    MERGE_BYTES_MAX,
    Verdict,
    holds_markers,
    keeps_every_hunk,
    three_way,
)
from tests.harness.command import Command

PLAN = "plans/plan.md"
TEN = b"".join(b"line %d\n" % number for number in range(10))


def changed(*numbers: int, word: bytes = b"changed", text: bytes = TEN) -> bytes:
    """*text* with these lines changed."""
    lines = lines_of(text)
    for number in numbers:
        lines[number] = word + b" %d\n" % number
    return b"".join(lines)


# ── three contents ───────────────────────────────────────────────────────────

texts = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"d\n", b"\r\n"]), max_size=12).map(
    b"".join
)
numbered = st.integers(0, 12).map(lambda n: b"".join(b"%d\n" % i for i in range(n)))


@st.composite
def edited(draw, base=numbered):
    """A base of distinct lines and two edited versions, with lines of their own."""
    text = draw(base)

    def edit(mark):
        lines = lines_of(text)
        for count in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(lines)))
            gone = draw(st.integers(0, 2))
            lines[at : at + gone] = [
                b"%s%d\n" % (mark, count) for _ in range(draw(st.integers(0, 2)))
            ]
        return b"".join(lines)

    return text, edit(b"head"), edit(b"mine")


@given(edited())
def test_clean_merge_has_every_line_of_both_but_those_that_one_deleted(versions):
    base, head, mine = versions
    merged = three_way(base, head, mine)
    assume(merged.content is not None)
    found = lines_of(merged.content)
    old, theirs, ours = (set(lines_of(each)) for each in versions)
    for line in (theirs - old) | (ours - old) | (old & theirs & ours):
        assert line in found
    for line in found:
        assert line in theirs | ours
    assert not (old - theirs) & set(found)
    assert not (old - ours) & set(found)


@given(edited())
def test_it_makes_no_difference_who_was_first(versions):
    base, head, mine = versions
    one, other = three_way(base, head, mine), three_way(base, mine, head)
    assert one.content == other.content
    assert (one.verdict is Verdict.OVERLAPS) == (other.verdict is Verdict.OVERLAPS)


@given(edited())
def test_merged_content_keeps_every_hunk_of_the_head(versions):
    base, head, mine = versions
    merged = three_way(base, head, mine)
    assume(merged.content is not None)
    assert keeps_every_hunk(base, head, merged.content)


@given(texts, texts)
@example(b"", b"a\n")
@example(b"a\n", b"")
@example(b"a\na\n", b"a\n")
def test_same_change_on_both_sides_is_an_overlap(base, head):
    assume(base != head)
    assert three_way(base, head, head).verdict is Verdict.OVERLAPS


@given(texts, texts)
def test_who_changed_nothing_adds_nothing(base, head):
    merged = three_way(base, head, base)
    assert (merged.verdict, merged.content) == (Verdict.CONTAINED, head)


@given(texts, texts)
def test_lines_that_belong_together_are_equal_and_in_order(one, other):
    old, new = lines_of(one), lines_of(other)
    i = j = 0
    for a, b, length in matching_blocks(old, new):
        assert a >= i
        assert b >= j
        assert old[a : a + length] == new[b : b + length]
        i, j = a + length, b + length
    assert (i, j) == (len(old), len(new))


def test_edits_of_different_places_are_both_there():
    merged = three_way(TEN, changed(2), changed(7, word=b"mine"))
    assert merged.content == changed(7, word=b"mine", text=changed(2))


def test_edits_of_neighbouring_lines_overlap():
    assert three_way(TEN, changed(4), changed(5)).verdict is Verdict.OVERLAPS
    assert three_way(TEN, changed(4), changed(6)).verdict is Verdict.CLEAN


def test_two_who_take_the_same_job_off_a_list_overlap():
    jobs = b"job 1\njob 2\njob 3\n"
    assert three_way(jobs, b"job 2\njob 3\n", b"job 2\njob 3\n").verdict is Verdict.OVERLAPS


def test_same_change_beside_a_disjoint_one_is_still_an_overlap():
    head, mine = changed(1, 8), changed(1, 5)
    assert three_way(TEN, head, mine).verdict is Verdict.OVERLAPS


def test_line_ends_are_part_of_their_lines():
    dos = TEN.replace(b"\n", b"\r\n")
    assert three_way(dos, dos.replace(b"line 1\r", b"one\r"), dos + b"more\r\n").content == (
        dos.replace(b"line 1\r", b"one\r") + b"more\r\n"
    )
    assert three_way(TEN, changed(3), dos).verdict is Verdict.OVERLAPS


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_last_line_without_its_end_stays_as_it_is(end):
    base = TEN + b"last" + end
    merged = three_way(base, base.replace(b"line 2", b"two"), base.replace(b"line 7", b"seven"))
    assert merged.content.endswith(b"last" + end)
    assert three_way(base, b"first\n" + base, base + b"\nmore").content is not None


def test_from_nothing_two_beginnings_overlap():
    assert three_way(b"", b"head\n", b"mine\n").verdict is Verdict.OVERLAPS


def test_lines_that_come_again_and_again_are_not_confused():
    base = b"x\n" * 6 + b"middle\n" + b"x\n" * 6
    merged = three_way(base, b"first\n" + base, base + b"last\n")
    assert merged.content == b"first\n" + base + b"last\n"


@pytest.mark.parametrize("odd", [b"\0", b"\xff\xfe", b"caf\xe9\n"])
def test_what_is_no_text_is_not_merged(odd):
    assert three_way(TEN, changed(1), TEN + odd).verdict is Verdict.NOT_TEXT
    assert not keeps_every_hunk(TEN, changed(1), TEN + odd)


def test_what_is_too_large_or_too_much_alike_is_given_up_at_once():
    large = b"x" * (MERGE_BYTES_MAX + 1)
    assert three_way(TEN, large, TEN).verdict is Verdict.TOO_LARGE
    assert three_way(b"", b"", b"\n" * (LINES_MAX + 1)).verdict is Verdict.TOO_LARGE
    alike = [b"".join(b"%d\n" % (n * k % 400) for n in range(40_000)) for k in (7, 11, 13)]
    assert three_way(*alike).verdict is Verdict.TOO_ALIKE
    assert not keeps_every_hunk(*alike)


def test_marked_copy_shows_both_sides_and_merges_the_rest():
    head, mine = changed(0, 9, word=b"head"), changed(0, 5, word=b"mine")
    merged = three_way(TEN, head, mine)
    marked = merged.marked("theirs", "base", "ours")
    assert marked.startswith(
        b"<<<<<<< theirs\nhead 0\n||||||| base\nline 0\n=======\nmine 0\n>>>>>>> ours\nline 1\n"
    )
    assert b"mine 5\n" in marked
    assert marked.endswith(b"head 9\n")
    assert holds_markers(marked)
    assert not holds_markers(TEN)
    assert not holds_markers(b"Heading\n=======\n")


def test_markers_stand_on_lines_of_their_own():
    marked = three_way(b"a", b"head", b"mine").marked("h", "b", "m")
    assert marked == b"<<<<<<< h\nhead\n||||||| b\na\n=======\nmine\n>>>>>>> m\n"


def looked_at(monkeypatch, at_most):
    """Fail as soon as difflib was given more than *at_most* lines to look through, in all."""
    real, given = difflib.SequenceMatcher.find_longest_match, [0]

    def counted(matcher, *where):
        given[0] += where[1] - where[0]
        assert given[0] <= at_most
        return real(matcher, *where)

    monkeypatch.setattr(difflib.SequenceMatcher, "find_longest_match", counted)


def every_eighth(word, at, count=20_000):
    return b"".join((word if n % 8 == at else b"line") + b" %d\n" % n for n in range(count))


def test_thousands_of_scattered_changes_are_compared_in_one_pass(monkeypatch):
    base, head, mine = every_eighth(b"", 9), every_eighth(b"head", 0), every_eighth(b"mine", 4)
    looked_at(monkeypatch, at_most=len(lines_of(base)))
    assert three_way(base, head, mine).verdict is Verdict.CLEAN
    assert three_way(base, head, base + b"more\n").verdict is Verdict.CLEAN
    assert three_way(base, head, head.replace(b"head 80\n", b"mine 80\n")).content is None
    assert keeps_every_hunk(base, head, head + b"more\n")
    assert sum(length for _, _, length in matches(lines_of(base), lines_of(head))) == 17_500


def test_scattered_changes_among_lines_that_stand_twice_are_compared_in_bounded_work(monkeypatch):
    twice = [bytes(line) for line in lines_of(every_eighth(b"", 9, 10_000)) for _ in range(2)]
    other = [b"new\n" if number % 8 == 0 else line for number, line in enumerate(twice)]
    looked_at(monkeypatch, at_most=STEPS_MAX * 3)  # twice as much for what must have an answer
    with pytest.raises(TooAlikeError):
        matching_blocks(twice, other)
    for a, b, length in matches(twice, other):
        assert twice[a : a + length] == other[b : b + length]


def test_small_gap_is_compared_in_detail_beside_one_that_costs_too_much(monkeypatch):
    monkeypatch.setattr(lines, "_STEPS_OF_MATCHES_MAX", 1000)
    small = [b"}\n", b"a\n", b"a\n", b"b\n"]
    costly = [b"x\n", b"y\n"] * 200
    old = [b"1\n", *costly, b"2\n", *small, b"3\n"]
    new = [b"0\n", b"1\n", *costly[1:], b"z\n", b"2\n", *small[1:], b"}\n", b"3\n", b"4\n"]
    assert (403, 403, 3) in matches(old, new)


def test_a_change_is_looked_for_among_the_others_in_one_pass():
    """Many insertions beside one line that both have: counted in lines that are looked up."""
    looked_up = []

    class Line(bytes):
        __slots__ = ()

        def __hash__(self):
            looked_up.append(self)
            return super().__hash__()

    base = [Line(b"%d\n" % number) for number in range(1000)]
    new = [Line(b"new %d\n" % number) for number in range(1000)]
    common = Line(b"}\n")
    head = [line for pair in zip(base, new, strict=True) for line in pair] + [common]
    head_made = [(n + 1, n + 1, 2 * n + 1, 2 * n + 2) for n in range(999)]
    head_made.append((1000, 1000, 1999, 2001))
    mine = [Line(b"mine\n"), common, *base]
    assert not merging._alike(base, head, head_made, mine, [(0, 0, 0, 2)])
    assert len(looked_up) < 20 * len(new)


# ── lines that come again ────────────────────────────────────────────────────

few = st.lists(st.sampled_from([b"}\n", b"\n", b"a\n", b"b\n"]), max_size=9)


@st.composite
def repetitive(draw):
    """A base of few different lines, and two edited versions."""

    def edit(lines):
        lines = list(lines)
        for _ in range(draw(st.integers(0, 2))):
            at = draw(st.integers(0, len(lines)))
            gone = draw(st.integers(0, 2))
            lines[at : at + gone] = draw(
                st.lists(st.sampled_from([b"}\n", b"a\n", b"N\n"]), max_size=2)
            )
        return lines

    base = draw(few)
    head = edit(base)
    # Often a change that both have.
    mine = edit(head if draw(st.booleans()) else base)
    return b"".join(base), b"".join(head), b"".join(mine)


SAME_CHANGE_TWICE = [
    # The same insertion, which the comparison finds at different places.
    (b"A\n}\nB\n}\n", b"A2\n}\nN\n}\nB\n}\n", b"A\n}\nN\n}\nB\n}\n"),
    (b"A\n}\nB\n}\nC\n}\n", b"A2\n}\nB\n}\nN\n}\nC\n}\n", b"A\n}\nB\n}\nN\n}\nC\n}\n"),
    # The same deletion.
    (b"b\n}\n}\n}\n", b"Q\n}\n}\n", b"b\n}\n}\n"),
    # The same replacement at one of two places, be it on purpose.
    (b"x\n5\ny\n5\nz\n", b"x\n6\ny\n5\nz\n", b"x\n5\ny\n6\nz\n"),
]


@pytest.mark.invariant("I1")
@pytest.mark.parametrize(("base", "head", "mine"), SAME_CHANGE_TWICE)
def test_what_may_be_one_change_is_not_applied_twice(base, head, mine):
    assert three_way(base, head, mine).verdict is Verdict.OVERLAPS
    assert three_way(base, mine, head).verdict is Verdict.OVERLAPS


@given(repetitive())
@example((b"b\n}\n}\n}\n", b"Q\n}\n}\n}\n", b"b\n}\n}\n"))
def test_content_that_is_sent_again_changes_nothing(versions):
    base, head, mine = versions
    merged = three_way(base, head, mine)
    assume(merged.content is not None)
    for sent in (head, mine):
        again = three_way(base, merged.content, sent)
        assert again.content in (None, merged.content)
        assert again.verdict in (Verdict.OVERLAPS, Verdict.CONTAINED) or sent == merged.content


@given(repetitive())
def test_who_was_first_makes_no_difference_to_lines_that_come_again(versions):
    base, head, mine = versions
    one, other = three_way(base, head, mine), three_way(base, mine, head)
    assert one.content == other.content
    assert (one.verdict is Verdict.OVERLAPS) == (other.verdict is Verdict.OVERLAPS)


@given(repetitive())
def test_each_change_counts_once(versions):
    merged = three_way(*versions)
    assume(merged.content is not None)
    base, head, mine = (Counter(lines_of(each)) for each in versions)
    found = Counter(lines_of(merged.content))
    for line in base | head | mine | found:
        assert found[line] == head[line] + mine[line] - base[line]


@given(repetitive())
def test_regions_are_the_three_contents_cut_in_pieces(versions):
    regions = three_way(*versions).regions
    for side, whole in zip(("base", "head", "mine"), versions, strict=True):
        assert b"".join(b"".join(getattr(region, side)) for region in regions) == whole


FUNCTIONS = b"".join(b"def f%d() {\n    pass\n}\n\n" % number for number in range(6))


def test_disjoint_edits_among_braces_and_blank_lines_still_merge():
    before, after = FUNCTIONS.split(b"def f3", 1)
    new = b"def g() {\n    pass\n}\n\n"
    head = new + FUNCTIONS
    mine = FUNCTIONS.replace(b"def f3() {\n", b"def f3() {\n    more\n")
    assert three_way(FUNCTIONS, head, mine).content == new + mine
    other = b"def h() {\n    pass\n}\n\n"
    inserted = before + other + b"def f3" + after
    assert three_way(FUNCTIONS, head, inserted).content == new + inserted


def test_run_of_equal_lines_is_one_place_and_ends_where_it_ends():
    base = b"top\n" + b"\n" * 5 + b"middle\n" + b"\n" * 5 + b"end\n"
    longer = base.replace(b"top\n", b"top\n\n")
    assert three_way(base, longer, base.replace(b"\nmiddle", b"N\nmiddle")).content is None
    assert three_way(base, longer, base.replace(b"\nend", b"N\nend")).content is not None


# ── what keeps every hunk ────────────────────────────────────────────────────


def test_edit_on_top_of_the_head_keeps_its_hunks_and_an_old_file_does_not():
    head = changed(2)
    assert keeps_every_hunk(TEN, head, changed(7, text=head))
    assert not keeps_every_hunk(TEN, head, changed(7))
    assert not keeps_every_hunk(TEN, head, TEN)
    assert keeps_every_hunk(TEN, TEN, b"anything\n")
    assert keeps_every_hunk(b"\0", b"\0\1", b"\0\1")


@given(repetitive())
def test_content_that_lacks_a_line_that_the_head_added_does_not_keep_every_hunk(versions):
    base, head, pending = versions
    assume(pending != head != base)
    if keeps_every_hunk(base, head, pending):
        old, new, left = (Counter(lines_of(each)) for each in versions)
        for line in new - old:
            assert left[line] >= new[line]
        for line in old:
            assert new[line] or not left[line]


@pytest.mark.parametrize("place", range(8, 23))
def test_edit_of_the_head_keeps_its_hunks_among_lines_that_come_again(place):
    head = FUNCTIONS.replace(b"def f1() {\n", b"def f1() {\n    more\n")
    lines = lines_of(head)
    lines[place:place] = [b"    new\n"]
    assert keeps_every_hunk(FUNCTIONS, head, b"".join(lines))
    assert not keeps_every_hunk(FUNCTIONS, head, FUNCTIONS[:-1] + b"    new\n")


@given(edited())
def test_keeping_every_hunk_is_merging_into_what_it_was(versions):
    base, head, pending = versions
    kept = keeps_every_hunk(base, head, pending)
    merged = three_way(base, head, pending)
    if merged.content is not None:
        assert kept == (merged.content == pending)


# ── in a volume ──────────────────────────────────────────────────────────────


@pytest.fixture
def ten(root):
    (root / PLAN).write_bytes(TEN)
    return root / PLAN


def stale(alice, bob, theirs=None):
    """Alice and bob read; bob commits."""
    alice.read(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, changed(2) if theirs is None else theirs)


def test_disjoint_edits_both_land_and_the_commit_names_the_other(ten, alice, bob):
    stale(alice, bob)
    done = alice.write(PLAN, changed(7), on_conflict="merge")
    assert ten.read_bytes() == changed(2, 7)
    assert (done.generation, done.base, done.merged) == (2, 1, (MergedWith(1, "bob"),))
    newest = alice.log(PLAN)[0]
    assert (newest.kind, newest.session, newest.base, newest.saw) == ("merge", "alice", 1, 0)
    assert alice.log(PLAN)[1].saw is None
    assert list((ten.parent.parent / ".coherence" / "refused").iterdir()) == []


@pytest.mark.invariant("I1")
def test_two_counters_that_both_turn_5_into_6_still_conflict(root, alice, bob):
    (root / PLAN).write_bytes(b"5\n")
    stale(alice, bob, b"6\n")
    with pytest.raises(StaleGenerationError) as refusal:
        alice.write(PLAN, "6\n", on_conflict="merge")
    assert refusal.value.merge == "overlaps"
    assert bob.observe(PLAN).generation == 1


def told(alice, token):
    """How often alice was refused since *token*, by her counters and by the feed."""
    counted = sum(m.value for m in alice.metrics() if m.name == "coherent_refusals_total")
    return counted, [entry.kind for entry in alice.changes(token).entries].count("refuse")


def test_what_was_merged_was_not_refused(ten, alice, bob):
    token = alice.changes().token
    stale(alice, bob)
    alice.write(PLAN, changed(7), on_conflict="merge")
    assert told(alice, token) == (0, 0)


def test_what_could_not_be_merged_was_refused_once(ten, alice, bob):
    token = alice.changes().token
    stale(alice, bob)
    with pytest.raises(StaleGenerationError):
        alice.write(PLAN, changed(2, word=b"mine"), on_conflict="merge")
    assert told(alice, token) == (1, 1)


def test_commit_that_an_outside_edit_raced_is_not_told_as_refused(ten, alice, bob, monkeypatch):
    token = alice.changes().token
    alice.read(PLAN)

    def reached(name):
        if name == "before_install" and ten.read_bytes() == TEN:
            ten.with_name("saved").write_bytes(changed(4))
            ten.with_name("saved").rename(ten)

    monkeypatch.setattr(points, "reached", reached)
    with pytest.raises(ForeignEditError) as raced:
        alice.write(PLAN, changed(7), on_conflict="merge")
    monkeypatch.undo()
    assert raced.value.fields["committed"] == 1
    assert bob.read_at(PLAN, 1) == changed(7)
    assert told(alice, token) == (0, 0)


@pytest.mark.invariant("I6")
def test_overlap_changes_nothing_and_keeps_both_what_was_written_and_a_marked_copy(
    ten, root, alice, bob
):
    stale(alice, bob)
    mine = changed(2, word=b"mine")
    with pytest.raises(StaleGenerationError, match="both changed the same place") as refusal:
        alice.write(PLAN, mine, on_conflict="merge")
    assert ten.read_bytes() == changed(2)
    assert (root / refusal.value.kept).read_bytes() == mine
    marked = (root / refusal.value.marked).read_text()
    assert "<<<<<<< generation 1 (bob)\nchanged 2\n" in marked
    assert "||||||| generation 0, which you saw\nline 2\n=======\n" in marked
    assert "mine 2\n>>>>>>> yours (alice)\n" in marked
    assert refusal.value.report.marked == refusal.value.marked


def test_marked_copy_that_was_resolved_is_taken_and_an_unresolved_one_is_not(ten, root, alice, bob):
    stale(alice, bob)
    with pytest.raises(ConflictError) as refusal:
        alice.write(PLAN, changed(2, word=b"mine"), on_conflict="merge")
    with pytest.raises(UsageError, match="conflict markers"):
        alice.merge(PLAN, (root / refusal.value.marked).read_bytes(), base=1)
    alice.merge(PLAN, changed(2, word=b"both"), base=1)
    assert ten.read_bytes() == changed(2, word=b"both")


def test_merge_is_no_reading_of_what_it_merged_with(ten, alice, bob):
    """Else the author's next save would silently take the other's edits away."""
    stale(alice, bob)
    alice.write(PLAN, changed(7), on_conflict="merge")
    assert alice.state(PLAN) == "I"
    with pytest.raises(StaleGenerationError):
        alice.write(PLAN, changed(7, 9))
    with pytest.raises(StaleGenerationError):
        alice.write(PLAN, changed(7, 9), on_conflict="merge")
    assert ten.read_bytes() == changed(2, 7)


def test_base_that_is_passed_counts_and_not_a_newer_view(ten, alice, bob):
    base = alice.observe(PLAN)
    stale(alice, bob)
    alice.read(PLAN)
    alice.write(PLAN, changed(7), base=base, on_conflict="merge")
    assert ten.read_bytes() == changed(2, 7)
    assert alice.state(PLAN) == "I"


def test_refused_content_is_merged_from_its_own_base_also_after_a_new_read(ten, alice, bob):
    stale(alice, bob)
    with pytest.raises(ConflictError):
        alice.write(PLAN, changed(7))
    assert alice.read(PLAN) == changed(2)
    alice.merge(PLAN, changed(7))
    assert ten.read_bytes() == changed(2, 7)


def test_configuration_says_what_becomes_of_a_stale_write(ten, root, volume):
    volume().close()
    with (root / ".coherence" / "config.toml").open("a") as file:
        file.write('\n[[rule]]\npaths = ["plan.md"]\non_conflict = "merge"\n')
    alice, bob = volume("alice"), volume("bob")
    stale(alice, bob)
    with pytest.raises(StaleGenerationError):
        alice.write(PLAN, changed(7), on_conflict="refuse")
    alice.write(PLAN, changed(7))
    assert ten.read_bytes() == changed(2, 7)


def test_streamed_content_is_merged_too(ten, alice, bob, tmp_path):
    stale(alice, bob)
    (tmp_path / "mine").write_bytes(changed(7))
    with (tmp_path / "mine").open("rb") as source:
        alice.write_from(PLAN, source, on_conflict="merge")
    assert ten.read_bytes() == changed(2, 7)


def test_large_stream_is_refused_without_being_held_in_memory(ten, root, alice, bob):
    class Endless:
        left = 100

        def read(self, size):
            self.left -= 1
            return b"x" * (1 << 20) if self.left >= 0 else b""

    stale(alice, bob)
    with pytest.raises(StaleGenerationError, match="more than 8 MiB") as refusal:
        alice.write_from(PLAN, Endless(), on_conflict="merge")
    assert (root / refusal.value.kept).stat().st_size == 100 << 20
    assert refusal.value.report.merge == "too large"


def test_edit_from_outside_is_merged_with_like_any_other(ten, alice):
    alice.read(PLAN)
    ten.write_bytes(changed(2))
    done = alice.write(PLAN, changed(7), on_conflict="merge")
    assert ten.read_bytes() == changed(2, 7)
    assert [each.session for each in done.merged] == ["outside"]


def test_file_that_was_never_committed_is_remembered_by_who_read_it(ten, volume):
    """A process session leaves no record of what it read; its memory must do."""
    alice = volume()
    alice.read(PLAN)
    ten.write_bytes(changed(2))
    alice.write(PLAN, changed(7), on_conflict="merge")
    assert ten.read_bytes() == changed(2, 7)


def test_base_that_nobody_has_any_longer_is_refused_and_said(ten, volume):
    seen = volume().observe(PLAN)
    ten.write_bytes(changed(2))
    with pytest.raises(ForeignEditError, match="not kept any longer") as refusal:
        volume("alice").write(
            PLAN, changed(7), base=seen.generation or _bare(seen), on_conflict="merge"
        )
    assert refusal.value.report.merge == "base lost"


def _bare(seen):
    """The observation as another process would get it: without the content."""
    return type(seen)(seen.path, seen.generation, seen.digest)


@pytest.mark.parametrize("odd", [b"\0binary", b"\xff\xfe"])
def test_binary_is_refused_and_said(ten, alice, bob, odd):
    stale(alice, bob)
    with pytest.raises(StaleGenerationError, match="not all of it is text"):
        alice.write(PLAN, odd, on_conflict="merge")
    assert ten.read_bytes() == changed(2)


def test_deleted_file_is_not_brought_back_by_a_merge(ten, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    bob.delete(PLAN)
    with pytest.raises(StaleGenerationError, match="is a deletion"):
        alice.write(PLAN, changed(7), on_conflict="merge")
    assert not ten.exists()


def test_file_that_was_deleted_and_made_anew_is_not_merged_with(root, alice, bob):
    new = "plans/new.md"
    alice.create(new, "a\nb\nc\n")
    alice.read(new)
    bob.read(new)
    bob.delete(new)
    bob.create(new, "a\nb\nc\nnew\n")
    with pytest.raises(StaleGenerationError, match="or follows one") as refusal:
        alice.write(new, "A\nb\nc\n", on_conflict="merge")
    assert refusal.value.merge == refusal.value.report.merge == "deleted"
    assert (root / new).read_text() == "a\nb\nc\nnew\n"
    with pytest.raises(StaleGenerationError) as refusal:
        alice.write(new, "A\nb\nc\n")
    assert refusal.value.report.merge == "deleted"


def test_what_was_pruned_meanwhile_may_have_been_a_deletion(ten, root, volume):
    volume().close()
    config = root / ".coherence" / "config.toml"
    config.write_text(config.read_text().replace("generations = 100", "generations = 2"))
    alice, bob = volume("alice"), volume("bob")
    base = alice.observe(PLAN)
    bob.read(PLAN)
    for number in (1, 2, 3, 4):
        bob.write(PLAN, changed(number))
    with pytest.raises(StaleGenerationError, match="not all kept") as refusal:
        alice.merge(PLAN, changed(7), base=base)
    assert refusal.value.merge == refusal.value.report.merge == "history lost"
    assert ten.read_bytes() == changed(4)


def test_content_that_is_sent_a_second_time_is_not_merged_a_second_time(root, alice, bob):
    (root / PLAN).write_bytes(b"A\n}\nB\n}\nC\n}\n")
    stale(alice, bob, b"A2\n}\nB\n}\nC\n}\n")
    mine = b"A\n}\nB\n}\nN\n}\nC\n}\n"
    for _ in range(2):
        with contextlib.suppress(StaleGenerationError):
            alice.write(PLAN, mine, on_conflict="merge")
    assert (root / PLAN).read_bytes() == b"A2\n}\nB\n}\nN\n}\nC\n}\n"


@pytest.mark.invariant("I4")
def test_fenced_session_does_not_get_in_by_a_merge(ten, alice, bob):
    lease = alice.lease(PLAN)
    alice.read(PLAN)
    bob.break_lease(PLAN)
    bob.read(PLAN)
    bob.write(PLAN, changed(2))
    with pytest.raises(FencedError):
        alice.write(PLAN, changed(7), on_conflict="merge")
    lease.release()
    assert ten.read_bytes() == changed(2)


@pytest.mark.invariant("I4")
def test_session_that_is_fenced_during_the_merge_does_not_get_in(
    ten, root, alice, bob, monkeypatch
):
    from coherent_volume import merging

    stale(alice, bob)
    plain = merging.read

    def taken_away(*which):
        # After the refusal, before the head is read that is merged with.
        bob.lease(PLAN)
        alice.break_lease(PLAN)
        return plain(*which)

    monkeypatch.setattr(merging, "read", taken_away)
    with pytest.raises(FencedError) as refusal:
        alice.write(PLAN, changed(7), on_conflict="merge")
    assert ten.read_bytes() == changed(2)
    assert (root / refusal.value.kept).read_bytes() == changed(7)
    assert refusal.value.report.merge == "not derived"


def test_what_was_never_read_is_not_merged(ten, alice):
    with pytest.raises(NotObservedError):
        alice.write(PLAN, changed(7), on_conflict="merge")
    with pytest.raises(AlreadyExistsError):
        alice.create(PLAN, changed(7))


def test_who_changed_nothing_makes_no_generation(ten, alice, bob):
    stale(alice, bob)
    done = alice.write(PLAN, TEN, on_conflict="merge")
    assert (done.changed, done.generation, done.merged) == (False, 1, (MergedWith(1, "bob"),))
    assert ten.read_bytes() == changed(2)


def test_update_merges_when_no_other_try_is_left(ten, alice, bob):
    calls = []

    def edit(text):
        calls.append(text)
        bob.read(PLAN)
        bob.write(PLAN, changed(2))
        return changed(7, text=text)

    alice.update(PLAN, edit, retries=0, on_conflict="merge")
    assert ten.read_bytes() == changed(2, 7)
    assert calls == [TEN]


def test_head_that_moves_during_the_merge_is_merged_with_too(ten, alice, bob, monkeypatch):
    from coherent_volume import merging

    stale(alice, bob)
    plain = merging.three_way
    moves = iter([changed(2, 4)])

    def late(*versions):
        for content in moves:
            bob.read(PLAN)
            bob.write(PLAN, content)
        return plain(*versions)

    monkeypatch.setattr(merging, "three_way", late)
    done = alice.write(PLAN, changed(7), on_conflict="merge")
    assert ten.read_bytes() == changed(2, 4, 7)
    assert [each.generation for each in done.merged] == [1, 2]


@pytest.mark.parametrize("call", ["write", "update"])
def test_unknown_policy_is_the_callers_mistake(ten, alice, call):
    argument = "x" if call == "write" else bytes.upper
    with pytest.raises(UsageError, match="on_conflict"):
        getattr(alice, call)(PLAN, argument, on_conflict="maybe")
    with pytest.raises(UsageError, match="not both"):
        alice.write(PLAN, "x", overwrite=True, on_conflict="merge")


@pytest.mark.invariant("I1")
def test_many_processes_that_merge_lose_no_edit(root, process):
    """Each changes paragraphs of its own in one file, always from what it read last."""
    count = 12
    (root / PLAN).write_bytes(b"".join(b"owner %d: 0\n\n" % n for n in range(4)))
    body = f"""
        from coherent_volume import CoherentVolume, ConflictError
        with CoherentVolume(root, managed=("plans/**",), session="worker-" + str(number)) as volume:
            tell("open")
            hear()
            done = 0
            while done < {count}:
                text = volume.read_text("plans/plan.md")
                old = "owner %d: %d\\n" % (number, done)
                assert old in text, text
                new = text.replace(old, "owner %d: %d\\n" % (number, done + 1))
                try:
                    volume.write("plans/plan.md", new, on_conflict="merge")
                except ConflictError:
                    continue
                done += 1
            return done
        """
    workers = [process.start(body, root=root, number=number) for number in range(4)]
    for worker in workers:
        worker.hear()
    for worker in workers:
        worker.tell()
    assert [worker.result() for worker in workers] == [count] * 4
    expected = b"".join(b"owner %d: %d\n\n" % (n, count) for n in range(4))
    assert (root / PLAN).read_bytes() == expected


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("point", ["checked", "published", "installed"])
def test_death_in_the_middle_of_a_merge_leaves_the_head_or_the_merged_content(
    ten, root, alice, bob, process, point
):
    stale(alice, bob)
    alice.close()
    child = process.start(
        """
        import signal
        from coherent_volume import CoherentVolume, points
        volume = CoherentVolume(root, session="alice")
        times = []
        def reached(name):
            times.append(name)
            # "checked" comes for the refused try, too.
            if times.count(name) == (2 if name == "checked" else 1) and name == point:
                os.kill(os.getpid(), signal.SIGKILL)
        points.reached = reached
        volume.write("plans/plan.md", mine.encode(), on_conflict="merge")
        """,
        root=root,
        point=point,
        mine=changed(7).decode(),
    )
    assert child.wait() == -9
    expected = changed(2) if point == "checked" else changed(2, 7)
    assert bob.read(PLAN) == ten.read_bytes() == expected
    kept = [each.file for each in bob.status().refused]
    assert [(root / each).read_bytes() for each in kept] == [changed(7)]


# ── the command ──────────────────────────────────────────────────────────────


@pytest.fixture
def shells(ten, root):
    """Alice and bob, who have read the plan."""
    Command(root).ok("init", "--managed", "plans/**")
    both = Command(root, "alice"), Command(root, "bob")
    for each in both:
        each.ok("read", PLAN)
    return both


def test_two_shells_edit_different_paragraphs_and_one_names_the_other(ten, shells):
    alice, bob = shells
    bob.ok("write", PLAN, input=changed(2))
    told = alice.ok("write", PLAN, "--merge", input=changed(7)).text
    assert told.startswith(f"{PLAN} is generation 2, merged with generation 1 by bob;")
    assert ten.read_bytes() == changed(2, 7)
    entries = alice.ok("log", PLAN, "--json").json()["entries"]
    assert [(each["kind"], each["saw"]) for each in entries][:2] == [("merge", 0), ("write", None)]


def test_two_shells_edit_the_same_line_and_the_second_is_told_everything(ten, root, shells):
    alice, bob = shells
    bob.ok("write", PLAN, input=changed(2))
    done = alice("write", PLAN, "--merge", input=changed(2, word=b"mine"))
    assert done.code == 75
    assert ten.read_bytes() == changed(2)
    kept = next(line for line in done.err.splitlines() if "is kept in" in line).split()[-1]
    assert (root / kept).read_bytes() == changed(2, word=b"mine")
    for expected in (
        "generation 1  bob  write",
        "  -line 2\n  +changed 2\n",
        f"--mine {kept[:20]}",
    ):
        assert expected in done.err
    first, second = alice.ok("why", PLAN), alice.ok("why", PLAN)
    assert first.out == second.out
    assert kept in first.text


def test_merge_takes_refused_content_from_what_its_name_says(ten, shells):
    alice, bob = shells
    bob.ok("write", PLAN, input=changed(2))
    kept = alice("write", PLAN, "--json", input=changed(7)).json()["kept"]
    alice.ok("read", PLAN)
    told = alice.ok("merge", PLAN, "--mine", kept, "--json").json()
    assert told["merged"] == [{"generation": 1, "session": "bob"}]
    assert ten.read_bytes() == changed(2, 7)


def test_merge_of_content_that_was_never_derived_is_wrong_usage(ten, root, shells):
    carol = Command(root, "carol")
    kept = carol("write", PLAN, "--json", input=changed(7)).json()["kept"]
    carol.ok("read", PLAN)
    assert carol("merge", PLAN, "--mine", kept).code == 2
    carol.ok("merge", PLAN, "--mine", kept, "--base", "0")


def test_commands_of_the_report_lead_out(ten, shells):
    alice, bob = shells
    bob.ok("write", PLAN, input=changed(2))
    report = alice("write", PLAN, "--merge", "--json", input=changed(2, word=b"x")).json()["report"]
    way = next(each["command"] for each in report["ways_out"] if " merge " in each["command"])
    marked = ten.parent.parent / report["marked"]
    assert alice(*way.split()[1:]).code == 2  # not resolved yet
    marked.write_bytes(changed(2, word=b"agreed"))
    alice.ok(*way.split()[1:])
    assert ten.read_bytes() == changed(2, word=b"agreed")


def test_merge_fed_a_hundred_megabytes_is_refused_at_once(ten, root, shells, tmp_path):
    with (tmp_path / "mine").open("wb") as file:
        file.truncate(100 << 20)
    done = shells[0]("merge", PLAN, "--mine", tmp_path / "mine")
    assert done.code == 2
    assert "too large to be merged" in done.err
    assert not any((root / ".coherence" / "refused").iterdir())


def test_mine_that_cannot_be_read_is_wrong_usage(shells):
    done = shells[0]("merge", PLAN, "--mine", "nowhere")
    assert done.code == 2
    assert "--mine names the file" in done.err
