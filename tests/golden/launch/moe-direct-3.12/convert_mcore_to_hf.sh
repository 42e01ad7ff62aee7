#!/usr/bin/env bash
# Converts a checkpoint of Qwen3-30B-A3B to Hugging Face's format: the newest complete one, or the folder given.
#   bash convert_mcore_to_hf.sh [FOLDER]
# Run it on one node with 8 GPUs, as train.sh is run. The layers are spread over 8 GPUs, at most 7.5 GiB of weights on each.
# CONVERTER=swift converts in one process on one node instead, in about 57 GiB of host memory.
# DRY_RUN=1 shows the command and stops. Relative paths start from the folder of this file.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
output=output
hf=hf
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

checkpoint="${1:-$(newest "$output")}"
if [[ -n "$checkpoint" ]]; then
  complete "$checkpoint" || stop 66 "$checkpoint holds no complete checkpoint"
elif [[ "${DRY_RUN:-0}" != 0 ]]; then # shows what will be run after training
  checkpoint="$output/checkpoint-N"
else
  stop 66 "there is no complete checkpoint in $output"
fi
target="$hf/$(basename -- "$checkpoint")"
if [[ -e "$target" ]]; then
  echo "$target is there already: nothing to do"
  exit 0
fi

command=(megatron export
  --model /data/models/Qwen3-30B-A3B
  --to_hf true
  --load "$checkpoint"
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
    --to_hf true
    --mcore_model "$checkpoint"
    --output_dir "$target.partial"
    --exist_ok true
    --torch_dtype bfloat16
  )
fi
announce "${command[@]}"
mkdir -p -- "$hf"
"${command[@]}"
[[ "$NODE_RANK" != 0 ]] || mv -T -- "$target.partial" "$target"
