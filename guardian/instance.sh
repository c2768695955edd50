# shellcheck shell=bash
# One instance: starting, stopping and restarting it, within bounds.
# shellcheck disable=SC2034,SC2154  # the state and the settings are those of guardian.sh, which sources this

# A new instance to watch: nothing is known of it yet.
expect_instance() {
  tell_time
  launched_at=$now awake_at=$now loading_since=$now progress_at=$now seen_at=$now
  answered='' live_failures=0 healthy_since='' unhealthy_since='' last_answer=none last_answer_at=$now stable='' greeted=''
  seen_answer='' seen_cpu=0 seen_io=0 leaving_since='' stopped_since=''
  printf -v launched_unix '%(%s)T' -1
  count_oom_kills
}

become_instance() {
  write_pid_file "$BASHPID"
  # A disk that can no longer be written stops a first start and nothing later.
  [[ $launched_at == 0 ]] || export OFA_RESTARTED=1
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
    kill -s CONT -- "$child" 2>/dev/null
    if ! wait_gone "$1"; then
      record ALERT not_leaving "process $child did not end within $(show_time "$1") of TERM: killing it and its group"
      kill_group "$child"
      wait_gone "$KILL_TIMEOUT_MS" || await_undead || return
    fi
  fi
  clear_group
  child='' child_ours=''
  rm -f -- "$PID_FILE" "$HEALTH_SOCKET" "$HEARTBEAT" 2>/dev/null 9>&-
  wait_ports_free
}

# Kills a process that lives, and its group if it leads one: a number that is no group's would be another's.
kill_group() {
  child_alive || return 0
  kill -s KILL -- "$1" 2>/dev/null
  [[ ${stat[2]} != "$1" ]] || kill -s KILL -- "-$1" 2>/dev/null
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
    [[ $stop_asked ]] && return 1
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

# bring_up PAUSE: starts an instance after PAUSE milliseconds, once no other process holds its ports. At the very
# first start a taken port ends the guardian: somebody is there to read it, and it may be a mistake.
bring_up() {
  local pause=$1
  while :; do
    pause_for "$pause"
    [[ $stop_asked ]] && return
    restart_asked=''
    ports_taken || break
    name_holder
    [[ $launched_at != 0 ]] || give_up "$EXIT_PORT_TAKEN" port_taken "${facts}port $taken_port is taken by $holder"
    count_failure port_taken "port $taken_port is taken by $holder, which is left alone"
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

