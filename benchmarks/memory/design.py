"""Chooses the ranks that are measured, before anything is predicted for them.

    python benchmarks/memory/design.py

writes design.jsonl beside this file. Of many random rows of a family those are kept, one by one,
that show the most pairs of settings not seen together yet. A third of the rows, by lot, and one
family are set aside: nothing may be fitted to them. The choice knows no memory model; `_too_large`
is arithmetic by hand that keeps a rank within one GPU.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from design_models import DENSE_NAMES, FAMILIES, SET_ASIDE_FAMILY, config_of

from measure.verify.row import Row
from planner.dialects import argv
from planner.layout import Layout, Recompute
from planner.model_files import resolve_model
from planner.recipe import load_recipe
from planner.split import even_split
from planner.stack import load_stack
from planner.swift_args import training_args
from planner.workload import TunerType, Workload

SEED = 20261124
CANDIDATES = 4000  # of a family
DIFFERENCES = 4  # settings in which any two rows of a family differ at least
ROWS_PER_LORA_ROW = 6  # of a family; LoRA has few settings of its own
PAGE = Path(__file__).parent / "design.jsonl"
STACK = "gpu-kit-2026-11"
GIB = 2**30
USABLE_BYTES = 62 * GIB

FULL = Recompute(granularity="full", method="uniform", num_layers=1)
BLOCK = Recompute(granularity="full", method="block", num_layers=1)
NOTHING = Recompute()


def _selective(*modules: str) -> Recompute:
    return Recompute(granularity="selective", modules=modules)


_SPARSE = [FULL, BLOCK, NOTHING, _selective("core_attn"), _selective("moe_act"), _selective("moe")]
_SHARED = [_selective("shared_experts"), _selective("core_attn", "shared_experts", "moe_act")]
RECOMPUTES: dict[str, list[Recompute]] = {
    "qwen3_moe": [*_SPARSE, _selective("core_attn", "moe_act")],
    "deepseek_v3": [*_SPARSE, *_SHARED, _selective("mla_up_proj"), _selective("mlp", "moe")],
    "qwen2_moe": [*_SPARSE, *_SHARED],
    "dense": [
        FULL,
        BLOCK,
        NOTHING,
        _selective("core_attn"),
        _selective("mlp"),
        _selective("layernorm"),
        _selective("core_attn", "mlp"),
    ],
    "glm4_moe": [*_SPARSE, *_SHARED, _selective("mlp", "moe_act")],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The settings of a row, which the design covers in pairs."""

    model: str
    tp: int
    pp: int
    vpp: int
    cp: int
    ep: int
    etp: int
    dp: int
    stage: str
    chunk_layers: int
    recompute: Recompute
    micro_batch_size: int
    seq_length: int
    documents: int
    tuner: TunerType
    loss_fusion: bool
    overlap: bool
    mtp: int
    expert_load: float = 1.0

    def values(self) -> dict[str, Any]:
        """Each setting by its name."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def num_microbatches(self) -> int:
        """Enough to fill the pipeline and drain it."""
        return 2 * self.pp if self.vpp > 1 or self.pp < 8 else self.pp + 2

    @property
    def world_size(self) -> int:
        """GPUs of the run."""
        return self.tp * self.cp * self.pp * self.dp


def _draw(family: str, lot: random.Random) -> Setting:
    """Any setting of a family, legal or not."""
    dense = family == "dense"
    pp = lot.choice([1, 2, 2, 4, 4, 8])
    stage = lot.choice(["first", "middle", "last"]) if pp > 1 else "only"
    model = lot.choice(FAMILIES[family][0])
    mtp_models = {"DeepSeek-V3", "GLM-4.5-Air"}
    return Setting(
        model=model,
        tp=lot.choice([1, 1, 2, 4]),
        pp=pp,
        vpp=lot.choice([1, 1, 2]) if pp > 1 else 1,
        cp=lot.choice([1, 1, 1, 2]),
        ep=1 if dense else lot.choice([1, 2, 4, 8, 16]),
        etp=1 if dense else lot.choice([1, 1, 1, 2]),
        dp=lot.choice([1, 2, 4, 8, 16]),
        stage=stage,
        chunk_layers=lot.choice([1, 2, 2, 3, 4, 4, 6, 8]),
        recompute=lot.choice(RECOMPUTES[family]),
        micro_batch_size=lot.choice([1, 1, 2, 4]),
        seq_length=lot.choice([2048, 4096, 8192, 16384, 32768]),
        documents=lot.choice([1, 4, 16]),
        tuner=lot.choice([TunerType.FULL] * 6 + [TunerType.LORA]),
        loss_fusion=lot.random() < 0.7,
        overlap=lot.random() < 0.7,
        mtp=lot.choice([0, 1]) if model in mtp_models and stage in ("last", "only") else 0,
    )


def _is_legal(setting: Setting) -> bool:
    """Whether the stack can build and train it; docs/constraints.md has the reasons."""
    config = config_of(setting.model, 1)
    experts = config.get("num_experts") or config.get("n_routed_experts") or 1
    width = setting.tp * setting.cp * setting.dp
    interleaved = setting.vpp > 1
    return (
        width % (setting.ep * setting.etp) == 0
        and experts % setting.ep == 0
        and setting.world_size <= 128
        and setting.etp <= setting.tp
        and not (setting.tuner is TunerType.LORA and setting.etp > 1)
        and not (setting.stage == "middle" and setting.pp < 3)
        and not (interleaved and setting.chunk_layers > 3)
        and not (interleaved and setting.mtp)
        and config["num_attention_heads"] % setting.tp == 0
        and max(config["num_key_value_heads"], setting.tp)
        % min(config["num_key_value_heads"], setting.tp)
        == 0
        and setting.seq_length // setting.documents >= 512
        and setting.seq_length * setting.micro_batch_size <= 65536
        and not _too_large(setting, config)
    )


def _too_large(setting: Setting, config: dict[str, Any]) -> bool:
    """By hand: 6 bytes a parameter, 12 over its replicas, and 40 bytes of a token and a layer's
    width for what is saved, or 4 where all is recomputed."""
    hidden, layers = config["hidden_size"], setting.chunk_layers * setting.vpp + setting.mtp
    heads = config["num_attention_heads"] * (config.get("head_dim") or hidden // 16)
    attention = 4 * hidden * min(heads, 2 * hidden)
    experts = config.get("num_experts") or config.get("n_routed_experts")
    wide, tokens = config["intermediate_size"], setting.seq_length * setting.micro_batch_size
    shared = config.get("shared_expert_intermediate_size", 0)
    topk_width = 0.0
    expert_parameters = 0.0
    if experts:
        ffn = config["moe_intermediate_size"]
        expert_parameters = layers * 3 * hidden * ffn * experts / setting.ep / setting.etp
        wide = shared or ffn * config.get("n_shared_experts", 0)
        topk_width = config["num_experts_per_tok"] * (2 * hidden + 3 * ffn)
    vocabulary = config["vocab_size"] * hidden * (2 if setting.stage == "only" else 1)
    others = (layers * (attention + 3 * hidden * wide) + vocabulary) / setting.tp
    replicas = max(1, setting.tp * setting.cp * setting.dp // (setting.ep * setting.etp))
    static = others * (6 + 12 / setting.dp / setting.cp) + expert_parameters * (6 + 12 / replicas)
    local = tokens / setting.cp / setting.tp
    in_flight = {"first": setting.pp, "middle": setting.pp / 2, "last": 1, "only": 1}[setting.stage]
    in_flight += (setting.vpp - 1) * setting.pp / 2
    saved = local * layers * (17 * hidden + 3 * wide + topk_width) * 2
    recomputed = local * layers * 2 * hidden * 2
    kept = recomputed if setting.recompute == FULL else saved
    working = local * (topk_width * 6 + 10 * hidden + 6 * wide)
    logits = 0.0
    if setting.stage in ("last", "only"):
        logits = tokens / setting.cp * config["vocab_size"] / setting.tp * 10 * (1 + setting.mtp)
    return static + in_flight * kept + working + logits > USABLE_BYTES


def _pairs(setting: Setting) -> set[tuple[Any, ...]]:
    """All pairs of two settings' values."""
    return set(combinations(sorted((k, str(v)) for k, v in setting.values().items()), 2))


