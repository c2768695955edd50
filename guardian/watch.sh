# shellcheck shell=bash
# The watch loop, the guardian's own exit, and the lock that allows one guardian per run folder.
# shellcheck disable=SC2034,SC2154  # state and settings are declared in guardian.sh, which sources this

handle_exit() {
  explain_exit
  case $exit_code in
    "$EXIT_CONFIGURATION" | 126 | 127)
      ports_taken && find_holder && outcome+="; port $taken_port is already in use by $holder"
      give_up "$EXIT_CONFIGURATION" halted "${facts}halted, a restart cannot fix this: process $child $outcome"
      ;;
    "$EXIT_PORT_TAKEN")
      ports_taken && find_holder && outcome+=" by $holder"
      [[ $ever_healthy || $failures -gt 0 ]] || give_up "$EXIT_PORT_TAKEN" port_taken "${facts}process $child $outcome"
      restart "$cause" "process $child $outcome" "$STOP_TIMEOUT_MS"
      ;;
    "$EXIT_HUNG" | "$EXIT_DEVICE_LOST") restart "$cause" "process $child $outcome" "$STOP_TIMEOUT_MS" at_once ;;
    *) restart "$cause" "process $child $outcome" "$STOP_TIMEOUT_MS" ;;
  esac
}

check_instance() {
  check
  [[ $problem ]] || return 0
  # If it exited during the check, its exit code is the better explanation.
  child_alive || return 0
  if [[ $leaving == "$EXIT_CONFIGURATION" ]]; then
    give_up "$EXIT_CONFIGURATION" halted "halted, a restart cannot fix this: process $child $problem"
  fi
  local timeout=$STOP_TIMEOUT_MS
  [[ $hung ]] && timeout=$HUNG_STOP_TIMEOUT_MS
  restart "$cause" "process $child $problem" "$timeout"
}

# Restarts all waits if the guardian itself was stopped or the machine was suspended.
excuse_own_pause() {
  local -r gap=$((now - awake_at))
  awake_at=$now
  ((gap > WATCH_INTERVAL_MS + CHECK_INTERVAL_MS + 4 * CHECK_TIMEOUT_MS)) || return 0
  log INFO "the guardian was paused for $(format_ms "$gap"): all waits start again"
  [[ $loading_since ]] && loading_since=$now progress_at=$now
  [[ $unhealthy_since ]] && unhealthy_since=$now
  [[ $healthy_since ]] && healthy_since=$now
  live_failures=0 stopped_since=''
}

watch() {
  local next=0
  while [[ -z $stop_asked ]]; do
    read_clock
    excuse_own_pause
    if [[ $restart_asked ]]; then
      restart_asked=''
      count_restart asked
      log_event ALERT asked "restarting process $child on request"
      stop_instance "$STOP_TIMEOUT_MS" && bring_up 0
    elif ! child_alive; then
      handle_exit
    elif ((now >= next)); then
      check_instance
      # Until its first answer it is checked in every round, as silence then means loading.
      next=$now
      [[ $answered ]] && next=$((now + CHECK_INTERVAL_MS))
    fi
    [[ $stop_asked$restart_asked ]] || sleep_ms "$WATCH_INTERVAL_MS"
  done
}

cleanup() {
  local -r code=$?
  [[ $planned_exit ]] && return
  log_event FATAL guardian_ended \
    "the guardian exited unexpectedly (status $code)${child:+; process $child runs on: start the guardian to adopt it}"
}

# take_lock [SECONDS]: takes the lock of the run folder, or exits. Only the owner can open its file, so no other user can
# hold it. It is opened for writing, which network file systems require.
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
      exit_held
      ;;
    *)
      echo "guardian.sh: $LOCK_FILE cannot be locked (flock: status $code)." \
        "Choose a folder on another file system with OFA_RUN_DIR." >&2
      exit "$EXIT_CONFIGURATION"
      ;;
  esac
}

exit_held() {
  if [[ $LOCK_FILE == */fleet.lock ]]; then
    echo "guardian.sh: another fleet command (process ${guardian:-unknown}) works on $RUN_DIR: wait for it, or end it" >&2
    exit "$HELD"
  fi
  echo "guardian.sh: another guardian (process ${guardian:-unknown}) watches $RUN_DIR; see: guardian.sh status" >&2
  exit "$HELD"
}

# Writes our process into the lock file: commands signal this process only.
write_lock_owner() {
  read_stat "$$" && printf '%s %s\n' "$$" "${stat[19]}" >"$LOCK_FILE"
}

# Sets `guardian` and `guardian_start`: the process that wrote the lock file and still has it open.
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
