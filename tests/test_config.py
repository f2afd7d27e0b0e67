"""config.toml: what is written is read back, rules win in order, and nothing unknown passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coherent_volume.config import Config, Retention, Rule, checked, parse, render
from coherent_volume.errors import ConfigurationError
from coherent_volume.globs import Rules
from coherent_volume.model import ArtifactKey

_text = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(str.strip)


def _can_match(globs):
    try:
        checked(globs, "power")
    except ConfigurationError:
        return False
    return True


_texts = st.lists(_text, min_size=1, max_size=3).map(tuple)
_conflict = st.sampled_from(["refuse", "merge"])
_blind = st.sampled_from(["since-start", "refuse", "allow"])
_count = st.integers(1, 2**40)
_rule = st.builds(Rule, _texts, st.none() | _conflict, st.none() | _blind)
_config = st.builds(
    Config,
    _texts.filter(_can_match),
    st.sampled_from(["power", "process"]),
    st.builds(Retention, _count, _count, _count, _count),
    _conflict,
    _blind,
    st.lists(_text, max_size=3).map(tuple),
    st.lists(_rule, max_size=3).map(tuple),
)


@given(_config)
def test_what_is_written_is_read_back(config):
    assert parse(render(config)) == config


def test_the_last_rule_that_says_something_wins():
    rules = Rules(
        Config(
            ("**",),
            rules=(
                Rule(("notes/**",), on_conflict="merge"),
                Rule(("notes/final/**",), on_conflict="refuse"),
                Rule(("notes/**",), blind="allow"),
            ),
        )
    )
    asked = [b"plan.md", b"notes/a.md", b"notes/final/b.md"]
    assert [rules.on_conflict(ArtifactKey(key)) for key in asked] == ["refuse", "merge", "refuse"]
    assert [rules.blind(ArtifactKey(key)) for key in asked] == ["since-start", "allow", "allow"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('on_conflict = "maybe"', "on_conflict"),
        ('[mount]\nblind = "yes"', "mount.blind"),
        ("[mount]\nuncredited = 3", "mount.uncredited"),
        ("[mount]\nspeed = 3", "mount.speed"),
        ("mount = 3", "mount"),
        ("rule = 3", "[[rule]]"),
        ('[[rule]]\non_conflict = "merge"', "paths"),
        ('[[rule]]\npaths = ["a"]\non_conflict = 1', "rule.on_conflict"),
        ('[[rule]]\npaths = ["a"]\nif = 1', "rule.if"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(text, named):
    with pytest.raises(ConfigurationError) as refused:
        parse(f'managed = ["**"]\n{text}\n')
    assert named in str(refused.value)
