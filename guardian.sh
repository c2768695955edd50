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
# 2 wrong usage, 3 another guardian watches this folder (status: nothing runs), 78 halted: the instance's
# configuration, or ours, is wrong, and no restart would mend it. doctor: 0 nothing found, 1 warnings, 2 critical.
#
# One guardian watches one instance, told apart by OFA_RUN_DIR and the ports. A guardian that was killed may be
# started again: it adopts the running instance. An instance that ends by itself is started again whatever its
# exit code, except 78; to end it, stop it here. Settings come from the environment, times in seconds:
#
#   OFA_RUN_DIR            the instance's folder with web_app.pid, restart.log and its logs; beside web_app.py
#   OFA_PORT, OFA_HOST, OFA_HEALTH_PORT, OFA_HEALTH_HOST   as for web_app.py; its flags after -- count too
#   HEALTH_URL             the address of /health/simple, when not http://127.0.0.1:8000/health/simple
#   PYTHON                 the interpreter: .venv/bin/python if there, else python3
#   CHECK_INTERVAL=5       between two looks at the endpoints;      CHECK_TIMEOUT=3   what one may take
#   WATCH_INTERVAL=1       between two looks at the process
#   UNHEALTHY_LIMIT=120    how long /health/simple may fail
#   START_TIMEOUT=1800     how long loading may take;               START_STALL=300   and without visible progress
#   STOP_TIMEOUT=30        from TERM to KILL;                       HUNG_STOP_TIMEOUT=2  the same when it is hung
#   KILL_TIMEOUT=10        how long a killed process may take to go
#   STABLE_PERIOD=60       healthy this long, restarts are counted from zero again
#   MAX_RESTARTS=5         failed restarts in a row before giving up
#   BACKOFF_FIRST=1        the pause before a restart; doubled each time up to BACKOFF_LIMIT=60
#   NOTIFY_COMMAND         a shell command run on [FATAL], with GUARDIAN_MESSAGE and OFA_RUN_DIR set
#   GUARDIAN_LOG_BYTES=1048576   a log of ours is rotated at this size
#
# Not `set -e`: a failing helper or a full disk must never end the watch, so each failure is met where it happens.
set -uo pipefail

