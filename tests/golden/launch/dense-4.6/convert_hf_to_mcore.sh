#!/usr/bin/env bash
# Converts the weights of Qwen2.5-7B from Hugging Face's to Megatron-Core's format, once, before train.sh.
# Run it on one node with 8 GPUs, as train.sh is run. The layers are spread over 8 GPUs, at most 2.3 GiB of weights on each.
# CONVERTER=swift converts in one process: 17 GiB of host memory, 16 GiB of a GPU.
# TEST_CONVERT_PRECISION=1 compares logits of both sides afterwards: it also needs 18 GiB on the GPUs of the first node, then 15 GiB on its host
# and with transformers 5 the plugin of docs/converting.md.
# DRY_RUN=1 shows the command and stops. Relative paths start from the folder of this file.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
target=mcore
gpus=8 gpus_per_node=8
case "${CONVERTER:-megatron}" in
megatron) ;;
swift)
  unset NODE_RANK NPROC_PER_NODE MASTER_ADDR
  export NNODES=1
  gpus=1 gpus_per_node=1
  ;;
*)
  echo "${0##*/}: CONVERTER=$CONVERTER must be megatron or swift" >&2
  exit 64
  ;;
esac
# shellcheck source=/dev/null
. ./node_env.sh "$gpus" "$gpus_per_node" alone
if [[ -e "$target/latest_checkpointed_iteration.txt" ]]; then
  echo "$target is there already: nothing to do"
  exit 0
fi
[[ ! -e "$target" ]] || stop 66 "$target is not complete: remove it, then run this again"

command=(megatron export
  --model /data/models/Qwen2.5-7B
  --to_mcore true
  --output_dir "$target.partial"
  --exist_ok true
  --torch_dtype bfloat16
  --tensor_model_parallel_size 1
  --pipeline_model_parallel_size 8
  --pipeline_model_parallel_layout 'Et*3|t*4|t*4|t*4|t*4|t*3|t*3|t*3L'
  --check_model false
)
if [[ "${CONVERTER:-megatron}" == swift ]]; then
  command=(swift export
    --model /data/models/Qwen2.5-7B
    --to_mcore true
    --output_dir "$target.partial"
    --exist_ok true
    --torch_dtype bfloat16
  )
fi
[[ "${TEST_CONVERT_PRECISION:-0}" == 0 ]] || command+=(--test_convert_precision true --test_convert_dtype float32)
announce "${command[@]}"
# What an interrupted conversion left is no part of this one; no other node writes before this starts.
[[ "$NODE_RANK" != 0 ]] || rm -rf -- "$target.partial"
[[ "$NODE_RANK" != 0 ]] || room "$(dirname -- "$target")" 15
"${command[@]}"
[[ "$NODE_RANK" != 0 ]] || mv -T -- "$target.partial" "$target"
