"""Seconds that one rank computes: products, attention, what runs between them, and launch times.

FLOPs of a product are 2 m n k; of causal attention half of the full square (Megatron-LM since
commit 8873b55d6a); a backward pass has 2.5 times the attention of a forward pass. Rates, passes
and launch times are data, measured: `data/kernels/`.
"""

from collections import Counter
from collections.abc import Mapping

from planner.efficiency import BothWays, Launch, Rates, between, host
from planner.layer_seconds import LayerSeconds, PartSeconds
from planner.layer_shape import BF16, FP32, LayerShape
from planner.model_spec import GroupedQueryAttention, LayerKind, ModelSpec
from planner.parts import LinearKind, Part, Sharding, layer_parts
from planner.units import MICRO, MILLI
from planner.workload import Workload

# Q K^T again, dV, dP, dQ, dK over QK^T and PV: 5 products for 2 (Dao et al., FlashAttention-2,
# arXiv 2307.08691, section 3.1).
BACKWARD_OVER_FORWARD_ATTENTION = 2.5
# Linear attention works on chunks with a state; nobody measured it.
ASSUMED_LINEAR_ATTENTION_KEYS = 128


def core_attention_flops(
    model: ModelSpec, tokens: float, document_tokens: int, window: int | None = None
) -> float:
    """Forward FLOPs of causal attention of `tokens` tokens in documents of `document_tokens`.

    With a window a query sees no more than so many keys.
    """
    attention = model.attention
    if isinstance(attention, GroupedQueryAttention):
        width = 2 * attention.query_size
    else:
        width = attention.num_heads * (attention.qk_head_dim + attention.v_head_dim)
    return 2 * tokens * width * seen_keys(document_tokens, window)


def seen_keys(document_tokens: int, window: int | None) -> float:
    """Keys that a token of causal attention sees, on average."""
    if window is not None and window < document_tokens:
        return window - window * window / (2 * document_tokens)
    return document_tokens / 2


def layer_flops(model: ModelSpec, kind: LayerKind, tokens: float, document_tokens: int) -> float:
    """Forward FLOPs of a whole layer: top-k experts, the router, causal attention."""
    flops = core_attention_flops(model, tokens, document_tokens, kind.window)
    for part in layer_parts(model, kind):
        if part.linear is None:
            flops += 2 * tokens * part.elements if part.id == "router" else 0
            continue
        in_features, out_features, _ = part.linear
        topk = model.moe.router_topk if model.moe and part.sharding is Sharding.EXPERT else 1
        flops += 2 * tokens * in_features * out_features * topk
    return flops


def head_flops(model: ModelSpec, tokens: float) -> float:
    """Forward FLOPs of the output layer."""
    return 2 * tokens * model.hidden_size * model.vocab_size


def model_flops(model: ModelSpec, workload: Workload) -> float:
    """FLOPs of the forward and backward pass of a step's samples, recomputation apart.

    Megatron-LM's convention since commit 8873b55d6a: causal attention halved, top-k experts, output
    layer included.
    """
    tokens, document = workload.seq_length, workload.document_tokens
    sample = head_flops(model, tokens) * (1 + workload.mtp_num_layers)
    kinds = Counter(model.layer_kinds)
    kinds[model.mtp_kind] += workload.mtp_num_layers
    sample += sum(
        number * layer_flops(model, kind, tokens, document) for kind, number in kinds.items()
    )
    return 3 * sample * workload.global_batch_size


