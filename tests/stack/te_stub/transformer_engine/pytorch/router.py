"""Names that megatron-core imports for `moe_router_fusion`, which is off by default."""


def _missing(*_: object, **__: object) -> None:
    raise NotImplementedError("the Transformer Engine stand-in has no fused router")


fused_compute_score_for_moe_aux_loss = _missing
fused_moe_aux_loss = _missing
fused_topk_with_score_function = _missing
