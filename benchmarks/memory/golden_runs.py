"""Predicts Megatron-LM's published runs: their flags as the planner's model, layout, settings."""

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from golden_filter import FILTER, Flags, uncovered_because

from planner.evaluate import Evaluator
from planner.layout import Layout, Recompute
from planner.model_spec import (
    Attention,
    GroupedQueryAttention,
    MixtureOfExperts,
    ModelSpec,
    MultiLatentAttention,
)
from planner.pipeline_layout import layout_chunks
from planner.problem import Problem
from planner.recipe import load_recipe
from planner.schedule import in_flight_microbatches
from planner.settings import SPLIT_FLAGS, Settings
from planner.split import even_split
from planner.stack import load_stack
from planner.topology_files import load_topology
from planner.workload import TunerType, Workload

FOLDER = Path(__file__).parent
STACK = "gpu-kit-2026-11"
GPUS_PER_NODE = 8
LARGEST_WORLD = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What a test logged on some machine, in bytes: the largest peak of all steps and, of the
    memory between them, the median."""

    id: str
    file: str
    gpu: str
    num_gpus: int | None  # None: nobody says
    logged_steps: int
    peak_allocated: int | None  # None: it was not logged
    steady: int | None
    written_in: str = ""  # the commit that brought the value, where it is covered
    flags_then: Flags = field(default_factory=dict)  # where they bear on memory and were others


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """A functional test of Megatron-LM: its flags, and its values."""

    source: str
    vocab_size: int | None
    flags: Flags
    values: list[Value]

    @property
    def name(self) -> str:
        """Its folder."""
        return self.source.rpartition("test_cases/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A covered golden value beside the prediction for the last rank, in bytes."""

    test: str
    value: Value
    num_gpus: int
    predicted: int
    measured: int
    predicted_steady: int
    measured_steady: int

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1


def tests() -> list[Test]:
    """All tests beside this file."""
    text = (FOLDER / "golden_values.jsonl").read_text(encoding="utf-8")
    return [_test(json.loads(line)) for line in text.splitlines()]


def _test(line: dict[str, Any]) -> Test:
    return Test(**{**line, "values": [Value(**value) for value in line["values"]]})


def _size(flags: Flags, name: str, default: int = 1) -> int:
    return int(flags.get(f"{name}_parallel_size", default))


def _gated_width(flags: Flags, width: int) -> int:
    """Of the gated feed-forward part that has as many parameters and saved activations.

    Of a part without a gate they are 2 * hidden * width, and width before and after the activation
    function; with one they are 3 * hidden and 3 times its width.
    """
    if flags.get("swiglu"):
        return width
    shards = _size(flags, "tensor_model")
    return round(width * 2 / 3 / shards) * shards


def _default_ffn(flags: Flags) -> int:
    """Source: megatron/training/arguments.py: validate_args."""
    width = 4 * flags["hidden_size"]
    return int(width * 2 / 3 / 64) * 64 if flags.get("swiglu") else int(width)


