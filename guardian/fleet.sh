# shellcheck shell=bash
# The fleet: several instances on one machine, each with its own guardian, run directory and ports.
# shellcheck disable=SC2034,SC2154  # state and settings are declared in guardian.sh, which sources this

readonly FLEET_MOST=255    # the highest --instance
readonly FLEET_POLL_MS=300 # between two polls of an instance that is to become ready
readonly FLEET_ABSENT=5    # polls without a guardian after which it counts as gone: it may be starting

# The fleet's settings, kept in the file fleet.settings for later commands.
instances='' per_gpu='' first_port=7860 first_health_port=8000
stored=()      # what the file holds
reconfigure='' # whether this command has options: a restart then applies them and the environment
deadline=0     # of waiting for readiness

command_fleet() {
  local -r action=${1:-}
  [[ " start status stop restart " == *" $action "* ]] || usage_error "unknown command 'fleet $action'; start, status, stop or restart"
  shift
  check_programs
  open_fleet
  if [[ $action != status ]]; then take_lock; write_lock_owner; fi
  read_fleet "$action" "$@"
  read_limits
  [[ $action != *start ]] || check_unchanged "$action"
  if [[ $action == *start && -z $per_gpu$(flag_or --threads OFA_THREADS '') ]]; then
    OFA_THREADS=$(fair_share)
    export OFA_THREADS
  fi
  "fleet_$action"
}

# --- one instance -----------------------------------------------------------------------------------------------

# in_instance NUMBER COMMAND...: runs it in a subshell with the settings of this instance.
in_instance() (
  exec 9>&- # the fleet's lock
  export OFA_INSTANCE=$1 OFA_RUN_DIR=$FLEET/$1
  export OFA_PORT=$((first_port + $1 - 1)) OFA_HEALTH_PORT=$((first_health_port + $1 - 1))
  if [[ $per_gpu ]]; then
    export OFA_DEVICE=cuda:$(($1 - 1))
  fi
  shift
  read_addresses
  read_paths
  "$@"
)

# Succeeds if the instance has a guardian or a process.
occupied() {
  find_guardian || read_pid_file
}

