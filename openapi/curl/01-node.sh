#!/usr/bin/env bash
# Is it there, and what is it? Health, version, and the machine that it looks after.
# Expect four answers of 200; `capabilities` is what this kernel can do, and clients ask it instead of a version.
set -euo pipefail
source "$(dirname "$0")/_curl.sh"

call 200 GET /livez
call 200 GET /readyz
call 200 GET /version
call 200 GET /v1/node
say "backend $(member backend) on kernel $(member kernel), $(mib "$(member available_bytes)") of $(mib "$(member total_bytes)") available"
