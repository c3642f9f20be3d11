#!/usr/bin/env bash
# What happens when a limit is below what the group uses? It is refused, and nothing at all has changed.
# Expect 409 limit-below-usage with every number and, in `next`, the request that would make it work;
# the limit as it was, and the page cache, too: a kernel that is asked directly drops all of it before it says EBUSY.
# usage: 04-hit-the-409.sh [GROUP [LIMIT]]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web} limit=${2:-64M}

keep_limit
cache_before=$(stat_of file_bytes)

say "compare and set: $limit"
call 409 PATCH "/v1/groups/$group/limits" --json "{\"max_bytes\": \"$limit\"}"
[[ $(member type) == /problems/limit-below-usage ]] || fail "it was refused for another reason"
type=$(member type) shortfall=$(member shortfall_bytes)

say "the limit is what it was: $kept"
call 200 GET "/v1/groups/$group/limits"
[[ $(member max_bytes) == "$kept" ]] || fail "the limit has moved"

cache=$(stat_of file_bytes)
say "the page cache, too: $(mib "$cache_before"), now $(mib "$cache")"
((cache * 100 >= cache_before * 99)) || fail "the page cache was dropped"

say "$(mib "$shortfall") too much; the daemon explains it"
call 200 GET "$type"
