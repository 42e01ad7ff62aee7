#!/usr/bin/env bash
# Converts the weights of DeepSeek-V3 from Hugging Face's to Megatron-Core's format, once, before train.sh.
# Run it on 4 nodes with 8 GPUs each, as train.sh is run. The layers are spread over 32 GPUs, at most 46.5 GiB of weights on each.
# TEST_CONVERT_PRECISION=1 compares logits of both sides afterwards: it also needs 1360 GiB on the GPUs of the first node, then 1272 GiB on its host
# and with transformers 5 the plugin of docs/converting.md.
# DRY_RUN=1 shows the command and stops. Relative paths start from the folder of this file.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
target=mcore
gpus=32 gpus_per_node=8
if [[ "${CONVERTER:-megatron}" != megatron ]]; then
  echo "${0##*/}: CONVERTER=$CONVERTER must be megatron: swift export cannot convert this one" >&2
  exit 64
fi
# shellcheck source=/dev/null
. ./node_env.sh "$gpus" "$gpus_per_node" alone
if [[ -e "$target/latest_checkpointed_iteration.txt" ]]; then
  echo "$target is there already: nothing to do"
  exit 0
fi
[[ ! -e "$target" ]] || stop 66 "$target is not complete: remove it, then run this again"

command=(megatron export
  --model /data/models/DeepSeek-V3
  --to_mcore true
  --output_dir "$target.partial"
  --exist_ok true
  --torch_dtype bfloat16
  --tensor_model_parallel_size 1
  --pipeline_model_parallel_size 32
  --pipeline_model_parallel_layout 'Et|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t*2|t|tmL'
  --check_model false
  --mtp_num_layers 1
)
[[ "${TEST_CONVERT_PRECISION:-0}" == 0 ]] || command+=(--test_convert_precision true --test_convert_dtype float32)
announce "${command[@]}"
# What an interrupted conversion left is no part of this one; no other node writes before this starts.
[[ "$NODE_RANK" != 0 ]] || rm -rf -- "$target.partial"
[[ "$NODE_RANK" != 0 ]] || room "$(dirname -- "$target")" 1272
"${command[@]}"
[[ "$NODE_RANK" != 0 ]] || mv -T -- "$target.partial" "$target"
