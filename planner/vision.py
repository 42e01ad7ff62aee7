"""Parameters of the vision towers of multimodal models, as transformers builds them.

mcore-bridge takes the tower from transformers and puts it, whole, on every rank of the first stage
(mcore_bridge/model/mm_gpts/llama4.py and qwen3_5.py, 1.6.5).
"""

from collections.abc import Mapping

from planner.config_fields import inconsistent

Sizes = Mapping[str, int]


def vision_parameters(model_type: str, sizes: Sizes, hidden_size: int, origin: str) -> int:
    """Parameters of a tower with its projection into a language model of `hidden_size`.

    Raises UsageError: config.inconsistent.
    """
    if model_type == "llama4":
        return _llama4(sizes, hidden_size)
    if sizes["out_hidden_size"] != hidden_size:
        raise inconsistent(
            origin,
            f"vision_config.out_hidden_size ({sizes['out_hidden_size']}) is not the hidden_size"
            f" ({hidden_size}) of the language model",
        )
    return _qwen3_5(sizes)


def _blocks(number: int, hidden: int, ffn: int) -> int:
    """Layers of a vision transformer: attention, two linear layers, two norms, all with biases."""
    attention = 4 * (hidden * hidden + hidden)
    feed_forward = hidden * ffn + ffn + ffn * hidden + hidden
    return number * (attention + feed_forward + 4 * hidden)


def _llama4(sizes: Sizes, hidden_size: int) -> int:
    """Source: transformers 5.19.0, models/llama4/modeling_llama4.py:677-690, 696, 820-844, 968,
    1030-1036."""
    hidden, ffn = sizes["hidden_size"], sizes["intermediate_size"]
    patches = (sizes["image_size"] // sizes["patch_size"]) ** 2 + 1
    embedding = sizes["num_channels"] * sizes["patch_size"] ** 2 * hidden
    positions = hidden + patches * hidden  # of the class token, and of every patch
    norms = 2 * 2 * hidden
    adapter = ffn * sizes["projector_input_dim"] + sizes["projector_output_dim"] ** 2
    projector = sizes["vision_output_dim"] * hidden_size
    blocks = _blocks(sizes["num_hidden_layers"], hidden, ffn)
    return embedding + positions + norms + blocks + adapter + projector


def _qwen3_5(sizes: Sizes) -> int:
    """Source: transformers 5.19.0, models/qwen3_5_moe/modeling_qwen3_5_moe.py:1038, 1055, 1071,
    1103, 1182, 1228."""
    hidden = sizes["hidden_size"]
    patch = sizes["in_channels"] * sizes["temporal_patch_size"] * sizes["patch_size"] ** 2
    embedding = patch * hidden + hidden
    positions = sizes["num_position_embeddings"] * hidden
    merged = hidden * sizes["spatial_merge_size"] ** 2
    merger = 2 * hidden + merged * merged + merged
    merger += merged * sizes["out_hidden_size"] + sizes["out_hidden_size"]
    blocks = _blocks(sizes["depth"], hidden, sizes["intermediate_size"])
    return embedding + positions + blocks + merger
