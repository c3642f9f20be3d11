#!/usr/bin/env bash
# How are many limits changed at once? In one batch: what goes down goes first, then what goes up, each with an answer of its own.
# Expect 207 with one status for each item in the order of the request, 404 for a group that is not there beside 200 for the others,
# 412 for an item whose if_match names something else, and 422 for two items of one group.
# The groups are made for this and removed at the end.
# usage: 22-batch.sh
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=shrinkd-demo-$$
item() { echo "{\"group\": \"$1\", \"patch\": {\"max_bytes\": $2}${3:+, \"if_match\": \"$3\"}}"; }

for path in "$group" "$group/inner"; do
  call 201 POST /v1/groups --json "{\"path\": \"$path\", \"limits\": {\"max_bytes\": \"2G\"}}"
done
cleanup() {
  for path in "$group/inner" "$group"; do send -o /dev/null -X DELETE "$url/v1/groups/$path" || true; done
}
trap cleanup EXIT

say "would it work?"
call 207 POST '/v1/limits/batch?dry_run=true' --json "{\"items\": [$(item "$group" '"1G"'), $(item "$group/inner" '"512M"')]}"
[[ $body != *'"status":4'* ]] || fail "an item would not"

say "it does, and one group that is not there stops nobody"
call 207 POST /v1/limits/batch --json "{\"items\": [$(item "$group" '"1G"'), $(item "$group/nobody" null), $(item "$group/inner" '"512M"')]}"
statuses=$(grep -o '"status":[0-9]*,"etag"' <<<"$body" | tr -dc '0-9\n' | tr '\n' ' ')
[[ $statuses == "200 404 200 " ]] || fail "the items were answered $statuses"

say "an item that was meant for something else is not carried out"
call 207 POST /v1/limits/batch --json "{\"items\": [$(item "$group" null '\"0\"')]}"
[[ $(member status) == 412 ]] || fail "it was"

say "a batch changes each group once"
call 422 POST /v1/limits/batch --json "{\"items\": [$(item "$group" null), $(item "$group" '"1G"')]}"