# Prints the state of the instance in words without spaces, `-` for unknown.
describe() {
  local instance='' since='' state=down restarts=0 key value asked_at=''
  ready=no healthy='' queue='' evidence_age='' device=''
  find_guardian && state=restarting
  read_clock
  if read_pid_file; then
    instance=$file_pid since=$file_start asked_at=$file_url launched_at=$((file_start * 10)) state=silent
    [[ -e $HEALTH_SOCKET || -e $HEARTBEAT ]] || state=starting
    read_stat "$instance"
    if [[ ${stat[0]:-} == T ]]; then
      state=suspended
    elif ask; then
      state=${phase:-$model}
      [[ $live == yes ]] || state=not-live healthy=no
      [[ $ready ]] || ask_readiness
    fi
  fi
  { while read -r key value; do
    [[ $key =~ ^[a-z_]+$ && $key != asked && $value =~ ^[0-9]{1,9}$ ]] && ((restarts += 10#$value))
  done <"$RESTART_COUNTS"; } 2>/dev/null
  for value in "$instance" "$since" "$guardian" "$state" "${ready:-no}" "$healthy" "$evidence_age" "$queue" "$restarts" "$device"; do
    [[ $value =~ ^[[:alnum:]:_-]{1,24}$ ]] || value=-
    printf '%s ' "$value"
  done
}

# An instance on a file system without sockets, or of an earlier version, answers on its health port.
ask_readiness() {
  fetch -- "${asked_at:-$BASE_URL}/readyz"
  ready=no
  [[ $status != 200 ]] || ready=yes
}

# Restarts the instance through its guardian; with options, or without a guardian, by a stop and a start.
renew() {
  if [[ -z $reconfigure ]] && find_guardian; then
    kill -s USR1 -- "$guardian"
  else
    command_stop
    command_start
  fi
}

# --- all instances ----------------------------------------------------------------------------------------------

# Sets `running`: the instances that run, also those above the fleet's number.
find_running() {
  local number
  running=()
  for ((number = 1; number <= FLEET_MOST; number++)); do
    if [[ -d $FLEET/$number ]] && in_instance "$number" occupied; then running+=("$number"); fi
  done
}

# poll_all NUMBER...: sets their `rows`. All are asked at once, so that hung ones delay it by one CHECK_TIMEOUT together.
poll_all() {
  local number fd
  local -A pipes=()
  rows=()
  for number; do
    exec {fd}< <(in_instance "$number" describe)
    pipes[$number]=$fd
  done
  for number; do
    fd=${pipes[$number]}
    IFS= read -ru "$fd" "rows[$number]"
    exec {fd}<&-
  done
}

# split NUMBER: sets the fields of an instance's row.
split() {
  read -r pid since watcher phase ready healthy evidence_age queue restarts device <<<"${rows[$1]:-- - - unknown no - - - - -}"
}

# poll NUMBER: asks one instance and sets its fields.
poll() {
  poll_all "$1"
  split "$1"
}

# wait_ready NUMBER [START_TIME]: waits until the instance is ready; given a start time, one that started at another time.
# Fails at the deadline, or when its guardian is gone.
wait_ready() {
  local absent=0
  while :; do
    poll "$1"
    [[ $ready == yes && $watcher != - && $since != "${2:-}" ]] && return
    [[ $watcher != - ]] && absent=0
    read_clock
    ((absent++ < FLEET_ABSENT && now < deadline)) || return 1
    sleep_ms "$FLEET_POLL_MS"
  done
}

# wait_until_ready NUMBER MS [START_TIME]: the same with a message; the deadline is in MS milliseconds.
wait_until_ready() {
  read_clock
  deadline=$((now + $2))
  if wait_ready "$1" "${3:-}"; then
    echo "instance $1: ready, process $pid, ports $((first_port + $1 - 1)) and $((first_health_port + $1 - 1))"
  else
    echo "guardian.sh: instance $1 is not ready (phase $phase); see: OFA_RUN_DIR=$FLEET/$1 guardian.sh logs" >&2
    return 1
  fi
}

# --- commands ---------------------------------------------------------------------------------------------------

# One after the other: the first is ready soonest, and what it downloads and converts is there for the others.
fleet_start() {
  local number until code=0
  local -a late=()
  save_settings
  read_clock
  until=$((now + START_TIMEOUT_MS))
  for ((number = 1; number <= instances; number++)); do
    poll "$number"
    if [[ $watcher != - && $healthy == yes ]]; then
      echo "instance $number: already runs, process $pid"
      continue
    fi
    if [[ $watcher == - ]] && ! in_instance "$number" command_start >/dev/null; then
      late+=("$number")
      continue
    fi
    wait_until_ready "$number" "$((until - now < START_STALL_MS ? until - now : START_STALL_MS))" || late+=("$number")
  done
  for number in "${late[@]}"; do
    read_clock
    wait_until_ready "$number" $((until - now)) || code=$GAVE_UP
  done
  ((code == 0)) || exit "$code"
  stop_surplus
}

# Stops running instances above the number of instances.
stop_surplus() {
  local number
  local -a surplus=()
  find_running
  for number in "${running[@]}"; do
    ((number <= instances)) || surplus+=("$number")
  done
  stop_all "${surplus[@]}"
}

# stop_all NUMBER...: stops them at the same time, each bounded as by its own command.
stop_all() {
  local number code=0
  local -A jobs=()
  for number; do stop_one "$number" & jobs[$number]=$!; done
  for number; do wait "${jobs[$number]}" || code=$GAVE_UP; done
  return "$code"
}

stop_one() {
  local line text code=0
  text=$(in_instance "$1" command_stop 2>&1) || code=$?
  while IFS= read -r line; do echo "instance $1: $line"; done <<<"$text"
  return "$code"
}

fleet_stop() {
  find_running
  [[ ${#running[@]} -gt 0 ]] || echo "nothing runs in $FLEET"
  stop_all "${running[@]}"
}

# One after the other: first those that do not serve, then each healthy one while all others are ready.
fleet_restart() {
  local number other
  local -a numbers=() broken=() serving=()
  for ((number = 1; number <= instances; number++)); do numbers+=("$number"); done
  poll_all "${numbers[@]}"
  for number in "${numbers[@]}"; do
    split "$number"
    if [[ $healthy == yes ]]; then serving+=("$number"); else broken+=("$number"); fi
  done
  for number in "${broken[@]}"; do restart_one "$number"; done
  for number in "${serving[@]}"; do
    for other in "${numbers[@]}"; do
      ((other != number)) || continue
      poll "$other"
      [[ $ready == yes ]] && continue
      read_clock
      deadline=$((now + START_TIMEOUT_MS))
      wait_ready "$other" || stop_rolling "instance $other is not ready"
    done
    restart_one "$number"
  done
  [[ -z $reconfigure ]] && return
  save_settings
  stop_surplus
}

restart_one() {
  poll "$1"
  local -r before=$since
  in_instance "$1" renew >/dev/null || stop_rolling "instance $1 cannot be restarted"
  wait_until_ready "$1" $((STOP_TIMEOUT_MS + 3 * KILL_TIMEOUT_MS + START_TIMEOUT_MS)) "$before" ||
    stop_rolling "instance $1 did not come back"
}

stop_rolling() {
  echo "guardian.sh: the restart has ended: $1. The other instances were left as they are; see: guardian.sh fleet status" >&2
  exit "$GAVE_UP"
}

fleet_status() {
  local number well=yes
  local -a numbers=()
  local -r row='%-8s  %-8s  %-8s  %-11s  %-13s  %-5s  %-7s  %8s  %5s  %8s  %s\n'
  find_running
  for ((number = 1; number <= FLEET_MOST; number++)); do
    if ((number <= ${instances:-0})) || [[ " ${running[*]} " == *" $number "* ]]; then numbers+=("$number"); fi
  done
  [[ ${#numbers[@]} -gt 0 ]] || { echo "no fleet in $FLEET; start one: guardian.sh fleet start --instances N"; exit "$HELD"; }
  poll_all "${numbers[@]}"
  # shellcheck disable=SC2059  # the format is a constant
  printf "$row" INSTANCE PID GUARDIAN PORTS PHASE READY HEALTHY EVIDENCE QUEUE RESTARTS DEVICE
  for number in "${numbers[@]}"; do
    split "$number"
    [[ $evidence_age == - ]] || evidence_age+=s
    # shellcheck disable=SC2059
    printf "$row" "$number" "$pid" "$watcher" "$((first_port + number - 1)),$((first_health_port + number - 1))" "$phase" \
      "$ready" "$healthy" "$evidence_age" "$queue" "$restarts" "$device"
    [[ $pid != - && $watcher != - && $healthy == yes ]] || well=''
  done
  [[ ${#running[@]} -gt 0 ]] || exit "$HELD"
  [[ $well ]] || exit "$GAVE_UP"
}
