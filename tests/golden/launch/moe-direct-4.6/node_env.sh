# shellcheck shell=bash
# Sourced by the scripts beside it:  . ./node_env.sh GPUS GPUS_PER_NODE [alone]
#
# Gives ms-swift the five variables that it starts processes by, NNODES NODE_RANK MASTER_ADDR MASTER_PORT
# NPROC_PER_NODE, from what the node's environment has:
#   by hand, hosts         these five
#   Kubeflow TrainJob v2   PET_NNODES PET_NODE_RANK PET_NPROC_PER_NODE PET_MASTER_ADDR PET_MASTER_PORT
#   Kubeflow PyTorchJob v1 the first three of them, MASTER_ADDR, MASTER_PORT, and WORLD_SIZE, which
#                          there counts processes
#   Slurm                  the variables of srun with one task a node
#   PAI-DLC                WORLD_SIZE and RANK, which there count and number nodes, MASTER_ADDR, MASTER_PORT
#   nothing                one node
# NPROC_PER_NODE may be left out. What counts is that all nodes together have the GPUs. Two that are there
# must agree; with `alone`, NNODES=1 means this node whatever the others say.
# Exit statuses: 64 a variable is missing or wrong, 65 not the plan's number of GPUs, 66 an input is
# missing or does not fit, 67 two variables contradict each other, 68 what was looked at first would fail,
# 69 a command is missing.

stop() { # stop STATUS MESSAGE
  printf '%s: %s\n' "${0##*/}" "$2" >&2
  exit "$1"
}

set_default() { # set_default NAME VALUE: what the environment has already, wins
  [[ -v "$1" ]] || export "$1=$2"
}

announce() { # announce WORD...: shows the command; with DRY_RUN=1 nothing follows
  printf 'NNODES=%s NODE_RANK=%s MASTER_ADDR=%q MASTER_PORT=%s NPROC_PER_NODE=%s' \
    "$NNODES" "$NODE_RANK" "$MASTER_ADDR" "$MASTER_PORT" "$NPROC_PER_NODE"
  printf ' %q' "$@"
  printf '\n'
  [[ "${DRY_RUN:-0}" == 0 ]] || exit 0
  command -v "$1" >/dev/null || stop 69 "the command $1 is not installed here: use an image with ms-swift"
}

check_number() { # check_number NAME SMALLEST LARGEST
  if ! [[ "${!1}" =~ ^(0|[1-9][0-9]{0,5})$ ]] || ((${!1} < $2 || ${!1} > $3)); then
    stop 64 "${given_as[$1]:-$1}=${!1} must be a whole number from $2 to $3"
  fi
}

check_gpus() { # check_gpus GPUS GPUS_PER_NODE: all nodes together have them; says what would work
  local works="set NNODES=$(($1 / NPROC_PER_NODE))" nodes="${given_as[NNODES]:-NNODES}=$NNODES"
  (($1 % NPROC_PER_NODE == 0)) || works="set NNODES=$(($1 / $2)) NPROC_PER_NODE=$2"
  if [[ "${given_as[NNODES]:-}" == WORLD_SIZE ]] && ((NNODES == $1)); then
    works="WORLD_SIZE seems to count processes: $works and NODE_RANK"
  fi
  ((NNODES * NPROC_PER_NODE == $1)) ||
    stop 65 "this needs $1 GPUs, but $nodes x NPROC_PER_NODE=$NPROC_PER_NODE is $((NNODES * NPROC_PER_NODE)): $works"
}

declare -A given_as=() # the variable that each of the five was read from

take() { # take NAME VARIABLE [VALUE]: NAME is what VARIABLE says, if it is there; what has NAME must agree
  local value="${3-${!2:-}}"
  [[ -n "$value" ]] || return 0
  if [[ -n "${!1:-}" && "${!1}" != "$value" ]]; then
    stop 67 "${given_as[$1]:-$1}=${!1} and $2=$value contradict each other: unset the wrong one"
  fi
  printf -v "$1" '%s' "$value"
  given_as[$1]="${given_as[$1]:-$2}"
}

take_pet() { # Kubeflow; "auto" and "gpu" leave the number of processes to the machine
  take NNODES PET_NNODES
  take NODE_RANK PET_NODE_RANK
  take MASTER_ADDR PET_MASTER_ADDR
  take MASTER_PORT PET_MASTER_PORT
  [[ ! "${PET_NPROC_PER_NODE:-}" =~ ^[0-9]+$ ]] || take NPROC_PER_NODE PET_NPROC_PER_NODE
}

