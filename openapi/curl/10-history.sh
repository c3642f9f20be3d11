#!/usr/bin/env bash
# What has been done, and how did it end? Shrinks are kept for a week after they are done.
# Expect lists with the newest first: of all groups, of those that ended in a certain way, and of one group.
# usage: 10-history.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}

say "something to remember"
call 200 POST "/v1/groups/$group/shrinks" -H 'Prefer: wait=60' --json '{"reclaim_bytes": "1M", "reason": "for the list"}'
id=$(member id)

call 200 GET "/v1/shrinks?page_size=1"
call 200 GET "/v1/shrinks?state=failed&state=cancelled&page_size=1"
call 200 GET "/v1/groups/$group/shrinks?page_size=1"
[[ $(member id) == "$id" ]] || fail "the newest is not the last that was asked for"
