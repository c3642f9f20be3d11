#!/usr/bin/env bash
# What would a policy save, and what would it cost? Try it on a simulated machine first, beside the same machine without it.
# Expect 202, then 200 with a report when it is done: saved memory, pressure, refaults, limit hits; and 202 turned 200 by a cancel.
# Works on every backend: what is simulated is no part of this host.
# usage: 19-simulate.sh [SCENARIO]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
scenario=${1:-spikes}
plan() { # a watermark policy on every group of the scenario, for so many seconds
  echo "{\"scenario\": \"$scenario\", \"duration_seconds\": $1, \"policies\":
    [{\"name\": \"room\", \"kind\": \"watermark\", \"selector\": {\"parent\": \"\", \"scope\": \"leaves\"}, \"floor\": {\"bytes\": 0}}]}"
}

call 202 POST /v1/simulations --json "$(plan 600)"
simulation=$(member self)
until [[ $(member 'done') == true ]]; do
  sleep 0.2
  call 200 GET "$simulation"
done
[[ $(member state) == succeeded ]] || fail "it did not come to a report"

say "a week, and cancelled"
call 202 POST /v1/simulations --json "$(plan 604800)"
call 200 POST "$(member cancel)"
call 200 GET /v1/simulations

say "what is no plan"
call 422 POST /v1/simulations --json '{"scenario": "/etc/passwd"}'
call 404 GET /v1/simulations/0
