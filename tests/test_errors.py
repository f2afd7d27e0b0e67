"""Hazard: an error that cannot travel, cannot be told apart, or gives no next step."""

from __future__ import annotations

import copy
import errno
import json
import pickle

import pytest

from cli.exit_codes import EXIT_CODES, exit_code
from coherent_volume import errors
from coherent_volume.errors import (
    BusyError,
    CoherenceError,
    ConflictError,
    FencedError,
    ForeignEditError,
    LeasedError,
    NotFoundError,
    NotPermittedError,
    NotRegularFileError,
    OutsideRootError,
    StaleGenerationError,
    StorageError,
    UnavailableError,
    UsageError,
    from_os_error,
    printable,
)


def _descendants(kind: type[CoherenceError]) -> set[type[CoherenceError]]:
    return {kind}.union(*(_descendants(child) for child in kind.__subclasses__()))


TREE = sorted(_descendants(CoherenceError), key=lambda kind: kind.__name__)
LEAVES = [kind for kind in TREE if not kind.__subclasses__()]
FIELDS = {"base": 3, "current": 5, "holder": "pid 12 (vi)", "kept": None, "filesystem": "NFS"}


def an(kind: type[CoherenceError]) -> CoherenceError:
    return kind("could not do it", path="plans/plan.md", **FIELDS)


each_leaf = pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)


def test_tree_has_the_branches_that_tell_what_to_do_next():
    branches = {kind for kind in TREE if CoherenceError in kind.__bases__}
    assert {kind.__name__ for kind in branches} == {
        "ConflictError",
        "UnavailableError",
        "UnconfirmedError",
        "NotFoundError",
        "UsageError",
        "DamagedError",
    }
    assert len(LEAVES) >= 17


def test_every_error_of_the_module_is_in_the_tree_and_exported():
    found = {n for n, v in vars(errors).items() if isinstance(v, type) and n.endswith("Error")}
    assert found == {kind.__name__ for kind in TREE}
    assert found <= set(errors.__all__)


def test_every_error_can_be_imported_from_the_package():
    import coherent_volume

    assert all(getattr(coherent_volume, kind.__name__) is kind for kind in TREE)


@each_leaf
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_leaf_travels_between_processes_with_all_it_knows(kind, protocol):
    error = an(kind)
    error.advice = "Do something else."

    arrived = pickle.loads(pickle.dumps(error, protocol))

    assert type(arrived) is kind
    assert arrived.as_dict() == error.as_dict()
    assert str(arrived) == str(error)
    assert (arrived.path, arrived.advice) == ("plans/plan.md", "Do something else.")
    assert {name: getattr(arrived, name) for name in FIELDS} == FIELDS


@each_leaf
def test_every_leaf_survives_being_copied(kind):
    error = an(kind)
    assert copy.copy(error).as_dict() == copy.deepcopy(error).as_dict() == error.as_dict()


def test_every_class_has_a_reason_of_its_own():
    reasons = [kind.reason for kind in TREE]
    assert len(set(reasons)) == len(reasons)
    assert all(reason.replace("_", "").isalpha() and reason.islower() for reason in reasons)


@each_leaf
def test_every_leaf_says_the_same_words_for_the_same_situation(kind):
    assert str(an(kind)) == str(an(kind))
    assert json.dumps(an(kind).as_dict()) == json.dumps(an(kind).as_dict())


@each_leaf
def test_every_leaf_says_where_what_and_what_to_do_next(kind):
    lines = str(an(kind)).splitlines()
    assert lines[0] == "plans/plan.md: could not do it"
    assert lines[1] == kind.default_advice
    assert len(lines) == 2
    assert len(lines[1].split()) >= 2


@each_leaf
def test_every_leaf_has_an_exit_code_of_its_own_and_the_table_knows_no_other(kind):
    assert kind in EXIT_CODES
    assert exit_code(an(kind)) == EXIT_CODES[kind]
    assert EXIT_CODES[kind] != 0
    assert set(EXIT_CODES) <= set(TREE)


def test_a_new_leaf_gets_the_exit_code_of_its_branch():
    class NewConflictError(ConflictError):
        """Nobody has put it into the table."""

    assert exit_code(NewConflictError("x")) == EXIT_CODES[ConflictError]


@each_leaf
def test_every_leaf_becomes_plain_values(kind):
    values = json.loads(json.dumps(an(kind).as_dict()))
    assert values["error"] == kind.__name__
    assert values["reason"] == kind.reason
    assert values["path"] == "plans/plan.md"
    assert values["message"] == "could not do it"
    assert values["advice"] == kind.default_advice
    assert values["base"] == 3


