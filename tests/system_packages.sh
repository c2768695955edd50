#!/usr/bin/env bash
# Sees to the programs that the checks run but pip cannot install.
#
#   tests/system_packages.sh PROGRAM...
#
# Does nothing when all of them are there. As root on a system with apt-get it installs what is missing;
# anywhere else it says what to install and exits 1.
set -Eeuo pipefail
PATH=$PATH:/usr/sbin  # where servers are, for those who are not root

# The Debian package that a program comes in.
package_of() {
  case "$1" in
    flock | setsid | setpriv | unshare) echo util-linux ;;
    ps | pgrep) echo procps ;;
    promtool) echo prometheus ;;
    *) echo "$1" ;;
  esac
}

missing_packages() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || package_of "$program"
  done | sort -u
}

# Debian starts a server when its package is installed (prometheus, on all addresses): here none may run but
# those that tests start.
keep_servers_from_starting() {
  local -r policy=/usr/sbin/policy-rc.d
  [[ ! -e $policy ]] || return 0
  # shellcheck disable=SC2064  # the path is known now
  trap "rm -f $policy" EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
}

apt() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=5 -o Acquire::http::Timeout=60 \
    -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "$@"
}

# A mirror may be out of reach for a moment, and another apt may hold a lock: three times, then it is an error.
install_packages() {
  local attempt
  for attempt in 1 2 3; do
    # Not an error by itself: the lists that are there may do.
    apt update || echo "apt-get update failed (attempt $attempt of 3)" >&2
    if apt install -y --no-install-recommends "$@" >/dev/null; then return 0; fi
    echo "apt-get install failed (attempt $attempt of 3)" >&2
    [[ $attempt -eq 3 ]] || sleep $((attempt * 10))
  done
  return 1
}

main() {
  local -a missing
  mapfile -t missing < <(missing_packages "$@")
  [[ ${#missing[@]} -gt 0 ]] || return 0

  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    echo "Installing system packages that the checks need: ${missing[*]}"
    keep_servers_from_starting
    install_packages "${missing[@]}"
    return
  fi
  echo "The checks need system packages that are not installed: ${missing[*]}" >&2
  echo "On Debian or Ubuntu: sudo apt-get install ${missing[*]}" >&2
  return 1
}

main "$@"
