# shellcheck shell=bash
# What the set-up says and how it becomes root. Sourced by scripts/setup.

# One line about one step.
say() { printf '  %-11s %s\n' "${1//_/ }" "$2"; }

fail() {
  echo "scripts/setup: $1" >&2
  exit 1
}

can_be_root() { ((EUID == 0)) || command -v sudo >/dev/null; }

# Runs a command as root. Ask can_be_root first.
as_root() {
  if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# Runs a command whose output matters only if it fails. Not attached to the lock, so that nothing it starts can hold it.
quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 9>&- || status=$?
  ((status == 0)) || tail -n 40 "$log" >&2
  rm -f "$log"
  return "$status"
}
