#!/usr/bin/env bash
# Who tried to change what, and what came of it? And how does this daemon do, in numbers for Prometheus?
# Expect a refused change and a trial to be in the audit within a second or so, each with its caller and its answer.
# usage: 24-audit.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}

say "a change that cannot be, and one that is only tried"
call 409 PATCH "/v1/groups/$group/limits" --json '{"max_bytes": "1M"}'
call 200 PATCH "/v1/groups/$group/limits?dry_run=true" --json '{"max_bytes": null}'

say "both are in the audit"
for _ in {1..50}; do
  call 200 GET "/v1/audit?group=$group&operation=patch_limits&page_size=2"
  [[ $body != *'"status":null'* && $body == *'"dry_run":true'* && $body == *'"dry_run":false'* ]] && break
  sleep 0.2 # what came of a change is written down within a second
done
[[ $body == *'"problem":"limit-below-usage"'* ]] || fail "the refusal is not there"
[[ $body == *'"dry_run":true'* ]] || fail "the trial is not there"

say "only what was refused"
call 200 GET "/v1/audit?status_from=400&page_size=1"

say "numbers for Prometheus"
call 200 GET /metrics
[[ $body == *'shrinkd_request_seconds_count{operation="patch_limits",status="409"}'* ]] || fail "the refusal was not counted"
