"""Attention."""

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def apply_rotary_pos_emb(*_: object, **__: object) -> torch.Tensor:
    """Raise: without `apply_rope_fusion` megatron-core computes RoPE itself."""
    raise NotImplementedError("the Transformer Engine stand-in has no fused RoPE")


class _SplitAlongDim:
    """Splits a tensor along a dimension. The name is megatron-core's import."""

    @staticmethod
    def apply(x: torch.Tensor, dim: int, sizes: list[int]) -> tuple[torch.Tensor, ...]:
        """Return the parts."""
        return torch.split(x, sizes, dim=dim)


class DotProductAttention(nn.Module):
    """Attention of `sbhd`, `bshd` or packed `thd` tensors: causal, full, or masked.

    Parameter, with softmax_type "learnable": softmax_offset, an element a head of the rank.
    """

    def __init__(
        self,
        num_attention_heads: int,
        kv_channels: int | tuple[int, int],
        *,
        attn_mask_type: str = "causal",
        softmax_scale: float | None = None,
        cp_group: Any = None,
        tp_size: int = 1,
        tp_group: Any = None,
        softmax_type: str = "vanilla",
        **_: object,
    ) -> None:
        super().__init__()
        self.softmax_type = softmax_type
        if softmax_type == "learnable":
            shards = tp_size if tp_group is None else tp_group.size()
            offsets = torch.empty(num_attention_heads // shards, device="cuda")
            self.softmax_offset = nn.Parameter(offsets)
        self.attn_mask_type = attn_mask_type
        self.softmax_scale = softmax_scale
        self.cp_group = cp_group

    def forward(
        self,
        query_layer: torch.Tensor,
        key_layer: torch.Tensor,
        value_layer: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        qkv_format: str = "sbhd",
        attn_mask_type: str | None = None,
        cu_seqlens_q: torch.Tensor | None = None,
        **_: object,
    ) -> torch.Tensor:
        """Return the context with heads and channels of the last two dimensions merged."""
        if self.cp_group is not None:
            raise NotImplementedError("the Transformer Engine stand-in has no context parallelism")
        if self.softmax_type != "vanilla":
            raise NotImplementedError("the Transformer Engine stand-in has no attention sinks")
        mask_type = attn_mask_type or self.attn_mask_type
        heads = [query_layer, key_layer, value_layer]
        if qkv_format == "thd":
            assert cu_seqlens_q is not None
            return self._packed(heads, "causal" in mask_type, cu_seqlens_q.tolist())
        to_bhsd = (1, 2, 0, 3) if qkv_format == "sbhd" else (0, 2, 1, 3)
        to_input = (2, 0, 1, 3) if qkv_format == "sbhd" else (0, 2, 1, 3)
        mask = attention_mask if mask_type in ("arbitrary", "padding", "padding_causal") else None
        q, k, v = (tensor.permute(to_bhsd) for tensor in heads)
        return self._attend(q, k, v, "causal" in mask_type, mask).permute(to_input).flatten(2)

    def _packed(
        self, heads: list[torch.Tensor], causal: bool, boundaries: list[int]
    ) -> torch.Tensor:
        """Attention inside each document of a pack, [tokens, heads, channels]."""
        documents = []
        for first, end in pairwise(boundaries):
            q, k, v = (tensor[first:end].transpose(0, 1)[None] for tensor in heads)
            documents.append(self._attend(q, k, v, causal, None)[0].transpose(0, 1))
        context = torch.cat(documents).flatten(1)
        return functional.pad(context, (0, 0, 0, heads[0].shape[0] - context.shape[0]))

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        causal: bool,
        masked_out: torch.Tensor | None,
    ) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if masked_out is None else ~masked_out,
            is_causal=causal and masked_out is None,
            scale=self.softmax_scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
