"""The rules of what is set: a part of the table of `planner.constraints`."""

from planner import setting_checks as checks
from planner.host_memory import host_memory
from planner.rule import Rule

_CORE = "megatron-core 0.16.1, megatron/core"
_CONFIG = f"{_CORE}/transformer/transformer_config.py"
_LAYOUT = f"{_CORE}/transformer/pipeline_parallel_layer_layout.py"
_OPTIMIZER = f"{_CORE}/optimizer/optimizer_config.py"
_SWIFT = "ms-swift 4.6.0, swift/megatron"
_ENGINE = "Transformer Engine 2.12.0, transformer_engine/pytorch"

SETTING_RULES: tuple[Rule, ...] = (
    Rule(
        "uneven_pipeline",
        "pipeline",
        checks.uneven_pipeline,
        f"{_SWIFT}/arguments/megatron_args.py:892",
    ),
    Rule(
        "uneven_accounted",
        "pipeline",
        checks.uneven_accounted,
        f"{_CORE}/transformer/transformer_block.py:103",
    ),
    Rule("uneven_middle", "pipeline", checks.uneven_middle, f"{_CONFIG}:1404-1417"),
    Rule(
        "uneven_over",
        "pipeline",
        checks.uneven_over,
        f"{_CONFIG}:1404-1417 lets a negative number of layers pass",
        forgotten=True,
    ),
    Rule("uneven_vpp", "pipeline", checks.uneven_vpp, f"{_CONFIG}:1371-1433"),
    Rule("accounted_pp", "pipeline", checks.accounted_pp, f"{_CONFIG}:1438-1463"),
    Rule("accounted_vpp", "pipeline", checks.accounted_vpp, f"{_CONFIG}:1465"),
    Rule("layout_alone", "pipeline", checks.layout_alone, f"{_CONFIG}:1307"),
    Rule("layout_layers", "pipeline", checks.layout_layers, f"{_LAYOUT}: validate_layer_layout"),
    Rule(
        "layout_stages",
        "pipeline",
        checks.layout_stages,
        f"{_SWIFT}/arguments/megatron_args.py: _init_vpp_size",
    ),
    Rule("layout_ends", "pipeline", checks.layout_ends, f"{_LAYOUT}: validate_layer_layout"),
    Rule(
        "layout_end_chunks",
        "pipeline",
        checks.layout_end_chunks,
        f"{_LAYOUT} looks at the order of E and L, not at their chunks",
        forgotten=True,
        evaluable=True,
    ),
    Rule(
        "layout_empty",
        "pipeline",
        checks.layout_empty,
        "ms-swift 4.6.0, swift/utils/transformers_utils.py:46 divides by a chunk's parameters",
        forgotten=True,
        evaluable=True,
    ),
    Rule("layout_mtp", "pipeline", checks.layout_mtp, f"{_LAYOUT}: validate_layer_layout"),
    Rule(
        "microbatch_group_vpp",
        "pipeline",
        checks.microbatch_group_vpp,
        f"{_CORE}/pipeline_parallel/schedules.py reads it with interleaving only",
        forgotten=True,
        evaluable=True,
    ),
    Rule("precision_aware_adam", "grid", checks.precision_aware_adam, f"{_OPTIMIZER}:366"),
    Rule(
        "sgd_distributed",
        "grid",
        checks.sgd_distributed,
        f"{_CORE}/optimizer/distrib_optimizer.py:514",
    ),
    Rule(
        "precision_aware_distributed",
        "grid",
        checks.precision_aware_distributed,
        f"{_OPTIMIZER}:369",
    ),
    Rule("precision_aware_off", "grid", checks.precision_aware_off, f"{_OPTIMIZER}:402-414"),
    Rule(
        "offload_dtypes",
        "grid",
        checks.offload_dtypes,
        f"{_CORE}/optimizer/cpu_offloading/hybrid_optimizer.py keeps all states in fp32",
        forgotten=True,
        evaluable=True,
    ),
    Rule(
        "overlap_distributed",
        "grid",
        checks.overlap_distributed,
        f"{_CORE}/distributed/distributed_data_parallel.py:348",
        forgotten=True,
        evaluable=True,
    ),
    Rule("fp8_param", "grid", checks.fp8_param, f"{_CONFIG}:1027"),
    Rule(
        "fp8_gpu",
        "grid",
        checks.fp8_gpu,
        f"{_ENGINE}/quantization.py: check_fp8_support and others",
        kind="engine",
        evaluable=True,
    ),
    Rule(
        "fp8_dims",
        "grid",
        checks.fp8_dims,
        f"{_ENGINE}/utils.py: assert_dim_for_fp8_exec; tensor/mxfp8_tensor.py",
        kind="engine",
        evaluable=True,
    ),
    Rule(
        "capacity_padding",
        "grid",
        checks.capacity_padding,
        f"{_CONFIG}: moe_pad_expert_input_to_capacity",
    ),
    Rule(
        "host_memory",
        "pipeline",
        host_memory,
        f"{_CORE}/optimizer/cpu_offloading/hybrid_optimizer.py: states lie on the host",
        kind="engine",
        evaluable=True,
    ),
    Rule("fp8_recompute", "recompute", checks.fp8_recompute, f"{_CONFIG}:1241", evaluable=True),
)
