#!/usr/bin/env bash
# Which groups are there? In pages, by size, and one of them by its path and by its id.
# Expect a first page with a next_page_token, the page that it leads to, and the same group twice.
# usage: 02-list-groups.sh [GROUP]
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=${1:-web}

say "the first two, in the order of their paths"
call 200 GET "/v1/groups?page_size=2"
token=$(member next_page_token)
if [[ $token != null ]]; then
  say "and the next two"
  call 200 GET "/v1/groups?page_size=2&page_token=$token"
fi

say "the three that use most"
call 200 GET "/v1/groups?order_by=-usage_bytes&page_size=3&fields=path,usage_bytes,max_bytes"

say "one of them, by its path"
call 200 GET "/v1/groups/$group"
id=$(member id)

say "and by its id: this incarnation, and no later one of the same path"
call 200 GET "/v1/groups/id:$id"
[[ $(member id) == "$id" ]] || fail "id:$id is another group"
