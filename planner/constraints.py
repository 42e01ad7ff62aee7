"""What makes a layout illegal: one table of rules, each with the releases that it holds for.

Some rules are ones that Megatron forgets: it accepts such a layout and then loses layers, fails in
the first forward pass, or does nothing with the setting (`forgotten=True`). tests/stack holds every
rule against the real packages, in both directions.
"""

from planner import checks
from planner.problem import Problem, Sizes
from planner.rule import Rule, Violation
from planner.setting_rules import SETTING_RULES
from planner.settings import AS_PLANNED

# The lines are those of 0.16.1. Conditions are the same from 0.15.3 to 0.19.2 where a rule names no
# release; tests/stack/test_rule_sources.py reads them there.
_CORE = "megatron-core 0.16.1, megatron/core"

_CONFIG = f"{_CORE}/transformer/transformer_config.py"
_TE = f"{_CORE}/extensions/transformer_engine.py"
_SWIFT = "ms-swift 4.6.0, swift/megatron"

_PLANNED: tuple[Rule, ...] = (
    Rule("world_dense", "grid", checks.world_dense, f"{_CORE}/parallel_state.py:741"),
    Rule("world_expert", "grid", checks.world_expert, f"{_CORE}/parallel_state.py:793"),
    Rule("heads_tp", "grid", checks.heads_tp, f"{_CONFIG}:925"),
    Rule(
        "query_groups_tp",
        "grid",
        checks.query_groups_tp,
        f"{_CONFIG}:940",
        since=(0, 16, 0),
        evaluable=True,
    ),
    Rule(
        "query_groups_tp_strict",
        "grid",
        checks.query_groups_tp_strict,
        "megatron-core 0.15.3, megatron/core/transformer/transformer_config.py: num_query_groups",
        until=(0, 16, 0),
        evaluable=True,
    ),
    Rule("ffn_tp", "grid", checks.ffn_tp, f"{_TE}: divide"),
    Rule(
        "dense_model",
        "grid",
        checks.dense_model,
        f"{_SWIFT}/model/utils.py: get_mcore_model_config sets both to 1",
        forgotten=True,
    ),
    Rule(
        "lora_etp", "grid", checks.lora_etp, "mcore-bridge 1.6.5, mcore_bridge/tuners/lora.py:150"
    ),
    Rule("bias_etp", "grid", checks.bias_etp, f"{_CONFIG}:1590"),
    Rule("experts_ep", "grid", checks.experts_ep, f"{_CORE}/transformer/moe/moe_layer.py:101"),
    Rule("expert_ffn_etp", "grid", checks.expert_ffn_etp, f"{_TE}: divide"),
    Rule(
        "experts_without_ep",
        "grid",
        checks.experts_without_ep,
        f"{_TE}:1551 takes experts for dense parameters, which 0.19 mends",
        until=(0, 19, 0),
        forgotten=True,
        evaluable=True,
    ),
    Rule(
        "sequence_shards",
        "grid",
        checks.sequence_shards,
        f"{_SWIFT}: get_padding_to",
        forgotten=True,
        evaluable=True,
    ),
    Rule(
        "tp_nvlink",
        "grid",
        checks.tp_nvlink,
        "--placement nvlink",
        kind="placement",
        evaluable=True,
    ),
    Rule(
        "ep_nvlink",
        "grid",
        checks.ep_nvlink,
        "--placement nvlink",
        kind="placement",
        evaluable=True,
    ),
    Rule(
        "mtp_available",
        "grid",
        checks.mtp_available,
        "config.json: num_nextn_predict_layers",
        forgotten=True,
        evaluable=True,
    ),
    Rule(
        "dispatcher", "grid", checks.dispatcher, "the stack's list of dispatchers", evaluable=True
    ),
    Rule("layers", "pipeline", checks.layers, f"{_CORE}/transformer/transformer_block.py:156"),
    Rule(
        "split_sum",
        "pipeline",
        checks.split_sum,
        "NVIDIA/Megatron-LM issue 2718: layers are lost without a word",
        forgotten=True,
    ),
    Rule("vpp_pp", "pipeline", checks.vpp_pp, f"{_CORE}/parallel_state.py:747"),
    Rule("batch", "batch", checks.batch, f"{_SWIFT}/arguments/megatron_args.py:1004"),
    Rule(
        "vpp_microbatches",
        "batch",
        checks.vpp_microbatches,
        f"{_CORE}/pipeline_parallel/schedules.py:996-1015, raised in the first step",
        forgotten=True,
        evaluable=True,
    ),
    Rule("recompute_modules", "recompute", checks.recompute_modules, f"{_CONFIG}:1208"),
    Rule(
        "recompute_layernorm",
        "recompute",
        checks.recompute_layernorm,
        "mcore-bridge 1.6.5, mcore_bridge/model/modules/transformer_layer.py:179 reads"
        " cuda_graph_scope, which megatron-core 0.18 leaves empty",
        since=(0, 18, 0),
        evaluable=True,
    ),
    Rule("recompute_mla", "recompute", checks.recompute_mla, f"{_CONFIG}: mla_up_proj"),
    Rule(
        "recompute_num_layers",
        "recompute",
        checks.recompute_num_layers,
        f"{_CONFIG}:1173; 100 of 48 layers are accepted",
        forgotten=True,
        evaluable=True,
    ),
)

LEVELS = ("grid", "pipeline", "batch", "recompute")

# In the order of the search: a layout is counted under the first rule that it breaks.
RULES: tuple[Rule, ...] = tuple(
    sorted((*_PLANNED, *SETTING_RULES), key=lambda rule: LEVELS.index(rule.level))
)

_NOTHING_SET = tuple(rule for rule in RULES if rule not in SETTING_RULES)


def rules_for(problem: Problem, level: str | None = None) -> tuple[Rule, ...]:
    """The rules that hold for the stack of a problem, of one level or of all.

    Those of settings are left out where nothing is set: none of them can be broken then.
    """
    version = problem.stack.megatron_core_version
    table = _NOTHING_SET if problem.settings == AS_PLANNED else RULES
    return tuple(
        rule for rule in table if rule.since <= version < rule.until and level in (None, rule.level)
    )


def violations(problem: Problem, sizes: Sizes) -> tuple[Violation, ...]:
    """Every rule that a candidate breaks, in the order of the table."""
    found = ((rule, rule.check(problem, sizes)) for rule in rules_for(problem))
    return tuple(Violation(rule, values) for rule, values in found if values is not None)
