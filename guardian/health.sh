# shellcheck shell=bash
# What the instance says of itself, and whether that is a reason to restart it.
# shellcheck disable=SC2034,SC2154  # the state and the settings are those of guardian.sh, which sources this

readonly ANSWER_BYTES=16384 CURL_REFUSED=7
readonly SOCKET_MS=10000 # after so long without a socket or a heartbeat the port is asked

# fetch [CURL OPTION...] URL: from the folder `fetch_from`, if set. Sets `status` (000 without a complete answer), the
# start of `answer`, and curl's exit `code`. What is read is bounded: curl 7 has no limit of its own for an answer
# without a length.
fetch() {
  local text limit
  printf -v limit '%d.%03d' $((CHECK_TIMEOUT_MS / 1000)) $((CHECK_TIMEOUT_MS % 1000))
  # With pipefail, `code` is curl's: an answer that was cut off, or never ended, is none.
  text=$(cd -- "${fetch_from:-.}" && curl -q -sS --noproxy '*' --proto =http,https --max-time "$limit" --max-filesize "$ANSWER_BYTES" \
    -w '\n%{http_code}' "$@" 2>/dev/null 9>&- | head -c $((ANSWER_BYTES + 8)) 2>/dev/null 9>&- | tr -d '\0')
  code=$?
  status=000 answer=''
  ((code == 0)) || return 0
  [[ ${text: -3} =~ ^[0-9]{3}$ ]] && status=${text: -3}
  answer=${text:0:${#text}-4} answer=${answer:0:4000}
}

# Whether the instance is asked over its socket.
use_socket() {
  [[ -z $PUBLIC && -S $HEALTH_SOCKET ]]
}

# Asks the instance. Sets live, started, healthy (yes or no), model, progress, leaving (the exit code that it has
# announced) and reason; fails without a complete answer.
ask() {
  live=no started=no healthy=no model='' progress='' leaving='' reason=''
  if use_socket; then
    ask_socket && return
    # A socket that nobody listens on was left by an earlier process, on a disk that can no longer be written.
    ((code == CURL_REFUSED)) || return
  elif [[ -z $PUBLIC && ! -e $HEARTBEAT ]] && ((now - launched_at < SOCKET_MS)); then
    return 1 # still to come
  fi
  ask_ports
}

# GET /guardian: lines KEY=value, END=yes the last of them. Through a relative name, since a socket's address may have
# 107 bytes, and this folder's more.
ask_socket() {
  local key value complete='' inference=''
  local -r fetch_from=$RUN_DIR
  fetch --unix-socket "${HEALTH_SOCKET##*/}" -- http://localhost/guardian
  [[ $status == 200 ]] || return 1
  while IFS='=' read -r key value; do
    case $key in
      LIVE) live=$value ;;
      STARTED) started=$value ;;
      HEALTHY) healthy=$value ;;
      MODEL) model=$value ;;
      INFERENCE) inference=$value ;;
      PROGRESS) progress=$value ;;
      LEAVING) leaving=$value ;;
      REASON) reason=$value ;;
      END) complete=yes ;;
    esac
  done <<<"$answer"
  [[ $leaving =~ ^[0-9]{0,3}$ ]] || leaving=''
  [[ $live == no ]] || reason="model $model, inference $inference"
  [[ $complete ]]
}

# The public endpoints: with HEALTH_URL, and where the file system has no sockets.
ask_ports() {
  local -r base=${asked_at:-$BASE_URL}
  fetch -- "$base/health/simple"
  if [[ $status == 200 ]]; then
    live=yes started=yes healthy=yes
    return
  fi
  fetch -- "$base/livez"
  [[ $status != 000 ]] || return 1
  reason=${answer//[[:cntrl:]]/ }
  if [[ $status != 200 ]]; then
    fetch -- "$base/health"
    [[ $answer =~ \"leaving\":\ *([0-9]{1,3})[,}] ]] && leaving=${BASH_REMATCH[1]}
    return 0
  fi
  live=yes
  fetch -- "$base/startupz"
  progress=${answer//[[:cntrl:]]/ }
  [[ $status != 503 ]] || return 0
  started=yes
  fetch -- "$base/health"
  reason=${answer//[[:cntrl:]]/ }
  [[ $answer =~ \"details\":\ *\{[^}]*\"model\":\ *\"([a-z]+)\" ]] && model=${BASH_REMATCH[1]}
  return 0
}

# Whether the engine's timer thread has renewed its heartbeat of late: where the guardian has to ask a public port,
# silence there may be the doing of whoever floods it.
heartbeat_fresh() {
  local beat=''
  [[ -f $HEARTBEAT ]] && { read -rn 20 beat <"$HEARTBEAT"; } 2>/dev/null
  [[ $beat =~ ^[0-9]{1,15}$ ]] && ((now - 10#$beat < LIVENESS_FAILURES * CHECK_INTERVAL_MS))
}

# Remembers the latest answer for the line that will say why the instance was restarted.
note_answer() {
  last_answer="live $live, started $started, healthy $healthy; ${progress:-$reason}" last_answer=${last_answer:0:400}
  last_answer_at=$now
}

# One check of the instance. Sets `trouble` (a reason to restart, or nothing), its `cause`, and `hung`.
check() {
  trouble='' hung='' cause='' facts=''
  if look_at_stop; then find_hung; return; fi
  if ask; then
    note_answer
    if [[ $live == yes ]]; then
      answered=yes live_failures=0
      look_at_ability
    elif [[ $leaving ]]; then
      look_at_leaving
      return
    elif [[ $answered ]] || use_socket; then
      answered=yes
      ((live_failures++))
    fi
  else
    [[ $answered ]] && ! heartbeat_fresh && ((live_failures++))
    # A busy import or load may keep it silent for long.
    [[ -z $loading_since ]] || look_at_loading 'no answer'
  fi
  ((live_failures < LIVENESS_FAILURES)) || find_hung
}

find_hung() {
  hung=yes cause=hung trouble="is hung: $live_failures checks in a row failed${reason:+: $reason}"
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

# The instance says that it is leaving. That is no hang: its exit code will say what to do, and is awaited for as
# long as a stop may take. On a slow machine it may still be starting its page.
look_at_leaving() {
  : "${leaving_since:=$now}"
  ((now - leaving_since > STOP_TIMEOUT_MS)) || return 0
  hung=yes cause=other
  trouble="did not leave within $(show_time "$STOP_TIMEOUT_MS") of saying that it would (exit code $leaving)"
}

# Health is asked of a live instance. Readiness is not: a full queue is no fault.
look_at_ability() {
  if [[ $healthy == yes ]]; then
    note_health
    return
  fi
  healthy_since=''
  if [[ $started != yes ]]; then
    look_at_loading "$progress"
  elif [[ $model == loading ]]; then # again, from verified files
    look_at_loading reloading
  else
    loading_since=''
    : "${unhealthy_since:=$now}"
    ((now - unhealthy_since > UNHEALTHY_LIMIT_MS)) || return 0
    cause=unhealthy trouble="is unhealthy for $(show_time $((now - unhealthy_since))) while live: $reason"
  fi
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
  unhealthy_since='' loading_since='' ever_healthy=yes
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
