#!/usr/bin/env bash
# Can a shrink be stopped? At any moment: what was reclaimed stays reclaimed, and nothing else is changed.
# Expect 202 cancelling, then state "cancelled" within a fraction of a second, and the limit as it was,
# although the shrink was to set one; and 200 when it is cancelled once more.
# usage: 06-cancel.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}

limit_before=$(stat_of max_bytes)
target=$(($(stat_of usage_bytes) - 64 * 1048576))

say "64 MiB less, at 1 MiB a second, and then a limit"
call 202 POST "/v1/groups/$group/shrinks" \
  --json "{\"target_bytes\": $target, \"set_max_bytes\": $target, \"max_bytes_per_second\": \"1M\"}"
id=$(member id)
trap 'cancel_if_running "$id"' EXIT

say "a second one of the same group has to wait"
call 409 POST "/v1/groups/$group/shrinks" --json '{"reclaim_bytes": "1M"}'

say "enough"
call '200|202' POST "/v1/shrinks/$id/cancel"
call 200 GET "/v1/shrinks/$id" -H 'Prefer: wait=30'
[[ $(member state) == cancelled ]] || fail "it is $(member state)"
say "cancelled, with $(mib "$(member reclaimed_bytes)") reclaimed"
call 200 POST "/v1/shrinks/$id/cancel"

[[ $(stat_of max_bytes) == "$limit_before" ]] || fail "the limit has moved"
