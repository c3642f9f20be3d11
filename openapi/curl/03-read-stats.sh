#!/usr/bin/env bash
# How much memory does a group use, and for what? One group, then all of them in one answer.
# Expect the same names on every kernel; what this one cannot tell is null and listed in `unavailable`.
# usage: 03-read-stats.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}

call 200 GET "/v1/groups/$group/stats"
say "$group uses $(mib "$(member usage_bytes)"): $(mib "$(member anon_bytes)") anonymous, $(mib "$(member file_bytes)") page cache"

say "every group at once, and only what is asked for"
call 200 GET "/v1/stats?fields=usage_bytes,file_bytes,max_bytes"

say "a subtree, and the control files as they were read"
call 200 GET "/v1/stats?subtree=$group&fields=usage_bytes"
call 200 GET "/v1/groups/$group/stats?raw=true"
