#!/usr/bin/env bash
# Why did the daemon do that, or why not? Every policy says what it decided for a group, by which numbers it went, and what came of it.
# Expect a page of decisions within a few seconds of a new policy: "would_act", for it only looks, or "vetoed" where somebody has
# changed the group by hand in the last half minute. Then the same by verdict, by time and by group.
# usage: 18-decisions.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}
name=shrinkd-demo-$$
there=/v1/policies/$name
trap 'send -o /dev/null -X DELETE "$url$there" || true' EXIT

say "a policy that looks at $group, and does nothing"
call 201 PUT "$there" --json "{\"kind\": \"limit\", \"mode\": \"observe\", \"priority\": 1000,
  \"selector\": {\"group\": \"$group\"}, \"spec\": {\"limits\": {\"max_bytes\": \"1T\"}}}"

say "what has it decided?"
for _ in {1..50}; do
  call 200 GET "$there/decisions"
  [[ $body == *'"verdict"'* ]] && break
  sleep 0.2 # decisions are written down once a second
done
[[ $(member verdict)/$(member reason) =~ ^(would_act/limits_drifted|vetoed/manual_change)$ ]] || fail "it says $(member verdict)"

say "only what it did or would do; only what is new; and of the group, whoever decided it"
call 200 GET "$there/decisions?verdict=act&verdict=would_act&page_size=1"
call 200 GET "$there/decisions?since=2100-01-01T00:00:00Z"
[[ $body == *'"items":[]'* ]] || fail "that is still to come"
call 200 GET "/v1/groups/$group/decisions?page_size=1"
[[ $(member policy) == "$name" ]] || fail "the newest is of $(member policy)"

say "the last one is in its status, too"
call 200 GET "$there"
call 204 DELETE "$there"
