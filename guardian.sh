#!/usr/bin/env bash
# Keeps one instance of web_app.py alive: starts it, watches it, restarts it when it is dead, hung or unhealthy.
#
# Usage: ./guardian.sh [COMMAND] [-- ARGUMENTS OF web_app.py]
#
#   (none)   watch in the foreground; made for: nohup ./guardian.sh > guardian.log 2>&1 &
#   start    watch in the background, output in guardian.log
#   stop     stop the guardian and its instance
#   restart  make the running guardian restart its instance as it was started;
#            with arguments, or when no guardian runs: stop, then start
#   status   what runs and how it is
#   logs     the last lines of every log; followed when written to a terminal
#   doctor   what went wrong, since when, why and what to do, from the logs; -- --json for programs
#   help     this text
#
# Exit status: 0 stopped as asked (status: healthy), 1 gave up (status: not healthy, or without a guardian),
# 2 wrong usage, 3 another guardian watches this folder (status: nothing runs), 69 a port is taken at the very
# first start, 78 halted: the configuration, of the instance or ours, is wrong and a restart cannot fix it.
# doctor: 0 nothing found, 1 warnings, 2 critical.
#
# One guardian watches one instance, told apart by OFA_RUN_DIR and the ports. A guardian that was killed may be
# started again: it adopts the running instance. An instance that ends by itself is started again whatever its
# exit code, except 78; to end it, stop it here. Settings come from the environment, times in seconds:
#
#   OFA_RUN_DIR            the instance's folder with web_app.pid, restart.log and its logs; beside web_app.py
#   OFA_PORT, OFA_HOST, OFA_HEALTH_PORT, OFA_HEALTH_HOST   as for web_app.py; its flags after -- count too
#   HEALTH_URL             ask this /health/simple and its neighbours; unset: the socket in the run directory
#   PYTHON                 the interpreter, when not .venv/bin/python
#   CHECK_INTERVAL=5       between two health checks;               CHECK_TIMEOUT=3   what one may take
#   WATCH_INTERVAL=1       between two checks of the process
#   UNHEALTHY_LIMIT=120    how long it may be unhealthy while live
#   START_TIMEOUT=1800     how long loading may take;               START_STALL=300   and without visible progress
#   STOP_TIMEOUT=30        from TERM to KILL;                       HUNG_STOP_TIMEOUT=2  the same when it is hung
#   KILL_TIMEOUT=10        how long a killed process may take to go
#   STABLE_PERIOD=60       healthy this long, restarts are counted from zero again
#   MAX_RESTARTS=5         failed restarts in a row before giving up
#   BACKOFF_FIRST=1        the pause before a restart; doubled each time up to BACKOFF_LIMIT=60
#   NOTIFY_COMMAND         a shell command run on [FATAL], with GUARDIAN_MESSAGE and OFA_RUN_DIR set
#   GUARDIAN_LOG_BYTES=1048576   a log of ours is rotated at this size

if [ -z "${BASH_VERSION:-}" ]; then exec bash -- "$0" "$@"; fi # started as `sh guardian.sh`
set +o posix
# Not `set -e`: a failing helper or a full disk must never end the watch, so each failure is met where it happens.
set -uo pipefail

