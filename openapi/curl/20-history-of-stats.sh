#!/usr/bin/env bash
# What has a group used in the last hour, and what would a policy have saved of it? Read its history, and feed it to a simulation.
# Expect 200 with times and as many values of each field; one time at least, for what is asked for up to now is read now. Then 422
# for more than one answer holds, and 202, then 200 with a report of a simulated group that used what this one has.
# usage: 20-history-of-stats.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}
there=/v1/groups/$group/stats/history

call 200 GET "$there"
[[ $body == *'"times":["'* ]] || fail "it has no time"

say "not again, while nothing is new; and a field by the minute"
call '304|200' GET "$there" -H "If-None-Match: $(header ETag)"
call 200 GET "$there?fields=usage_bytes&step_seconds=60"

say "a year of all of it is more than one answer holds, and of what was before the daemon nothing is known"
call 422 GET "$there?from=2025-01-01T00:00:00Z&to=2026-01-01T00:00:00Z"
call 200 GET "$there?from=2025-01-01T00:00:00Z&to=2025-01-01T01:00:00Z"
[[ $body == *'"times":[]'* ]] || fail "that was before the daemon"

say "ten minutes of a group that uses what this one has, under a policy that keeps room below a limit"
call 200 GET "$there?fields=usage_bytes,anon_bytes,file_bytes"
call 202 POST /v1/simulations --json "{\"duration_seconds\": 600,
  \"recordings\": [{\"path\": \"recorded\", \"max_bytes\": \"1T\", \"history\": $body}],
  \"policies\": [{\"name\": \"room\", \"kind\": \"watermark\", \"selector\": {\"group\": \"recorded\"}, \"floor\": {\"bytes\": 0}}]}"
simulation=$(member self)
until [[ $(member 'done') == true ]]; do
  sleep 0.2
  call 200 GET "$simulation"
done
[[ $(member state) == succeeded ]] || fail "it did not come to a report"
