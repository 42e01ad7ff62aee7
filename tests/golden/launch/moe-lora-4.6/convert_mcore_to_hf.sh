#!/usr/bin/env bash
# Converts a checkpoint of Qwen3-30B-A3B to Hugging Face's format: the newest complete one, or the folder given.
#   bash convert_mcore_to_hf.sh [FOLDER]
# Run it on one node with 8 GPUs, as train.sh is run. The layers are spread over 8 GPUs, at most 7.5 GiB of weights on each.
# ADAPTER=1 writes the adapter alone, in PEFT's format, instead of merging it into the model.
# TEST_CONVERT_PRECISION=1 compares logits of both sides afterwards: it also needs 63 GiB on the GPUs of the first node, then 57 GiB on its host
# and with transformers 5 the plugin of docs/converting.md.
# SMOKE=1 lets the converted model answer SMOKE_PROMPT by swift infer. DRY_RUN=1 shows the command and stops.
# Relative paths start from the folder of this file.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
model=/mnt/data/models/mine
output=/mnt/data/runs/mine/output
hf=/mnt/data/runs/mine/hf
gpus=8 gpus_per_node=8
gib=57 # of the result
if [[ "${CONVERTER:-megatron}" != megatron ]]; then
  echo "${0##*/}: CONVERTER=$CONVERTER must be megatron: swift export cannot convert this one" >&2
  exit 64
fi
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
[[ "${ADAPTER:-0}" == 0 ]] || target="$target-adapter"
if [[ -e "$target" ]]; then
  echo "$target is there already: nothing to do"
  exit 0
fi

command=(megatron export
  --model /mnt/data/models/mine
  --model_type qwen3_moe
  --template qwen3
  --to_hf true
  --mcore_model /mnt/data/runs/mine/mcore
  --mcore_adapter "$checkpoint"
  --merge_lora true
  --output_dir "$target.partial"
  --exist_ok true
  --torch_dtype bfloat16
  --tensor_model_parallel_size 1
  --pipeline_model_parallel_size 8
  --check_model false
)
[[ "${ADAPTER:-0}" == 0 ]] || { command+=(--merge_lora false) && gib=1; }
[[ "${TEST_CONVERT_PRECISION:-0}" == 0 ]] || command+=(--test_convert_precision true --test_convert_dtype float32)
announce "${command[@]}"
mkdir -p -- "$hf"
# What an interrupted conversion left is no part of this one; no other node writes before this starts.
[[ "$NODE_RANK" != 0 ]] || rm -rf -- "$target.partial"
[[ "$NODE_RANK" != 0 ]] || room "$hf" "$gib"
"${command[@]}"
[[ "$NODE_RANK" == 0 ]] || exit 0
if [[ -f "$target.partial/config.json" ]]; then # ms-swift leaves these behind
  for file in "$model"/generation_config.json "$model"/*.py; do
    [[ ! -f "$file" || -e "$target.partial/${file##*/}" ]] || cp -- "$file" "$target.partial/"
  done
fi
mv -T -- "$target.partial" "$target"
if [[ "${SMOKE:-0}" != 0 ]]; then
  printf '%s\n' "${SMOKE_PROMPT:-Who are you?}" exit |
    env -u NNODES -u NPROC_PER_NODE swift infer --model "$target" --max_new_tokens 32 --model_type qwen3_moe --template qwen3
fi
