# shellcheck shell=bash
# What the instance's endpoints say, and whether that is a reason to restart it.
# shellcheck disable=SC2034,SC2154  # the state and the settings are those of guardian.sh, which sources this

# fetch PATH: sets `status` (000 when there was no answer) and the start of `answer`. Asks at `asked_at` if set.
fetch() {
  local text limit
  printf -v limit '%d.%03d' $((CHECK_TIMEOUT_MS / 1000)) $((CHECK_TIMEOUT_MS % 1000))
  text=$(curl -q -sS --noproxy '*' --max-time "$limit" --max-filesize 65536 -w '\n%{http_code}' \
    -- "${asked_at:-$BASE_URL}$1" 2>/dev/null 9>&-)
  status=${text##*$'\n'} answer=${text%$'\n'*}
  [[ $status =~ ^[0-9]{3}$ ]] || status=000
  answer=${answer:0:600}
}

# Remembers the latest answer for the line that will say why the instance was restarted.
note_answer() {
  [[ $status == 000 ]] || last_answer="$1 $status ${answer//[[:cntrl:]]/ }" last_answer_at=$now
}

# One look at all that is asked of the instance. Sets `trouble` (a reason to restart, or nothing), its `cause`, and
# `hung`.
check() {
  trouble='' hung='' cause='' facts=''
  if look_at_stop; then find_hung; return; fi
  fetch /livez
  if [[ $status == 200 ]]; then
    answered=yes live_failures=0
    look_at_ability
  else
    note_answer /livez
    if look_at_leaving; then return; fi
    [[ $answered ]] && ((live_failures++))
    # A busy import or load may keep the endpoints silent for long; a refusal is another matter.
    if [[ $status == 000 && $loading_since ]]; then look_at_loading 'no answer'; fi
  fi
  ((live_failures < LIVENESS_FAILURES)) || find_hung
}

find_hung() {
  hung=yes cause=hung trouble="is hung: /livez failed $live_failures times in a row"
  [[ -z $stopped_since ]] || trouble="is hung: stopped (state T) for $(show_time $((now - stopped_since)))"
}

# Whether the process was stopped (SIGSTOP) for as long as three failed looks would take. The kernel tells it at
# once and of any process, also of one that is still starting, whose silence alone would be waited for.
look_at_stop() {
  if ! read_stat "$child" || [[ ${stat[0]} != T ]]; then
    stopped_since=''
    return 1
  fi
  : "${stopped_since:=$now}"
  ((now - stopped_since >= LIVENESS_FAILURES * CHECK_INTERVAL_MS))
}

# Whether the instance says that it is on its way out. That is no hang: its exit code will tell what to do, and
# is awaited for as long as a stop may take. On a slow machine it may still be starting its page.
look_at_leaving() {
  [[ $answer =~ ^fatal:\ leaving\ with\ exit\ code\ ([0-9]+) ]] || return 1
  announced_code=${BASH_REMATCH[1]}
  : "${leaving_since:=$now}"
  ((now - leaving_since > STOP_TIMEOUT_MS)) || return 0
  hung=yes cause=other trouble="did not leave within $(show_time "$STOP_TIMEOUT_MS") of saying that it would (exit code $announced_code)"
}

# Health is asked of a live instance. Readiness is not: a full queue is no illness.
look_at_ability() {
  fetch /health/simple
  note_answer /health/simple
  if [[ $status == 200 ]]; then
    note_health
    return
  fi
  healthy_since=''
  fetch /startupz
  if [[ $status == 503 ]]; then
    note_answer /startupz
    look_at_loading "$answer"
    return
  fi
  fetch /health
  if [[ $answer =~ \"model\":\ *\"loading\" ]]; then # again, from verified files
    look_at_loading reloading
    return
  fi
  loading_since=''
  : "${unhealthy_since:=$now}"
  ((now - unhealthy_since > UNHEALTHY_LIMIT_MS)) || return 0
  note_answer /health
  cause=unhealthy trouble="is unhealthy for $(show_time $((now - unhealthy_since))) while live"
}

# look_at_loading ANSWER: loading may take long; only visible standstill, or very long, is trouble.
look_at_loading() {
  unhealthy_since=''
  if [[ -z $loading_since ]]; then loading_since=$now progress_at=$now; fi
  if look_for_progress "$1"; then live_failures=0 progress_at=$now; fi
  if ((now - loading_since > START_TIMEOUT_MS)); then
    cause=start_timeout trouble="did not start up within $(show_time "$START_TIMEOUT_MS")"
  elif ((now - progress_at > START_STALL_MS)); then
    cause=start_stalled trouble="made no progress in starting up for $(show_time $((now - progress_at)))"
    [[ $answered ]] || hung=yes
  fi
}

# Progress is an answer that changed, 5 % of a CPU, or a mebibyte moved since the last look. One tick more, since
# it is counted whole however little of it was used: between two quick looks it is no progress.
look_for_progress() {
  local key value io=0 moved=1
  { while read -r key value; do [[ $key == [rw]char: || $key == read_bytes: ]] && ((io += value)); done <"/proc/$child/io"; } 2>/dev/null
  survey_group
  if [[ $1 != "$seen_answer" ]] || ((group_cpu - seen_cpu > 1 + (now - seen_at) / 200 || io - seen_io > 1048576)); then moved=0; fi
  seen_answer=$1 seen_cpu=$group_cpu seen_io=$io seen_at=$now
  return "$moved"
}

greet() {
  local -r text="healthy $(show_time $((now - launched_at))) after its start: process $child, restart $failures of $MAX_RESTARTS"
  if ((failures == 0)); then say INFO "$text"; else record SUCCESS healthy "$text"; fi
}

note_health() {
  unhealthy_since='' loading_since=''
  if [[ -z $healthy_since ]]; then
    healthy_since=$now
    [[ $greeted ]] || greet
    greeted=yes
  fi
  if [[ -z $stable ]] && ((now - healthy_since >= STABLE_PERIOD_MS)); then
    ((failures == 0)) || record SUCCESS recovered "recovered: healthy for $(show_time "$STABLE_PERIOD_MS"), restarts are counted from zero again"
    stable=yes failures=0
  fi
}
