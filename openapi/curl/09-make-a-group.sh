#!/usr/bin/env bash
# How does a process get a group of its own? Make one, with a limit; move the process in; and remove the group when it is empty.
# Expect 201 with a Location, 204, 409 group-not-empty while the process is inside, and 204 in the end.
# On a real kernel the process is a `sleep` of this script. The simulator has processes of its own, from number 1000 on:
# there the first one, which lives in `web`, goes on a visit and is brought back.
# usage: 09-make-a-group.sh
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=shrinkd-demo-$$

call 200 GET /v1/node
if [[ $(member backend) == simulator ]]; then
  pid=1000
  move_out() { call 204 POST /v1/groups/web/processes --json "{\"pid\": $pid}"; }
else
  sleep 60 &
  pid=$!
  move_out() {
    kill "$pid"
    wait "$pid" || true # 143: it was killed
  }
fi

say "a group with a limit"
call 201 POST /v1/groups --json "{\"path\": \"$group\", \"limits\": {\"max_bytes\": \"256M\"}}"
location=$(header location)
inside=false
cleanup() {
  if $inside; then move_out >/dev/null 2>&1; fi
  send -o /dev/null -X DELETE "$url$location" || true
}
trap cleanup EXIT

say "once more is a conflict"
call 409 POST /v1/groups --json "{\"path\": \"$group\"}"

say "process $pid moves in; what it has charged so far stays with its old group"
call 204 POST "$location/processes" --json "{\"pid\": $pid}"
inside=true

say "a group with a process in it is not removed"
call 409 DELETE "$location"

say "without, it is"
move_out
inside=false
for _ in {1..50}; do
  call '204|409' DELETE "$location"
  [[ $status == 409 ]] || break
  sleep 0.02 # the kernel counts a process that has just ended for a moment longer
done
[[ $status == 204 ]] || fail "the group is still there"
call 404 GET "$location"
