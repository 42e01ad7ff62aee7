"""Model types that ms-swift trains with Megatron and whose config.json is not read here yet.

Source: mcore-bridge 1.6.5, the model types that mcore_bridge/model registers.
"""

from planner.architectures.rules import names

_TOWER = "it is multimodal, and the parameters of its towers are not counted here yet"
_ATTENTION = "its attention or its residual streams are not counted here yet"
_LATER = "nobody has held its count against the built model yet"

_MULTIMODAL = names(
    """
    gemma4 gemma4_unified glm4v glm4v_moe internvl internvl_chat kimi_k25 kimi_vl llava_onevision1_5
    minicpmv4_6 muse_glimmer ovis2_5 qwen2_5_omni qwen2_5_vl qwen2_vl qwen3_5 qwen3_asr
    qwen3_omni_moe qwen3_vl qwen3_vl_moe
    """
)
_OTHER_ATTENTION = names("bailing_hybrid deepseek_v4 deepseek_v41 glm5_next nemotron_h qwen4_exp")
_PLAIN = names("deepseek dots1 ernie4_5 glm4 glm4_moe_lite hy_v3 internlm3 mimo")

UNREAD: dict[str, str] = {
    **dict.fromkeys(sorted(_MULTIMODAL), _TOWER),
    **dict.fromkeys(sorted(_OTHER_ATTENTION), _ATTENTION),
    **dict.fromkeys(sorted(_PLAIN), _LATER),
}
