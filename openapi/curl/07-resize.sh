#!/usr/bin/env bash
# How is a limit lowered below what the group uses? Shrink, then set, in one request that waits for the end.
# Expect 200 with state "succeeded", since `Prefer: wait` was given and it was done in time, and the limit in force.
# The limit is put back at the end.
# usage: 07-resize.sh [GROUP [LIMIT IN BYTES]]     (default: 8 MiB below what it uses)
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}
limit=${2:-$((($(stat_of usage_bytes) - 8 * 1048576) / 4096 * 4096))}
keep_limit

call 200 POST "/v1/groups/$group/shrinks" -H 'Prefer: wait=60' --json "{\"target_bytes\": $limit, \"set_max_bytes\": $limit}"
[[ $(member state) == succeeded ]] || fail "it is $(member state)"
say "done in $(member elapsed_seconds) s and $(member passes) passes"

call 200 GET "/v1/groups/$group/limits"
[[ $(member max_bytes) == "$limit" ]] || fail "the limit is $(member max_bytes)"

say "and back: null is no limit"
call 200 PATCH "/v1/groups/$group/limits" --json "{\"max_bytes\": $kept}"
[[ $(member max_bytes) == "$kept" ]] || fail "the limit is $(member max_bytes)"
