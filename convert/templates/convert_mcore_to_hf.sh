#!/usr/bin/env bash
# Converts a checkpoint of @@name to Hugging Face's format: the newest complete one, or the folder given.
#   bash convert_mcore_to_hf.sh [FOLDER]
# Run it on @@where, as train.sh is run. @@reason
@@single_process_note
# DRY_RUN=1 shows the command and stops. Relative paths start from the folder of this file.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
output=@@output
hf=@@hf
gpus=@@world_size gpus_per_node=@@gpus_per_node
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
if [[ -e "$target" ]]; then
  echo "$target is there already: nothing to do"
  exit 0
fi

command=(megatron export
@@arguments
)
@@single_process
announce "${command[@]}"
mkdir -p -- "$hf"
"${command[@]}"
[[ "$NODE_RANK" != 0 ]] || mv -T -- "$target.partial" "$target"
