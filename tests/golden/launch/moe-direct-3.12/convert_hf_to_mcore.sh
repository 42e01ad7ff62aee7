#!/usr/bin/env bash
# Converts the weights of Qwen3-30B-A3B from Hugging Face's to Megatron-Core's format, for a run that is planned with
# --load mcore: train.sh of this one reads them as they are.
# Run it on one node with 8 GPUs, as train.sh is run. The layers are spread over 8 GPUs, at most 7.5 GiB of weights on each.
# CONVERTER=swift converts in one process: 96 GiB of host memory, 61 GiB of a GPU.
# TEST_CONVERT_PRECISION=1 compares logits of both sides afterwards: it also needs 63 GiB on the GPUs of the first node, then 57 GiB on its host.
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
  --model /data/models/Qwen3-30B-A3B
  --to_mcore true
  --save "$target.partial"
  --exist_ok true
  --torch_dtype bfloat16
  --tensor_model_parallel_size 1
  --pipeline_model_parallel_size 8
  --check_model false
)
if [[ "${CONVERTER:-megatron}" == swift ]]; then
  command=(swift export
    --model /data/models/Qwen3-30B-A3B
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
[[ "$NODE_RANK" != 0 ]] || room "$(dirname -- "$target")" 57
"${command[@]}"
[[ "$NODE_RANK" != 0 ]] || mv -T -- "$target.partial" "$target"
