#!/usr/bin/env bash
# What if the answer is lost? Send the request again under the key that it had: it takes effect once.
# Expect 201, 201 once more with Idempotency-Replayed and the same body, 409 without the key, and 422 for another request under it.
# The group is removed at the end.
# usage: 25-retry.sh
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=shrinkd-demo-$$
key=$(tr -d '\n' </proc/sys/kernel/random/uuid)
make() { call "$1" POST /v1/groups "${@:3}" --json "{\"path\": \"$2\"}"; }

say "a group, under a key of our own"
trap 'send -o /dev/null -X DELETE "$url/v1/groups/$group" || true' EXIT
make 201 "$group" -H "Idempotency-Key: $key"
first=$body

say "the answer was lost, let us say: again"
make 201 "$group" -H "Idempotency-Key: $key"
[[ $(header idempotency-replayed) == true ]] || fail "it was made a second time"
[[ $body == "$first" ]] || fail "it was answered otherwise"

say "without a key it is another request, and the group is there already"
make 409 "$group"

say "and what is not the same request is not answered as that"
make 422 "$group-too" -H "Idempotency-Key: $key"

say "if nothing but success matters, there is less to read"
call 204 PATCH "/v1/groups/$group/limits" -H 'Prefer: return=minimal' --json '{"max_bytes": "1G"}'
[[ -z $body ]] || fail "there is a body"
