#!/usr/bin/env bash
# This node's part of a run that `moe-launch submit` starts on plain hosts:
#   on_host.sh start ID NODE         starts train.sh and returns; NNODES, NODE_RANK and so on are set
#   on_host.sh state ID NODE         waiting, running, succeeded, stopped, lost, or failed and why
#   on_host.sh log ID NODE LINES     the end of what it printed; follow instead of log goes on until it ends
#   on_host.sh stop ID NODE          ends it, and whatever it left
# Nodes tell each other through files on the shared storage, in launch/ID: when one fails, all stop. Each listens
# to the next one's sign of life.
set -euo pipefail
CDPATH="" cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"
action="$1" id="$2" node="$3"
folder="launch/$id"
own="$folder/node-$node"
silent=60 # seconds without a sign of life until a node is given up
patience=20 # seconds that processes get to end by themselves

started() { # started: the processes of this node's part, whoever their parent is
  grep -lzsxF "MOE_LAUNCH_NODE=$id-$node" /proc/[0-9]*/environ | cut -d / -f 3 || true
}

end_all() { # end_all: asks what was started to end, then ends it
  local signal pids waited
  for signal in TERM KILL; do
    mapfile -t pids < <(started)
    ((${#pids[@]})) || return 0
    kill -s "$signal" "${pids[@]}" 2>/dev/null || true
    for ((waited = 0; waited < 10 * patience; waited++)); do
      [[ -n "$(started)" ]] || return 0
      sleep 0.1
    done
  done
}

age() { # age FILE: seconds by which it is older than this node's own sign of life, by the storage's clock
  local mine theirs
  mine="$(stat -c %Y -- "$own.alive" 2>/dev/null)" && theirs="$(stat -c %Y -- "$1" 2>/dev/null)" || return 1
  printf '%s' "$((mine - theirs))"
}

trouble() { # trouble: why this node has to stop, if it has to
  local next="node-$(((node + 1) % NNODES))" seconds
  if [[ -e "$folder/stop" ]]; then
    echo stopped
  elif [[ -s "$folder/failed" ]]; then
    head -n 1 -- "$folder/failed"
  elif [[ -e "$folder/$next.alive" && ! -e "$folder/$next.ended" ]] &&
    seconds="$(age "$folder/$next.alive")" && ((seconds > silent)); then
    echo "because $next gave no sign of life for $seconds s"
  fi
}

reserve() { # reserve: room on the disk for what this node will say, which may be that the disk is full
  local name
  for name in why partial; do printf '%4096s' "" >"$own.$name"; done
}

say() { # say TEXT NAME FILE: in the room of NAME; FILE is there whole or not at all, and the first one stays
  printf '%s\n' "$1" 1<>"$own.$2"
  mv -n -- "$own.$2" "$3" || true
}

full() { # full: whether the disk of the run folder is
  local blocks size
  read -r blocks size < <(stat -f -c "%a %S" -- .)
  ((blocks * size < 1024 * 1024))
}

watch() { # watch: runs train.sh, and ends it when something is wrong here or elsewhere
  local status=0 why="" child
  trap end_all EXIT # whatever goes wrong here
  MOE_LAUNCH_NODE="$id-$node" bash train.sh </dev/null >>"$own.log" 2>&1 &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    touch -- "$own.alive" 2>/dev/null || true # the others notice
    why="$(trouble)"
    [[ -z "$why" ]] || break
    sleep 0.5
  done
  [[ -z "$why" ]] || end_all
  wait "$child" || status=$?
  [[ "$status" == 0 || -n "$why" ]] || ! full || why="and the disk of $PWD is full"
  ((status == 0)) || [[ "$why" == stopped ]] || say "${why:-because node-$node failed}" why "$folder/failed"
  end_all
  [[ -z "$why" ]] || printf 'on_host.sh: ended, %s\n' "$why" >>"$own.log" || true
  say "$status $why" partial "$own.ended"
  rm -f -- "$own.why"
}

guard() { # guard: ends what is left when the watcher is killed, and says so
  local watcher
  watcher="$(<"$own.pid")"
  while kill -0 "$watcher" 2>/dev/null; do sleep 0.5; done
  end_all
  [[ ! -e "$own.ended" ]] || return 0
  say "because ${0##*/} of node-$node was killed" why "$folder/failed"
  say "137 because ${0##*/} was killed" partial "$own.ended"
  rm -f -- "$own.why"
}

state() { # state: one line
  local status why seconds
  if [[ -e "$own.ended" ]]; then
    read -r status why <"$own.ended"
    if [[ "$status" == 0 ]]; then
      echo succeeded
    elif [[ "$why" == stopped ]]; then
      echo stopped
    else # train.sh and node_env.sh end with 64 to 69, and say why last
      [[ -n "$why" || ! "$status" =~ ^6[4-9]$ ]] || why="$(tail -n 1 -- "$own.log")"
      echo "failed with status $status ${why}"
    fi
  elif [[ ! -e "$own.alive" ]]; then
    echo waiting
  else
    : >"$own.now"
    seconds="$(($(stat -c %Y -- "$own.now") - $(stat -c %Y -- "$own.alive")))"
    rm -f -- "$own.now"
    if ((seconds > silent)); then echo "lost: no sign of life for $seconds s"; else echo running; fi
  fi
}

case "$action" in
start)
  mkdir -p -- "$folder"
  # a submission that was cut off can come to a slow host after the next one has stopped it
  [[ ! -e "$folder/stop" ]] || { echo "${0##*/}: $id was stopped before node $node started" >&2; exit 1; }
  reserve
  setsid --fork bash "./${0##*/}" watch "$id" "$node" </dev/null >/dev/null 2>&1
  for ((waited = 0; waited < 100; waited++)); do
    [[ ! -e "$own.alive" ]] || exit 0
    sleep 0.1
  done
  echo "${0##*/}: train.sh did not start" >&2
  exit 1
  ;;
watch)
  printf '%s\n' "$$" >"$own.pid"
  setsid --fork bash "./${0##*/}" guard "$id" "$node" </dev/null >/dev/null 2>&1
  watch
  ;;
guard)
  printf '%s\n' "$$" >"$own.guard"
  guard
  ;;
state) state ;;
log) tail -n "$4" -- "$own.log" ;;
follow) tail -n "$4" -f --pid="$(<"$own.pid")" -- "$own.log" ;;
stop)
  mkdir -p -- "$folder"
  : >"$folder/stop"
  for ((waited = 0; waited < 20 * patience; waited++)); do
    [[ ! -e "$own.ended" && -e "$own.pid" && -e "/proc/$(<"$own.pid")" ]] || break
    sleep 0.1
  done
  end_all
  state
  ;;
esac
