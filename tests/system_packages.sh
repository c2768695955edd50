#!/usr/bin/env bash
# Sees to the programs that the checks run but pip cannot install.
#
#   tests/system_packages.sh PROGRAM...
#
# Does nothing when all of them are there. As root on a system with apt-get it installs what is missing;
# anywhere else it says what to install and exits 1.
set -Eeuo pipefail

# The Debian package that a program comes in.
package_of() {
  case "$1" in
    flock | setsid | unshare) echo util-linux ;;
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

main() {
  local -a missing
  mapfile -t missing < <(missing_packages "$@")
  [[ ${#missing[@]} -gt 0 ]] || return 0

  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    echo "Installing system packages that the checks need: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    keep_servers_from_starting
    apt-get -qq update
    apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${missing[@]}" >/dev/null
    return 0
  fi
  echo "The checks need system packages that are not installed: ${missing[*]}" >&2
  echo "On Debian or Ubuntu: sudo apt-get install ${missing[*]}" >&2
  return 1
}

main "$@"
