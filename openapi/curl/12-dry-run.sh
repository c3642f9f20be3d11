#!/usr/bin/env bash
# What would happen? Every change can be tried: the same checks and the same answer, and nothing is written.
# Expect the answers of the real thing with "dry_run": true, 409 where it would be refused, and everything as it was.
# usage: 12-dry-run.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}
limit_before=$(stat_of max_bytes)

call 200 PATCH "/v1/groups/$group/limits?dry_run=true" --json '{"max_bytes": "1T"}'
call 409 PATCH "/v1/groups/$group/limits?dry_run=true" --json '{"max_bytes": "1M"}'
call 202 POST "/v1/groups/$group/shrinks?dry_run=true" --json '{"reclaim_bytes": "50M"}'
call 201 POST "/v1/groups?dry_run=true" --json "{\"path\": \"shrinkd-demo-$$\"}"
call 404 GET "/v1/groups/shrinkd-demo-$$"
[[ $(stat_of max_bytes) == "$limit_before" ]] || fail "the limit has moved"