declare -ra COMMANDS=(run start stop restart status logs doctor help)
SELF=$(readlink -f -- "${BASH_SOURCE[0]}")
readonly SELF ROOT=${SELF%/*}
readonly WEB_APP=$ROOT/web_app.py
readonly LIVENESS_FAILURES=3 LOGS_KEPT=3 LOG_LINES=8
readonly GAVE_UP=1 WRONG_USAGE=2 HELD=3 # our own exit status; and EXIT_CONFIGURATION

# The instance: its process, whether it is our child (else adopted), its console's keeper, and what was seen of it.
# Times are milliseconds of /proc/uptime, which no clock setting moves; empty means never, or not now.
child='' child_start='' child_ours='' console='' launched_at=0 launched_unix=0
answered='' live_failures=0 loading_since='' progress_at=0 healthy_since='' unhealthy_since=''
leaving_since='' stopped_since=''
last_answer=none last_answer_at=0 seen_answer='' seen_cpu=0 seen_io=0 seen_at=0 oom_kills=0

failures=0      # restarts since the instance was last healthy for STABLE_PERIOD
stable=''       # this instance was
ever_healthy='' # an instance of ours was, or ran when we came
cause='' facts=''  # of the restart that is about to be tried: a code, and fields KEY=value for restart.log
stop_asked='' restart_asked=''  # by a signal; handlers only record, and a stop is never taken back
orderly=yes     # whether the guardian means to end
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

# --- settings ---------------------------------------------------------------------------------------------------

usage_error() {
  echo "guardian.sh: $1 (see: guardian.sh help)" >&2
  exit "$WRONG_USAGE"
}

# Defines NAME_MS from the environment's NAME or the default.
seconds() {
  local -r value=${!1:-$2}
  [[ $value =~ ^([0-9]{1,8})(\.([0-9]+))?$ ]] || usage_error "$1=$value is not a number of seconds"
  local -r fraction=${BASH_REMATCH[3]:-}000
  declare -gr "$1_MS=$((10#${BASH_REMATCH[1]} * 1000 + 10#${fraction:0:3}))"
}

# Prints what web_app.py will take: its flag $1 among our arguments, its variable $2, the default $3.
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

read_settings() {
  seconds CHECK_INTERVAL 5; seconds CHECK_TIMEOUT 3; seconds WATCH_INTERVAL 1
  seconds UNHEALTHY_LIMIT 120; seconds START_TIMEOUT 1800; seconds START_STALL 300; seconds STABLE_PERIOD 60
  seconds STOP_TIMEOUT 30; seconds HUNG_STOP_TIMEOUT 2; seconds KILL_TIMEOUT 10
  seconds BACKOFF_FIRST 1; seconds BACKOFF_LIMIT 60
  ((CHECK_INTERVAL_MS && CHECK_TIMEOUT_MS && WATCH_INTERVAL_MS)) || usage_error 'an interval of 0 seconds is none'
  local -r restarts=${MAX_RESTARTS:-5} bytes=${GUARDIAN_LOG_BYTES:-1048576}
  [[ $restarts =~ ^[0-9]{1,6}$ ]] || usage_error "MAX_RESTARTS=$restarts is not a whole number"
  [[ $bytes =~ ^[0-9]{1,12}$ ]] || usage_error "GUARDIAN_LOG_BYTES=$bytes is not a number of bytes"
  readonly MAX_RESTARTS=$((10#$restarts)) LOG_BYTES=$((10#$bytes)) NOTIFY_COMMAND=${NOTIFY_COMMAND:-}

  HOST=$(flag_or --host OFA_HOST 0.0.0.0)
  HEALTH_HOST=$(flag_or --health-host OFA_HEALTH_HOST 0.0.0.0)
  PORT=$(flag_or --port OFA_PORT 7860)
  HEALTH_PORT=$(flag_or --health-port OFA_HEALTH_PORT 8000)
  [[ $PORT =~ ^[0-9]{1,5}$ && $HEALTH_PORT =~ ^[0-9]{1,5}$ ]] || usage_error "the ports $PORT, $HEALTH_PORT are no numbers"
  PORT=$((10#$PORT)) HEALTH_PORT=$((10#$HEALTH_PORT))
  readonly HOST HEALTH_HOST PORT HEALTH_PORT
  ((HEALTH_PORT > 0)) || usage_error 'the health port may not be 0: it could not be watched'
  local host=$HEALTH_HOST
  case $host in 0.0.0.0 | '') host=127.0.0.1 ;; ::) host='[::1]' ;; *:*) host="[$host]" ;; esac
  local url=${HEALTH_URL:-http://$host:$HEALTH_PORT}
  [[ $url =~ ^https?://[^[:space:][:cntrl:]]+$ ]] || usage_error "HEALTH_URL=$url is not an http:// or https:// address"
  url=${url%/} url=${url%/health/simple}
  readonly BASE_URL=$url PUBLIC=${HEALTH_URL:+yes}

  local folder
  folder=$(flag_or --run-dir OFA_RUN_DIR "$ROOT")
  [[ $folder == \~/* ]] && folder=$HOME/${folder:2}
  mkdir -p -- "$folder" 2>/dev/null
  RUN_DIR=$(readlink -e -- "$folder")
  [[ -d $RUN_DIR ]] || usage_error "the folder $folder cannot be made"
  readonly RUN_DIR PID_FILE=$RUN_DIR/web_app.pid LOCK_FILE=$RUN_DIR/guardian.lock RESTART_LOG=$RUN_DIR/restart.log LAST_EXIT=$RUN_DIR/last_exit.json
  readonly RESTART_COUNTS=$RUN_DIR/restart_counts
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
  [[ " ${COMMANDS[*]} " == *" $command "* ]] || usage_error "there is no command '$command'; arguments of web_app.py go after --"
  if [[ $# -gt 0 ]]; then
    [[ $1 == -- ]] || usage_error "'$1' is not understood; arguments of web_app.py go after --"
    shift
  fi
  ARGUMENTS=("$@")
  readonly ARGUMENTS
  [[ $command == help ]] || read_settings
  exec 8<> <(:)
  "command_$command"
}

main "$@"
