#!/usr/bin/env bash
# What will it look like in an hour? The time of a simulated machine can be stopped, put forward, and be let go at another speed.
# Expect 200 with the time: 3600 seconds more after an hour that took a second or two, and no second while it stands.
# It goes as before in the end. On a real kernel all of this is 404 not-simulator.
# usage: 15-clock.sh
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
clock=/v1/simulator/clock

call 200 GET /v1/node
if [[ $(member backend) != simulator ]]; then
  say "a real kernel: its time goes as it goes"
  call 404 GET $clock
  exit
fi

call 200 GET $clock
speed=$(member speed)
trap 'send -o /dev/null -X POST --json "{\"speed\": $speed}" "$url$clock"' EXIT

say "stop it, and put it forward by hand: what a group uses then is the same each time"
call 200 POST $clock --json '{"speed": 0}'
now=$(number "$(member now_seconds)")
call 200 POST $clock --json '{"advance_seconds": 3600}'
later=$(number "$(member now_seconds)")
((${now%.*} <= ${later%.*} - 3599)) || fail "that was no hour"

say "a minute in a second; then as fast as it goes, which takes a core"
call 200 POST $clock --json '{"speed": 60}'
call 200 POST $clock --json '{"speed": "max"}'
call 200 GET $clock

say "what is no change"
call 422 POST $clock --json '{"speed": -1}'
call 422 POST $clock --json '{"speed": 1, "advance_seconds": 1}'
