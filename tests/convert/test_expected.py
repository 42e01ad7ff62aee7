"""The tensors that a model should have: as many numbers as megatron-core builds parameters."""

from math import prod

import pytest

from convert.expected import NAMES, expected_shapes, mtp_prefixes
from planner.model_files import known_models, resolve_model
from planner.parameters import model_parameters

MODELS = [each.name for each in known_models()]


@pytest.mark.parametrize("name", MODELS)
def test_names_hold_the_parameters_of_every_model_that_comes_with_the_planner(name: str) -> None:
    """Beside them only the bias of experts, a buffer, and the copies that MTP layers keep of the
    embedding and the head."""
    model = resolve_model(name)
    shapes = expected_shapes(model)
    assert (shapes is not None) is (model.model_type in NAMES)
    if shapes is None:
        return
    wanted = sum(model_parameters(model, mtp_num_layers=model.mtp_num_layers).values())
    copies = ("embed_tokens.weight", "shared_head.head.weight")
    prefixes = tuple(mtp_prefixes(model))
    beside = [
        name
        for name in shapes
        if name.endswith("e_score_correction_bias")
        or (prefixes and name.startswith(prefixes) and name.endswith(copies))
    ]
    held = sum(prod(shape) for name, shape in shapes.items() if name not in set(beside))
    assert held == wanted


def test_every_type_with_names_comes_with_the_planner() -> None:
    assert NAMES.keys() <= {resolve_model(name).model_type for name in MODELS}
