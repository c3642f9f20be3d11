#!/usr/bin/env bash
# How do two clients keep out of each other's way? With the ETag of what they have read.
# Expect 304 while nothing has changed, 200 for a change that was meant for what holds, and 412 for one that was not.
# The limit is put back at the end.
# usage: 11-only-if.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}
keep_limit
limit=$((($(stat_of usage_bytes) / 1073741824 + 2) * 1073741824))

call 200 GET "/v1/groups/$group/limits"
etag=$(header etag)

say "still the same? then there is no need to send it again"
call 304 GET "/v1/groups/$group/limits" -H "If-None-Match: $etag"

say "a change, if it is still what we have read"
call 200 PATCH "/v1/groups/$group/limits" -H "If-Match: $etag" --json "{\"max_bytes\": $limit}"

say "the same once more is too late"
call 412 PATCH "/v1/groups/$group/limits" -H "If-Match: $etag" --json "{\"max_bytes\": $limit}"