take_slurm() { # one task a node: the launcher of ms-swift makes the processes
  [[ -n "${SLURM_JOB_ID:-}" && -n "${SLURM_NODEID:-}" ]] || return 0
  local nodes="${SLURM_STEP_NUM_NODES:-${SLURM_JOB_NUM_NODES:-1}}" tasks="${SLURM_STEP_NUM_TASKS:-}" names
  if [[ "$nodes" != 1 && -z "$tasks" ]]; then
    stop 64 "SLURM_STEP_NUM_TASKS is missing: start this with srun --ntasks-per-node=1, not in the batch script itself"
  fi
  if [[ -n "$tasks" && "$tasks" != "$nodes" ]]; then
    stop 65 "SLURM_STEP_NUM_TASKS=$tasks on $nodes nodes: start one task a node, srun --ntasks-per-node=1"
  fi
  take NNODES SLURM_STEP_NUM_NODES "$nodes"
  take NODE_RANK SLURM_NODEID
  if [[ "$nodes" != 1 && -z "${MASTER_ADDR:-}" ]]; then
    names="$(scontrol show hostnames "${SLURM_STEP_NODELIST:-${SLURM_JOB_NODELIST:-}}")" ||
      stop 64 "MASTER_ADDR is missing, and scontrol does not say it: set it to the first node"
    take MASTER_ADDR SLURM_STEP_NODELIST "${names%%$'\n'*}"
  fi
  [[ ! "$SLURM_JOB_ID" =~ ^[1-9][0-9]{0,8}$ ]] || set_default MASTER_PORT "$((20000 + SLURM_JOB_ID % 20000))"
}

take_world_size() { # take_world_size GPUS: PAI-DLC counts nodes; beside others it may count processes
  [[ -n "${WORLD_SIZE:-}" ]] || return 0
  if [[ -z "${NNODES:-}" || "$WORLD_SIZE" == "$NNODES" ]]; then
    take NNODES WORLD_SIZE
    take NODE_RANK RANK
  elif [[ "$WORLD_SIZE" != "$1" ]]; then
    stop 67 "${given_as[NNODES]}=$NNODES and WORLD_SIZE=$WORLD_SIZE, neither the nodes nor the $1 processes, contradict each other: unset the wrong one"
  fi
}

room() { # room FOLDER GIB: whether its disk has them; PREFLIGHT=0 does not look, PREFLIGHT=report goes on
  local free="" lacking
  [[ "${PREFLIGHT:-1}" != 0 ]] || return 0
  { read -r _ && read -r _ _ _ free _; } < <(df -Pk -- "$1" 2>/dev/null) || return 0 # in KiB
  if [[ "$free" =~ ^[0-9]{1,15}$ ]] && ((free / 1048576 < $2)); then
    lacking="$1 has $((free / 1048576)) GiB free, and this writes $2: make room, or write elsewhere (workspace of the site)"
    [[ "${PREFLIGHT:-1}" == report ]] || stop 68 "$lacking; PREFLIGHT=report starts all the same"
    printf '%s: %s\n' "${0##*/}" "$lacking" >&2
  fi
}

complete() { # complete FOLDER: whether its newest checkpoint was written to the end
  [[ -f "$1/latest_checkpointed_iteration.txt" ]] || return 1
  local iteration
  iteration="$(<"$1/latest_checkpointed_iteration.txt")"
  [[ "$iteration" =~ ^[0-9]+$ ]] || return 1
  printf -v iteration '%s/iter_%07d' "$1" "$((10#$iteration))"
  [[ -s "$iteration/metadata.json" && -s "$iteration/.metadata" ]] # a crash can leave them empty
}

newest() { # newest OUTPUT: the complete checkpoint with the highest number; says which it passes over
  local folder number best=-1 torn=()
  for folder in "$1"/checkpoint-*; do
    number="${folder##*-}"
    [[ "$number" =~ ^[0-9]+$ ]] || continue
    if ! complete "$folder"; then
      torn+=("${folder##*/}")
    elif ((10#$number > best)); then
      best="$((10#$number))"
    fi
  done
  ((${#torn[@]} == 0)) || printf '%s: not complete, passed over: %s\n' "${0##*/}" "${torn[*]}" >&2
  ((best < 0)) || printf '%s' "$1/checkpoint-$best"
}

for name in NNODES NODE_RANK MASTER_ADDR MASTER_PORT NPROC_PER_NODE; do
  [[ -z "${!name:-}" ]] || given_as[$name]="$name" # by hand
done
if [[ "${3:-}" != alone || "${NNODES:-}" != 1 ]]; then
  take_pet
  take_slurm
  take_world_size "$1"
fi
NNODES="${NNODES:-1}"
check_number NNODES 1 999999
if ((NNODES == 1)); then
  NODE_RANK="${NODE_RANK:-0}"
  MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
elif [[ "${DRY_RUN:-0}" != 0 ]]; then # shows what the first node would run
  NODE_RANK="${NODE_RANK:-0}"
  MASTER_ADDR="${MASTER_ADDR:-ADDRESS_OF_NODE_0}"
fi
[[ -n "${NODE_RANK:-}" ]] || stop 64 "NODE_RANK is missing: 0 to $((NNODES - 1)), another on every node"
check_number NODE_RANK 0 999999
((NODE_RANK < NNODES)) ||
  stop 64 "${given_as[NODE_RANK]}=$NODE_RANK must be less than ${given_as[NNODES]:-NNODES}=$NNODES"
[[ -n "${MASTER_ADDR:-}" ]] || stop 64 "MASTER_ADDR is missing: the address of the node with NODE_RANK=0"
MASTER_PORT="${MASTER_PORT:-29500}"
check_number MASTER_PORT 1 65535

NPROC_PER_NODE="${NPROC_PER_NODE:-$2}"
check_number NPROC_PER_NODE 1 999999
check_gpus "$1" "$2"
export NNODES NODE_RANK MASTER_ADDR MASTER_PORT NPROC_PER_NODE

set_default PYTORCH_CUDA_ALLOC_CONF expandable_segments:True
set_default MODELSCOPE_CACHE "$PWD/cache"
