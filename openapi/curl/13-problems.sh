#!/usr/bin/env bash
# What does an error look like? Always application/problem+json, with a `type` that is a page of this daemon.
# Expect 404, 405, 400, 415 and several 422, each of which says what is wrong and where; then the list of all kinds.
# usage: 13-problems.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}

say "no such group"
call 404 GET /v1/groups/no/such/group

say "not something that can be done"
call 405 PUT "/v1/groups/$group/limits" --json '{}'

say "not JSON, and not sent as JSON"
call 400 PATCH "/v1/groups/$group/limits" --json '{"max_bytes": '
call 415 PATCH "/v1/groups/$group/limits" --data '{"max_bytes": "1T"}'

say "sizes that would mean something else to somebody: decimal or binary? octal? a number at all? a typing error?"
for size in '"400MB"' '"010M"' true -1 '"16E"'; do
  call 422 PATCH "/v1/groups/$group/limits" --json "{\"max_bytes\": $size}"
done
call 422 PATCH "/v1/groups/$group/limits" --json '{"max_byte": "1T"}'
call 422 PATCH "/v1/groups/$group/limits?dryrun=true" --json '{"max_bytes": "1T"}'
type=$(member type)

say "what that is, and what else there is"
call 200 GET "$type"
call 200 GET /problems
