"""The volume's configuration: ``.coherence/config.toml``, written for people.

Owns its keys, their defaults and their text. An unknown key is refused and
never ignored: a misspelt ``managd`` would otherwise leave files unprotected
with nobody told. Touches no disk; the layout module reads and writes the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

from coherent_volume.errors import ConfigurationError
from coherent_volume.model import Durability

__all__ = [
    "UNCREDITED",
    "Blind",
    "Config",
    "OnConflict",
    "Retention",
    "Rule",
    "parse",
    "render",
]

OnConflict = Literal["refuse", "merge"]
"""What becomes of a stale write: refused, or merged where the edits are disjoint."""

Blind = Literal["since-start", "refuse", "allow"]
"""What a mount does with a write to a file that its session never read: judge it
against the file as it stood when the session started, refuse it, or allow it."""

UNCREDITED = ("git", "rg", "ag", "grep", "find", "md5sum", "sha256sum", "updatedb", "tracker-miner")
"""Programs that read everything and show nothing to anybody."""


class Retention(NamedTuple):
    """How much history is kept per artifact; the head is always kept.

    ``generations`` and ``days`` bound the past generations, ``megabytes``
    their total size, ``refused_days`` the age of refused content.
    """

    generations: int = 100
    days: int = 30
    megabytes: int = 1024
    refused_days: int = 30


class Rule(NamedTuple):
    """What differs for the artifacts that match *paths*; None leaves a setting as it is."""

    paths: tuple[str, ...]
    on_conflict: OnConflict | None = None
    blind: Blind | None = None


class Config(NamedTuple):
    """What one volume manages, how durably, and how it deals with stale writes."""

    managed: tuple[str, ...]
    durability: Durability = "power"
    retention: Retention = Retention()
    on_conflict: OnConflict = "refuse"
    blind: Blind = "since-start"
    uncredited: tuple[str, ...] = UNCREDITED
    rules: tuple[Rule, ...] = ()
    """Later rules win over earlier ones."""


_TOP = ("managed", "durability", "on_conflict", "retention", "mount", "rule")
_MOUNT = ("blind", "uncredited")
_RULE = ("paths", "on_conflict", "blind")
_RETENTION = ("generations", "days", "megabytes", "refused_days")


def parse(text: str) -> Config:
    """Read *text*, or raise ConfigurationError with one line that names the key."""
    import tomllib  # 5 ms, needed when a volume is opened

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"config.toml is not valid TOML: {error}") from error
    _refuse_unknown(table, _TOP, "")
    retention = table.get("retention", {})
    if not isinstance(retention, dict):
        raise ConfigurationError("config.toml: retention must be a table")
    _refuse_unknown(retention, _RETENTION, "retention.")
    for key, value in retention.items():
        if type(value) is not int or value < 1:
            raise ConfigurationError(f"config.toml: retention.{key} must be a whole number above 0")
    config = checked(table.get("managed"), table.get("durability", "power"), Retention(**retention))
    return config._replace(**_dealings(table))


def _dealings(table: dict[str, Any]) -> dict[str, Any]:
    """The settings about stale and blind writes, checked."""
    mount = table.get("mount", {})
    if not isinstance(mount, dict):
        raise ConfigurationError("config.toml: mount must be a table")
    _refuse_unknown(mount, _MOUNT, "mount.")
    rules = table.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(each, dict) for each in rules):
        raise ConfigurationError("config.toml: a rule is written as a table [[rule]]")
    found = {
        "on_conflict": _one_of(table, "on_conflict", get_args(OnConflict)),
        "blind": _one_of(mount, "blind", get_args(Blind), "mount."),
        "uncredited": _texts(mount, "uncredited", "mount."),
        "rules": tuple(_rule(each) for each in rules),
    }
    return {name: value for name, value in found.items() if value is not None}


def _rule(table: dict[str, Any]) -> Rule:
    _refuse_unknown(table, _RULE, "rule.")
    paths = _texts(table, "paths", "rule.")
    if not paths:
        raise ConfigurationError("config.toml: a rule needs paths, a list of at least one glob")
    return Rule(
        paths,
        cast("OnConflict | None", _one_of(table, "on_conflict", get_args(OnConflict), "rule.")),
        cast("Blind | None", _one_of(table, "blind", get_args(Blind), "rule.")),
    )


def _one_of(table: dict[str, Any], key: str, known: tuple[str, ...], prefix: str = "") -> Any:
    value = table.get(key)
    if value is not None and value not in known:
        raise ConfigurationError(
            f"config.toml: {prefix}{key} must be one of {', '.join(known)}, not {value!r}"
        )
    return value


def _texts(table: dict[str, Any], key: str, prefix: str) -> tuple[str, ...] | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise ConfigurationError(f"config.toml: {prefix}{key} must be a list of texts")
    return tuple(value)


def checked(managed: Any, durability: Any, retention: Retention | None = None) -> Config:
    """A configuration of these values, or ConfigurationError."""
    if (
        not isinstance(managed, list | tuple)
        or not managed
        or not all(isinstance(glob, str) and glob.strip() for glob in managed)
    ):
        raise ConfigurationError(
            "managed must be a list of at least one glob",
            advice='For example: managed = ["plans/**", "*.md"]',
        )
    _refuse_hopeless(managed)
    if durability not in get_args(Durability):
        raise ConfigurationError(
            f"durability must be one of {', '.join(get_args(Durability))}, not {durability!r}"
        )
    return Config(tuple(managed), cast("Durability", durability), retention or Retention())


def _refuse_hopeless(globs: Sequence[str]) -> None:
    """Refuse what can match nothing: the files would be unprotected with nobody told."""
    for glob in globs:
        body = re.sub(r"\\.", "", glob.strip().removeprefix("!"))
        why = ""
        if body.startswith("#"):
            why = "a line that begins with # is a comment (\\# means the character)"
        elif ".." in body.split("/"):
            why = "it leads out of the root; globs are relative to the root"
        elif not body.strip("/") and body == glob.strip().removeprefix("!"):
            why = "it names no file; all files are **"
        elif re.search(r"\{[^{}/]*,[^{}]*\}", body):
            why = "braces mean nothing in it; write one glob for each alternative"
        elif "[" in re.sub(r"\[[!^]?\]?[^\]]*\]", "", body):
            why = "its [ is never closed (\\[ means the character)"
        if why:
            raise ConfigurationError(f"the glob {glob!r} can match nothing: {why}")
    if all(glob.lstrip().startswith("!") for glob in globs):
        raise ConfigurationError(
            "the globs only exclude",
            advice='Put first what is managed, for example: managed = ["**", "!build/**"]',
        )


def render(config: Config) -> str:
    """The text of *config*; ``parse`` of it gives *config* again."""
    keep = config.retention
    return f"""\
