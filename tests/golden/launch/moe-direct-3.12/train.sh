#!/usr/bin/env bash
# Trains Qwen3-30B-A3B (full) on 2 nodes of 8 H100-SXM-80GB.
#
# The same file on every node, whatever starts it (node_env.sh has all conventions):
#   one node        bash train.sh
#   several nodes   NNODES=... NODE_RANK=... MASTER_ADDR=... bash train.sh
#   PAI-DLC, Kubeflow, Slurm (srun --ntasks-per-node=1)   bash train.sh
# Flags that follow the name are added at the end and win.
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
  check_saved "$checkpoint" train_type '"full"' use_distributed_optimizer true
  [[ "$(saved_as "$checkpoint" dist_ckpt_optim_fully_reshardable)" == true ]] ||
    check_saved "$checkpoint" tensor_model_parallel_size 1 pipeline_model_parallel_size 2 expert_model_parallel_size 8 expert_tensor_parallel_size 1 virtual_pipeline_model_parallel_size null decoder_first_pipeline_num_layers null decoder_last_pipeline_num_layers null pipeline_model_parallel_layout null
  resume=(--load "$checkpoint" --finetune false)
fi
command=(megatron sft
  # model and weights
  --model /data/models/Qwen3-30B-A3B
  --torch_dtype bfloat16
  --finetune true
  --check_model false # true asks a model hub, which many clusters cannot reach
  # what is trained
  --train_type full
  # parallel layout
  --tensor_model_parallel_size 1
  --sequence_parallel false # a MoE layer with tensor parallelism trains only with it
  --context_parallel_size 1
  --pipeline_model_parallel_size 2
  --expert_model_parallel_size 8
  --expert_tensor_parallel_size 1
  --use_distributed_optimizer true
  --overlap_grad_reduce true # gradients are reduced behind the backward pass
  --overlap_param_gather true # parameters are gathered behind the next forward pass
  # batch
  --micro_batch_size 1
  --global_batch_size 16
  --max_length 8192
  --packing true
  # activation recomputation
  --recompute_granularity full
  --recompute_method uniform
  --recompute_num_layers 1
  # mixture of experts
  --moe_token_dispatcher_type alltoall
  --moe_grouped_gemm true # one GEMM for all local experts instead of a loop
  --moe_permute_fusion true # Transformer Engine's fused token permutation; ms-swift's default is off
  --moe_aux_loss_coeff 0.001 # keeps the experts evenly loaded; unset, Megatron-Core takes 0
  --moe_router_dtype fp32 # routing in bf16 is unstable with many experts (Megatron-Core, README of transformer/moe)
  # kernels
  --attention_backend flash
  --cross_entropy_loss_fusion true # the loss without a second copy of the logits in fp32
  --no_gradient_accumulation_fusion false # only with apex
  # learning
  --optimizer adam # ms-swift's default
  --lr 1e-05 # the recipe of moe-planner
  --min_lr 1e-06 # the recipe of moe-planner
  --lr_decay_style cosine # ms-swift's default
  --lr_warmup_fraction 0.05 # the recipe of moe-planner
  --max_epochs 3 # the recipe of moe-planner
  --seed 42 # ms-swift's default
  # data
  --dataset /data/train.jsonl
  --split_dataset_ratio 0.0 # no evaluation split
  --dataset_num_proc 8 # tokenising with one process, ms-swift's default, keeps all GPUs waiting
  --load_from_cache_file true # a restart does not tokenise again
  --num_workers 4 # ms-swift's default
  # saving, logging and waiting
  --save output
  --add_version false # true gives every start another folder, so that nothing can resume
  --save_interval 200 # the recipe of moe-planner
  --save_safetensors true # with true and no_save_optim, only Hugging Face weights are written
  --no_save_optim false # an interrupted run can go on; true leaves the optimizer's states out of checkpoints
  --no_save_rng false # as no_save_optim
  --log_interval 1 # a line a step
  --ddp_timeout 3600 # seconds until a hang is an error, longer than tokenising and saving; unset, it is 208 days
  ${resume[@]+"${resume[@]}"}
  "$@"
)
announce "${command[@]}"
if [[ "${PREFLIGHT:-1}" != 0 ]]; then
  python="$(head -n 1 -- "$(command -v megatron)")" # the one that ms-swift is installed for
  python="${python#\#!}"
  [[ -x "$python" && "$python" == *python* ]] || python=python3
  PYTHONDONTWRITEBYTECODE=1 "$python" -m preflight "${resume[1]:-}" ||
    [[ "${PREFLIGHT:-}" == report ]] ||
    stop 68 "training would fail: node 0 says why; PREFLIGHT=report starts all the same"
fi
exec "${command[@]}"
