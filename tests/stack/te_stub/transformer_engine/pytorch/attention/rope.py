"""Where newer megatron-core looks for fused RoPE."""

from transformer_engine.pytorch.attention import apply_rotary_pos_emb

__all__ = ["apply_rotary_pos_emb"]
