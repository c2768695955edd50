# shellcheck shell=bash
# What a person types: one function for each command.
# shellcheck disable=SC2034,SC2154  # the state and the settings are those of guardian.sh, which sources this

check_interpreter() {
  command -v -- "$INTERPRETER" >/dev/null && return # of a link that leads nowhere it finds nothing
  local remedy='Correct PYTHON.'
  [[ ${PYTHON:-} ]] || remedy='Run "make setup", or set PYTHON.'
  echo "guardian.sh: $INTERPRETER is missing or cannot be run. $remedy" >&2
  exit "$EXIT_CONFIGURATION"
}

command_run() {
  local program
  for program in curl flock head setsid stat tail timeout; do
    command -v -- "$program" >/dev/null || { echo "guardian.sh: $program is not installed. Install it first." >&2; exit "$EXIT_CONFIGURATION"; }
  done
  check_interpreter
  take_lock
  # Signals first: from the moment that the lock names us, commands send them.
  trap 'stop_asked=yes' TERM INT HUP
  trap 'restart_asked=yes' USR1
  trap : PIPE # a reader of our output that went away is no reason to stop
  orderly=''
  trap cleanup EXIT
  sign_lock
  say INFO "guardian $$ watches $RUN_DIR and $BASE_URL"
  if adopt; then ever_healthy=yes; say INFO "adopted process $child, running for $(show_time $((now - launched_at)))"; else bring_up 0; fi
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
  take_lock 5 # an instance whose guardian was killed, or did not manage to stop it
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
  use_socket && health="no answer on $HEALTH_SOCKET"
  echo "guardian: ${guardian:-none}"
  if [[ $instance ]]; then
    read_stat "$instance"
    instance="process $instance, up $(show_time $((now - file_start * 10)))"
    [[ ${stat[0]:-} != T ]] || instance+=', stopped (state T)'
  fi
  echo "instance: ${instance:-none}"
  [[ $guardian || $instance ]] || exit "$HELD"
  if ask; then
    health='OK'
    [[ $healthy == yes ]] || health="FAIL: ${reason:-unhealthy}"
    [[ $started == yes ]] || health="FAIL: starting: $progress"
  fi
  echo "health:   $health"
  local -r last=$(tail -n 400 -- "$RESTART_LOG" 2>/dev/null | grep -E '^[^ ]+ [^ ]+ \[' | tail -n 1)
  echo "restarts: ${last:-none}"
  [[ $guardian && $instance && $health == OK ]] || exit "$GAVE_UP"
}

command_logs() {
  local file
  local -a files=()
  # Each line once: guardian.log has all of restart.log, and the console all of web_app.log.
  local guardians=$GUARDIAN_LOG instances=$APP_LOG
  [[ -s $guardians ]] || guardians=$RESTART_LOG
  [[ -s $instances ]] || instances=$CONSOLE_LOG
  for file in "$guardians" "$RUN_DIR/slow_requests.log" "$instances"; do
    [[ -e $file ]] && files+=("$file")
  done
  [[ ${#files[@]} -gt 0 ]] || { echo "no logs in $RUN_DIR yet"; return; }
  if [[ -t 1 ]]; then exec tail -n 20 -F -- "${files[@]}"; else tail -n 20 -- "${files[@]}"; fi
}

command_doctor() {
  cd -- "$ROOT" && exec "$INTERPRETER" -m doctor "${ARGUMENTS[@]}" "$RUN_DIR"
}

command_help() {
  local line
  while IFS= read -r line && [[ $line == '#'* ]]; do
    [[ $line == '#!'* ]] || { line=${line#'#'}; echo "${line# }"; }
  done <"$SELF"
}

