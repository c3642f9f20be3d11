#!/usr/bin/env bash
# What has happened? Every change is an event: listed page by page, or followed as server-sent events, also from where one left off.
# Expect group.made, limits.changed and group.removed of a group that is made for this, first as they come, then once more as a page;
# and of a group's stats two readings.
# usage: 23-events.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}
mine=shrinkd-demo-$$ # at the top, for on v2 a group with processes has none inside
trap 'send -o /dev/null -X DELETE "$url/v1/groups/$mine" || true' EXIT

say "where are we?"
call 200 GET "/v1/events?page_size=1"
call 200 GET "/v1/events?page_size=1000&type=simulation.state"
last=$(member last_id)

say "a group comes, changes and goes"
call 201 POST /v1/groups --json "{\"path\": \"$mine\"}"
call 200 PATCH "/v1/groups/$mine/limits" --json '{"max_bytes": "64M"}'
call 204 DELETE "/v1/groups/$mine"

# follow PATH LINES OPTION...: the lines of a stream that hold data, until there are so many of them. Ends the stream by hanging up.
follow() {
  local path=$1 lines=$2 line
  shift 2
  printf '$ curl -N'
  quoted "${at[@]}" "$url$path" "$@"
  seen=''
  while IFS= read -r line; do
    shown "${line:0:180}"
    seen+=$line$'\n'
    [[ $line != data:* ]] || ((--lines)) || break
  done < <(send -N --max-time 10 "$@" "$url$path")
  kill $! 2>/dev/null || true # it would find out when there is more to tell, and until then hold on to our output
}

say "what was that? Followed from behind event $last, and it would go on"
follow "/v1/events?group=$mine" 3 -H 'Accept: text/event-stream' -H "Last-Event-ID: $last"
[[ $seen == *'event: group.made'*'event: limits.changed'*'event: group.removed'* ]] || fail "these are not the events"

say "the same as a page, and only some of it"
call 200 GET "/v1/events?after=$last&group=$mine&type=group.made&type=group.removed"
[[ $body == *'"group.made"'*'"group.removed"'* && $body != *'"limits.changed"'* ]] || fail "these are not the events"

say "an event that nobody has given out"
call 410 GET "/v1/events?after=999999999999"

say "the statistics of $group, as they come"
follow "/v1/groups/$group/stats/stream?interval_seconds=0.2" 2
[[ $seen == *'event: stats'*'event: stats'* ]] || fail "there were no readings"