def _difference(one: Setting, other: Setting) -> int:
    """In how many settings two rows differ."""
    mine, yours = one.values(), other.values()
    return sum(mine[name] != yours[name] for name in mine)


def choose(
    family: str,
    number: int,
    lot: random.Random,
    *,
    before: Sequence[Setting] = (),
    wanted: Callable[[Setting], bool] = lambda _: True,
) -> list[Setting]:
    """Rows of a family that are `wanted`: each shows the most pairs that those before do not."""
    drawn = (_draw(family, lot) for _ in range(CANDIDATES))
    candidates = [setting for setting in drawn if _is_legal(setting) and wanted(setting)]
    chosen: list[Setting] = []
    seen: set[tuple[Any, ...]] = set().union(*map(_pairs, before))
    while len(chosen) < number:
        loras = sum(setting.tuner is TunerType.LORA for setting in chosen)
        new = [
            setting
            for setting in candidates
            if all(_difference(setting, other) >= DIFFERENCES for other in (*before, *chosen))
            and (setting.tuner is not TunerType.LORA or loras * ROWS_PER_LORA_ROW < number)
        ]
        best = max(new, key=lambda setting: len(_pairs(setting) - seen))
        chosen.append(best)
        seen |= _pairs(best)
    return chosen


# Rows of their own: the same rank with its experts hotter and hotter.
IMBALANCE = Setting(
    model="Qwen3-30B-A3B", tp=1, pp=4, vpp=1, cp=1, ep=8, etp=1, dp=8, stage="middle",
    chunk_layers=6, recompute=FULL, micro_batch_size=1, seq_length=8192, documents=4,
    tuner=TunerType.FULL, loss_fusion=True, overlap=True, mtp=0,
)  # fmt: skip
HOT_ROWS: list[tuple[str, Setting]] = [
    *[("qwen3_moe", replace(IMBALANCE, expert_load=load)) for load in (1.0, 1.5, 2.0)],
    *[
        ("qwen3_moe", replace(IMBALANCE, recompute=NOTHING, chunk_layers=3, expert_load=load))
        for load in (1.5, 2.0)
    ],
    *[
        ("deepseek_v3", replace(
            IMBALANCE, model="Moonlight-16B-A3B", recompute=_selective("moe_act"),
            chunk_layers=3, seq_length=4096, expert_load=load,
        ))
        for load in (1.0, 2.0)
    ],
    ("glm4_moe", replace(
        IMBALANCE, model="GLM-4.5-Air", chunk_layers=2, seq_length=4096, expert_load=1.5,
    )),
]  # fmt: skip


