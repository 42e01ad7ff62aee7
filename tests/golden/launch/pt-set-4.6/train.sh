#!/usr/bin/env bash
# Trains Qwen3-30B-A3B (full) on 2 nodes of 8 H100-SXM-80GB.
#
# The same file on every node:
#   one node        bash train.sh
#   several nodes   NNODES=... NODE_RANK=... MASTER_ADDR=... bash train.sh
#   PAI-DLC         bash train.sh
# Flags that follow the name are added at the end and win over train.yaml.
# DRY_RUN=1 shows the command and stops. Relative paths start from the folder of this file.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
# shellcheck source=/dev/null
. ./node_env.sh 16 8

command=(megatron pt
  train.yaml
  "$@"
)
announce "${command[@]}"
[[ -e mcore/latest_checkpointed_iteration.txt ]] ||
  stop 66 "the weights are not converted yet: run convert_hf_to_mcore.sh first"
exec "${command[@]}"
