#!/usr/bin/env bash
# What if the group did something else? Give a simulated one another workload: here a leak, that is watched for a minute of its time.
# Expect 200 with the workload, usage that grows by a MiB a second, 412 for a change that came too late, and 422 for what is no workload.
# The old workload is put back in the end. On a real kernel all of this is 404 not-simulator.
# usage: 14-workload.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-leaky}
there=/v1/simulator/groups/$group/workload

call 200 GET /v1/node
if [[ $(member backend) != simulator ]]; then
  say "a real kernel: its workloads are nobody's to choose"
  call 404 GET "$there"
  call 404 PUT "$there" --json '{"memory": []}'
  exit
fi

say "what is simulated, and what the group does now"
call 200 GET /v1/simulator
call 200 GET "$there"
etag=$(header etag)
before=${body%,\"group\":*}"}" # all but the group and dry_run can be sent back as it is
trap 'send -o /dev/null -X PUT --json "$before" "$url$there"' EXIT

say "a leak instead, if nobody else was here meanwhile"
leak='{"memory": [{"kind": "anon", "size_bytes": "32M", "heat_seconds": "cold", "grows_bytes_per_second": "1M"}]}'
call 200 PUT "$there?dry_run=true" --json "$leak"
call 200 PUT "$there" -H "If-Match: $etag" --json "$leak"
call 412 PUT "$there" -H "If-Match: $etag" --json "$leak"

say "a minute later"
used=$(stat_of anon_bytes)
call 200 POST /v1/simulator/clock --json '{"advance_seconds": 60}'
grown=$(($(stat_of anon_bytes) - used))
echo "it has grown by $(mib $grown)"
((grown >= 59 * 1048576)) || fail "that is no leak of a MiB a second"

say "what is no workload"
call 422 PUT "$there" --json '{"memory": [{"kind": "anon", "size_bytes": "32MB", "heat_seconds": "tepid"}]}'

say "nothing at all"
call 204 DELETE "$there"
call 200 GET "$there"
