"""Asks other estimators what they predict of a rank: one function a tool, over its own checkout.

Each takes a job and the folder of a checkout, and gives bytes. What a tool has no words for is in
`peers.py`. Nothing of the tools is kept here.
"""

import contextlib
import importlib
import importlib.util
import io
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from planner.layout import Recompute
from planner.model_spec import GroupedQueryAttention, ModelSpec, MultiLatentAttention
from planner.units import GIB, MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A rank of a run, as far as any of the tools asks for it."""

    id: str
    model: ModelSpec
    world_size: int
    rank: int
    tp: int
    pp: int
    vpp: int
    cp: int
    ep: int
    etp: int
    seq_length: int
    micro_batch_size: int
    global_batch_size: int
    recompute: Recompute
    lora: bool
    mtp_num_layers: int
    fused_loss: bool
    expert_load: float

    @property
    def dp(self) -> int:
        """Data-parallel ranks."""
        return self.world_size // (self.tp * self.pp * self.cp)

    @property
    def stage(self) -> int:
        """Of the pipeline."""
        return self.rank // (self.world_size // self.pp)

    @property
    def num_microbatches(self) -> int:
        """Of a step."""
        return self.global_batch_size // (self.micro_batch_size * self.dp)

    @property
    def padded_vocabulary(self) -> int:
        """As mcore-bridge pads it."""
        return -(-self.model.vocab_size // self.tp) * self.tp


def _module(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(names)
    sys.modules[name] = module
    return module


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _sizes(job: Job) -> dict[str, Any]:
    """What Megatron's tools ask for, under the names of its arguments."""
    model, attention, moe = job.model, job.model.attention, job.model.moe
    grouped = attention if isinstance(attention, GroupedQueryAttention) else None
    latent = attention if isinstance(attention, MultiLatentAttention) else None
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_attention_heads": attention.num_heads,
        "num_query_groups": grouped.num_query_groups if grouped else attention.num_heads,
        "group_query_attention": grouped is not None,
        "kv_channels": grouped.head_dim if grouped else latent.v_head_dim if latent else None,
        "multi_latent_attention": latent is not None,
        "q_lora_rank": latent.q_lora_rank if latent else None,
        "kv_lora_rank": latent.kv_lora_rank if latent else None,
        "qk_head_dim": latent.qk_nope_head_dim if latent else None,
        "qk_pos_emb_head_dim": latent.qk_rope_head_dim if latent else None,
        "v_head_dim": latent.v_head_dim if latent else None,
        "ffn_hidden_size": model.dense_ffn_hidden_size or (moe.ffn_hidden_size if moe else 0),
        "moe_ffn_hidden_size": moe.ffn_hidden_size if moe else None,
        "moe_shared_expert_intermediate_size": (
            moe.shared_expert_intermediate_size or None if moe else None
        ),
        "moe_router_topk": moe.router_topk if moe else None,
        "moe_layer_freq": [int(is_moe) for is_moe in model.moe_layers],
        "tensor_model_parallel_size": job.tp,
        "pipeline_model_parallel_size": job.pp,
        "virtual_pipeline_model_parallel_size": job.vpp if job.vpp > 1 else None,
        "context_parallel_size": job.cp,
        "expert_model_parallel_size": job.ep,
        "expert_tensor_parallel_size": job.etp,
        "mtp_num_layers": job.mtp_num_layers or None,
    }


def megatron_lm(job: Job, checkout: Path) -> float:
    """`report_theoretical_memory` of megatron/training/theoretical_memory_usage.py."""
    name = "peer_megatron_lm"
    if name not in sys.modules:
        _module(name).__path__ = []
        _module(f"{name}.utils", is_hybrid_model=lambda _: False, print_rank_0=lambda _: None)
        _load(f"{name}.usage", checkout / "megatron/training/theoretical_memory_usage.py")
    moe = job.model.moe
    args = Namespace(
        **_sizes(job),
        num_experts=moe.num_experts if moe else None,
        moe_shared_expert_gate=moe.shared_expert_gate if moe else False,
        moe_latent_size=None,
        swiglu=True,
        normalization="RMSNorm",
        add_bias_linear=False,
        padded_vocab_size=job.padded_vocabulary,
        untie_embeddings_and_output_weights=not job.model.tie_word_embeddings,
        world_size=job.world_size,
        data_parallel_size=job.dp,
        use_distributed_optimizer=True,
        seq_length=job.seq_length,
        micro_batch_size=job.micro_batch_size,
        sequence_parallel=True,
        recompute_granularity=(
            None if job.recompute.granularity == "none" else job.recompute.granularity
        ),
    )
    usage = sys.modules[f"{name}.usage"]
    total = usage.report_theoretical_memory(args, num_microbatches=job.num_microbatches)[2]
    return float(total) * MIB


