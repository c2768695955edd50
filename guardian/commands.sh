# shellcheck shell=bash
# The commands of guardian.sh, one function each.
# shellcheck disable=SC2034,SC2154  # state and settings are declared in guardian.sh, which sources this

check_interpreter() {
  command -v -- "$INTERPRETER" >/dev/null && return # fails for a dangling link
  local remedy='Correct PYTHON.'
  [[ ${PYTHON:-} ]] || remedy='Run "make setup", or set PYTHON.'
  echo "guardian.sh: $INTERPRETER is missing or cannot be run. $remedy" >&2
  exit "$EXIT_CONFIGURATION"
}

check_programs() {
  local program
  for program in curl flock head setsid stat tail timeout; do
    command -v -- "$program" >/dev/null && continue
    echo "guardian.sh: $program is not installed. Install it first." >&2
    exit "$EXIT_CONFIGURATION"
  done
}

command_run() {
  check_programs
  check_interpreter
  take_lock
  # Before write_lock_owner: commands send signals to the process named there.
  trap 'stop_asked=yes' TERM INT HUP
  trap 'restart_asked=yes' USR1
  trap : PIPE # a closed output must not end the watchdog
  planned_exit=''
  trap cleanup EXIT
  write_lock_owner
  log INFO "guardian $$ watches $RUN_DIR and $BASE_URL"
  if adopt; then
    ever_healthy=yes
    log INFO "adopted process $child, running for $(format_ms $((now - launched_at)))"
  else
    bring_up 0
  fi
  watch
  log INFO "stopping${child:+ process $child} on request"
  local code=0
  [[ -z $child ]] || stop_instance "$STOP_TIMEOUT_MS" || code=$GAVE_UP
  planned_exit=yes
  log INFO 'stopped'
  exit "$code"
}

command_start() {
  find_guardian && exit_held
  rotate_if_large "$GUARDIAN_LOG"
  local output=$GUARDIAN_LOG
  { : >>"$output"; } 2>/dev/null || output=/dev/null
  setsid -- "$BASH" "$SELF" run -- "${ARGUMENTS[@]}" </dev/null >>"$output" 2>&1 8>&- &
  local -r started=$!
  read_clock
  local -r until=$((now + 3000)) # a guardian that waits longer, e.g. for a port, logs the reason
  while kill -0 "$started" 2>/dev/null && ((now < until)); do
    find_guardian && [[ $guardian == "$started" ]] && read_pid_file && break
    sleep_ms 50
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
    read_clock
    local -r until=$((now + STOP_TIMEOUT_MS + 3 * KILL_TIMEOUT_MS + 10000))
    kill -s TERM -- "$guardian"
    kill -s CONT -- "$guardian"
    while is_alive "$guardian" "$guardian_start"; do
      ((now < until)) || { echo "guardian.sh: guardian $guardian did not stop in time" >&2; exit "$GAVE_UP"; }
      sleep_ms 100
    done
  fi
  take_lock 5 # then stop an instance whose guardian was killed or could not stop it
  if read_pid_file; then
    child=$file_pid child_start=$file_start
    stop_instance "$STOP_TIMEOUT_MS" || exit "$GAVE_UP"
    echo "stopped process $file_pid"
  elif [[ -z $guardian ]]; then
    echo "nothing runs in $RUN_DIR"
  fi
  [[ -z $guardian ]] || echo "stopped guardian $guardian"
  exec 9<&- # command_restart continues
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
  read_clock
  local instance='' asked_at=''
  read_pid_file && instance=$file_pid asked_at=$file_url
  local health="no answer from ${asked_at:-$BASE_URL}"
  use_socket && health="no answer on $HEALTH_SOCKET"
  echo "guardian: ${guardian:-none}"
  if [[ $instance ]]; then
    read_stat "$instance"
    instance="process $instance, up $(format_ms $((now - file_start * 10)))"
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
  # Each line once: guardian.log contains restart.log, and console.log contains web_app.log.
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
