#!/usr/bin/env bash
# Converts a checkpoint of @@name to Hugging Face's format: the newest complete one, or the folder given.
#   bash convert_mcore_to_hf.sh [FOLDER]
# Run it on @@where, as train.sh is run. @@reason
@@single_process_note
@@adapter_note
# TEST_CONVERT_PRECISION=1 compares logits of both sides afterwards: it also needs @@precision_cost.
# SMOKE=1 lets the converted model answer SMOKE_PROMPT by swift infer. DRY_RUN=1 shows the command and stops.
# Relative paths start from the folder of this file.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
model=@@model
output=@@output
hf=@@hf
gpus=@@world_size gpus_per_node=@@gpus_per_node
gib=@@disk_gib # of the result
@@converter_environment
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
@@adapter_target
if [[ -e "$target" ]]; then
  echo "$target is there already: nothing to do"
  exit 0
fi

command=(megatron export
@@arguments
)
@@single_process
@@adapter_arguments
[[ "${TEST_CONVERT_PRECISION:-0}" == 0 ]] || command+=(@@precision)
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
    env -u NNODES -u NPROC_PER_NODE swift infer --model "$target" @@smoke
fi