# Configuration of this coherent volume. Edit it by hand when no session is open.

# Which files are managed: patterns as in .gitignore, '!' excludes.
managed = {_list(config.managed)}

# What an acknowledged commit survives: "power" (a power loss) or "process" (kill -9).
durability = "{config.durability}"

# A stale write: "refuse" it, or "merge" it where the edits are disjoint.
on_conflict = "{config.on_conflict}"

# History kept per artifact; whichever bound is met first prunes. The head always stays.
[retention]
generations = {keep.generations}
days = {keep.days}
megabytes = {keep.megabytes}
refused_days = {keep.refused_days}

# A mount: what becomes of a write to a file that its session never read ("since-start",
# "refuse" or "allow"), and programs whose reading does not count as having seen a file.
[mount]
blind = "{config.blind}"
uncredited = {_list(config.uncredited)}

# Where something else holds; later rules win:
# [[rule]]
# paths = ["notes/**"]
# on_conflict = "merge"
# blind = "refuse"
{"".join(_rule_text(rule) for rule in config.rules)}"""


def _rule_text(rule: Rule) -> str:
    lines = ["", "[[rule]]", f"paths = {_list(rule.paths)}"]
    if rule.on_conflict is not None:
        lines.append(f'on_conflict = "{rule.on_conflict}"')
    if rule.blind is not None:
        lines.append(f'blind = "{rule.blind}"')
    return "\n".join(lines) + "\n"


def _list(texts: tuple[str, ...]) -> str:
    # A JSON string is a TOML basic string, so json does the quoting.
    return "[" + ", ".join(json.dumps(text, ensure_ascii=False) for text in texts) + "]"


def _refuse_unknown(table: dict[str, Any], known: tuple[str, ...], prefix: str) -> None:
    for key in table:
        if key not in known:
            raise ConfigurationError(
                f"config.toml: unknown key {prefix}{key}",
                advice=f"Known keys: {', '.join(prefix + name for name in known)}.",
            )
