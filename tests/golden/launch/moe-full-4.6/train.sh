#!/usr/bin/env bash
# Trains Qwen3-30B-A3B (full) on 2 nodes of 8 H100-SXM-80GB.
#
# The same file on every node, whatever starts it (node_env.sh has all conventions):
#   one node        bash train.sh
#   several nodes   NNODES=... NODE_RANK=... MASTER_ADDR=... bash train.sh
#   PAI-DLC, Kubeflow, Slurm (srun --ntasks-per-node=1)   bash train.sh
# Flags that follow the name are added at the end and win over train.yaml.
# Started again, it goes on from the newest complete checkpoint.
# DRY_RUN=1 shows the command and stops. Before training, all nodes are looked at: PREFLIGHT=0 leaves that
# out, PREFLIGHT=report starts whatever it finds.
# Relative paths start from the folder of this file.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
# shellcheck source=/dev/null
. ./node_env.sh 16 8

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
checkpoint="$(newest output)"
if [[ -n "$checkpoint" ]]; then
  echo "going on from $checkpoint"
  check_saved "$checkpoint" tuner_type '"full"' use_distributed_optimizer true
  [[ "$(saved_as "$checkpoint" dist_ckpt_optim_fully_reshardable)" == true ]] ||
    check_saved "$checkpoint" tensor_model_parallel_size 1 pipeline_model_parallel_size 2 expert_model_parallel_size 8 expert_tensor_parallel_size 1 virtual_pipeline_model_parallel_size null decoder_first_pipeline_num_layers null decoder_last_pipeline_num_layers null pipeline_model_parallel_layout null
  resume=(--mcore_model "$checkpoint" --finetune false)
fi
command=(megatron sft
  train.yaml
  ${resume[@]+"${resume[@]}"}
  "$@"
)
announce "${command[@]}"
((${#resume[@]})) || [[ -e mcore/latest_checkpointed_iteration.txt ]] ||
  stop 66 "the weights are not converted yet: run convert_hf_to_mcore.sh first"
if [[ "${PREFLIGHT:-1}" != 0 ]]; then
  python="$(head -n 1 -- "$(command -v megatron)")" # the one that ms-swift is installed for
  python="${python#\#!}"
  [[ -x "$python" && "$python" == *python* ]] || python=python3
  PYTHONDONTWRITEBYTECODE=1 "$python" -m preflight "${resume[1]:-}" ||
    [[ "${PREFLIGHT:-}" == report ]] ||
    stop 68 "training would fail: node 0 says why; PREFLIGHT=report starts all the same"
fi
exec "${command[@]}"
