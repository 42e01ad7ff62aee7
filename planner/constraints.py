"""What makes a layout illegal: one table of rules, each with the releases that it holds for.

Some rules are ones that Megatron forgets: it accepts such a layout and then loses layers, fails in
the first forward pass, or does nothing with the setting (`forgotten=True`). tests/stack holds every
rule against the real packages, in both directions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from planner.cluster import NVLINK, Cluster
from planner.grids import Grids
from planner.layout import NO_RECOMPUTE, PipelineSplit, Recompute
from planner.model_spec import GroupedQueryAttention, ModelSpec
from planner.placement import place_group
from planner.stack import Stack
from planner.workload import Placement, Workload

Values = dict[str, Any]
Version = tuple[int, int, int]
NEVER: Version = (99, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What does not change during a search."""

    model: ModelSpec
    cluster: Cluster
    workload: Workload
    stack: Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A candidate before it is a layout: sizes that may contradict each other."""

    world_size: int
    tp: int = 1
    cp: int = 1
    pp: int = 1
    ep: int = 1
    etp: int = 1
    vpp: int = 1
    micro_batch_size: int = 1
    recompute: Recompute = NO_RECOMPUTE
    split: PipelineSplit | None = None
    dispatcher: str = "alltoall"

    @property
    def dp(self) -> int:
        """Data-parallel size of the attention grid, rounded down; at least 1."""
        return max(1, self.world_size // (self.tp * self.cp * self.pp))


Check = Callable[[Problem, Sizes], Values | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """`check` returns the values of the message `rule.<id>` when the rule is broken, else None.

    `level` is the deepest size that it reads, so that a search can refuse a whole subtree at once.
    Holds for megatron-core releases from `since` up to, not including, `until`. A layout that
    breaks an `evaluable` rule still has a memory and a time.
    """

    id: str
    level: str  # grid | pipeline | batch | recompute
    check: Check
    source: str
    kind: str = "illegal"  # illegal | placement
    since: Version = (0, 0, 0)
    until: Version = NEVER
    forgotten: bool = False
    evaluable: bool = False


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule with the values that show it."""

    rule: Rule
    values: Values = field(hash=False)

    @property
    def message_id(self) -> str:
        """Id of its sentence in `planner.messages`."""
        return f"rule.{self.rule.id}"


def _divides(total: int, divisor: int, **values: Any) -> Values | None:
    return None if total % divisor == 0 else {"total": total, "divisor": divisor, **values}


def _world_dense(problem: Problem, sizes: Sizes) -> Values | None:
    divisor = sizes.tp * sizes.cp * sizes.pp
    return _divides(sizes.world_size, divisor, tp=sizes.tp, cp=sizes.cp, pp=sizes.pp)


def _world_expert(problem: Problem, sizes: Sizes) -> Values | None:
    divisor = sizes.etp * sizes.ep * sizes.pp
    return _divides(sizes.world_size, divisor, etp=sizes.etp, ep=sizes.ep, pp=sizes.pp)


def _heads_tp(problem: Problem, sizes: Sizes) -> Values | None:
    return _divides(problem.model.attention.num_heads, sizes.tp)


def _query_groups(problem: Problem) -> int:
    attention = problem.model.attention
    if isinstance(attention, GroupedQueryAttention):
        return attention.num_query_groups
    return attention.num_heads


def _query_groups_tp(problem: Problem, sizes: Sizes) -> Values | None:
    groups = _query_groups(problem)
    if groups % sizes.tp == 0 or sizes.tp % groups == 0:
        return None
    return {"groups": groups, "tp": sizes.tp}


def _query_groups_tp_strict(problem: Problem, sizes: Sizes) -> Values | None:
    groups = _query_groups(problem)
    return None if groups % sizes.tp == 0 else {"groups": groups, "tp": sizes.tp}


def _vocabulary_tp(problem: Problem, sizes: Sizes) -> Values | None:
    return _divides(problem.model.vocab_size, sizes.tp)


def _ffn_tp(problem: Problem, sizes: Sizes) -> Values | None:
    model = problem.model
    shared = model.moe.shared_expert_intermediate_size if model.moe else 0
    for size in (model.dense_ffn_hidden_size, shared):
        if size % sizes.tp:
            return {"total": size, "divisor": sizes.tp}
    return None


def _dense_model(problem: Problem, sizes: Sizes) -> Values | None:
    if problem.model.is_moe or (sizes.ep == 1 and sizes.etp == 1):
        return None
    return {"model": problem.model.name, "ep": sizes.ep, "etp": sizes.etp}


