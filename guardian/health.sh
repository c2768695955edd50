# shellcheck shell=bash
# Health checks of the instance, and whether their result is a reason to restart it.
# shellcheck disable=SC2034,SC2154  # state and settings are declared in guardian.sh, which sources this

readonly ANSWER_BYTES=16384 CURL_REFUSED=7
readonly SOCKET_MS=10000 # after this time without a socket or a heartbeat, use the health port

# fetch [CURL OPTION...] URL: runs curl in the folder `fetch_from`, if set. Sets `status` (000 without a complete answer),
# `answer` (cut at 4000 characters) and `code`, curl's exit status. `head` bounds the answer: curl 7 ignores
# --max-filesize for one without a length.
fetch() {
  local text limit
  printf -v limit '%d.%03d' $((CHECK_TIMEOUT_MS / 1000)) $((CHECK_TIMEOUT_MS % 1000))
  # With pipefail, `code` is non-zero for an answer that was cut off or never ended.
  text=$(cd -- "${fetch_from:-.}" && curl -q -sS --noproxy '*' --proto =http,https --max-time "$limit" \
    --max-filesize "$ANSWER_BYTES" -w '\n%{http_code}' "$@" 2>/dev/null 9>&- | head -c $((ANSWER_BYTES + 8)) 2>/dev/null 9>&- | tr -d '\0')
  code=$?
  status=000 answer=''
  ((code == 0)) || return 0
  [[ ${text: -3} =~ ^[0-9]{3}$ ]] && status=${text: -3}
  answer=${text:0:${#text}-4} answer=${answer:0:4000}
}

# Succeeds if checks go over the socket.
use_socket() {
  [[ -z $PUBLIC && -S $HEALTH_SOCKET ]]
}

# Requests the health of the instance. Sets live, started and healthy (yes or no), model, progress, leaving (the exit
# code that it has announced), reason and remote (its model is in another process); over the socket also ready, phase, queue, evidence_age and device. Fails without
# a complete answer.
ask() {
  live=no started=no healthy=no model='' progress='' leaving='' reason='' ready='' phase='' queue='' evidence_age='' device='' remote=no
  if use_socket; then
    ask_socket && return
    # Nothing listens on the socket: an earlier process left it, and the disk has become read-only.
    ((code == CURL_REFUSED)) || return
  elif [[ -z $PUBLIC && ! -e $HEARTBEAT ]] && ((now - launched_at < SOCKET_MS)); then
    return 1 # the instance has not created its socket yet
  fi
  ask_ports
}

# Reads GET /guardian: lines KEY=value, the last one END=yes. Uses a relative path, as a socket's address is limited to
# 107 bytes.
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
      READY) ready=$value ;;
      PHASE) phase=$value ;;
      QUEUE) queue=$value ;;
      EVIDENCE_AGE) evidence_age=$value ;;
      DEVICE) device=$value ;;
      REMOTE) remote=$value ;;
      END) complete=yes ;;
    esac
  done <<<"$answer"
  [[ $leaving =~ ^[0-9]{0,3}$ ]] || leaving=''
  [[ $live == no ]] || reason="model $model, inference $inference"
  [[ $complete ]]
}