def megatron_bridge(job: Job, checkout: Path) -> float:
    """`estimate_training_memory` of megatron/bridge/training/utils/theoretical_memory_utils.py."""
    name = "peer_megatron_bridge"
    if name not in sys.modules:
        for package in ("", ".bridge", ".bridge.training", ".bridge.utils"):
            _module(f"megatron{package}").__path__ = []
        _module("megatron.bridge.training.config", ConfigContainer=object)
        _module("megatron.bridge.utils.vocab_utils", calculate_padded_vocab_size=None)
        file = "src/megatron/bridge/training/utils/theoretical_memory_utils.py"
        _load(name, checkout / file)
    moe = job.model.moe
    config = SimpleNamespace(
        model=SimpleNamespace(
            **_sizes(job),
            num_moe_experts=moe.num_experts if moe else None,
            gated_linear_unit=True,
            vocab_size=job.padded_vocabulary,
            should_pad_vocab=False,
            share_embeddings_and_output_weights=job.model.tie_word_embeddings,
            seq_length=job.seq_length,
            activation_func=importlib.import_module("torch.nn.functional").silu,
            recompute_granularity=job.recompute.granularity,
        ),
        train=SimpleNamespace(micro_batch_size=job.micro_batch_size),
        optimizer=SimpleNamespace(use_distributed_optimizer=True),
        data_parallel_size=job.dp,
        world_size=job.world_size,
    )
    estimate = sys.modules[name].estimate_training_memory(config, job.num_microbatches)
    components = [*estimate.model_state_components, estimate.activation]
    return float(sum(component.memory_bytes for component in components))


SIMUMAX_MODULES = ("layernorm", "mla_up_proj", "moe_act", "mlp", "moe")


