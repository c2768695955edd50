# shellcheck shell=bash
# The codes of service/contract/causes.py for bash. Programs read these codes, never the text that follows them.
# shellcheck disable=SC2034  # used by guardian.sh, which sources this

readonly -a RESTART_CAUSES=(
  hung unhealthy start_timeout start_stalled port_taken oom_killed signal
  device_lost memory_limit failed ended asked other
)
readonly -a EVENTS=(healthy recovered gave_up halted not_leaving undead leftovers guardian_ended)

# The exit status of the instance.
readonly EXIT_ORDERLY=0 EXIT_LOAD_FAILED=1 EXIT_PORT_TAKEN=69 EXIT_HUNG=70 EXIT_DEVICE_LOST=71 EXIT_MEMORY_LIMIT=75
readonly EXIT_CONFIGURATION=78
