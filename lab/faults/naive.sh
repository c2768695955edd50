#!/usr/bin/env bash
# A naive watchdog for comparison with guardian.sh: check every 30 s, kill, start, sleep 8, sleep 10.
#
#   lab/faults/naive.sh [-- ARGUMENTS OF web_app.py]
set -u

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly ROOT
[[ ${1:-} == -- ]] && shift

start() {
  "$PYTHON" "$ROOT/web_app.py" "$@" >>"$OFA_RUN_DIR/console.log" 2>&1 &
  echo $! >"$OFA_RUN_DIR/web_app.pid"
  sleep 8
  sleep 10
}

start "$@"
while true; do
  if [[ $(curl -s "http://127.0.0.1:$OFA_HEALTH_PORT/health/simple") != OK ]]; then
    echo "[ALERT] CAUSE=other restart by the naive watchdog" >>"$OFA_RUN_DIR/restart.log"
    kill -9 "$(cat "$OFA_RUN_DIR/web_app.pid")" 2>/dev/null
    start "$@"
  fi
  sleep 30
done
