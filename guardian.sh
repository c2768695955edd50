#!/usr/bin/env bash
# Watchdog for one instance of web_app.py: starts it, checks it, and restarts it when it exits, hangs or is unhealthy.
#
# Usage: ./guardian.sh [COMMAND] [-- ARGUMENTS OF web_app.py]
#
#   (none)   run in the foreground; intended use: nohup ./guardian.sh > guardian.log 2>&1 &
#   start    run in the background, output in guardian.log
#   stop     stop the guardian and its instance
#   restart  restart the instance with its present arguments;
#            with arguments, or if no guardian runs: stop, then start
#   status   show what runs and its health
#   logs     show the last lines of every log; follow them on a terminal
#   doctor   find problems in the logs: since when, why, and how to fix them; -- --json for programs
#   fleet start|status|stop|restart [--instances N] [--per-gpu]
#            several instances on this machine, each with a guardian of its own; restart: one after the other
#   help     show this text
#
# Exit status: 0 stopped on request (status: healthy), 1 gave up (status: unhealthy, or without a guardian),
# 2 wrong usage, 3 another guardian watches this folder (status: nothing runs), 69 a port is already in use at the
# first start, 78 halted: the configuration of instance or guardian is wrong and a restart cannot fix it.
# doctor: 0 no problem, 1 warnings, 2 critical, 64 no logs.
# fleet: 0 all ready, all stopped or (status) all healthy; 1 not all; 3 another fleet command works (status: nothing runs).
#
# One guardian watches one instance, identified by OFA_RUN_DIR and the ports. A new guardian adopts the running
# instance of one that was killed. An instance that exits is restarted whatever its exit code, except 78, 126 and 127;
# use stop to end it. Settings are environment variables, times in seconds:
#
#   OFA_RUN_DIR            the instance's folder: web_app.pid, restart.log, logs; default: beside web_app.py
#   OFA_PORT, OFA_HOST, OFA_HEALTH_PORT, OFA_HEALTH_HOST   as for web_app.py; its flags after -- have precedence
#   HEALTH_URL             request this /health/simple and the endpoints beside it, not the socket in the run directory
#   PYTHON                 the interpreter; default .venv/bin/python
#   CHECK_INTERVAL=5       between health checks;                   CHECK_TIMEOUT=3   for one health check
#   WATCH_INTERVAL=1       between checks of the process
#   UNHEALTHY_LIMIT=120    how long a live instance may be unhealthy
#   START_TIMEOUT=1800     how long loading may take;               START_STALL=300   and without progress
#   STOP_TIMEOUT=30        from TERM to KILL, plus --drain-delay;   HUNG_STOP_TIMEOUT=2  for a hung instance
#   KILL_TIMEOUT=10        from KILL to the exit
#   STABLE_PERIOD=60       after this time in good health, failed restarts are counted from zero
#   MAX_RESTARTS=5         consecutive failed restarts before giving up
#   BACKOFF_FIRST=1        pause before a restart; doubled each time up to BACKOFF_LIMIT=60
#   NOTIFY_COMMAND         shell command run on [FATAL], with GUARDIAN_MESSAGE and OFA_RUN_DIR set
#   GUARDIAN_LOG_BYTES=1048576   size at which restart.log, guardian.log and console.log are rotated

if [ -z "${BASH_VERSION:-}" ]; then exec bash -- "$0" "$@"; fi # started as `sh guardian.sh`
set +o posix
# Not `set -e`: a failing helper or a full disk must not end the watchdog. Failures are handled where they occur.
set -uo pipefail

