#!/usr/bin/env bash
# Trains @@title.
#
# The same file on every node:
#   one node        bash train.sh
#   several nodes   NNODES=... NODE_RANK=... MASTER_ADDR=... bash train.sh
#   PAI-DLC         bash train.sh
# @@flags_note
# DRY_RUN=1 shows the command and stops. Relative paths start from the folder of this file.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
# shellcheck source=/dev/null
. ./node_env.sh @@world_size @@gpus_per_node

command=(megatron @@task
@@arguments
  "$@"
)
announce "${command[@]}"
@@checks
exec "${command[@]}"
