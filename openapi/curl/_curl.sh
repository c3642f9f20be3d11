# shellcheck shell=bash
# Sourced by every script here: where the daemon is, and what all of them do. Needs bash and curl, nothing else.
#
#   SHRINKD_URL     where it listens: http://HOST:PORT or unix:/PATH (default http://127.0.0.1:8080, as `make run` serves it)
#   SHRINKD_SOCKET  the path of its unix socket instead, such as /run/shrinkd/api.sock
#   SHRINKD_TOKEN   a token of `shrinkd token make`, where one is wanted; it is sent where one of the two above says, and not shown

at=(--globoff) # [ and { may be in the name of a group, and are no ranges of addresses
where=${SHRINKD_SOCKET:+unix:$SHRINKD_SOCKET}
where=${where:-${SHRINKD_URL:-http://127.0.0.1:8080}}
url=$where
if [[ $where == unix:* ]]; then
  at+=(--unix-socket "${where#unix:}")
  url=http://localhost
fi
bearer=${SHRINKD_TOKEN:-}
group='' # the one that a script is about
status='' headers='' body=''

# shown TEXT: print it, with \xNN for every byte but line breaks and printable ASCII: a terminal obeys some of the others.
shown() {
  local LC_ALL=C rest=$1 plain
  while [[ $rest == *[!\ -~$'\n']* ]]; do
    plain=${rest%%[!\ -~$'\n']*}
    printf '%s\\x%02x' "$plain" "'${rest:${#plain}:1}"
    rest=${rest:${#plain}+1}
  done
  printf '%s\n' "$rest"
}

say() { shown $'\n'"# $*"; }

fail() {
  shown "FAILED: $*" >&2
  exit 1
}

if [[ -n $bearer && -z ${SHRINKD_SOCKET:-}${SHRINKD_URL:-} ]]; then
  printf 'SHRINKD_TOKEN is not sent to %s, where anybody may listen: set SHRINKD_URL if it belongs there\n' "$where" >&2
  bearer=''
elif [[ -n $bearer && $where != unix:* && $where != https://* && ! $where =~ ^http://(localhost|127(\.[0-9]+){3}|\[::1\])(:[0-9]+)?(/|$) ]]; then
  fail "$where would have the token sent in the clear, for others to read: use https, or unix:/PATH"
fi

# send CURL_OPTION...: curl to the daemon, with the token, which no list of processes shows. No proxy and no ~/.curlrc has a part in it.
send() { curl -q -sS --noproxy '*' "${at[@]}" --config <([[ -z $bearer ]] || printf 'header = "Authorization: Bearer %s"\n' "$bearer") "$@"; }

# call STATUS METHOD PATH [CURL OPTION]...: send a request, show it and its answer, and fail unless the status matches.
# Leaves the answer in $status, $headers and $body.
call() {
  local wanted=$1 method=$2 path=$3 answer
  shift 3
  printf '$ curl'
  quoted "${at[@]}" -X "$method" "$url$path" "$@"
  answer=$(send -i -X "$method" "$@" "$url$path" && printf .) || fail "no answer from $where: is the daemon running?"
  answer=${answer%.}
  headers=${answer%%$'\r\n\r\n'*}
  body=${answer#*$'\r\n\r\n'}
  status=${headers#* }
  status=${status%% *}
  shown "${headers%%$'\r\n'*}"
  [[ -z $body ]] || show "$body"
  [[ $status =~ ^($wanted)$ ]] || fail "$method $path: wanted status $wanted and got $status"
}

# quoted WORD...: print words as one would type them.
quoted() {
  local word line=''
  for word; do
    if [[ $word =~ [^[:alnum:]_./:=-] ]]; then line+=" '${word//\'/\'\\\'\'}'"; else line+=" $word"; fi
  done
  shown "$line"
}

# show TEXT: print it, or as much of it as fits a screen.
show() {
  if ((${#1} > 1500)); then shown "${1:0:1500}... (${#1} characters)"; else shown "$1"; fi
}

# member NAME: the first member of that name in $body: a number, null, true, false, or a string without its quotes.
member() {
  local pattern="\"$1\": ?(\"([^\"]*)\"|([^],}\"]+))"
  [[ $body =~ $pattern ]] || fail "the answer has no $1"
  printf '%s' "${BASH_REMATCH[2]:-${BASH_REMATCH[3]}}"
}

# header NAME: a header of the answer.
header() {
  local pattern=$'\n'"$1: ([^"$'\r'"]*)"
  shopt -s nocasematch
  [[ $headers =~ $pattern ]] || fail "the answer has no header $1"
  shopt -u nocasematch
  printf '%s' "${BASH_REMATCH[1]}"
}

# number TEXT: print it if it is a number, or null. Nothing else goes into arithmetic, where bash runs what stands in an index.
number() {
  [[ $1 =~ ^(-?[0-9]+(\.[0-9]+)?|null)$ ]] || fail "'$1' is no number"
  printf '%s' "$1"
}

# stat_of NAME: read the group's statistics anew, and answer one of them.
stat_of() {
  body=$(send "$url/v1/groups/$group/stats") || fail "no answer from $where"
  number "$(member "$1")"
}

# keep_limit: read the group's limit now and set it again when the script ends, however it ends.
keep_limit() {
  kept=$(stat_of max_bytes)
  trap 'restore_limit' EXIT
}

# A group that has grown into a wider limit keeps that: it is said, and no failure.
restore_limit() {
  send -o /dev/null -X PATCH --json "{\"max_bytes\": $kept}" "$url/v1/groups/$group/limits" || true
  [[ $(stat_of max_bytes) == "$kept" ]] || say "the limit of $group is not back at $kept: does it use more by now?"
}

# cancel_if_running ID: leave no shrink of ours behind.
cancel_if_running() { send -o /dev/null -X POST "$url/v1/shrinks/$1/cancel" || true; }

mib() {
  local size
  size=$(number "$1")
  printf '%d.%d MiB' $((size / 1048576)) $((size % 1048576 * 10 / 1048576))
}
