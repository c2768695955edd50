# shellcheck shell=bash
# Starts, stops and restarts the instance, with bounded waits.
# shellcheck disable=SC2034,SC2154  # state and settings are declared in guardian.sh, which sources this

# Forgets what was observed of an earlier instance.
reset_observations() {
  read_clock
  launched_at=$now awake_at=$now loading_since=$now progress_at=$now seen_at=$now
  answered='' live_failures=0 healthy_since='' unhealthy_since='' exit_announced_at='' stopped_since=''
  last_answer=none last_answer_at=$now stable='' healthy_logged='' seen_answer='' seen_cpu=0 seen_io=0
  printf -v launched_unix '%(%s)T' -1
  count_oom_kills
}

exec_instance() {
  write_pid_file "$BASHPID"
  # At a restart the instance accepts a run directory that cannot be written.
  [[ $launched_at == 0 ]] || export OFA_RESTARTED=1
  exec setsid -- "$INTERPRETER" "$WEB_APP" "${ARGUMENTS[@]}"
}

start_instance() {
  exec 7> >(write_console >/dev/null 2>&1)
  console=$!
  exec_instance </dev/null >&7 2>&1 7>&- 8>&- 9>&- &
  child=$! child_ours=yes child_start=''
  exec 7>&-
  read_stat "$child" && child_start=${stat[19]}
  reset_observations
  log INFO "started process $child, ports $PORT and $HEALTH_PORT, folder $RUN_DIR"
}

wait_gone() {
  read_clock
  local -r until=$((now + $1))
  while child_alive; do
    ((now < until)) || return 1
    sleep_ms 100
  done
}

# stop_instance MS: sends TERM, and after MS milliseconds KILL to the whole group. CONT follows TERM, as a stopped
# process would not handle it. Fails only if the guardian is asked to stop while the process cannot be killed.
stop_instance() {
  if child_alive; then
    kill -s TERM -- "$child" 2>/dev/null
    kill -s CONT -- "$child" 2>/dev/null
    if ! wait_gone "$1"; then
      log_event ALERT not_leaving "process $child did not exit within $(format_ms "$1") of TERM: killing it and its group"
      kill_group "$child"
      wait_gone "$KILL_TIMEOUT_MS" || wait_unkillable || return
    fi
  fi
  kill_leftovers
  child='' child_ours=''
  rm -f -- "$PID_FILE" "$HEALTH_SOCKET" "$HEARTBEAT" 2>/dev/null 9>&-
  wait_ports_free
}

# kill_group PID: kills the instance, and its group only if it leads one, as the id may be another group's otherwise.
kill_group() {
  child_alive || return 0
  kill -s KILL -- "$1" 2>/dev/null
  [[ ${stat[2]} != "$1" ]] || kill -s KILL -- "-$1" 2>/dev/null
}

# Waits for a process that KILL does not end: it is blocked in the kernel (state D). A second instance would compete for
# its ports and its GPU.
wait_unkillable() {
  local warned=''
  while child_alive; do
    if [[ -z $warned ]] || ((now - warned > 60000)); then
      log_event ALERT undead "process $child cannot be killed (state ${stat[0]}): waiting for it, no second instance is started"
      warned=$now
    fi
    [[ $stop_asked ]] && return 1
    sleep_ms "$WATCH_INTERVAL_MS"
  done
}

# Kills what remains of the instance's process group after 2 s. The group id cannot be another group's yet: its leader
# has just exited, and the id stays in use while a member lives.
kill_leftovers() {
  local -r until=$((now + 2000))
  measure_group
  while ((group_size > 0 && now < until)); do sleep_ms 100; measure_group; done
  ((group_size > 0)) || return 0
  log_event ALERT leftovers "$group_size process(es) left in the group of $child: killing them"
  kill -s KILL -- "-$child" 2>/dev/null
  while ((group_size > 0 && now < until + KILL_TIMEOUT_MS)); do sleep_ms 100; measure_group; done
}

wait_ports_free() {
  local -r until=$((now + KILL_TIMEOUT_MS))
  while ports_taken && ((now < until)); do sleep_ms 200; done
}

# bring_up PAUSE: starts an instance after PAUSE milliseconds, once its ports are free. At the first start a port that is
# in use ends the guardian: it is probably a mistake, and a person reads the message.
bring_up() {
  local pause=$1
  while :; do
    wait_ms "$pause"
    [[ $stop_asked ]] && return
    restart_asked=''
    ports_taken || break
    find_holder
    [[ $launched_at != 0 ]] || give_up "$EXIT_PORT_TAKEN" port_taken "${facts}port $taken_port is already in use by $holder"
    count_failure port_taken "port $taken_port is already in use by $holder, which is left running"
    back_off
  done
  start_instance
}

# count_failure CAUSE REASON: logs the coming restart, or gives up after too many.
count_failure() {
  ((failures < MAX_RESTARTS)) || give_up "$GAVE_UP" gave_up "gave up after $failures consecutive failed restarts: $2"
  ((failures++))
  count_restart "$1"
  log_event ALERT "$1" "${facts}restart $failures of $MAX_RESTARTS: $2"
}

# Sets `pause`, the back-off before the next restart: 1, 2, 4 ... 60 s with 25 % jitter, so that instances that failed
# together do not restart together.
back_off() {
  local -r doublings=$((failures > 17 ? 16 : failures - 1))
  pause=$((BACKOFF_FIRST_MS << doublings))
  ((pause < BACKOFF_LIMIT_MS)) || pause=$BACKOFF_LIMIT_MS
  pause=$((pause * (75 + RANDOM % 51) / 100))
  log INFO "next start in $pause ms"
}

# restart CAUSE REASON STOP_TIMEOUT [AT_ONCE]: without back-off if AT_ONCE is given or the instance was stable.
restart() {
  local pause=0
  local -r at_once=${4:-}$stable
  local -r age=$(format_ms $((now - launched_at))) silence=$(format_ms $((now - last_answer_at)))
  count_failure "$1" "$2; it ran $age, last answer $silence ago: $last_answer"
  print_last_lines
  stop_instance "$3" || return 0
  [[ $at_once ]] || back_off
  bring_up "$pause"
}

# give_up STATUS CAUSE REASON: logs [FATAL], stops the instance and exits.
give_up() {
  log_event FATAL "$2" "$3"
  print_last_lines
  if [[ $NOTIFY_COMMAND ]]; then
    GUARDIAN_MESSAGE=$3 OFA_RUN_DIR=$RUN_DIR timeout -k 5 30 bash -c "$NOTIFY_COMMAND" </dev/null >/dev/null 2>&1 8>&- 9>&- ||
      log INFO 'NOTIFY_COMMAND failed or took longer than 30 s'
  fi
  [[ -z $child ]] || stop_instance "$STOP_TIMEOUT_MS"
  planned_exit=yes
  exit "$1"
}