declare -ra COMMANDS=(run start stop restart status logs doctor help)
SELF=$(readlink -f -- "${BASH_SOURCE[0]}")
readonly SELF ROOT=${SELF%/*}
readonly WEB_APP=$ROOT/web_app.py
readonly LIVENESS_FAILURES=3 LOGS_KEPT=3 LOG_LINES=8
readonly GAVE_UP=1 WRONG_USAGE=2 HELD=3 # our own exit status; and EXIT_CONFIGURATION

# The instance: its process, whether it is our child (else adopted), who keeps its console, what was seen of it.
# Times are milliseconds of /proc/uptime, which no clock setting moves; empty means never, or not now.
child='' child_start='' child_ours='' console='' launched_at=0
answered='' live_failures=0 loading_since='' progress_at=0 healthy_since='' unhealthy_since=''
leaving_since='' announced_code='' stopped_since=''
last_answer=none last_answer_at=0 seen_answer='' seen_cpu=0 seen_io=0 seen_at=0 oom_kills=0

failures=0     # restarts since the instance was last healthy for STABLE_PERIOD
stable=''      # this instance was
cause='' facts=''  # of the restart that is about to be tried: a code, and fields KEY=value for restart.log
asked=''       # stop or restart: what a signal asked for; handlers only record
orderly=yes    # whether the guardian means to end
now=0 awake_at=0

# shellcheck source=guardian/causes.sh
source "$ROOT/guardian/causes.sh"
# shellcheck source=guardian/journal.sh
source "$ROOT/guardian/journal.sh"
# shellcheck source=guardian/process.sh
source "$ROOT/guardian/process.sh"
# shellcheck source=guardian/health.sh
source "$ROOT/guardian/health.sh"

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
told() {
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
  readonly MAX_RESTARTS=${MAX_RESTARTS:-5} LOG_BYTES=${GUARDIAN_LOG_BYTES:-1048576} NOTIFY_COMMAND=${NOTIFY_COMMAND:-}
  [[ $MAX_RESTARTS =~ ^[0-9]{1,6}$ ]] || usage_error "MAX_RESTARTS=$MAX_RESTARTS is not a whole number"
  [[ $LOG_BYTES =~ ^[0-9]{1,12}$ ]] || usage_error "GUARDIAN_LOG_BYTES=$LOG_BYTES is not a number of bytes"

  HOST=$(told --host OFA_HOST 0.0.0.0)
  HEALTH_HOST=$(told --health-host OFA_HEALTH_HOST 0.0.0.0)
  PORT=$(told --port OFA_PORT 7860)
  HEALTH_PORT=$(told --health-port OFA_HEALTH_PORT 8000)
  [[ $PORT =~ ^[0-9]{1,5}$ && $HEALTH_PORT =~ ^[0-9]{1,5}$ ]] || usage_error "the ports $PORT, $HEALTH_PORT are no numbers"
  PORT=$((10#$PORT)) HEALTH_PORT=$((10#$HEALTH_PORT))
  readonly HOST HEALTH_HOST PORT HEALTH_PORT
  ((HEALTH_PORT > 0)) || usage_error 'the health port may not be 0: it could not be watched'
  local host=$HEALTH_HOST
  case $host in 0.0.0.0 | '') host=127.0.0.1 ;; ::) host='[::1]' ;; *:*) host="[$host]" ;; esac
  local url=${HEALTH_URL:-http://$host:$HEALTH_PORT}
  url=${url%/} url=${url%/health/simple}
  readonly BASE_URL=$url

  local folder
  folder=$(told --run-dir OFA_RUN_DIR "$ROOT")
  [[ $folder == \~/* ]] && folder=$HOME/${folder:2}
  mkdir -p -- "$folder" 2>/dev/null
  RUN_DIR=$(readlink -e -- "$folder")
  [[ -d $RUN_DIR ]] || usage_error "the folder $folder cannot be made"
  readonly RUN_DIR PID_FILE=$RUN_DIR/web_app.pid RESTART_LOG=$RUN_DIR/restart.log LAST_EXIT=$RUN_DIR/last_exit.json
  readonly RESTART_COUNTS=$RUN_DIR/restart_counts
  readonly APP_LOG=$RUN_DIR/web_app.log CONSOLE_LOG=$RUN_DIR/console.log GUARDIAN_LOG=$RUN_DIR/guardian.log

  INTERPRETER=${PYTHON:-python3}
  [[ -z ${PYTHON:-} && -x $ROOT/.venv/bin/python ]] && INTERPRETER=$ROOT/.venv/bin/python
  readonly INTERPRETER
}

# --- starting and stopping --------------------------------------------------------------------------------------

# A new instance to watch: nothing is known of it yet.
expect_instance() {
  tell_time
  launched_at=$now awake_at=$now loading_since=$now progress_at=$now seen_at=$now
  answered='' live_failures=0 healthy_since='' unhealthy_since='' last_answer=none last_answer_at=$now stable='' greeted=''
  seen_answer='' seen_cpu=0 seen_io=0 leaving_since='' announced_code='' stopped_since=''
  count_oom_kills
}

become_instance() {
  write_pid_file "$BASHPID"
  exec setsid -- "$INTERPRETER" "$WEB_APP" "${ARGUMENTS[@]}"
}

launch() {
  exec 7> >(keep_console >/dev/null 2>&1)
  console=$!
  become_instance </dev/null >&7 2>&1 7>&- 8>&- 9>&- &
  child=$! child_ours=yes child_start=''
  exec 7>&-
  read_stat "$child" && child_start=${stat[19]}
  expect_instance
  say INFO "started process $child, ports $PORT and $HEALTH_PORT, folder $RUN_DIR"
}

wait_gone() {
  tell_time
  local -r until=$((now + $1))
  while child_alive; do
    ((now < until)) || return 1
    nap 100
  done
}

# Stops the instance within bounds: TERM, then KILL to its whole group after $1 milliseconds. CONT goes along, or
# a stopped process never sees TERM. Fails only when told to stop while a process cannot be killed.
stop_instance() {
  if child_alive; then
    kill -s TERM -- "$child" 2>/dev/null
    kill -s CONT -- "-$child" 2>/dev/null
    if ! wait_gone "$1"; then
      record ALERT not_leaving "process $child did not end within $(show_time "$1") of TERM: killing it and its group"
      child_alive && kill -s KILL -- "-$child" "$child" 2>/dev/null
      wait_gone "$KILL_TIMEOUT_MS" || await_undead || return
    fi
  fi
  clear_group
  child='' child_ours=''
  rm -f -- "$PID_FILE" 2>/dev/null 9>&-
  wait_ports_free
}

# A process that KILL does not end sits in the kernel (state D). A second one beside it would fight for its
# ports and its GPU, so none is started until it is gone.
await_undead() {
  local warned=''
  while child_alive; do
    if [[ -z $warned ]] || ((now - warned > 60000)); then
      record ALERT undead "process $child cannot be killed (state ${stat[0]}): waiting for it, no second one is started"
      warned=$now
    fi
    [[ $asked == stop ]] && return 1
    nap "$WATCH_INTERVAL_MS"
  done
}

# What the instance left in its process group had its time to notice; then it is killed. The number of the
# group cannot be another's: we saw its leader end just now, and it is in use while a member lives.
clear_group() {
  local -r until=$((now + 2000))
  survey_group
  while ((group_size > 0 && now < until)); do nap 100; survey_group; done
  ((group_size > 0)) || return 0
  record ALERT leftovers "$group_size process(es) left in the group of $child: killing them"
  kill -s KILL -- "-$child" 2>/dev/null
  while ((group_size > 0 && now < until + KILL_TIMEOUT_MS)); do nap 100; survey_group; done
}

wait_ports_free() {
  local -r until=$((now + KILL_TIMEOUT_MS))
  while ports_taken && ((now < until)); do nap 200; done
}

# bring_up PAUSE: starts an instance after PAUSE milliseconds, once nobody else holds its ports.
bring_up() {
  local pause=$1
  while :; do
    pause_for "$pause"
    [[ $asked == stop ]] && return
    asked=''
    ports_taken || break
    name_holder
    count_failure port_taken "port $taken_port is taken by $holder, which is not ours and is left alone"
    back_off
  done
  launch
}

# count_failure CAUSE REASON: counts a restart that is about to be tried; gives up when there were too many.
count_failure() {
  ((failures < MAX_RESTARTS)) || give_up "$GAVE_UP" gave_up "gave up after $failures failed restarts in a row: $2"
  ((failures++))
  count_restart "$1"
  record ALERT "$1" "${facts}restart $failures of $MAX_RESTARTS: $2"
}

# Sets `pause` before the restart that `failures` counts: 1, 2, 4 ... 60 s, a quarter more or less so that
# instances that fell together do not come back together.
back_off() {
  local -r doublings=$((failures > 17 ? 16 : failures - 1))
  pause=$((BACKOFF_FIRST_MS << doublings))
  ((pause < BACKOFF_LIMIT_MS)) || pause=$BACKOFF_LIMIT_MS
  pause=$((pause * (75 + RANDOM % 51) / 100))
  say INFO "next start in $pause ms"
}

# restart CAUSE REASON STOP_TIMEOUT [AT_ONCE]: also at once after an instance that had been stable.
restart() {
  local pause=0
  local -r at_once=${4:-}$stable
  count_failure "$1" "$2; it ran $(show_time $((now - launched_at))), last answer $(show_time $((now - last_answer_at))) ago: $last_answer"
  show_last_lines
  stop_instance "$3" || return 0
  [[ $at_once ]] || back_off
  bring_up "$pause"
}

# give_up STATUS CAUSE REASON: the last words, and nothing half-alive left behind.
give_up() {
  record FATAL "$2" "$3"
  show_last_lines
  if [[ $NOTIFY_COMMAND ]]; then
    GUARDIAN_MESSAGE=$3 OFA_RUN_DIR=$RUN_DIR timeout -k 5 30 bash -c "$NOTIFY_COMMAND" </dev/null >/dev/null 2>&1 8>&- 9>&- ||
      say INFO 'NOTIFY_COMMAND failed or took longer than 30 s'
  fi
  [[ -z $child ]] || stop_instance "$STOP_TIMEOUT_MS"
  orderly=yes
  exit "$1"
}

# --- the watch --------------------------------------------------------------------------------------------------

meet_death() {
  learn_ending
  case $exit_code in
    "$EXIT_CONFIGURATION" | 126 | 127)
      ports_taken && name_holder && ending+="; port $taken_port is taken by $holder"
      give_up "$EXIT_CONFIGURATION" halted "${facts}halted, a restart cannot fix this: process $child $ending"
      ;;
    "$EXIT_HUNG" | "$EXIT_DEVICE_LOST") restart "$cause" "process $child $ending" "$STOP_TIMEOUT_MS" at_once ;;
    *) restart "$cause" "process $child $ending" "$STOP_TIMEOUT_MS" ;;
  esac
}

look() {
  check
  [[ $trouble ]] || return 0
  # One that died during the look failed it for that reason, which its exit code tells better.
  child_alive || return 0
  if [[ $announced_code == "$EXIT_CONFIGURATION" ]]; then
    give_up "$EXIT_CONFIGURATION" halted "halted, a restart cannot fix this: process $child $trouble"
  fi
  restart "$cause" "process $child $trouble" "$([[ $hung ]] && echo "$HUNG_STOP_TIMEOUT_MS" || echo "$STOP_TIMEOUT_MS")"
}

# The guardian itself may have been stopped, or the machine asleep: what was not watched proves nothing.
forgive_standstill() {
  local -r gap=$((now - awake_at))
  awake_at=$now
  ((gap > WATCH_INTERVAL_MS + CHECK_INTERVAL_MS + 4 * CHECK_TIMEOUT_MS)) || return 0
  say INFO "the guardian itself stood still for $(show_time "$gap"): its waits begin again"
  [[ $loading_since ]] && loading_since=$now progress_at=$now
  [[ $unhealthy_since ]] && unhealthy_since=$now
  [[ $healthy_since ]] && healthy_since=$now
  live_failures=0 stopped_since=''
}

watch() {
  local next=0
  while [[ $asked != stop ]]; do
    tell_time
    forgive_standstill
    if [[ $asked == restart ]]; then
      asked=''
      count_restart asked
      record ALERT asked "restarting process $child, as asked"
      stop_instance "$STOP_TIMEOUT_MS" && bring_up 0
    elif ! child_alive; then
      meet_death
    elif ((now >= next)); then
      look
      # Its first answer is looked for at every turn: until then, silence is taken for loading.
      next=$now
      [[ $answered ]] && next=$((now + CHECK_INTERVAL_MS))
    fi
    [[ $asked ]] || nap "$WATCH_INTERVAL_MS"
  done
}

cleanup() {
  local -r code=$?
  [[ $orderly ]] && return
  record FATAL guardian_ended "the guardian ended by itself (status $code)${child:+; process $child runs on, unguarded: start the guardian again to adopt it}"
}

take_lock() {
  exec 9<"$RUN_DIR"
  flock -w 0.5 9 && return
  find_guardian
  echo "guardian.sh: another guardian (process ${guardian:-unknown}) watches $RUN_DIR; see: guardian.sh status" >&2
  exit "$HELD"
}

# --- commands ---------------------------------------------------------------------------------------------------

command_run() {
  local program
  for program in curl flock setsid stat tail timeout "$INTERPRETER"; do
    command -v -- "$program" >/dev/null || { echo "guardian.sh: $program is not there: install it first" >&2; exit "$EXIT_CONFIGURATION"; }
  done
  take_lock
  orderly=''
  trap cleanup EXIT
  trap 'asked=stop' TERM INT HUP
  trap 'asked=restart' USR1
  trap : PIPE # a reader of our output that went away is no reason to stop
  say INFO "guardian $$ watches $RUN_DIR and $BASE_URL"
  if adopt; then say INFO "adopted process $child, running for $(show_time $((now - launched_at)))"; else bring_up 0; fi
  watch
  say INFO "stopping${child:+ process $child}, as asked"
  local code=0
  [[ -z $child ]] || stop_instance "$STOP_TIMEOUT_MS" || code=$GAVE_UP
  orderly=yes
  say INFO 'stopped'
  exit "$code"
}

command_start() {
  find_guardian && { echo "guardian.sh: another guardian (process $guardian) watches $RUN_DIR; see: guardian.sh status" >&2; exit "$HELD"; }
  rotate_if_large "$GUARDIAN_LOG"
  local output=$GUARDIAN_LOG
  { : >>"$output"; } 2>/dev/null || output=/dev/null
  setsid -- "$BASH" "$SELF" run -- "${ARGUMENTS[@]}" </dev/null >>"$output" 2>&1 8>&- &
  local -r started=$!
  tell_time
  local -r until=$((now + 3000)) # longer only when it waits, for a port say: its log tells
  while kill -0 "$started" 2>/dev/null && ((now < until)); do
    find_guardian && [[ $guardian == "$started" ]] && read_pid_file && break
    nap 50
  done
  if ! kill -0 "$started" 2>/dev/null; then
    wait "$started"
    local -r code=$?
    tail -n "$LOG_LINES" -- "$output" >&2
    exit "$code"
  fi
  echo "guardian $started watches $RUN_DIR; see: guardian.sh status, guardian.sh logs"
}

command_stop() {
  if find_guardian; then
    tell_time
    local -r until=$((now + STOP_TIMEOUT_MS + 3 * KILL_TIMEOUT_MS + 10000))
    kill -s TERM -- "$guardian"
    kill -s CONT -- "$guardian"
    while is_alive "$guardian" "$guardian_start"; do
      ((now < until)) || { echo "guardian.sh: guardian $guardian does not stop" >&2; exit "$GAVE_UP"; }
      nap 100
    done
  fi
  take_lock # an instance whose guardian was killed, or did not manage to stop it
  if read_pid_file; then
    child=$file_pid child_start=$file_start
    stop_instance "$STOP_TIMEOUT_MS" || exit "$GAVE_UP"
    echo "stopped process $file_pid"
  elif [[ -z $guardian ]]; then
    echo "nothing runs in $RUN_DIR"
  fi
  [[ -z $guardian ]] || echo "stopped guardian $guardian"
  exec 9<&- # a restart goes on from here
}

command_restart() {
  if [[ ${#ARGUMENTS[@]} -eq 0 ]] && find_guardian; then
    kill -s USR1 -- "$guardian"
    echo "guardian $guardian restarts its instance"
    return
  fi
  command_stop
  command_start
}

command_status() {
  find_guardian || true
  tell_time
  local instance='' asked_at=''
  read_pid_file && instance=$file_pid asked_at=$file_url
  local health="no answer from ${asked_at:-$BASE_URL}"
  echo "guardian: ${guardian:-none}"
  if [[ $instance ]]; then
    read_stat "$instance"
    instance="process $instance, up $(show_time $((now - file_start * 10)))"
    [[ ${stat[0]:-} != T ]] || instance+=', stopped (state T)'
  fi
  echo "instance: ${instance:-none}"
  [[ $guardian || $instance ]] || exit "$HELD"
  fetch /health/simple
  [[ $status == 000 ]] || health="$status $answer"
  [[ $status == 503 ]] && fetch /startupz && [[ $status == 503 ]] && health+=", starting: $answer"
  echo "health:   $health"
  echo "restarts: $(tail -n 400 -- "$RESTART_LOG" 2>/dev/null | grep -E '^[^ ]+ [^ ]+ \[' | tail -n 1 || true)"
  [[ $guardian && $instance && $health == 200* ]] || exit "$GAVE_UP"
}

command_logs() {
  local file
  local -a files=()
  for file in "$GUARDIAN_LOG" "$CONSOLE_LOG" "$RUN_DIR/slow_requests.log" "$APP_LOG" "$RESTART_LOG"; do
    [[ -e $file ]] && files+=("$file")
  done
  [[ ${#files[@]} -gt 0 ]] || { echo "no logs in $RUN_DIR yet"; return; }
  if [[ -t 1 ]]; then exec tail -n 20 -F -- "${files[@]}"; else tail -n 20 -- "${files[@]}"; fi
}

command_doctor() {
  cd -- "$ROOT" && exec "$INTERPRETER" -m service.doctor "${ARGUMENTS[@]}" "$RUN_DIR"
}

command_help() {
  local line
  while IFS= read -r line && [[ $line == '#'* ]]; do
    [[ $line == '#!'* ]] || { line=${line#'#'}; echo "${line# }"; }
  done <"$SELF"
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