class Compute:
    """Compute times of layers and ends, for one model on one GPU.

    A product takes a launch, its FLOPs and the bytes of its operands, one after the other; so it
    was fitted. Between products elements are read and written: `data/kernels/passes.yaml`.
    """

    def __init__(
        self, model: ModelSpec, rates: Rates, *, fused_gradients: bool, lora: bool = False
    ) -> None:
        self._model, self._rates, self._between, self._host = model, rates, between(), host()
        # Without fused accumulation a weight gradient is written, read and added to the fp32 one.
        gradient = 2 * FP32 if fused_gradients else 2 * BF16 + 2 * FP32
        self._gradient_seconds = gradient * self._between.gemm.gradients / rates.memory
        self._pass_seconds = BF16 / rates.memory
        self._lora = lora

    def layer(
        self, shape: LayerShape, kind: LayerKind, tp: int, ep: int, document_tokens: int
    ) -> LayerSeconds:
        """Seconds of one layer and microbatch of a rank. The shape may be one of another EP: only
        what TP, CP and ETP decide is read from it."""
        local_experts = shape.experts // ep
        parts = [part for part in layer_parts(self._model, kind) if part.linear is not None]
        routed = [part for part in parts if part.sharding is Sharding.EXPERT]
        others = [part for part in parts if part.id.startswith(("mlp.", "shared_"))]
        attention = [part for part in parts if part not in routed and part not in others]
        core = self._core(shape, kind, document_tokens)
        beside = self._dense(shape, others, tp)
        feed_forward = beside + self._sparse(shape, local_experts) if shape.is_moe else beside
        ups = self._products(shape, [part for part in attention if "_up_" in part.id], tp)
        again = self._again(shape, core, ups, beside)
        if self._lora:
            feed_forward += self._adapters(shape, [*routed, *others], tp, local_experts)
        return LayerSeconds(
            is_moe=shape.is_moe,
            attention=self._attention(shape, attention, tp) + core,
            feed_forward=feed_forward,
            again=again,
        )

    def _again(
        self, shape: LayerShape, core: PartSeconds, ups: PartSeconds, beside: PartSeconds
    ) -> dict[str, PartSeconds]:
        """What recomputing each module of a layer adds, and the whole layer but for its forward
        pass; of experts, for which the host waits, too.

        What is norms of their own, and which module is kept how: megatron-core 0.18.1,
        transformer_layer.py:434-503, multi_latent_attention.py:963, moe/experts.py:769.
        """
        host, launch = self._host.again, MILLI * self._rates.launch
        norms = (shape.latent is not None) + shape.is_moe

        def module(device: float, again: float, kept: Launch, number: int = 1) -> PartSeconds:
            return PartSeconds(
                forward=0.0,
                backward=number * device,
                forward_launch=number * launch * kept.forward,
                backward_launch=number * launch * (again + kept.backward),
            )

        context = self._host.context.forward if shape.context_parallel_size > 1 else 0.0
        found = {
            "layer": module(0.0, 0.0, host.whole),
            "core_attn": module(core.forward, host.core + context, host.whole),
        }
        if norms:
            moved = 2 * shape.sharded_tokens * shape.hidden * self._pass_seconds
            found["layernorm"] = module(moved, host.norm, host.lean, norms)
        if shape.latent is not None:
            turned = self._between.attention.forward.latent * shape.tokens * shape.query
            up = ups.forward + turned * self._pass_seconds
            found["mla_up_proj"] = module(up, host.up_projections, host.lean)
        if not shape.is_moe:
            found["mlp"] = module(beside.forward, self._host.dense.forward, host.whole)
            return found
        activation = shape.routed_rows * 3 * shape.expert_ffn * self._pass_seconds
        found["moe"] = module(0.0, 0.0, host.whole)
        found["moe_act"] = module(activation, host.activation, host.lean)
        if shape.shared_ffn:
            found["shared_experts"] = module(beside.forward, self._host.shared.forward, host.whole)
        return found

    def _products(self, shape: LayerShape, parts: list[Part], tp: int) -> PartSeconds:
        """Products of linear layers, with the gradients of their weights."""
        rates, gemm = self._rates, self._between.gemm
        forward = backward = 0.0
        for part in parts:
            assert part.linear is not None
            in_features, out_features, kind = part.linear
            whole = kind is LinearKind.DUPLICATED
            rows = shape.sharded_tokens if whole else shape.tokens
            weights = in_features * out_features / (1 if whole else tp)
            narrow = in_features if kind is LinearKind.COLUMN else out_features
            operands = weights + rows * (narrow + weights / narrow)
            always = gemm.microseconds * MICRO
            always += operands * self._pass_seconds / gemm.operands
            flops = 2 * rows * weights
            forward += always + flops / rates.gemm
            backward += always + flops / rates.gemm
            if not self._lora:
                backward += always + flops / rates.gemm_weight + weights * self._gradient_seconds
        return PartSeconds(forward=forward, backward=backward)

    def _attention(self, shape: LayerShape, parts: list[Part], tp: int) -> PartSeconds:
        """All of attention but its core."""
        host = self._host
        launches = [(1, host.attention)]
        launches += [
            (1, more)
            for more, needed in (
                (host.latent, shape.latent),
                (host.norms, shape.normed),
                (host.context, shape.context_parallel_size > 1),
                (host.sharded_attention, tp > 1),
            )
            if needed
        ]
        rotary = shape.tokens * (shape.query + shape.key_value)
        elements = {
            "hidden": shape.sharded_tokens * shape.hidden,
            "rotary": 0 if shape.latent else rotary,
            "normed": shape.tokens * shape.normed,
            "latent": shape.tokens * shape.query if shape.latent else 0,
            "context": rotary if shape.context_parallel_size > 1 else 0,
        }
        passes = self._passes(self._between.attention, elements, launches)
        if self._lora:
            passes += self._adapters(shape, parts, tp, 0)
        return self._products(shape, parts, tp) + passes

    def _adapters(self, shape: LayerShape, parts: list[Part], tp: int, local: int) -> PartSeconds:
        """LoRA's adapters of linear layers."""
        host = self._host
        elements = {"inputs": 0.0, "outputs": 0.0}
        launches = [(len(parts), host.adapter)]
        for part in parts:
            assert part.linear is not None
            in_features, out_features, kind = part.linear
            rows: float = shape.tokens
            if part.sharding is Sharding.EXPERT:
                rows, shards = shape.routed_rows, shape.expert_tensor_parallel_size
                launches.append((local, host.expert_adapter))
            else:
                shards = 1 if kind is LinearKind.DUPLICATED else tp
            column = kind is LinearKind.COLUMN
            elements["inputs"] += rows * in_features / (1 if column else shards)
            elements["outputs"] += rows * out_features / (shards if column else 1)
        return self._passes(self._between.adapters, elements, launches)

    def _core(self, shape: LayerShape, kind: LayerKind, document_tokens: int) -> PartSeconds:
        """Core attention: each query sees the keys before it, and some for its block."""
        core, rates = self._between.core, self._rates
        keys = seen_keys(document_tokens, shape.window)
        if kind.is_linear:
            keys = ASSUMED_LINEAR_ATTENTION_KEYS
        width = (
            2 * shape.query
            if shape.latent is None or shape.pads_values
            else (shape.query + shape.key_value)
        )
        flops_of_key = 2 * shape.tokens * width
        return PartSeconds(
            forward=core.forward.microseconds * MICRO
            + flops_of_key * (keys + core.forward.padding) / rates.attention_forward,
            backward=core.backward.microseconds * MICRO
            + BACKWARD_OVER_FORWARD_ATTENTION
            * flops_of_key
            * (keys + core.backward.padding)
            / rates.attention_backward,
        )

    def _dense(self, shape: LayerShape, parts: list[Part], tp: int) -> PartSeconds:
        """A dense feed-forward part, or the shared experts of a sparse one."""
        if not parts:
            return PartSeconds(forward=0.0, backward=0.0)
        host = self._host
        elements = {
            "hidden": 0 if shape.is_moe else shape.sharded_tokens * shape.hidden,
            "ffn": shape.tokens * (shape.shared_ffn if shape.is_moe else shape.ffn),
        }
        launches = [(1, host.shared if shape.is_moe else host.dense)]
        if tp > 1 and not shape.is_moe:
            launches.append((1, host.sharded))
        passes = self._passes(self._between.dense, elements, launches)
        return self._products(shape, parts, tp) + passes

    def _sparse(self, shape: LayerShape, local: int) -> PartSeconds:
        """Router, permutation and routed experts."""
        between, host, rates = self._between, self._host, self._rates
        rows = (shape.sent_rows + shape.routed_rows) / 2
        elements = {
            "hidden": shape.sharded_tokens * shape.hidden,
            "scores": shape.sharded_tokens * shape.experts,
            "rows": rows * shape.hidden,
            "row": rows,
            "ffn": shape.routed_rows * shape.expert_ffn,
        }
        launches = [(1, host.moe), (local, host.expert)]
        if shape.gathers:
            launches.append((1, host.sharded))
        weights = 3 * shape.hidden * shape.expert_ffn
        flops = 2 * shape.routed_rows * weights
        backward = 1 if self._lora else 2
        accumulation = 0.0 if self._lora else local * weights * self._gradient_seconds
        products = PartSeconds(
            forward=local * between.experts.forward.microseconds * MICRO
            + flops / rates.grouped_gemm,
            backward=local * between.experts.backward.microseconds * MICRO
            + backward * flops / rates.grouped_gemm_backward
            + accumulation,
        )
        return products + self._passes(between.moe, elements, launches)

    def _passes(
        self, passes: BothWays, elements: Mapping[str, float], launches: list[tuple[int, Launch]]
    ) -> PartSeconds:
        """What runs between products, and what the host takes for the part."""
        launch = MILLI * self._rates.launch
        forward, backward = (
            way.microseconds * MICRO
            + self._pass_seconds
            * sum(number * getattr(way, name) for name, number in elements.items())
            for way in (passes.forward, passes.backward)
        )
        return PartSeconds(
            forward=forward,
            backward=backward,
            forward_launch=launch * sum(number * each.forward for number, each in launches),
            backward_launch=launch * sum(number * each.backward for number, each in launches),
        )

    def head(self, tokens: int, tp: int) -> PartSeconds:
        """Output layer and cross entropy of a microbatch."""
        rates, gemm = self._rates, self._between.gemm
        hidden, vocabulary = self._model.hidden_size, self._model.vocab_size / tp
        flops = 2 * tokens * hidden * vocabulary
        operands = tokens * (hidden + vocabulary) + hidden * vocabulary
        always = gemm.microseconds * MICRO + operands * self._pass_seconds / gemm.operands
        weights = 0.0
        if not self._lora:
            weights = always + flops / rates.gemm_weight
            weights += hidden * vocabulary * self._gradient_seconds
        products = PartSeconds(
            forward=always + flops / rates.gemm, backward=always + flops / rates.gemm + weights
        )
        elements = {"logits": tokens * vocabulary}
        return products + self._passes(self._between.head, elements, [(1, self._host.head)])

    def embedding(self, tokens: int, tp: int) -> PartSeconds:
        """Embedding of a microbatch."""
        elements = self._model.hidden_size * self._model.vocab_size / tp
        gradient = (
            0.0 if self._lora else elements * (self._gradient_seconds + 3 * self._pass_seconds)
        )
        looked_up = 2 * tokens * self._model.hidden_size * self._pass_seconds
        return PartSeconds(forward=looked_up, backward=gradient)

    @property
    def batch(self) -> float:
        """Seconds that the host takes to make a batch, while the GPU waits.

        Every chunk of every stage makes its own for each microbatch (ms-swift 4.6.0,
        swift/megatron/trainers/trainer.py:134 forward_step, which megatron-core's schedules call
        for each chunk).
        """
        return MILLI * self._rates.launch * self._host.batch.forward

    def optimizer(self, elements: float) -> float:
        """Adam on `elements` fp32 states: reads and writes weights and moments, reads gradients."""
        return elements * (6 * FP32 + FP32 + BF16) / self._rates.memory

    def housekeeping(self, trainable: int) -> float:
        """What a step takes beside its passes, exchanges and Adam: zeroing the gradient buffer,
        scaling it by the number of tokens, its norm, and the host, for which the GPU waits."""
        host = MILLI * self._rates.launch * self._host.step
        return host + trainable * 4 * FP32 / self._rates.memory
