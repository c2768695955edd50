# shellcheck shell=bash
# The settings of a fleet: from options and environment, else from the file fleet.settings of the last start.
# shellcheck disable=SC2034,SC2154  # state and settings are declared in guardian.sh and fleet.sh

open_fleet() {
  [[ -z ${HEALTH_URL:-} ]] || usage_error 'HEALTH_URL would be the same for all instances of a fleet: unset it'
  FLEET=${OFA_RUN_DIR:-$ROOT/run}
  mkdir -p -- "$FLEET" 2>/dev/null
  FLEET=$(readlink -e -- "$FLEET")
  [[ -d $FLEET ]] || usage_error "the folder ${OFA_RUN_DIR:-$ROOT/run} cannot be created"
  readonly FLEET SETTINGS=$FLEET/fleet.settings
  RUN_DIR=$FLEET LOCK_FILE=$FLEET/fleet.lock # of this process; in_instance sets those of an instance
}

# read_fleet ACTION OPTION...: sets the fleet's settings from options and environment, else from fleet.settings.
read_fleet() {
  local -r action=$1
  local wanted='' gpus='' with_arguments=''
  shift
  [[ -f $SETTINGS && -O $SETTINGS ]] && mapfile -d '' -t stored <"$SETTINGS"
  [[ "${stored[*]:0:4}" =~ ^[0-9]{1,3}\ (yes)?\ [0-9]{1,5}\ [0-9]{1,5}$ ]] || stored=()
  while [[ $# -gt 0 && $1 != -- ]]; do
    case $1 in
      --instances) wanted=${2:-none}; [[ $# -eq 1 ]] || shift ;;
      --instances=*) wanted=${1#*=} wanted=${wanted:-none} ;;
      --per-gpu) gpus=yes ;;
      *) usage_error "unexpected argument '$1'; arguments of web_app.py go after --" ;;
    esac
    shift
  done
  if [[ $# -gt 0 ]]; then with_arguments=yes; shift; fi
  reconfigure=$wanted$gpus$with_arguments
  [[ -z $reconfigure || $action == *start ]] || usage_error "fleet $action has no options: it concerns all instances"
  instances=${stored[0]:-} per_gpu=${stored[1]:-}
  first_port=${stored[2]:-7860} first_health_port=${stored[3]:-8000}
  [[ $action != *start ]] || first_port=${OFA_PORT:-$first_port} first_health_port=${OFA_HEALTH_PORT:-$first_health_port}
  [[ -z $wanted$gpus ]] || read_size "$wanted" "$gpus"
  ARGUMENTS=("${stored[@]:4}")
  [[ -z $with_arguments ]] || ARGUMENTS=("$@")
  readonly ARGUMENTS
  export OFA_DRAIN_DELAY=${OFA_DRAIN_DELAY:-3} # a load balancer has to notice first
  [[ $action == *start ]] || return 0
  check_arguments
  check_ports
}

# read_size INSTANCES PER_GPU: sets the number of instances from the options.
read_size() {
  instances=$1 per_gpu=$2
  if [[ ! $instances =~ ^([1-9][0-9]{0,2})?$ ]] || ((${instances:-1} > FLEET_MOST)); then
    usage_error "--instances $instances is not a number from 1 to $FLEET_MOST"
  fi
  [[ $per_gpu ]] || return 0
  local -a found=()
  if [[ ${CUDA_VISIBLE_DEVICES:-} ]]; then
    [[ $CUDA_VISIBLE_DEVICES == -* ]] || IFS=, read -ra found <<<"$CUDA_VISIBLE_DEVICES"
  else
    mapfile -t found < <(timeout 20 nvidia-smi -L 2>/dev/null | grep '^GPU ')
  fi
  : "${instances:=${#found[@]}}"
  ((instances && instances <= ${#found[@]})) && return
  echo "guardian.sh: --per-gpu needs a GPU for each instance; nvidia-smi or CUDA_VISIBLE_DEVICES names ${#found[@]}." >&2
  exit "$EXIT_CONFIGURATION"
}

check_arguments() {
  local argument
  [[ $instances ]] || usage_error 'how many instances? Pass --instances N or --per-gpu'
  for argument in "${ARGUMENTS[@]%%=*}"; do
    case $argument in
      --port | --health-port) usage_error "$argument would be the same for all instances: set OFA_PORT or OFA_HEALTH_PORT to the first one's" ;;
      --run-dir) usage_error '--run-dir would be the same for all instances: set OFA_RUN_DIR to the folder of the fleet' ;;
      --instance) usage_error '--instance would be the same for all instances: they are numbered from 1' ;;
      --device) [[ -z $per_gpu ]] || usage_error '--device and --per-gpu exclude each other' ;;
    esac
  done
}

check_ports() {
  [[ $first_port =~ ^[0-9]{1,5}$ && $first_health_port =~ ^[0-9]{1,5}$ ]] || usage_error "the ports $first_port and $first_health_port must be numbers"
  first_port=$((10#$first_port)) first_health_port=$((10#$first_health_port))
  local -r last_port=$((first_port + instances - 1)) last_health_port=$((first_health_port + instances - 1))
  ((first_port && first_health_port && last_port < 65536 && last_health_port < 65536)) ||
    usage_error "the ports $first_port to $last_port and $first_health_port to $last_health_port are not all possible"
  ((last_port < first_health_port || last_health_port < first_port)) ||
    usage_error "the ports $first_port to $last_port and $first_health_port to $last_health_port overlap"
}

# check_unchanged ACTION: refuses ports, and at a start arguments, that running instances do not have.
check_unchanged() {
  local -r ports="${stored[2]:-} ${stored[3]:-}"
  local -ra old=("${stored[@]:1:1}" "${stored[@]:4}") new=("$per_gpu" "${ARGUMENTS[@]}")
  find_running
  [[ ${#stored[@]} -gt 0 && ${#running[@]} -gt 0 ]] || return 0
  [[ $ports == "$first_port $first_health_port" ]] ||
    usage_error "the running instances have the ports from ${ports/ / and } on: stop the fleet first"
  [[ $1 == restart || ${old[*]@Q} == "${new[*]@Q}" ]] ||
    usage_error 'the running instances have other arguments: guardian.sh fleet restart applies new ones, one instance at a time'
}

save_settings() {
  local mask
  mask=$(umask)
  umask 077
  { printf '%s\0' "$instances" "$per_gpu" "$first_port" "$first_health_port" "${ARGUMENTS[@]}" >"$SETTINGS.new"; } 2>/dev/null &&
    mv -f -- "$SETTINGS.new" "$SETTINGS" 2>/dev/null
  local -r code=$?
  umask "$mask"
  ((code == 0)) && return
  echo "guardian.sh: cannot write $SETTINGS." >&2
  exit "$EXIT_CONFIGURATION"
}

# Prints a fair share of the physical cores that this process may use, at least one. torch alone takes all of them.
fair_share() {
  local key allowed range cpu siblings
  local -A cores=()
  while IFS=$':\t' read -r key allowed; do [[ $key == Cpus_allowed_list ]] && break; done </proc/self/status
  for range in ${allowed//,/ }; do
    for ((cpu = ${range%-*}; cpu <= ${range#*-}; cpu++)); do
      siblings=$cpu
      { read -r siblings <"/sys/devices/system/cpu/cpu$cpu/topology/thread_siblings_list"; } 2>/dev/null
      cores[$siblings]=1
    done
  done
  echo $((${#cores[@]} > instances ? ${#cores[@]} / instances : 1))
}
