"""A config.json means to the planner what it means to mcore-bridge."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.architectures import ARCHITECTURES
from planner.architectures.rules import IRRELEVANT
from planner.architectures.unread import UNREAD
from planner.errors import UsageError
from stack.real_stack import RealStack
from tests.inputs.configs import ALL, IDS, meaning, spoiled_configs

pytestmark = pytest.mark.stack


TRAINABLE = {
    name: config
    for name, config in zip(IDS, ALL, strict=True)
    if ARCHITECTURES[config["model_type"]].not_trained is None
}


@pytest.mark.parametrize("config", TRAINABLE.values(), ids=TRAINABLE)
def test_real_configs_mean_the_same(stack: RealStack, config: dict[str, Any]) -> None:
    assert stack.call("meaning", config=config) == meaning(config)


def test_every_type_that_the_stack_trains_is_read_or_refused_by_name(stack: RealStack) -> None:
    registered = set(stack.call("model_types"))
    trained = {name for name, each in ARCHITECTURES.items() if each.not_trained is None}

    assert registered <= set(ARCHITECTURES) | set(UNREAD)
    assert trained <= registered
    assert not set(ARCHITECTURES) & set(UNREAD)


@st.composite
def changed_configs(draw: st.DrawFn) -> dict[str, Any]:
    """A real config.json with some fields left out or set to other values that may be right."""
    config = dict(draw(st.sampled_from(list(TRAINABLE.values()))))
    inner = dict(config.get("text_config", config))
    known = sorted(names_of(config["model_type"]) | set(inner) & IRRELEVANT)
    values = st.sampled_from([None, True, False, 0, 1, 2, 3, 8, 64, "softmax", "silu", []])
    for field in draw(st.lists(st.sampled_from(known), min_size=1, max_size=3)):
        if draw(st.booleans()):
            inner.pop(field, None)
        else:
            inner[field] = draw(values)
    return config | {"text_config": inner} if "text_config" in config else inner


def names_of(model_type: str) -> set[str]:
    rules = ARCHITECTURES[model_type].rules
    return {name for key, rule in rules.items() for name in rule.names or (key,)}


@settings(max_examples=400)
@given(config=changed_configs())
def test_what_the_planner_accepts_means_the_same(stack: RealStack, config: dict[str, Any]) -> None:
    """Or transformers does not read it."""
    try:
        expected = meaning(config)
    except UsageError:
        return
    assert stack.call("meaning", config=config) in (expected, None)


@settings(max_examples=400)
@given(config=spoiled_configs())
def test_no_spoiled_config_is_accepted_with_another_meaning(
    stack: RealStack, config: object
) -> None:
    """tests/inputs/fuzz_config.py runs thousands."""
    try:
        expected = meaning(config)
    except UsageError:
        return
    assert isinstance(config, dict)
    if ARCHITECTURES[config["model_type"]].not_trained is None:
        assert stack.call("meaning", config=config) in (expected, None)
