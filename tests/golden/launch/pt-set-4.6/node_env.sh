# shellcheck shell=bash
# Sourced by the scripts beside it:  . ./node_env.sh GPUS GPUS_PER_NODE
#
# Gives ms-swift the five variables that it starts processes by, from what the node's environment has:
#   by hand    NNODES NODE_RANK MASTER_ADDR MASTER_PORT NPROC_PER_NODE
#   PAI-DLC    WORLD_SIZE and RANK, which there count and number nodes, MASTER_ADDR, MASTER_PORT
#   nothing    one node
# NPROC_PER_NODE may be left out. What counts is that all nodes together have the GPUs.
# Exit statuses: 64 a variable is missing or wrong, 65 not the plan's number of GPUs, 66 an input is
# missing, 69 a command is missing.

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
    stop 64 "$1=${!1} must be a whole number from $2 to $3"
  fi
}

check_gpus() { # check_gpus GPUS GPUS_PER_NODE: all nodes together have them; says what would work
  local works="set NNODES=$(($1 / NPROC_PER_NODE))"
  (($1 % NPROC_PER_NODE == 0)) || works="set NNODES=$(($1 / $2)) NPROC_PER_NODE=$2"
  ((NNODES * NPROC_PER_NODE == $1)) ||
    stop 65 "this needs $1 GPUs, but NNODES=$NNODES x NPROC_PER_NODE=$NPROC_PER_NODE is $((NNODES * NPROC_PER_NODE)): $works"
}

if [[ -z "${NNODES:-}" && -n "${WORLD_SIZE:-}" ]]; then
  NNODES="$WORLD_SIZE"
  NODE_RANK="${RANK:-}"
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
((NODE_RANK < NNODES)) || stop 64 "NODE_RANK=$NODE_RANK must be less than NNODES=$NNODES"
[[ -n "${MASTER_ADDR:-}" ]] || stop 64 "MASTER_ADDR is missing: the address of the node with NODE_RANK=0"
MASTER_PORT="${MASTER_PORT:-29500}"
check_number MASTER_PORT 1 65535

NPROC_PER_NODE="${NPROC_PER_NODE:-$2}"
check_number NPROC_PER_NODE 1 999999
check_gpus "$1" "$2"
export NNODES NODE_RANK MASTER_ADDR MASTER_PORT NPROC_PER_NODE

set_default PYTORCH_CUDA_ALLOC_CONF expandable_segments:True
set_default MODELSCOPE_CACHE "$PWD/cache"
