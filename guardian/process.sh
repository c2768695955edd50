# shellcheck shell=bash
# Processes and ports in /proc, and why an instance exited.
# shellcheck disable=SC2034,SC2154  # state and settings are declared in guardian.sh, which sources this

# read_stat PID: sets `stat` to /proc/PID/stat from the third field (state) on; the second may contain any text.
read_stat() {
  local line=''
  { IFS= read -rd '' line <"/proc/$1/stat"; } 2>/dev/null
  [[ $line == *') '* ]] || return 1
  # shellcheck disable=SC2206  # numbers and one letter
  stat=(${line##*') '})
}

# is_alive PID START_TIME: succeeds for this process, not for a later one with the same id, nor for a zombie.
is_alive() {
  [[ -n $1 ]] && read_stat "$1" && [[ ${stat[19]} == "$2" && ${stat[0]} != [ZX] ]]
}

child_alive() {
  is_alive "$child" "$child_start"
}

# Sets group_size and group_cpu: live processes in the instance's process group, and their CPU time in ticks.
measure_group() {
  local entry
  group_size=0 group_cpu=0
  for entry in /proc/[0-9]*; do
    if read_stat "${entry#/proc/}" && [[ ${stat[2]} == "$child" && ${stat[0]} != [ZX] ]]; then
      ((group_size++, group_cpu += stat[11] + stat[12]))
    fi
  done
}

# write_pid_file PID: called by the process that becomes the instance, so that no instance runs without the file. Line 1
# serves `kill $(cat web_app.pid)`. The rest detects a reused PID, and holds the health address for a later `status`.
write_pid_file() {
  local boot=''
  read -r boot </proc/sys/kernel/random/boot_id
  read_stat "$1" || return 1
  { printf '%s\nstarttime=%s boot=%s\nhealth=%s\n' "$1" "${stat[19]}" "$boot" "$BASE_URL" >"$PID_FILE.new"; } 2>/dev/null &&
    mv -f -- "$PID_FILE.new" "$PID_FILE" 2>/dev/null && return
  rm -f -- "$PID_FILE.new" 2>/dev/null
}

# Sets file_pid, file_start and file_url. Succeeds if the process that the PID file names still runs.
read_pid_file() {
  local boot='' text=''
  file_pid='' file_start='' file_url=''
  read -r boot </proc/sys/kernel/random/boot_id
  [[ -f $PID_FILE ]] || return 1 # reading a FIFO would block
  { IFS= read -rN 4096 text <"$PID_FILE"; } 2>/dev/null
  [[ $text =~ ^([2-9]|[1-9][0-9]{1,8})[[:space:]]+starttime=([0-9]+)\ boot=([0-9a-f-]+) ]] || return 1
  file_pid=${BASH_REMATCH[1]} file_start=${BASH_REMATCH[2]}
  local -r file_boot=${BASH_REMATCH[3]}
  [[ $text =~ health=(https?://[^[:space:]]+) ]] && file_url=${BASH_REMATCH[1]}
  [[ $file_boot == "$boot" ]] && is_alive "$file_pid" "$file_start" && [[ -O /proc/$file_pid ]]
}

# Adopts the instance that the PID file names.
adopt() {
  if ! read_pid_file; then
    [[ $file_pid && -e /proc/$file_pid ]] &&
      log INFO "web_app.pid names process $file_pid, which is a different process now: left running"
    return 1
  fi
  child=$file_pid child_start=$file_start child_ours=''
  reset_observations
  launched_at=$((file_start * 10)) # ticks of 10 ms since boot, as /proc/uptime
  launched_unix=$((launched_unix - (now - launched_at) / 1000))
  ((now - launched_at > START_STALL_MS)) && answered=yes
  return 0
}

# --- ports ------------------------------------------------------------------------------------------------------

# clashes HOST ADDRESS: succeeds if a listener on ADDRESS (as in /proc/net/tcp) prevents listening on HOST.
clashes() {
  [[ ! $2 =~ ^0+$ && $1 =~ ^([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9]+)$ && $1 != 0.0.0.0 ]] || return 0
  local hex
  printf -v hex '%02X%02X%02X%02X' "${BASH_REMATCH[4]}" "${BASH_REMATCH[3]}" "${BASH_REMATCH[2]}" "${BASH_REMATCH[1]}"
  [[ $2 == "$hex" ]]
}

# Succeeds if a port of the instance is in use. Sets taken_port, taken_uid and taken_inode.
ports_taken() {
  local line listened
  local -a lines more fields
  mapfile -t lines 2>/dev/null </proc/net/tcp # one read: per line, the kernel would scan the table again
  mapfile -t more 2>/dev/null </proc/net/tcp6
  for line in "${lines[@]}" "${more[@]}"; do
    [[ $line == *' 0A '* ]] || continue # listening
    # shellcheck disable=SC2206  # words without wildcards: slot, local address, remote, state, ..., user, timeout, inode
    fields=($line)
    listened=$((16#${fields[1]##*:}))
    if [[ $listened == "$PORT" ]] && clashes "$HOST" "${fields[1]%:*}" ||
      [[ $listened == "$HEALTH_PORT" ]] && clashes "$HEALTH_HOST" "${fields[1]%:*}"; then
      taken_port=$listened taken_uid=${fields[7]} taken_inode=${fields[9]}
      return 0
    fi
  done
  return 1
}

# Sets `holder`, a description of the process with the socket found by ports_taken, and `facts`: whether it is an instance
# of this service.
find_holder() {
  facts='HOLDER=other '
  local entry pid
  local -a words
  for entry in /proc/[0-9]*; do
    [[ $'\n'$(stat -Lc '%i %F' -- "$entry"/fd/* 2>/dev/null 9>&-)$'\n' == *$'\n'"$taken_inode socket"$'\n'* ]] || continue
    pid=${entry#/proc/} words=()
    { mapfile -d '' -t words <"$entry/cmdline"; } 2>/dev/null
    holder="process $pid (${words[*]:0:12})" holder=${holder:0:160}
    [[ " ${words[*]:0:4} " == *@(web_app|health_api).py\ * ]] && facts='HOLDER=instance '
    return
  done
  holder="a process that is not visible to this user (owner $taken_uid)"
}

# --- exits ------------------------------------------------------------------------------------------------------

# Sets oom_kills, the OOM kills in our cgroup (v2 or v1), or empty if unknown.
count_oom_kills() {
  local line path file key value
  oom_kills=''
  while IFS= read -r line; do
    path=${line#*:*:}
    case $line in
      0::*) set -- "/sys/fs/cgroup$path/memory.events" /sys/fs/cgroup/memory.events ;;
      *:memory:*) set -- "/sys/fs/cgroup/memory$path/memory.oom_control" /sys/fs/cgroup/memory/memory.oom_control ;;
      *) continue ;;
    esac
    for file; do
      [[ -r $file ]] || continue
      while read -r key value; do [[ $key == oom_kill ]] && oom_kills=$value && return; done <"$file"
    done
  done </proc/self/cgroup
}

# Succeeds if the kernel's OOM killer ended the instance.
was_oom_killed() {
  local -r before=$oom_kills
  count_oom_kills
  [[ -n $before && -n $oom_kills ]] && ((oom_kills > before)) && return
  [[ $(dmesg 2>/dev/null 9>&- | tail -n 300 9>&-) == *"illed process $child "* ]]
}

# Sets exit_code (empty if unknown) and exit_reason from last_exit.json, if this instance wrote it.
read_last_exit() {
  local text=''
  exit_code='' exit_reason=''
  [[ -f $LAST_EXIT ]] || return 0
  { IFS= read -rN 4096 text <"$LAST_EXIT"; } 2>/dev/null
  [[ $text =~ \"pid\":\ *([0-9]+) && ${BASH_REMATCH[1]} == "$child" ]] || return 0
  [[ $text =~ \"start_ticks\":\ *([0-9]+) && ${BASH_REMATCH[1]} == "$child_start" ]] || return 0
  [[ $text =~ \"code\":\ *([0-9]{1,3}) ]] && exit_code=${BASH_REMATCH[1]}
  [[ $text =~ \"reason\":\ *\"([^\"]*)\" ]] && exit_reason=${BASH_REMATCH[1]:0:200}
}

# Sets exit_code, `cause`, `facts` and `outcome` (a description) of the instance that has exited.
explain_exit() {
  read_last_exit
  if [[ $child_ours ]]; then
    wait "$child" 2>/dev/null
    exit_code=$?
  fi
  cause=other facts=''
  case $exit_code in
    '') outcome='exited for an unknown reason (adopted, so its exit code is unknown)' ;;
    "$EXIT_ORDERLY") cause=ended outcome='exited normally without a request of the guardian (exit code 0)' ;;
    "$EXIT_LOAD_FAILED") cause=failed outcome='failed (exit code 1: the model could not be loaded, or an uncaught exception)' ;;
    "$EXIT_PORT_TAKEN") cause=port_taken outcome='found a port already in use (exit code 69)' ;;
    "$EXIT_HUNG") cause=hung outcome='detected that it hangs (exit code 70)' ;;
    "$EXIT_DEVICE_LOST") cause=device_lost outcome='lost its CUDA context (exit code 71)' ;;
    "$EXIT_MEMORY_LIMIT") cause=memory_limit outcome='exited because it reached its memory limit (exit code 75)' ;;
    "$EXIT_CONFIGURATION") outcome='has a wrong configuration or a missing dependency (exit code 78)' ;;
    126 | 127) outcome="could not be started (exit code $exit_code): check $INTERPRETER" ;;
    *) outcome="exited with exit code $exit_code" ;;
  esac
  if [[ $child_ours && $exit_code -gt 128 ]]; then
    local -r signal=$((exit_code - 128))
    cause=signal facts="SIGNAL=$signal "
    outcome="was killed by signal $signal (SIG$(kill -l "$exit_code" 2>/dev/null || echo '?'))"
  fi
  if [[ -z $exit_code || $exit_code == 137 ]] && was_oom_killed; then
    cause=oom_killed outcome+=", by the kernel's OOM killer"
  fi
  outcome+=${exit_reason:+: $exit_reason}
}
