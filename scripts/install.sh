#!/usr/bin/env bash
# Runs one install command with a live line (what it does, for how long) instead of its output, which goes to a log
# that is shown if the command fails.
#   scripts/install.sh LABEL LOG COMMAND [ARG ...]
set -u
label=$1 log=$2; shift 2
"$@" >"$log" 2>&1 & pid=$!
trap 'kill $pid 2>/dev/null; exit 130' INT TERM
started=$SECONDS; shown=-8
while kill -0 $pid 2>/dev/null; do
  doing=$(grep -oE '^ *(Collecting|Downloading|Processing|Installing collected) [^ ]*' "$log" | tail -n 1 | cut -c1-50)
  if [ -t 2 ]; then printf '\r\033[2K  %s: %s s %s' "$label" $((SECONDS - started)) "$doing" >&2
  elif [ $((SECONDS - shown)) -ge 8 ]; then shown=$SECONDS; printf '  %s: %s s %s\n' "$label" $((SECONDS - started)) "$doing" >&2
  fi
  sleep 0.5
done
wait $pid; code=$?
if [ -t 2 ]; then printf '\r\033[2K' >&2; fi
if [ $code -ne 0 ]; then
  tail -n 15 "$log" >&2
  printf 'error: %s failed (exit code %s)\n  next: check the network and the space on the disk, then make setup\n  log:  %s\n' "$label" $code "$log" >&2
  exit 4
fi
printf '  %s: done in %s s\n' "$label" $((SECONDS - started)) >&2
