# shellcheck shell=bash
# The loop that watches one instance, the lock that makes its guardian the only one, and its own end.
# shellcheck disable=SC2034,SC2154  # the state and the settings are those of guardian.sh, which sources this

meet_death() {
  learn_ending
  case $exit_code in
    "$EXIT_CONFIGURATION" | 126 | 127)
      ports_taken && name_holder && ending+="; port $taken_port is taken by $holder"
      give_up "$EXIT_CONFIGURATION" halted "${facts}halted, a restart cannot fix this: process $child $ending"
      ;;
    "$EXIT_PORT_TAKEN")
      ports_taken && name_holder && ending+=" by $holder"
      [[ $ever_healthy || $failures -gt 0 ]] || give_up "$EXIT_PORT_TAKEN" port_taken "${facts}process $child $ending"
      restart "$cause" "process $child $ending" "$STOP_TIMEOUT_MS"
      ;;
    "$EXIT_HUNG" | "$EXIT_DEVICE_LOST") restart "$cause" "process $child $ending" "$STOP_TIMEOUT_MS" at_once ;;
    *) restart "$cause" "process $child $ending" "$STOP_TIMEOUT_MS" ;;
  esac
}

check_instance() {
  check
  [[ $trouble ]] || return 0
  # One that died during the check failed it for that reason, which its exit code tells better.
  child_alive || return 0
  if [[ $leaving == "$EXIT_CONFIGURATION" ]]; then
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
  while [[ -z $stop_asked ]]; do
    tell_time
    forgive_standstill
    if [[ $restart_asked ]]; then
      restart_asked=''
      count_restart asked
      record ALERT asked "restarting process $child, as asked"
      stop_instance "$STOP_TIMEOUT_MS" && bring_up 0
    elif ! child_alive; then
      meet_death
    elif ((now >= next)); then
      check_instance
      # Until its first answer it is asked at every turn: silence is taken for loading.
      next=$now
      [[ $answered ]] && next=$((now + CHECK_INTERVAL_MS))
    fi
    [[ $stop_asked$restart_asked ]] || nap "$WATCH_INTERVAL_MS"
  done
}

cleanup() {
  local -r code=$?
  [[ $orderly ]] && return
  record FATAL guardian_ended "the guardian ended by itself (status $code)${child:+; process $child runs on, unguarded: start the guardian again to adopt it}"
}

# Takes the lock of the run folder, or ends. Its file is for its owner alone, so no other user can hold it, and is
# open for writing, as a network file system wants it.
take_lock() {
  local code=0 mask
  mask=$(umask)
  umask 077
  if ! { : >>"$LOCK_FILE"; } 2>/dev/null || ! { exec 9<>"$LOCK_FILE"; } 2>/dev/null; then
    echo "guardian.sh: cannot write in $RUN_DIR. Make it writable, or choose another folder with OFA_RUN_DIR." >&2
    exit "$EXIT_CONFIGURATION"
  fi
  umask "$mask"
  flock -E "$HELD" -w "${1:-0.5}" 9 2>/dev/null || code=$?
  case $code in
    0) return ;;
    "$HELD")
      find_guardian
      echo "guardian.sh: another guardian (process ${guardian:-unknown}) watches $RUN_DIR; see: guardian.sh status" >&2
      exit "$HELD"
      ;;
    *)
      echo "guardian.sh: $LOCK_FILE cannot be locked (flock: status $code). Choose a folder on another file system with OFA_RUN_DIR." >&2
      exit "$EXIT_CONFIGURATION"
      ;;
  esac
}

# Says in the lock's file who holds it: the commands signal this process and no other.
sign_lock() {
  read_stat "$$" && printf '%s %s\n' "$$" "${stat[19]}" >"$LOCK_FILE"
}

# Sets `guardian` and `guardian_start`: the process that signed the lock's file and still has it open.
find_guardian() {
  local text=''
  guardian='' guardian_start=''
  [[ -f $LOCK_FILE && -O $LOCK_FILE ]] || return 1
  { read -rN 64 text <"$LOCK_FILE"; } 2>/dev/null
  [[ $text =~ ^([0-9]{1,9})\ ([0-9]{1,15})$'\n' ]] || return 1
  is_alive "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" || return 1
  [[ /proc/${BASH_REMATCH[1]}/fd/9 -ef $LOCK_FILE ]] || return 1
  guardian=${BASH_REMATCH[1]} guardian_start=${BASH_REMATCH[2]}
}
