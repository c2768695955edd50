#!/usr/bin/env bash
# Installs programs that the checks run and pip cannot install.
#
#   tests/system_packages.sh PROGRAM...
#
# As root with apt-get it installs missing ones; otherwise it says what to install and exits 1.
set -Eeuo pipefail
PATH=$PATH:/usr/sbin  # servers are there; not in the PATH of other users

# The Debian package of a program.
package_of() {
  case "$1" in
    flock | nsenter | setsid | setpriv | unshare) echo util-linux ;;
    ps | pgrep) echo procps ;;
    promtool) echo prometheus ;;
    ip) echo iproute2 ;;
    *) echo "$1" ;;
  esac
}

missing_packages() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || package_of "$program"
  done | sort -u
}

# Debian starts a server when its package is installed (prometheus, on all addresses); only tests may start servers.
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

# Three attempts, since a mirror may be unreachable or another apt may hold a lock.
install_packages() {
  local attempt
  for attempt in 1 2 3; do
    # Not fatal: existing package lists may suffice.
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
