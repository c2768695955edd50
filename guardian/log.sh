# shellcheck shell=bash
# Monotonic time, and the guardian's logs. Nothing here fails on a full disk.
# shellcheck disable=SC2034,SC2154  # state and settings are declared in guardian.sh, which sources this

# Sets `now`, monotonic milliseconds.
read_clock() {
  local uptime
  read -r uptime _ </proc/uptime
  now=$((10#${uptime/./} * 10))
}

# sleep_ms MS: sleeps without a child process; fd 8 is a pipe that never gets data.
sleep_ms() {
  local pause
  printf -v pause '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
  read -rt "$pause" -u 8
  read_clock
}

# wait_ms MS: sleeps, but at most until a signal asks for a stop or a restart.
wait_ms() {
  read_clock
  local -r until=$((now + $1))
  while ((now < until)) && [[ -z $stop_asked$restart_asked ]]; do
    sleep_ms $((until - now < WATCH_INTERVAL_MS ? until - now : WATCH_INTERVAL_MS))
  done
}

# log LEVEL MESSAGE: prints a dated line and sets `line` to it. Never fails.
log() {
  printf -v line '%(%F %T)T [%s] %s' -1 "$1" "${2//[[:cntrl:]]/ }"
  { printf '%s\n' "$line"; } 2>/dev/null
}

# log_event LEVEL CAUSE MESSAGE: the same, and in restart.log. CAUSE is one of RESTART_CAUSES or EVENTS.
log_event() {
  local line
  log "$1" "CAUSE=$2 $3"
  rotate_if_large "$RESTART_LOG"
  { printf '%s\n' "$line" >>"$RESTART_LOG"; } 2>/dev/null
}

# count_restart CAUSE: counts restarts by cause in a file that survives guardian and instance; /metrics reads it
# (service/telemetry/gauges.py). A failure does not prevent the restart.
count_restart() {
  local -r cause=$1
  local key value old='' text=''
  local -A counts=()
  [[ -f $RESTART_COUNTS ]] && { IFS= read -rN 4096 old <"$RESTART_COUNTS"; } 2>/dev/null
  while read -r key value; do
    [[ $key =~ ^[a-z_]+$ && $value =~ ^[0-9]{1,9}$ ]] && counts[$key]=$((10#$value))
  done <<<"$old"
  ((counts[$cause] = ${counts[$cause]:-0} + 1))
  for key in "${!counts[@]}"; do text+="$key ${counts[$key]}"$'\n'; done
  { printf '%s' "$text" >"$RESTART_COUNTS.new"; } 2>/dev/null &&
    mv -f -- "$RESTART_COUNTS.new" "$RESTART_COUNTS" 2>/dev/null 9>&- && return
  rm -f -- "$RESTART_COUNTS.new" 2>/dev/null 9>&-
}

rotate_if_large() {
  local -r size=$(stat -c %s -- "$1" 2>/dev/null 9>&-)
  ((${size:-0} > LOG_BYTES)) && rotate "$1"
}

rotate() {
  local n
  for ((n = LOGS_KEPT - 1; n > 0; n--)); do
    [[ -e $1.$n ]] && mv -f -- "$1.$n" "$1.$((n + 1))" 2>/dev/null 9>&-
  done
  mv -f -- "$1" "$1.1" 2>/dev/null 9>&-
}

# Copies the instance's console output to a rotated log until the pipe closes. The instance does not write the file
# itself: on a full disk its prints would fail, and the file would grow without bound.
write_console() {
  exec 8>&- 9>&-
  trap '' TERM INT HUP
  local line size=0
  [[ -s $CONSOLE_LOG ]] && rotate "$CONSOLE_LOG"
  while IFS= read -rn 4096 line || [[ $line ]]; do
    { printf '%s\n' "$line" >>"$CONSOLE_LOG"; } 2>/dev/null
    ((size += ${#line} + 1))
    if ((size > LOG_BYTES)); then rotate "$CONSOLE_LOG" && size=0; fi
  done
}

# Prints the last lines of the instance's log, which has no user text; of the console only if the instance exited before
# it wrote to its log.
print_last_lines() {
  local file=$APP_LOG line tries
  for ((tries = 0; tries < 20; tries++)); do # write_console may still be writing
    if [[ -z $console ]] || child_alive || ! kill -0 "$console" 2>/dev/null; then break; fi
    sleep_ms 50
  done
  # Only lines of this instance: a log that it has not written is older than its start.
  [[ -f $APP_LOG ]] && (($(stat -c %Y -- "$APP_LOG" 2>/dev/null 9>&- || echo 0) >= launched_unix)) || file=$CONSOLE_LOG
  (($(stat -c %Y -- "$file" 2>/dev/null 9>&- || echo 0) >= launched_unix)) || return 0
  while IFS= read -r line || [[ $line ]]; do
    line="    | ${line//[[:cntrl:]]/ }"
    { printf '%s\n' "${line:0:300}"; } 2>/dev/null
  done < <(tail -n "$LOG_LINES" -- "$file" 2>/dev/null 9>&-)
}

# format_ms MS: prints 45 s, 12 min or 3 h 20 min.
format_ms() {
  local -r s=$(($1 / 1000))
  if ((s < 120)); then echo "$s s"
  elif ((s < 7200)); then echo "$((s / 60)) min"
  else echo "$((s / 3600)) h $((s % 3600 / 60)) min"; fi
}