def test_only_what_may_pass_by_itself_has_the_code_of_a_retry():
    retried = {kind.__name__ for kind in LEAVES if EXIT_CODES[kind] == 75}
    assert retried == {
        "StaleGenerationError",
        "NotObservedError",
        "FencedError",
        "ForeignEditError",
        "LeasedError",
        "BusyError",
    }


# ── fields ───────────────────────────────────────────────────────────────────


def test_field_that_was_not_given_is_an_attribute_error():
    error = StaleGenerationError("x", base=1)
    assert error.base == 1
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = error.nothing_of_that_name


def test_conflict_names_the_file_that_keeps_the_content():
    error = ForeignEditError("edited", path="plans/plan.md")
    error.keep(".coherence/refused/plan.md.alice.g1.0123")
    assert str(error).endswith("\nYour content is kept in .coherence/refused/plan.md.alice.g1.0123")
    assert pickle.loads(pickle.dumps(error)).kept == error.kept
    assert "kept" not in str(ForeignEditError("edited", path="plans/plan.md"))


def test_advice_that_is_given_replaces_the_default_also_when_it_is_empty():
    assert LeasedError("held", advice="Wait.").advice == "Wait."
    assert str(LeasedError("held", advice="")) == "held"
    assert LeasedError("held").advice == UnavailableError.default_advice


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.AlreadyExistsError, FileExistsError),
        (errors.NotFoundError, FileNotFoundError),
        (errors.UsageError, ValueError),
    ],
)
def test_error_is_caught_by_who_knows_only_the_builtin(kind, builtin):
    with pytest.raises(builtin, match="could not do it"):
        raise an(kind)


# ── what a terminal must not obey ────────────────────────────────────────────

NASTY = "plans/\x1b[2J\x07\r\nplan\x9b.md\udcff\u202e\u200b"


@each_leaf
def test_control_characters_of_a_path_are_never_printed_raw(kind):
    text = str(kind("could not do it", path=NASTY))
    first = text.splitlines()[0]
    assert "could not do it" in first
    assert all(c.isprintable() for c in first)
    assert r"\x1b[2J\x07\r\nplan" in first
    text.encode("utf-8")


def test_printable_leaves_ordinary_text_of_any_language_alone():
    for text in ("plan.md", "Größe 1", "計画.md", "план", "a b-c_d~e"):
        assert printable(text) == text


@pytest.mark.parametrize("kind", [FencedError, NotFoundError])
def test_exact_path_stays_in_the_plain_values(kind):
    # Programs get the very name; json escapes what it must.
    assert json.loads(json.dumps(kind("x", path=NASTY).as_dict()))["path"] == NASTY


# ── from the operating system ────────────────────────────────────────────────

MAPPING = {
    errno.EACCES: NotPermittedError,
    errno.EPERM: NotPermittedError,
    errno.EROFS: NotPermittedError,
    errno.ENAMETOOLONG: UsageError,
    errno.EXDEV: OutsideRootError,
    errno.ELOOP: OutsideRootError,
    errno.ENOTDIR: NotRegularFileError,
    errno.EISDIR: NotRegularFileError,
    errno.ENOSPC: StorageError,
    errno.EDQUOT: StorageError,
    errno.EIO: StorageError,
    errno.EMFILE: StorageError,
    errno.ENFILE: StorageError,
    errno.ENOMEM: StorageError,
    errno.EFBIG: StorageError,
    errno.ENOENT: StorageError,
    errno.ESTALE: StorageError,
}


@pytest.mark.parametrize("number", MAPPING, ids=errno.errorcode.get)
def test_error_of_the_system_becomes_one_that_says_what_to_do(number):
    told = from_os_error(OSError(number, "whatever"), "plans/plan.md", "stage")

    assert type(told) is MAPPING[number]
    assert told.path == "plans/plan.md"
    assert told.advice
    if isinstance(told, StorageError | NotPermittedError):
        assert told.errno == number
        assert str(told).startswith("plans/plan.md: could not stage: ")
    if isinstance(told, StorageError):
        assert told.step == "stage"


def test_unknown_error_of_the_system_is_one_of_storage():
    told = from_os_error(OSError("no number at all"), None, "lock")
    assert type(told) is StorageError
    assert told.errno is None
    assert "no number at all" in str(told)
    assert not isinstance(told, BusyError)
