#!/usr/bin/env bash
# Runs a command in a session of its own, and ends it if it hangs: where none of its processes has used processor
# time in so many looks, or one has computed for two hours. Then the status is 124, and a line says why. A command
# that is slow, or that a busy machine keeps waiting, goes on.
set -u
LOOKS=${HANG_LOOKS:-30} APART=${HANG_APART:-10} ENDLESS=${HANG_ENDLESS:-7200} # number, seconds, seconds

setsid "$@" &
session=$!
end() { kill "-$1" -- "-$session" 2> /dev/null; }
trap 'end TERM; exit 143' INT TERM
trap 'hangs=1; end TERM; sleep 2; end KILL' USR1
hangs=

times() { # processor time of each process that the command has started, the longest last
    ps -e -o pid=,ppid=,cputimes= | awk -v top="$session" '{ parent[$1] = $2; time[$1] = $3 }
        END { for (p in time) { for (q = p; q in parent && q != top; q = parent[q]); if (q == top) print time[p] } }' | sort -n
}
watch() { # tells when the command hangs
    local now last= idle=0
    while sleep "$APART" > /dev/null 2>&1; do
        now=$(times)
        idle=$((idle + 1))
        [[ $now == "$last" ]] || idle=0
        last=$now
        if [[ $idle -ge $LOOKS ]]; then
            echo "stopped: it has used no processor time in $((idle * APART)) s" >&2
        elif [[ ${now##*$'\n'} -gt $ENDLESS ]]; then
            echo "stopped: one of its processes has computed for more than $ENDLESS s" >&2
        else
            continue
        fi
        kill -USR1 $$
        break
    done
}
watch &
watcher=$!
wait "$session"
status=$?
{
    kill "$watcher" $(pgrep -P "$watcher") # and its sleep
    wait "$watcher"
} 2> /dev/null
exit $((hangs ? 124 : status))
