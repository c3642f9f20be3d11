#!/usr/bin/env bash
# Who may call? Whoever the address lets in, or the bearer of a token, for what its scopes say; a token that does not hold opens nothing.
# Expect 401 for a token that nobody made and for a password, and a page that explains it to everybody. With SHRINKD_TOKEN, 200 for
# what that may read; without, 200 where the daemon asks nobody or knows who is at the other end of a unix socket, and else 401.
# usage: [SHRINKD_TOKEN=…] 21-tokens.sh
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
mine=$bearer
bearer=''

say "a token that nobody made"
call 401 GET /v1/groups -H 'Authorization: Bearer shrinkd_guessed'
[[ $(header WWW-Authenticate) == Bearer* ]] || fail "it does not say how to say who calls"
type=$(member type)
call 200 GET "$type"

say "a password"
call 401 GET /v1/groups -u admin:admin

say "is it alive? That is for everybody"
call 200 GET /livez

bearer=$mine
if [[ -n $bearer ]]; then
  say "and with SHRINKD_TOKEN"
  call 200 GET /v1/groups
else
  say "and without a token"
  call '200|401' GET /v1/groups
fi
