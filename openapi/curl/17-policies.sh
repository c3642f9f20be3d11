#!/usr/bin/env bash
# What ought a group's memory to be? Write it down as a policy: here a limit to be kept, which only looks ("mode": "observe").
# Expect 201 with an ETag, 409 for a name that is taken and for two policies that would be in each other's way, what it would do
# to each group and why, 200 for a change that was meant for what holds, 412 for one that was not, and 404 when it is gone.
# usage: 17-policies.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}
name=shrinkd-demo-$$
there=/v1/policies/$name
policy() { # one of this name that keeps this limit
  echo "{\"name\": \"$1\", \"kind\": \"limit\", \"mode\": \"observe\", \"priority\": 1000,
    \"selector\": {\"group\": \"$group\"}, \"spec\": {\"limits\": {\"max_bytes\": \"$2\"}}}"
}
trap 'send -o /dev/null -X DELETE "$url$there" || true' EXIT

say "would it be taken?"
call 201 POST '/v1/policies?dry_run=true' --json "$(policy "$name" 1T)"
call 404 GET "$there"

say "it is"
call 201 POST /v1/policies --json "$(policy "$name" 1T)"
etag=$(header etag)
call 304 GET "$there" -H "If-None-Match: $etag"

say "the name is taken; and under another one it would be in the way of this one"
call 409 POST /v1/policies --json "$(policy "$name" 2T)"
call 409 POST /v1/policies --json "$(policy "$name-too" 2T)"
[[ $(member type) == /problems/policy-conflict ]] || fail "it is another conflict"

say "what would it do now, to which group, and why?"
call 200 POST "$there/evaluate"
# vetoed: somebody has changed this group by hand, and goes first for half a minute
[[ $(member verdict) =~ ^(would_act|vetoed)$ ]] || fail "it says $(member verdict)"

say "another limit, if nobody else was here meanwhile"
call 200 PUT "$there" -H "If-Match: $etag" --json "$(policy "$name" 2T)"
[[ $(member generation) == 2 ]] || fail "it is of the generation $(member generation)"
call 412 PUT "$there" -H "If-Match: $etag" --json "$(policy "$name" 3T)"

say "which policies are there, and which are about $group?"
call 200 GET '/v1/policies?kind=limit&page_size=10'
call 200 GET "/v1/groups/$group/policies"
[[ $body == *"\"$name\""* ]] || fail "the group does not know of it"

say "what is no policy"
call 422 PUT "$there" --json '{"kind": "limit", "selector": {}, "spec": {"limits": {"max_bytes": "1TB"}}}'

say "gone"
call 204 DELETE "$there"
call 404 GET "$there"