def settings(lot: random.Random) -> Iterator[tuple[str, Setting]]:
    """Family and setting of every row."""
    for family, (_, _, _, number) in FAMILIES.items():
        for setting in choose(family, number, lot):
            yield family, setting
    yield from HOT_ROWS


def row_of(family: str, setting: Setting, global_batch_size: int | None = None) -> Row:
    """The row of a setting, with the arguments that the planner emits for it."""
    per_microbatch = setting.micro_batch_size * setting.dp
    num_layers = setting.chunk_layers * setting.pp * setting.vpp
    split = even_split(num_layers, setting.pp, setting.vpp)
    assert split is not None
    layout = Layout(
        world_size=setting.world_size,
        tp=setting.tp,
        pp=setting.pp,
        vpp=setting.vpp,
        ep=setting.ep,
        etp=setting.etp,
        cp=setting.cp,
        micro_batch_size=setting.micro_batch_size,
        global_batch_size=global_batch_size or per_microbatch * setting.num_microbatches,
        recompute=setting.recompute,
        split=split,
    )
    workload = Workload(
        seq_length=setting.seq_length,
        global_batch_size=layout.global_batch_size,
        tuner_type=setting.tuner,
        mtp_num_layers=setting.mtp,
    )
    recipe = replace(
        load_recipe(setting.tuner),
        overlap_grad_reduce=setting.overlap,
        overlap_param_gather=setting.overlap,
        cross_entropy_loss_fusion=setting.loss_fusion,
    )
    config = config_of(setting.model, num_layers)
    # of a model the arguments ask only whether it has experts, and shared ones
    shared = "shared_expert_intermediate_size" in config or "n_shared_experts" in config
    sparse = "DeepSeek-V3" if shared else "Qwen3-30B-A3B"
    like = resolve_model("Qwen2.5-7B" if family == "dense" else sparse)
    names = DENSE_NAMES.get(setting.model, FAMILIES[family][1:3])
    stage = {"first": 0, "only": 0, "last": setting.pp - 1}.get(setting.stage, setting.pp // 2)
    return Row(
        id=family,
        family=family,
        set_aside=False,
        world_size=setting.world_size,
        rank=stage * (setting.world_size // setting.pp),
        stage=setting.stage,
        config=config,
        model_type=names[0],
        template=names[1],
        argv=argv(training_args(like, layout, workload, load_stack(STACK), recipe)),
        documents_per_pack=setting.documents,
        expert_load=setting.expert_load,
    )


def rows() -> list[Row]:
    """The design in the order in which it is measured: by lot, so that a part of it is one too."""
    lot = random.Random(SEED)
    chosen = list(settings(lot))
    aside: set[int] = set()
    for family in FAMILIES:
        members = [place for place, (name, _) in enumerate(chosen) if name == family]
        third = members if family == SET_ASIDE_FAMILY else lot.sample(members, len(members) // 3)
        aside |= set(third)
    order = list(range(len(chosen)))
    lot.shuffle(order)
    return [
        replace(
            row_of(*chosen[place]), id=f"{chosen[place][0]}-{place:02}", set_aside=place in aside
        )
        for place in order
    ]


def main() -> None:
    """Write design.jsonl."""
    PAGE.write_text("".join(row.to_json() + "\n" for row in rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
