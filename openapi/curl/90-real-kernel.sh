#!/usr/bin/env bash
# The whole story on a real kernel: a process with 96 MiB of locked memory and 256 MiB of page cache, in a group of its own.
# Needs a daemon on cgroup v1 or v2 (as root, see docs/how-to/real-kernel.md), this host's processes, and python3 for the one that uses the memory.
# The shell is in another group than the daemon, below its managed root: nobody takes a process out of the daemon's own group.
# Expect
#   1. limit 64M      409: the limit unmoved and the page cache there to 99 %
#   2. shrink to 200M succeeded, the limit set, the process alive
#   3. a cancelled one: the limit unmoved
#   4. one to 48M, which cannot be: failed, shrink-stalled, EBUSY, and the limit unmoved
# The group and the process are gone in the end, however it ends.
set -euo pipefail
source "$(dirname "$0")/_curl.sh"
group=shrinkd-demo-$$
mebibyte=1048576

call 200 GET /v1/node
[[ $(member backend) != simulator ]] || fail "this needs a daemon on a real kernel, and that is a simulator; try 01 to 16 instead"

# It charges nothing before it is told to, since memory belongs to the group in which it is first touched. The file is new, so that
# no other group has its pages, and read at random offsets as far as the kernel knows, so that they come in folios of 4 KiB.
coproc worker {
  exec python3 -ISc '
import mmap, os, sys, tempfile
sys.stdin.readline()
locked = 0x2000  # MAP_LOCKED: no swap takes it
memory = mmap.mmap(-1, 96 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | locked)
for offset in range(0, len(memory), mmap.PAGESIZE):
    memory[offset] = 1
with tempfile.TemporaryFile(dir="/var/tmp") as file:
    file.truncate(256 << 20)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    buffer = bytearray(1 << 20)
    while file.readinto(buffer):
        pass
    print("charged", flush=True)
    sys.stdin.readline()  # until it is killed, or this script is gone
'
}
pid=$!
exec {from_worker}<&"${worker[0]}" {to_worker}>&"${worker[1]}"
id=''

cleanup() {
  trap - EXIT
  [[ -z $id ]] || cancel_if_running "$id"
  kill -9 "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  for _ in {1..100}; do # the kernel counts a process that has just ended for a moment longer
    case $(send -o /dev/null -w '%{http_code}' -X DELETE "$url/v1/groups/$group") in
      204 | 404) return 0 ;;
    esac
    sleep 0.02
  done
  fail "the group $group could not be removed"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

same_limit() {
  local limit
  limit=$(stat_of max_bytes)
  [[ $limit == "$1" ]] || fail "the limit is $limit, and was $1"
  say "the limit is $1"
}

say "a group, and a process in it that uses nothing yet"
call 201 POST /v1/groups --json "{\"path\": \"$group\"}"
call 204 POST "/v1/groups/$group/processes" --json "{\"pid\": $pid}"

say "now it locks 96 MiB of its own and reads a file of 256 MiB"
echo go >&"$to_worker"
read -r -t 120 answer <&"$from_worker" || fail "the process died"
[[ $answer == charged ]] || fail "the process said $answer"
call 200 GET "/v1/groups/$group/stats"
usage=$(number "$(member usage_bytes)") cache=$(number "$(member file_bytes)")
say "usage $(mib "$usage"), of which page cache $(mib "$cache")"
# not all of it: a host may reclaim by itself what nobody looks at, some MiB at a time
((usage >= 320 * mebibyte && cache >= 230 * mebibyte)) || fail "that is too little"

say "1. a limit of 64M is refused"
call 409 PATCH "/v1/groups/$group/limits" --json '{"max_bytes": "64M"}'
[[ $(member type) == /problems/limit-below-usage && $(member errno) == EBUSY ]] || fail "it was refused for another reason"
cache_left=$(stat_of file_bytes)
say "page cache: $(mib "$cache") before, $(mib "$cache_left") after"
((cache_left * 100 >= cache * 90)) || fail "the page cache was dropped"
same_limit null

say "2. shrink to 200M, then make that the limit"
call 200 POST "/v1/groups/$group/shrinks" -H 'Prefer: wait=60' --json '{"target_bytes": "200M", "set_max_bytes": "200M"}'
id=$(member id)
[[ $(member state) == succeeded ]] || fail "it is $(member state)"
same_limit $((200 * mebibyte))
usage=$(stat_of usage_bytes)
say "usage is $(mib "$usage"), $(mib $((200 * mebibyte - usage))) below the target"
((usage < 200 * mebibyte)) || fail "usage is not below the target"
kill -0 "$pid" || fail "the process did not survive"

say "3. shrink to 120M at 4 MiB a second, and think better of it"
call 202 POST "/v1/groups/$group/shrinks" \
  --json '{"target_bytes": "120M", "set_max_bytes": "120M", "max_bytes_per_second": "4M"}'
id=$(member id)
sleep 0.3
call 202 POST "/v1/shrinks/$id/cancel"
call 200 GET "/v1/shrinks/$id" -H 'Prefer: wait=30'
[[ $(member state) == cancelled ]] || fail "it is $(member state)"
same_limit $((200 * mebibyte))

say "4. shrink to 48M: 96 MiB are locked, and have nowhere to go"
call 200 POST "/v1/groups/$group/shrinks" -H 'Prefer: wait=60' --json '{"target_bytes": "48M", "set_max_bytes": "48M"}'
id=$(member id)
[[ $(member state) == failed ]] || fail "it is $(member state)"
[[ $body == *'/problems/shrink-stalled'* && $(member errno) == EBUSY ]] || fail "it failed for another reason"
same_limit $((200 * mebibyte))
kill -0 "$pid" || fail "the process did not survive"

say "all of it as it should be"
