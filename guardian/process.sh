# shellcheck shell=bash
# Processes and ports as /proc shows them, and how an instance ended.
# shellcheck disable=SC2034,SC2154  # the state and the settings are those of guardian.sh, which sources this

# Fills `stat` with /proc/PID/stat from its third field (state) on; a command's name may hold anything.
read_stat() {
  local line=''
  { IFS= read -rd '' line <"/proc/$1/stat"; } 2>/dev/null
  [[ $line == *') '* ]] || return 1
  # shellcheck disable=SC2206  # numbers and one letter
  stat=(${line##*') '})
}

# is_alive PID START_TIME: this very process, not a later one of the same number, and not a zombie.
is_alive() {
  [[ -n $1 ]] && read_stat "$1" && [[ ${stat[19]} == "$2" && ${stat[0]} != [ZX] ]]
}

child_alive() {
  is_alive "$child" "$child_start"
}

# Counts what lives in the instance's process group, and its CPU time in ticks.
survey_group() {
  local entry
  group_size=0 group_cpu=0
  for entry in /proc/[0-9]*; do
    if read_stat "${entry#/proc/}" && [[ ${stat[2]} == "$child" && ${stat[0]} != [ZX] ]]; then
      ((group_size++, group_cpu += stat[11] + stat[12]))
    fi
  done
}

# Written by the process that becomes the instance, before it does: no moment exists in which an instance runs
# and no file names it. Line 1 is all that `kill $(cat web_app.pid)` can use; the rest tells a reused PID, and
# where the instance is asked for its health, which a later `status` cannot know when flags decided it.
write_pid_file() {
  local boot=''
  read -r boot </proc/sys/kernel/random/boot_id
  read_stat "$1" || return 1
  { printf '%s\nstarttime=%s boot=%s\nhealth=%s\n' "$1" "${stat[19]}" "$boot" "$BASE_URL" >"$PID_FILE.new"; } 2>/dev/null &&
    mv -f -- "$PID_FILE.new" "$PID_FILE" 2>/dev/null && return
  rm -f -- "$PID_FILE.new" 2>/dev/null
}

# Sets file_pid, file_start and file_url, and succeeds if the very process that the PID file names still runs.
read_pid_file() {
  local boot='' text=''
  file_pid='' file_start='' file_url=''
  read -r boot </proc/sys/kernel/random/boot_id
  [[ -f $PID_FILE ]] || return 1 # a fifo would be waited for
  { IFS= read -rN 4096 text <"$PID_FILE"; } 2>/dev/null
  [[ $text =~ ^([2-9]|[1-9][0-9]{1,8})[[:space:]]+starttime=([0-9]+)\ boot=([0-9a-f-]+) ]] || return 1
  file_pid=${BASH_REMATCH[1]} file_start=${BASH_REMATCH[2]}
  local -r file_boot=${BASH_REMATCH[3]}
  [[ $text =~ health=(https?://[^[:space:]]+) ]] && file_url=${BASH_REMATCH[1]}
  [[ $file_boot == "$boot" ]] && is_alive "$file_pid" "$file_start" && [[ -O /proc/$file_pid ]]
}

# Takes over the instance that the PID file names.
adopt() {
  if ! read_pid_file; then
    [[ $file_pid && -e /proc/$file_pid ]] && say INFO "web_app.pid names process $file_pid, which is another one now: left alone"
    return 1
  fi
  child=$file_pid child_start=$file_start child_ours=''
  expect_instance
  launched_at=$((file_start * 10)) # ticks of 10 ms since boot, as /proc/uptime
  launched_unix=$((launched_unix - (now - launched_at) / 1000))
  ((now - launched_at > START_STALL_MS)) && answered=yes
  return 0
}

# --- ports ------------------------------------------------------------------------------------------------------

# clashes HOST ADDRESS: whether a listener on ADDRESS (as in /proc/net/tcp) keeps HOST from being listened on.
clashes() {
  [[ ! $2 =~ ^0+$ && $1 =~ ^([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9]+)$ && $1 != 0.0.0.0 ]] || return 0
  local hex
  printf -v hex '%02X%02X%02X%02X' "${BASH_REMATCH[4]}" "${BASH_REMATCH[3]}" "${BASH_REMATCH[2]}" "${BASH_REMATCH[1]}"
  [[ $2 == "$hex" ]]
}

# Sets taken_port and taken_inode when somebody listens where the instance will.
ports_taken() {
  local line listened
  local -a lines more fields
  mapfile -t lines 2>/dev/null </proc/net/tcp # read whole: line by line, bash would make the kernel count anew
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

# Sets `holder`, the process that holds the socket found by ports_taken, in words, and `facts`: whether it is an
# instance of this service.
name_holder() {
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
  holder="a process that cannot be seen from here (user $taken_uid)"
}

# --- how it ended -----------------------------------------------------------------------------------------------

# How many processes the kernel's OOM killer has taken in our cgroup (v2, v1), or nothing.
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

# Whether the kernel says that it killed the instance for want of memory.
out_of_memory() {
  local -r before=$oom_kills
  count_oom_kills
  [[ -n $before && -n $oom_kills ]] && ((oom_kills > before)) && return
  [[ $(dmesg 2>/dev/null 9>&- | tail -n 300 9>&-) == *"illed process $child "* ]]
}

# Sets exit_code (empty when unknown) and exit_reason from last_exit.json, if this very process wrote it.
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

# Sets exit_code, `cause`, its `facts` and, in words, `ending` of the instance that has ended.
learn_ending() {
  read_last_exit
  if [[ $child_ours ]]; then
    wait "$child" 2>/dev/null
    exit_code=$?
  fi
  cause=other facts=''
  case $exit_code in
    '') ending='ended without a trace of why (adopted, so its exit code is not known)' ;;
    "$EXIT_ORDERLY") cause=ended ending='ended in order though the guardian did not ask it to (exit code 0)' ;;
    "$EXIT_LOAD_FAILED") cause=failed ending='failed (exit code 1: the model could not be loaded, or an error nobody caught)' ;;
    "$EXIT_PORT_TAKEN") cause=port_taken ending='found a port of its taken (exit code 69)' ;;
    "$EXIT_HUNG") cause=hung ending='declared itself hung (exit code 70)' ;;
    "$EXIT_DEVICE_LOST") cause=device_lost ending='lost its CUDA context (exit code 71)' ;;
    "$EXIT_MEMORY_LIMIT") cause=memory_limit ending='left to free memory, its limit being reached (exit code 75)' ;;
    "$EXIT_CONFIGURATION") ending='wrong configuration or missing dependency (exit code 78)' ;;
    126 | 127) ending="could not be started (exit code $exit_code): is $INTERPRETER there?" ;;
    *) ending="ended with exit code $exit_code" ;;
  esac
  if [[ $child_ours && $exit_code -gt 128 ]]; then
    cause=signal facts="SIGNAL=$((exit_code - 128)) " ending="killed by signal $((exit_code - 128)) (SIG$(kill -l "$exit_code" 2>/dev/null || echo '?'))"
  fi
  if [[ -z $exit_code || $exit_code == 137 ]] && out_of_memory; then
    cause=oom_killed ending+=", by the kernel's OOM killer"
  fi
  ending+=${exit_reason:+: $exit_reason}
}
