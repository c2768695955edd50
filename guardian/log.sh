# shellcheck shell=bash
# Time that no clock setting moves, and the guardian's lines and logs. Nothing here fails on a full disk.
# shellcheck disable=SC2034,SC2154  # the state and the settings are those of guardian.sh, which sources this

tell_time() {
  local uptime
  read -r uptime _ </proc/uptime
  now=$((10#${uptime/./} * 10))
}

# Sleeps $1 milliseconds without a process of its own; fd 8 is a pipe nobody writes to.
nap() {
  local pause
  printf -v pause '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
  read -rt "$pause" -u 8
  tell_time
}

# Sleeps $1 milliseconds, or until a signal asked for something.
pause_for() {
  tell_time
  local -r until=$((now + $1))
  while ((now < until)) && [[ -z $stop_asked$restart_asked ]]; do
    nap $((until - now < WATCH_INTERVAL_MS ? until - now : WATCH_INTERVAL_MS))
  done
}

# say LEVEL MESSAGE: a dated line on standard output. Never fails.
say() {
  printf -v line '%(%F %T)T [%s] %s' -1 "$1" "${2//[[:cntrl:]]/ }"
  { printf '%s\n' "$line"; } 2>/dev/null
}

# record LEVEL CAUSE MESSAGE: the same, and in restart.log. CAUSE is one of RESTART_CAUSES or EVENTS.
record() {
  local line
  say "$1" "CAUSE=$2 $3"
  keep "$line"
}

# Appends a line to restart.log, which is rotated at its size.
keep() {
  rotate_if_large "$RESTART_LOG"
  { printf '%s\n' "$1" >>"$RESTART_LOG"; } 2>/dev/null
}

# count_restart CAUSE: counts restarts by cause in a file that outlives us and the instance, whose /metrics reads it
# (service/telemetry/gauges.py). Failing to is no reason not to restart.
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

# Keeps what the instance writes to its console, for as long as anybody writes. A pipe to here and not the file
# itself: on a full disk the instance's own print would fail, and the file would grow without bound.
keep_console() {
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

# Shows the instance's last log lines on our output. Its own log holds no user text; the console is shown only when
# it died before it wrote to that log.
show_last_lines() {
  local file=$APP_LOG line tries
  for ((tries = 0; tries < 20; tries++)); do # the console's last lines are on their way
    if [[ -z $console ]] || child_alive || ! kill -0 "$console" 2>/dev/null; then break; fi
    nap 50
  done
  # Never another run's lines: a log that this instance has not written to is older than its start.
  [[ -f $APP_LOG ]] && (($(stat -c %Y -- "$APP_LOG" 2>/dev/null 9>&- || echo 0) >= launched_unix)) || file=$CONSOLE_LOG
  (($(stat -c %Y -- "$file" 2>/dev/null 9>&- || echo 0) >= launched_unix)) || return 0
  while IFS= read -r line || [[ $line ]]; do
    line="    | ${line//[[:cntrl:]]/ }"
    { printf '%s\n' "${line:0:300}"; } 2>/dev/null
  done < <(tail -n "$LOG_LINES" -- "$file" 2>/dev/null 9>&-)
}

show_time() {  # milliseconds → 45 s, 12 min, 3 h 20 min
  local -r s=$(($1 / 1000))
  if ((s < 120)); then echo "$s s"; elif ((s < 7200)); then echo "$((s / 60)) min"; else echo "$((s / 3600)) h $((s % 3600 / 60)) min"; fi
}