declare -ra COMMANDS=(run start stop restart status logs doctor fleet help)
SELF=$(readlink -f -- "${BASH_SOURCE[0]}")
readonly SELF ROOT=${SELF%/*}
readonly WEB_APP=$ROOT/web_app.py
readonly LIVENESS_FAILURES=3 LOGS_KEPT=3 LOG_LINES=8
readonly GAVE_UP=1 WRONG_USAGE=2 HELD=3 # exit status of the guardian, beside EXIT_CONFIGURATION and EXIT_PORT_TAKEN

# State of the instance: its process, whether it is our child (else adopted), the writer of its console log, and what
# was observed. Times are monotonic milliseconds (/proc/uptime); empty means never, or not now.
child='' child_start='' child_ours='' console='' launched_at=0 launched_unix=0
answered='' live_failures=0 loading_since='' progress_at=0 healthy_since='' unhealthy_since=''
exit_announced_at='' stopped_since=''
last_answer=none last_answer_at=0 seen_answer='' seen_cpu=0 seen_io=0 seen_at=0 oom_kills=0

failures=0                     # restarts since an instance was last healthy for STABLE_PERIOD
stable=''                      # whether this instance was healthy for STABLE_PERIOD
ever_healthy=''                # whether any instance was healthy, or was adopted
cause='' facts=''              # of the next restart: a code, and KEY=value fields for restart.log
stop_asked='' restart_asked='' # set by signal handlers; a stop request is final
planned_exit=yes               # whether the guardian exits on purpose
now=0 awake_at=0

# shellcheck source=guardian/causes.sh
source "$ROOT/guardian/causes.sh"
# shellcheck source=guardian/log.sh
source "$ROOT/guardian/log.sh"
# shellcheck source=guardian/process.sh
source "$ROOT/guardian/process.sh"
# shellcheck source=guardian/health.sh
source "$ROOT/guardian/health.sh"
# shellcheck source=guardian/instance.sh
source "$ROOT/guardian/instance.sh"
# shellcheck source=guardian/watch.sh
source "$ROOT/guardian/watch.sh"
# shellcheck source=guardian/commands.sh
source "$ROOT/guardian/commands.sh"
# shellcheck source=guardian/fleet.sh
source "$ROOT/guardian/fleet.sh"
# shellcheck source=guardian/fleet_settings.sh
source "$ROOT/guardian/fleet_settings.sh"

# --- settings ---------------------------------------------------------------------------------------------------

usage_error() {
  echo "guardian.sh: $1 (see: guardian.sh help)" >&2
  exit "$WRONG_USAGE"
}

# seconds NAME DEFAULT [MORE_MS]: defines NAME_MS from the variable NAME, MORE_MS longer.
seconds() {
  local -r value=${!1:-$2}
  [[ $value =~ ^([0-9]{1,8})(\.([0-9]+))?$ ]] || usage_error "$1=$value is not a number of seconds"
  local -r fraction=${BASH_REMATCH[3]:-}000
  declare -gr "$1_MS=$((10#${BASH_REMATCH[1]} * 1000 + 10#${fraction:0:3} + ${3:-0}))"
}

# flag_or FLAG VARIABLE DEFAULT: prints the value that web_app.py will use.
flag_or() {
  local value=${!2:-$3} i
  for ((i = 0; i < ${#ARGUMENTS[@]}; i++)); do
    case ${ARGUMENTS[i]} in
      "$1") value=${ARGUMENTS[i + 1]:-} ;;
      "$1="*) value=${ARGUMENTS[i]#*=} ;;
    esac
  done
  printf '%s' "$value"
}

read_limits() {
  seconds CHECK_INTERVAL 5; seconds CHECK_TIMEOUT 3; seconds WATCH_INTERVAL 1
  seconds UNHEALTHY_LIMIT 120; seconds START_TIMEOUT 1800; seconds START_STALL 300; seconds STABLE_PERIOD 60
  # shellcheck disable=SC2034 # read by name in seconds()
  local -r OFA_DRAIN_DELAY=$(flag_or --drain-delay OFA_DRAIN_DELAY 0)
  seconds OFA_DRAIN_DELAY 0; seconds STOP_TIMEOUT 30 "$OFA_DRAIN_DELAY_MS"; seconds HUNG_STOP_TIMEOUT 2; seconds KILL_TIMEOUT 10
  seconds BACKOFF_FIRST 1; seconds BACKOFF_LIMIT 60
  ((CHECK_INTERVAL_MS && CHECK_TIMEOUT_MS && WATCH_INTERVAL_MS)) || usage_error 'an interval must be longer than 0 seconds'
  local -r restarts=${MAX_RESTARTS:-5} bytes=${GUARDIAN_LOG_BYTES:-1048576}
  [[ $restarts =~ ^[0-9]{1,6}$ ]] || usage_error "MAX_RESTARTS=$restarts is not a whole number"
  [[ $bytes =~ ^[0-9]{1,12}$ ]] || usage_error "GUARDIAN_LOG_BYTES=$bytes is not a number of bytes"
  readonly MAX_RESTARTS=$((10#$restarts)) LOG_BYTES=$((10#$bytes)) NOTIFY_COMMAND=${NOTIFY_COMMAND:-}
}

read_addresses() {
  HOST=$(flag_or --host OFA_HOST 0.0.0.0)
  HEALTH_HOST=$(flag_or --health-host OFA_HEALTH_HOST 0.0.0.0)
  PORT=$(flag_or --port OFA_PORT 7860)
  HEALTH_PORT=$(flag_or --health-port OFA_HEALTH_PORT 8000)
  [[ $PORT =~ ^[0-9]{1,5}$ && $HEALTH_PORT =~ ^[0-9]{1,5}$ ]] || usage_error "the ports $PORT and $HEALTH_PORT must be numbers"
  PORT=$((10#$PORT)) HEALTH_PORT=$((10#$HEALTH_PORT))
  readonly HOST HEALTH_HOST PORT HEALTH_PORT
  ((HEALTH_PORT > 0)) || usage_error 'the health port must not be 0: the guardian could not find it'
  local host=$HEALTH_HOST
  case $host in 0.0.0.0 | '') host=127.0.0.1 ;; ::) host='[::1]' ;; *:*) host="[$host]" ;; esac
  local url=${HEALTH_URL:-http://$host:$HEALTH_PORT}
  [[ $url =~ ^https?://[^[:space:][:cntrl:]]+$ ]] || usage_error "HEALTH_URL=$url is not an http:// or https:// address"
  url=${url%/} url=${url%/health/simple}
  readonly BASE_URL=$url PUBLIC=${HEALTH_URL:+yes}
}

read_paths() {
  local folder
  folder=$(flag_or --run-dir OFA_RUN_DIR "$ROOT")
  [[ $folder == \~/* ]] && folder=$HOME/${folder:2}
  mkdir -p -- "$folder" 2>/dev/null
  RUN_DIR=$(readlink -e -- "$folder")
  [[ -d $RUN_DIR ]] || usage_error "the folder $folder cannot be created"
  readonly RUN_DIR PID_FILE=$RUN_DIR/web_app.pid LOCK_FILE=$RUN_DIR/guardian.lock LAST_EXIT=$RUN_DIR/last_exit.json
  readonly RESTART_LOG=$RUN_DIR/restart.log RESTART_COUNTS=$RUN_DIR/restart_counts
  readonly HEALTH_SOCKET=$RUN_DIR/health.sock HEARTBEAT=$RUN_DIR/heartbeat
  readonly APP_LOG=$RUN_DIR/web_app.log CONSOLE_LOG=$RUN_DIR/console.log GUARDIAN_LOG=$RUN_DIR/guardian.log
  readonly INTERPRETER=${PYTHON:-$ROOT/.venv/bin/python}
}

main() {
  local command=run
  case ${1:-} in
    -h | --help) command=help; shift ;;
    -- | '') ;;
    *) command=$1; shift ;;
  esac
  [[ " ${COMMANDS[*]} " == *" $command "* ]] || usage_error "unknown command '$command'; arguments of web_app.py go after --"
  exec 8<> <(:)
  if [[ $command == fleet ]]; then
    command_fleet "$@"
    return
  fi
  if [[ $# -gt 0 ]]; then
    [[ $1 == -- ]] || usage_error "unexpected argument '$1'; arguments of web_app.py go after --"
    shift
  fi
  ARGUMENTS=("$@")
  readonly ARGUMENTS
  if [[ $command != help ]]; then read_limits; read_addresses; read_paths; fi
  "command_$command"
}

main "$@"