def _experts_ep(problem: Problem, sizes: Sizes) -> Values | None:
    moe = problem.model.moe
    return _divides(moe.num_experts, sizes.ep) if moe else None


def _expert_ffn_etp(problem: Problem, sizes: Sizes) -> Values | None:
    moe = problem.model.moe
    return _divides(moe.ffn_hidden_size, sizes.etp) if moe else None


def _sequence_shards(problem: Problem, sizes: Sizes) -> Values | None:
    divisor = sizes.tp * (2 * sizes.cp if sizes.cp > 1 else 1)
    length = problem.workload.seq_length
    return _divides(length, divisor, nearest=max(1, round(length / divisor)) * divisor)


def _layers(problem: Problem, sizes: Sizes) -> Values | None:
    chunks = sizes.pp * sizes.vpp
    layers = problem.model.num_layers
    return None if layers >= chunks else {"layers": layers, "pp": sizes.pp, "vpp": sizes.vpp}


def _split_sum(problem: Problem, sizes: Sizes) -> Values | None:
    if sizes.split is None:
        return None
    held = sorted(
        layer
        for stage in range(sizes.split.num_stages)
        for chunk in sizes.split.layer_ids(stage)
        for layer in chunk
    )
    layers = problem.model.num_layers
    return None if held == list(range(layers)) else {"held": len(held), "layers": layers}


def _vpp_pp(problem: Problem, sizes: Sizes) -> Values | None:
    return {"vpp": sizes.vpp} if sizes.vpp > 1 and sizes.pp == 1 else None


def _batch(problem: Problem, sizes: Sizes) -> Values | None:
    dp, micro = sizes.dp, sizes.micro_batch_size
    total = problem.workload.global_batch_size
    step = micro * dp
    nearest = max(1, round(total / step)) * step
    return _divides(total, step, micro=micro, dp=dp, nearest=nearest)


def _vpp_microbatches(problem: Problem, sizes: Sizes) -> Values | None:
    if sizes.vpp == 1:
        return None
    microbatches = problem.workload.global_batch_size // (sizes.micro_batch_size * sizes.dp)
    remainder = microbatches % sizes.pp
    if microbatches >= sizes.pp and remainder == 0:
        return None
    return {"microbatches": microbatches, "pp": sizes.pp}


def _recompute_modules(problem: Problem, sizes: Sizes) -> Values | None:
    known = {"core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts"}
    unknown = sorted(set(sizes.recompute.modules) - known)
    return {"modules": unknown, "known": sorted(known)} if unknown else None


def _recompute_mla(problem: Problem, sizes: Sizes) -> Values | None:
    if "mla_up_proj" not in sizes.recompute.modules:
        return None
    if not isinstance(problem.model.attention, GroupedQueryAttention):
        return None
    return {"model": problem.model.name}


def _recompute_num_layers(problem: Problem, sizes: Sizes) -> Values | None:
    recompute = sizes.recompute
    if recompute.granularity != "full" or sizes.split is None:
        return None
    most = max(
        end - first
        for stage in range(sizes.split.num_stages)
        for first, end in sizes.split.chunks[stage]
    )
    number = recompute.num_layers or 0
    return None if 1 <= number <= most else {"number": number, "most": most}


def _dispatcher(problem: Problem, sizes: Sizes) -> Values | None:
    if not problem.model.is_moe or sizes.dispatcher in problem.stack.dispatchers:
        return None
    return {"dispatcher": sizes.dispatcher, "stack": problem.stack.name}


def _mtp_available(problem: Problem, sizes: Sizes) -> Values | None:
    mtp = problem.workload.mtp_num_layers
    available = problem.model.mtp_num_layers
    return {"mtp": mtp, "available": available} if mtp > available else None


def _inside_nvlink(problem: Problem, sizes: Sizes, group: str, size: int) -> Values | None:
    if size == 1 or problem.workload.placement is Placement.ANY:
        return None
    if _world_dense(problem, sizes) or _world_expert(problem, sizes):
        return None  # there are no groups to place
    grids = Grids(
        world_size=sizes.world_size,
        tp=sizes.tp,
        cp=sizes.cp,
        pp=sizes.pp,
        ep=sizes.ep,
        etp=sizes.etp,
    )
    if place_group(problem.cluster, grids, group).link_class == NVLINK:
        return None
    return {"group": group, "size": size, "domain": problem.cluster.nvlink_domain_size}


def _tp_nvlink(problem: Problem, sizes: Sizes) -> Values | None:
    return _inside_nvlink(problem, sizes, "tp", sizes.tp)