def simumax(job: Job, checkout: Path) -> float:
    """`PerfLLM.analysis_mem`, with the system file that comes with it: memory does not read it."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    config = importlib.import_module("simumax.core.config")
    performance = importlib.import_module("simumax.core.perf_llm").PerfLLM()
    performance.configure(
        strategy_config=config.StrategyConfig(**_simumax_strategy(job)),
        model_config=config.ModelConfig(**_simumax_model(job)),
        system_config=config.SystemConfig.init_from_config_file(
            str(checkout / "configs/system/b200_bf16_ceperm.json")
        ),
    )
    performance.run_estimate()
    memory = performance.analysis_mem().data
    if "peak_mem" not in memory:
        stages = list(memory)
        if len(stages) == job.pp:
            memory = memory[stages[job.stage]]
        else:
            middle = 0 < job.stage < job.pp - 1
            memory = memory["middle_stage" if middle else stages[0 if job.stage == 0 else -1]]
    return _bytes_of(memory["peak_mem"])


def _bytes_of(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"KB": 1024, "MB": MIB, "GB": GIB, "TB": 1024 * GIB}[unit]


def _simumax_model(job: Job) -> dict[str, Any]:
    model, attention, moe = job.model, job.model.attention, job.model.moe
    sizes: dict[str, Any] = {
        "hidden_size": model.hidden_size,
        "head_num": attention.num_heads,
        "layer_num": model.num_layers,
        "vocab_size": job.padded_vocabulary,
        "use_swiglu": True,
        "intermediate_size": model.dense_ffn_hidden_size or None,
        "model_type": "moe" if moe else "dense",
        "dense_layers": model.moe_layers.count(False) if moe else 0,
    }
    if moe:
        sizes |= {
            "expert_num": moe.num_experts,
            "topk": moe.router_topk,
            "moe_ffn_hidden_size": moe.ffn_hidden_size,
            "moe_shared_expert_intermediate_size": moe.shared_expert_intermediate_size or None,
            "intermediate_size": model.dense_ffn_hidden_size or moe.ffn_hidden_size,
        }
    if isinstance(attention, GroupedQueryAttention):
        return sizes | {
            "kv_head_num": attention.num_query_groups,
            "head_size": attention.head_dim,
        }
    return sizes | {
        "attention_type": "mla",
        "kv_head_num": attention.num_heads,
        "head_size": attention.v_head_dim,
        "v_head_dim": attention.v_head_dim,
        "qk_head_dim": attention.qk_nope_head_dim,
        "qk_pos_emb_head_dim": attention.qk_rope_head_dim,
        "q_lora_rank": attention.q_lora_rank,
        "kv_lora_rank": attention.kv_lora_rank,
    }


def _simumax_strategy(job: Job) -> dict[str, Any]:
    interleaved = job.vpp > 1 and job.pp > 2  # its synchronous schedule wants three stages
    strategy: dict[str, Any] = {
        "seq_len": job.seq_length,
        "micro_batch_size": job.micro_batch_size,
        "micro_batch_num": job.num_microbatches,
        "world_size": job.world_size,
        "tp_size": job.tp,
        "cp_size": job.cp,
        "pp_size": job.pp,
        "ep_size": job.ep,
        "etp_size": job.etp,
        "interleaving_size": job.vpp if interleaved else 1,
        "pp_comm_async": not interleaved,
        "cross_entropy_loss_fusion": job.fused_loss,
        "dispatch_probs": True,
        "use_fused_grad_accumulation": False,
        "te_version": "2.12.0",
        "enable_recompute": False,
    }
    layers = job.model.num_layers
    if job.recompute.granularity == "full":
        full = {"enable_recompute": True, "recompute_granularity": "full_block"}
        return strategy | full | {"recompute_layer_num": layers}
    modules = [name for name in job.recompute.modules if name in SIMUMAX_MODULES]
    if modules:
        strategy |= {
            "enable_recompute": True,
            "recompute_granularity": "selective_recompute",
            "recompute_layer_num": layers,
            "megatron_recompute": True,
            "megatron_recompute_modules": modules,
        }
    return strategy


def mbridge(job: Job, checkout: Path) -> float:
    """`estimate_from_config` of memory_estimator/estimate_013.py.

    Megatron-LM core_v0.13.0 and something that can be imported as transformer_engine must be on
    PYTHONPATH (tests/stack/te_stub will do).
    """
    folder = str(checkout / "memory_estimator")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    estimator = importlib.import_module("estimate_013")
    args = Namespace(
        micro_batch_size=job.micro_batch_size,
        seq_length=job.seq_length,
        use_distributed_optimizer=True,
        data_parallel_size=job.dp,
        expert_tensor_parallel_size=job.etp,
        num_experts=job.model.moe.num_experts if job.model.moe else None,
        padded_vocab_size=job.padded_vocabulary,
        max_position_embeddings=job.model.max_position_embeddings,
        world_size=job.world_size,
        virtual_pipeline_model_parallel_size=job.vpp if job.vpp > 1 else None,
    )
    reports, _ = estimator.estimate_from_config(_mbridge_config(job), args)
    return float(reports[job.stage]["total_gb"]) * GIB


def _mbridge_config(job: Job) -> Any:
    config = importlib.import_module("megatron.core.transformer.transformer_config")
    sizes = _sizes(job)
    latent = sizes.pop("multi_latent_attention")
    only_latent = ("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim")
    for name in (*only_latent, "v_head_dim"):
        if not latent:
            sizes.pop(name)
    sizes.pop("group_query_attention")
    moe = job.model.moe
    if moe is None:
        for name in [name for name in sizes if name.startswith("moe_")]:
            sizes.pop(name)
    full = job.recompute.granularity == "full"
    kind = config.MLATransformerConfig if latent else config.TransformerConfig
    attention = job.model.attention
    return kind(
        **{name: value for name, value in sizes.items() if name != "mtp_num_layers"},
        num_moe_experts=moe.num_experts if moe else None,
        moe_grouped_gemm=moe is not None,
        gated_linear_unit=True,
        add_bias_linear=False,
        bias_activation_fusion=False,
        qk_layernorm=latent or getattr(attention, "qk_layernorm", "none") != "none",
        normalization="RMSNorm",
        sequence_parallel=job.tp > 1,
        recompute_granularity=(
            None if job.recompute.granularity == "none" else job.recompute.granularity
        ),
        recompute_method="uniform" if full else None,
        recompute_num_layers=1 if full else None,
        recompute_modules=[name for name in job.recompute.modules if name != "shared_experts"],
        bf16=True,
        pipeline_dtype=importlib.import_module("torch").bfloat16,
    )


Adapter = Callable[[Job, Path], float]
ADAPTERS: dict[str, Adapter] = {
    "Megatron-LM": megatron_lm,
    "Megatron-Bridge": megatron_bridge,
    "mbridge": mbridge,
    "SimuMax": simumax,
}


def ask(name: str, job: Job, checkout: Path) -> int:
    """Bytes that a tool says, without what it prints. Raises whatever it raises."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        return round(ADAPTERS[name](job, checkout))
