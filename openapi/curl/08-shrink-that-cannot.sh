#!/usr/bin/env bash
# What if there is not enough to reclaim? Anonymous memory has nowhere to go without swap, so this shrink ends by itself.
# Expect state "failed" with the problem shrink-stalled (EBUSY: five passes without progress), and the limit as it was.
# The default is a group of the simulator that holds next to nothing but anonymous memory; a group loses its page cache in this.
# usage: 08-shrink-that-cannot.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-cache}

limit_before=$(stat_of max_bytes)
call 200 POST "/v1/groups/$group/shrinks" -H 'Prefer: wait=60' --json '{"target_bytes": "1M", "set_max_bytes": "1M"}'
[[ $(member state) == failed ]] || fail "it is $(member state)"
[[ $body == *'/problems/shrink-stalled'*'"EBUSY"'* ]] || fail "it failed for another reason"
say "failed with $(member retries_left) retries left, and the limit is still $limit_before"
[[ $(stat_of max_bytes) == "$limit_before" ]] || fail "the limit has moved"
