#!/usr/bin/env bash
# How is a group shrunk? As a job that can be watched: here 8 MiB less, slowly, and followed as server-sent events.
# Expect 202 with a Location, then a `state` event, `progress` events, and `state` again with "succeeded".
# usage: 05-shrink-and-watch.sh [GROUP [SIZE]]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web} size=${2:-8M}

call 202 POST "/v1/groups/$group/shrinks" --json "{\"reclaim_bytes\": \"$size\", \"max_bytes_per_second\": \"8M\", \"reason\": \"a look\"}"
location=$(header location)
trap 'cancel_if_running "${location##*/}"' EXIT

say "as it happens"
printf '$ curl -N'
quoted "${at[@]}" "$url$location/events"
events=$(send -N "$url$location/events" | while IFS= read -r line; do
  shown "${line:0:180}" >&2
  printf '%s\n' "$line"
done)
[[ $events == *'"state":"succeeded"'* ]] || fail "it has not succeeded"

say "how it ended"
call 200 GET "$location"
[[ $(member "done") == true ]] || fail "the stream ended before the shrink"