def _attention(flags: Flags) -> Attention:
    heads, biased = flags["num_attention_heads"], not flags.get("disable_bias_linear", False)
    if flags.get("multi_latent_attention"):
        return MultiLatentAttention(
            num_heads=heads,
            q_lora_rank=flags["q_lora_rank"],
            kv_lora_rank=flags["kv_lora_rank"],
            qk_nope_head_dim=flags["qk_head_dim"],
            qk_rope_head_dim=flags["qk_pos_emb_head_dim"],
            v_head_dim=flags["v_head_dim"],
        )
    return GroupedQueryAttention(
        num_heads=heads,
        num_query_groups=flags.get("num_query_groups", heads),
        head_dim=flags.get("kv_channels", flags["hidden_size"] // heads),
        qkv_bias=biased,
        output_bias=biased,
        qk_layernorm="head" if flags.get("qk_layernorm") else "none",
    )


def _moe_layers(flags: Flags) -> tuple[bool, ...]:
    """`moe_layer_freq` is a Python expression of lists: "([0]*3+[1]*11)"."""
    layers = flags["num_layers"]
    if "num_experts" not in flags:
        return (False,) * layers
    repeats = str(flags.get("moe_layer_freq", f"[1]*{layers}")).strip("()").split("+")
    found: list[bool] = []
    for repeat in repeats:
        values, _, times = repeat.partition("*")
        found += [bool(value) for value in ast.literal_eval(values)] * int(times)
    return tuple(found)


def model_of(test: Test) -> ModelSpec:
    """The model of a test, without gates of feed-forward parts turned into one of their sizes."""
    flags, hidden = test.flags, test.flags["hidden_size"]
    assert test.vocab_size is not None, test.name
    ffn = flags.get("ffn_hidden_size", _default_ffn(flags))
    multiple = flags.get("make_vocab_size_divisible_by", 128) * _size(flags, "tensor_model")
    moe = None
    if "num_experts" in flags:
        moe = MixtureOfExperts(
            num_experts=flags["num_experts"],
            router_topk=flags["moe_router_topk"],
            ffn_hidden_size=_gated_width(flags, flags.get("moe_ffn_hidden_size", ffn)),
            shared_expert_intermediate_size=flags.get("moe_shared_expert_intermediate_size", 0),
            shared_expert_gate=False,
            router_score_function=flags.get("moe_router_score_function", "softmax"),
            router_expert_bias=flags.get("moe_router_enable_expert_bias", False),
        )
    return ModelSpec(
        name=test.name,
        model_type="gpt",
        num_layers=flags["num_layers"],
        hidden_size=hidden,
        vocab_size=-(-test.vocab_size // multiple) * multiple,
        tie_word_embeddings=not flags.get("untie_embeddings_and_output_weights", False),
        attention=_attention(flags),
        dense_ffn_hidden_size=_gated_width(flags, ffn),
        moe=moe,
        moe_layers=_moe_layers(flags),
        mtp_num_layers=flags.get("mtp_num_layers", 0),
        max_position_embeddings=flags["max_position_embeddings"],
        linear_bias=not flags.get("disable_bias_linear", False),
        origin=test.source,
    )


def recompute_of(flags: Flags) -> Recompute:
    """What a test recomputes."""
    granularity = flags.get("recompute_granularity", "none")
    if granularity == "full":
        layers = flags["recompute_num_layers"]
        return Recompute(
            granularity="full", method=flags["recompute_method"], num_layers=int(layers)
        )
    modules = flags.get("recompute_modules", "core_attn").strip("[]").split()
    return Recompute(
        granularity=granularity, modules=tuple(modules) if granularity == "selective" else ()
    )


def settings_of(flags: Flags) -> Settings:
    """The arguments that the planner knows under the names that ms-swift gives them."""
    given = {name: flags[name] for name in SPLIT_FLAGS if name in flags}
    return Settings(
        **given,
        use_distributed_optimizer=flags.get("use_distributed_optimizer", False),
        microbatch_group_size_per_vp_stage=flags.get(
            "microbatch_group_size_per_virtual_pipeline_stage"
        ),
        given=given,
    )


def virtual_stages(flags: Flags) -> int:
    """Model chunks a stage."""
    stages = _size(flags, "pipeline_model")
    if "pipeline_model_parallel_layout" in flags:
        return len(layout_chunks(flags["pipeline_model_parallel_layout"])) // stages
    if "num_layers_per_virtual_pipeline_stage" in flags:
        size = flags["num_layers_per_virtual_pipeline_stage"]
        return int(flags["num_layers"] // stages // size)
    return int(flags.get("num_virtual_stages_per_pipeline_rank", 1))


def _global_batch(flags: Flags) -> int:
    """Samples of a step; of a schedule of them, those of its beginning."""
    if "global_batch_size" in flags:
        return int(flags["global_batch_size"])
    return int(flags["step_batch_size_schedule"].split()[0].partition(":")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Bytes of the last stage."""

    peak_allocated: int
    steady: int


def predict(test: Test, num_gpus: int) -> Predicted:
    """Memory of a test on so many GPUs."""
    evaluator = Evaluator(_problem(test, num_gpus))
    layout = _layout(test, num_gpus, evaluator)
    memory = evaluator.batch(layout).memory(layout.recompute)[-1]
    return Predicted(
        peak_allocated=memory.peak_allocated + _dropout_masks(test.flags, layout),
        steady=memory.steady,
    )


def _problem(test: Test, num_gpus: int) -> Problem:
    flags = test.flags
    nodes = max(1, num_gpus // GPUS_PER_NODE)
    fused = not flags.get("no_gradient_accumulation_fusion", False)
    return Problem(
        model=model_of(test),
        cluster=load_topology("h100-8x-ib", nodes, min(num_gpus, GPUS_PER_NODE)),
        workload=Workload(
            seq_length=flags["seq_length"],
            global_batch_size=_global_batch(flags),
            mtp_num_layers=flags.get("mtp_num_layers", 0),
            packing=False,
        ),
        stack=replace(load_stack(STACK), apex=fused),
        recipe=replace(
            load_recipe(TunerType.FULL),
            overlap_grad_reduce=flags.get("overlap_grad_reduce", False),
            overlap_param_gather=flags.get("overlap_param_gather", False),
            cross_entropy_loss_fusion=flags.get("cross_entropy_loss_fusion", False),
        ),
        settings=settings_of(flags),
    )


def _layout(test: Test, num_gpus: int, evaluator: Evaluator) -> Layout:
    flags = test.flags
    stages, virtual = _size(flags, "pipeline_model"), virtual_stages(flags)
    if evaluator.problem.settings.names_split:
        split = evaluator.split(stages, virtual)
    else:
        split = even_split(flags["num_layers"], stages, virtual)
    assert split is not None, test.name
    return Layout(
        world_size=num_gpus,
        vpp=virtual,
        micro_batch_size=flags["micro_batch_size"],
        global_batch_size=_global_batch(flags),
        recompute=recompute_of(flags),
        split=split,
        **_grid(flags),
    )


def _dropout_masks(flags: Flags, layout: Layout) -> int:
    """Bytes of masks, which no fine-tuning run has: the model knows of none.

    A byte an element after attention, after the feed-forward part and after the embedding
    (megatron/core/fusions/fused_bias_dropout.py, models/common/embeddings).
    """
    if not flags.get("hidden_dropout", FILTER["defaults"]["hidden_dropout"]):
        return 0
    tokens = flags["seq_length"] * layout.micro_batch_size // (layout.cp * layout.tp)
    layers: float = 1  # the one that is built again
    if layout.recompute.granularity != "full":
        layers = layout.split.num_layers(layout.pp - 1) * in_flight_microbatches(
            layout.pp,
            layout.vpp,
            layout.global_batch_size // (layout.micro_batch_size * layout.dp),
            layout.pp - 1,
            flags.get("microbatch_group_size_per_virtual_pipeline_stage"),
        )
    return round(tokens * flags["hidden_size"] * (2 * layers + (layout.pp == 1)))


def _grid(flags: Flags) -> dict[str, int]:
    tp = _size(flags, "tensor_model")
    moe = "num_experts" in flags
    return {
        "tp": tp,
        "pp": _size(flags, "pipeline_model"),
        "cp": _size(flags, "context"),
        "ep": _size(flags, "expert_model") if moe else 1,
        "etp": _size(flags, "expert_tensor", tp) if moe else 1,
    }


def _worlds(flags: Flags) -> Iterator[int]:
    """Numbers of GPUs, of whole hosts, that the sizes and the batch allow."""
    grid = _grid(flags)
    inner = grid["tp"] * grid["cp"] * grid["pp"]
    experts = grid["ep"] * grid["etp"] * grid["pp"]
    for world in range(GPUS_PER_NODE, LARGEST_WORLD + 1, GPUS_PER_NODE):
        if not world % inner and not world % experts:
            samples = flags["micro_batch_size"] * (world // inner)
            if not _global_batch(flags) % samples:
                yield world


def rows_of(test: Test) -> Iterator[Row]:
    """The golden values of a covered test.

    Where nobody says how many GPUs it ran on, it is the number whose predicted memory between steps
    is nearest to the published one.
    """
    predicted: dict[int, Predicted] = {}
    for value in test.values:
        peak, steady = value.peak_allocated, value.steady
        if peak is None or steady is None:
            continue
        worlds = [value.num_gpus] if value.num_gpus else list(_worlds(test.flags))
        for world in worlds:
            if world not in predicted:
                predicted[world] = predict(test, world)
        errors = {world: abs(predicted[world].steady - steady) for world in worlds}
        num_gpus = min(errors, key=errors.__getitem__)
        yield Row(
            test=test.name,
            value=value,
            num_gpus=num_gpus,
            predicted=predicted[num_gpus].peak_allocated,
            measured=peak,
            predicted_steady=predicted[num_gpus].steady,
            measured_steady=steady,
        )


def covered_rows(found: list[Test]) -> list[Row]:
    """Every golden value of every covered test."""
    covered = [test for test in found if uncovered_because(test.flags) is None]
    return [row for test in covered for row in rows_of(test)]
