#!/usr/bin/env bash
# What does a client see when the kernel misbehaves? Plan it: an error, a delay or a vanishing group at the n-th use of a verb.
# Expect 200 with what is planned, 409 for the one pass of a shrink that fails, a limit that takes half a second, and 410 or 404 for a
# group that somebody removed meanwhile. On a real kernel all of this is 404 not-simulator.
# usage: 16-faults.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}
faults=/v1/simulator/faults

call 200 GET /v1/node
if [[ $(member backend) != simulator ]]; then
  say "a real kernel: it fails when it likes to"
  call 404 GET $faults
  exit
fi
victim=shrinkd-demo-$$
trap 'send -o /dev/null -X DELETE "$url$faults"; send -o /dev/null -X DELETE "$url/v1/groups/$victim"' EXIT

say "the first pass of the next shrink of $group is refused"
call 200 POST $faults --json "{\"verb\": \"reclaim\", \"group\": \"$group\", \"error\": \"EBUSY\"}"
call 202 POST "/v1/groups/$group/shrinks" --json '{"reclaim_bytes": "1M"}'
call 200 GET "$(header location)" -H 'Prefer: wait=30'
[[ $(member state) == failed ]] || fail "the shrink did not meet it"

say "the next limit takes half a second, for whoever sets it and for nobody else"
call 201 POST /v1/groups --json "{\"path\": \"$victim\"}"
call 200 POST $faults --json '{"verb": "set_limits", "delay_seconds": 0.5}'
call 200 PATCH "/v1/groups/$victim/limits" --json '{"max_bytes": "8G"}'

say "a group that somebody removes while its limit is set"
call 200 POST $faults --json "{\"verb\": \"set_limits\", \"group\": \"$victim\", \"vanishes\": true}"
call 200 GET $faults
call 410 PATCH "/v1/groups/$victim/limits" --json '{"max_bytes": "1G"}'
call 404 GET "/v1/groups/$victim"

say "what is no fault, and how all that is planned is called off"
call 422 POST $faults --json '{"verb": "reclaim", "error": "EBUSY", "vanishes": true}'
call 204 DELETE $faults
