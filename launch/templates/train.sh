#!/usr/bin/env bash
# Trains @@title.
#
# The same file on every node, whatever starts it (node_env.sh has all conventions):
#   one node        bash train.sh
#   several nodes   NNODES=... NODE_RANK=... MASTER_ADDR=... bash train.sh
#   PAI-DLC, Kubeflow, Slurm (srun --ntasks-per-node=1)   bash train.sh
# @@flags_note
# Started again, it goes on from the newest complete checkpoint.
# DRY_RUN=1 shows the command and stops. Before training, all nodes are looked at: PREFLIGHT=0 leaves that
# out, PREFLIGHT=report starts whatever it finds.
# Relative paths start from the folder of this file.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
# shellcheck source=/dev/null
. ./node_env.sh @@world_size @@gpus_per_node

check_saved() { # check_saved CHECKPOINT NAME VALUE...: whether all of them were so when it was saved
  local checkpoint="$1" value
  [[ -f "$checkpoint/args.json" && "$(tail -n 1 -- "$checkpoint/args.json")" == "}" ]] ||
    stop 66 "$checkpoint/args.json is missing or cut short, which says who may load it: move $checkpoint away to start again"
  shift
  while (($#)); do
    value="$(saved_as "$checkpoint" "$1")"
    [[ -z "$value" || "$value" == "$2" ]] || # a release without the argument does not say it
      stop 66 "$checkpoint was saved with $1=$value, this run has $2, and cannot go on from it: plan with that value, or move the checkpoint away to start again"
    shift 2
  done
}

saved_as() { # saved_as CHECKPOINT NAME: the value of an argument in its args.json, as it stands there
  sed -n "s/^  \"$2\": \(.*[^,]\),\{0,1\}\$/\1/p" "$1/args.json"
}

resume=()
@@resume
command=(megatron @@task
@@arguments
  ${resume[@]+"${resume[@]}"}
  "$@"
)
announce "${command[@]}"
@@checks
if [[ "${PREFLIGHT:-1}" != 0 ]]; then
  python="$(head -n 1 -- "$(command -v megatron)")" # the one that ms-swift is installed for
  python="${python#\#!}"
  [[ -x "$python" && "$python" == *python* ]] || python=python3
  PYTHONDONTWRITEBYTECODE=1 "$python" -m preflight "${resume[1]:-}" ||
    [[ "${PREFLIGHT:-}" == report ]] ||
    stop 68 "training would fail: node 0 says why; PREFLIGHT=report starts all the same"
fi
exec "${command[@]}"
