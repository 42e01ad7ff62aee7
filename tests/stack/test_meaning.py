"""A config.json means to the planner what it means to mcore-bridge."""

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.architectures import ARCHITECTURES, IRRELEVANT
from planner.errors import UsageError
from planner.model_config import model_spec_from_config
from stack.real_stack import RealStack
from tests.inputs.configs import ALL

pytestmark = pytest.mark.stack


def meaning(config: dict[str, Any]) -> dict[str, Any]:
    """What decides the number of parameters, in the form of `stack.meaning.of_config`."""
    model = model_spec_from_config(config, name="model", origin="config.json")
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_word_embeddings,
        "bias": False,
        "gated": True,
        "attention": asdict(model.attention),
        "moe_layers": list(model.moe_layers),
        "dense_ffn_hidden_size": model.dense_ffn_hidden_size,
        "moe": None if model.moe is None else asdict(model.moe),
    }


@pytest.mark.parametrize("config", ALL, ids=lambda config: config["model_type"])
def test_real_configs_mean_the_same(stack: RealStack, config: dict[str, Any]) -> None:
    assert stack.call("meaning", config=config) == meaning(config)


@st.composite
def changed_configs(draw: st.DrawFn) -> dict[str, Any]:
    """A real config.json with some fields left out or set to other values that may be right."""
    config = dict(draw(st.sampled_from(ALL)))
    known = sorted(set(ARCHITECTURES[config["model_type"]].rules) | set(config) & IRRELEVANT)
    values = st.sampled_from([None, True, False, 0, 1, 2, 3, 8, 64, "softmax", "silu", []])
    for field in draw(st.lists(st.sampled_from(known), min_size=1, max_size=3)):
        if draw(st.booleans()):
            config.pop(field, None)
        else:
            config[field] = draw(values)
    return config


@settings(max_examples=400)
@given(config=changed_configs())
def test_what_the_planner_accepts_means_the_same(stack: RealStack, config: dict[str, Any]) -> None:
    """Or transformers does not read it."""
    try:
        expected = meaning(config)
    except UsageError:
        return
    assert stack.call("meaning", config=config) in (expected, None)
