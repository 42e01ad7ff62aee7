#!/usr/bin/env bash
# Converts the weights of @@name from Hugging Face's to Megatron-Core's format, @@when
# Run it on @@where, as train.sh is run. @@reason
@@single_process_note
# TEST_CONVERT_PRECISION=1 compares logits of both sides afterwards: it also needs @@precision_cost.
# DRY_RUN=1 shows the command and stops. Relative paths start from the folder of this file.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
target=@@target
gpus=@@world_size gpus_per_node=@@gpus_per_node
@@converter_environment
# shellcheck source=/dev/null
. ./node_env.sh "$gpus" "$gpus_per_node" alone
if [[ -e "$target/latest_checkpointed_iteration.txt" ]]; then
  echo "$target is there already: nothing to do"
  exit 0
fi
[[ ! -e "$target" ]] || stop 66 "$target is not complete: remove it, then run this again"

command=(megatron export
@@arguments
)
@@single_process
[[ "${TEST_CONVERT_PRECISION:-0}" == 0 ]] || command+=(@@precision)
announce "${command[@]}"
# What an interrupted conversion left is no part of this one; no other node writes before this starts.
[[ "$NODE_RANK" != 0 ]] || rm -rf -- "$target.partial"
[[ "$NODE_RANK" != 0 ]] || room "$(dirname -- "$target")" @@disk_gib
"${command[@]}"
[[ "$NODE_RANK" != 0 ]] || mv -T -- "$target.partial" "$target"