# Reads the public endpoints: with HEALTH_URL, or if the file system has no sockets.
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
  [[ $answer =~ \"remote\":\ *\{ ]] && remote=yes
  return 0
}

# Succeeds if the engine's timer thread has renewed its heartbeat recently. A public port may be silent because it is
# flooded.
heartbeat_fresh() {
  local beat=''
  [[ -f $HEARTBEAT ]] && { read -rn 20 beat <"$HEARTBEAT"; } 2>/dev/null
  [[ $beat =~ ^[0-9]{1,15}$ ]] && ((now - 10#$beat < LIVENESS_FAILURES * CHECK_INTERVAL_MS))
}

# Keeps the latest answer for the line in restart.log.
remember_answer() {
  last_answer="live $live, started $started, healthy $healthy; ${progress:-$reason}" last_answer=${last_answer:0:400}
  last_answer_at=$now
}

# Checks the instance once. Sets `problem` (a reason to restart, or empty), its `cause`, and `hung`.
check() {
  problem='' hung='' cause='' facts=''
  if check_stopped; then report_hung; return; fi
  if ask; then
    remember_answer
    if [[ $live == yes ]]; then
      answered=yes live_failures=0
      check_health
    elif [[ $leaving ]]; then
      check_announced_exit
      return
    elif [[ $answered ]] || use_socket; then
      answered=yes
      ((live_failures++))
    fi
  else
    [[ $answered ]] && ! heartbeat_fresh && ((live_failures++))
    # Imports and loading may block the answer for a long time.
    [[ -z $loading_since ]] || check_loading 'no answer'
  fi
  ((live_failures < LIVENESS_FAILURES)) || report_hung
}

report_hung() {
  hung=yes cause=hung problem="is hung: $live_failures consecutive checks failed${reason:+: $reason}"
  [[ -z $stopped_since ]] || problem="is hung: stopped (state T) for $(format_ms $((now - stopped_since)))"
}

# Succeeds if the process has been stopped (SIGSTOP) for as long as LIVENESS_FAILURES checks take. Works before the
# first answer too, when a missing answer does not mean a hang.
check_stopped() {
  if ! read_stat "$child" || [[ ${stat[0]} != T ]]; then
    stopped_since=''
    return 1
  fi
  : "${stopped_since:=$now}"
  ((now - stopped_since >= LIVENESS_FAILURES * CHECK_INTERVAL_MS))
}

# The instance has announced its exit. Waits up to STOP_TIMEOUT for the exit code, which decides what
# to do.
check_announced_exit() {
  : "${exit_announced_at:=$now}"
  ((now - exit_announced_at > STOP_TIMEOUT_MS)) || return 0
  hung=yes cause=other
  problem="did not exit within $(format_ms "$STOP_TIMEOUT_MS") of announcing exit code $leaving"
}

# Checks the health of a live instance. Readiness is ignored: a full queue is normal.
check_health() {
  if [[ $healthy == yes ]]; then
    handle_healthy
    return
  fi
  healthy_since=''
  if [[ $started != yes ]]; then
    check_loading "$progress"
  elif [[ $remote == yes ]]; then # only its engine is unhealthy, which a restart here would not help
    loading_since='' unhealthy_since=''
  elif [[ $model == loading ]]; then # a reload
    check_loading reloading
  else
    loading_since=''
    : "${unhealthy_since:=$now}"
    ((now - unhealthy_since > UNHEALTHY_LIMIT_MS)) || return 0
    cause=unhealthy problem="was live but unhealthy for $(format_ms $((now - unhealthy_since))): $reason"
  fi
}

# check_loading ANSWER: loading may take long. It is a problem without progress, or after START_TIMEOUT.
check_loading() {
  unhealthy_since=''
  if [[ -z $loading_since ]]; then loading_since=$now progress_at=$now; fi
  if made_progress "$1"; then live_failures=0 progress_at=$now; fi
  if ((now - loading_since > START_TIMEOUT_MS)); then
    cause=start_timeout problem="did not finish starting within $(format_ms "$START_TIMEOUT_MS")"
  elif ((now - progress_at > START_STALL_MS)); then
    cause=start_stalled problem="made no progress while starting for $(format_ms $((now - progress_at)))"
    [[ $answered ]] || hung=yes
  fi
}

# made_progress ANSWER: succeeds if since the last check the answer changed, the group used 5 % of a CPU, or the process
# moved a mebibyte. The CPU needs one more tick: a tick is counted whole, however little of it was used.
made_progress() {
  local key value io=0 result=1
  {
    while read -r key value; do
      [[ $key == [rw]char: || $key == read_bytes: ]] && ((io += value))
    done <"/proc/$child/io"
  } 2>/dev/null
  measure_group
  if [[ $1 != "$seen_answer" ]] || ((group_cpu - seen_cpu > 1 + (now - seen_at) / 200 || io - seen_io > 1048576)); then
    result=0
  fi
  seen_answer=$1 seen_cpu=$group_cpu seen_io=$io seen_at=$now
  return "$result"
}

log_healthy() {
  local -r age=$(format_ms $((now - launched_at)))
  local -r text="healthy $age after its start: process $child, restart $failures of $MAX_RESTARTS"
  if ((failures == 0)); then log INFO "$text"; else log_event SUCCESS healthy "$text"; fi
}

handle_healthy() {
  unhealthy_since='' loading_since='' ever_healthy=yes
  if [[ -z $healthy_since ]]; then
    healthy_since=$now
    [[ $healthy_logged ]] || log_healthy
    healthy_logged=yes
  fi
  if [[ -z $stable ]] && ((now - healthy_since >= STABLE_PERIOD_MS)); then
    ((failures == 0)) || log_event SUCCESS recovered \
      "recovered: healthy for $(format_ms "$STABLE_PERIOD_MS"), failed restarts are counted from zero again"
    stable=yes failures=0
  fi
}