def _ep_nvlink(problem: Problem, sizes: Sizes) -> Values | None:
    return _inside_nvlink(problem, sizes, "etp_ep", sizes.etp * sizes.ep)


_CORE = "megatron-core 0.16.1, megatron/core"

_CONFIG = f"{_CORE}/transformer/transformer_config.py"
_TE = f"{_CORE}/extensions/transformer_engine.py"
_SWIFT = "ms-swift 4.6.0, swift/megatron"

RULES: tuple[Rule, ...] = (
    Rule("world_dense", "grid", _world_dense, f"{_CORE}/parallel_state.py:741"),
    Rule("world_expert", "grid", _world_expert, f"{_CORE}/parallel_state.py:793"),
    Rule("heads_tp", "grid", _heads_tp, f"{_CONFIG}:925"),
    Rule(
        "query_groups_tp",
        "grid",
        _query_groups_tp,
        f"{_CONFIG}:940",
        since=(0, 16, 0),
        evaluable=True,
    ),
    Rule(
        "query_groups_tp_strict",
        "grid",
        _query_groups_tp_strict,
        "megatron-core 0.15.3, megatron/core/transformer/transformer_config.py: num_query_groups",
        until=(0, 16, 0),
        evaluable=True,
    ),
    Rule("vocabulary_tp", "grid", _vocabulary_tp, f"{_CORE}/tensor_parallel/utils.py: divide"),
    Rule("ffn_tp", "grid", _ffn_tp, f"{_TE}: divide"),
    Rule("dense_model", "grid", _dense_model, f"{_CONFIG}: expert_model_parallel_size"),
    Rule("experts_ep", "grid", _experts_ep, f"{_CORE}/transformer/moe/moe_layer.py:101"),
    Rule("expert_ffn_etp", "grid", _expert_ffn_etp, f"{_TE}: divide"),
    Rule(
        "sequence_shards",
        "grid",
        _sequence_shards,
        f"{_SWIFT}: get_padding_to",
        forgotten=True,
        evaluable=True,
    ),
    Rule("tp_nvlink", "grid", _tp_nvlink, "--placement nvlink", kind="placement", evaluable=True),
    Rule("ep_nvlink", "grid", _ep_nvlink, "--placement nvlink", kind="placement", evaluable=True),
    Rule(
        "mtp_available",
        "grid",
        _mtp_available,
        "config.json: num_nextn_predict_layers",
        forgotten=True,
        evaluable=True,
    ),
    Rule("dispatcher", "grid", _dispatcher, "the stack's list of dispatchers", evaluable=True),
    Rule("layers", "pipeline", _layers, f"{_CORE}/transformer/transformer_block.py:156"),
    Rule(
        "split_sum",
        "pipeline",
        _split_sum,
        "NVIDIA/Megatron-LM issue 2718: layers are lost without a word",
        forgotten=True,
    ),
    Rule("vpp_pp", "pipeline", _vpp_pp, f"{_CORE}/parallel_state.py:747"),
    Rule("batch", "batch", _batch, f"{_SWIFT}/arguments/megatron_args.py:1004"),
    Rule(
        "vpp_microbatches",
        "batch",
        _vpp_microbatches,
        f"{_CORE}/pipeline_parallel/schedules.py:996-1015, raised in the first step",
        forgotten=True,
        evaluable=True,
    ),
    Rule("recompute_modules", "recompute", _recompute_modules, f"{_CONFIG}:1208"),
    Rule("recompute_mla", "recompute", _recompute_mla, f"{_CONFIG}: mla_up_proj"),
    Rule(
        "recompute_num_layers",
        "recompute",
        _recompute_num_layers,
        f"{_CONFIG}:1173; 100 of 48 layers are accepted",
        forgotten=True,
        evaluable=True,
    ),
)

LEVELS = ("grid", "pipeline", "batch", "recompute")


def rules_for(problem: Problem, level: str | None = None) -> tuple[Rule, ...]:
    """The rules that hold for the stack of a problem, of one level or of all."""
    version = problem.stack.megatron_core_version
    return tuple(
        rule for rule in RULES if rule.since <= version < rule.until and level in (None, rule.level)
    )


def violations(problem: Problem, sizes: Sizes) -> tuple[Violation, ...]:
    """Every rule that a candidate breaks, in the order of the table."""
    found = ((rule, rule.check(problem, sizes)) for rule in rules_for(problem))
    return tuple(Violation(rule, values) for rule, values in found if values is not None)
