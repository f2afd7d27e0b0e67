"""The volume's configuration: ``.coherence/config.toml``, written for people.

Owns its keys, their defaults and their text. An unknown key is refused and
never ignored: a misspelt ``managd`` would otherwise leave files unprotected
with nobody told. Touches no disk; the layout module reads and writes the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from coherent_volume.errors import ConfigurationError
from coherent_volume.model import Durability

__all__ = ["Config", "Retention", "parse", "render"]


@dataclass(frozen=True, slots=True)
class Retention:
    """How much history is kept per artifact; the head is always kept.

    ``generations`` and ``days`` bound the past generations, ``megabytes``
    their total size, ``refused_days`` the age of refused content.
    """

    generations: int = 100
    days: int = 30
    megabytes: int = 1024
    refused_days: int = 30


@dataclass(frozen=True, slots=True)
class Config:
    """What one volume manages, and how durably."""

    managed: tuple[str, ...]
    durability: Durability = "power"
    retention: Retention = field(default_factory=Retention)


_TOP = ("managed", "durability", "retention")
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
    return checked(table.get("managed"), table.get("durability", "power"), Retention(**retention))


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
    if durability not in get_args(Durability):
        raise ConfigurationError(
            f"durability must be one of {', '.join(get_args(Durability))}, not {durability!r}"
        )
    return Config(tuple(managed), cast("Durability", durability), retention or Retention())


def render(config: Config) -> str:
    """The text of *config*; ``parse`` of it gives *config* again."""
    # A JSON string is a TOML basic string, so json does the quoting.
    globs = ", ".join(json.dumps(glob, ensure_ascii=False) for glob in config.managed)
    keep = config.retention
    return f"""\
# Configuration of this coherent volume. Edit it by hand when no session is open.

# Which files are managed: patterns as in .gitignore, '!' excludes.
managed = [{globs}]

# What an acknowledged commit survives: "power" (a power loss) or "process" (kill -9).
durability = "{config.durability}"

# History kept per artifact; whichever bound is met first prunes. The head always stays.
[retention]
generations = {keep.generations}
days = {keep.days}
megabytes = {keep.megabytes}
refused_days = {keep.refused_days}
"""


def _refuse_unknown(table: dict[str, Any], known: tuple[str, ...], prefix: str) -> None:
    for key in table:
        if key not in known:
            raise ConfigurationError(
                f"config.toml: unknown key {prefix}{key}",
                advice=f"Known keys: {', '.join(prefix + name for name in known)}.",
            )
